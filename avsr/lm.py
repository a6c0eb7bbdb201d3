"""Word n-gram language models: an ARPA file in, the scores of finished words for the beam search out.

    3-gram.pruned.1e-7.arpa.gz  ->  NGrams  ->  WordScorer: tokens (N, L) -> (N, V)
The file format is Doug Paul's of MIT Lincoln Laboratory, as SRILM and KenLM write it and OpenSLR 11 offers it for
LibriSpeech. What a longer n-gram does not know is asked of a shorter one, times the back-off weight of its context
(Katz 1987; Jelinek 1997). The model joins the search by shallow fusion (Gulcehre et al. 2015): its
weighted log-probabilities are added to the network's. The network writes parts of words; a word is scored where it is
complete, as in pyctcdecode and flashlight.
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
import torch
from torch import Tensor

from avsr.errors import BadCheckpoint
from avsr.runtime import Progress, no_progress
from avsr.text import normalise

UNKNOWN = math.log(1e-8)                                    # of a word no n-gram knows, where the model has no <unk>
LEAST = -99.0                                               # log10; SRILM's way to write a probability of 0
KENLM = b"mmap lm http://kheafield.com"                     # how KenLM's binary files begin
MOST = 99.0                                                 # log10, of a back-off weight
CHUNK = 2**12                                               # lines taken in at once
LONGEST_LINE = 2**14                                        # bytes
LONGEST_ORDER = 20                                          # words; KenLM goes to 6 unless it is built anew
# How many times larger a .gz may be once unpacked, from so many bytes on: n-grams shrink to a third or a fifth.
MOST_UNPACKED, UNPACKED_BYTES = 100, 2**26
LEAST_BYTES = 4                                             # of an n-gram: a digit, a space, a letter, a line end
GARBLE, MASK = 0x9E3779B97F4A7C15, 2**64 - 1                # an odd number of 64 bits (2**64 over the golden ratio)
QUOTES = str.maketrans("\u2018\u2019\u02bc`", "''''")
MARKS = string.punctuation.replace("'", "") + string.whitespace + "“”«»…–—¡¿。，！？、"
AGAIN = "Fetch the file again, or write it anew with KenLM or SRILM."


class Table(NamedTuple):
    """All n-grams of one order, sorted by key."""

    keys: memoryview                                        # uint64: the words, garbled together
    logprobs: np.ndarray                                    # (n,) float32, natural
    backoffs: np.ndarray                                    # (n,) float32, natural; (0,) for the longest


class NGrams:
    """A back-off model over words. `words` gives each its number; `order` counts the longest n-gram's words.

    N-grams are found by a hash of 64 bits, as in KenLM's probing models: of 5 million, one question in 10**12 for an
    n-gram that is not there is answered by another.
    """

    def __init__(self, words: dict[str, int], tables: Sequence[Table]):
        self.words, self.tables, self.order = words, tables, len(tables)
        self.start, self.end, unknown = (_mark(words, mark) for mark in ("<s>", "</s>", "<unk>"))
        self.unknown = len(words) if unknown is None else unknown
        plain = [word for word in words if not word.startswith("<")]
        self._upper = all(word == word.upper() for word in plain)
        self._lower = all(word == word.lower() for word in plain)
        # The hypotheses of a beam ask the same again and again.
        self.logprob, self.spell = lru_cache(2**16)(self._logprob), lru_cache(2**16)(self._spell)

    @classmethod
    def open(cls, path: Path | str, progress: Progress = no_progress) -> NGrams:
        """Read an ARPA file, plain or gzipped. Raises BadCheckpoint, with the line's number, for any other."""
        path = Path(path)
        try:
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise BadCheckpoint(f"{path}: no regular file, and it is read more than once.  Write what comes out of it "
                                    "into a file first.")
            with path.open("rb") as raw:
                return cls(*_read(_Lines(path, raw, progress)))
        except OSError as error:
            raise BadCheckpoint(f"{path}: cannot be read ({error.strerror}).  Name an ARPA file, plain or .gz.") from error

    def score(self, context: Sequence[str], word: str) -> float:
        """Natural log-probability of a word after others, all spelt as the file spells them."""
        return self.logprob(tuple(self.words.get(one, self.unknown) for one in context), self.words.get(word, self.unknown))

    def _logprob(self, context: tuple[int, ...], word: int) -> float:
        """As `score`, of words by their numbers; called as `logprob`, which remembers."""
        backoff = 0.0
        for first in range(max(0, len(context) + 1 - self.order), len(context) + 1):
            known = context[first:]
            at = self._find((*known, word))
            if at is not None:
                return backoff + float(self.tables[len(known)].logprobs[at])
            at = self._find(known) if known else None
            if at is not None:
                backoff += float(self.tables[len(known) - 1].backoffs[at])
        return backoff + UNKNOWN

    def after(self, context: tuple[int, ...], word: int) -> tuple[int, ...]:
        """What is worth remembering once `word` was said."""
        return (*context, word)[max(0, len(context) + 2 - self.order):]

    def _spell(self, text: str) -> tuple[int, ...]:
        """The numbers of the words in a stretch of text, without punctuation and in the model's case; called as `spell`.

        What the file has is one word (don't, 'tis); else the text is normalised, so that F2 and well-known are two.
        """
        whole = self._cased(text.translate(QUOTES)).strip(MARKS)
        for word in (whole, whole.strip("'")):
            if word in self.words:
                return (self.words[word],)
        return tuple(self.words.get(self._cased(word), self.unknown) for word in normalise(text).split())

    def _cased(self, text: str) -> str:
        return text.upper() if self._upper else text.lower() if self._lower else text

    def _find(self, words: tuple[int, ...]) -> int | None:
        key = 0
        for word in words:
            key = (key + word + 1) * GARBLE & MASK
            key ^= key >> 32
        keys = self.tables[len(words) - 1].keys
        at = bisect_left(keys, key)
        return at if at < len(keys) and keys[at] == key else None


