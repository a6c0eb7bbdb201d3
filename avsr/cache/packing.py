"""The bytes of an utterance: its mouths, sound and facts packed into a part of a tar file, and unpacked with checks.

    Cached (images (T, 96, 96) uint8, missing (T,) bool, audio (S,) float32)  <->  Packed: ID.mouths.zlib, ID.flac, ID.json
The bytes may come from somebody else, so nothing is unpacked to more than its manifest announces.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from typing import Any

import numpy as np

from avsr import rates
from avsr.errors import BadManifest, quote
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
FULL_SCALE = 2**15                    # of 16 bits
MAX_SECONDS = 300                     # of an utterance: its mouths are then 70 MB, and no model is given more at once
MAX_SIDE = 2 * rates.MOUTH_SIZE       # pixels of a mouth: 300 s of the largest are 277 MB
MEMBERS = 8                           # files of an utterance in a shard that are read at most; `pack` writes three


@dataclass(frozen=True)
class Cached:
    """An utterance in the cache, as training reads it.

    images: (T, 96, 96) uint8 grey, bit for bit as lips.MouthCropper made them; None if prepared from sound alone.
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
        """What there is: av, a or v."""
        return ("" if self.audio is None else "a") + ("" if self.images is None else "v")


@dataclass(frozen=True)
class Packed:
    """An utterance as a part of a shard: a whole number of tar's blocks of 512 bytes."""

    blob: bytes
    n_frames: int
    n_samples: int
    modality: str


def pack(name: str, cached: Cached, facts: dict[str, Any] | None = None) -> Packed:
    """The bytes of an utterance. `name` is its id; `facts` (text, speaker, ...) go into its json, for other readers."""
    assert cached.n_frames <= (MAX_SECONDS + 1) * rates.VIDEO_FPS, "longer than what may be read"
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
    """The utterance that `pack` packed. Raises BadManifest if it is not what `entry` (and `name`, the id) announce.

    Nothing is unpacked to more than `entry` announces, as the bytes may come from somebody else.
    """
    where = f"{entry.shard}: bytes {entry.offset} to {entry.offset + entry.size}"
    remedy = "Copy the cache again, or run avsr prepare into an empty folder."
    try:
        parts = _members(blob)
        about = json.loads(parts["json"])
        announced = about["n_frames"], about["n_samples"]
        if not all(isinstance(one, int) and one < 2**53 for one in announced) or not isinstance(about["id"], str):
            raise ValueError("its json gives no id, or no whole numbers of frames and samples")
        cached = _unpack_parts(parts, about) if announced == (entry.n_frames, entry.n_samples) else None
        if cached is not None and (cached.n_frames, cached.n_samples) != announced:
            raise ValueError(f"{cached.n_frames} frames and {cached.n_samples} samples where its json says {announced}")
    except (tarfile.TarError, zlib.error, LookupError, ValueError, TypeError, AttributeError, RuntimeError,
            ArithmeticError) as error:
        # LookupError, TypeError, AttributeError: the bytes are another file's; RuntimeError: soundfile's LibsndfileError
        raise BadManifest(f"{where} are damaged ({type(error).__name__}: {error}).  {remedy}") from error
    if cached is None:
        raise BadManifest(f"{where} hold {announced[0]} frames and {announced[1]} samples, and the manifest says "
                          f"{entry.n_frames} and {entry.n_samples}.  {remedy}")
    if name is not None and about["id"] != name:
        raise BadManifest(f"{where} hold utterance {quote(about['id'])}, and the manifest says {quote(name)}.  {remedy}")
    return cached


def _members(blob: bytes) -> dict[str, bytes]:
    """The files of an utterance, by the part of their names after the first dot."""
    parts = {}
    with tarfile.open(fileobj=BytesIO(blob), mode="r:") as tar:      # plain alone: by itself it would unpack gzip and xz, too
        for member in islice(tar, MEMBERS):
            if member.type != tarfile.REGTYPE or not 0 <= member.size <= len(blob):
                raise ValueError(f"{member.name[:40]!r} of {member.size} bytes is no plain file")
            file = tar.extractfile(member)
            assert file is not None                          # as it is a regular file
            parts[member.name.partition(".")[2]] = file.read()
    return parts


def _unpack_parts(parts: dict[str, bytes], about: dict[str, Any]) -> Cached:
    images = missing = audio = None
    if (size := about["mouth_size"]) is not None:
        images = _unpack_mouths(parts["mouths.zlib"], about["n_frames"], size)
        missing = np.zeros(len(images), bool)
        missing[about["missing"]] = True
    if about["gain"] is not None:
        audio = _unpack_sound(parts["flac"], about["n_samples"], about["gain"])
    return Cached(images, missing, audio)


def _pack_mouths(images: np.ndarray) -> bytes:
    """Each frame less the one before, modulo 256; zlib's checksum guards the whole."""
    change = images.copy()
    change[1:] -= images[:-1]
    packer = zlib.compressobj(strategy=zlib.Z_RLE)
    return packer.compress(change.data) + packer.flush()


def _unpack_mouths(data: bytes, n_frames: int, size: int) -> np.ndarray:
    if not 0 < size <= MAX_SIDE:
        raise ValueError(f"mouths of {size} pixels")
    n_bytes = n_frames * size * size
    unpacker = zlib.decompressobj()
    images = unpacker.decompress(data, n_bytes + 1)          # a thousand bytes may hold a million
    if len(images) != n_bytes or not unpacker.eof:
        raise ValueError(f"{n_frames} mouths are {n_bytes} bytes, and these are {len(images)}{' or more' * (not unpacker.eof)}")
    images = np.frombuffer(bytearray(images), np.uint8).reshape(n_frames, size, size)
    for number in range(1, n_frames):                       # twice as fast as cumsum
        images[number] += images[number - 1]
    return images


def _gain(audio: np.ndarray) -> float:
    """The power of two that scales the peak to between 1/2 and 1: it is exact, and neither clips nor loses quiet sound."""
    peak = float(np.abs(audio).max(initial=0))
    assert np.isfinite(peak), "sound that is not a number"
    return 1.0 if peak == 0 else 2.0 ** -float(np.frexp(peak)[1])


def _pack_sound(audio: np.ndarray, gain: float) -> bytes:
    import soundfile

    steps = np.rint(audio.astype(np.float64) * (gain * FULL_SCALE))
    file = BytesIO()
    soundfile.write(file, np.clip(steps, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16), rates.SAMPLE_RATE, format="FLAC")
    return file.getvalue()


def _unpack_sound(data: bytes, n_samples: int, gain: float) -> np.ndarray:
    import soundfile

    if not 0 < gain < np.finfo(np.float32).max:
        raise ValueError(f"a gain of {gain}")
    with soundfile.SoundFile(BytesIO(data)) as file:         # its header is checked before memory is allocated
        found = file.format, file.samplerate, file.channels, file.frames
        if found != ("FLAC", rates.SAMPLE_RATE, 1, n_samples):
            raise ValueError("sound of format {}, {} samples a second, {} channels, {} samples".format(*found))
        audio = file.read(n_samples, dtype="float32")
    return audio / np.float32(gain)


def _key(name: str) -> str:
    """WebDataset's key ends at the first dot, so dots within ids are written as in URLs."""
    return name.replace("%", "%25").replace(".", "%2E")


def _member(name: str, data: bytes) -> bytes:
    """A file of a tar: the same bytes on every machine and at any time."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
