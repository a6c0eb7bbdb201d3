"""Who is to thank: rows by condition in, what sound and sight each add (Shapley values) by condition, as table and figure, out.

    Book  ->  credited(book) -> Credited(drawing, table, notes)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from avsr.errors import AvsrError
from avsr.metrics import Estimate, ModalityContributions, condition_shapley
from avsr.report.book import Book, Condition, rng
from avsr.report.draw import MODALITY_COLOURS, Drawing, Levels, Look, Sheet
from avsr.report.table import Column, Line, Table
from avsr.report.tables import CONDITION, SYSTEM, level_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURES = {"wer": "of what is understood (WER)", "loss": "of what is known (loss)"}
POINTS = 100                                                # of WER, in a word error rate of 1


@dataclass(frozen=True)
class Credited:
    """notes: conditions that could not be shared out, and why."""

    drawing: Drawing | None
    table: Table | None
    notes: list[str]


def credited(book: Book) -> Credited:
    """Of each system that sees, in each condition with the picture unharmed."""
    found: dict[tuple[str, Condition, str], ModalityContributions] = {}
    failed: dict[str, int] = {}
    for system in book.seeing:
        if len({cell.modality for cell in book.cells if cell.system == system}) == 1:   # as imported models: no shares
            continue
        for condition in book.conditions_measured:
            cell = book.find(system, "av", *condition)
            for measure in MEASURES if cell is not None else ():
                try:
                    shares = condition_shapley(book.cells, cell, measure, rng=rng())
                except AvsrError as error:                  # told below: a run that is not whole, or without "none"
                    failed[str(error)] = failed.get(str(error), 0) + 1
                    continue
                if shares is not None:
                    found[system, condition, measure] = shares
    notes = [f"{n} conditions could not be shared out between the senses: {why}" for why, n in failed.items()]
    return Credited(_drawing(book, found), _table(found), notes) if found else Credited(None, None, notes)


def _table(found: dict[tuple[str, Condition, str], ModalityContributions]) -> Table:
    columns = [SYSTEM, *CONDITION[1:3]]
    for measure, unit, pattern in (("wer", "points of WER", ".1f"), ("loss", "nats a token", ".2f")):
        columns += [Column(f"{measure}_{sense}", f"{sense}, {unit}", pattern) for sense in ("sound", "sight")]
        columns += [Column(f"{measure}_share", "share of sight", ".2f")]
    lines = []
    for system, condition in dict.fromkeys(key[:2] for key in found):
        values = [system, condition[0], level_of(condition[1])]
        for measure, factor in (("wer", POINTS), ("loss", 1)):
            one = found.get((system, condition, measure))
            values += [None] * 3 if one is None else [_scaled(one.sound, factor), _scaled(one.sight, factor), one.share]
        lines.append(Line(tuple(values)))
    return Table("shares", "Who is to thank: what each sense adds", tuple(columns), tuple(lines),
                 "Shapley values: what a sense takes off the errors (or the loss of the reference), averaged over hearing or "
                 "seeing first. Above 1 or below 0: one of the senses does harm.")


def _scaled(one: Estimate, factor: float) -> Estimate:
    return Estimate(*(None if part is None else factor * part for part in (one.value, one.low, one.high)))


def _drawing(book: Book, found: dict[tuple[str, Condition, str], ModalityContributions]) -> Drawing:
    shown = [(system, noise) for system in book.seeing for noise in book.noises or [None]]
    measures = [measure for measure in MEASURES if any(key[2] == measure for key in found)]

    def draw() -> Sheet:
        sheet = Sheet(len(shown), height=2.2)
        for axis, (system, noise) in zip(sheet.axes, shown, strict=True):
            levels = Levels(book.levels(noise))
            for measure in measures:
                _line(axis, levels, measure, [(condition[1], one.share) for condition in book.conditions(noise)
                                              if (one := found.get((system, condition, measure))) and one.share])
            levels.axis(axis)
            named = [system] * (len(book.seeing) > 1) + [noise or "clean"]
            axis.set(title=", ".join(named), ylabel="share of sight")
            axis.set_ylim(min(axis.get_ylim()[0], 0), max(axis.get_ylim()[1], 1))
        sheet.shared(least=None)
        return sheet.finish()

    return Drawing("shares", "Who is to thank", "The share of sight, against sound, in what is gained over neither (Shapley "
                   "values), with intervals of 95 %. 0: all of it is heard; 1: all of it is seen.", draw)


def _line(axis: Axes, levels: Levels, measure: str, points: Sequence[tuple[float | None, Estimate]]) -> None:
    """One measure in one panel."""
    hollow = measure == "loss"
    look = Look(MEASURES[measure], MODALITY_COLOURS["v"] if hollow else MODALITY_COLOURS["av"], "Ds"[not hollow],
                (0, (4, 1.6)) if hollow else "-", hollow)
    if points:
        levels.band(axis, [(snr, one.low, one.high) for snr, one in points], look.colour)
        levels.plot(axis, [(snr, one.value) for snr, one in points], look)
