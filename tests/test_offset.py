"""The offset of lips and sound: what sums of scores tell, and mouths that are moved to their sound."""

import numpy as np
import pytest

from avsr import media
from avsr.lips import MouthCropSettings, Mouths
from avsr.segment import SpeechSegment
from avsr.speakers import ActiveSpeakerDetector
from avsr.speakers.offset import BLOCK, MAX_LAG, MAX_OFFSET, Offset, OffsetFinder
from avsr.stream import StreamReader, StreamSettings


class Curves(ActiveSpeakerDetector):
    """A detector whose scores are known: a peak at each block's lag over a level that all lags have."""

    def __init__(self, *peaks):
        super().__init__()
        self.peaks = list(peaks)

    def lag_scores(self, images, audio, max_lag, missing=None):
        lag, height, level = self.peaks.pop(0)
        curve = np.full(2 * max_lag + 1, level, np.float32)
        curve[max_lag + lag] = height
        return curve


def examine(*peaks):
    """The finder after a block for each (lag, height, level), with a mouth that opens and closes and a sound of noise."""
    rng, finder = np.random.default_rng(0), OffsetFinder(Curves(*peaks))
    images = np.tile(rng.integers(60, 180, (96, 96)).astype(np.uint8), (BLOCK, 1, 1))
    images[np.arange(BLOCK) // 5 % 2 == 1, 40:60, 30:66] = 10
    audio = rng.normal(0, 0.1, BLOCK * 640).astype(np.float32)
    for n in range(len(peaks)):
        if finder.found is None:
            mouths = Mouths(images, np.zeros(BLOCK, bool), np.ones(BLOCK, np.float32), np.ones(BLOCK, np.float32), n * BLOCK, 0)
            finder.add([mouths], audio, SpeechSegment(n * BLOCK, (n + 1) * BLOCK))
    return finder


def test_three_blocks_that_agree_decide_and_one_decides_only_at_the_end_of_the_recording():
    finder = examine((0, -0.5, -2.0), (1, -0.5, -2.0))
    assert finder.found is None
    assert examine(*[(1, -0.5, -2.0)] * 3).found == Offset()
    assert examine(*[(6, -0.5, -2.0)] * 3).found == Offset(6)
    one = examine((-4, -0.5, -4.0))
    assert one.found is None
    assert one.finish() == Offset(-4)
    assert examine((-4, -0.5, -2.0)).finish() == Offset(), "a single block that is less sure moves nothing"


def test_blocks_that_do_not_agree_move_nothing():
    finder = examine((-7, -0.5, -2.0), (12, -0.5, -2.0), (3, -0.5, -2.0), (-20, -0.5, -2.0))
    assert finder.found is None
    assert finder.finish() == Offset()


def test_lips_that_are_too_late_or_belong_to_another_voice_are_not_to_be_used():
    assert examine(*[(MAX_OFFSET, -0.5, -2.0)] * 3).found == Offset(MAX_OFFSET)
    assert examine(*[(MAX_OFFSET + 1, -0.5, -2.0)] * 3).found == Offset(MAX_OFFSET + 1, apart=True)
    dubbed = [(lag, -3.0, -3.2) for lag in (3, -9, 14, -20, 8, 1, -4, 19)]
    assert examine(*dubbed).finish() == Offset(apart=True)
    assert examine(*dubbed[:4]).finish() == Offset(), "too little to say so"
    assert examine(*[(lag, -1.0, -1.2) for lag, _, _ in dubbed]).finish() == Offset(), "lips may make this sound: it is noisy"


@pytest.mark.parametrize(("offset", "sentence"), [
    (Offset(), None),
    (Offset(4), "a.mp4: lips come 0.16 s after the sound; they were moved by 4 frames."),
    (Offset(-12), "a.mp4: lips come 0.48 s before the sound; they were moved by 12 frames."),
    (Offset(20, apart=True), "a.mp4: lips come 0.80 s after the sound (limit 0.48 s), so they were not used.  Move the sound "
                             "with another program, such as ffmpeg -itsoffset."),
    (Offset(apart=True), "a.mp4: the lips in its picture do not make its sound, as in a dubbed film or under another's voice, "
                         "so they were not used.  Use --modality v to have them read without the sound."),
])
def test_what_the_user_is_told(offset, sentence):
    assert offset.problem("a.mp4") == sentence


def shifted(clip, k):
    """The clip with its lips k frames later."""
    at = np.arange(clip.n_frames) - k
    there = (at >= 0) & (at < clip.n_frames)
    return media.Clip(np.where(there[:, None, None, None], clip.video[at.clip(0, clip.n_frames - 1)], 0), there, clip.audio)


@pytest.fixture(scope="module")
def grid_clip(real_data):
    """A clip of the validation part."""
    return media.read(real_data / "grid" / "s1" / "bbaf4p.mkv")


def windows(clip, **options):
    with media.open_recording(clip) as recording:
        reader = StreamReader(recording, MouthCropSettings(), StreamSettings(vad=False))
        for _ in reader.clips(**options):
            assert reader.settled <= reader.n_frames
        return reader.window(SpeechSegment(0, clip.n_frames)), recording.problems


@pytest.mark.slow
def test_lips_in_step_stay_bit_for_bit_and_late_ones_are_moved_back(grid_clip):
    plain, problems = windows(grid_clip)
    assert problems == []
    late, problems = windows(shifted(grid_clip, 8))
    assert problems == ["clip: lips come 0.32 s after the sound; they were moved by 8 frames."]
    assert late.mouths.missing.tolist() == [False] * (grid_clip.n_frames - 8) + [True] * 8
    assert np.abs(late.mouths.images[5:50].astype(int) - plain.mouths.images[5:50]).mean() < 3
    again, _ = windows(shifted(grid_clip, 8), n_frames=25)
    assert np.array_equal(late.mouths.images, again.mouths.images), "whatever the windows in which it is read"
    apart, problems = windows(shifted(grid_clip, -20))
    assert apart.apart
    assert "lips come 0.80 s before the sound (limit 0.48 s)" in problems[0]
    assert MAX_LAG >= 20
