"""Intervals: sums of each cluster in, bounds that hold the truth as often as they say out. Clusters are speakers, mostly.

    what each of n clusters adds (n, k) float64  ->  statistic(sums (..., k)) of their total  ->  low, high
Sentences of one speaker are alike, so speakers are drawn and not sentences. The bootstrap is studentised (bootstrap-t; Efron
& Tibshirani 1993, section 12.5): each draw is measured in its own standard error, by the delta method. Percentiles of the
draws as they are, even moved out as Student's quantiles are, held a rare error rate of 10 speakers in 88 % of cases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np

from avsr.errors import AvsrError
from avsr.results import ResultRow

Statistic = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]      # sums (..., k) -> value (...), gradient (..., k)
CONFIDENCE, N_DRAWS = 0.95, 2000
FEW, VERY_FEW = 6, 4                                        # clusters: under these, Student's t instead of draws
MAY_FAIL = 0.01                                             # of the draws, for want of spread (too few errors)
AT_ONCE = 1 << 22                                           # numbers in memory: 32 MB


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; `low` and `high` are None where there are fewer than two clusters."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Clusters:
    """which: (N,) int, the number of each row's cluster, of n. by: "speaker" or "utterance"."""

    which: np.ndarray
    n: int
    by: str

    def sums(self, *columns: Sequence[float]) -> np.ndarray:
        """Of values for each row, by cluster: (n, k) float64."""
        return np.stack([np.bincount(self.which, np.asarray(column, float), self.n) for column in columns], axis=1)


def clusters(rows: Sequence[ResultRow]) -> Clusters:
    """Speakers; where all rows are of one, or one has none named, utterances: each row by itself."""
    speakers = [row.speaker for row in rows]
    if len(set(speakers)) < 2 or None in speakers:
        return Clusters(np.arange(len(rows)), len(rows), "utterance")
    numbers = {name: i for i, name in enumerate(sorted(set(speakers)))}
    return Clusters(np.array([numbers[name] for name in speakers]), len(numbers), "speaker")


