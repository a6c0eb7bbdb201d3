"""Rates: everything derives from a few numbers, without remainder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsr import rates


def test_one_video_frame_in_every_unit():
    assert rates.MEMORY_RATE == rates.MEMORY_PER_FRAME * rates.VIDEO_FPS == 50
    assert rates.SAMPLES_PER_FRAME == rates.FEATURES_PER_FRAME * rates.HOP == 640
    assert rates.SEGMENT_FEATURES * rates.HOP == rates.SEGMENT_SAMPLES == rates.SEGMENT_FRAMES * rates.SAMPLES_PER_FRAME


def test_exact_division_refuses_a_remainder():
    assert rates.exact_div(16_000, 160) == 100
    with pytest.raises(AssertionError, match="16000 is not a multiple of 30"):
        rates.exact_div(16_000, 30)


@given(st.integers(0, 10_000_000))
def test_frames_survive_seconds_and_samples(n_frames):
    assert round(rates.frames_to_seconds(n_frames) * rates.VIDEO_FPS) == n_frames
    assert rates.samples_to_frames(rates.frames_to_samples(n_frames)) == n_frames
    assert rates.samples_to_frames(rates.frames_to_samples(n_frames) + 1) == n_frames + 1
