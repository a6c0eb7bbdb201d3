"""Files that are damaged or claim what cannot be: one sentence, or what decodes. Every file is made here."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from avsr import media
from avsr.errors import BadMedia
from avsr.rates import SAMPLE_RATE
from tests.test_media import GREY, make, tone


def test_a_stream_that_appears_later_ends_nothing(tmp_path):
    """PyAV raises IndexError at the end of the file, as it knows only the streams that were there at its start."""
    sound = make(tmp_path / "sound.flv", None, None, sound=tone(15.0, 44100))
    film = make(tmp_path / "film.flv", np.arange(25) / 25, lambda i: GREY)
    path = tmp_path / "late.flv"
    path.write_bytes(sound.read_bytes() + film.read_bytes()[13:])
    with media.open_recording(path) as recording:
        clips = list(recording.windows())
    assert abs(sum(len(clip.audio) for clip in clips) / SAMPLE_RATE - 15) < 0.1


def huge(path, *, both):
    """PNG pictures in AVI that claim 12,000 x 12,000 pixels, in the header of the file as well if `both`."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("png", rate=25)
        video.width, video.height, video.pix_fmt = 16, 16, "rgb24"
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), GREY, np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    data = bytearray(path.read_bytes())
    at = -1
    while (at := data.find(b"IHDR", at + 1)) >= 0:
        struct.pack_into(">II", data, at + 4, 12_000, 12_000)
    if both:
        struct.pack_into("<II", data, data.index(b"strf") + 12, 12_000, 12_000)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("both", [True, False])
def test_pictures_too_large_to_be_meant(tmp_path, both):
    with pytest.raises(BadMedia, match=r"huge\.avi: its picture claims 12,000 x 12,000 pixels, and up to 80,000,000"):
        media.read(huge(tmp_path / "huge.avi", both=both))
