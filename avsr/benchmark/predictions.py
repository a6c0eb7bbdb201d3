"""Predictions of other systems for the same test set: a file in, rows like ours out, so that the same code scores them.

    predictions.jsonl | .csv | .tsv  +  utterances of the manifest  ->  ResultRow
A line needs `id` and `hypothesis`. `system`, `modality`, `noise`, `snr_db`, `corruption`, `amount` and `duration_s` are
optional: by default the system is the file's name, and the hypothesis is of clean sound alone. A line of the index that
`--save-audio` writes becomes one when the hypothesis is added. References, speakers and labels come from the manifest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from avsr.benchmark.conditions import group_labels
from avsr.errors import BadManifest, quote
from avsr.manifest import Utterance
from avsr.names import MODALITIES
from avsr.rates import SAMPLE_RATE
from avsr.results import FIELD_TYPES, FORMER_NAMES, Key, ResultRow
from avsr.text import NORMALISER, normalise, present_normaliser
from avsr.textfiles import read_table

NEEDED = ("id", "hypothesis")
# Known from our own rows and from audio.jsonl, and ignored: the manifest is the better source, or they tell of our model.
UNUSED = ("file", "layout", "sha256", "search", "speaker", "split", "labels", "video_reliability", "gate", "loss", "heed",
          *FORMER_NAMES)
FIELDS = (*NEEDED, *(name for name in FIELD_TYPES if name not in (*NEEDED, *UNUSED)))
TYPE_NAMES = {str: "text", float: "a number", int: "a whole number"}
SHOWN = 3                                                   # ids named in a message; the others are counted


class _WrongLine(ValueError):
    """Describes what is wrong with a line, without its file and number."""


def read_predictions(path: str | Path, utterances: Sequence[Utterance], *, split: str | None = None,
                     silent: Collection[str] = ()) -> list[ResultRow]:
    """The rows of a file of predictions, in its order.

    split: of the rows; that of each utterance if None.  silent: ids of silent utterances, which may be missing in noise.
    Raises BadManifest with file and line for every mistake, and where utterances are missing.
    """
    path = Path(path)
    known = {one.id: one for one in utterances}
    lines: dict[Key, int] = {}
    unknown: dict[str, int] = {}
    rows: list[ResultRow] = []
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        try:
            values = _values(line)
            if values["id"] not in known:
                unknown.setdefault(values["id"], number)
                continue
            row = _row(values, known[values["id"]], path.stem, split)
        except _WrongLine as error:
            raise BadManifest(f"{where}: {error}") from error
        if (first := lines.setdefault(row.key, number)) != number:
            raise BadManifest(f"{where}: {row.id} is there already, in line {first}, of the same system and condition "
                              f"({_named(row.key)}).  Take one of them out.")
        rows.append(row)
    if unknown:
        first = ", ".join(f"{one!r} in line {number}" for one, number in list(unknown.items())[:SHOWN])
        raise BadManifest(f"{path}: ids that are not among the {len(known)} utterances measured: {len(unknown)}, {first}"
                          f"{', ...' if len(unknown) > SHOWN else ''}.  One that is: {min(known, default='none')!r}.  Name the "
                          "right split, or take the lines out.")
    if not rows:
        raise BadManifest(f"{path}: no predictions in it.  Write a line with id and hypothesis for each utterance.")
    if gaps := _missing(rows, utterances, silent):
        condition, ids = next(iter(gaps.items()))
        raise BadManifest(f"{path}: predictions missing: {sum(map(len, gaps.values()))}; of {condition} {len(ids)} of the "
                          f"{len(known)} utterances, {', '.join(ids[:SHOWN])}{', ...' if len(ids) > SHOWN else ''}"
                          f"{f'; and of {len(gaps) - 1} other conditions' if len(gaps) > 1 else ''}.  Add them, with an empty "
                          "hypothesis where nothing was recognised.")
    return rows


def _missing(rows: Iterable[ResultRow], utterances: Sequence[Utterance], silent: Collection[str]) -> dict[str, list[str]]:
    """Ids of utterances without a row, by system and condition in words, for those that have rows but lack some."""
    present: dict[str, set[str]] = defaultdict(set)
    noisy = {}
    for row in rows:
        name = _named(row.key)
        present[name].add(row.id)
        noisy[name] = row.noise is not None
    out = {}
    for name, ids in present.items():
        excused = set(silent) if noisy[name] else set()
        if gaps := [one.id for one in utterances if one.id not in ids and one.id not in excused]:
            out[name] = gaps
    return out


# --- lines ---

def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The number and values of each line that is not empty; an empty cell is absent, except for a hypothesis."""
    try:
        table = read_table(path, NEEDED, [*FIELDS, *UNUSED])
    except OSError as error:
        raise BadManifest(f"{path}: it cannot be read ({error.strerror or error}).  Name a file of predictions: JSON Lines, "
                          ".csv or .tsv.") from error
    for number, row in table.rows:
        yield number, row if table.typed else {name: _cell(name, cell) for name, cell in row.items()
                                               if cell or name == "hypothesis"}