def _mark(words: dict[str, int], mark: str) -> int | None:
    """LibriSpeech writes <UNK> beside <s>."""
    return words.get(mark, words.get(mark.upper()))


class _Lines:
    """The file's lines, counted, with the complaints about them. `line` is the last that `next` gave."""

    def __init__(self, path: Path, raw: BinaryIO, progress: Progress):
        self.path, self.raw, self.progress = path, raw, progress
        self.n_bytes, self.number, self.line = path.stat().st_size, 0, b""
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        self.file = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if zipped else raw
        self.most_bytes = max(UNPACKED_BYTES, MOST_UNPACKED * self.n_bytes) if zipped else self.n_bytes
        self.lines = iter(partial(self.file.readline, LONGEST_LINE), b"")

    def take(self, n: int) -> list[bytes]:
        """The next lines, fewer at the end of the file."""
        try:
            lines = list(islice(self.lines, n))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            self.fail(f"the gzip file is damaged or cut short after this ({error})")
        if lines and len(longest := max(lines, key=len)) == LONGEST_LINE and not longest.endswith(b"\n"):
            self.number += lines.index(longest) + 1
            self.fail(f"a line of {LONGEST_LINE} bytes or more")
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
        """Complain where `line` is another."""
        if self.line != wanted:
            found = f"{_shown(self.line)} stands" if self.line else "the file ends"
            self.fail(f"{found} where {wanted.decode()} should come, by the counts in \\data\\")

    def fail(self, problem: str, remedy: str = AGAIN, number: int | None = None) -> NoReturn:
        """At this line, or at the last one taken."""
        raise BadCheckpoint(f"{self.path}: line {number or self.number}: {problem}.  {remedy}")


def _shown(field: bytes) -> str:
    return repr(field[:40].decode("utf-8", "replace"))


def _read(lines: _Lines) -> tuple[dict[str, int], list[Table]]:
    counts = _header(lines)
    words: dict[bytes, int] = {}
    tables = []
    for n, count in enumerate(counts, 1):
        lines.expect(b"\\%d-grams:" % n)
        tables.append(_section(lines, n, count, words, longest=n == len(counts)))
        lines.next()
    lines.expect(b"\\end\\")
    known = {word.decode("utf-8", "replace"): number for word, number in words.items()}
    missing = [mark for mark in ("<s>", "</s>") if _mark(known, mark) is None]
    if missing:
        raise BadCheckpoint(f"{lines.path}: no {' and no '.join(missing)} among its {len(known)} words.  Use a model of whole "
                            f"sentences, as KenLM and SRILM make them.")
    return known, tables


def _header(lines: _Lines) -> list[int]:
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
        if len(counts) > LONGEST_ORDER:
            lines.fail(f"n-grams of more than {LONGEST_ORDER} words")
        if LEAST_BYTES * sum(counts) > lines.most_bytes:
            lines.fail(f"{sum(counts)} n-grams do not fit into a file of {lines.n_bytes} bytes")
    if not counts:
        lines.fail("no 'ngram 1=...' after \\data\\")
    return counts


def _section(lines: _Lines, n: int, count: int, words: dict[bytes, int], *, longest: bool) -> Table:
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
            at, problem = next((i, problem) for i, row in enumerate(rows) if (problem := _fault(row, n, words)))
            lines.fail(f"{problem} (at {n}-gram {done + at + 1} of the {count} in \\data\\)", number=first + done + at)
    whole = np.concatenate(keys)
    order = np.argsort(whole, kind="stable")
    whole = whole[order]
    if len(twice := np.nonzero(whole[1:] == whole[:-1])[0]):
        lines.fail(f"a {n}-gram that was there before", number=first + int(order[twice[0] + 1]))
    logprobs, backoffs = np.concatenate(values, axis=1)
    return Table(memoryview(whole), logprobs[order], backoffs[:0] if longest else backoffs[order])


