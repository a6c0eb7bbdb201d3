"""Word n-gram language models in ARPA files.

    3-gram.pruned.1e-7.arpa.gz  ->  NGrams: the log-probability of a word after others
The file format is Doug Paul's of MIT Lincoln Laboratory, as SRILM and KenLM write it and OpenSLR 11 offers it for
LibriSpeech. An n-gram that is not in the model has the probability of the shorter one, times the back-off weight of its context
(Katz 1987; Jelinek 1997).
Reading a million n-grams takes 2 s (2.5 s from .gz) and leaves 14 MB; a model of 0.2 + 1 + 1 million takes 4.5 s (5.4 s)
and, with its 200,000 words, 100 MB at its peak.
"""

from __future__ import annotations

import codecs
import gzip
import io
import math
import re
import string
import zlib
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

import numpy as np

from avsr.errors import BadCheckpoint
from avsr.lm.protocol import TextScore
from avsr.lm.words import WordScorer
from avsr.runtime import Progress, no_progress
from avsr.text import SentencePieceTokenizer, Tokenizer, normalise

UNKNOWN_LOGPROB = math.log(1e-8)                            # of a word that is in no n-gram, where there is no <unk>
MIN_LOG10 = -99.0                                           # log10; SRILM's way to write a probability of 0
UNKNOWN_BONUS = -10.0                                       # <unk> holds the chance of all unknown words: pyctcdecode's penalty
KENLM = b"mmap lm http://kheafield.com"                     # how KenLM's binary files begin
MAX_LOG10 = 99.0                                            # log10, of a back-off weight
CHUNK = 2**12                                               # lines read at once
MAX_LINE = 2**14                                            # bytes
MAX_ORDER = 20                                              # words; KenLM goes to 6 unless it is rebuilt
# How many times larger a .gz may be once unpacked, from so many bytes on: n-grams shrink to a third or a fifth.
MAX_UNPACK_RATIO, MIN_UNPACK_LIMIT = 100, 2**26
MIN_NGRAM_BYTES = 4                                         # of an n-gram: a digit, a space, a letter, a line end
HASH_FACTOR, HASH_MASK = 0x9E3779B97F4A7C15, 2**64 - 1     # an odd number of 64 bits (2**64 over the golden ratio)
QUOTES = str.maketrans("\u2018\u2019\u02bc`", "''''")
PUNCTUATION = string.punctuation.replace("'", "") + string.whitespace + "“”«»…–—¡¿。，！？、"
REMEDY = "Fetch the file again, or write it anew with KenLM or SRILM."


class NgramTable(NamedTuple):
    """All n-grams of one order, sorted by key."""

    keys: memoryview                                        # uint64: a hash of the words
    logprobs: np.ndarray                                    # (n,) float32, natural
    backoffs: np.ndarray                                    # (n,) float32, natural; (0,) for the longest


