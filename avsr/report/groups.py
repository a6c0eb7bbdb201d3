"""For whom it fails: rows by condition in, word error rates of speakers and groups out, the gaps between them, their figure.

    Book, columns ("speaker", "sex", ...)  ->  Fairness(tables, drawing)
Groups with fewer speakers than metrics' floor are named and not judged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from avsr.errors import AvsrError
from avsr.metrics import Cell, Groups, by_group, columns
from avsr.names import INPUT_MODALITIES
from avsr.report.book import Book, Condition, name_of, rng
from avsr.report.draw import Drawing, Levels, Sheet
from avsr.report.figures import look
from avsr.report.runs import NAMES
from avsr.report.table import CHANCE, Column, Line, Table
from avsr.report.tables import CONDITION, SYSTEM, condition_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OF = (SYSTEM, *CONDITION[:3])


@dataclass(frozen=True)
class Fairness:
    """tables: gaps of each column by condition, and its groups.  drawing: gaps against SNR.

    columns: those with enough data.  notes: what was left out.
    """

    tables: list[Table]
    drawing: Drawing | None
    columns: list[str]
    notes: list[str]


def fairness(book: Book, asked: Sequence[str] | None) -> Fairness:
    """By the columns asked for, or by speaker and every label. Raises AvsrError where one asked for is missing."""
    found, notes, kept = columns_of(book, asked), [], []
    for column in found:
        judged = [groups for *_, cell in _measured(book) if (groups := grouped(book, column, cell))]
        if any(groups.gap for groups in judged):
            kept.append(column)
        else:
            floor = f"{judged[0].floor} {judged[0].by}s" if judged else "any rows"
            notes.append(f"By {column}: insufficient data, fewer than two groups have {floor}.")
    tables = [table(book, column) for column in kept for table in (_each, _gaps, _rates)]
    return Fairness(tables, _drawing(book, kept), kept, notes)


def columns_of(book: Book, asked: Sequence[str] | None) -> list[str]:
    """Those asked for, or all there are. Raises AvsrError, with those there are."""
    found = columns(book.rows)
    if missing := [name for name in asked or () if name not in found]:
        raise AvsrError(f"--group-by {missing[0]}: no row has this label; there are {', '.join(found) or 'none'}.  Choose one "
                        "of those, or add the label to the manifest and run the benchmark again.")
    return found if asked is None else list(dict.fromkeys(asked))


def grouped(book: Book, column: str, cell: Cell) -> Groups | None:
    """Rates of the groups of one cell; None where its rows do not have the column, as those of an outside system may not."""
    def compute() -> Groups | None:
        rows = [row for row in book.cells[cell] if row.speaker is not None]
        there = column == "speaker" or any(row.labels.get(column) is not None for row in rows)
        return by_group(book.cells[cell], column, rng=rng()) if rows and there else None

    return book.once((by_group, column, cell), compute)


def _measured(book: Book) -> list[tuple[str, str, Condition, Cell]]:
    """Systems, modalities and conditions, pictures unharmed, each cell once: lips alone stand beside clean sound.

    Systems that only hear, where others see: in a few conditions, to compare with.
    """
    shown = {system: book.conditions_measured if system in book.seeing or not book.seeing else telling(book)
             for system in book.systems}
    found = [(system, modality, (None, None) if modality == "v" else one) for system in book.systems
             for modality in INPUT_MODALITIES for one in shown[system]]
    return [(*one, cell) for one in dict.fromkeys(found) if (cell := book.find(one[0], one[1], *one[2])) is not None]


def _gaps(book: Book, column: str) -> Table:
    heads = (Column("column", None), *OF, Column("gap", "gap, points"), Column("p", "p", CHANCE),
             Column("ratio", "ratio", ".2f"), Column("worst", "worst", words=True), Column("worst_wer", "its WER %"),
             Column("best", "best", words=True), Column("best_wer", "its WER %"), Column("groups", "groups"))
    lines, judged = [], []
    for system, *_, cell in _measured(book):
        found = grouped(book, column, cell)
        if found is None:
            continue
        judged.append(found)
        if found.gap is not None:
            lines.append(Line((column, system, *condition_of(cell)[:3], found.gap, found.p, found.ratio, found.worst,
                               found.rates[found.worst], found.best, found.rates[found.best], len(found.rates))))
    return Table(f"gaps-{column}", f"By {column}: the worst group less the best", heads, tuple(lines), _told(judged))


def _told(judged: Sequence[Groups]) -> str:
    """What p is of, and who was not judged."""
    insufficient = {group: n for found in judged for group, n in found.insufficient.items()}
    without = max(found.without for found in judged)
    by, floor = judged[0].by, judged[0].floor
    few = ", ".join(f"{group} ({insufficient[group]} of {floor} {by}s)" for group in sorted(insufficient, key=natural))
    return ("p: how often groups drawn by lot have as large a gap." + (f" Insufficient data, not judged: {few}." if few else "")
            + (f" Without this label: {without} utterances." if without else ""))


def _rates(book: Book, column: str) -> Table:
    """Each group at each condition: for CSV, as there are too many to read."""
    heads = (Column("column", "column"), Column("group", column), *OF, Column("wer", "WER %"),
             Column("utterances", "utterances"), Column("speakers", "speakers"))
    lines = []
    for system, *_, cell in _measured(book):
        found = grouped(book, column, cell)
        for group, rate in (found.rates if found is not None else {}).items():
            lines.append(Line((column, group, system, *condition_of(cell)[:3], rate, rate.utterances,
                               rate.clusters if rate.by == "speaker" else 1)))
    return Table("groups", f"By {column}: each group", heads, tuple(lines), raw=True)


def _each(book: Book, column: str) -> Table:
    """Groups down; systems and modalities across, clean and at the level nearest 0 dB of each noise."""
    shown = telling(book)
    found: dict[str, Groups] = {}
    for system, modality, condition, cell in _measured(book):
        if (modality == "v" or condition in shown) and (groups := grouped(book, column, cell)):
            who = NAMES[modality] if len(book.systems) == 1 else f"{system}, {NAMES[modality]}"
            found[who if modality == "v" else f"{who}, {name_of(condition)}"] = groups
    names = sorted({group for groups in found.values() for group in groups.rates}, key=natural)
    lines = [Line((column, name, *(groups.rates.get(name) for groups in found.values()))) for name in names]
    heads = (Column("column", None), Column("group", column, words=True), *(Column(head, head) for head in found))
    return Table(f"each-{column}", f"By {column}: WER % of each group", heads, tuple(lines))


def telling(book: Book) -> list[Condition]:
    """Clean, and the level nearest 0 dB of each noise."""
    noisy = [(noise, [snr for snr in book.levels(noise) if snr is not None]) for noise in book.noises]
    return [(None, None), *((noise, min(levels, key=abs)) for noise, levels in noisy)]


def natural(name: str) -> list[tuple[int, int | str]]:
    """To sort by: s2 before s10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def _drawing(book: Book, kept: Sequence[str]) -> Drawing | None:
    """Gap against SNR by modality, a panel for each column and noise."""
    systems = book.seeing or book.systems
    shown = [(system, column, noise) for system in systems for column in kept for noise in book.noises or [None]]
    if not shown:
        return None

    def draw() -> Sheet:
        sheet = Sheet(len(shown), columns=len(book.noises) if len(book.noises) == 2 else 3, height=2.2)
        for axis, (system, column, noise) in zip(sheet.axes, shown, strict=True):
            levels = Levels(book.levels(noise))
            for modality in INPUT_MODALITIES:
                _gap_line(book, axis, levels, (system, modality, noise), column)
            levels.axis(axis)
            named = [system] * (len(systems) > 1) + [f"by {column}"] + [noise] * (noise is not None)
            axis.set(title=", ".join(named), ylabel="gap in WER, points")
        for column in kept:
            same = [axis for axis, (_, one, _) in zip(sheet.axes, shown, strict=True) if one == column]
            high = max(axis.get_ylim()[1] for axis in same)
            for axis in same:
                axis.set_ylim(0, high)
                axis.yaxis.get_major_locator().set_params(integer=True)
        sheet.label_left()
        return sheet.finish()

    return Drawing("groups", "For whom it fails", "Word error rate of the worst group less that of the best, against the "
                   "signal-to-noise ratio, with intervals of 95 %: where they reach 0 there may be none. If both lies above "
                   "sound, looking adds a bias that hearing has not.", draw)


def _gap_line(book: Book, axis: Axes, levels: Levels, of: tuple[str, str, str | None], column: str) -> None:
    """One system by one sense in one noise; lips alone are level."""
    system, modality, noise = of
    style = look(book, system, modality)
    cells = [(condition[1], book.find(system, modality, *condition)) for condition in book.conditions(noise)]
    points = [(snr, found.gap) for snr, cell in cells
              if cell is not None and (found := grouped(book, column, cell)) is not None and found.gap is not None]
    if points and modality == "v":
        axis.axhline(points[0][1].percent, **style.line | {"marker": ""}, zorder=2)
    elif points:
        levels.band(axis, [(snr, gap.low, gap.high) for snr, gap in points], style.colour)
        levels.plot(axis, [(snr, gap.percent) for snr, gap in points], style)
