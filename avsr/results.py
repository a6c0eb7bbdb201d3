"""Benchmark results on disk: one row for each utterance, condition and modality; scores, tables and plots need nothing else.

    results.jsonl  <->  ResultRow(system, modality, id, reference, hypothesis, noise, snr_db, ...)
Two runs of one command write the same file byte for byte; timings.jsonl beside it holds the durations. Rows hold text as it was
written and name the normaliser to compare it by; on reading, the present one takes the place of our earlier ones.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from avsr.errors import BadManifest, BadOutput
from avsr.output import append_lines, whole_file
from avsr.text import NORMALISER, present_normaliser
from avsr.textfiles import NotText, decode

LAYOUT = 1
MAX_UNPACKED = 512 * 2**20                                  # bytes of a .gz: 800,000 rows
NAME, TIMINGS, RUN, NOISE = "results.jsonl", "timings.jsonl", "run.json", "noise.jsonl"
# All rows of one system in one file must agree in these, or they are not one measurement.
INVARIANT_FIELDS = ("sha256", "search", "split", "normaliser")
# Every row of a file must have these fields; of the others an absent one is None.
REQUIRED_FIELDS = ("layout", "system", "modality", "id", "reference", "hypothesis", "normaliser", "noise", "snr_db",
                   "corruption", "amount", "speaker", "labels")
FORMER_NAMES = {"trust": "video_reliability"}               # of fields, in files of earlier versions


class Key(NamedTuple):
    """What a row measured. No two rows of a file have the same key."""

    system: str
    modality: str
    noise: str | None
    snr_db: float | None
    corruption: str | None
    amount: float | None
    id: str

    @property
    def order(self) -> tuple:
        """The row's place in the file: absent values before present ones, the highest SNR first."""
        values = self._replace(snr_db=None if self.snr_db is None else -self.snr_db)
        return tuple((False,) if value is None else (True, value) for value in values)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultRow:
    """One utterance as one system recognised it in one condition by one modality; the fields are in the order of the file.

    sha256, search: the weights, and how texts are searched; None for systems that do not say.  modality: see
    names.MODALITIES.  labels: those of the manifest.  noise, snr_db: None where the sound is clean or not used.
    snr_achieved, snr_rms: measured on the mixture in dB, with the level asked for and by plain RMS.  noise_id, noise_offset:
    the row of the noise manifest and the first sample of its recording.  corruption, amount: None where the video is intact
    or not used.  face: id of the utterance whose face was shown instead.  video_reliability: 0 to 1, as the model estimates
    it.  gate: mean opening of the gates through which video enters.  loss: of the reference, in nats a token.
    extra: fields that this version does not know; they are kept.
    """

    layout: int = LAYOUT
    system: str
    sha256: str | None = None
    modality: str
    search: str | None = None
    id: str
    speaker: str | None = None
    split: str | None = None
    labels: dict[str, Any] = field(default_factory=dict)
    reference: str
    hypothesis: str
    normaliser: str = NORMALISER
    noise: str | None = None
    snr_db: float | None = None
    snr_achieved: float | None = None
    snr_rms: float | None = None
    noise_id: str | None = None
    noise_offset: int | None = None
    corruption: str | None = None
    amount: float | None = None
    face: str | None = None
    video_reliability: float | None = None
    gate: float | None = None
    loss: float | None = None
    duration_s: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """What the row measured."""
        return Key(self.system, self.modality, self.noise, self.snr_db, self.corruption, self.amount, self.id)

    def line(self) -> str:
        """The row as it stands in the file."""
        return json_line({name: getattr(self, name) for name in FIELD_TYPES} | self.extra)

    @classmethod
    def parse(cls, line: str, where: str) -> ResultRow:
        """Read a line of a file; an earlier version may have written it. Raises BadManifest, which begins with `where`."""
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadManifest(f"{where}: not JSON ({error}).  Take the line out, or run the benchmark again.") from error
        if not isinstance(values, dict):
            raise BadManifest(f"{where}: a {type(values).__name__}, not a row.  Take the line out, or run the benchmark again.")
        values: dict[str, Any] = {FORMER_NAMES.get(name, name): value for name, value in values.items()}
        for name, types in FIELD_TYPES.items():
            if type(values[name]) not in types if name in values else name in REQUIRED_FIELDS:
                found = f"is {json.dumps(values[name])}" if name in values else "is not there"
                raise BadManifest(f"{where}: {name} {found}.  A row needs {', '.join(REQUIRED_FIELDS)}; see avsr/results.py.")
        if values["layout"] != LAYOUT:
            raise BadManifest(f"{where}: rows of layout {values['layout']}, and this version reads {LAYOUT}.  Use the version "
                              "of avsr that wrote them.")
        known: dict[str, Any] = {name: values.pop(name) for name in FIELD_TYPES if name in values}
        known["normaliser"] = present_normaliser(known["normaliser"])
        return cls(**known, extra={name: value for name, value in values.items() if value is not None})


