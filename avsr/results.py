"""A benchmark's rows on disk: one for each utterance, condition and modality; scores, tables and plots need nothing else.

    results.jsonl  <->  rows (dicts), by what they were computed from
Nothing in a row depends on the clock, so two runs of one command give the same file byte for byte; what took how long is
in timings.jsonl beside it. Rows hold the text as it was written, and name the normaliser they are to be compared by; where
that is an earlier one of ours, the present one takes its place in reading.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from avsr.errors import BadManifest, BadOutput
from avsr.output import append_lines, whole_file
from avsr.text import present_normaliser
from avsr.textfiles import NotText, decode

LAYOUT = 1
MAX_UNPACKED = 512 * 2**20                                  # bytes of a .gz: 800,000 rows
NAME, TIMINGS, RUN, NOISE = "results.jsonl", "timings.jsonl", "run.json", "noise.jsonl"
Row = dict[str, Any]
# What a row is of. The rest of it is what came out.
KEY_FIELDS = ("system", "modality", "noise", "snr_db", "corruption", "amount", "id")
# What must be alike in all rows of one system in one file, or they are not one measurement.
INVARIANT_FIELDS = ("sha256", "search", "split", "normaliser")
TYPES: dict[str, tuple[type, ...]] = {
    "layout": (int,), "system": (str,), "modality": (str,), "id": (str,), "reference": (str,), "hypothesis": (str,),
    "normaliser": (str,), "noise": (str, type(None)), "snr_db": (int, float, type(None)), "corruption": (str, type(None)),
    "amount": (int, float, type(None)), "speaker": (str, type(None)), "labels": (dict,)}


def key(row: Mapping[str, Any]) -> tuple:
    """What a row is of: system, modality, noise, SNR, corruption, its amount, utterance."""
    return tuple(row[name] for name in KEY_FIELDS)


def order(row: Mapping[str, Any]) -> tuple:
    """Where a row belongs in the file: its key, absent before present, loudest SNR first."""
    return tuple((value is not None, -value if name == "snr_db" and value is not None else value)
                 if value is not None else (False,) for name, value in zip(KEY_FIELDS, key(row), strict=True))


def read_results(path: str | Path) -> tuple[list[Row], int]:
    """The rows of a file or of the folder that it is in, and how many were cut off at its end (0 or 1: a crash).

    It may be compressed: results.jsonl.gz is read where there is no results.jsonl.
    Raises BadManifest, which names the line, where a row is broken, of a later layout, or there twice.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    packed = path.with_name(f"{path.name}.gz")
    path = packed if packed.exists() and not path.exists() else path
    try:
        data = path.read_bytes()
        text = decode(_unpacked(path, data) if path.suffix == ".gz" else data)
    except FileNotFoundError as error:
        raise BadManifest(f"{path}: no such file.  Make it with avsr benchmark.") from error
    except (OSError, EOFError, zlib.error, NotText) as error:
        raise BadManifest(f"{path}: this cannot be read ({error}).  Name a folder that avsr benchmark wrote.") from error
    whole, _, rest = text.rpartition("\n")
    rows, seen = [], {}
    for number, line in enumerate(whole.split("\n") if whole else [], 1):
        row = _parsed(line, f"{path}, line {number}")
        if (first := seen.setdefault(key(row), number)) != number:
            raise BadManifest(f"{path}, line {number}: {row['id']} is there already, in line {first}, of the same system, "
                              "modality and condition.  Take one of them out.")
        rows.append(row)
    return rows, int(bool(rest.strip()))


def _unpacked(path: Path, data: bytes) -> bytes:
    """A gzip file's content. Raises BadManifest where it is over MAX_UNPACKED: a few kB can hold gigabytes of zeros."""
    with gzip.GzipFile(fileobj=BytesIO(data)) as file:
        out = file.read(MAX_UNPACKED + 1)
    if len(out) > MAX_UNPACKED:
        raise BadManifest(f"{path}: holds over {MAX_UNPACKED // 2**20} MiB of rows.  Unpack it with gunzip if they are yours.")
    return out


def _parsed(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadManifest(f"{where}: not JSON ({error}).  Take the line out, or run the benchmark again.") from error
    if not isinstance(row, dict):
        raise BadManifest(f"{where}: a {type(row).__name__}, not a row.  Take the line out, or run the benchmark again.")
    for name, types in TYPES.items():
        if name not in row or not isinstance(row[name], types) or isinstance(row[name], bool):
            found = f"is {json.dumps(row[name])}" if name in row else "is not there"
            raise BadManifest(f"{where}: {name} {found}.  A row needs {', '.join(TYPES)}; see avsr/results.py.")
    if row["layout"] != LAYOUT:
        raise BadManifest(f"{where}: rows of layout {row['layout']}, and this version reads {LAYOUT}.  Use the version of avsr "
                          "that wrote them.")
    return row | {"normaliser": present_normaliser(row["normaliser"])}


class Results:
    """The rows of a benchmark while it runs. What a crash cut off is computed again; `n_cut` counts it."""

    def __init__(self, folder: Path):
        self.path, self.n_cut, rows = folder / NAME, 0, []
        if self.path.exists():
            rows, self.n_cut = read_results(self.path)
        self.by_key = {key(row): row for row in rows}
        if self.n_cut:
            self._write()

    def __contains__(self, row: Mapping[str, Any]) -> bool:
        return key(row) in self.by_key

    def __len__(self) -> int:
        return len(self.by_key)

    def check(self, facts: Mapping[str, Any]) -> None:
        """Raises BadOutput where rows of facts["system"] are there that were made in another way."""
        for row in self.by_key.values():
            if row["system"] != facts["system"]:
                continue
            for name in INVARIANT_FIELDS:
                if name in facts and row.get(name) != facts[name]:
                    raise BadOutput(f"{self.path}: its rows of {row['system']} have {name} {_short(row.get(name))}, and now it "
                                    f"is {_short(facts[name])}.  Use another --output-dir.")

    def check_same(self, row: Row) -> None:
        """Raises BadOutput where a row of the same system and condition is there and says something else."""
        there = self.by_key.get(key(row))
        if there is not None and there != row:
            raise BadOutput(f"{self.path}: {row['id']} by {row['system']} is there already, with the text "
                            f"{there['hypothesis']!r}, and now it is {row['hypothesis']!r}.  Use another --output-dir.")

    def add(self, rows: Sequence[Row]) -> None:
        """Append to the file at once. Raises BadOutput."""
        self.by_key |= {key(row): row for row in rows}
        append(self.path, rows)

    def settle(self) -> None:
        """Put the file in order, which does not depend on what was computed first."""
        self._write()

    def _write(self) -> None:
        try:
            with whole_file(self.path, alone=True) as fresh, fresh.open("w", encoding="utf-8") as file:
                file.writelines(_line(row) for row in sorted(self.by_key.values(), key=order))
        except OSError as error:
            raise _unwritable(self.path, error) from error


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Lines at the end of a JSON Lines file, all of them or none; what a crash cut off is dropped. Raises BadOutput."""
    try:
        append_lines(path, "".join(map(_line, rows)))
    except OSError as error:
        raise _unwritable(path, error) from error


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _unwritable(path: Path, error: OSError) -> BadOutput:
    return BadOutput(f"{path}: it cannot be written ({error.strerror}).  Choose another folder, or make room.")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 16 else f"{text[:12]}..."
