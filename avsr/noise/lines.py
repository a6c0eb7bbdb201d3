"""The lines of a noise manifest: a header, noise families, and a row for each utterance and family, as checked dicts.

    {"layout": 1, "kind": "noise manifest", "sample_rate": ..., "level": "active", "fade": "equal-power", ...}
    {"family": "babble", "kind": "talkers", "n_talkers": "all", "talkers": {...}}
    {"id": "s1-bbaf3s", "noise": "babble", "seed": ..., "gain": ..., "streams": [[{"file": ..., "sha256": ...}]], ...}
data/README.md explains each field, and how to make the noise from them without this program.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from avsr import __version__
from avsr.errors import BadManifest
from avsr.noise.mixing import LEVELS
from avsr.noise.plans import Cut, Generated, NoisePlan, Sound
from avsr.rates import SAMPLE_RATE

LAYOUT = 1
KIND = "noise manifest"
FADE_SHAPE = "equal-power"
START = f'{{"layout": {LAYOUT}, "kind": "{KIND}"'          # how every manifest starts
REMEDY = "Delete it to draw the noise anew, or choose another output folder."
FIELDS = ("id", "speaker", "noise", "seed", "n_samples", "speech_sha256", "speech_db", "speech_rms_db", "gain", "noise_rms_db",
          "talkers", "streams", "noise_id")

JsonRow = dict[str, Any]


def header(level: str) -> JsonRow:
    """The first line. numpy: the version whose random generator makes computed noise."""
    return {"layout": LAYOUT, "kind": KIND, "sample_rate": SAMPLE_RATE, "level": level, "fade": FADE_SHAPE, "avsr": __version__,
            "numpy": np.__version__}


def noise_seed(noise: str, utterance: str) -> int:
    """The first 48 bits of the sha256 of "NOISE ID", so that a noise does not depend on the rest of the manifest."""
    return int.from_bytes(hashlib.sha256(f"{noise} {utterance}".encode()).digest()[:6], "big")


def noise_id(row: JsonRow) -> str:
    """The first 16 hex digits of the sha256 of the row as canonical JSON, without its noise_id and without file paths."""
    streams = [stream if isinstance(stream, dict) else [{key: value for key, value in cut.items() if key != "file"}
                                                        for cut in stream] for stream in row["streams"]]
    plain = {key: value for key, value in row.items() if key != "noise_id"} | {"streams": streams}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def line(row: JsonRow) -> str:
    """The line of a row."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


@dataclass
class Lines:
    """What a manifest holds: its header, the rows of families by name, unparsed lines by (noise, id), and the whole text.
    cut_off: the file ended in half a line, which is left out."""

    header: JsonRow
    families: dict[str, JsonRow] = field(default_factory=dict)
    lines: dict[tuple[str, str], str] = field(default_factory=dict)
    silent: dict[str, None] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)
    cut_off: bool = False

    def add(self, row: JsonRow) -> None:
        """Append a row of a family or of an utterance."""
        self.text.append(line(row))
        if "family" in row:
            self.families[row["family"]] = row
            return
        self.lines[row["noise"], row["id"]] = self.text[-1]
        if row["gain"] is None:
            self.silent[row["id"]] = None


def fresh(level: str) -> Lines:
    """A manifest with only a header."""
    first = header(level)
    return Lines(first, text=[line(first)])


def read_lines(path: Path) -> Lines | None:
    """The lines of a file; None where there is no file, or no complete header. Raises BadManifest."""
    try:
        blob, _, half = path.read_bytes().rpartition(b"\n")
        whole, rest = blob.decode(), half.decode(errors="replace")   # half a line may end in half a character
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BadManifest(f"{path}: cannot be read ({error.strerror or error}).  {REMEDY}") from error
    except UnicodeDecodeError as error:
        raise BadManifest(f"{path}: byte {error.start} is no UTF-8, so this is no noise manifest.  {REMEDY}") from error
    texts = whole.split("\n") if whole else []
    if not texts and (rest.startswith(START) or START.startswith(rest)):
        return None
    found = Lines(_header(path, texts[0] if texts else rest), text=[f"{texts[0]}\n"] if texts else [], cut_off=bool(rest))
    for number, text in enumerate(texts[1:], start=2):
        row = _parsed(path, number, text)
        if (row["noise"], row["id"]) in found.lines if "id" in row else row["family"] in found.families:
            raise BadManifest(f"{path}: line {number}: this row is there already.  {REMEDY}")
        found.add(row)
        found.text[-1] = f"{text}\n"                         # byte for byte as it was
    return found


