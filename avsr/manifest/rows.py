"""Rows of a manifest: `Utterance` <-> one line of JSON, checked strictly, with errors that name the line; and splits.

    manifest.jsonl -> list[Utterance] -> manifest.jsonl
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import stat
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path

from avsr import remote
from avsr.errors import BadManifest, quote
from avsr.output import write_file
from avsr.textfiles import NotText, decode, no_number

MANIFEST_NAME = "manifest.jsonl"
MAX_EXACT_INTEGER = 2 ** 53  # whole numbers below this are exact in all readers of JSON


@dataclass(frozen=True)
class TimedWord:
    """A word and when it was said, in seconds from the start of the utterance."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class CacheEntry:
    """The place of an utterance's mouths and audio: bytes `offset` to `offset + size` of a shard (a tar file).

    shard: path relative to the manifest. n_frames: video frames; n_samples: audio samples. modality: what is stored, av, v, or
    a (n_frames then cover the audio).
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
    """What the reader of a corpus found: utterances with absolute media paths, and what it could not use."""

    utterances: list[Utterance]
    dropped: list[Dropped]


class _BadRow(ValueError):
    """A line is wrong; the message does not name its file and number."""


def manifest_path(path: str | Path) -> Path:
    """The file of a manifest: the path itself, or manifest.jsonl in it if it is a folder, as `avsr prepare` writes it.

    An address without a suffix is a folder. An address in a Path has lost a slash, which remote.as_address gives back.
    """
    if (address := remote.as_address(path)) is not None:
        return Path(address if Path(address).suffix else f"{address.rstrip('/')}/{MANIFEST_NAME}")
    path = Path(path)
    return path / MANIFEST_NAME if path.is_dir() else path


def read(path: str | Path) -> list[Utterance]:
    """All utterances of a manifest, which may be named by its folder. Raises BadManifest, which names the file and the first
    line that is not well formed."""
    path = manifest_path(path)
    name = remote.shown(path)
    lines: dict[str, int] = {}
    out = []
    for number, line in enumerate(_bytes(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            utterance = _utterance(_json(line))
        except _BadRow as error:
            raise BadManifest(f"{name}: line {number}: {error}") from error
        if utterance.id in lines:
            raise BadManifest(f"{name}: line {number}: id {utterance.id!r} is already that of line {lines[utterance.id]}.  "
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


def split(utterances: Iterable[Utterance], name: str, *, ids: Collection[str] | None = None, fraction: float = 0.0,
          among: str | None = None, seed: int = 0) -> list[Utterance]:
    """The same utterances, with some of them in the split `name`.

    ids: the utterances to choose; None chooses a fraction of each speaker's, those that `shuffled` puts first. among: choose
    only from this split.
    """
    utterances = list(utterances)
    pool = [utterance for utterance in utterances if among is None or utterance.split == among]
    chosen = set() if ids is None else set(ids) & {utterance.id for utterance in pool}
    if ids is None:
        assert 0 <= fraction <= 1, fraction
        groups = defaultdict(list)
        for utterance in pool:
            groups[utterance.speaker].append(utterance.id)
        chosen = {id_ for group in groups.values() for id_ in shuffled(group, seed)[:round(fraction * len(group))]}
    return [replace(utterance, split=name) if utterance.id in chosen else utterance for utterance in utterances]


def draw_valid(utterances: Iterable[Utterance], share: float, seed: int = 0) -> list[Utterance]:
    """The same utterances, with a share of split `train` moved to split `valid`, if that has no utterance yet.

    The share, from 0 to 1, is drawn from each speaker by `shuffled`. If that is less than one utterance of every speaker, one
    of all is drawn; at least one is left to train on. A corpus with one training utterance and a share of 0 change nothing.
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
    """The ids in a random order that depends on the seed and each id alone: new ids do not change the order of the others."""
    return sorted(ids, key=lambda id_: hashlib.sha256(f"{seed} {id_}".encode()).digest())


def _bytes(path: Path) -> bytes:
    """The bytes of a manifest, as UTF-8 without a byte order mark. Raises BadManifest."""
    if (address := remote.as_address(path)) is not None:
        return _fetched(address)
    named = Path(os.path.normpath(path))                     # `a/../b`, of a config's folder and its paths, is hard to read
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


def _fetched(address: str) -> bytes:
    """The bytes of a manifest at an address. Raises BadManifest."""
    try:
        return remote.read_bytes(address)
    except ImportError as error:
        raise BadManifest(f"{remote.shown(address)}: a package is missing to read it ({error}).  Install it with: pip install "
                          "'avsr[storage]'.") from error
    except Exception as error:                               # each kind of storage has errors of its own
        raise BadManifest(f"{remote.shown(address)}: cannot be read ({remote.reason(error)}).  Check the address and your "
                          "credentials, or make it with avsr prepare.") from error


def _line(utterance: Utterance) -> str:
    """The line of an utterance, with its end; fields with their default value are left out."""
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
        line.encode()                                        # raises an error for a file name that is not UTF-8
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
        if not 0 <= cache[key] < MAX_EXACT_INTEGER:
            raise _BadRow(f"cache.{key} is {quote(cache[key])}, it must be from 0 to 2^53.  Run avsr prepare again.")
    if not is_within_folder(cache["shard"]):
        raise _BadRow(f"cache.shard is {quote(cache['shard'])}, but shards lie beside their manifest or in folders below it.  "
                     "Copy the shard there, or run avsr prepare again.")
    return CacheEntry(**cache)


def is_within_folder(shard: str) -> bool:
    """Whether the name of a shard stays within the folder of the manifest, so that a stranger's manifest reads no other
    files."""
    return "\0" not in shard and "://" not in shard and all(part not in ("", "..") for part in shard.split("/"))


def _word(row: object, where: str) -> TimedWord:
    if not isinstance(row, dict):
        raise _BadRow(f"{where[:-1]} is {quote(row)}, it must be an object with text, start and end.  Correct it.")
    word = TimedWord(**_fields(TimedWord, row, where))
    _span(word.start, word.end, where, proper=False)
    return word


def _span(start: float, end: float | None, where: str, proper: bool) -> None:
    """Check that the end is not before the start, and with `proper` that it is after it. Raises _BadRow."""
    if start < 0:
        raise _BadRow(f"{where}start is {start:g} s, it must not be negative.  Times count from 0.")
    if end is not None and (end < start or (proper and end == start)):
        raise _BadRow(f"{where}end is {end:g} s, which does not come after its start of {start:g} s.  Swap or correct them.")


JSON_TYPES = {"str": str, "float": float, "int": int, "tuple": list, "dict": dict, "CacheEntry": dict}
NAMES = {str: "text", float: "a number", int: "a whole number", list: "a list", dict: "an object"}


def _fields(kind: type, row: dict, where: str) -> dict:
    """The values of a row by field name, each with the type of its field. Raises _BadRow."""
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
    kind = JSON_TYPES[annotation.removesuffix(" | None").partition("[")[0]]
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12:
        return float(value)
    if not isinstance(value, kind) or isinstance(value, bool) or kind is float:
        raise _BadRow(f"{where} is {quote(value)}, it must be {NAMES[kind]}.  Correct it.")
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise _BadRow(f"{where} holds half a surrogate pair.  Write the letter itself.")
    return value
