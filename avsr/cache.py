"""The cache: mouths and sound of each utterance, packed in shards, any one of them read with one range request.

    Cached (images (T, 96, 96) uint8, missing (T,) bool, audio (S,) float32)  <->  bytes of a shard, found by a CacheEntry

A shard is a plain tar (WebDataset's layout): `ID.mouths.zlib`, `ID.flac` and `ID.json` follow one another, so a
CacheEntry's offset and size fetch all three at once, from a disk, a mount, object storage or a web server.
Mouths come back bit for bit. Sound comes back to 16 bits below its own peak: exact where the source was 16 bits at
16 kHz, else within 2^-16 of the peak (-96 dB), which is under the noise of any microphone and of AAC, MP2 and Opus.
"""

from __future__ import annotations

import json
import os
import tarfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from avsr import rates
from avsr.errors import BadCheckpoint, BadManifest, BadOutput
from avsr.lips import RECIPES, LipRecipe
from avsr.manifest import CacheEntry

# Size of 75 mouths and speed on one core, 60 GRID clips of 5 speakers, two other jobs on the machine's two cores:
#                                       size     share of raw  written  read
#   FFV1 in mkv (best of five settings) 194 kB   0.28           29 /s    25 /s      (fastest: 217 kB, 37 /s, 40 /s)
#   x264 lossless, medium               186 kB   0.27            8 /s    39 /s
#   x264 lossless, ultrafast            238 kB   0.34           66 /s    66 /s
#   PNG strip, levels 1 and 6     325, 291 kB    0.47, 0.42  33, 8 /s 48, 76 /s
#   difference in time, zlib level 6    234 kB   0.34           10 /s   207 /s
#   difference in time, zlib Z_RLE      251 kB   0.36           69 /s   240 /s      <- this one
# Noise leaves nothing for zlib's search for repeats to find; Z_RLE leaves that search out.
MOUTHS = "difference-zlib-1"
SOUND = "flac-16-peak-1"
MAX_BYTES = 256 * 2**20               # of a shard: large enough for network file systems, small enough to copy about
FULL_SCALE = 2**15                    # of 16 bits
OPEN_SHARDS = 16                      # kept open between reads, by each process
RECIPE = "recipe.json"


@dataclass(frozen=True)
class Cached:
    """What training reads of an utterance.

    images: (T, 96, 96) uint8 grey, bit for bit what lips.crop gave; None where it was prepared by sound alone.
    missing: (T,) bool, True where no face was found; None with images.
    audio: (S,) float32 mono, SAMPLE_RATE; None where the recording is silent.
    """

    images: np.ndarray | None
    missing: np.ndarray | None
    audio: np.ndarray | None

    @property
    def n_frames(self) -> int:
        """Video frames, or as many as cover the sound where there is no picture."""
        if self.images is not None:
            return len(self.images)
        return 0 if self.audio is None else rates.samples_to_frames(len(self.audio))

    @property
    def n_samples(self) -> int:
        """Samples of sound."""
        return 0 if self.audio is None else len(self.audio)

    @property
    def modality(self) -> str:
        """av, a or v: what is there."""
        return ("" if self.audio is None else "a") + ("" if self.images is None else "v")


@dataclass(frozen=True)
class Packed:
    """An utterance as a stretch of a shard; a whole number of tar's blocks of 512 bytes."""

    blob: bytes
    n_frames: int
    n_samples: int
    modality: str


