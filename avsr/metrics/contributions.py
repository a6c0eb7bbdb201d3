"""Modality contributions: what sound and video each add to a result, as Shapley values (Shapley 1953).

    v(neither), v(sound), v(video), v(both)  ->  Shapley(sound, video, total)
A value is minus the loss (nats a token), or minus the word error rate, which is -1 with neither, because nothing is written.
With two players the exact value is cheap: the gain of each on top of nothing and on top of the other, averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from avsr.errors import AvsrError
from avsr.metrics.conditions import Cell, unimodal_cells
from avsr.metrics.counting import scored
from avsr.metrics.intervals import N_DRAWS, Estimate, by_id, clusters, interval, ratio
from avsr.names import INPUT_MODALITIES, MODALITIES
from avsr.results import ResultRow

MEASURES = ("loss", "wer")
Value = TypeVar("Value", float, np.ndarray)                # of one utterance, or of each of many


@dataclass(frozen=True)
class Shapley(Generic[Value]):
    """What sound and video add to the value of neither; their sum is `total`, the value of both minus that of neither."""

    sound: Value
    video: Value
    total: Value

    @property
    def share(self) -> Value | None:
        """The share of video in the total: 0 to 1 where both help, outside where one harms. None where the total is 0."""
        return self.video / self.total if self.total else None


@dataclass(frozen=True)
class ModalityContributions:
    """Shapley values of a condition with intervals, in nats a token (loss), or as a fraction of the words (wer).

    share: of video in the total, None where that is 0.  utterances: how many were counted.  without: how many have no loss, or
    no word in the reference.  clusters, by: as in Rate.
    """

    sound: Estimate
    video: Estimate
    total: Estimate
    share: Estimate | None
    measure: str
    utterances: int
    without: int
    clusters: int
    by: str


def shapley(none: Value, sound: Value, video: Value, both: Value) -> Shapley[Value]:
    """The exact Shapley values of two players, from the values of neither, each and both (higher is better)."""
    return Shapley(((sound - none) + (both - video)) / 2, ((video - none) + (both - sound)) / 2, both - none)


def condition_shapley(cells: Mapping[Cell, Sequence[ResultRow]], cell: Cell, measure: str = "loss", *, rng: np.random.Generator,
                      n_draws: int = N_DRAWS) -> ModalityContributions | None:
    """The contributions in the condition of `cell`, whose modality is av, averaged over utterances (loss) or words (wer).

    None where no utterance has a value. Raises AvsrError where cells are missing or have different utterances.
    """
    sound, video = unimodal_cells(cells, cell)
    none = Cell(cell.system, "none")
    played = {"none": none, "a": sound, "v": video, "av": cell}
    some = {name: cells[one] for name, one in played.items() if one in cells}
    if missing := [name for name in _needed(measure) if name not in some]:
        raise AvsrError(f"Shapley shares of {cell.system}: no rows of modality {' or '.join(missing)} to go with "
                        f"{cell.noise or 'clean'}, {cell.corruption or 'intact video'}.  Run the benchmark with all of them.")
    values, first = _of_all({name: some[name] for name in _needed(measure)}, measure)
    weights = np.array([float(score.words) for score in scored(first)]) if measure == "wer" else np.ones(len(first))
    kept = np.asarray(np.isfinite(values).all(axis=0))
    if not kept.any():
        return None
    values, weights = values[:, kept] * weights[kept], weights[kept]
    found = clusters([row for row, keep in zip(first, kept, strict=True) if keep])
    each = shapley(*values)

    def estimate(over: np.ndarray, under: np.ndarray) -> Estimate:
        low_high = interval(found.sums(over, under), ratio, rng, n_draws=n_draws)
        return Estimate(float(over.sum() / under.sum()), *low_high)

    share = estimate(each.video, each.total) if each.total.sum() else None
    return ModalityContributions(
        estimate(each.sound, weights), estimate(each.video, weights), estimate(each.total, weights), share, measure,
        int(kept.sum()), int((~kept).sum()), found.n, found.by)


def _needed(measure: str) -> tuple[str, ...]:
    if measure not in MEASURES:
        raise AvsrError(f"Shapley shares: no measure {measure!r}.  Choose one of {', '.join(MEASURES)}.")
    return MODALITIES if measure == "loss" else INPUT_MODALITIES


def _values(rows: Sequence[ResultRow], measure: str) -> np.ndarray:
    """(N,) float64: the value of each row, NaN where it has none."""
    if measure == "loss":
        return np.array([np.nan if row.loss is None else -row.loss for row in rows], float)
    return np.array([-score.errors / score.words if score.words else np.nan for score in scored(rows)], float)


def _of_all(rows: Mapping[str, Sequence[ResultRow]], measure: str) -> tuple[np.ndarray, list[ResultRow]]:
    """Values (4, N) in the order of MODALITIES, and the N rows of av. Raises AvsrError where ids differ."""
    found = {name: by_id(some, f"Shapley shares, modality {name}") for name, some in rows.items()}
    ids = list(found["av"])
    for name, some in found.items():
        if odd := sorted(set(some) ^ set(ids)):
            raise AvsrError(f"Shapley shares: {len(some)} utterances of modality {name}, {len(ids)} of av, {len(odd)} in one "
                            f"only, such as {odd[0]}.  Give one row for each utterance in all of them.")
    values = [_values([found[name][one] for one in ids], measure) if name in found else np.full(len(ids), -1.0)
              for name in MODALITIES]
    return np.stack(values), [found["av"][one] for one in ids]
