"""Rows by condition: rows in, their rates and paired differences out, each computed once.

    Book(rows).rate(cell) -> Rate;  .less(cell, other) -> Less;  .find("default", "av", "babble", -5.0) -> Cell
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from avsr.corrupt import CORRUPTIONS
from avsr.metrics import Cell, Rate, alone, cells, difference, no_harm, paired, wer

SEED = 0                                                    # of every interval: the same rows give the same report
Condition = tuple[str | None, float | None]                 # noise and SNR in dB; clean: None, None


@dataclass(frozen=True)
class Less:
    """Word error rate of one cell less that of another, on the utterances of both.

    p: only where it was asked for.  n: how many utterances those are.  left_out: utterances that only one of the two has.
    """

    rate: Rate
    p: float | None
    n: int
    left_out: int


@dataclass(frozen=True)
class Judged:
    """What seeing does at one condition: a cell of both beside sound alone and lips alone.

    less: both less the better one alone.  kept: the law, None where one of the three is absent.
    """

    sound: Cell | None
    lips: Cell | None
    both: Cell | None
    less: Less | None
    kept: bool | None


class Book:
    """All rows of a report by cell. Systems in the order of the rows; SNRs from clean to loud."""

    def __init__(self, rows: Sequence[dict]):
        self.rows = rows
        self.cells: dict[Cell, list[dict]] = cells(rows)
        self._known: dict[tuple, Any] = {}

    @cached_property
    def systems(self) -> list[str]:
        """All of them, those with sight first."""
        names = list(dict.fromkeys(row.system for row in self.rows))
        return [*(name for name in names if name in self.seeing), *(name for name in names if name not in self.seeing)]

    @cached_property
    def seeing(self) -> list[str]:
        """Those that were given lips."""
        return list(dict.fromkeys(cell.system for cell in self.cells if "v" in cell.modality))

    @cached_property
    def noises(self) -> list[str]:
        """Families, by name."""
        return list(dict.fromkeys(cell.noise for cell in self.cells if cell.noise is not None))

    def levels(self, noise: str | None = None) -> list[float | None]:
        """SNRs in this noise (any: None), clean first where it was measured, then from quiet to loud noise."""
        found = {cell.snr_db for cell in self.cells if cell.noise is not None and noise in (None, cell.noise)}
        clean = any(cell.noise is None and "a" in cell.modality for cell in self.cells)
        return [*([None] if clean or not found else []), *sorted(found, reverse=True)]

    def conditions(self, noise: str | None) -> list[Condition]:
        """Of `levels`, as (noise, SNR)."""
        return [(None, None) if snr is None else (noise, snr) for snr in self.levels(noise)]

    def find(self, system: str, modality: str, noise: str | None = None, snr_db: float | None = None,
             corruption: str | None = None, amount: float | None = None) -> Cell | None:
        """The cell, if there is one. Noise is nothing to lips alone, nor a corruption to sound alone."""
        if modality == "v":
            noise = snr_db = None
        if modality == "a":
            corruption = amount = None
        cell = Cell(system, modality, noise, snr_db, corruption, amount)
        return cell if cell in self.cells else None

    def once(self, key: tuple, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, remembered by key."""
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    def rate(self, cell: Cell | None) -> Rate | None:
        """Word error rate with its interval."""
        if cell is None:
            return None
        return self.once((wer, cell), lambda: wer(self.cells[cell], rng=rng()))

    def percent(self, cell: Cell | None) -> float | None:
        """Word error rate alone."""
        rate = self.rate(cell)
        return None if rate is None else rate.percent

    def less(self, cell: Cell, other: Cell, *, tested: bool = False) -> Less:
        """How much more `cell` gets wrong than `other`, utterance by utterance; tested: with a p-value, which takes longer."""
        return self.once((difference, cell, other, tested), lambda: less(self.cells[cell], self.cells[other], tested))

    def judged(self, system: str, condition: Condition, damage: tuple[str | None, float | None] = (None, None)) -> Judged:
        """Sound, lips and both of one system at one condition."""
        both = self.find(system, "av", *condition, *damage)
        sound, lips = self.find(system, "a", *condition), self.find(system, "v", None, None, *damage)
        if both is not None:
            sound, lips = alone(self.cells, both)
        rates = [self.percent(cell) for cell in (both, sound, lips)]
        if None in rates:
            return Judged(sound, lips, both, None, None)
        better = sound if rates[1] <= rates[2] else lips
        return Judged(sound, lips, both, self.less(both, better), no_harm(*rates))

    @cached_property
    def conditions_measured(self) -> list[Condition]:
        """Clean, and every noise at every level."""
        return list(dict.fromkeys(one for noise in self.noises or [None] for one in self.conditions(noise)))

    @cached_property
    def damaged(self) -> list[str]:
        """Systems that were shown bad pictures."""
        return [system for system in self.seeing
                if any(cell.system == system and cell.corruption is not None for cell in self.cells)]

    def damages(self) -> list[tuple[str, float | None]]:
        """Corruptions and amounts, kinds in the order of CORRUPTIONS, amounts from small to large."""
        found: dict[str, set] = {}
        for cell in self.cells:
            if cell.corruption is not None:
                found.setdefault(cell.corruption, set()).add(cell.amount)
        kinds = sorted(found, key=lambda kind: (*CORRUPTIONS, kind).index(kind))
        return [(kind, amount) for kind in kinds
                for amount in sorted(found[kind], key=lambda amount: (amount is not None, amount or 0.0))]


def rng() -> np.random.Generator:
    """The same for every interval: cells of the same speakers are drawn alike."""
    return np.random.default_rng(SEED)


def less(rows: Sequence[dict], other: Sequence[dict], tested: bool = False) -> Less:
    """On the utterances of both."""
    theirs = {row.id: row for row in other}
    shared = [row for row in rows if row.id in theirs]
    left_out = len(rows) + len(theirs) - 2 * len(shared)
    matched = [theirs[row.id] for row in shared]
    if not tested:
        return Less(difference(shared, matched, rng=rng()), None, len(shared), left_out)
    found = paired(shared, matched, rng=rng())
    return Less(found.difference, found.p, len(shared), left_out)


def name_of(condition: Condition) -> str:
    """`clean`, `babble at −5 dB`."""
    noise, snr_db = condition
    return "clean" if noise is None else f"{noise} at {snr_text(snr_db)} dB"


def snr_text(snr_db: float | None) -> str:
    """`clean`, `−5`."""
    return "clean" if snr_db is None else f"{snr_db:g}".replace("-", "−")
