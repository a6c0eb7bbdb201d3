"""Shards: packed utterances one after another in plain tar files, each read with one range request.

    Packed -> ShardWriter -> CacheEntry (shard, offset, size);  CacheEntry -> read_entry -> Cached;  cache.json beside them
"""

from __future__ import annotations

import json
import os
import stat
import tarfile
from functools import lru_cache
from pathlib import Path

from avsr import rates
from avsr.cache.packing import MAX_SECONDS, MAX_SIDE, MOUTHS, SOUND, Cached, Packed, unpack
from avsr.errors import BadCheckpoint, BadManifest
from avsr.lips import MOUTH_CROPS, UNCROPPED, MouthCropSettings
from avsr.manifest import CacheEntry, is_within_folder
from avsr.output import write_file
from avsr.remote import as_address, read_bytes

MAX_BYTES = 256 * 2**20               # of a shard: large enough for network file systems, small enough to copy about
OPEN_SHARDS = 16                      # kept open between reads, by each process
SETTINGS = "cache.json"               # how the mouths and the sound of a cache were made
OLD_SETTINGS = "recipe.json"          # the name of that file in older caches, with `lips` for the key `mouth_crop`
ABOUT_BYTES = 2**20                   # of an utterance's json and tar headers, in a bound that is to refuse nobody's


class ShardWriter:
    """Writes utterances one after another into `shard-00000.tar`, `shard-00001.tar`, ... in `folder`.

    A shard is named `.tar.part` until it is complete. Writing goes on in number `shard` at byte `offset`: what a crash left
    behind that is overwritten, so that a run that is resumed writes the same bytes.
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
        """The path of the current shard once it is complete."""
        return self.folder / f"shard-{self.shard:05d}.tar"

    def add(self, packed: Packed) -> CacheEntry:
        """Append an utterance. An OSError, for instance of a full disk, leaves the utterances before it whole."""
        if self.offset and self.offset + len(packed.blob) + 2 * tarfile.BLOCKSIZE > self.max_bytes:
            self.finish()
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o666)
            os.ftruncate(self._file, self.offset)
        self._write(self._file, packed.blob)
        entry = CacheEntry(self.path.name, self.offset, len(packed.blob), packed.n_frames, packed.n_samples,
                           packed.modality)
        self.offset += len(packed.blob)
        return entry

    def sync(self) -> None:
        """Make sure that what was added survives a power cut."""
        if self._file is not None:
            os.fsync(self._file)

    def finish(self) -> None:
        """Complete the current shard; the next utterance begins another."""
        if self._file is None and self.offset:              # resumed, and nothing was added
            self._file = os.open(self._part, os.O_RDWR)
            os.ftruncate(self._file, self.offset)
        if self._file is None:
            return
        self._write(self._file, bytes(2 * tarfile.BLOCKSIZE))
        os.fsync(self._file)
        self.close()
        self._part.rename(self.path)
        self.shard, self.offset = self.shard + 1, 0

    def close(self) -> None:
        """Close the file as it is."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @property
    def _part(self) -> Path:
        return self.path.with_name(f"{self.path.name}.part")

    def _write(self, file: int, data: bytes) -> None:
        os.lseek(file, self.offset, os.SEEK_SET)            # a write that failed half-way is written over
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest):]


def read_entry(base: str | Path, entry: CacheEntry, *, name: str | None = None) -> Cached:
    """An utterance from the cache beside a manifest.

    base: folder of the manifest, or its URL (anything fsspec knows: http, s3, gs, memory, ...), also as a Path.
    name: the utterance's id, checked if given. Raises BadManifest where the shard is missing, cut, or not as announced.
    """
    return unpack(read_range(base, entry), entry, name)


def read_range(base: str | Path, entry: CacheEntry) -> bytes:
    """The bytes of an utterance. Raises BadManifest where the shard is missing or cut, or the entry cannot be right."""
    place = _join(base, entry.shard)
    _check(place, entry)
    if "://" in place:
        blob = _fetch(place, entry.offset, entry.offset + entry.size)
    else:
        try:
            facts = os.stat(place)
            if not stat.S_ISREG(facts.st_mode):             # a pipe would be waited for
                raise BadManifest(f"{place}: this is no file.  Copy the shard again, or run avsr prepare again.")
            blob = _shard(place, facts.st_ino, facts.st_mtime_ns).read(entry.offset, min(entry.size, facts.st_size))
        except OSError as error:
            raise _unreachable(place, error) from error
    if len(blob) > entry.size:
        raise BadManifest(f"{place}: {len(blob)} bytes came where {entry.size} were asked for.  Use a server that answers "
                          "range requests, or copy the cache here.")
    if len(blob) < entry.size:
        raise BadManifest(f"{place}: the shard is cut short: {len(blob)} of {entry.size} bytes from {entry.offset}.  Copy it "
                          "again, or run avsr prepare again.")
    return blob


def _check(place: str, entry: CacheEntry) -> None:
    """Raise BadManifest for an entry that `pack` cannot have made."""
    if not is_within_folder(entry.shard):
        raise BadManifest(f"{place}: shards lie beside their manifest or in folders below it.  Copy the shard there.")
    seconds = max(entry.n_frames / rates.VIDEO_FPS, entry.n_samples / rates.SAMPLE_RATE)
    if seconds > MAX_SECONDS + 1:
        raise BadManifest(f"{place}: the manifest says {entry.n_frames} frames and {entry.n_samples} samples at byte "
                          f"{entry.offset}, and an utterance has {MAX_SECONDS} s at most.  Run avsr prepare again.")
    most = ABOUT_BYTES + entry.n_frames * MAX_SIDE**2 + 4 * entry.n_samples
    if entry.size > most or entry.offset >= 2**62:
        raise BadManifest(f"{place}: the manifest says {entry.size} bytes from {entry.offset} for {entry.n_frames} frames and "
                          f"{entry.n_samples} samples.  Run avsr prepare again.")