def ratio(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Errors over words, of (errors, words)."""
    errors, words = np.moveaxis(sums, -1, 0)
    value = errors / words
    return value, np.stack([1 / words, -value / words], axis=-1)


def gap(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One ratio less another, of (errors, words, errors, words)."""
    one, grad = ratio(sums[..., :2])
    other, grad_other = ratio(sums[..., 2:])
    return one - other, np.concatenate([grad, -grad_other], axis=-1)


def log_quotient(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logarithm of one ratio over another, of (errors, words, errors, words)."""
    signs = np.array([1, -1, -1, 1])
    return (signs * np.log(sums)).sum(axis=-1), signs / sums


def interval(added: np.ndarray, statistic: Statistic, rng: np.random.Generator, *, confidence: float = CONFIDENCE,
             n_draws: int = N_DRAWS, positive: bool = False, share: bool = False) -> tuple[float, float] | tuple[None, None]:
    """Bounds of a statistic of the sum of what clusters add (n, k); None where n < 2.

    Of fewer than 6 clusters, or where over 1 % of draws have no spread (a few errors in all), Student's t with the standard
    error of the delta method is taken instead of draws. A `positive` statistic cannot be under 0, and t is then taken of its
    logarithm (of its root where n < 4: with 2 or 3 clusters the logarithm's bounds go beyond all measure). A `share` cannot be
    over 1 either: t is then taken of its logit (of the arcsine of its root where n < 4).
    Where all clusters agree, both bounds are the value itself.
    """
    from scipy.special import stdtrit

    n, k = added.shape
    if n < 2:
        return None, None
    pairs = list(combinations_with_replacement(range(k), 2))
    added = np.hstack([added, *(added[:, [i]] * added[:, [j]] for i, j in pairs)])
    value, error = _measured(added.sum(axis=0), k, n, statistic)
    if error <= 1e-9 * abs(value) or error == 0:
        return float(value), float(value)
    tail = (1 - confidence) / 2
    if n >= FEW:
        values, errors = _measured(resampled(added, rng, n_draws), k, n, statistic)
        usable = np.isfinite(values) & (errors > 1e-5 * error)
        if usable.mean() >= 1 - MAY_FAIL:
            up, down = np.quantile((values[usable] - value) / errors[usable], [1 - tail, tail])
            low, high = float(value - max(up, 0.0) * error), float(value - min(down, 0.0) * error)
            return max(low, 0.0) if positive or share else low, min(high, 1.0) if share else high
    return _by_t(float(value), float(stdtrit(n - 1, 1 - tail) * error), n, positive, share)


def _by_t(value: float, reach: float, n: int, positive: bool, share: bool) -> tuple[float, float]:
    """Bounds of a statistic of n clusters, `reach` to either side, on a scale on which it cannot leave its range."""
    from scipy.special import expit, logit

    if share and n >= VERY_FEW:
        reach /= value * (1 - value)
        return float(expit(logit(value) - reach)), float(expit(logit(value) + reach))
    if share:
        angle, reach = np.arcsin(np.sqrt(value)), reach / (2 * np.sqrt(value * (1 - value)))
        return float(np.sin(max(angle - reach, 0.0)) ** 2), float(np.sin(min(angle + reach, np.pi / 2)) ** 2)
    if positive and n < VERY_FEW:
        root = np.sqrt(value)
        return float(max(root - reach / (2 * root), 0.0) ** 2), float((root + reach / (2 * root)) ** 2)
    if positive:
        return float(value * np.exp(-reach / value)), float(value * np.exp(reach / value))
    return value - reach, value + reach


def _measured(sums: np.ndarray, k: int, n: int, statistic: Statistic) -> tuple[np.ndarray, np.ndarray]:
    """Value and standard error of a statistic, of sums (..., k + pairs) of what clusters add and of its products."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value, gradient = statistic(sums[..., :k])
        variance = np.zeros_like(value)
        for column, (i, j) in enumerate(combinations_with_replacement(range(k), 2), k):
            variance += (1 if i == j else 2) * gradient[..., i] * gradient[..., j] * sums[..., column]
        variance -= (gradient * sums[..., :k]).sum(axis=-1) ** 2 / n
        return value, np.sqrt(np.maximum(variance, 0) * n / (n - 1))


def resampled(added: np.ndarray, rng: np.random.Generator, n_draws: int) -> np.ndarray:
    """Sums (n_draws, k) over draws of as many clusters as there are, with replacement, of what clusters add (n, k)."""
    at_once = max(1, AT_ONCE // len(added))
    sizes = [min(at_once, n_draws - first) for first in range(0, n_draws, at_once)]
    return np.concatenate([remembered(_times, (size, len(added)), rng) @ added for size in sizes])


def _times(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """How often each of n clusters comes in each draw, float64."""
    n_draws, n = shape
    drawn = rng.integers(0, n, shape) + n * np.arange(n_draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=n_draws * n).reshape(shape).astype(float)


_drawn: dict[tuple, tuple[np.ndarray, dict]] = {}


def remembered(draw: Callable[[tuple[int, int], np.random.Generator], np.ndarray], shape: tuple[int, int],
               rng: np.random.Generator) -> np.ndarray:
    """`draw(shape, rng)`.

    The last ones are kept, with the generator's state before and after: a report asks for hundreds of intervals of the same
    clusters from generators of the same seed, and drawing is nine tenths of the work (1,000 clusters: 0.1 s).
    """
    key = draw, shape, repr(rng.bit_generator.state)
    if key not in _drawn:
        numbers = draw(shape, rng)
        numbers.flags.writeable = False
        _drawn[key] = numbers, rng.bit_generator.state
        while len(_drawn) > 1 and sum(kept.size for kept, _ in _drawn.values()) > AT_ONCE:
            del _drawn[next(iter(_drawn))]
    numbers, rng.bit_generator.state = _drawn[key]
    return numbers


def percentiles(values: np.ndarray, n: int, confidence: float) -> tuple[float, float]:
    """Bounds from the draws (n_draws,) of a statistic of n clusters that has no gradient; values may be infinite.

    They lie further out the fewer clusters there are, as Student's quantiles do (Hesterberg 2015, section 5.3).
    """
    from scipy.special import ndtr, stdtrit

    tail = float(ndtr(np.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 - confidence) / 2)))
    low, high = np.quantile(values, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


def by_id(rows: Sequence[ResultRow], what: str) -> dict[str, ResultRow]:
    """Rows by utterance. Raises AvsrError where one is there twice."""
    found = {row.id: row for row in rows}
    if len(found) < len(rows):
        seen: set[str] = set()
        twice = next(row.id for row in rows if row.id in seen or seen.add(row.id))
        raise AvsrError(f"{what}: {len(rows)} rows of {len(found)} utterances, {twice} among those there more than once.  "
                        "Give one row for each utterance.")
    return found