def _keys(rows: list[list[bytes]], n: int, words: dict[bytes, int]) -> np.ndarray:
    """What NGrams._find makes of each n-gram's words: (len(rows),) uint64."""
    if n == 1:
        for word in chain.from_iterable(row[1:2] for row in rows):
            words.setdefault(word, len(words))
    spelt = map(words.__getitem__, chain.from_iterable(row[1:n + 1] for row in rows))
    numbers = np.fromiter(spelt, np.uint64, len(rows) * n).reshape(-1, n)
    keys = np.zeros(len(rows), np.uint64)
    for column in numbers.T:
        keys = (keys + column + np.uint64(1)) * np.uint64(GARBLE)
        keys ^= keys >> np.uint64(32)
    return keys


def _values(rows: list[list[bytes]], n: int) -> np.ndarray:
    """Probabilities and back-off weights, (2, len(rows)) float32, natural logarithms; a weight not written is 1."""
    values = np.array([[float(row[0]) for row in rows], [float(row[n + 1]) if len(row) > n + 1 else 0.0 for row in rows]])
    if not (values <= MOST).all() or values[0].max() > 0 or max(map(len, rows)) > n + 2:
        raise ValueError
    return (np.maximum(values, LEAST) * math.log(10)).astype(np.float32)


def _fault(row: list[bytes], n: int, words: dict[bytes, int]) -> str | None:
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
            if float(field) > MOST:
                return f"{_shown(field)} is above {MOST:g}, which no logarithm of a weight is"
        except ValueError:
            return f"{_shown(field)} is not a number"
    return f"a log10 probability of {float(row[0]):g} is above 0" if float(row[0]) > 0 else None


class _Row(NamedTuple):
    """A hypothesis: the last words that are complete, and what has been written since."""

    context: tuple[int, ...]
    pending: str
    after: tuple[int, ...]                                  # the context once `pending` is complete
    finished: float                                         # what completing it is worth
    ended: float                                            # what ending the sentence there is worth


class WordScorer:
    """Scores words where they are complete: a Scorer of the search, made for one search.

    The column of a token that begins a word (its text begins with a space) holds the log-probability of the word before
    it, that of the end token also the end of the sentence; the others hold 0. So a whole text gets the log-probability
    of its words, whichever tokens spell them, and spaces alone finish nothing.
    """

    def __init__(self, ngrams: NGrams, texts: Sequence[str], *, end: int, n_prompt: int, weight: float,
                 word_bonus: float = 0.0, unknown_bonus: float = 0.0):
        """texts: what each of the V tokens writes, '' for special ones; the first `n_prompt` tokens are not text.

        word_bonus: added for each finished word, against the short texts that language models like.
        unknown_bonus: added for a word the model does not have; below 0, as <unk> stands for all such words together.
        Both are natural logarithms and, like the rest, multiplied by `weight` in the search.
        """
        self.ngrams, self.texts, self.end, self.weight = ngrams, texts, end, weight
        self.word_bonus, self.unknown_bonus = word_bonus, unknown_bonus
        self.begins = torch.tensor([float(text[:1].isspace()) for text in texts])          # (V,)
        self.rows: list[_Row] = []
        self.n_seen = n_prompt

    def score(self, tokens: Tensor) -> Tensor:
        """(N, L) int64 -> (N, V) float32, on the device of `tokens`."""
        finished, ended = self._worth(tokens)
        scores = torch.outer(finished, self.begins)
        scores[:, self.end] = ended
        return scores

    def score_partial(self, tokens: Tensor, candidates: Tensor) -> Tensor:
        """As `score`, but only the columns `candidates` (N, C) int64 -> (N, C) float32."""
        finished, ended = self._worth(tokens)
        return torch.where(candidates == self.end, ended[:, None], self.begins[candidates] * finished[:, None])

    def select(self, rows: Tensor, utterances: Tensor | None) -> None:
        """See Scorer: `rows` are among the last scored; which utterances they belong to does not matter here."""
        self.rows = [self.rows[row] for row in rows.tolist()]

    def _worth(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Takes in what is new in `tokens` (N, L). (N,) float32 twice: of completing a word, and of ending there."""
        if not self.rows:
            self.rows = [self._row((self.ngrams.start,), "")] * len(tokens)
        assert len(self.rows) == len(tokens), "select was not called"
        assert tokens.shape[1] >= self.n_seen, "a scorer is made for one search"
        for written in tokens[:, self.n_seen:].T.tolist():
            self.rows = [self._write(row, self.texts[token]) for row, token in zip(self.rows, written, strict=True)]
        self.n_seen = tokens.shape[1]
        self.begins = self.begins.to(tokens.device)
        worth = torch.tensor([[row.finished for row in self.rows], [row.ended for row in self.rows]])
        finished, ended = worth.to(tokens.device)
        return finished, ended

    def _write(self, row: _Row, text: str) -> _Row:
        if text[:1].isspace():
            return self._row(row.after, text)
        return self._row(row.context, row.pending + text) if text else row

    def _row(self, context: tuple[int, ...], pending: str) -> _Row:
        after, worth = context, 0.0
        for word in self.ngrams.spell(pending):
            worth += self.ngrams.logprob(after, word) + self.word_bonus
            worth += self.unknown_bonus if word == self.ngrams.unknown else 0.0
            after = self.ngrams.after(after, word)
        return _Row(context, pending, after, worth, worth + self.ngrams.logprob(after, self.ngrams.end))
