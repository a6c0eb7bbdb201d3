"""What is taken for what: rows in, a drawing and a table of confusions of visemes (classes of sounds that lips show alike) out.

    Book  ->  confused(book) -> Confused(drawing, table, notes)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from avsr.errors import MissingAsset
from avsr.metrics import VISEMES, Confusions, confusions
from avsr.report.book import Book
from avsr.report.draw import FAINT, INK, PAPER, Drawing, Sheet
from avsr.report.runs import NAMES
from avsr.report.table import Column, Line, Table
from avsr.report.tables import CONDITION, SYSTEM

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ORDER = ("v", "av", "a")
SHOWN = 0.1                                                 # shares from which on a confusion has its number in its square


@dataclass(frozen=True)
class Confused:
    """drawing: lips, both and sound side by side.  table: every pair that was confused.  notes: what was left out, and why."""

    drawing: Drawing | None
    table: Table | None
    notes: list[str]


def confused(book: Book) -> Confused:
    """Of every system that sees, in all noises and levels together, pictures unharmed."""
    found: dict[tuple[str, str], Confusions] = {}
    try:
        for system in book.seeing or book.systems[:1]:
            for modality in ORDER:
                rows = [row for cell, kept in book.cells.items() for row in kept
                        if (cell.system, cell.modality, cell.corruption) == (system, modality, None)]
                if rows:
                    found[system, modality] = confusions(rows, "viseme")
    except MissingAsset as error:
        return Confused(None, None, [f"Visemes are left out: {error}"])
    unknown = sorted({word for one in found.values() for word in one.unknown})
    notes = [f"Visemes: {len(unknown)} words are not in the dictionary and were left out ({', '.join(unknown[:8])})."]
    notes = notes if unknown else []
    return Confused(_drawing(book, found), _table(found), notes) if found else Confused(None, None, notes)


def shares(found: Confusions) -> np.ndarray:
    """(n + 1, n + 1) of 0 to 1: of each class said, how much was taken for what; the last row: of what was made up, what."""
    counts = np.asarray(found.counts, float)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _drawing(book: Book, found: dict[tuple[str, str], Confusions]) -> Drawing:
    def draw() -> Sheet:
        sheet = Sheet(len(found), square=True, bottom=0.56)
        for axis, ((system, modality), one) in zip(sheet.axes, found.items(), strict=True):
            _square(axis, one)
            who = f"{system}, {NAMES[modality]}" if len(book.seeing) > 1 else NAMES[modality]
            axis.set_title(who)
            axis.set_xlabel("written" if one.percent is None else f"written, {one.percent:.1f} % wrong")
            if sheet.first_in_row(axis):
                axis.set_ylabel("said")
        return sheet.finish()

    return Drawing("visemes", "What is taken for what", "Confusions of visemes, classes of sounds that look alike on the lips: "
                   "of each that was said (rows), the share written as each (columns). All noises and levels together.", draw)


def _square(axis: Axes, found: Confusions) -> None:
    """Ink, thinner for less: so it follows the page from light to dark."""
    from matplotlib.colors import ListedColormap, to_rgb

    part, n = shares(found), len(found.names)
    inks = ListedColormap([(*to_rgb(INK), i / 64) for i in range(65)])
    axis.pcolormesh(np.sqrt(part), cmap=inks, vmin=0, vmax=1, linewidth=0)
    for i, j in zip(*np.nonzero(part >= SHOWN), strict=True):
        if i != j:
            axis.text(j + 0.5, i + 0.52, f"{100 * part[i, j]:.0f}", ha="center", va="center", fontsize=5,
                      color=PAPER if part[i, j] > 0.25 else INK)
    axis.set_xticks(np.arange(n + 1) + 0.5, [*found.names, "lost"], rotation=90, fontsize=6.5)
    axis.set_yticks(np.arange(n + 1) + 0.5, [*found.names, "added"], fontsize=6.5)
    axis.axhline(n, color=FAINT, linewidth=0.6)
    axis.axvline(n, color=FAINT, linewidth=0.6)
    axis.set(aspect="equal", xlim=(0, n + 1), ylim=(n + 1, 0))
    axis.grid(visible=False)
    axis.tick_params(length=0)


def _table(found: dict[tuple[str, str], Confusions]) -> Table:
    columns = (SYSTEM, CONDITION[0], Column("said", "said", words=True), Column("written", "written", words=True),
               Column("times", "times"), Column("share", "% of what was said"))
    lines = []
    for (system, modality), one in found.items():
        part = shares(one)
        said, written = [*one.names, "added"], [*one.names, "lost"]
        pairs = [(int(one.counts[i][j]), i, j) for i, j in zip(*np.nonzero(one.counts), strict=True) if i != j]
        lines += [Line((system, NAMES[modality], said[i], written[j], times, 100 * float(part[i, j])))
                  for times, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))]
    classes = "; ".join(f"{name}: {' '.join(sounds)}" for name, sounds in VISEMES.items() if len(sounds) > 1)
    return Table("visemes", "Confused visemes, the commonest first", columns, tuple(lines),
                 f"Visemes and their sounds: {classes}.")