class NGrams:
    """A back-off model over words. `words` gives each its number; `order` counts the longest n-gram's words.

    N-grams are found by a hash of 64 bits, as in KenLM's probing models: of 5 million, one question in 10**12 for an
    n-gram that is not there is answered by another.
    """

    def __init__(self, words: dict[str, int], tables: Sequence[NgramTable], name: str = "n-grams"):
        self.words, self.tables, self.order, self.name = words, tables, len(tables), name
        start, end, unknown = (_special(words, mark) for mark in ("<s>", "</s>", "<unk>"))
        assert start is not None, "_read has found them"
        assert end is not None
        self.start, self.end, self.unknown = start, end, len(words) if unknown is None else unknown
        plain = [word for word in words if not word.startswith("<")]
        self._upper = all(word == word.upper() for word in plain)
        self._lower = all(word == word.lower() for word in plain)
        # Cached, because the hypotheses of a beam share most of their words.
        self.logprob, self.word_ids = lru_cache(2**16)(self._logprob), lru_cache(2**16)(self._word_ids)

    @classmethod
    def open(cls, path: Path | str, progress: Progress = no_progress) -> NGrams:
        """Read an ARPA file, plain or gzipped. Raises BadCheckpoint, with the line's number, for any other."""
        path = Path(path)
        try:
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise BadCheckpoint(f"{path}: no regular file, and it is read more than once.  Write what comes out of it "
                                    "into a file first.")
            with path.open("rb") as raw:
                return cls(*_read(_ArpaReader(path, raw, progress)), name=str(path))
        except OSError as error:
            raise BadCheckpoint(f"{path}: cannot be read ({error.strerror}).  Name an ARPA file, plain or .gz.") from error

    def check(self, tokenizer: Tokenizer | SentencePieceTokenizer) -> None:
        """See LanguageModel: words can be scored whatever the tokens are."""

    def scorer(self, tokenizer: Tokenizer | SentencePieceTokenizer, *, n_prompt: int, n_vocab: int,
               weight: float) -> WordScorer:
        """See LanguageModel."""
        texts = [*tokenizer.texts, *[""] * (n_vocab - len(tokenizer.texts))]     # Whisper's tables are longer
        return WordScorer(self, texts, end=tokenizer.end, n_prompt=n_prompt, weight=weight, unknown_bonus=UNKNOWN_BONUS)

    def score_texts(self, texts: Sequence[str]) -> list[TextScore]:
        """See LanguageModel."""
        return [self._score_text(normalise(text)) for text in texts]

    def _score_text(self, text: str) -> TextScore:
        words = [(word, len(one)) for one in text.split() for word in self.word_ids(one)]
        context, logprob, unknown_logprob = (self.start,), 0.0, 0.0
        for word, _ in (*words, (self.end, 0)):
            found = self.logprob(context, word)
            logprob += found
            unknown_logprob += found if word == self.unknown else 0.0
            context = self.next_context(context, word)
        unknown = [n_letters for word, n_letters in words if word == self.unknown]
        return TextScore(logprob, len(words), len(text), len(unknown), sum(unknown), unknown_logprob)

    def score(self, context: Sequence[str], word: str) -> float:
        """Natural log-probability of a word after others, all of them spelt as in the file."""
        return self.logprob(tuple(self.words.get(one, self.unknown) for one in context), self.words.get(word, self.unknown))

    def _logprob(self, context: tuple[int, ...], word: int) -> float:
        """As `score`, of words by their numbers; to be called as `logprob`, which is cached."""
        backoff = 0.0
        for first in range(max(0, len(context) + 1 - self.order), len(context) + 1):
            known = context[first:]
            at = self._find((*known, word))
            if at is not None:
                return backoff + float(self.tables[len(known)].logprobs[at])
            at = self._find(known) if known else None
            if at is not None:
                backoff += float(self.tables[len(known) - 1].backoffs[at])
        return backoff + UNKNOWN_LOGPROB

    def next_context(self, context: tuple[int, ...], word: int) -> tuple[int, ...]:
        """The context after one more word, as long as the model can use."""
        return (*context, word)[max(0, len(context) + 2 - self.order):]

    def _word_ids(self, text: str) -> tuple[int, ...]:
        """The numbers of the words in some text, without punctuation and in the model's case; to be called as `word_ids`.

        What is in the file is one word (don't, 'tis); otherwise the text is normalised, so that F2 and well-known are two.
        """
        whole = self._cased(text.translate(QUOTES)).strip(PUNCTUATION)
        for word in (whole, whole.strip("'")):
            if word in self.words:
                return (self.words[word],)
        return tuple(self.words.get(self._cased(word), self.unknown) for word in normalise(text).split())

    def _cased(self, text: str) -> str:
        return text.upper() if self._upper else text.lower() if self._lower else text

    def _find(self, words: tuple[int, ...]) -> int | None:
        key = 0
        for word in words:
            key = (key + word + 1) * HASH_FACTOR & HASH_MASK
            key ^= key >> 32
        keys = self.tables[len(words) - 1].keys
        at = bisect_left(keys, key)
        return at if at < len(keys) and keys[at] == key else None


def _special(words: dict[str, int], mark: str) -> int | None:
    """The number of a special word, perhaps in capitals: LibriSpeech writes <UNK> beside <s>."""
    return words.get(mark, words.get(mark.upper()))


