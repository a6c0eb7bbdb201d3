"""Examples: the utterances that a system recognised worst and best, with what it wrote and their recordings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from avsr.html import data_uri, word_edits
from avsr.metrics import NOTHING, Cell, scored, worst_and_best_ids
from avsr.metrics.counting import normalised_pair
from avsr.names import MODALITY_NAMES, file_name
from avsr.report.result_table import CLEAN, ResultTable, condition_name
from avsr.report.tables import Section
from avsr.results import ResultRow

MOST_BYTES = 3_000_000                                      # of a recording: the page must open on a telephone
N_EXAMPLES = 6                                              # of the worst, and of the best
TYPES = {".mp4": "video/mp4", ".webm": "video/webm", ".m4a": "audio/mp4", ".wav": "audio/wav", ".mp3": "audio/mpeg"}


def example_section(results: ResultTable, media: Path) -> Section:
    """By WER over all conditions with intact video; among equals the best are those that sound alone got worst."""
    system = results.systems[0]
    there = {cell.modality for cell in results.cells if cell.system == system}
    modality = next(one for one in ("av", "a", "v") if one in there)
    worst, best = worst_and_best_ids([row for rows in results.cells.values() for row in rows], system, N_EXAMPLES)
    rows: dict[str, dict[Cell, ResultRow]] = {one: {} for one in (*worst, *best)}
    for cell, found in results.cells.items():
        if (cell.system, cell.corruption) == (system, None):
            for row in (row for row in found if row.id in rows):
                rows[row.id][cell] = row
    notes: list[str] = []

    def percent(one: str, by: str) -> float | None:
        return sum((scored([row])[0] for cell, row in rows[one].items() if cell.modality == by), NOTHING).percent

    def example(one: str) -> dict[str, Any]:
        first = next(iter(rows[one].values()))
        return {"id": one, "speaker": first.speaker, "reference": normalised_pair(first)[0], "both": percent(one, modality),
                "sound": percent(one, "a"), "written": _written(results, system, rows[one]),
                "recording": _recording(media, one, notes)}

    who = f"{system}, " if len(results.systems) > 1 else ""
    about = (f"By {who}{MODALITY_NAMES[modality].short}, over all noises and levels; among equally good ones those that "
             "sound alone got worst. Underlined: substitutions; italic: insertions; struck out: deletions.")
    examples = {"Worst": [example(one) for one in worst], "Best": [example(one) for one in best]}
    return Section("examples", "Worst and best", notes=notes, about=about, examples=examples)


def _written(results: ResultTable, system: str, found: Mapping[Cell, ResultRow]) -> list[dict[str, Any]]:
    """By video, and by sound and both where it is clean and in the loudest of each noise."""
    conditions = [CLEAN, *((noise, results.levels(noise)[-1]) for noise in results.noises)]
    cells = [results.find(system, modality, one) for one in conditions for modality in ("a", "av")]
    out = []
    for cell in (cell for cell in (results.find(system, "v"), *cells) if cell is not None and cell in found):
        row = found[cell]
        where = "" if cell.modality == "v" else f", {condition_name((cell.noise, cell.snr_db))}"
        out.append({"by": MODALITY_NAMES[cell.modality].short + where, "words": word_edits(*normalised_pair(row)),
                    "wer": scored([row])[0].percent})
    return out


def _recording(media: Path, one: str, notes: list[str]) -> str | None:
    """A data URI of media/ID.*, if there is one. ID is a name made of the id, or the id itself."""
    for name, (suffix, kind) in product(dict.fromkeys((file_name(one), one)), TYPES.items()):
        path = media / f"{name}{suffix}"
        if not os.path.isfile(path) or not path.resolve().is_relative_to(media.resolve()):
            continue
        data = path.read_bytes()
        if len(data) > MOST_BYTES:
            notes.append(f"{path}: {len(data) / 1e6:.1f} MB is too much for the page (limit {MOST_BYTES / 1e6:g} MB), so it is "
                         "left out.")
            continue
        return data_uri(data, kind)
    return None
