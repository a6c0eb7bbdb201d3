"""The cache: what goes in comes out, from a disk and over http, and what is damaged is named."""

import json
import re
import tarfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import numpy as np
import pytest
from tracking import crop, track_faces

from avsr import cache, media
from avsr.errors import BadManifest
from avsr.lips import MouthCropSettings
from avsr.rates import SAMPLE_RATE
from avsr.speakers import choose_speaker


def made_up(n_frames: int = 10, seed: int = 0) -> cache.Cached:
    rng = np.random.default_rng(seed)
    audio = (np.rint(rng.normal(0, 3000, n_frames * 640)) / 2**15).astype(np.float32)
    return cache.Cached(rng.integers(0, 256, (n_frames, 96, 96), np.uint8), rng.random(n_frames) < 0.3, audio)


def same(one: cache.Cached, other: cache.Cached) -> bool:
    pairs = [(getattr(one, name), getattr(other, name)) for name in ("images", "missing", "audio")]
    return all(a is b if a is None or b is None else a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


@pytest.fixture
def three(tmp_path):
    """A cache of three utterances in a shard: folder, what went in, entries."""
    inside = [made_up(10 + n, n) for n in range(3)]
    cache.write_mouth_crop(tmp_path, MouthCropSettings())
    with cache.ShardWriter(tmp_path) as writer:
        entries = [writer.add(cache.pack(f"s1/u.{n}", cached)) for n, cached in enumerate(inside)]
    return tmp_path, inside, entries


def test_what_goes_in_comes_out(three):
    folder, inside, entries = three
    for number in (1, 0, 2):                                             # any order
        out = cache.read_entry(folder, entries[number], name=f"s1/u.{number}")
        assert same(out, inside[number])
        out.images[0] = 0                                                # the reader's own, to change as it likes


@pytest.mark.parametrize("absent", ["images", "audio"])
def test_absence_is_none(tmp_path, absent):
    whole = made_up()
    cached = replace(whole, images=None, missing=None) if absent == "images" else replace(whole, audio=None)
    with cache.ShardWriter(tmp_path) as writer:
        entry = writer.add(cache.pack("u", cached))
    assert (entry.n_frames, entry.n_samples) == (10, 0 if absent == "audio" else 6400)
    assert same(cache.read_entry(tmp_path, entry), cached)


@pytest.mark.parametrize("peak", [0.0, 1e-5, 0.1, 0.5, 1.0, 3.7])
def test_sound_is_within_16_bits_of_its_peak(tmp_path, peak):
    audio = np.random.default_rng(1).uniform(-1, 1, SAMPLE_RATE).astype(np.float32)
    audio[0] = 1
    audio *= np.float32(peak)
    packed = cache.pack("u", cache.Cached(None, None, audio))
    with cache.ShardWriter(tmp_path) as writer:
        entry = writer.add(packed)
    out = cache.read_entry(tmp_path, entry).audio
    assert np.abs(out - audio).max() <= 2 * peak * 2.0**-16 + 1e-12


def test_a_shard_is_a_tar_as_webdataset_reads_it(three):
    folder, _, _ = three
    with tarfile.open(folder / "shard-00000.tar") as tar:
        names = tar.getnames()
        about = json.load(tar.extractfile("s1/u%2E1.json"))
    assert names == [f"s1/u%2E{n}.{kind}" for n in range(3) for kind in ("mouths.zlib", "flac", "json")]
    assert about["id"] == "s1/u.1"
    assert about["n_frames"] == 11


def test_shards_are_bounded_and_follow_one_another(tmp_path):
    packed = [cache.pack(f"u{n}", made_up(4, n)) for n in range(10)]
    with cache.ShardWriter(tmp_path, max_bytes=150_000) as writer:
        entries = [writer.add(one) for one in packed]
    shards = sorted(tmp_path.iterdir())
    assert len(shards) > 2
    assert all(path.name == f"shard-{n:05d}.tar" and path.stat().st_size <= 150_000 for n, path in enumerate(shards))
    for before, after in pairwise(entries):
        assert after.offset == (before.offset + before.size if before.shard == after.shard else 0)


def test_a_writer_taken_up_again_writes_the_same_bytes(tmp_path):
    packed = [cache.pack(f"u{n}", made_up(4, n)) for n in range(6)]
    for name in ("one", "two"):
        writer = cache.ShardWriter(tmp_path / name)
        for n, one in enumerate(packed):
            if name == "two" and n == 3:
                with open(tmp_path / "two" / "shard-00000.tar.part", "ab") as file:
                    file.write(packed[4].blob[:1000])                    # cut off by a crash
                writer = cache.ShardWriter(tmp_path / "two", shard=0, offset=writer.offset)
            writer.add(one)
        assert not list((tmp_path / name).glob("*.tar"))
        writer.finish()
    one, two = ((tmp_path / name / "shard-00000.tar").read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_damaged_shard_is_named(three):
    folder, _, entries = three
    shard = folder / entries[0].shard
    data = shard.read_bytes()

    def complaint(entry=entries[1], **options):
        with pytest.raises(BadManifest, match=r"  \w") as caught:
            cache.read_entry(folder, entry, **options)
        assert "shard-00000.tar" in str(caught.value)
        return str(caught.value)

    assert "hold utterance \"s1/u.1\"" in complaint(name="s1/u.2")
    assert "hold 11 frames" in complaint(replace(entries[1], n_frames=12))
    assert "damaged" in complaint(replace(entries[1], offset=entries[1].offset + 512))
    at = entries[1].offset + 2000
    shard.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1:])
    assert "damaged" in complaint()
    shard.write_bytes(data[: entries[1].offset + 5000])
    assert re.search(r"cut short: 5000 of \d+ bytes", complaint())
    assert same(cache.read_entry(folder, entries[0]), three[1][0])       # the others are still there
    shard.unlink()
    assert "no such file" in complaint()


