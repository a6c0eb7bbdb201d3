"""Whether looking adds a bias: rows by condition in, whom seeing helps least, and what another's face does, as tables out.

    Book, columns  ->  helped(book, columns), swapped(book, columns)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from avsr.errors import AvsrError
from avsr.metrics import Cell, FaceEffect, by_group, columns, face_effect
from avsr.report.book import Book, rng
from avsr.report.groups import telling
from avsr.report.table import CHANCE, Column, Line, Table
from avsr.report.tables import CONDITION, SYSTEM, condition_of, level_of

NOTE = "p: how often groups drawn by lot have as large a gap."


def helped(book: Book, kept: Sequence[str]) -> Table | None:
    """Both less sound alone, by group: who gains least by being seen, who most, and whether that is chance."""
    heads = (SYSTEM, *CONDITION[1:3], Column("column", "by", words=True), Column("worst", "helped least", words=True),
             Column("worst_less", "both less sound", "+.1f"), Column("best", "helped most", words=True),
             Column("best_less", "both less sound", "+.1f"), Column("gap", "gap, points"), Column("p", "p", CHANCE))
    lines = []
    for system in book.seeing:
        for condition in telling(book):
            both, sound = (_rows(book, book.find(system, modality, *condition)) for modality in ("av", "a"))
            shared = {row.id for row in both} & {row.id for row in sound}
            both, sound = ([row for row in rows if row.id in shared] for rows in (both, sound))
            for column in (one for one in kept if one in columns(both)):
                found = by_group(both, column, against=sound, rng=rng())
                if found.gap is not None:
                    lines.append(Line((system, condition[0], level_of(condition[1]), column, found.worst,
                                       found.rates[found.worst], found.best, found.rates[found.best], found.gap, found.p)))
    return Table("helped", "Whom seeing helps", heads, tuple(lines), NOTE) if lines else None


def swapped(book: Book, kept: Sequence[str]) -> tuple[Table | None, list[str]]:
    """The counterfactual test: the same sound with another speaker's face, and whether it matters whose. With notes."""
    names, lines, notes = list(kept) or ["speaker"], [], []
    found: dict[Cell, dict[str, FaceEffect]] = {}
    for cell in book.cells:
        whole = replace(cell, corruption=None, amount=None)
        if cell.corruption != "face" or cell.modality not in ("v", "av") or whole not in book.cells:
            continue
        for name in names:
            try:
                effect = face_effect(book.cells[cell], book.cells[whole], column=name, rng=rng())
                found.setdefault(cell, {})[name] = effect
            except AvsrError as error:                      # such as a run that is not whole
                notes.append(f"Another's face: {error}")
    told = [name for name in names if any(name in effects and effects[name].groups.gap for effects in found.values())]
    for cell, effects in found.items():
        overall = next(iter(effects.values())).overall
        gaps = [effects[name].groups if name in effects else None for name in told]
        lines.append(Line((cell.system, *condition_of(cell)[:3], overall.difference, overall.p,
                           *(part for one in gaps for part in (one and one.gap, one and one.p)))))
    heads = (SYSTEM, *CONDITION[:3], Column("cost", "another's face less one's own, points", "+.1f"), Column("p", "p", CHANCE),
             *(head for name in told for head in (Column(f"gap_{name}", f"gap by the face's {name}"),
                                                  Column(f"p_{name}", "p of the gap", CHANCE))))
    note = "WER with another's face less WER with one's own" + ("; gap: whether it matters whose face." if told else ".")
    table = Table("faces", "The same sound with another speaker's face", heads, tuple(lines), note)
    return table if lines else None, list(dict.fromkeys(notes))


def _rows(book: Book, cell: Cell | None) -> list[dict]:
    return [] if cell is None else book.cells[cell]