def pack(name: str, cached: Cached, facts: dict[str, Any] | None = None) -> Packed:
    """The bytes of an utterance. `name` is its id; `facts` (text, speaker, ...) go into its json, for other readers."""
    missing = None if cached.missing is None else np.flatnonzero(cached.missing).tolist()
    about = {**(facts or {}), "id": name, "n_frames": cached.n_frames, "n_samples": cached.n_samples,
             "mouth_size": None if cached.images is None else cached.images.shape[1], "missing": missing, "gain": None}
    parts = []
    if cached.images is not None:
        parts.append(("mouths.zlib", _pack_mouths(cached.images)))
    if cached.audio is not None:
        about["gain"] = _gain(cached.audio)
        parts.append(("flac", _pack_sound(cached.audio, about["gain"])))
    parts.append(("json", json.dumps(about, ensure_ascii=False).encode()))
    blob = b"".join(_member(f"{_key(name)}.{kind}", data) for kind, data in parts)
    return Packed(blob, cached.n_frames, cached.n_samples, cached.modality)


def unpack(blob: bytes, entry: CacheEntry, name: str | None = None) -> Cached:
    """What `pack` packed. Raises BadManifest where it is not what `entry` (and `name`, the id) announce."""
    where = f"{entry.shard}: bytes {entry.offset} to {entry.offset + entry.size}"
    remedy = "Copy the cache again, or run avsr prepare into an empty folder."
    try:
        with tarfile.open(fileobj=BytesIO(blob)) as tar:
            parts = {member.name.partition(".")[2]: tar.extractfile(member).read() for member in tar}
        about = json.loads(parts["json"])
        cached = _unpack_parts(parts, about)
    except (tarfile.TarError, zlib.error, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        # LookupError, TypeError, AttributeError: the bytes are another file's; RuntimeError: soundfile's LibsndfileError
        raise BadManifest(f"{where} are damaged ({type(error).__name__}: {error}).  {remedy}") from error
    if (found := (cached.n_frames, cached.n_samples)) != (entry.n_frames, entry.n_samples):
        raise BadManifest(f"{where} hold {found[0]} frames and {found[1]} samples, and the manifest says {entry.n_frames} "
                          f"and {entry.n_samples}.  {remedy}")
    if name is not None and about["id"] != name:
        raise BadManifest(f"{where} hold utterance {about['id']}, and the manifest says {name}.  {remedy}")
    return cached


def _unpack_parts(parts: dict[str, bytes], about: dict[str, Any]) -> Cached:
    images = missing = audio = None
    if (size := about["mouth_size"]) is not None:
        images = _unpack_mouths(parts["mouths.zlib"], about["n_frames"], size)
        missing = np.zeros(len(images), bool)
        missing[about["missing"]] = True
    if about["gain"] is not None:
        audio = _unpack_sound(parts["flac"], about["gain"])
    return Cached(images, missing, audio)


def _pack_mouths(images: np.ndarray) -> bytes:
    """Each frame less the one before, modulo 256; zlib's checksum guards the whole."""
    change = images.copy()
    change[1:] -= images[:-1]
    packer = zlib.compressobj(strategy=zlib.Z_RLE)
    return packer.compress(change) + packer.flush()


def _unpack_mouths(data: bytes, n_frames: int, size: int) -> np.ndarray:
    images = np.frombuffer(bytearray(zlib.decompress(data)), np.uint8).reshape(n_frames, size, size)
    for number in range(1, n_frames):                       # twice as fast as cumsum
        images[number] += images[number - 1]
    return images


def _gain(audio: np.ndarray) -> float:
    """The power of two that brings the peak to between 1/2 and 1: exact, and nothing is cut off or lost in quiet."""
    peak = float(np.abs(audio).max(initial=0))
    assert np.isfinite(peak), "sound that is not a number"
    return 1.0 if peak == 0 else 2.0 ** -float(np.frexp(peak)[1])


def _pack_sound(audio: np.ndarray, gain: float) -> bytes:
    import soundfile

    steps = np.rint(audio.astype(np.float64) * (gain * FULL_SCALE))
    file = BytesIO()
    soundfile.write(file, np.clip(steps, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16), rates.SAMPLE_RATE, format="FLAC")
    return file.getvalue()


def _unpack_sound(data: bytes, gain: float) -> np.ndarray:
    import soundfile

    audio, rate = soundfile.read(BytesIO(data), dtype="float32")
    if rate != rates.SAMPLE_RATE or audio.ndim != 1:
        raise ValueError(f"sound of {rate} samples a second and shape {audio.shape}")
    return audio / np.float32(gain)


def _key(name: str) -> str:
    """WebDataset's key ends at the first dot, so dots within ids are written as in URLs."""
    return name.replace("%", "%25").replace(".", "%2E")


def _member(name: str, data: bytes) -> bytes:
    """A file in a tar: the same bytes on every machine at every time."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


class ShardWriter:
    """Writes utterances one after another into `shard-00000.tar`, `shard-00001.tar`, ... in `folder`.

    A shard is called `.tar.part` until it is whole. `shard` and `offset` are where writing goes on: what lies behind
    them (an utterance cut off by a crash) is overwritten, so that a run taken up again writes the same bytes.
    """

    def __init__(self, folder: str | Path, *, max_bytes: int = MAX_BYTES, shard: int = 0, offset: int = 0):
        self.folder, self.max_bytes = Path(folder), max_bytes
        self.shard, self.offset = shard, offset
        self._file: int | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        if kind is None:
            self.finish()
        else:
            self.close()

    @property
    def path(self) -> Path:
        """Where the shard at hand will be once it is whole."""
        return self.folder / f"shard-{self.shard:05d}.tar"

    def add(self, packed: Packed) -> CacheEntry:
        """Append an utterance. OSError, for instance of a full disk, leaves those before it whole."""
        if self.offset and self.offset + len(packed.blob) + 2 * tarfile.BLOCKSIZE > self.max_bytes:
            self.finish()
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o644)
            os.ftruncate(self._file, self.offset)
        self._write(packed.blob)
        entry = CacheEntry(self.path.name, self.offset, len(packed.blob), packed.n_frames, packed.n_samples,
                           packed.modality)
        self.offset += len(packed.blob)
        return entry

    def sync(self) -> None:
        """Make sure that what was added outlives a power cut."""
        if self._file is not None:
            os.fsync(self._file)

    def finish(self) -> None:
        """Complete the shard at hand; the next utterance opens another."""
        if self._file is None and self.offset:              # taken up again, and nothing to add
            self._file = os.open(self._part, os.O_RDWR)
            os.ftruncate(self._file, self.offset)
        if self._file is None:
            return
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        os.fsync(self._file)
        self.close()
        self._part.rename(self.path)
        self.shard, self.offset = self.shard + 1, 0

    def close(self) -> None:
        """Let go of the file as it is."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @property
    def _part(self) -> Path:
        return self.path.with_name(f"{self.path.name}.part")

    def _write(self, data: bytes) -> None:
        rest, place = memoryview(data), self.offset
        while rest:
            written = os.pwrite(self._file, rest, place)
            rest, place = rest[written:], place + written


def read_entry(base: str | Path, entry: CacheEntry, *, name: str | None = None) -> Cached:
    """An utterance from the cache beside a manifest.

    base: folder of the manifest, or its URL (anything fsspec knows: http, s3, gs, memory, ...).
    name: the utterance's id, checked if given. Raises BadManifest where the shard is missing, cut, or not as announced.
    """
    return unpack(read_range(base, entry), entry, name)


def read_range(base: str | Path, entry: CacheEntry) -> bytes:
    """The bytes of an utterance. Raises BadManifest where the shard is missing or cut."""
    place = _join(base, entry.shard)
    if "://" in place:
        blob = _fetch(place, entry.offset, entry.offset + entry.size)
    else:
        try:
            stat = os.stat(place)
            blob = _shard(place, stat.st_ino, stat.st_mtime_ns).read(entry.offset, entry.size)
        except OSError as error:
            raise _unreachable(place, error) from error
    if len(blob) > entry.size:
        raise BadManifest(f"{place}: {len(blob)} bytes came where {entry.size} were asked for.  Use a server that answers "
                          "range requests, or copy the cache here.")
    if len(blob) < entry.size:
        raise BadManifest(f"{place}: the shard is cut short: {len(blob)} of {entry.size} bytes from {entry.offset}.  Copy it "
                          "again, or run avsr prepare again.")
    return blob


def _fetch(place: str, start: int | None = None, end: int | None = None) -> bytes:
    """Part of what lies at a URL. Raises BadManifest."""
    import fsspec

    try:
        # A file system is asked for each time: fsspec keeps it, one to a process, as it does not outlive a fork.
        system, path = fsspec.core.url_to_fs(place)
        return system.cat_file(path, start=start, end=end)
    except Exception as error:                               # each kind of storage has errors of its own
        raise _unreachable(place, error) from error


def _unreachable(place: str, error: Exception) -> BadManifest:
    if isinstance(error, FileNotFoundError):
        return BadManifest(f"{place}: no such file.  Copy it beside the manifest, or run avsr prepare again.")
    reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
    return BadManifest(f"{place}: this cannot be read ({reason}).  Check that it can be reached from here.")


def _join(base: str | Path, name: str) -> str:
    if "://" in str(base):
        return f"{str(base).rstrip('/')}/{name}"
    return str(Path(base) / name)


class _Shard:
    """An open shard. Readers share no position, so threads and forked processes can use it at once."""

    def __init__(self, path: str):
        self.file = os.open(path, os.O_RDONLY)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.file, size, offset)

    def __del__(self) -> None:                               # when it has fallen out of the cache and nobody reads
        if hasattr(self, "file"):
            os.close(self.file)


