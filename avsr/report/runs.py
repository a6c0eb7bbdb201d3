"""The runs of a report: folders with results.jsonl (and timings.jsonl, run.json, media/) in, a Run of each out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from avsr.errors import AvsrError
from avsr.linebreak import HAN, SPACELESS
from avsr.names import MODALITY_NAMES, escape_controls
from avsr.results import FIELD_TYPES, INVARIANT_FIELDS, NAME, RUN, TIMINGS, ResultRow, read_results
from avsr.text import NORMALISERS

VOWEL_SIGNS = re.compile("[\u064b-\u0652\u0670\u05b0-\u05bc\u05c1\u05c2\u05c7]")
NAMED = ("system", "noise", "corruption", "speaker", "split", "labels")        # fields whose values people have chosen
BATCH = {"system": str, "modality": str, "clips": int, "audio_s": (int, float), "seconds": (int, float)}


@dataclass(frozen=True)
class Run:
    """A benchmark's folder, read. name: the last parts of its path, as many as differ from the other run's.
    about: run.json, {} without one.  systems: their names here -> those in the file."""

    name: str
    folder: Path
    rows: list[ResultRow]
    timings: list[dict] = field(default_factory=list)
    about: dict = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    systems: dict[str, str] = field(default_factory=dict)


def open_runs(folders: Sequence[Path], where: Mapping[str, str] | None = None, normaliser: str | None = None) -> list[Run]:
    """One or two runs, whose systems have names of their own. where, normaliser: see ReportSettings.

    Raises AvsrError, as where their normalisers differ.
    """
    if not 1 <= len(folders) <= 2:
        raise AvsrError(f"{len(folders)} runs given: a report is of one, or compares two.  Give one or two folders.")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise AvsrError(f"{folders[0]}: given twice, and a run compared with itself shows nothing.  Give two folders.")
    runs = [filter_rows(open_run(folder, name), where or {}) for folder, name in zip(folders, _names(folders), strict=True)]
    if normaliser is not None:
        runs = [replace(run, rows=[replace(row, normaliser=NORMALISERS[normaliser]) for row in run.rows]) for run in runs]
    rules = {run.rows[0].normaliser: run for run in runs}
    if len(rules) > 1:
        named = ", ".join(f"{run.folder} by {rule}" for rule, run in rules.items())
        raise AvsrError(f"rows of {len(rules)} normalisers cannot be compared: {named}.  Choose one with --normaliser, as the "
                        "rows hold the texts as they were written.")
    return _distinct_systems(runs)


def open_run(folder: Path, name: str | None = None) -> Run:
    """Read one. Raises AvsrError where there are no rows, or they cannot be read."""
    path = folder / NAME
    if not path.is_file() and not path.with_name(f"{NAME}.gz").is_file():
        problem = f"there is no {NAME} in it" if folder.is_dir() else "no such folder"
        raise AvsrError(f"{folder}: {problem}.  Give the --output-dir of an `avsr benchmark`.")
    rows, n_cut = read_results(path)
    if not rows:
        raise AvsrError(f"{path}: it holds no row.  Run the benchmark that was to write it again.")
    _check_one_measurement(rows, path)
    if all(row.modality == "none" for row in rows):
        raise AvsrError(f"{path}: all {len(rows)} rows are of modality none, without any input.  Run the benchmark with a, v "
                        "or av.")
    cut = f"{path}: its last line was cut off by a crash and is left out.  Run the same benchmark again to complete it."
    rows = _with_visible_names(rows)
    timings = [line | {"system": escape_controls(line["system"])} for line in _read_timings(folder / TIMINGS)]
    return Run(escape_controls(name or folder.resolve().name), folder, rows, timings, _read_about(folder / RUN),
               (*[cut] * n_cut, *_script_warnings(rows, path)), {row.system: row.system for row in rows})


def _script_warnings(rows: Sequence[ResultRow], path: Path) -> list[str]:
    """What word error rates of these texts do not show, because of how their script is written."""
    references = "".join({row.reference for row in rows})
    warnings = []
    if 2 * len(re.findall(f"[{HAN}{SPACELESS}]", references)) > len(references):
        warnings.append(f"{path}: its references are in a script without spaces between words, so a whole phrase counts as one "
                        "word.  Use the character error rate in the table of errors by kind.")
    if VOWEL_SIGNS.search(references) and not any(VOWEL_SIGNS.search(row.hypothesis) for row in rows):
        warnings.append(f"{path}: its references have the vowel signs that Arabic and Hebrew may leave out, and no hypothesis "
                        "has any, so words count as wrong that differ in nothing else.  Remove the signs from the references.")
    return warnings


def _with_visible_names(rows: list[ResultRow]) -> list[ResultRow]:
    """The rows with control characters in names spelt out: a terminal would obey them, and an SVG file may not hold them."""
    escaped = cache(escape_controls)

    def escape_in(value: Any) -> Any:
        if isinstance(value, dict):
            return {escape_in(key): escape_in(one) for key, one in value.items()}
        return escaped(value) if isinstance(value, str) else value

    shown = [{name: escape_in(getattr(row, name)) for name in NAMED} for row in rows]
    return [row if all(getattr(row, name) == value for name, value in names.items()) else replace(row, **names)
            for row, names in zip(rows, shown, strict=True)]


def filter_rows(run: Run, where: Mapping[str, str]) -> Run:
    """The rows whose columns have these values. Raises AvsrError where a column or every row is missing."""
    for column, value in where.items():
        values = {row: str(found) for row, found in enumerate(_value(row, column) for row in run.rows) if found is not None}
        if value not in values.values():
            known = ", ".join(sorted({*values.values()})[:20]) or "no value"
            raise AvsrError(f"{run.folder}: no row has {column} {value}; there is {known}.  Correct --where.")
        # Rows without noise (clean, video alone, neither) belong to every noise, as they are what it is compared with.
        kept = [row for number, row in enumerate(run.rows)
                if values.get(number) == value or (column == "noise" and row.noise is None)]
        run = replace(run, rows=kept, systems={row.system: row.system for row in kept})
    return run


def _value(row: ResultRow, column: str) -> Any:
    return getattr(row, column) if column in FIELD_TYPES else row.extra.get(column, row.labels.get(column))


def _read_timings(path: Path) -> list[dict]:
    """Batches of a file that need not exist; a last line that was cut off is left out."""
    out = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else [], 1):
        try:
            batch = json.loads(line)
            typed = all(isinstance(batch[name], kind) for name, kind in BATCH.items())
            if not typed or batch["modality"] not in MODALITY_NAMES:
                raise ValueError(f"a batch needs {', '.join(BATCH)}")
            out.append(batch)
        except (ValueError, KeyError, TypeError) as error:
            raise AvsrError(f"{path}, line {number}: not a batch ({error}).  Delete the file to make the report without "
                            "speeds.") from error
    return out


def _read_about(path: Path) -> dict:
    try:
        about = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if not isinstance(about, dict):
            raise ValueError("not an object")
        return about
    except ValueError as error:
        raise AvsrError(f"{path}: not JSON ({error}).  Delete it to make the report without a heading.") from error


def _names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    return next(names for n in range(1, max(map(len, parts)) + 1)
                if len(set(names := ["/".join(path[-n:]) for path in parts])) == len(parts))


def _check_one_measurement(rows: Sequence[ResultRow], path: Path) -> None:
    """Raises AvsrError unless all rows of a system were measured in one way, and all rows have one normaliser."""
    seen: dict[tuple, Any] = {}
    for number, row in enumerate(rows, 1):
        if row.modality not in MODALITY_NAMES:
            raise AvsrError(f"{path}, line {number}: modality {row.modality!r}, and there are {', '.join(MODALITY_NAMES)}.  "
                            "Correct it.")
        for name in INVARIANT_FIELDS:
            value = getattr(row, name)
            first = seen.setdefault((name, None if name == "normaliser" else row.system), value)
            if first != value:
                raise AvsrError(f"{path}, line {number}: {row.system} has {name} {value}, and {first} before that, so these "
                                "rows are not one measurement.  Put them into two runs.")


def _distinct_systems(runs: list[Run]) -> list[Run]:
    """The runs, in which systems that have the same name in both are told apart by the folder's."""
    shared = set.intersection(*(set(run.systems) for run in runs)) if len(runs) > 1 else set()
    out = []
    for run in runs:
        names = {system: system if system not in shared else run.name if len(run.systems) == 1 else f"{run.name}: {system}"
                 for system in run.systems}
        rows = [replace(row, system=names[row.system]) for row in run.rows] if shared else run.rows
        timings = [{**line, "system": names.get(line["system"], line["system"])} for line in run.timings]
        out.append(replace(run, rows=rows, timings=timings, systems={name: system for system, name in names.items()}))
    return out
