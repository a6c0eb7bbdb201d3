"""Tokenizers: text to tokens and back, and tokens to words.

A tokenizer is the `tokenizer.json` that comes with a model. `Tokenizer` reads Whisper's and ours of single characters, and
finds the special tokens by name; `SentencePieceTokenizer` reads the pieces of a SentencePiece model. `open_tokenizer` chooses.
"""

from __future__ import annotations

import hashlib
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from avsr.errors import BadCheckpoint, quote
from avsr.linebreak import clusters
from avsr.schema import read_file
from avsr.text.normaliser import CTC_LETTERS, normalise

if TYPE_CHECKING:
    import tokenizers

# Languages without spaces between words, which Whisper times by character (openai/whisper tokenizer.py).
SPACELESS_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
# Whisper's language codes and their English names, which the command line accepts as well.
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
# Punctuation that belongs to the next word, and to the word before it, as in openai/whisper and faster-whisper.
OPENING = "\"'“¿([{-"
CLOSING = "\"'.。,，!！?？:：”)]}、"
BLANK, END = "<blank>", "<eos>"                             # the first and the last token of a SentencePieceTokenizer
WORD_BEGINS = "\u2581"                                      # SentencePiece writes this for a space
AGAIN = "Fetch the model's tokenizer.json again."
LONGEST_TOKENIZER = 2**26                                   # bytes: 64 MB; Whisper's have 2 to 4 MB
# Accepted in a tokenizer.json: the number of steps, the characters of a replacement, and the regular expressions (GPT-2's).
MOST_STEPS, LONGEST_REPLACEMENT = 12, 4
SPACES = " {2,}"
PATTERNS = (SPACES, r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
SPECIALS = ("<|endoftext|>", "<|startoftranscript|>", "<|transcribe|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")
UNSCORED = 10.0                                             # nats below the rarest piece, as in SentencePiece


@dataclass(frozen=True)
class WordTokens:
    """A word as the decoder wrote it: `text` with the space before it, and its tokens."""

    text: str
    tokens: tuple[int, ...]


@lru_cache(maxsize=2)                                       # a model and its base share the file: 0.22 s to parse it
def _parse(content: bytes) -> tuple[tokenizers.Tokenizer, dict[str, int], str | None]:
    """The tokenizer of a file's content, its tokens with their numbers, and a step that no speech model's tokenizer has."""
    import tokenizers

    parsed = tokenizers.Tokenizer.from_buffer(content)
    parsed.no_padding()                                     # a file may ask for either: texts padded to a billion tokens,
    parsed.no_truncation()                                  # or cut to none
    return parsed, parsed.get_vocab(), _unsupported_step(parsed)


class _TokenizerFile:
    """A tokenizer.json. end: the token that ends a text. n_tokens: one more than the largest token."""

    end: int
    n_tokens: int

    def _open(self, path: Path | str) -> dict[str, int]:
        """Read the file; returns its tokens, special ones too, with their numbers. Raises BadCheckpoint for any other file."""
        self.path = Path(path)
        content = read_file(self.path, longest=LONGEST_TOKENIZER, remedy=AGAIN)
        try:
            self._tokenizer, vocabulary, unsupported = _parse(content)
        except BaseException as error:                      # the library raises plain Exception, and panics are BaseException
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            reason = " ".join(str(error).split())[:200]
            raise BadCheckpoint(f"{path}: not a tokenizer file ({reason}).  {AGAIN}") from error
        if unsupported is not None:
            raise BadCheckpoint(f"{path}: it would change texts by {unsupported}, which no speech model's does.  {AGAIN}")
        self.n_tokens = max(vocabulary.values(), default=-1) + 1
        return vocabulary

    @property
    def sha256(self) -> str:
        """The sha256 of the file, which is stored with checkpoints."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def words(self, tokens: Sequence[int], language: str) -> list[WordTokens]:
        """Split text tokens into words with their punctuation, as Whisper's `split_to_word_tokens` does."""
        pieces = self._characters([token for token in tokens if token < self.end])
        return _join_punctuation(_join_clusters(pieces) if language in SPACELESS_LANGUAGES else _join_at_spaces(pieces))

    def _characters(self, tokens: list[int]) -> list[WordTokens]:
        """The shortest runs of tokens that are whole characters; joined they are the whole text."""
        raise NotImplementedError


class Tokenizer(_TokenizerFile):
    """Byte-pair tokens with Whisper's special tokens. `languages` is empty for an English-only model."""

    def __init__(self, path: Path | str):
        """Raises BadCheckpoint if the file is not a Whisper tokenizer."""
        vocabulary = self._open(path)
        self._ids = {name: i for name, i in vocabulary.items() if name.startswith("<|") and name.endswith("|>")}
        self.end = self._id("<|endoftext|>")
        self.start = self._id("<|startoftranscript|>")
        self.previous = self._id("<|startofprev|>")
        self.transcribe = self._id("<|transcribe|>")
        self.translate = self._ids.get("<|translate|>")
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
        """The text of each token, "" for special ones. For 50,000 tokens this takes 0.1 s."""
        return ["" if token >= self.end else self.decode([token]) for token in range(self._tokenizer.get_vocab_size())]

    def prompt(self, language: str | None, *, task: str = "transcribe", previous: Sequence[int] = ()) -> list[int]:
        """The tokens with which every transcript begins, as in Whisper (Radford et al. 2022, arXiv 2212.04356, figure 1).

        task: "transcribe" writes the language that is spoken, "translate" English. previous: the tokens of a text that comes
        before. An English-only model ignores `language`, and can only transcribe.
        """
        before = [self.previous, *previous] if len(previous) else []
        if not self.languages:
            assert task == "transcribe", "an English-only model does not translate"
            return [*before, self.start, self.no_timestamps]
        assert language is not None, "a multilingual model needs a language"
        wanted = self.transcribe if task == "transcribe" else self.translate
        assert wanted is not None, "a multilingual tokenizer has the token of every task"
        return [*before, self.start, self.languages[language], wanted, self.no_timestamps]

    def encode(self, text: str) -> list[int]:
        """The tokens of plain text, without special tokens."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of the tokens, without special tokens and timestamps. Half a character becomes U+FFFD."""
        return self._tokenizer.decode([token for token in tokens if token < self.end], skip_special_tokens=False)

    def _characters(self, tokens: list[int]) -> list[WordTokens]:
        """See _TokenizerFile. Bytes that are no character become U+FFFD, perhaps several bytes one: they stay with their
        neighbours."""
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
    """The pieces of a SentencePiece model in the order of a network's output: the blank is first, and the end, which also
    begins a text, is last. `write_sentencepiece` makes the file."""

    no_speech = None
    languages: ClassVar[dict[str, int]] = {}

    def __init__(self, path: Path | str):
        """Raises BadCheckpoint if the file has other tokens."""
        vocabulary = self._open(path)
        pieces = sorted(vocabulary, key=vocabulary.__getitem__)
        if len(pieces) < 3 or (pieces[0], pieces[-1]) != (BLANK, END) or len(pieces) != self.n_tokens:
            raise BadCheckpoint(f"{path}: its tokens do not begin with {BLANK} and end with {END}.  Import the model again.")
        self.blank, self.end = 0, len(pieces) - 1
        self.start = self.end
        self.texts = ["", *(piece.replace(WORD_BEGINS, " ") for piece in pieces[1:-1]), ""]
        self._upper = not any(piece != piece.upper() for piece in pieces[1:-1] if not piece.startswith("<"))

    def prompt(self, language: str | None, *, task: str = "transcribe", previous: Sequence[int] = ()) -> list[int]:
        """The token with which every text begins. There is one language and one task, and no text comes before."""
        assert (task, len(previous)) == ("transcribe", 0), "only Whisper's tokens tell a task or a previous text"
        return [self.start]

    def encode(self, text: str) -> list[int]:
        """The tokens of a normalised text, in capitals if the pieces are; what no piece has becomes <unk>."""
        text = normalise(text)
        return self._tokenizer.encode(text.upper() if self._upper else text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of the tokens, with the space that begins each word."""
        return "".join(self.texts[token] for token in tokens)

    def _characters(self, tokens: list[int]) -> list[WordTokens]:
        return [WordTokens(self.texts[token], (token,)) for token in tokens]


def _unsupported_step(tokenizer: tokenizers.Tokenizer) -> str | None:
    """A step, in words, that could make a short text grow without end or keep the tokenizer busy for ever; None if there is
    none."""
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
    """The tokenizer in a file. Raises BadCheckpoint."""
    holds_pieces = f'"{BLANK}"'.encode() in read_file(Path(path), longest=LONGEST_TOKENIZER, remedy=AGAIN)
    return SentencePieceTokenizer(path) if holds_pieces else Tokenizer(path)


def write_sentencepiece(path: Path | str, pieces: Sequence[str], scores: Mapping[str, float],
                        charsmap: bytes = b"") -> SentencePieceTokenizer:
    """Write a tokenizer.json of SentencePiece's unigram pieces (Kudo 2018), and open it.

    pieces: in the network's order, without blank and end; the first is for unknown text. scores: the log-probabilities of the
    pieces that the SentencePiece model has; the others are used last. charsmap: the model's precompiled normaliser.
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
    """The same pieces, but a combining mark with tokens of its own is joined to its letter."""
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
        mark = piece.text.strip() in string.punctuation and piece.text != "'"         # isn't, in single characters
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
    """The code of a language that is given by its code or English name, in letters of either case: German -> de."""
    known = {name: code for code, name in LANGUAGE_NAMES.items()}
    return known.get(language.strip().lower(), language.strip().lower())


def target_tokens(tokenizer: Tokenizer | SentencePieceTokenizer, text: str) -> list[int]:
    """The tokens of a sentence, as a model is trained to write it. A tokenizer without capitals and digits gets the normalised
    text, because it would silently leave them out (LRS is all capitals)."""
    return tokenizer.encode(f" {text.strip() if tokenizer.encode('A1') else normalise(text)}")


def write_characters(path: Path | str, letters: str = CTC_LETTERS) -> Tokenizer:
    """Write a tokenizer.json of single characters with Whisper's special tokens, and open it."""
    import tokenizers

    vocabulary = {letter: i for i, letter in enumerate(dict.fromkeys(letters))}
    model = tokenizers.models.BPE(vocab=vocabulary, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.decoder = tokenizers.decoders.Fuse()
    tokenizer.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    Path(path).write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    return Tokenizer(path)
