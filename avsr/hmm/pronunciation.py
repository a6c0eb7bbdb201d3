"""How words are pronounced: text in, phones of ARPAbet out.

    "bin blue" -> GRID's words, else CMU's dictionary, else rules from letters to sound  ->  ways to say it, tuples of phones
The rules are a small set for English after Elovitz et al., "Automatic translation of English text to phonetics by means of
letter-to-sound rules" (NRL report 7948, 1976): enough to place a name in time, not to pronounce it well.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from avsr.assets import find
from avsr.errors import MissingAsset
from avsr.text import NUMBERS, normalise

Phones = tuple[str, ...]

# GRID's 51 words, as CMU's dictionary (BSD licence) has them, but that "a" is the letter as well and "z" Britain's zed.
GRID: dict[str, tuple[Phones, ...]] = {
    word: tuple(tuple(way.split()) for way in ways.split("|")) for word, ways in (line.split(maxsplit=1) for line in """\
bin B IH N
lay L EY
place P L EY S
set S EH T
blue B L UW
green G R IY N
red R EH D
white W AY T
at AE T
by B AY
in IH N
with W IH DH|W IH TH
a EY|AH
b B IY
c S IY
d D IY
e IY
f EH F
g JH IY
h EY CH
i AY
j JH EY
k K EY
l EH L
m EH M
n EH N
o OW
p P IY
q K Y UW
r AA R
s EH S
t T IY
u Y UW
v V IY
w D AH B AH L Y UW
x EH K S
y W AY
z Z EH D
zero Z IH R OW|Z IY R OW
one W AH N
two T UW
three TH R IY
four F AO R|F AO
five F AY V
six S IH K S
seven S EH V AH N
eight EY T
nine N AY N
again AH G EH N|AH G EY N
now N AW
please P L IY Z
soon S UW N""".splitlines())}
NUMBER = r"[0-9]+([.,][0-9]+)*"
HUNDRED, THOUSAND, MILLION = "HH AH N D R AH D", "TH AW Z AH N D", "M IH L Y AH N"
# Letters and their sounds, the longest first; "$" is the end of the word.
RULES: list[tuple[str, str]] = sorted(re.findall(r"(\S+?)=(\S*)", """
= tion=SH-AH-N sion=ZH-AH-N ough=AO augh=AO eigh=EY tch=CH dge=JH igh=AY sch=SH ous$=AH-S ing$=IH-NG ies$=IY-Z es$=Z
ed$=D le$=AH-L er$=ER re$=ER ch=CH sh=SH th=TH ph=F wh=W ck=K ng=NG qu=K-W gh=G kn=N wr=R ai=EY ay=EY au=AO aw=AO ee=IY
ea=IY ei=IY ey=IY eu=Y-UW ew=Y-UW ie=IY oa=OW oe=OW oi=OY oo=UW ou=AW ow=OW oy=OY ue=UW ui=UW ar=AA-R er=ER ir=ER
or=AO-R ur=ER ce=S ci=S-IH cy=S-IY ge=JH gi=JH-IH gy=JH-IY a=AE b=B c=K d=D f=F g=G h=HH i=IH j=JH k=K l=L m=M n=N o=AA
p=P q=K r=R s=S t=T u=AH v=V w=W x=K-S y$=IY y=IH z=Z e$= e=EH
"""), key=lambda rule: -len(rule[0]))
LONG = {"a": "EY", "e": "IY", "i": "AY", "o": "OW", "u": "UW"}           # before one consonant and a last e: late, time, note


@lru_cache(maxsize=1)
def pronunciations() -> dict[str, tuple[Phones, ...]]:
    """CMU's dictionary of American English: 126,052 words with all their pronunciations. Raises MissingAsset."""
    found: dict[str, tuple[Phones, ...]] = {}
    for line in find("cmudict-en-us.dict").read_text(encoding="ascii").splitlines():
        word, *phones = line.split()
        word = word.partition("(")[0]                       # tomato(2) is another pronunciation
        found[word] = (*found.get(word, ()), tuple(phones))
    return found


def pronounce(word: str) -> tuple[Phones, ...]:
    """The ways to say a word as it is written, such as "F2." or "BBC"; () where there is nothing to say, as in "—"."""
    parts = [_pronounce_plain(part, capitals=part.upper() in word and not part.islower()) for part in normalise(word).split()]
    ways: list[Phones] = [()]
    for part in parts:
        ways = [(*way, *more) for way in ways for more in part][:8]
    return tuple(dict.fromkeys(way for way in ways if way))


