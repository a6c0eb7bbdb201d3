"""The rows: `Utterance` <-> one line of JSON, strictly, with a message that names the line; and splits.

    manifest.jsonl -> list[Utterance] -> manifest.jsonl
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import os
import stat
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path

from avsr.errors import BadManifest, BadOutput, quote
from avsr.output import write_file
from avsr.textfiles import NotText, decode, no_number

NAME = "manifest.jsonl"
MOST = 2 ** 53                                              # of a whole number: all readers of JSON hold it exactly


@dataclass(frozen=True)
class TimedWord:
    """A word and when it was said, in seconds from the start of the utterance."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class CacheEntry:
    """Where an utterance's mouths and sound lie: bytes `offset` to `offset + size` of a shard (a tar file).

    shard: path relative to the manifest. n_frames: video frames; n_samples: sound samples. modality: what is there, av, a
    (n_frames then cover the sound) or v.
    """

    shard: str
    offset: int
    size: int
    n_frames: int
    n_samples: int
    modality: str = "av"


@dataclass(frozen=True)
class Utterance:
    """One line of a manifest.

    id: unique in the manifest. media: path of the recording, relative to the manifest (or absolute, or a URL).
    start, end: the part of the recording in seconds, None for its whole. text: as it is to be written.
    words: times of words where they are known. labels: whatever else is known of it (sex, accent, ...), for
    reports by group. cache: None until prepared.
    """

    id: str
    media: str
    text: str
    speaker: str | None = None
    split: str = "train"
    language: str = "en"
    start: float | None = None
    end: float | None = None
    words: tuple[TimedWord, ...] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    cache: CacheEntry | None = None


@dataclass(frozen=True)
class Dropped:
    """Something that could not be used, and why. item: a path, or an id where no file is there."""

    item: str
    reason: str


@dataclass(frozen=True)
class Corpus:
    """What a reader found: utterances with absolute media paths, and what it could not use."""

    utterances: list[Utterance]
    dropped: list[Dropped]


class _BadRow(ValueError):
    """What is wrong with a line, without its file and number."""


def manifest_path(path: str | Path) -> Path:
    """A manifest's file: the path itself, or manifest.jsonl in it where it is a folder, as `avsr prepare` leaves it."""
    path = Path(path)
    return path / NAME if path.is_dir() else path


