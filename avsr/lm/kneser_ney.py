"""Word n-grams by interpolated modified Kneser-Ney smoothing (Kneser and Ney 1995; Chen and Goodman 1998), written as ARPA.

    sentences -> counts of each order -> discounts -> probabilities and back-off weights -> model.arpa(.gz)
The same as KenLM's `lmplz` (Heafield et al. 2013): the same counts, discounts, share of unknown words and pruning.

An n-gram h w of the longest order counts c(h w), how often it is there. A shorter one counts how many different words it comes
after, c(h w) = |{v : v h w occurs}|, because it is asked only where the longer context is not known; but an n-gram that begins
a sentence has no word before it, and counts how often it is there. With D(c) the discount of a count,

    p(w | h) = max(c(h w) - D(c(h w)), 0) / Σ_x c(h x)  +  γ(h) p(w | h'),       h' = h without its first word
    γ(h) = Σ_x D(c(h x)) / Σ_x c(h x),                        what was taken off, which the shorter context gets
    D(c) = c - (c + 1) Y n_{c+1} / n_c  for c = 1, 2, and D(c) = D(3) from 3 on,     Y = n_1 / (n_1 + 2 n_2),

where n_c is the number of n-grams of this order that count c. Below the single words all words, the unknown one included, are
equally likely.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avsr.errors import AvsrError, BadOutput
from avsr.output import reason_of, whole_file
from avsr.runtime import Progress, no_progress

SPECIAL = ("<unk>", "<s>", "</s>")
UNKNOWN, START, END = range(3)
FALLBACK = (0.0, 0.5, 1.0, 1.5)                             # discounts of counts 0, 1, 2, 3 and more: lmplz --discount_fallback
NEVER = -99.0                                               # log10 of the probability of <s>, which is never predicted
CHUNK = 2**16                                               # lines written at once
INT = np.int64


class Grams(NamedTuple):
    """The n different n-grams of one order. prefix, suffix: (n,) int64, the number of the n-gram without its last, and without
    its first word, among those of the order below; word: (n,) its last word. counts: (n,) how often it is there. begins: (n,)
    bool, whether it begins a sentence."""

    prefix: np.ndarray
    suffix: np.ndarray
    word: np.ndarray
    counts: np.ndarray
    begins: np.ndarray


@dataclass(frozen=True)
class EstimatedNgrams:
    """What is written as ARPA. words: by number. orders: of each, words (n, order), log10 of the probabilities (n,) and of the
    back-off weights (n,), 0 where nothing follows. discounts: of counts 0 to 3 of each order. fallbacks: the orders for which
    the discounts could not be computed, see `discounts_of`."""

    words: list[str]
    orders: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    discounts: list[tuple[float, ...]]
    fallbacks: tuple[int, ...]


def estimate(sentences: Sequence[Sequence[str]], order: int, min_counts: Sequence[int] = (1,),
             progress: Progress = no_progress) -> EstimatedNgrams:
    """The n-grams of sentences, given as words, up to `order` words.

    min_counts: see config.NgramConfig; an n-gram that is left out gives its whole count to the shorter ones. Raises AvsrError
    for words that have a meaning in ARPA files.
    """
    words, tokens, sentence_of = _numbered(sentences)
    grams = list(_all_grams(tokens, sentence_of, order, len(words), progress))
    discounts: list[tuple[float, ...]] = []
    fallbacks: list[int] = []
    orders: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    below, spelt = np.full(1, 1 / (len(words) - 1)), np.zeros((1, 0), INT)
    kept_below, weights = np.ones(1, bool), []
    for n, some in enumerate(grams, 1):
        progress("estimating n-grams", 0, None, None)
        adjusted = _adjusted(some, grams[n] if n < order else None)
        found = discounts_of(adjusted)
        fallbacks += [n] if found is None else []
        discounts.append(found or FALLBACK)
        least = min_counts[min(n, len(min_counts)) - 1]
        kept = (some.counts >= least if n > 1 else np.ones(len(adjusted), bool)) & kept_below[some.prefix]
        below, gamma = _interpolated(some, adjusted, discounts[-1], kept, below)
        spelt = np.concatenate([spelt[some.prefix], some.word[:, None]], axis=1)
        weights.append(gamma)
        orders.append((spelt, below, kept))
        kept_below = kept
    weights.append(np.ones(len(below)))
    return EstimatedNgrams(words, [_finished(*one, weight) for one, weight in zip(orders, weights[1:], strict=True)], discounts,
                           tuple(fallbacks))


def _numbered(sentences: Sequence[Sequence[str]]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """All words by number; the words of all sentences one after another, with their marks, and which sentence each is of."""
    numbers = {word: number for number, word in enumerate(SPECIAL)}
    tokens: list[int] = []
    for sentence in sentences:
        tokens.append(START)
        tokens += [numbers.setdefault(word, len(numbers)) for word in sentence]
        tokens.append(END)
    lengths = [len(sentence) + 2 for sentence in sentences]
    if any(word in SPECIAL for sentence in sentences for word in sentence):
        raise AvsrError(f"the texts hold one of the marks {', '.join(SPECIAL)} as a word, which ARPA files use themselves.  "
                        "Take it out of the texts, or set data.spelling = \"normalised\".")
    return list(numbers), np.array(tokens, INT), np.repeat(np.arange(len(lengths)), lengths)


def _all_grams(tokens: np.ndarray, sentence_of: np.ndarray, order: int, n_words: int, progress: Progress) -> Iterator[Grams]:
    """The n-grams of each order from 1 on. Those of order 1 are all words, by their numbers."""
    counts = np.bincount(tokens, minlength=n_words)
    counts[START] = 0                                       # <s> is never predicted
    zeros = np.zeros(n_words, INT)
    begins = np.arange(n_words) == START
    yield Grams(zeros, zeros, np.arange(n_words), counts, begins)
    # ids[i]: the number of the n-gram whose last word is tokens[i]; -1 where that would begin before its sentence.
    ids = tokens
    for n in range(2, order + 1):
        progress("counting n-grams", 0, None, None)
        whole = np.zeros(len(tokens), bool)
        whole[n - 1:] = sentence_of[n - 1:] == sentence_of[:max(0, len(tokens) - n + 1)]
        at = np.nonzero(whole)[0]
        keys, first, which, counts = np.unique(ids[at - 1] * n_words + tokens[at], return_index=True, return_inverse=True,
                                               return_counts=True)
        prefix = keys // n_words
        begins = begins[prefix]
        yield Grams(prefix, ids[at][first], keys % n_words, counts, begins)
        ids = np.full(len(tokens), -1, INT)
        ids[at] = which


def _adjusted(some: Grams, longer: Grams | None) -> np.ndarray:
    """The counts by which the n-grams of an order are judged: how many different words come before each, see above."""
    if longer is None:
        return some.counts
    return np.where(some.begins, some.counts, np.bincount(longer.suffix, minlength=len(some.counts)))


def discounts_of(counts: np.ndarray) -> tuple[float, ...] | None:
    """D(0), D(1), D(2), D(3) from the counts of an order's n-grams. None where there are too few rare ones to tell, as in texts
    of a small vocabulary: where no n-gram counts 1, 2 or 3, or a discount would be below 0 or above its count."""
    n = np.bincount(np.minimum(counts, 5), minlength=6)
    if not n[1:4].all():
        return None
    y = n[1] / (n[1] + 2 * n[2])
    found = (0.0, *(float(c - (c + 1) * y * n[c + 1] / n[c]) for c in (1, 2, 3)))
    return found if all(0 <= discount <= c for c, discount in enumerate(found)) else None


def _interpolated(some: Grams, adjusted: np.ndarray, discounts: Sequence[float], kept: np.ndarray,
                  below: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities of an order's n-grams, and γ of their contexts; the probabilities of the order below given. What is not
    kept leaves its count to γ."""
    n_contexts = len(below)
    taken = np.where(kept, np.array(discounts)[np.minimum(adjusted, 3)], adjusted)
    totals = np.bincount(some.prefix, adjusted, n_contexts)
    with np.errstate(divide="ignore", invalid="ignore"):
        gamma = np.where(totals > 0, np.bincount(some.prefix, taken, n_contexts) / totals, 1.0)
        own = np.where(kept, (adjusted - taken) / totals[some.prefix], 0.0)
    return own + gamma[some.prefix] * below[some.suffix], gamma