def is_guessed(word: str) -> bool:
    """Whether rules, not a dictionary, say how a word is pronounced."""
    parts = normalise(word).split()
    return any(part not in GRID and part not in _dictionary() and not re.fullmatch(NUMBER, part) for part in parts)


@lru_cache(maxsize=1)
def _dictionary() -> dict[str, tuple[Phones, ...]]:
    """CMU's dictionary, or nothing where it is not at hand: then rules pronounce (see `is_guessed`)."""
    try:
        return pronunciations()
    except MissingAsset:
        return {}


def _pronounce_plain(word: str, *, capitals: bool) -> tuple[Phones, ...]:
    """The ways to say a word of the normaliser."""
    if word in GRID:
        return GRID[word]
    if re.fullmatch(NUMBER, word):
        return (_number(word),)
    if ways := _dictionary().get(word):
        return ways
    letters = "".join(one for one in unicodedata.normalize("NFKD", word) if one.isalnum() and one.isascii())
    if not letters:                                         # another script: a vowel for each character keeps its place
        return (("AH",) * sum(one.isalnum() for one in word),)
    digits, rest = re.match(r"([0-9]*)(.*)", letters).groups()              # type: ignore[union-attr]
    spelled = not re.search("[aeiouy]", rest)
    said = tuple(phone for one in rest for phone in GRID.get(one, (("T", "IY"),))[0]) if spelled else by_rules(rest)
    return ((*(_number(digits) if digits else ()), *said),)


def by_rules(word: str) -> Phones:
    """A word (a to z) by the rules of RULES."""
    out: list[str] = []
    at = 0
    while at < len(word):
        rest = word[at:]
        if re.match("[aeiou][^aeiouywx]e$", rest) and len(word) > 3:
            out.append(LONG[rest[0]])
            at += 1
            continue
        if at and rest[0] == word[at - 1] and rest[0] not in "aeiou":          # a doubled letter is one sound
            at += 1
            continue
        for letters, sounds in RULES:
            bare = letters.rstrip("$")
            if rest == bare if letters.endswith("$") else rest.startswith(bare):
                # The only vowel of a word is spoken: "the", "me".
                silent = not sounds and not any(one in LONG for one in word[:at])
                out += ["IY"] if silent else [one for one in sounds.split("-") if one]
                at += len(bare)
                break
        else:
            at += 1
    return tuple(out) or ("AH",)


def _number(text: str) -> Phones:
    """A number in figures: 1999 as nineteen ninety-nine, 5.20 as five point two zero, long ones figure by figure."""
    whole, *rest = re.split("[.,]", text)
    phones = _whole(whole)
    for part in rest:
        phones = (*phones, "P", "OY", "N", "T", *(phone for figure in part for phone in _below_100(int(figure))))
    return phones


def _whole(text: str) -> Phones:
    value = int(text)
    if len(text) > 7 or (text[0] == "0" and len(text) > 1):
        return tuple(phone for figure in text for phone in _below_100(int(figure)))
    if len(text) == 4 and 1100 <= value < 2000 and value % 100:
        return (*_below_100(value // 100), *_below_100(value % 100))           # a year
    out: Phones = ()
    for size, name in ((10**6, MILLION), (1000, THOUSAND), (100, HUNDRED)):
        if value >= size:
            out, value = (*out, *_whole(str(value // size)), *name.split()), value % size
    return (*out, *(_below_100(value) if value or not out else ()))


def _below_100(value: int) -> Phones:
    return tuple(phone for word in NUMBERS[value].split() for phone in (NUMBER_WORDS.get(word) or GRID[word][0]))


NUMBER_WORDS: dict[str, Phones] = {word: tuple(way.split()) for word, way in (line.split(maxsplit=1) for line in """\
ten T EH N
eleven IH L EH V AH N
twelve T W EH L V
thirteen TH ER T IY N
fourteen F AO R T IY N
fifteen F IH F T IY N
sixteen S IH K S T IY N
seventeen S EH V AH N T IY N
eighteen EY T IY N
nineteen N AY N T IY N
twenty T W EH N T IY
thirty TH ER D IY
forty F AO R T IY
fifty F IH F T IY
sixty S IH K S T IY
seventy S EH V AH N T IY
eighty EY T IY
ninety N AY N T IY""".splitlines())}