def _json_types(hint: Any) -> tuple[type, ...]:
    """The Python types of JSON values that a field may hold: a float may be written as a whole number."""
    types = get_args(hint) if get_origin(hint) is UnionType else (get_origin(hint) or hint,)
    return (*types, int) if float in types else types


FIELD_TYPES = {name: _json_types(hint) for name, hint in get_type_hints(ResultRow).items() if name != "extra"}


def read_results(path: str | Path) -> tuple[list[ResultRow], int]:
    """The rows of a file, or of the file in a folder, and how many were cut off at its end: 0, or 1 after a crash.

    The file may be compressed: results.jsonl.gz is read where there is no results.jsonl.
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
    rows: list[ResultRow] = []
    seen: dict[Key, int] = {}
    for number, line in enumerate(whole.split("\n") if whole else [], 1):
        row = ResultRow.parse(line, f"{path}, line {number}")
        if (first := seen.setdefault(row.key, number)) != number:
            raise BadManifest(f"{path}, line {number}: {row.id} is there already, in line {first}, of the same system, "
                              "modality and condition.  Take one of them out.")
        rows.append(row)
    return rows, int(bool(rest.strip()))


def _unpacked(path: Path, data: bytes) -> bytes:
    """A gzip file's content. Raises BadManifest above MAX_UNPACKED: a few kB can hold gigabytes of zeros."""
    with gzip.GzipFile(fileobj=BytesIO(data)) as file:
        out = file.read(MAX_UNPACKED + 1)
    if len(out) > MAX_UNPACKED:
        raise BadManifest(f"{path}: holds over {MAX_UNPACKED // 2**20} MiB of rows.  Unpack it with gunzip if they are yours.")
    return out


class Results:
    """The rows of a benchmark while it runs. A row that a crash cut off is computed again; `n_cut` counts it."""

    def __init__(self, folder: Path):
        self.path, self.n_cut = folder / NAME, 0
        rows: list[ResultRow] = []
        if self.path.exists():
            rows, self.n_cut = read_results(self.path)
        self.by_key = {row.key: row for row in rows}
        if self.n_cut:
            self.sort()

    def __contains__(self, key: Key) -> bool:
        return key in self.by_key

    def __len__(self) -> int:
        return len(self.by_key)

    def check(self, facts: Mapping[str, Any]) -> None:
        """Raises BadOutput where the file has rows of facts["system"] that were made in another way."""
        for row in self.by_key.values():
            if row.system != facts["system"]:
                continue
            for name in INVARIANT_FIELDS:
                if name in facts and (value := getattr(row, name)) != facts[name]:
                    raise BadOutput(f"{self.path}: its rows of {row.system} have {name} {_short(value)}, and now it is "
                                    f"{_short(facts[name])}.  Use another --output-dir.")

    def check_same(self, row: ResultRow) -> None:
        """Raises BadOutput where the file has a row with the same key that says something else."""
        there = self.by_key.get(row.key)
        if there is not None and there != row:
            raise BadOutput(f"{self.path}: {row.id} by {row.system} is there already, with the text {there.hypothesis!r}, and "
                            f"now it is {row.hypothesis!r}.  Use another --output-dir.")

    def add(self, rows: Sequence[ResultRow]) -> None:
        """Append to the file at once. Raises BadOutput."""
        self.by_key |= {row.key: row for row in rows}
        append(self.path, (row.line() for row in rows))

    def sort(self) -> None:
        """Write the file in its order, which does not depend on which rows were computed first. Raises BadOutput."""
        try:
            with whole_file(self.path, alone=True) as fresh, fresh.open("w", encoding="utf-8") as file:
                file.writelines(self.by_key[key].line() for key in sorted(self.by_key, key=lambda key: key.order))
        except OSError as error:
            raise _unwritable(self.path, error) from error


def append(path: Path, lines: Iterable[str]) -> None:
    """Append lines to a file, all of them or none; a line that a crash cut off is dropped. Raises BadOutput."""
    try:
        append_lines(path, "".join(lines))
    except OSError as error:
        raise _unwritable(path, error) from error


def json_line(values: Mapping[str, Any]) -> str:
    """A line of a JSON Lines file."""
    return json.dumps(values, ensure_ascii=False) + "\n"


def _unwritable(path: Path, error: OSError) -> BadOutput:
    return BadOutput(f"{path}: it cannot be written ({error.strerror}).  Choose another folder, or make room.")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 16 else f"{text[:12]}..."
