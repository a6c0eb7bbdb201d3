"""A container that grows: all of its sound and pictures come out, in time, and what is broken is a sentence."""

import io
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT

from avsr.errors import BadMedia
from avsr.live import ClipAssembler
from avsr.live.container import GrowingContainer, GrowingFile, PicturePiece, SoundPiece
from avsr.rates import SAMPLE_RATE

# Made once by Chromium 156's MediaRecorder in pieces of 100 ms, with data/demo/hello.mp4 as camera and microphone.
CHROMIUM = (ROOT / "tests" / "recordings" / "chromium.webm").read_bytes()


class Delivered(GrowingFile):
    """A GrowingFile in which the next piece comes when all before it is read; `n_came` counts the pieces that came."""

    def __init__(self, pieces):
        super().__init__()
        self.pieces, self.n_came = iter(pieces), 0

    def _next(self):
        piece = next(self.pieces, None)
        if piece is None:
            return self.end()
        self.n_came += 1
        self.feed(piece)

    def wait_for(self, n):
        while len(self.begins) < n and not self._ended:
            self._next()

    def read(self, size=-1):
        while not self.n_waiting and not self._ended:
            self._next()
        return super().read(size)


def written(*, video="libvpx", audio="libopus", seconds=2.0, fps=25, sound_from=0.0, format="webm") -> bytes:
    """A container as a pipe gets it, without seeking: grey pictures that grow lighter, and a tone of 440 Hz."""
    out = io.BytesIO()
    options = {"movflags": "frag_keyframe+empty_moov"} if format == "mp4" else {"live": "1"}
    with av.open(out, "w", format=format, options=options) as c:
        if video:
            pictures = c.add_stream(video, rate=fps)
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
            quick = {"deadline": "realtime", "lag-in-frames": "0"}
            pictures.options = quick if "vpx" in video else {"tune": "zerolatency", "g": "10"}
        if audio:
            sound = c.add_stream(audio, rate=48000, layout="mono")
        for n in range(round(seconds * fps)):
            if video:
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 + 4 * n % 200, np.uint8), "rgb24")
                frame.pts, frame.time_base = n, Fraction(1, fps)
                c.mux(pictures.encode(frame))
            if audio and n / fps >= sound_from:
                time = (n * 48000 // fps + np.arange(48000 // fps)) / 48000
                tone = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
                one = av.AudioFrame.from_ndarray(tone[None], "fltp", "mono")
                one.sample_rate, one.pts, one.time_base = 48000, n * 48000 // fps, Fraction(1, 48000)
                c.mux(sound.encode(one))
        for stream in c.streams:
            c.mux(stream.encode(None))
    return out.getvalue()


def in_pieces(data, size):
    return [data[i: i + size] for i in range(0, len(data), size)]


def read(pieces, **want):
    """(sound (S,), pictures, times of the pictures, the container) of what came in pieces."""
    with GrowingContainer(Delivered(pieces), **want) as container:
        items = list(container)
    sound = [one.samples for one in items if isinstance(one, SoundPiece)]
    pictures = [one for one in items if isinstance(one, PicturePiece)]
    return np.concatenate(sound or [np.zeros(0, np.float32)]), [one.picture for one in pictures], [
        one.time_s for one in pictures], container


@pytest.mark.parametrize(("video", "audio"), [("libvpx", "libopus"), ("libvpx-vp9", "libopus"), ("libx264", "libopus"),
                                              ("libvpx", None), (None, "libopus")])
def test_all_sound_and_pictures_come_out(video, audio):
    format = "matroska" if video == "libx264" else "webm"
    sound, pictures, times, container = read(in_pieces(written(video=video, audio=audio, format=format), 700))
    assert (container.has_video, container.has_audio) == (video is not None, audio is not None)
    assert container.problems == []
    if video:
        assert len(pictures) == 50
        assert np.allclose(np.diff(times), 0.04, atol=0.002)
        assert abs(int(pictures[30].mean()) - 160) < 4
    if audio:
        assert len(sound) == pytest.approx(2 * SAMPLE_RATE, abs=400)
        spectrum = np.abs(np.fft.rfft(sound[SAMPLE_RATE // 2: SAMPLE_RATE * 3 // 2]))
        assert abs(int(spectrum.argmax()) - 440) <= 1


def test_fragments_of_mp4_are_read_as_well():
    sound, pictures, _, _ = read(in_pieces(written(video="libx264", audio="aac", format="mp4"), 900))
    assert len(pictures) == 50
    assert len(sound) == pytest.approx(2 * SAMPLE_RATE, abs=1200)


def test_what_a_browser_records_is_out_as_soon_as_it_has_come():
    pieces = in_pieces(CHROMIUM, len(CHROMIUM) // 25 + 1)        # 100 ms each
    file = Delivered(pieces)
    with GrowingContainer(file) as container:
        assert (container.has_audio, container.has_video) == (True, True)
        assert file.n_came <= 2
        assembler, late, n_frames, size = ClipAssembler(has_audio=True, has_video=True), [], 0, None
        for piece in container:
            if isinstance(piece, SoundPiece):
                assembler.add_sound(piece.samples)
            else:
                assembler.add_picture(piece.picture, piece.time_s)
            clip = assembler.take()
            if clip is not None:
                n_frames += clip.n_frames
                size = clip.video.shape[1:] if clip.video is not None else size
                if file.n_came < len(pieces):
                    late.append(file.n_came * 0.1 - clip.start_s - clip.duration_s)
    assert n_frames == pytest.approx(2.5 * 25, abs=3)
    assert size == (384, 288, 3)
    assert np.median(late) < 0.3                                # pieces of equal bytes are not pieces of equal time


def test_sound_and_pictures_of_a_browser_are_the_same_in_any_pieces():
    once, slowly = read([CHROMIUM]), read(in_pieces(CHROMIUM, 1000))
    assert np.array_equal(once[0], slowly[0])
    assert once[2] == slowly[2]
    assert all(map(np.array_equal, once[1], slowly[1]))


def test_only_what_is_wanted_is_decoded():
    sound, pictures, _, container = read([CHROMIUM], want_video=False)
    assert len(sound)
    assert not pictures
    assert not container.has_video


def test_sound_that_begins_late_is_silence_before():
    sound, pictures, _, _ = read(in_pieces(written(sound_from=0.8), 700))
    assert len(pictures) == 50
    assert len(sound) == pytest.approx(2 * SAMPLE_RATE, abs=800)
    assert np.abs(sound[: int(0.7 * SAMPLE_RATE)]).max() < 0.01
    assert np.abs(sound[SAMPLE_RATE:]).max() > 0.2


def test_pictures_do_not_wait_for_sound_that_has_stopped():
    """The sound goes on as silence, so that Clips come and nothing grows."""
    head = written(seconds=4.0, sound_from=3.96)
    items, sound_s, most_ahead = 0, 0.0, 0.0
    with GrowingContainer(Delivered(in_pieces(head, 700))) as container:
        for piece in container:
            items += 1
            if isinstance(piece, SoundPiece):
                sound_s += len(piece.samples) / SAMPLE_RATE
            else:
                most_ahead = max(most_ahead, piece.time_s - sound_s)
    assert items > 100
    assert most_ahead < 1.1


NONE = [(b"", "cannot be read"), (b"no recording, only a text" * 50, "cannot be read"), (CHROMIUM[:40], "cannot be read"),
        (b"<!doctype html><p>hello" * 50, "a web page")]


@pytest.mark.parametrize(("data", "reason"), NONE)
def test_what_is_no_recording_is_a_sentence(data, reason):
    with pytest.raises(BadMedia, match=reason):
        read([data] if data else [])


@settings(max_examples=15)
@given(st.data())
def test_damage_never_raises_more_than_bad_media(data):
    damaged = bytearray(CHROMIUM)
    places = st.tuples(st.integers(0, len(CHROMIUM) - 1), st.integers(0, 255))
    for at, value in data.draw(st.lists(places, min_size=1, max_size=40)):
        damaged[at] = value
    try:
        sound, pictures, times, _ = read(in_pieces(bytes(damaged), 3000))
    except BadMedia:
        return
    assert len(sound) < 60 * SAMPLE_RATE                        # time stamps that leap make no hours of silence
    assert len(pictures) < 200
    assert times == sorted(times)


def test_closing_frees_the_thread_that_waits():
    file, ended = GrowingFile(), threading.Event()

    def decode():
        with GrowingContainer(file) as container:
            list(container)
        ended.set()

    thread = threading.Thread(target=decode)
    thread.start()
    file.feed(CHROMIUM[: len(CHROMIUM) // 2])
    assert not ended.wait(0.3)
    file.close()
    thread.join(5)
    assert ended.is_set()
    assert file.n_waiting == 0
