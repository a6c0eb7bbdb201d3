"""Caches of somebody else: nothing is unpacked beyond what the manifest announces, and no file is read but the shards."""

import gzip
import io
import json
import os
import re
import tarfile
import threading
import tracemalloc
import zlib

import numpy as np
import pytest
import soundfile

from avsr import cache
from avsr.errors import BadManifest
from avsr.lips import MouthCropSettings
from avsr.manifest import CacheEntry
from avsr.rates import SAMPLE_RATE

ABOUT = {"id": "u", "n_frames": 10, "n_samples": 6400, "mouth_size": 96, "missing": [], "gain": 1.0}
MOUTHS = zlib.compress(bytes(10 * 96 * 96))
MEGABYTE = 2**20


def flac(n_samples: int = 6400, **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(n_samples, np.int16), options.pop("rate", SAMPLE_RATE), **{"format": "FLAC", **options})
    return file.getvalue()


def blob(mouths: bytes = MOUTHS, sound: bytes | None = None, **about) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for kind, data in (("mouths.zlib", mouths), ("flac", flac() if sound is None else sound),
                           ("json", json.dumps(ABOUT | about).encode())):
            info = tarfile.TarInfo(f"u.{kind}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def entry(size: int, **values) -> CacheEntry:
    return CacheEntry(**{"shard": "shard-00000.tar", "offset": 0, "size": size, "n_frames": 10, "n_samples": 6400} | values)


def linked(kind: bytes) -> bytes:
    """A shard whose json is a link to itself, a pipe, or the like."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo("u.json")
        info.type, info.linkname = kind, "u.json"
        tar.addfile(info)
    return file.getvalue()


def sparse() -> bytes:
    """A tar of 2 kB whose file says that it is 2^40 bytes of holes."""
    info = tarfile.TarInfo("u.json")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "u.json",
                        "GNU.sparse.realsize": str(2**40)}
    data = b"1\n0\n0\n".ljust(512, b"\0")
    info.size = len(data)
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(1024)


HOSTILE = {
    "zlib bomb": lambda: blob(zlib.compress(bytes(16 * MEGABYTE))),
    "mouths of another size": lambda: blob(mouth_size=95),
    "mouths cut short": lambda: blob(MOUTHS[:-4]),
    "mouths without size": lambda: blob(mouth_size=0),
    "huge mouths": lambda: blob(mouth_size=2**31),
    "mouths of a size in words": lambda: blob(mouth_size="96"),
    "FLAC bomb": lambda: blob(sound=flac(5 * 60 * SAMPLE_RATE)),
    "WAV for FLAC": lambda: blob(sound=flac(format="WAV")),
    "another rate": lambda: blob(sound=flac(rate=48_000)),
    "gain 0": lambda: blob(gain=0),
    "gain of 400 digits": lambda: blob(gain=10**400),
    "gain in words": lambda: blob(gain="loud"),
    "missing beyond the end": lambda: blob(missing=[10]),
    "gzip": lambda: gzip.compress(blob(bytes(16 * MEGABYTE))),
    "hard link to itself": lambda: linked(tarfile.LNKTYPE),
    "soft link to itself": lambda: linked(tarfile.SYMTYPE),
    "a pipe in the tar": lambda: linked(tarfile.FIFOTYPE),
    "holes of 2^40 bytes": sparse,
    "json of lists in lists": lambda: blob().replace(b'{"id": "u"', b'[[[[[[[[[['),
    "frames in lists in lists": lambda: blob(n_frames=[[[[[[[[]]]]]]]]),
    "an id in numbers": lambda: blob(id=7),
    "nothing": lambda: b"",
    "zeros": lambda: bytes(10240),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_shard_is_one_sentence_and_takes_no_memory(tmp_path, name):
    data = HOSTILE[name]()
    (tmp_path / "shard-00000.tar").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(BadManifest, match=r"shard-00000\.tar: bytes 0 to \d+ are damaged \(.*\)\.  Copy the cache again"):
        cache.read_entry(tmp_path, entry(len(data)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * len(data) + 2 * MEGABYTE


def test_what_these_are_made_of_can_be_read(tmp_path):
    data = blob()
    (tmp_path / "shard-00000.tar").write_bytes(data)
    cached = cache.read_entry(tmp_path, entry(len(data)), name="u")
    assert (cached.n_frames, cached.n_samples, cached.modality) == (10, 6400, "av")


@pytest.mark.parametrize(("values", "message"), [
    ({"size": 2**40}, "the manifest says 1099511627776 bytes from 0 for 10 frames and 6400 samples"),
    ({"offset": 2**63}, "bytes from 9223372036854775808 for 10 frames"),
    ({"offset": 2**40}, "the shard is cut short: 0 of"),
    ({"n_frames": 10**6, "size": 2**40}, "the manifest says 1000000 frames .*, and an utterance has 300 s at most"),
    ({"n_samples": 2**53 - 1}, "and an utterance has 300 s at most"),
    ({"shard": "/etc/passwd"}, "/etc/passwd: shards lie beside their manifest"),
    ({"shard": "../shard-00000.tar"}, "shards lie beside their manifest"),
    ({"shard": "file:///etc/passwd"}, "shards lie beside their manifest"),
    ({"shard": "pipe.tar"}, "pipe.tar: this is no file"),
    ({"shard": "zero.tar"}, "zero.tar: this is no file"),
    ({"shard": "folder"}, "folder: this is no file"),
])
def test_an_entry_that_asks_for_too_much_is_one_sentence(tmp_path, values, message):
    data = blob()
    (tmp_path / "shard-00000.tar").write_bytes(data)
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "zero.tar").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    failed = []

    def read():
        try:
            cache.read_entry(tmp_path, entry(**{"size": len(data)} | values))
        except BadManifest as error:
            failed.append(str(error))

    thread = threading.Thread(target=read, daemon=True)      # which waits for ever where a pipe is opened
    thread.start()
    thread.join(10)
    assert re.search(f"{message}.*  ", failed[0])


def test_mouth_crop_settings_are_a_small_file(tmp_path):
    os.mkfifo(tmp_path / "cache.json")
    with pytest.raises(BadManifest, match=r"cache\.json: these are not the settings of a cache \(a pipe"):
        cache.read_mouth_crop(tmp_path, MouthCropSettings())
    (tmp_path / "cache.json").unlink()
    (tmp_path / "cache.json").symlink_to("/dev/zero")
    with pytest.raises(BadManifest, match="these are not the settings"):
        cache.read_mouth_crop(tmp_path)
    (tmp_path / "cache.json").unlink()
    (tmp_path / "cache.json").write_text("[" * 100_000)
    with pytest.raises(BadManifest, match="these are not the settings"):
        cache.read_mouth_crop(tmp_path)
