"""Two runs side by side: rows of both in, differences on the same utterances with intervals and p-values out.

    Book of both runs  ->  compare(runs, book) -> Compared(tables, notes)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from avsr.errors import AvsrError, counted
from avsr.metrics import Cell
from avsr.report.book import Book
from avsr.report.runs import Run
from avsr.report.table import CHANCE, Column, Line, Table
from avsr.report.tables import CONDITION, SYSTEM, condition_of, ordered
from avsr.text import normalise

CERTAIN = 0.05                                              # p below which a difference is bold


@dataclass(frozen=True)
class Compared:
    """tables: one for each pair of systems; conditions that only one run has.  notes: what makes the comparison weaker."""

    tables: list[Table]
    notes: list[str]


def compare(runs: Sequence[Run], book: Book) -> Compared:
    """The second run less the first. Raises AvsrError where no utterance is in both, or one says something else there."""
    notes = _checked(*runs)
    pairs = paired_systems(*runs)
    tables = [table for pair in pairs for whole in (True, False) if (table := _compared(book, *pair, whole)).lines]
    alone = _alone(book, pairs)
    return Compared([*tables, *([alone] if alone.lines else [])], notes)


def paired_systems(first: Run, second: Run) -> list[tuple[str, str]]:
    """Those of one name with each other; where there are none, each of the first run with each of the second."""
    theirs = {system: name for name, system in second.systems.items()}
    same = [(name, theirs[system]) for name, system in first.systems.items() if system in theirs]
    return same or [(one, other) for one in first.systems for other in second.systems]


def _checked(first: Run, second: Run) -> list[str]:
    """What the reader must know of the two."""
    texts, others = ({row.id: row.reference for row in run.rows} for run in (first, second))
    shared = [one for one in texts if one in others]
    if not shared:
        raise AvsrError(f"{first.folder} and {second.folder}: no utterance is in both, so nothing can be paired.  "
                        "Compare runs of one test set.")
    if odd := [one for one in shared if normalise(texts[one]) != normalise(others[one])]:
        raise AvsrError(f"{first.folder} and {second.folder}: {len(odd)} of {len(shared)} utterances have other references, "
                        f"such as {odd[0]}.  Compare runs of one test set.")
    notes = []
    if left := len(texts) + len(others) - 2 * len(shared):
        notes.append(f"{counted(left, 'utterance')} of one run alone, left out of the differences; {len(shared)} are in both.")
    return notes + _other_noise(first, second)


def _other_noise(first: Run, second: Run) -> list[str]:
    """Families whose pieces differ: then the noise is part of the difference."""
    pieces, others = ({(row.id, row.noise): (row.noise_id, row.noise_offset)
                       for row in run.rows if row.noise is not None} for run in (first, second))
    shared = [key for key in pieces if key in others]
    odd = [key for key in shared if pieces[key] != others[key]]
    names = ", ".join(sorted({noise for _, noise in odd}))
    return [f"{len(odd)} of {len(shared)} pieces of noise ({names}) are not the same in both runs, so part of a difference may "
            "be the noise."] if odd else []


def _compared(book: Book, one: str, other: str, whole: bool) -> Table:
    """whole: in the conditions in which the picture is unharmed, or in the others."""
    columns = (Column("first", None), Column("second", None), *CONDITION, Column("wer_first", one),
               Column("wer_second", other), Column("difference", f"{other} less {one}", "+.1f"), Column("p", "p", CHANCE),
               Column("utterances", "utterances"))
    lines = []
    for cell in ordered(book):
        twin = replace(cell, system=other)
        if (cell.system, cell.corruption is None) != (one, whole) or cell.modality == "none" or twin not in book.cells:
            continue
        apart = book.less(twin, cell, tested=True)
        strong = ("difference", "p") if apart.p is not None and apart.p < CERTAIN else ()
        lines.append(Line((one, other, *condition_of(cell), book.rate(cell), book.rate(twin), apart.rate, apart.p, apart.n),
                          strong=strong))
    where = "" if whole else " when the picture is bad"
    return Table("compared", f"{other} against {one}: WER %{where}", columns, tuple(lines),
                 f"Differences are of the same utterances in the same conditions. Bold: p < {CERTAIN:g}, for each line by "
                 "itself; of twenty lines without any difference one is bold by chance.")


def _alone(book: Book, pairs: Sequence[tuple[str, str]]) -> Table:
    """Conditions that one of a pair lacks, and all of systems that are in no pair."""
    columns = (SYSTEM, *CONDITION, Column("utterances", "utterances"))
    twins: dict[str, list[str]] = {}
    for one, other in pairs:
        twins.setdefault(one, []).append(other)
        twins.setdefault(other, []).append(one)

    def lonely(cell: Cell) -> bool:
        return not any(replace(cell, system=twin) in book.cells for twin in twins.get(cell.system, ()))

    lines = [Line((cell.system, *condition_of(cell), len(book.cells[cell]))) for cell in ordered(book) if lonely(cell)]
    return Table("one-run-only", "In one run only", columns, tuple(lines))