def _header(path: Path, text: str) -> JsonRow:
    try:
        first = json.loads(text)
    except ValueError:
        first = None
    if not isinstance(first, dict) or first.get("kind") != KIND:
        raise BadManifest(f"{path}: line 1: this is no noise manifest.  Choose another output folder.")
    for key, known in {"layout": [LAYOUT], "sample_rate": [SAMPLE_RATE], "fade": [FADE_SHAPE], "level": list(LEVELS)}.items():
        if first.get(key) not in known:
            raise BadManifest(f"{path}: {key} is {first.get(key)!r}, this program knows {' and '.join(map(repr, known))}.  "
                              "Update avsr, or choose another output folder.")
    return first


def _parsed(path: Path, number: int, text: str) -> JsonRow:
    """A line of a family, or of an utterance, whose noise_id shows that it is unchanged. Raises BadManifest."""
    try:
        row = json.loads(text)
        if isinstance(row.get("family"), str):
            return row
        absent = [key for key in FIELDS if key not in row]
        if not absent and noise_id(row) == row["noise_id"]:
            return row
    except (ValueError, TypeError, AttributeError) as error:
        raise BadManifest(f"{path}: line {number}: no row of a noise manifest ({error}).  {REMEDY}") from error
    problem = f"{absent[0]} is missing" if absent else f"it was changed: its noise_id is not {row['noise_id']}"
    raise BadManifest(f"{path}: line {number}: {problem}.  {REMEDY}")


def described_streams(plan: NoisePlan, place: Callable[[Sound], JsonRow]) -> list:
    """The streams of a plan as JSON. place: returns the name of a recording in a row."""
    def described(stream: tuple[Cut, ...] | Generated) -> list[JsonRow] | JsonRow:
        if isinstance(stream, Generated):
            shape = {"spectrum": "family"} if stream.power is not None else {"exponent": stream.exponent}
            return {"generator": "gaussian", "seed": stream.seed, "n_fft": stream.n_fft, **shape}
        return [{**place(cut.sound), "offset": cut.offset, "length": cut.length, "gain": cut.gain, "fade": cut.fade}
                for cut in stream]

    return [described(stream) for stream in plan.streams]


def parsed_plan(row: JsonRow, family: Mapping[str, Any], find: Callable[[JsonRow], Sound]) -> NoisePlan:
    """The plan in a row. find: returns the recording of a cut. Raises BadManifest where cuts do not add up."""
    def stream_of(stream: list[JsonRow] | JsonRow) -> tuple[Cut, ...] | Generated:
        if isinstance(stream, dict):
            power = tuple(family["power"]) if "spectrum" in stream else None
            return Generated(stream["seed"], stream["n_fft"], stream.get("exponent"), power)
        end = 0
        for cut in stream:
            if min(cut["offset"], cut["fade"]) < 0 or not cut["fade"] <= min(end, cut["length"]):
                raise ValueError(f"a cut of {cut['length']} samples fades over {cut['fade']}")
            end += cut["length"] - cut["fade"]
        if end != row["n_samples"]:
            raise ValueError(f"a stream has {end} samples, the speech {row['n_samples']}")
        return tuple(Cut(find(cut), cut["offset"], cut["length"], float(cut["gain"]), cut["fade"]) for cut in stream)

    try:
        return NoisePlan(row["n_samples"], tuple(map(stream_of, row["streams"])), tuple(row["talkers"]))
    except (LookupError, TypeError, ValueError) as error:
        raise BadManifest(f"noise manifest: {row['id']} in {row['noise']}: this does not add up ({type(error).__name__}: "
                          f"{error}).  {REMEDY}") from error