def _kind(name: str) -> type:
    """What a field holds: str, float or int."""
    return next(kind for kind in TYPE_NAMES if kind in FIELD_TYPES[name])


def _cell(name: str, cell: str) -> str | float:
    """A number where the column holds numbers and the cell can be read as one, else the text."""
    if name not in FIELDS or _kind(name) is str:
        return cell
    try:
        return float(cell)
    except ValueError:
        return cell


# --- values ---

def _values(line: Mapping[str, Any]) -> dict[str, Any]:
    for name in line:
        if name not in FIELDS and name not in UNUSED:
            nearest = get_close_matches(name, FIELDS, 1)
            raise _WrongLine(f"unknown key {name!r}.  " + (f"Did you mean {nearest[0]}?" if nearest else
                                                           f"Known are {', '.join(FIELDS)}; take it out."))
    for name in NEEDED:
        if line.get(name) is None:
            raise _WrongLine(f"no {name}.  A line needs {' and '.join(NEEDED)}; write \"\" where nothing was recognised.")
    return {name: _value(name, line.get(name)) for name in FIELDS}


def _value(name: str, value: Any) -> Any:
    kind = _kind(name)
    if value is None:
        return None
    if kind is str and isinstance(value, str):
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise _WrongLine(f"{name} holds half a surrogate pair.  Write the letter itself.")
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12     # so no NaN either
    if kind is float and number:
        return float(value) + 0.0                           # -0.0 is 0.0
    if kind is int and number and value == int(value):
        return int(value)
    raise _WrongLine(f"{name} is {quote(value)}, it must be {TYPE_NAMES[kind]}.  Correct it.")


def _row(values: dict[str, Any], utterance: Utterance, system: str, split: str | None) -> ResultRow:
    """The row of a line; reference, speaker and labels come from the manifest."""
    _check(values, utterance)
    mixed = ("noise", "snr_db", "snr_achieved", "snr_rms", "noise_id", "noise_offset", "corruption", "amount", "face")
    return ResultRow(
        system=values["system"] or system, modality=values["modality"] or "a", id=utterance.id, speaker=utterance.speaker,
        split=split or utterance.split, labels=group_labels(utterance.labels), reference=utterance.text,
        hypothesis=values["hypothesis"], **{name: values[name] for name in mixed},
        duration_s=_duration(utterance) if values["duration_s"] is None else values["duration_s"])


def _check(values: dict[str, Any], utterance: Utterance) -> None:
    """Check that a line is consistent, agrees with the manifest and has our normaliser. Raises _WrongLine."""
    if (modality := values["modality"] or "a") not in MODALITIES:
        raise _WrongLine(f"modality is {modality!r}.  Use a (sound), v (video), av (both) or none (neither).")
    if present_normaliser(values["normaliser"]) not in (None, NORMALISER):
        raise _WrongLine(f"its text is to be compared by the normaliser {values['normaliser']!r}, and rows here by "
                         f"{NORMALISER!r}.  Give the text as the system wrote it, without normaliser.")
    if (values["noise"] is None) != (values["snr_db"] is None):
        present, absent = ("noise", "snr_db") if values["snr_db"] is None else ("snr_db", "noise")
        raise _WrongLine(f"{present} is {quote(values[present])} and there is no {absent}.  Give both, or leave both out "
                         "where it is clean.")
    if values["amount"] is not None and values["corruption"] is None:
        raise _WrongLine(f"amount is {values['amount']:g} and there is no corruption.  Name it, or leave amount out.")
    for letter, name in (("a", "noise"), ("v", "corruption")):
        if letter not in modality and values[name] is not None:
            raise _WrongLine(f"modality is {modality!r}, which {name} {values[name]!r} does not affect.  Give such a line "
                             f"once, without {name}, or correct modality.")
    if values["duration_s"] is not None and values["duration_s"] <= 0:
        raise _WrongLine(f"duration_s is {values['duration_s']:g}, it must be above 0.  Correct it, or leave it out.")
    if values["reference"] is not None and normalise(values["reference"]) != normalise(utterance.text):
        raise _WrongLine(f"reference is {quote(values['reference'])}, and the manifest has {quote(utterance.text)} for "
                         f"{utterance.id}.  Is it of the same test set?  If so, leave reference out.")


def _duration(utterance: Utterance) -> float | None:
    if utterance.cache is not None and utterance.cache.n_samples:
        return round(utterance.cache.n_samples / SAMPLE_RATE, 3)
    return None if utterance.end is None else round(utterance.end - (utterance.start or 0.0), 3)


def _named(key: Key) -> str:
    """The system and condition of a row in words, different for each."""
    return ", ".join(f"{name} {value}" if isinstance(value, float) else value
                     for name, value in key._asdict().items() if value is not None and name != "id")
