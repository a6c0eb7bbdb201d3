"""The result table: benchmark rows by condition in, error rates and paired differences out, each computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from avsr.corrupt import CORRUPTIONS
from avsr.metrics import Cell, Paired, Rate, cells, difference, no_harm, paired, unimodal_cells, wer
from avsr.results import ResultRow

SEED = 0                                                    # of every interval: the same rows give the same report
Condition = tuple[str | None, float | None]                 # noise and SNR in dB; clean: None, None
Corruption = tuple[str | None, float | None]                # kind and amount; intact video: None, None
CLEAN: Condition = (None, None)
INTACT: Corruption = (None, None)
T = TypeVar("T")


@dataclass(frozen=True)
class NoHarm:
    """The no-harm criterion at one condition. cells: of sound alone, video alone and both, None where one was not measured.
    difference: both minus the better one alone.  kept: whether the criterion holds; both are None where a cell is missing."""

    cells: dict[str, Cell | None]
    difference: Rate | None = None
    kept: bool | None = None


class ResultTable:
    """All rows of a report by cell. SNRs run from clean to loud noise.
    video_systems: those that were given video; they come first in systems.  panel_noises: noise families, each with a panel or
    table of its own, or None if there are none.  all_conditions: clean, and every noise at every level.  main_conditions:
    clean, and the level nearest 0 dB of each noise.  corruptions: in the order of CORRUPTIONS, amounts from small to large."""

    def __init__(self, rows: Sequence[ResultRow]):
        self.rows = rows
        self.cells: dict[Cell, list[ResultRow]] = cells(rows)
        self._computed: dict[tuple, Any] = {}
        self.video_systems = list(dict.fromkeys(cell.system for cell in self.cells if "v" in cell.modality))
        self.systems = sorted(dict.fromkeys(row.system for row in rows), key=lambda system: system not in self.video_systems)
        self.noises = list(dict.fromkeys(cell.noise for cell in self.cells if cell.noise is not None))
        self.panel_noises: list[str | None] = [*self.noises] or [None]
        self.all_conditions = list(dict.fromkeys(one for noise in self.panel_noises for one in self.conditions(noise)))
        nearest = {noise: min((snr for snr in self.levels(noise) if snr is not None), key=abs) for noise in self.noises}
        self.main_conditions: list[Condition] = [CLEAN, *nearest.items()]
        found = list(dict.fromkeys((cell.corruption, cell.amount) for cell in self.cells if cell.corruption is not None))
        kinds = (*CORRUPTIONS, *(kind for kind, _ in found))
        self.corruptions = sorted(found, key=lambda one: (kinds.index(one[0]), one[1] is not None, one[1] or 0.0))
        self.corrupted_systems = [system for system in self.video_systems
                                  if any(cell.system == system and cell.corruption is not None for cell in self.cells)]

    def levels(self, noise: str | None = None) -> list[float | None]:
        """SNRs measured in a noise, or in any: clean (None) first if it was measured."""
        found = {cell.snr_db for cell in self.cells if cell.snr_db is not None and noise in (None, cell.noise)}
        clean = any(cell.noise is None and "a" in cell.modality for cell in self.cells)
        return [*([None] if clean or not found else []), *sorted(found, reverse=True)]

    def conditions(self, noise: str | None) -> list[Condition]:
        """The levels of a noise as conditions."""
        return [CLEAN if snr_db is None else (noise, snr_db) for snr_db in self.levels(noise)]

    def corrupted_conditions(self, system: str) -> list[Condition]:
        """Conditions at which both together were measured with corrupted video."""
        return list(dict.fromkeys((cell.noise, cell.snr_db) for cell in self.cells
                                  if (cell.system, cell.modality) == (system, "av") and cell.corruption is not None))

    def find(self, system: str, modality: str, condition: Condition = CLEAN, corruption: Corruption = INTACT) -> Cell | None:
        """The cell, if it was measured. Noise does not change video alone, nor corrupted video sound alone."""
        cell = Cell(system, modality, *(CLEAN if modality == "v" else condition), *(INTACT if modality == "a" else corruption))
        return cell if cell in self.cells else None

    def rows_of(self, cell: Cell | None) -> list[ResultRow]:
        """The rows of a cell, none where it was not measured."""
        return [] if cell is None else self.cells[cell]

    def once(self, key: tuple, compute: Callable[[], T]) -> T:
        """What `compute` gives, remembered by key."""
        if key not in self._computed:
            self._computed[key] = compute()
        return self._computed[key]

    def rate(self, cell: Cell | None) -> Rate | None:
        """Word error rate with its interval."""
        return None if cell is None else self.once((wer, cell), lambda: wer(self.cells[cell], rng=rng()))

    def percent(self, cell: Cell | None) -> float | None:
        """Word error rate alone."""
        rate = self.rate(cell)
        return None if rate is None else rate.percent

    def difference(self, cell: Cell, other: Cell, *, tested: bool = False) -> Paired:
        """Word error rate of one cell minus that of another, on the utterances of both. tested: with a p-value (slow)."""
        def compute() -> Paired:
            theirs = {row.id: row for row in self.cells[other]}
            ours = [row for row in self.cells[cell] if row.id in theirs]
            pair = ours, [theirs[row.id] for row in ours]
            return paired(*pair, rng=rng()) if tested else Paired(difference(*pair, rng=rng()), None)

        return self.once((difference, cell, other, tested), compute)

    def no_harm(self, system: str, condition: Condition, corruption: Corruption = INTACT) -> NoHarm:
        """The no-harm criterion for a system at a condition."""
        found = {modality: self.find(system, modality, condition, corruption) for modality in ("a", "v", "av")}
        both = found["av"]
        if both is not None:
            found["a"], found["v"] = unimodal_cells(self.cells, both)
        percents = {modality: percent for modality, cell in found.items() if (percent := self.percent(cell)) is not None}
        better = found["a" if percents.get("a", np.inf) <= percents.get("v", np.inf) else "v"]
        if len(percents) < 3 or both is None or better is None:
            return NoHarm(found)
        kept = no_harm(percents["av"], percents["a"], percents["v"])
        return NoHarm(found, self.difference(both, better).difference, kept)


def rng() -> np.random.Generator:
    """The same draws for every interval, so that cells of the same speakers are resampled alike."""
    return np.random.default_rng(SEED)


def condition_name(condition: Condition) -> str:
    """`clean`, `babble at −5 dB`."""
    return "clean" if condition[0] is None else f"{condition[0]} at {snr_text(condition[1])} dB"


def snr_text(snr_db: float | None) -> str:
    """`clean`, `−5`."""
    return "clean" if snr_db is None else f"{snr_db:g}".replace("-", "−")