@lru_cache(maxsize=OPEN_SHARDS)
def _shard(path: str, inode: int, changed: int) -> _Shard:
    """Inode and time of change tell a shard from another that took its name."""
    return _Shard(path)


def write_recipe(folder: str | Path, recipe: LipRecipe) -> None:
    """Say beside the manifest how mouths and sound were made. Raises BadOutput."""
    values = {"mouths": MOUTHS, "sound": SOUND, "sample_rate": rates.SAMPLE_RATE, "video_fps": rates.VIDEO_FPS,
              "lips": recipe.to_dict()}
    path = Path(folder) / RECIPE
    part = path.with_name(f"{RECIPE}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(values, indent=1) + "\n")
        part.replace(path)
    except OSError as error:
        raise BadOutput(f"{path}: it cannot be written ({error.strerror}).  Choose another folder, or make room.") from error


def read_recipe(base: str | Path, expected: LipRecipe | None = None) -> LipRecipe:
    """How the mouths of the cache at `base` (folder or URL) were cut out.

    Raises BadManifest, naming the field, where it was made in another way than `expected` or than this version reads.
    """
    place = _join(base, RECIPE)
    try:
        values = json.loads(_fetch(place) if "://" in place else Path(place).read_bytes())
        recipe = LipRecipe.from_dict(values["lips"])
        here = {"mouths": MOUTHS, "sound": SOUND, "sample_rate": rates.SAMPLE_RATE, "video_fps": rates.VIDEO_FPS}
        wrong = [f"{field}: {values[field]} against {value}" for field, value in here.items() if values[field] != value]
    except OSError as error:
        raise _unreachable(place, error) from error
    except (ValueError, KeyError, TypeError, BadCheckpoint) as error:
        raise BadManifest(f"{place}: this is not the recipe of a cache ({error}).  Run avsr prepare into an empty "
                          "folder.") from error
    if expected is not None:
        wrong += [f"lips.{line}" for line in recipe.differences(expected)]
    if wrong:
        named = next((f" --recipe {name}" for name, one in RECIPES.items() if one == expected), "")
        raise BadManifest(f"{place}: the cache was made with another recipe ({'; '.join(wrong)}).  Run avsr prepare{named} "
                          "into an empty folder, or use the version and the model that it was made for.")
    return recipe