def _finished(spelt: np.ndarray, probabilities: np.ndarray, kept: np.ndarray,
              weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An order as EstimatedNgrams holds it."""
    with np.errstate(divide="ignore"):
        logprobs, backoffs = np.log10(probabilities), np.maximum(np.log10(weights), NEVER)
    if spelt.shape[1] == 1:
        logprobs[START] = NEVER
    return spelt[kept], logprobs[kept], backoffs[kept]


def write_arpa(model: EstimatedNgrams, path: Path | str, progress: Progress = no_progress) -> Path:
    """Write an ARPA file, gzipped if its name ends in .gz, whole or not at all. Raises BadOutput."""
    path = Path(path)
    total, done = sum(len(one[0]) for one in model.orders), 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as fresh, _open(fresh, zipped=path.suffix == ".gz") as file:
            for lines in _lines(model):
                progress("writing the language model", min(done, total), total, "rows")
                file.write("\n".join(lines).encode() + b"\n")
                done += len(lines)
    except OSError as error:
        raise BadOutput(f"{path}: it cannot be written ({reason_of(error)}).  Make room, or choose another place.") from error
    return path


def _open(path: Path, *, zipped: bool):
    return gzip.GzipFile(path, "wb", compresslevel=6, mtime=0) if zipped else path.open("wb")


def _lines(model: EstimatedNgrams) -> Iterator[list[str]]:
    """The lines of an ARPA file, many at once."""
    yield ["\\data\\", *(f"ngram {n}={len(one[0])}" for n, one in enumerate(model.orders, 1))]
    words = np.array(model.words, dtype=object)
    for n, (spelt, logprobs, backoffs) in enumerate(model.orders, 1):
        yield ["", f"\\{n}-grams:"]
        for first in range(0, len(spelt), CHUNK):
            part = slice(first, first + CHUNK)
            texts = map(" ".join, words[spelt[part]].tolist())
            if n == len(model.orders):
                yield [f"{p:.7g}\t{text}" for p, text in zip(logprobs[part].tolist(), texts, strict=True)]
            else:
                yield [f"{p:.7g}\t{text}\t{weight:.7g}" for p, text, weight in
                       zip(logprobs[part].tolist(), texts, backoffs[part].tolist(), strict=True)]
    yield ["", "\\end\\"]
