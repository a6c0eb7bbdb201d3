"""Sound of any number and order of channels: what comes is their mean. Every file is made here."""

import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from avsr import media
from avsr.rates import SAMPLE_RATE
from tests.test_media import tone

ROOT = Path(__file__).resolve().parents[1]
LIMITED = """
import resource, sys
for what, most in ((resource.RLIMIT_AS, 6 * 2**30), (resource.RLIMIT_CPU, 60)):
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
"""
ALL_LAYOUTS = LIMITED + """
import numpy as np
from avsr import media
from tests.test_media_channels import levels, wav

for n in range(1, 65):
    for mask in (None, (1 << n) - 1) if n <= 18 else (None,):
        for rate in (16_000, 48_000) if n in (1, 2, 7, 8, 9, 17, 64) else (16_000,):
            audio = media.read(wav(levels(n, rate // 10), rate, mask)).audio
            assert len(audio) == 1600, (n, rate, len(audio))
            expected = levels(n, 1).mean() / 32768
            assert np.abs(audio[400:1200] - expected).max() < 2e-4, (n, rate, mask, audio[800], expected)
print("all right")
"""


def levels(n_channels, n):
    """(n, n_channels) int16: channel c is (c + 1) * 400 all the time."""
    return np.tile(400 * np.arange(1, n_channels + 1, dtype=np.int16), (n, 1))


def wav(samples, rate, mask=None):
    """A WAV file; with `mask` one whose header says where the loudspeakers stand."""
    n_channels = samples.shape[1]
    form = struct.pack("<HIIHH", n_channels, rate, rate * n_channels * 2, n_channels * 2, 16)
    if mask is None:
        form = struct.pack("<H", 1) + form
    else:
        guid = bytes.fromhex("0100000000001000800000aa00389b71")
        form = struct.pack("<H", 0xFFFE) + form + struct.pack("<HHI", 22, 16, mask) + guid
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", samples.nbytes) + samples.tobytes()
    return b"RIFF" + struct.pack("<I", len(body)) + body


def caf(samples, rate, labels):
    """A CAF file whose channels have these of Apple's labels, in this order."""
    n_channels = samples.shape[1]

    def chunk(name, data):
        return name + struct.pack(">q", len(data)) + data

    about = struct.pack(">d4s5I", rate, b"lpcm", 0, 2 * n_channels, 1, n_channels, 16)
    order = struct.pack(">III", 0, 0, n_channels) + b"".join(struct.pack(">II3f", label, 0, 0, 0, 0) for label in labels)
    return (b"caff\0\1\0\0" + chunk(b"desc", about) + chunk(b"chan", order)
            + chunk(b"data", bytes(4) + samples.astype(">i2").tobytes()))


def run(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120,
                          check=False)


@pytest.mark.slow
def test_every_number_of_channels_gives_their_mean():
    done = run(ALL_LAYOUTS)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "all right\n"


ORDERS = [[2, 1], [1, 1], [2, 1, 3, 4, 5, 6], [65536 + i for i in range(9)], [1] * 12, [18 - i % 18 for i in range(60)]]


def test_channels_in_an_order_of_their_own(tmp_path):
    """PyAV frees such an order twice, so this runs in a process of its own."""
    for labels in ORDERS:
        (tmp_path / f"{labels}.caf"[-40:]).write_bytes(caf(levels(len(labels), 1600), SAMPLE_RATE, labels))
    done = run(LIMITED + """
from pathlib import Path
from avsr import media
for path in sorted(Path(sys.argv[1]).iterdir()):
    audio = media.read(path).audio
    print(len(audio), round(float(audio[800] * 32768)))""", str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    found = sorted(tuple(map(int, line.split())) for line in done.stdout.splitlines())
    assert found == sorted((1600, round(levels(len(labels), 1).mean())) for labels in ORDERS)


FILMS = [("flac", "flac", "7.1", 48000), ("m4a", "aac", "7.1", 44100), ("mkv", "libopus", "7.1", 48000),
         ("mka", "pcm_f32le", "hexadecagonal", 48000), ("ac3", "ac3", "5.1", 48000), ("mov", "pcm_s16le", "22.2", 48000),
         ("mka", "pcm_s16le", "9 channels", 48000)]


def test_films(tmp_path):
    for number, (suffix, codec, layout, rate) in enumerate(FILMS):
        encode(tmp_path / f"{number}.{suffix}", codec, layout, rate)
    done = run(LIMITED + """
import numpy as np
from pathlib import Path
from avsr import media
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(path.name, np.sqrt(2 * np.mean(media.read(path).audio[4000:12000] ** 2)))""", str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == len(FILMS)
    for line in done.stdout.splitlines():
        assert 0.2 < float(line.split()[1]) < 0.32, line       # low-pass filters take the tone from the bass channels


def encode(path, codec, layout, rate):
    """A second of the same tone in all channels. Packed, as PyAV cannot make planar frames of more than 7 channels."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        sound = np.repeat(tone(1.0, rate), stream.codec_context.layout.nb_channels).reshape(rate, -1)
        for at in range(0, rate, 4800):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[at: at + 4800]).reshape(1, -1), "flt", layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def test_the_mean_of_two_channels_is_exact():
    rng = np.random.default_rng(0)
    samples = rng.integers(-32768, 32767, (16000, 2), dtype=np.int16)
    audio = media.read(wav(samples, SAMPLE_RATE)).audio
    assert np.array_equal(audio, (samples / np.float32(32768)).astype(np.float32).mean(axis=1))
