"""Two runs side by side: differences on the same utterances with intervals and p-values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from avsr.errors import AvsrError, counted
from avsr.html.table import Column, Table
from avsr.metrics import Cell
from avsr.metrics.counting import normalised_pair
from avsr.report.result_table import ResultTable
from avsr.report.runs import Run
from avsr.report.tables import Section, cell_values, make_table, ordered_cells

SIGNIFICANT = 0.05                                          # p below which a difference is bold


def comparison_section(runs: Sequence[Run], results: ResultTable) -> Section:
    """The second run minus the first: systems of one name are paired with each other, or else all with all.

    Raises AvsrError where no utterance is in both, or one says something else there.
    """
    notes, (first, second) = _checked(*runs), runs
    theirs = {system: name for name, system in second.systems.items()}
    pairs = [(name, theirs[system]) for name, system in first.systems.items() if system in theirs]
    pairs = pairs or [(one, other) for one in first.systems for other in second.systems]
    tables = [_compared(results, *pair, intact=intact) for pair in pairs for intact in (True, False)]
    return Section("compared", "The two runs compared", tables=[*tables, _unpaired(results, pairs)], notes=notes)


def _checked(first: Run, second: Run) -> list[str]:
    """What the reader must know of the two."""
    texts, others = ({row.id: normalised_pair(row)[0] for row in run.rows} for run in (first, second))
    shared = [one for one in texts if one in others]
    if not shared:
        raise AvsrError(f"{first.folder} and {second.folder}: no utterance is in both, so nothing can be paired.  "
                        "Compare runs of one test set.")
    if odd := [one for one in shared if texts[one] != others[one]]:
        raise AvsrError(f"{first.folder} and {second.folder}: {len(odd)} of {len(shared)} utterances have other references, "
                        f"such as {odd[0]}.  Compare runs of one test set.")
    notes = []
    if left := len(texts) + len(others) - 2 * len(shared):
        notes.append(f"{counted(left, 'utterance')} of one run alone, left out of the differences; {len(shared)} are in both.")
    noise, other_noise = ({(row.id, row.noise): (row.noise_id, row.noise_offset) for row in run.rows if row.noise is not None}
                          for run in (first, second))
    mixed = [key for key in noise if key in other_noise]
    if differing := [key for key in mixed if noise[key] != other_noise[key]]:
        names = ", ".join(sorted({str(name) for _, name in differing}))
        notes.append(f"{len(differing)} of {len(mixed)} pieces of noise ({names}) are not the same in both runs, so part of a "
                     "difference may be the noise.")
    return notes


def _compared(results: ResultTable, one: str, other: str, *, intact: bool) -> Table | None:
    """intact: in the conditions with intact video, or else in the others."""
    rows, strong = [], {}
    for cell in ordered_cells(results):
        twin = replace(cell, system=other)
        if (cell.system, cell.corruption is None) != (one, intact) or cell.modality == "none" or twin not in results.cells:
            continue
        found = results.difference(twin, cell, tested=True)
        if found.p is not None and found.p < SIGNIFICANT:
            strong[len(rows)] = ("difference", "p")
        condition = {name: value for name, value in cell_values(cell).items() if name != "system"}
        rows.append({"first": one, "second": other, **condition, "wer_first": results.rate(cell),
                     "wer_second": results.rate(twin), "difference": found.difference, "p": found.p,
                     "utterances": found.difference.utterances})
    return make_table("compared", f"{other} against {one}: WER %" + ("" if intact else " with corrupted video"), rows,
                      "Differences are of the same utterances in the same conditions. Bold: p < "
                      f"{SIGNIFICANT:g}, each line by itself; of twenty lines without any difference one is bold by chance.",
                      hidden=("first", "second"), strong=strong, columns={
                          "wer_first": Column(one), "wer_second": Column(other),
                          "difference": Column(f"{other} minus {one}", "+.1f")})


def _unpaired(results: ResultTable, pairs: Sequence[tuple[str, str]]) -> Table | None:
    """Conditions that one of a pair lacks, and all of systems that are in no pair."""
    def is_paired(cell: Cell) -> bool:
        others = {name for pair in pairs if cell.system in pair for name in pair} - {cell.system}
        return any(replace(cell, system=name) in results.cells for name in others)

    return make_table("one-run-only", "In one run only", [
        {**cell_values(cell), "utterances": len(results.cells[cell])}
        for cell in ordered_cells(results) if not is_paired(cell)])
