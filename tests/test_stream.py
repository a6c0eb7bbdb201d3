"""Pieces on their way to the network: whole, in order, with the sound and the mouths of their own frames."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsr import media, noise
from avsr.lips import MouthCropSettings, Mouths
from avsr.rates import SEGMENT_FRAMES, frames_to_samples
from avsr.runtime import prefetch
from avsr.segment import SpeechSegment
from avsr.segmenters import OVERLAP_FRAMES, Gaps
from avsr.stream import StreamReader, StreamSettings


def pieces(source, mouth_crop, **settings):
    with media.open_recording(source) as recording:
        return list(StreamReader(recording, mouth_crop, StreamSettings(**settings)))


def test_pieces_hold_the_sound_of_their_frames(hello):
    sound = np.concatenate([hello, np.zeros(80_000, np.float32)] * 3)
    heard = pieces(sound, mouth_crop=None)
    assert len(heard) == 3
    for one in heard:
        start = frames_to_samples(one.segment.start_frame)
        assert np.array_equal(one.audio, sound[start:start + len(one.audio)])
        assert len(one.audio) <= frames_to_samples(one.segment.end_frame - one.segment.start_frame)


@pytest.mark.slow
def test_mouths_come_with_the_piece_and_nobody_means_none(tmp_path):
    import talking_face

    talking_face.write(tmp_path / "a.mp4", "My mama made me a poem.", silence_s=(1.0, 1.0))
    (one,) = pieces(tmp_path / "a.mp4", mouth_crop=MouthCropSettings())
    assert len(one.mouths.images) == one.segment.end_frame - one.segment.start_frame
    assert not one.mouths.missing.any()
    clip = media.read(tmp_path / "a.mp4")
    blank = media.Clip(np.full_like(clip.video, 80), clip.shown, clip.audio)
    assert pieces(blank, mouth_crop=MouthCropSettings())[0].mouths is None


def test_without_vad_nothing_is_left_out(hello):
    sound = np.tile(hello, 7)
    first, second = pieces(sound, mouth_crop=None, vad=False)
    assert first.segment.start_frame == 0
    assert first.segment.end_frame - second.segment.start_frame == 2 * OVERLAP_FRAMES
    start = frames_to_samples(second.segment.start_frame)
    assert np.array_equal(np.concatenate([first.audio[:start], second.audio]), sound)
    cut = frames_to_samples(second.segment.start_frame + OVERLAP_FRAMES)
    assert np.abs(sound[cut - 200:cut + 200]).max() < 0.05 * np.abs(sound).max(), "not where somebody speaks"


class Loud:
    """A reader of a recording that is as loud as speech, with somebody in sight, but for the `quiet` frames."""

    def __init__(self, n_frames, quiet):
        self.n_frames, self.quiet, self.forgotten = n_frames, quiet, 0

    def audio(self, piece):
        assert self.forgotten <= piece.start_frame < piece.end_frame <= self.n_frames
        here = np.isin(np.arange(piece.start_frame, piece.end_frame), self.quiet)
        return np.repeat(np.where(here, 1e-3, 0.3).astype(np.float32), frames_to_samples(1))

    def mouths(self, piece):
        n = len(self.audio(piece)) // frames_to_samples(1)
        return Mouths(np.zeros((n, 1, 1), np.uint8), np.zeros(n, bool), np.ones(n), np.ones(n), piece.start_frame, 0)


def between(pieces, n_frames, quiet, steps):
    """Everything through Gaps, looking ahead to each of `steps`."""
    reader = Loud(n_frames, quiet)
    gaps, out, waiting = Gaps(reader), [], list(pieces)
    for now in steps:
        ready = [piece for piece in waiting if piece.end_frame <= now]
        waiting = waiting[len(ready):]
        out += gaps.update(ready, min([now] + [piece.start_frame for piece in waiting]))
        assert now - gaps.oldest <= 3 * SEGMENT_FRAMES, "memory"
        reader.forgotten = min([gaps.oldest] + [piece.start_frame for piece in waiting])
    return out + gaps.finish(waiting)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 400), min_size=1, max_size=12), ending=st.integers(0, 900),
       hush=st.integers(0, 3000), jumps=st.lists(st.integers(1, 300), max_size=30))
def test_gaps_are_judged_the_same_in_any_windows(lengths, ending, hush, jumps):
    edges = np.cumsum(lengths).tolist()
    pieces = [SpeechSegment(a, b) for a, b in zip(edges[::2], edges[1::2], strict=False)]
    n_frames, quiet = edges[-1] + ending, np.arange(hush, hush + 200)
    steps = [now for now in np.cumsum(jumps).tolist() if now <= n_frames]
    out = between(pieces, n_frames, quiet, steps)
    assert out == between(pieces, n_frames, quiet, [])
    assert [one for piece in out for one in ((piece,) if piece.unextended is None else piece.unextended)] == pieces
    assert between(pieces, n_frames, np.arange(n_frames), steps) == pieces, "nothing changes where gaps are quiet"


@pytest.fixture(scope="module")
def grid_clip(real_data):
    """A clip of the validation part."""
    return media.read(real_data / "grid" / "s1" / "bbaf4p.mkv")


def in_noise(clip, snr_db):
    rng = np.random.default_rng(0)
    audio = noise.mix(clip.audio, noise.Coloured().draw(len(clip.audio), rng), snr_db, rng=rng).audio
    return media.Clip(clip.video, clip.shown, audio)


@pytest.mark.slow
@pytest.mark.parametrize("snr_db", [None, -5, -10])
def test_what_noise_hides_is_doubted_and_what_is_sure_stays_as_it_was(grid_clip, snr_db):
    clip = in_noise(grid_clip, snr_db)
    plain = pieces(clip, mouth_crop=MouthCropSettings())
    one, *others = pieces(clip, mouth_crop=MouthCropSettings(), extension=True)
    assert not others
    sure = (one,) if snr_db is None else one.unextended
    assert (one.unextended is None) == (snr_db is None)
    assert [heard.segment for heard in sure] == [heard.segment for heard in plain]
    for ours, theirs in zip(sure, plain, strict=True):
        assert np.array_equal(ours.audio, theirs.audio)
        assert np.array_equal(ours.mouths.images, theirs.mouths.images)
    if snr_db is not None:
        assert (one.segment.start_frame, one.segment.end_frame) == (0, clip.n_frames)
        assert len(one.mouths.images) == clip.n_frames


def test_ahead_keeps_order_passes_errors_on_and_stops_its_thread():
    assert list(prefetch(range(100), 3)) == list(range(100))

    def broken():
        yield 1
        raise ValueError("two")

    items = prefetch(broken(), 3)
    assert next(items) == 1
    with pytest.raises(ValueError, match="two"):
        next(items)
    before = threading.active_count()
    endless = prefetch(iter(int, 1), 2)
    next(endless)
    endless.close()
    assert threading.active_count() == before
