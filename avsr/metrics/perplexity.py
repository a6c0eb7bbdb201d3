"""Perplexity of language models on the same sentences, per word and per letter, with intervals. Without torch.

    TextScore of each sentence -> Perplexity(words, letters, known words); two models -> the ratio of both
All figures are by the words and letters of the normalised text, so that models of words and of parts of words can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from avsr.errors import AvsrError
from avsr.metrics.intervals import Estimate, Statistic, gap, interval, ratio

if TYPE_CHECKING:
    from avsr.lm.protocol import TextScore

N_SYMBOLS = 28                                              # 26 letters, the apostrophe, and the end of the word
SEED = 1


@dataclass(frozen=True)
class Perplexity:
    """The perplexity of one model on some sentences: exp(-Σ log p / n), where p includes the end of each sentence.

    per_word: n counts words. An unknown word, of which a model of words says only that it is unknown, is spelt as well: each
    of its letters and its end are one of 28 symbols, all equally likely. Models of parts of words know every word.
    per_letter: the same with letters and the spaces between words. unspelt: per word, an unknown word costing as much as
    <unk>, as KenLM prints it; too low by what the spelling costs, and the same as per_word where all words are known.
    known: per word, unknown ones left out of both sums.
    """

    n_sentences: int
    n_words: int
    n_letters: int
    n_unknown: int
    per_word: Estimate
    per_letter: Estimate
    unspelt: Estimate
    known: Estimate


def perplexity(scores: Sequence[TextScore]) -> Perplexity:
    """The perplexity on sentences, with 95 % intervals by bootstrap over them. Raises AvsrError where they have no word."""
    if not any(one.n_words for one in scores):
        raise AvsrError(f"none of the {len(scores)} sentences has a word, so there is no perplexity.  Give a text with words.")
    nats, words, letters = _nats(scores), _column(scores, "n_words"), _column(scores, "n_letters")
    plain = -_column(scores, "logprob")
    unknown, theirs = _column(scores, "n_unknown"), -_column(scores, "unknown_logprob")
    return Perplexity(len(scores), int(words.sum()), int(letters.sum()), int(unknown.sum()), _estimate(ratio, nats, words),
                      _estimate(ratio, nats, letters), _estimate(ratio, plain, words),
                      _estimate(ratio, plain - theirs, words - unknown))


def perplexity_ratio(scores: Sequence[TextScore], others: Sequence[TextScore]) -> Estimate:
    """The perplexity per word of the first model over that of the second, on the same sentences, which are drawn together."""
    words = _column(scores, "n_words")
    return _estimate(gap, _nats(scores), words, _nats(others), words)


def _column(scores: Sequence[TextScore], name: str) -> np.ndarray:
    return np.array([getattr(one, name) for one in scores], float)


def _nats(scores: Sequence[TextScore]) -> np.ndarray:
    """(n,) float64: the information in each sentence, in nats, unknown words spelt."""
    spelt = _column(scores, "unknown_letters") + _column(scores, "n_unknown")
    return -_column(scores, "logprob") + spelt * math.log(N_SYMBOLS)


def _estimate(statistic: Statistic, *columns: np.ndarray) -> Estimate:
    """exp of a statistic of nats and counts. Its interval is that of the statistic, by sentences."""
    sums = np.stack(columns, axis=1)
    if not sums[:, 1].any():                                # no known word
        return Estimate(math.nan, None, None)
    value, _ = statistic(sums.sum(axis=0))
    low, high = interval(sums, statistic, np.random.default_rng(SEED))
    return Estimate(math.exp(value), None if low is None else math.exp(low), None if high is None else math.exp(high))
