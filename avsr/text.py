"""Text to tokens and back, and tokens to words.

A tokenizer is the `tokenizer.json` that comes with a model: Whisper's, or ours of letters, whose special tokens are found by
name (`Tokenizer`), or the pieces of a SentencePiece model (`SentencePieceTokenizer`). `open_tokenizer` finds out which.
"""

from __future__ import annotations

import hashlib
import re
import string
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from avsr.errors import AvsrError, BadCheckpoint, MissingAsset, quote
from avsr.linebreak import clusters
from avsr.schema import read_file

if TYPE_CHECKING:
    import tokenizers

# Written without spaces between words; Whisper times these by character (openai/whisper tokenizer.py).
SPACELESS = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
# Whisper's languages, and the English names that its command line takes as well as the codes.
LANGUAGE_NAMES = {code: name.replace("_", " ") for code, name in re.findall(r"(\w+) (\w+)", """
en english  zh chinese  de german  es spanish  ru russian  ko korean  fr french  ja japanese  pt portuguese  tr turkish
pl polish  ca catalan  nl dutch  ar arabic  sv swedish  it italian  id indonesian  hi hindi  fi finnish  vi vietnamese
he hebrew  uk ukrainian  el greek  ms malay  cs czech  ro romanian  da danish  hu hungarian  ta tamil  no norwegian
th thai  ur urdu  hr croatian  bg bulgarian  lt lithuanian  la latin  mi maori  ml malayalam  cy welsh  sk slovak
te telugu  fa persian  lv latvian  bn bengali  sr serbian  az azerbaijani  sl slovenian  kn kannada  et estonian
mk macedonian  br breton  eu basque  is icelandic  hy armenian  ne nepali  mn mongolian  bs bosnian  kk kazakh
sq albanian  sw swahili  gl galician  mr marathi  pa punjabi  si sinhala  km khmer  sn shona  yo yoruba  so somali
af afrikaans  oc occitan  ka georgian  be belarusian  tg tajik  sd sindhi  gu gujarati  am amharic  yi yiddish  lo lao
uz uzbek  fo faroese  ht haitian_creole  ps pashto  tk turkmen  nn nynorsk  mt maltese  sa sanskrit  lb luxembourgish
my myanmar  bo tibetan  tl tagalog  mg malagasy  as assamese  tt tatar  haw hawaiian  ln lingala  ha hausa  ba bashkir
jw javanese  su sundanese  yue cantonese
""")}
# Punctuation that joins the word after it, and the word before it, as openai/whisper and faster-whisper join them.
OPENING = "\"'“¿([{-"
CLOSING = "\"'.。,，!！?？:：”)]}、"
BLANK, END = "<blank>", "<eos>"                             # first and last of Pieces
WORD_BEGINS = "\u2581"                                      # SentencePiece's mark in place of a space
AGAIN = "Fetch the model's tokenizer.json again."
LONGEST_TOKENIZER = 2**26                                   # bytes: 64 MB; Whisper's have 2 to 4 MB
# Of the steps of a tokenizer.json: how many, characters of a replacement, and regular expressions, GPT-2's for one.
MOST_STEPS, LONGEST_REPLACEMENT = 12, 4
SPACES = " {2,}"
PATTERNS = (SPACES, r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
UNSCORED = 10.0                                             # nats below the rarest piece: SentencePiece's for the unknown


@dataclass(frozen=True)
class WordTokens:
    """One word as the decoder spelt it: `text` with the space that precedes it, and its tokens."""

    text: str
    tokens: tuple[int, ...]


class _TokenizerFile:
    """A tokenizer.json. `end`: the token that ends a text; n_tokens: one more than its greatest token."""

    end: int
    n_tokens: int

    def _open(self, path: Path | str) -> dict[str, int]:
        """Read the file; its tokens, specials too, with their numbers. Raises BadCheckpoint when it holds no tokenizer."""
        import tokenizers

        self.path = Path(path)
        content = read_file(self.path, longest=LONGEST_TOKENIZER, remedy=AGAIN)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
            self._tokenizer.no_padding()                    # either may be in a file: texts padded to a billion tokens,
            self._tokenizer.no_truncation()                 # or cut to none
            vocabulary, strange = self._tokenizer.get_vocab(), _strange_step(self._tokenizer)
        except BaseException as error:                      # the library raises bare Exception, and panics are not even that
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            reason = " ".join(str(error).split())[:200]
            raise BadCheckpoint(f"{path}: not a tokenizer file ({reason}).  {AGAIN}") from error
        if strange is not None:
            raise BadCheckpoint(f"{path}: it would change texts by {strange}, which no speech model's does.  {AGAIN}")
        self.n_tokens = max(vocabulary.values(), default=-1) + 1
        return vocabulary

    @property
    def sha256(self) -> str:
        """Of the file, stored with checkpoints."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def words(self, tokens: Sequence[int], language: str) -> list[WordTokens]:
        """Split text tokens into words with their punctuation (Whisper's method; its `split_to_word_tokens`)."""
        pieces = self._characters([token for token in tokens if token < self.end])
        return _join_punctuation(_join_clusters(pieces) if language in SPACELESS else _join_at_spaces(pieces))

    def _characters(self, tokens: list[int]) -> list[WordTokens]:
        """The shortest runs of tokens that are whole characters; together they are the whole text."""
        raise NotImplementedError


class Tokenizer(_TokenizerFile):
    """Byte-pair tokens with Whisper's special tokens. `languages` is empty for an English-only model."""

    def __init__(self, path: Path | str):
        """Raises BadCheckpoint when the file is not a Whisper tokenizer."""
        vocabulary = self._open(path)
        self._ids = {name: i for name, i in vocabulary.items() if name.startswith("<|") and name.endswith("|>")}
        self.end = self._id("<|endoftext|>")
        self.start = self._id("<|startoftranscript|>")
        self.previous = self._id("<|startofprev|>")
        self.transcribe = self._id("<|transcribe|>")
        self.no_timestamps = self._id("<|notimestamps|>")
        self.no_speech = self._ids.get("<|nospeech|>", self._ids.get("<|nocaptions|>"))
        self.first_timestamp = self.no_timestamps + 1       # <|0.00|>, then one every 20 ms, named or not
        # An English-only tokenizer also holds a language list, but its end token comes one id earlier (50256).
        multilingual = self.end > 50_256
        names = {name[2:-2]: i for name, i in self._ids.items() if self.start < i < self._ids.get("<|translate|>", 0)}
        self.languages: dict[str, int] = names if multilingual else {}

    def _id(self, name: str) -> int:
        if name not in self._ids:
            raise BadCheckpoint(f"{self.path}: no token {name}, so not Whisper's.  {AGAIN}")
        return self._ids[name]

    @cached_property
    def texts(self) -> list[str]:
        """The text of each token, "" of specials; of 50,000 made in 0.1 s."""
        return ["" if token >= self.end else self.decode([token]) for token in range(self._tokenizer.get_vocab_size())]

    def prompt(self, language: str | None) -> list[int]:
        """The tokens every transcription begins with. `language` is ignored by an English-only model."""
        head = [self.start, self.languages[language], self.transcribe] if self.languages else [self.start]
        return [*head, self.no_timestamps]

    def encode(self, text: str) -> list[int]:
        """Tokens of plain text, no specials added."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of the tokens; specials and timestamps are left out. Half a character comes out as U+FFFD."""
        return self._tokenizer.decode([token for token in tokens if token < self.end], skip_special_tokens=False)

    def _characters(self, tokens: list[int]) -> list[WordTokens]:
        """The shortest runs of tokens that decode to whole characters; together they decode to the whole text.

        Bytes that are no character come out as U+FFFD, several perhaps as one: they stay with what surrounds them.
        """
        whole, pieces, first, at = self.decode(tokens), [], 0, 0
        for upto in range(1, len(tokens) + 1):
            text = self.decode(tokens[:upto])
            if len(text) > at and whole.startswith(text):
                pieces.append(WordTokens(text[at:], tuple(tokens[first:upto])))
                first, at = upto, len(text)
        if first < len(tokens):
            last = pieces.pop() if pieces else WordTokens("", ())
            pieces.append(WordTokens(last.text + whole[at:], (*last.tokens, *tokens[first:])))
        return pieces


class SentencePieceTokenizer(_TokenizerFile):
    """The pieces of a SentencePiece model in the order of a published network's output: blank first, the end last, which
    also begins a text. `write_sentencepiece` makes its file."""

    no_speech = None
    languages: ClassVar[dict[str, int]] = {}

    def __init__(self, path: Path | str):
        """Raises BadCheckpoint when the file holds other tokens."""
        vocabulary = self._open(path)
        pieces = sorted(vocabulary, key=vocabulary.__getitem__)
        if len(pieces) < 3 or (pieces[0], pieces[-1]) != (BLANK, END) or len(pieces) != self.n_tokens:
            raise BadCheckpoint(f"{path}: its tokens do not begin with {BLANK} and end with {END}.  Import the model again.")
        self.blank, self.end = 0, len(pieces) - 1
        self.start = self.end
        self.texts = ["", *(piece.replace(WORD_BEGINS, " ") for piece in pieces[1:-1]), ""]
        self._upper = not any(piece != piece.upper() for piece in pieces[1:-1] if not piece.startswith("<"))

    def prompt(self, language: str | None) -> list[int]:
        """The token every text begins with. There is one language."""
        return [self.start]

    def encode(self, text: str) -> list[int]:
        """Tokens of a text as it is compared, in capitals where the pieces are; what no piece has becomes <unk>."""
        text = normalise(text)
        return self._tokenizer.encode(text.upper() if self._upper else text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of the tokens, with the space that begins each word."""
        return "".join(self.texts[token] for token in tokens)

    def _characters(self, tokens: list[int]) -> list[WordTokens]:
        return [WordTokens(self.texts[token], (token,)) for token in tokens]


def _strange_step(tokenizer: tokenizers.Tokenizer) -> str | None:
    """In words, a step by which a short text could grow without end, or keep the tokenizer busy for ever; None without one."""
    import json

    parts = (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder)
    todo = [json.loads(part.__getstate__()) for part in parts if part is not None]
    for _ in range(MOST_STEPS):
        if not todo:
            return None
        step = todo.pop()
        todo += [one for name in ("normalizers", "pretokenizers", "decoders") for one in step.get(name, ())]
        pattern = step.get("pattern") or {}
        if (regex := pattern.get("Regex")) not in (None, *PATTERNS):
            return f"the pattern {quote(regex)}"
        if len(step.get("content") or "") > LONGEST_REPLACEMENT:
            return f"a replacement of {len(step['content'])} characters"
    return f"more than {MOST_STEPS - 1} steps" if todo else None


def open_tokenizer(path: Path | str) -> Tokenizer | SentencePieceTokenizer:
    """The tokenizer of a model's folder. Raises BadCheckpoint."""
    holds_pieces = f'"{BLANK}"'.encode() in read_file(Path(path), longest=LONGEST_TOKENIZER, remedy=AGAIN)
    return SentencePieceTokenizer(path) if holds_pieces else Tokenizer(path)


def write_sentencepiece(path: Path | str, pieces: Sequence[str], scores: Mapping[str, float],
                        charsmap: bytes = b"") -> SentencePieceTokenizer:
    """Write a tokenizer.json of SentencePiece's unigram pieces (Kudo 2018), and open it.

    pieces: in the network's order, without blank and end, the one for what is unknown first; scores: log-probabilities of
    those that the SentencePiece model has, others are cut out last; charsmap: its normaliser, precompiled.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    unscored = min(scores.values()) - UNSCORED
    vocabulary = [(BLANK, unscored), *((piece, scores.get(piece, unscored)) for piece in pieces), (END, unscored)]
    tokenizer = tokenizers.Tokenizer(models.Unigram(vocabulary, unk_id=1))
    steps = [normalizers.Precompiled(charsmap)] if charsmap else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(tokenizers.Regex(SPACES), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=WORD_BEGINS, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=WORD_BEGINS, prepend_scheme="always")
    Path(path).write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    return SentencePieceTokenizer(path)


def _join_clusters(pieces: list[WordTokens]) -> list[WordTokens]:
    """Pieces that each begin with a letter: a mark that has tokens of its own goes with the letter that bears it."""
    text = "".join(piece.text for piece in pieces)
    if not any(unicodedata.category(letter)[0] == "M" for letter in text):
        return pieces
    starts, at = {0, *accumulate(map(len, clusters(text)))}, 0
    joined: list[WordTokens] = []
    for piece in pieces:
        if at in starts or not joined:
            joined.append(piece)
        else:
            joined[-1] = WordTokens(joined[-1].text + piece.text, joined[-1].tokens + piece.tokens)
        at += len(piece.text)
    return joined


def _join_at_spaces(pieces: list[WordTokens]) -> list[WordTokens]:
    words: list[WordTokens] = []
    for piece in pieces:
        mark = piece.text.strip() in string.punctuation and piece.text != "'"         # a letter tokenizer spells isn't with it
        if not words or piece.text.startswith(" ") or mark:
            words.append(piece)
        else:
            words[-1] = WordTokens(words[-1].text + piece.text, words[-1].tokens + piece.tokens)
    return words


def _join_punctuation(words: list[WordTokens]) -> list[WordTokens]:
    joined: list[WordTokens] = []
    for word in words:
        before = joined[-1] if joined else None
        opens = before is not None and before.text.startswith(" ") and before.text.strip() in OPENING
        closes = before is not None and bool(word.text) and word.text in CLOSING
        if before is not None and before.text.strip() and (opens or closes):
            joined[-1] = WordTokens(before.text + word.text, before.tokens + word.tokens)
        else:
            joined.append(word)
    return joined


def language_code(language: str) -> str:
    """The code of a language that is given as one, or by its English name, in letters of either case: German -> de."""
    known = {name: code for code, name in LANGUAGE_NAMES.items()}
    return known.get(language.strip().lower(), language.strip().lower())


CTC_LETTERS = " abcdefghijklmnopqrstuvwxyz'"                # class 0 is the blank, class i letter i - 1
SPECIALS = ("<|endoftext|>", "<|startoftranscript|>", "<|transcribe|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")


def target_tokens(tokenizer: Tokenizer | SentencePieceTokenizer, text: str) -> list[int]:
    """The tokens of a sentence, as a model learns to write it. Letters alone (LRS is all capitals) get the text as it is
    compared, or what they lack, capitals and digits, would be left out of it without a word."""
    return tokenizer.encode(f" {text.strip() if tokenizer.encode('A1') else normalise(text)}")


def ctc_classes(text: str) -> list[int]:
    """Text as CTC spells it: lower-case letters, apostrophes, single spaces; all else is left out."""
    kept = "".join(letter for letter in text.lower() if letter in CTC_LETTERS)
    return [CTC_LETTERS.index(letter) + 1 for letter in " ".join(kept.split())]


def ctc_text(classes: Sequence[int]) -> str:
    """The text of CTC classes whose repeats and blanks are already gone."""
    return "".join(CTC_LETTERS[i - 1] for i in classes)


def write_characters(path: Path | str, letters: str = CTC_LETTERS) -> Tokenizer:
    """Write a tokenizer.json of single letters, with Whisper's special tokens, and open it."""
    import tokenizers

    vocabulary = {letter: i for i, letter in enumerate(dict.fromkeys(letters))}
    model = tokenizers.models.BPE(vocab=vocabulary, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.decoder = tokenizers.decoders.Fuse()
    tokenizer.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    Path(path).write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    return Tokenizer(path)


NORMALISER = "avsr-2"                                       # stored with scores: another rule below is another name here
# Earlier rules. avsr-en-1 made a space of each combining mark and of each invisible character; all other texts come out alike.
FORMER_NORMALISERS = ("avsr-en-1",)
WHISPER_NORMALISER = "whisper-en"                           # EnglishTextNormalizer, by which many papers report their figures
NORMALISERS = {"avsr": NORMALISER, "whisper": WHISPER_NORMALISER}           # names on the command line -> names in rows
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
NUMBERS = [*DIGITS, *TEENS, *(f"{ten} {one}".strip() for ten in TENS for one in ["", *DIGITS[1:]])]      # 0 to 99
APOSTROPHES = str.maketrans("\u2018\u2019\u02bc`\u05f3", "'''''")             # the last is the Hebrew geresh
# Characters that cannot be seen (Unicode's Default_Ignorable_Code_Point: joiners, soft hyphens, marks of direction, variation
# selectors) and the Arabic tatweel, which only makes a word longer on paper. U+200B, which parts words, is not among them.
INVISIBLE = re.compile("[\u00ad\u034f\u061c\u0640\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200c-\u200f\u202a-\u202e\u2060-\u206f"
                    "\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]")
AM = re.compile("([\u0e4d\u0ecd])([\u0e48-\u0e4b\u0ec8-\u0ecb])(?=[\u0e32\u0eb2])")    # Thai, Lao: the ring before the tone
OTHER_DIGITS = re.compile(r"[^\D0-9]")                      # of scripts with digits of their own


def normalise(text: str) -> str:
    """Text as it is compared: "Bin blue at F2 now." and "bin blue at f two now" become the same.

    Lower case; punctuation and symbols become spaces, but for apostrophes inside words and points inside numbers; letters
    and numbers that touch part (f2, mp3), but not 2nd or 90s; whole numbers from 0 to 99 are spelt out in English; single
    spaces. Nothing else is expanded: 1999, 007, 3.5, contractions, fillers and British spelling stay as they are.

    A combining mark belongs to the letter before it, as vowel signs do in Hindi, Thai and Tamil. Whisper's BasicTextNormalizer
    makes a space of each, so that words fall into single letters and the word error rate comes out far too low
    (openai/whisper discussion 858; Manohar, Pillai and Sherly 2024, arXiv 2409.02449). Vowel signs that Arabic and Hebrew may
    leave out count as well, since words may differ in nothing else; remove them from both texts where they do not matter.
    Invisible characters are removed, so a Persian or Indic word is the same with a joiner or without. Digits of every script
    are the same. Scripts without spaces between words are not cut into words: for Chinese, Japanese, Thai, Lao, Khmer and
    Burmese the character error rate is the one to go by.
    """
    text = INVISIBLE.sub("", unicodedata.normalize("NFKC", INVISIBLE.sub("", text)).lower())
    text = unicodedata.normalize("NFKC", text).replace("i\u0307", "i")         # the Turkish capital of i in lower case
    text = AM.sub(r"\2\1", text).translate(APOSTROPHES).replace("_", " ")
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
    r"""What becomes a space: marks that follow no letter; symbols, punctuation outside words and numbers; between f and 2.

    Marks are Unicode's Mn and Mc, which `\w` of Python leaves out. Their list takes 13 ms to make, so it is made at first use.
    """
    kinds = groupby(range(0x300, 0x20000), lambda code: unicodedata.category(chr(code)) in ("Mn", "Mc"))
    runs = [list(codes) for is_mark, codes in kinds if is_mark]
    marks = "".join(f"{chr(codes[0])}-{chr(codes[-1])}" for codes in runs)
    return (re.compile(rf"(?<![^\W\d])(?<![{marks}])[{marks}]+"),
            re.compile(rf"[^\w'.{marks}]|(?<![\w{marks}])'|'(?!\w)|(?<!\d)\.|\.(?!\d)"),
            re.compile(rf"(?<=[^\W\d]|[{marks}])(?=\d)|(?<=\d)(?=[^\W\d])(?!(?:st|nd|rd|th|s)\b)"))