def test_another_mouth_crop_is_named(three):
    folder = three[0]
    assert cache.read_mouth_crop(folder, MouthCropSettings()) == MouthCropSettings()
    with pytest.raises(BadManifest, match=r"mouth_crop\.smooth: 12 against 6"):
        cache.read_mouth_crop(folder, MouthCropSettings(smooth=6))
    values = json.loads((folder / "cache.json").read_text())
    (folder / "cache.json").write_text(json.dumps({**values, "sample_rate": 8000}))
    with pytest.raises(BadManifest, match="sample_rate: 8000 against"):
        cache.read_mouth_crop(folder)
    (folder / "cache.json").write_text("{")
    with pytest.raises(BadManifest, match="not the settings"):
        cache.read_mouth_crop(folder)
    with pytest.raises(BadManifest, match="no such file"):
        cache.read_mouth_crop(folder / "nowhere")


class Ranges(BaseHTTPRequestHandler):
    """A web server that answers range requests, as storage on the net does."""

    def do_GET(self):
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and self.server.ranges:
            start, stop = int(asked[1]), int(asked[2]) + 1
            data, size = data[start:stop], len(data)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{start + len(data) - 1}/{size}")
        else:
            self.send_response(200)
        self.server.sent.append(len(data))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def served(three):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
    server.folder, server.ranges, server.sent = three[0], True, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_over_http_as_from_the_disk_one_range_at_a_time(three, served):
    _, inside, entries = three
    server, url = served
    assert cache.read_mouth_crop(url, MouthCropSettings()) == MouthCropSettings()
    for number in (2, 0, 1):
        server.sent.clear()
        assert same(cache.read_entry(url, entries[number]), inside[number])
        assert server.sent == [entries[number].size]
    with pytest.raises(BadManifest, match="no such file"):
        cache.read_entry(url, replace(entries[0], shard="shard-00007.tar"))
    server.ranges = False
    with pytest.raises(BadManifest, match="range requests"):
        cache.read_entry(url, entries[1])


@pytest.mark.slow
def test_a_cached_mouth_is_the_live_crop_bit_for_bit(real_data, tmp_path):
    clip = media.read(real_data / "grid" / "s23" / sorted(p.name for p in (real_data / "grid" / "s23").glob("*.mpg"))[0])
    mouths = choose_speaker([crop(clip, track) for track in track_faces(clip)], 0, clip.n_frames)
    with cache.ShardWriter(tmp_path) as writer:
        entry = writer.add(cache.pack("u", cache.Cached(mouths.images, mouths.missing, clip.audio)))
    out = cache.read_entry(tmp_path, entry)
    assert np.array_equal(out.images, mouths.images)
    assert np.array_equal(out.missing, mouths.missing)
    assert np.abs(out.audio - clip.audio).max() <= np.abs(clip.audio).max() * 2.0**-15


def test_the_settings_of_an_older_cache_are_read_under_their_old_names(three, served):
    """Caches of older versions name the file recipe.json and the mouth-crop settings `lips`; from a disk and from a server."""
    folder = three[0]
    values = json.loads((folder / "cache.json").read_text())
    values["lips"] = values.pop("mouth_crop")
    (folder / "recipe.json").write_text(json.dumps(values))
    (folder / "cache.json").unlink()
    for base in (folder, served[1]):
        assert cache.read_mouth_crop(base, MouthCropSettings()) == MouthCropSettings()
        with pytest.raises(BadManifest, match=r"recipe\.json: .*mouth_crop\.smooth: 12 against 6"):
            cache.read_mouth_crop(base, MouthCropSettings(smooth=6))