def read(path: str | Path) -> list[Utterance]:
    """All utterances of a manifest, which may be named by its folder. Raises BadManifest, naming file and line, at the first
    that is not well formed."""
    path = manifest_path(path)
    lines: dict[str, int] = {}
    out = []
    for number, line in enumerate(_bytes(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            utterance = _utterance(_json(line))
        except _BadRow as error:
            raise BadManifest(f"{path}: line {number}: {error}") from error
        if utterance.id in lines:
            raise BadManifest(f"{path}: line {number}: id {utterance.id!r} is already that of line {lines[utterance.id]}.  "
                              "Remove one of the two lines.")
        lines[utterance.id] = number
        out.append(utterance)
    return out


def write(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest under a temporary name, then rename it. Raises BadManifest for an id that comes twice, BadOutput."""
    utterances, path = list(utterances), Path(path)
    seen: set[str] = set()
    for utterance in utterances:
        if utterance.id in seen:
            raise BadManifest(f"{path}: two utterances have the id {utterance.id!r}.  Ids must be unique: rename one.")
        seen.add(utterance.id)
    write_file(path, "".join(_line(utterance) for utterance in utterances).encode(), remedy="Choose another place.")


def append(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Add whole lines to a manifest. A last line that a crash cut in half stays a line of its own, which `read` names."""
    path = Path(path)
    try:
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write("".join(_line(utterance) for utterance in utterances).encode())
    except OSError as error:
        raise BadOutput(f"{path}: cannot be added to ({error.strerror or error}).  Choose another place.") from error



def split(utterances: Iterable[Utterance], name: str, *, ids: Collection[str] | None = None,
          speakers: Collection[str] | None = None, fraction: float | None = None, among: str | None = None,
          seed: int = 0) -> list[Utterance]:
    """The same utterances, those chosen put into the split `name`.

    Chosen are those with one of `ids`, those of one of `speakers`, or of each speaker that `fraction` of utterances
    which `shuffled` puts first; with `among`, only from that split. Raises BadManifest for ids or speakers not there.
    """
    utterances = list(utterances)
    assert sum(choice is not None for choice in (ids, speakers, fraction)) == 1, "one way of choosing"
    pool = [utterance for utterance in utterances if among is None or utterance.split == among]
    if fraction is not None:
        assert 0 <= fraction <= 1, fraction
        groups = defaultdict(list)
        for utterance in pool:
            groups[utterance.speaker].append(utterance.id)
        chosen = {id_ for group in groups.values() for id_ in shuffled(group, seed)[:round(fraction * len(group))]}
    else:
        what, asked = ("id", ids) if ids is not None else ("speaker", speakers)
        there = {getattr(utterance, what) for utterance in pool}
        if absent := sorted(set(asked) - there):
            raise BadManifest(f"split {name}: {len(absent)} of {len(set(asked))} {what}s are not there, as {absent[0]!r}.  "
                              f"Correct the list; there is {min(map(str, there), default='nothing')!r}, for one.")
        chosen = {utterance.id for utterance in pool if getattr(utterance, what) in set(asked)}
    return [replace(utterance, split=name) if utterance.id in chosen else utterance for utterance in utterances]


def draw_valid(utterances: Iterable[Utterance], share: float, seed: int = 0) -> list[Utterance]:
    """The same utterances, a share of those in split `train` put into split `valid`, where no utterance is in it yet.

    The share, from 0 to 1, is drawn of each speaker by `shuffled`; where that is less than one utterance of every speaker, one
    of all is drawn, and one stays to be trained on. A corpus of one training utterance, and a share of 0, change nothing.
    """
    utterances = list(utterances)
    training = [utterance.id for utterance in utterances if utterance.split == "train"]
    if not share or len(training) < 2 or any(utterance.split == "valid" for utterance in utterances):
        return utterances
    drawn = split(utterances, "valid", fraction=share, among="train", seed=seed)
    n_drawn = sum(utterance.split == "valid" for utterance in drawn)
    if 0 < n_drawn < len(training):
        return drawn
    return split(utterances, "valid", ids=shuffled(training, seed)[:min(max(n_drawn, 1), len(training) - 1)], among="train")


def shuffled(ids: Iterable[str], seed: int) -> list[str]:
    """Ids in an order of chance that depends on the seed and on each id alone: new ids do not reshuffle the old."""
    return sorted(ids, key=lambda id_: hashlib.sha256(f"{seed} {id_}".encode()).digest())


def _bytes(path: Path) -> bytes:
    """What is in a manifest, as UTF-8 without a mark. Raises BadManifest."""
    named = Path(os.path.normpath(path))                     # `a/../b` of a config's folder and its paths is hard to read
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):                           # a pipe would be waited for, a device might have no end
            raise BadManifest(f"{named}: a pipe or a device, not a file.  Name a manifest (JSON Lines) beside its shards.")
        data = path.read_bytes()
    except OSError as error:
        raise BadManifest(f"{named}: cannot be read ({error.strerror or error}).  Make it with avsr prepare, or name another "
                          "manifest or its folder.") from error
    if path.suffix.lower() in (".csv", ".tsv"):
        raise BadManifest(f"{named}: a table, and a manifest (JSON Lines) is needed.  Make one of it: avsr prepare folder "
                          f"{named} FOLDER.")
    if not data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data
    try:
        return decode(data).encode()
    except NotText as error:
        raise BadManifest(f"{named}: {error}.  Save the file as UTF-8.") from error


def _line(utterance: Utterance) -> str:
    """One line with its end; fields that have their default are left out."""
    row = {}
    for f in fields(Utterance):
        value = getattr(utterance, f.name)
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        if value != default:
            row[f.name] = value
    if "words" in row:
        row["words"] = [asdict(word) for word in row["words"]]
    if "cache" in row:
        row["cache"] = asdict(row["cache"])
    try:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        line.encode()                                        # fails for a file's name in another encoding than UTF-8
    except ValueError as error:
        raise BadManifest(f"utterance {utterance.id!a}: cannot be written as JSON ({error}).  Rename its file, or correct "
                          "its times.") from error
    return line


def _json(line: bytes) -> dict:
    try:
        row = json.loads(line.decode(), parse_constant=no_number)
    except UnicodeDecodeError as error:
        raise _BadRow(f"byte {error.start} is no UTF-8.  Save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise _BadRow(f"no JSON from column {error.colno} on ({error.msg}), as of a line cut in half.  "
                     "Write it anew or delete it.") from error
    except (ValueError, RecursionError) as error:
        raise _BadRow(f"no JSON that can be used ({error}).  Write the line anew or delete it.") from error
    if not isinstance(row, dict):
        raise _BadRow(f"a {type(row).__name__}, where an object in braces belongs.  Write one utterance a line.")
    return row


def _utterance(row: dict) -> Utterance:
    values = _fields(Utterance, row, "")
    if not values["id"]:
        raise _BadRow("its id is empty.  Give every utterance an id of its own.")
    _span(values.get("start") or 0.0, values.get("end"), "", proper=True)
    if values.get("words") is not None:
        values["words"] = tuple(_word(word, f"words[{i}].") for i, word in enumerate(values["words"]))
    for key, label in values.get("labels", {}).items():
        if not isinstance(label, str):
            raise _BadRow(f"labels.{key} is {quote(label)}, it must be text.  Put it in quotes.")
    if values.get("cache") is not None:
        values["cache"] = _cache(values["cache"])
    return Utterance(**values)


def _cache(row: dict) -> CacheEntry:
    cache = _fields(CacheEntry, row, "cache.")
    for key in ("offset", "size", "n_frames", "n_samples"):
        if not 0 <= cache[key] < MOST:
            raise _BadRow(f"cache.{key} is {quote(cache[key])}, it must be from 0 to 2^53.  Run avsr prepare again.")
    if not is_within_folder(cache["shard"]):
        raise _BadRow(f"cache.shard is {quote(cache['shard'])}, but shards lie beside their manifest or in folders below it.  "
                     "Copy the shard there, or run avsr prepare again.")
    return CacheEntry(**cache)


def is_within_folder(shard: str) -> bool:
    """Whether a shard's name stays within the folder of its manifest: a manifest of somebody else's reads no other files."""
    return "\0" not in shard and "://" not in shard and all(part not in ("", "..") for part in shard.split("/"))


def _word(row: object, where: str) -> TimedWord:
    if not isinstance(row, dict):
        raise _BadRow(f"{where[:-1]} is {quote(row)}, it must be an object with text, start and end.  Correct it.")
    word = TimedWord(**_fields(TimedWord, row, where))
    _span(word.start, word.end, where, proper=False)
    return word


def _span(start: float, end: float | None, where: str, proper: bool) -> None:
    """Times that run forward; with `proper` the end comes after the start, not with it."""
    if start < 0:
        raise _BadRow(f"{where}start is {start:g} s, it must not be negative.  Times count from 0.")
    if end is not None and (end < start or (proper and end == start)):
        raise _BadRow(f"{where}end is {end:g} s, which does not come after its start of {start:g} s.  Swap or correct them.")


KINDS = {"str": str, "float": float, "int": int, "tuple": list, "dict": dict, "CacheEntry": dict}
NAMES = {str: "text", float: "a number", int: "a whole number", list: "a list", dict: "an object"}


def _fields(kind: type, row: dict, where: str) -> dict:
    """The values of a row by field name, each of its field's type; null where the field may be None."""
    known = {f.name: f for f in fields(kind)}
    for key in row:
        if key not in known:
            nearest = get_close_matches(key, known, 1)
            hint = f"Did you mean {where}{nearest[0]}?" if nearest else f"Known: {', '.join(known)}; all else goes into labels."
            raise _BadRow(f"unknown key {where}{key}.  {hint}")
    if absent := [name for name, f in known.items()
                  if f.default is MISSING and f.default_factory is MISSING and name not in row]:
        raise _BadRow(f"{where}{absent[0]} is missing.  Every line needs {', '.join(absent)}.")
    return {key: _value(value, str(known[key].type), where + key) for key, value in row.items()}


def _value(value: object, annotation: str, where: str) -> object:
    if value is None and annotation.endswith("| None"):
        return None
    kind = KINDS[annotation.removesuffix(" | None").partition("[")[0]]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and number and abs(value) < 1e12 and math.isfinite(value):
        return float(value)
    if not isinstance(value, kind) or isinstance(value, bool) or kind is float:
        raise _BadRow(f"{where} is {quote(value)}, it must be {NAMES[kind]}.  Correct it.")
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise _BadRow(f"{where} holds half a surrogate pair.  Write the letter itself.")
    return value
