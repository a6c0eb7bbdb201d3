"""Group differences: rows and a column in, the error rate of each group and the gap between worst and best out.

    by_group(rows, "sex")  ->  Groups(rates, worst, best, gap, ratio, p)
    face_effect(rows with another's face, rows with their own)  ->  FaceEffect
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from avsr.errors import AvsrError
from avsr.metrics.compare import Paired, matched, paired
from avsr.metrics.counting import Score, empty_references, scored
from avsr.metrics.error_rates import Rate, bounded_rate, percents, sum_scores
from avsr.metrics.intervals import MAX_NUMBERS, N_DRAWS, Clusters, Estimate, by_id, cached_draws, gap, interval, log_quotient
from avsr.results import ResultRow

MIN_CLUSTERS = {"speaker": 5, "utterance": 20}              # with fewer speakers, or utterances of one, a group tells nothing
N_SHUFFLES = 999
MAX_VALUES = 6                                              # a column of more different numbers becomes ranges
RANGES = 3


@dataclass(frozen=True)
class Groups:
    """Word error rates by the values of a column.

    rates: of groups with at least `floor` clusters, worst first.  insufficient: the number of clusters of the other groups.
    gap: WER of the worst group minus that of the best, in points.  ratio: one over the other; None where the best group makes
    no error, or differences are compared.  p: the share of random groups with as large a gap. These are None with fewer than
    two groups.  by: what clusters are.  without: rows that have no value in this column, or no speaker where speakers count.
    """

    column: str
    rates: dict[str, Rate]
    insufficient: dict[str, int]
    worst: str | None
    best: str | None
    gap: Rate | None
    ratio: Estimate | None
    p: float | None
    by: str
    floor: int
    without: int


def by_group(rows: Iterable[ResultRow], column: str, *, rng: np.random.Generator, against: Iterable[ResultRow] | None = None,
             floor: int | None = None, n_draws: int = N_DRAWS) -> Groups:
    """Word error rate by group. The groups of column "speaker" have their utterances as clusters, those of a label speakers.

    against: rows of the same utterances, such as those by sound alone: rates are then differences, `rows` minus `against`. A
    column of more than 6 different numbers becomes 3 ranges with about as many rows each. floor: the least number of speakers
    in a group (5), or of utterances of a speaker (20). Raises AvsrError where no row has the column.
    """
    rows = list(rows)
    if against is None:
        ours, theirs = scored(rows), None
    else:
        rows, ours, theirs = matched(rows, against)
    by = "utterance" if column == "speaker" else "speaker"
    values = _values(rows, column)
    kept = [i for i, row in enumerate(rows) if values[i] is not None and row.speaker is not None]
    if not kept:
        raise AvsrError(_no_column(rows, column))
    without, floor = len(rows) - len(kept), MIN_CLUSTERS[by] if floor is None else floor
    table = _GroupedErrors([rows[i] for i in kept], [str(values[i]) for i in kept], [ours[i] for i in kept],
                           theirs and [theirs[i] for i in kept], by)
    sizes = table.sizes()
    enough = [value for value, n in sizes.items() if n >= floor]
    seed = int(rng.integers(1 << 62))
    rates = {value: table.rate(value, np.random.default_rng(seed), n_draws) for value in enough}
    rates = dict(sorted(rates.items(), key=_worst_first))
    insufficient = {value: n for value, n in sizes.items() if n < floor}
    known = [value for value, rate in rates.items() if rate.percent is not None]
    if len(known) < 2:
        return Groups(column, rates, insufficient, None, None, None, None, None, by, floor, without)
    worst, best = known[0], known[-1]
    apart = table.gap(worst, best, rng, n_draws)
    times = table.times(worst, best, rng, n_draws) if theirs is None else None
    return Groups(column, rates, insufficient, worst, best, apart, times, table.p_value(known, rng), by, floor, without)


def columns(rows: Iterable[ResultRow]) -> list[str]:
    """What rows can be grouped by: "speaker" where some row has one, and the labels that some row has."""
    rows = list(rows)
    labels = {name for row in rows for name, value in row.labels.items() if value is not None}
    return [*(["speaker"] if any(row.speaker is not None for row in rows) else []), *sorted(labels)]


@dataclass(frozen=True)
class FaceEffect:
    """The WER of the same sound with another's face minus that with the speaker's own, overall and by whose face it was.

    unseen: how many rows with their own face have no counterpart.
    """

    overall: Paired
    groups: Groups
    unseen: int


def face_effect(rows_with_face: Iterable[ResultRow], rows_without: Iterable[ResultRow], *, rng: np.random.Generator,
                column: str = "speaker", floor: int | None = None,
                n_draws: int = N_DRAWS) -> FaceEffect:
    """The counterfactual test: rows of corruption "face" against those of the same sound with their own face, by face.

    column: what faces are grouped by, "speaker" or a label of the row whose id is in `face`. Clusters are the speakers of the
    sound. Raises AvsrError where another's face is not named or has no counterpart, or no face has the column.
    """
    shown, whole = list(rows_with_face), list(rows_without)
    base, known = by_id(whole, "rows with their own face"), {row.id: row for row in [*shown, *whole]}
    for row in shown:
        if row.face is None or row.id not in base:
            raise AvsrError(f"rows with another's face: {row.id} "
                            f"{'does not name the face' if row.face is None else 'is not there with its own'}.  "
                            "Make both in one run of the benchmark.")
    faces = [None if row.face is None else known.get(row.face) for row in shown]
    values = _values(faces, column)
    if not any(value is not None for value in values):
        raise AvsrError(_no_column([face for face in faces if face is not None], column))
    name = f"face: {column}"
    marked = [replace(row, labels={name: value}) for row, value in zip(shown, values, strict=True)]
    own = [base[row.id] for row in shown]
    groups = by_group(marked, name, rng=rng, against=own, floor=floor, n_draws=n_draws)
    return FaceEffect(paired(shown, own, rng=rng, n_draws=n_draws), groups, len(whole) - len(shown))


def _values(rows: Sequence[ResultRow | None], column: str) -> list[str | None]:
    """The value of each row in this column; many different numbers become ranges."""
    values: list[Any] = [row and (row.speaker if column == "speaker" else row.labels.get(column)) for row in rows]
    numbers = [value for value in values if value is not None]
    if len(set(numbers)) > MAX_VALUES and all(type(value) in (int, float) for value in numbers):
        edges = np.quantile(numbers, np.arange(1, RANGES) / RANGES, method="inverted_cdf")
        bins = [None if value is None else int(np.searchsorted(edges, value)) for value in values]
        inside = {one: [value for value, its in zip(values, bins, strict=True) if its == one] for one in {*bins} - {None}}
        names = {one: f"{min(some):g} to {max(some):g}" for one, some in inside.items()}
        return [None if one is None else names[one] for one in bins]
    return [None if value is None else str(value) for value in values]


def _no_column(rows: Sequence[ResultRow], column: str) -> str:
    there = columns(rows)
    if column in there or column == "speaker":
        return f"groups by {column}: no row names its speaker, and speakers are what is drawn.  Name them in the manifest."
    return (f"groups by {column}: no row has this label; there are {', '.join(there) or 'none, and no speaker either'}.  "
            "Choose one of those, or add the label to the manifest and run the benchmark again.")


def _worst_first(item: tuple[str, Rate]) -> tuple:
    return item[1].percent is None, -(item[1].percent or 0), item[0]


def _permutations(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    return rng.permuted(np.tile(np.arange(shape[1]), (shape[0], 1)), axis=1)


class _GroupedErrors:
    """Errors, or differences of errors, and words of rows that have a value and a cluster."""

    def __init__(self, rows: Sequence[ResultRow], values: Sequence[str], scores: Sequence[Score],
                 theirs: Sequence[Score] | None, by: str):
        self.rows, self.values, self.scores, self.theirs, self.by = rows, np.array(values), scores, theirs, by
        names = sorted({row.speaker for row in rows if row.speaker is not None}) if by == "speaker" else []
        numbers: dict[str | None, int] = {name: i for i, name in enumerate(names)}
        self.which = np.array([numbers[row.speaker] for row in rows] if names else range(len(rows)), int)
        self.words = np.array([one.words for one in scores], float)
        self.errors = np.array([one.errors for one in scores], float)
        if theirs is not None:
            self.errors -= [one.errors for one in theirs]

    def sizes(self) -> dict[str, int]:
        """The number of clusters of each value."""
        return {str(value): len(np.unique(self.which[self.values == value])) for value in np.unique(self.values)}

    def clusters(self, inside: np.ndarray) -> Clusters:
        """The clusters that have rows `inside` (N,) bool."""
        _, which = np.unique(self.which[inside], return_inverse=True)
        return Clusters(which, int(which.max()) + 1, self.by)

    def sums(self, *values: str) -> np.ndarray:
        """(n, 2 * values): errors and words in each of these groups, for each cluster with rows in any of them."""
        inside = np.isin(self.values, values)
        kept = self.values[inside]
        columns = self.errors[inside], self.words[inside]
        return self.clusters(inside).sums(*(np.where(kept == value, column, 0.0) for value in values for column in columns))

    def rate(self, value: str, rng: np.random.Generator, n_draws: int) -> Rate:
        inside = np.flatnonzero(self.values == value).tolist()
        rate = bounded_rate([self.scores[i] for i in inside], self.theirs and [self.theirs[i] for i in inside],
                            self.clusters(self.values == value), rng, n_draws=n_draws)
        return replace(rate, empty=empty_references(self.rows[i] for i in inside))

    def gap(self, worst: str, best: str, rng: np.random.Generator, n_draws: int) -> Rate:
        sums = self.sums(worst, best)
        inside = np.flatnonzero(self.values == worst).tolist()
        bounds = interval(sums, gap, rng, n_draws=n_draws)
        value = float(gap(sums.sum(axis=0))[0])
        return Rate(100 * value, *percents(*bounds), len(sums), self.by, sum_scores(self.scores[i] for i in inside),
                    int(np.isin(self.values, [worst, best]).sum()))

    def times(self, worst: str, best: str, rng: np.random.Generator, n_draws: int) -> Estimate | None:
        sums = self.sums(worst, best)
        if not sums.sum(axis=0).all():
            return None
        low, high = interval(sums, log_quotient, rng, n_draws=n_draws)
        value = float(np.exp(log_quotient(sums.sum(axis=0))[0]))
        return Estimate(value, None if low is None else float(np.exp(low)), None if high is None else float(np.exp(high)))

    def p_value(self, values: Sequence[str], rng: np.random.Generator) -> float:
        """How often the largest gap is as large after values are permuted among clusters, or where a cluster has several
        (a pose, a face), among its rows. The observed order counts as one, so that p is never 0."""
        kept = np.isin(self.values, values)
        which, labels = self.which[kept], self.values[kept]
        errors, words = self.errors[kept], self.words[kept]
        _, first, which = np.unique(which, return_index=True, return_inverse=True)
        if (labels[first][which] == labels).all():
            found = Clusters(which, len(first), self.by)
            errors, words = found.sums(errors, words).T
            labels, which = labels[first], np.zeros(len(first))
        member = (labels[:, None] == np.array(values)[None]).astype(float)                    # (units, groups)

        def largest(order: np.ndarray) -> np.ndarray:
            with np.errstate(divide="ignore", invalid="ignore"):
                rates = (errors[order] @ member) / (words[order] @ member)
            return np.nanmax(rates, axis=-1) - np.nanmin(rates, axis=-1)

        observed, as_large = largest(np.arange(len(labels))[None])[0] * (1 - 1e-9), 1
        at_once = max(1, MAX_NUMBERS // len(labels))
        for start in range(0, N_SHUFFLES, at_once):
            shape = min(at_once, N_SHUFFLES - start), len(labels)
            if which.any():
                orders = np.argsort(which + rng.random(shape), axis=1)[:, np.argsort(np.argsort(which, kind="stable"))]
            else:
                orders = cached_draws(_permutations, shape, rng)
            as_large += int(np.sum(largest(orders) >= observed))
        return as_large / (N_SHUFFLES + 1)