class _ArpaReader:
    """Reads the lines of a file and counts them for error messages. `line` is the last one that `next` returned."""

    def __init__(self, path: Path, raw: BinaryIO, progress: Progress):
        self.path, self.raw, self.progress = path, raw, progress
        self.n_bytes, self.number, self.line = path.stat().st_size, 0, b""
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        self.file = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if zipped else raw
        self.most_bytes = max(MIN_UNPACK_LIMIT, MAX_UNPACK_RATIO * self.n_bytes) if zipped else self.n_bytes
        self.lines = iter(partial(self.file.readline, MAX_LINE), b"")

    def take(self, n: int) -> list[bytes]:
        """The next lines, fewer at the end of the file."""
        try:
            lines = list(islice(self.lines, n))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            self.fail(f"the gzip file is damaged or cut short after this ({error})")
        if lines and len(longest := max(lines, key=len)) == MAX_LINE and not longest.endswith(b"\n"):
            self.number += lines.index(longest) + 1
            self.fail(f"a line of {MAX_LINE} bytes or more")
        self.number += len(lines)
        if self.file is not self.raw and self.file.tell() > self.most_bytes:
            self.fail(f"the gzip file of {self.n_bytes} bytes unpacks to more than {self.most_bytes}, which n-grams never do")
        self.progress("reading the language model", self.raw.tell(), self.n_bytes, "bytes")
        return lines

    def next(self) -> bytes:
        """The next line that is not blank, stripped; nothing at the end of the file."""
        self.line = b""
        while not self.line and (lines := self.take(1)):
            self.line = lines[0].strip()
        return self.line

    def expect(self, wanted: bytes) -> None:
        """Raise BadCheckpoint if `line` is another."""
        if self.line != wanted:
            found = f"{_shown(self.line)} stands" if self.line else "the file ends"
            self.fail(f"{found} where {wanted.decode()} should come, by the counts in \\data\\")

    def fail(self, problem: str, remedy: str = REMEDY, number: int | None = None) -> NoReturn:
        """Raise BadCheckpoint for line `number`, or for the last one read."""
        raise BadCheckpoint(f"{self.path}: line {number or self.number}: {problem}.  {remedy}")


def _shown(field: bytes) -> str:
    return repr(field[:40].decode("utf-8", "replace"))


def _read(lines: _ArpaReader) -> tuple[dict[str, int], list[NgramTable]]:
    counts = _header(lines)
    words: dict[bytes, int] = {}
    tables = []
    for n, count in enumerate(counts, 1):
        lines.expect(b"\\%d-grams:" % n)
        tables.append(_section(lines, n, count, words, longest=n == len(counts)))
        lines.next()
    lines.expect(b"\\end\\")
    known = {word.decode("utf-8", "replace"): number for word, number in words.items()}
    missing = [mark for mark in ("<s>", "</s>") if _special(known, mark) is None]
    if missing:
        raise BadCheckpoint(f"{lines.path}: no {' and no '.join(missing)} among its {len(known)} words.  Use a model of whole "
                            f"sentences, as KenLM and SRILM make them.")
    return known, tables


def _header(lines: _ArpaReader) -> list[int]:
    """How many n-grams there are of each order."""
    if lines.next().startswith(codecs.BOM_UTF8):            # an editor's byte order mark
        lines.line = lines.line.removeprefix(codecs.BOM_UTF8).strip()
    if lines.line.startswith(KENLM):
        lines.fail("KenLM's binary layout, which only KenLM reads", "Give the ARPA file it was built from.")
    while lines.line != b"\\data\\":
        if not lines.line or lines.number > 100:
            raise BadCheckpoint(f"{lines.path}: not an ARPA file (no \\data\\ in its first {lines.number} lines).  Name an "
                                f"n-gram model's .arpa or .arpa.gz.")
        lines.next()
    counts: list[int] = []
    while lines.next().startswith(b"ngram"):
        found = re.fullmatch(rb"ngram\s+(\d{1,2})\s*=\s*(\d{1,15})", lines.line)
        if not found or int(found[1]) != len(counts) + 1:
            lines.fail(f"{_shown(lines.line)} where the count 'ngram {len(counts) + 1}=...' should be")
        counts.append(int(found[2]))
        if len(counts) > MAX_ORDER:
            lines.fail(f"n-grams of more than {MAX_ORDER} words")
        if MIN_NGRAM_BYTES * sum(counts) > lines.most_bytes:
            lines.fail(f"{sum(counts)} n-grams do not fit into a file of {lines.n_bytes} bytes")
    if not counts:
        lines.fail("no 'ngram 1=...' after \\data\\")
    return counts


