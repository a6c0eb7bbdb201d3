"""Normalisers: text as it is compared, so that "F2." and "f two" are the same, and text as CTC spells it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from itertools import groupby

from avsr.errors import AvsrError, MissingAsset

NORMALISER = "avsr-2"                                       # stored with scores; it changes with any rule below
# Earlier rules. avsr-en-1 replaced each combining mark and invisible character by a space, and was the same for all other
# texts.
FORMER_NORMALISERS = ("avsr-en-1",)
WHISPER_NORMALISER = "whisper-en"                           # EnglishTextNormalizer, by which many papers report their figures
NORMALISERS = {"avsr": NORMALISER, "whisper": WHISPER_NORMALISER}           # names on the command line -> names in rows
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
NUMBERS = [*DIGITS, *TEENS, *(f"{ten} {one}".strip() for ten in TENS for one in ["", *DIGITS[1:]])]      # 0 to 99
APOSTROPHES = str.maketrans("\u2018\u2019\u02bc`\u05f3", "'''''")             # the last is the Hebrew geresh
# Invisible characters (Unicode's Default_Ignorable_Code_Point: joiners, soft hyphens, marks of direction, variation
# selectors), and the Arabic tatweel, which only stretches a word. U+200B is not among them, because it separates words.
INVISIBLE = re.compile("[\u00ad\u034f\u061c\u0640\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200c-\u200f\u202a-\u202e\u2060-\u206f"
                    "\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]")
LAO_THAI_AM = re.compile("([\u0e4d\u0ecd])([\u0e48-\u0e4b\u0ec8-\u0ecb])(?=[\u0e32\u0eb2])")    # the ring before the tone
OTHER_DIGITS = re.compile(r"[^\D0-9]")                      # digits of other scripts


def normalise(text: str) -> str:
    """Text as it is compared by default: "Bin blue at F2 now." and "bin blue at f two now" become the same.

    Letters become lower case. Punctuation and symbols become spaces, except apostrophes inside words and points inside numbers.
    Letters and numbers that touch are separated (f2, mp3), except in 2nd or 90s. Whole numbers from 0 to 99 are written as
    English words. Nothing else is expanded: 1999, 007, 3.5, contractions, fillers and British spelling stay as they are.

    A combining mark belongs to the letter before it, as vowel signs do in Hindi, Thai and Tamil. Whisper's BasicTextNormalizer
    replaces each by a space, so that words fall into single letters and the word error rate comes out far too low
    (openai/whisper discussion 858; Manohar, Pillai and Sherly 2024, arXiv 2409.02449). Optional vowel signs of Arabic and
    Hebrew count as well, because words may differ in nothing else; remove them from both texts if they do not matter. Invisible
    characters are removed, so that a Persian or Indic word is the same with a joiner or without. The digits of all scripts are
    the same. Scripts without spaces are not split into words: use the character error rate for Chinese, Japanese, Thai, Lao,
    Khmer and Burmese.
    """
    text = INVISIBLE.sub("", unicodedata.normalize("NFKC", INVISIBLE.sub("", text)).lower())
    text = unicodedata.normalize("NFKC", text).replace("i\u0307", "i")         # the Turkish capital of i in lower case
    text = LAO_THAI_AM.sub(r"\2\1", text).translate(APOSTROPHES).replace("_", " ")
    text = OTHER_DIGITS.sub(lambda digit: str(unicodedata.decimal(digit[0])), text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)                       # 10,000
    for pattern in _boundaries():
        text = pattern.sub(" ", text)
    return " ".join(NUMBERS[int(word)] if re.fullmatch(r"[0-9]|[1-9][0-9]", word) else word for word in text.split())


def normalise_as_whisper(text: str) -> str:
    """Text as Whisper's EnglishTextNormalizer writes it: "It's 21% of the colour" and "it is twenty one percent of the color".

    It is for English only: it expands contractions, writes numbers in digits, takes American spelling and leaves out fillers.
    Raises MissingAsset if the package is not installed.
    """
    return _whisper_normalizer()(text)


@cache
def _whisper_normalizer() -> Callable[[str], str]:
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise MissingAsset("--normaliser whisper: the package whisper-normalizer is not installed.  Run pip install "
                           "'avsr[whisper]'.") from error
    return EnglishTextNormalizer()


def find_normaliser(name: str | None) -> Callable[[str], str]:
    """The normaliser that rows name. Raises AvsrError if this version does not have it."""
    known = {NORMALISER: normalise, WHISPER_NORMALISER: normalise_as_whisper}
    if name not in known:
        raise AvsrError(f"the rows are to be compared by the normaliser {name}, and this version has {' and '.join(known)}.  "
                        "Use the version of avsr that wrote them.")
    return known[name]


def present_normaliser(name: str | None) -> str | None:
    """The normaliser that now compares rows that name this one. Rows hold text as it was written, so that the present rules can
    take the place of our earlier ones."""
    return NORMALISER if name in FORMER_NORMALISERS else name


@cache
def _boundaries() -> tuple[re.Pattern[str], ...]:
    r"""Patterns that become a space: marks without a letter; symbols, and punctuation outside words and numbers; the gap in f2.

    Marks are Unicode's Mn and Mc, which Python's `\w` does not match. The list takes 13 ms to make, so it is made when first
    used.
    """
    kinds = groupby(range(0x300, 0x20000), lambda code: unicodedata.category(chr(code)) in ("Mn", "Mc"))
    runs = [list(codes) for is_mark, codes in kinds if is_mark]
    marks = "".join(f"{chr(codes[0])}-{chr(codes[-1])}" for codes in runs)
    return (re.compile(rf"(?<![^\W\d])(?<![{marks}])[{marks}]+"),
            re.compile(rf"[^\w'.{marks}]|(?<![\w{marks}])'|'(?!\w)|(?<!\d)\.|\.(?!\d)"),
            re.compile(rf"(?<=[^\W\d]|[{marks}])(?=\d)|(?<=\d)(?=[^\W\d])(?!(?:st|nd|rd|th|s)\b)"))


CTC_LETTERS = " abcdefghijklmnopqrstuvwxyz'"                # class 0 is the blank, class i is letter i - 1


def ctc_classes(text: str) -> list[int]:
    """The CTC classes of a text: its lower-case letters, apostrophes and single spaces; all else is left out."""
    kept = "".join(letter for letter in text.lower() if letter in CTC_LETTERS)
    return [CTC_LETTERS.index(letter) + 1 for letter in " ".join(kept.split())]


def ctc_text(classes: Sequence[int]) -> str:
    """The text of CTC classes, whose repeats and blanks are already removed."""
    return "".join(CTC_LETTERS[i - 1] for i in classes)