def _fetch(place: str, start: int | None = None, end: int | None = None) -> bytes:
    """The bytes of the file at a URL, or a part of them. Raises BadManifest."""
    try:
        return read_bytes(place, start, end)
    except Exception as error:                               # each kind of storage has errors of its own
        raise _unreachable(place, error) from error


def _unreachable(place: str, error: Exception) -> BadManifest:
    if isinstance(error, FileNotFoundError):
        return BadManifest(f"{place}: no such file.  Copy it beside the manifest, or run avsr prepare again.")
    reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
    return BadManifest(f"{place}: this cannot be read ({reason}).  Check that it can be reached from here.")


def _join(base: str | Path, name: str) -> str:
    if (address := as_address(base)) is not None:
        return f"{address.rstrip('/')}/{name}"
    return str(Path(base) / name)


class _Shard:
    """An open shard. Reads share no position, so threads and forked processes can use it at the same time."""

    def __init__(self, path: str):
        self.file = os.open(path, os.O_RDONLY)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.file, size, offset)

    def __del__(self) -> None:                               # once it has left the cache and nobody reads from it
        if hasattr(self, "file"):
            os.close(self.file)


@lru_cache(maxsize=OPEN_SHARDS)
def _shard(path: str, inode: int, changed: int) -> _Shard:
    """The open shard at a path; inode and time of change tell it from another file that took its name."""
    return _Shard(path)


def write_mouth_crop(folder: str | Path, mouth_crop: MouthCropSettings) -> None:
    """Write how the mouths and the sound of a cache were made, beside its manifest. Raises BadOutput."""
    values = {"mouths": MOUTHS, "sound": SOUND, "sample_rate": rates.SAMPLE_RATE, "video_fps": rates.VIDEO_FPS,
              "mouth_crop": mouth_crop.to_dict()}
    write_file(Path(folder) / SETTINGS, json.dumps(values, indent=1) + "\n")


def read_mouth_crop(base: str | Path, expected: MouthCropSettings | None = None) -> MouthCropSettings:
    """How the mouths of the cache at `base` (a folder or a URL) were cut out.

    Raises BadManifest, naming the field, if that differs from `expected`, or from what this version can read.
    """
    place, text = _read_settings(base)
    try:
        values = json.loads(text)
        mouth_crop = MouthCropSettings.from_dict(values["lips" if place.endswith(OLD_SETTINGS) else "mouth_crop"])
        here = {"mouths": MOUTHS, "sound": SOUND, "sample_rate": rates.SAMPLE_RATE, "video_fps": rates.VIDEO_FPS}
        wrong = [f"{field}: {values[field]} against {value}" for field, value in here.items() if values[field] != value]
    except (ValueError, KeyError, TypeError, RecursionError, BadCheckpoint) as error:
        raise _no_settings(place, error) from error
    if expected is not None:
        wrong += [f"mouth_crop.{line}" for line in mouth_crop.differences(expected)]
    if expected is not None and UNCROPPED in (mouth_crop.landmarks, expected.landmarks) and wrong:
        raise BadManifest(f"{place}: {_uncropped_and_cropped(mouth_crop)} ({'; '.join(wrong)}).  The two kinds do not go "
                          "together: use one for the data and the model, and prepare the data into an empty folder, with "
                          "--mouth-crop none for the first kind.")
    if wrong:
        named = next((f" --mouth-crop {name}" for name, one in MOUTH_CROPS.items() if one == expected), "")
        raise BadManifest(f"{place}: the cache was made with other settings ({'; '.join(wrong)}).  Run avsr prepare{named} "
                          "into an empty folder, or use the version and the model that it was made for.")
    return mouth_crop


def _uncropped_and_cropped(mouth_crop: MouthCropSettings) -> str:
    came = mouth_crop.landmarks == UNCROPPED
    return ("its mouths came cropped, nobody knows how, and the model is for mouths that are cut out of faces" if came else
            "its mouths were cut out of faces, and the model is for mouths that came cropped, nobody knows how")


def _read_settings(base: str | Path) -> tuple[str, bytes]:
    """The place and the text of the settings of a cache, or of its OLD_SETTINGS. Raises BadManifest."""
    places = [_join(base, name) for name in (SETTINGS, OLD_SETTINGS)]
    for place in places:
        try:
            return place, _fetch(place) if "://" in place else _read_file(Path(place))
        except FileNotFoundError:
            continue
        except BadManifest as error:                         # of _fetch
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
        except OSError as error:
            raise _unreachable(place, error) from error
        except ValueError as error:
            raise _no_settings(place, error) from error
    raise _unreachable(places[0], FileNotFoundError())


def _read_file(path: Path) -> bytes:
    """The bytes of a small file. It must be a regular file, as reading a pipe might never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("a pipe, a device or a folder")
    with path.open("rb") as file:
        return file.read(ABOUT_BYTES)


def _no_settings(place: str, error: Exception) -> BadManifest:
    return BadManifest(f"{place}: these are not the settings of a cache ({error}).  Run avsr prepare into an empty folder.")