def _section(lines: _ArpaReader, n: int, count: int, words: dict[bytes, int], *, longest: bool) -> NgramTable:
    """The n-grams of one order; those of order 1 number the words."""
    keys, values, first = [np.empty(0, np.uint64)], [np.empty((2, 0), np.float32)], lines.number + 1
    for done in range(0, count, CHUNK):
        rows = [line.split() for line in lines.take(min(CHUNK, count - done))]     # bytes: str splits at U+00A0 too
        if len(rows) < min(CHUNK, count - done):
            lines.fail(f"the file is cut short here (after {n}-gram {done + len(rows)} of the {count} in \\data\\)")
        try:
            keys.append(_keys(rows, n, words))
            values.append(_values(rows, n))
        except (KeyError, ValueError):
            at, problem = next((i, problem) for i, row in enumerate(rows) if (problem := _line_error(row, n, words)))
            lines.fail(f"{problem} (at {n}-gram {done + at + 1} of the {count} in \\data\\)", number=first + done + at)
    whole = np.concatenate(keys)
    order = np.argsort(whole, kind="stable")
    whole = whole[order]
    if len(repeated := np.nonzero(whole[1:] == whole[:-1])[0]):
        lines.fail(f"a {n}-gram that was there before", number=first + int(order[repeated[0] + 1]))
    logprobs, backoffs = np.concatenate(values, axis=1)
    return NgramTable(whole.data, logprobs[order], backoffs[:0] if longest else backoffs[order])


def _keys(rows: list[list[bytes]], n: int, words: dict[bytes, int]) -> np.ndarray:
    """The key of each n-gram, see NGrams._find: (len(rows),) uint64."""
    if n == 1:
        for word in chain.from_iterable(row[1:2] for row in rows):
            words.setdefault(word, len(words))
    word_numbers = map(words.__getitem__, chain.from_iterable(row[1:n + 1] for row in rows))
    numbers = np.fromiter(word_numbers, np.uint64, len(rows) * n).reshape(-1, n)
    keys = np.zeros(len(rows), np.uint64)
    for column in numbers.T:
        keys = (keys + column + np.uint64(1)) * np.uint64(HASH_FACTOR)
        keys ^= keys >> np.uint64(32)
    return keys


def _values(rows: list[list[bytes]], n: int) -> np.ndarray:
    """Probabilities and back-off weights, (2, len(rows)) float32, natural logarithms; a weight not written is 1."""
    values = np.array([[float(row[0]) for row in rows], [float(row[n + 1]) if len(row) > n + 1 else 0.0 for row in rows]])
    if not (values <= MAX_LOG10).all() or values[0].max() > 0 or max(map(len, rows)) > n + 2:
        raise ValueError
    return (np.maximum(values, MIN_LOG10) * math.log(10)).astype(np.float32)


def _line_error(row: list[bytes], n: int, words: dict[bytes, int]) -> str | None:
    """What is wrong with a line, if anything is."""
    if not row or row[0].startswith(b"\\"):
        return "the list ends"
    if not n + 1 <= len(row) <= n + 2:
        return f"{len(row)} fields where a {n}-gram has {n + 1} or {n + 2}"
    for word in row[1:n + 1]:
        if word not in words:
            return f"{_shown(word)} is not among the 1-grams"
    for field in (row[0], *row[n + 1:]):
        try:
            if not float(field) < math.inf:
                return f"{_shown(field)} is not a finite number"
            if float(field) > MAX_LOG10:
                return f"{_shown(field)} is above {MAX_LOG10:g}, which no logarithm of a weight is"
        except ValueError:
            return f"{_shown(field)} is not a number"
    return f"a log10 probability of {float(row[0]):g} is above 0" if float(row[0]) > 0 else None
