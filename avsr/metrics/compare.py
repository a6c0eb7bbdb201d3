"""Two systems on the same utterances: rows of both in, the difference of their word error rates and its p value out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from avsr.errors import AvsrError
from avsr.metrics.counting import Score, empty_references, normalised_pair, scored
from avsr.metrics.error_rates import Rate, bounded_rate
from avsr.metrics.intervals import N_DRAWS, by_id, clusters
from avsr.results import ResultRow

MAX_EXACT = 13                                              # clusters that differ, whose 2 ** n sign changes are all tried
N_PERMUTATIONS = 9999


@dataclass(frozen=True)
class Paired:
    """One system minus another: `difference` in points of WER, and the two-sided p value of a permutation test.

    p: None where there are fewer than two clusters. With n clusters it cannot be below 2 / 2 ** n.
    """

    difference: Rate
    p: float | None


def difference(rows: Iterable[ResultRow], other: Iterable[ResultRow], *, rng: np.random.Generator,
               n_draws: int = N_DRAWS) -> Rate:
    """Word error rate of `rows` minus that of `other`, on the same utterances by id and with the same bootstrap draws.

    The two differ where the interval excludes 0. `score` is that of `rows`. Raises AvsrError where ids or references differ.
    """
    rows, ours, theirs = matched(rows, other)
    rate = bounded_rate(ours, theirs, clusters(rows), rng, n_draws=n_draws)
    return replace(rate, empty=empty_references(rows))


def paired(rows: Iterable[ResultRow], other: Iterable[ResultRow], *, rng: np.random.Generator,
           n_draws: int = N_DRAWS, n_permutations: int = N_PERMUTATIONS) -> Paired:
    """`difference`, with a matched-pairs permutation test of it (Gillick & Cox 1989; Noreen 1989).

    Under the null hypothesis the two systems can be exchanged for each speaker (or utterance, of one speaker). The test is
    exact where 13 or fewer differ; else it counts the observed exchange among `n_permutations` random ones.
    """
    rows, other = list(rows), list(other)
    apart = difference(rows, other, rng=rng, n_draws=n_draws)
    kept, ours, theirs = matched(rows, other)
    found = clusters(kept)
    if found.n < 2:
        return Paired(apart, None)
    more = found.sums([one.errors - two.errors for one, two in zip(ours, theirs, strict=True)])[:, 0]
    return Paired(apart, permutation_p(more, rng, n_permutations))


def permutation_p(differences: np.ndarray, rng: np.random.Generator, n_permutations: int = N_PERMUTATIONS) -> float:
    """Two-sided p of the sum of differences (n,), by changing their signs; differences of 0 are left out."""
    differences, least = differences[differences != 0], abs(differences.sum()) * (1 - 1e-9)
    if len(differences) <= MAX_EXACT:
        signs = np.array(list(product((1, -1), repeat=len(differences))), float)
        return float(np.mean(np.abs(signs @ differences) >= least))
    # Among differences of one size only the number of positive ones matters: 9,999 draws for 1,000 utterances take 2 ms, not
    # 100.
    sizes, counts = np.unique(np.abs(differences), return_counts=True)
    sums = sum(size * (2.0 * rng.binomial(count, 0.5, n_permutations) - count)
               for size, count in zip(sizes, counts, strict=True))
    return (1 + int(np.sum(np.abs(sums) >= least))) / (n_permutations + 1)


def matched(rows: Iterable[ResultRow], other: Iterable[ResultRow]) -> tuple[list[ResultRow], list[Score], list[Score]]:
    """The rows, their scores, and the scores of `other` in the same order. Raises AvsrError, see `difference`."""
    rows, other = list(rows), list(other)
    ids, theirs = by_id(rows, "rows to compare"), by_id(other, "rows to compare with")
    if odd := sorted(set(ids) ^ set(theirs)):
        raise AvsrError(f"rows to compare: {len(rows)} against {len(other)}, {len(odd)} ids in one only, such as {odd[0]}.  "
                        "Give one row for each utterance in both.")
    other = [theirs[row.id] for row in rows]
    scores = scored([*rows, *other])
    for one, two in zip(rows, other, strict=True):
        if one.reference != two.reference and normalised_pair(one)[0] != normalised_pair(two)[0]:
            raise AvsrError(f"rows to compare: of {one.id} one has the reference '{one.reference}' and the other "
                            f"'{two.reference}'.  Make both from the same manifest.")
    return rows, scores[:len(rows)], scores[len(rows):]
