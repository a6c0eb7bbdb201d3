"""Who is to thank: values by neither sense, by sound, by sight and by both in, what each sense adds (Shapley 1953) out.

    v(neither), v(sound), v(sight), v(both)  ->  Shapley(sound, sight, total)
A value is higher the better: minus the loss (nats a token), or minus the word error rate, where neither writes nothing (-1).
Two players make the exact value cheap: each one's gain on top of nothing and on top of the other, averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from avsr.errors import AvsrError
from avsr.metrics.conditions import Cell, alone
from avsr.metrics.counting import scored
from avsr.metrics.intervals import CONFIDENCE, N_DRAWS, Estimate, by_id, clusters, interval, ratio
from avsr.names import INPUT_MODALITIES, MODALITIES
from avsr.results import ResultRow

MEASURES = ("loss", "wer")


@dataclass(frozen=True)
class Shapley:
    """What sound and sight add to the value of neither; together they are `total`, the value of both less that of neither."""

    sound: float
    sight: float
    total: float

    @property
    def share(self) -> float | None:
        """Of the total, that of sight: 0 to 1 where both senses help, beyond where one harms. None where nothing is gained."""
        return self.sight / self.total if self.total else None


@dataclass(frozen=True)
class Shares:
    """Shapley values of a condition, each with its interval: nats a token (loss), or words of one (wer).

    share: of sight in the total, None where nothing is gained.  utterances: how many were counted, `without` how many
    have no value: a loss that is not there, a reference without a word.  clusters, by: as in Rate.
    """

    sound: Estimate
    sight: Estimate
    total: Estimate
    share: Estimate | None
    measure: str
    utterances: int
    without: int
    clusters: int
    by: str


def shapley(none: float, sound: float, sight: float, both: float) -> Shapley:
    """The exact Shapley values of two players, of what neither, each and both of them reach (higher is better)."""
    return Shapley(((sound - none) + (both - sight)) / 2, ((sight - none) + (both - sound)) / 2, both - none)


def utterance_shapley(rows: Mapping[str, ResultRow], measure: str = "loss") -> Shapley | None:
    """Of one utterance, from its rows by modality: a, v, av, and for the loss also none.

    None where a loss is not there, or the reference has no word. Raises AvsrError where a modality is missing.
    """
    if missing := [name for name in _needed(measure) if name not in rows]:
        raise AvsrError(f"Shapley shares: no row of modality {' or '.join(missing)}, only of {', '.join(rows) or 'none'}.  "
                        "Run the benchmark with all of them.")
    values = [_values([rows[name]], measure) if name in rows else np.array([-1.0]) for name in MODALITIES]
    numbers = [float(value[0]) for value in values]
    return shapley(*numbers) if np.isfinite(numbers).all() else None


def condition_shapley(cells: Mapping[Cell, Sequence[ResultRow]], cell: Cell, measure: str = "loss", *, rng: np.random.Generator,
                      confidence: float = CONFIDENCE, n_draws: int = N_DRAWS) -> Shares | None:
    """Of a condition, the one of `cell`, whose modality is av: averaged over utterances (loss) or words (wer).

    None where no utterance has a value. Raises AvsrError where cells are missing or are not of the same utterances.
    """
    sound, sight = alone(cells, cell)
    none = Cell(cell.system, "none")
    played = {"none": none if none in cells else None, "a": sound, "v": sight, "av": cell if cell in cells else None}
    if missing := [name for name in _needed(measure) if played[name] is None]:
        raise AvsrError(f"Shapley shares of {cell.system}: no rows of modality {' or '.join(missing)} to go with "
                        f"{cell.noise or 'clean'}, {cell.corruption or 'whole picture'}.  Run the benchmark with all of them.")
    values, first = _of_all({name: cells[played[name]] for name in _needed(measure)}, measure)
    weights = np.array([float(score.words) for score in scored(first)]) if measure == "wer" else np.ones(len(first))
    kept = np.isfinite(values).all(axis=0)
    if not kept.any():
        return None
    values, weights = values[:, kept] * weights[kept], weights[kept]
    found = clusters([row for row, keep in zip(first, kept, strict=True) if keep])
    each = shapley(*values)

    def estimate(over: np.ndarray, under: np.ndarray) -> Estimate:
        low_high = interval(found.sums(over, under), ratio, rng, confidence=confidence, n_draws=n_draws)
        return Estimate(float(over.sum() / under.sum()), *low_high)

    share = estimate(each.sight, each.total) if each.total.sum() else None
    return Shares(estimate(each.sound, weights), estimate(each.sight, weights), estimate(each.total, weights), share, measure,
                  int(kept.sum()), int((~kept).sum()), found.n, found.by)


def _needed(measure: str) -> tuple[str, ...]:
    if measure not in MEASURES:
        raise AvsrError(f"Shapley shares: no measure {measure!r}.  Choose one of {', '.join(MEASURES)}.")
    return MODALITIES if measure == "loss" else INPUT_MODALITIES


def _values(rows: Sequence[ResultRow], measure: str) -> np.ndarray:
    """(N,) float64, NaN where there is none."""
    if measure == "loss":
        return np.array([np.nan if row.loss is None else -row.loss for row in rows], float)
    return np.array([-score.errors / score.words if score.words else np.nan for score in scored(rows)], float)


def _of_all(rows: Mapping[str, Sequence[ResultRow]], measure: str) -> tuple[np.ndarray, list[ResultRow]]:
    """Values (4, N) in the order of MODALITIES, and the rows of av, to which the N belong. Raises AvsrError on other ids."""
    found = {name: by_id(some, f"Shapley shares, modality {name}") for name, some in rows.items()}
    ids = list(found["av"])
    for name, some in found.items():
        if odd := sorted(set(some) ^ set(ids)):
            raise AvsrError(f"Shapley shares: {len(some)} utterances of modality {name}, {len(ids)} of av, {len(odd)} in one "
                            f"only, such as {odd[0]}.  Give one row for each utterance in all of them.")
    values = [_values([found[name][one] for one in ids], measure) if name in found else np.full(len(ids), -1.0)
              for name in MODALITIES]
    return np.stack(values), [found["av"][one] for one in ids]
