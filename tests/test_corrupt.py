"""Bad pictures: as much damage as asked for, the same for the same generator, nothing else changed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsr.corrupt import CORRUPTIONS, Corruption, Mouth, corrupt, frames_after_loss, parse_corruptions
from avsr.errors import AvsrError


@pytest.fixture
def mouth():
    """Frames that can be told apart: frame t is a gradient with its own brightness."""
    ramp = np.add.outer(np.arange(96), np.arange(96))
    return np.stack([(ramp // 2 + 2 * t).astype(np.uint8) for t in range(50)]), np.zeros(50, bool)


EVERY = parse_corruptions(",".join(CORRUPTIONS))


@pytest.mark.parametrize("corruption", EVERY, ids=str)
def test_shapes_stay_the_input_stays_and_the_generator_decides(corruption, mouth):
    images, missing = mouth
    before, other = images.copy(), Mouth(images[::-1][:30], missing[:30])
    once, again = (corrupt(images, missing, corruption, np.random.default_rng(3), other) for _ in range(2))
    assert once[0].shape == images.shape
    assert once[0].dtype == np.uint8
    assert once[1].shape == missing.shape
    assert np.array_equal(images, before)
    assert not np.array_equal(once[0], images)
    assert all(map(np.array_equal, once, again))


@given(st.floats(0, 1), st.integers(0, 9))
def test_the_square_covers_the_share_asked_for(share, seed):
    images = np.random.default_rng(0).integers(0, 256, (4, 96, 96), np.uint8)
    covered, _ = corrupt(images, np.zeros(4, bool), Corruption("occlusion", share), np.random.default_rng(seed))
    still = (covered == covered[:1]).all(axis=0) & (covered[0] == round(float(images.mean())))
    assert still.mean() == pytest.approx(share, abs=0.012)         # a side is rounded to a pixel


@given(st.integers(0, 100), st.floats(0, 1), st.integers(0, 9))
def test_so_many_frames_are_lost_and_the_one_before_stays(n, share, seed):
    shown = frames_after_loss(n, share, np.random.default_rng(seed))
    own = shown == np.arange(n)
    assert (~own).sum() == min(round(share * n), max(n - 1, 0))
    for t in np.flatnonzero(~own):
        assert shown[t] == shown[t - 1]


@pytest.mark.parametrize(("ms", "shown"), [(80, [0, 0, 0, 1, 2]), (-80, [2, 3, 4, 4, 4]), (0, [0, 1, 2, 3, 4])])
def test_a_late_picture_shows_what_was(ms, shown):
    images = np.arange(5, dtype=np.uint8)[:, None, None] * np.ones((1, 96, 96), np.uint8)
    missing = np.array([True, False, False, False, False])
    late, gone = corrupt(images, missing, Corruption("shift", ms), np.random.default_rng(0))
    assert late[:, 0, 0].tolist() == shown
    assert gone.tolist() == [one == 0 for one in shown]


def test_fewer_pixels_and_more_blur_leave_less_detail():
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96), np.uint8)

    def detail(name, amount):
        return np.std(corrupt(images, np.zeros(2, bool), Corruption(name, amount), np.random.default_rng(0))[0].astype(float))

    assert detail("blur", 1) > 2 * detail("blur", 4) > 0
    assert detail("lowres", 48) > 2 * detail("lowres", 12) > 0
    assert detail("blur", 0) == detail("lowres", 96) == np.std(images.astype(float))


def test_no_face_and_another_face(mouth):
    images, missing = mouth
    assert corrupt(images, missing, Corruption("noface"), np.random.default_rng(0))[1].all()
    other = Mouth(images[:20] + 1, missing[:20])
    shown, gone = corrupt(images, missing, Corruption("face"), np.random.default_rng(0), other)
    assert np.array_equal(shown[:20], other[0])
    assert gone.tolist() == [False] * 20 + [True] * 30


def test_a_list_as_it_is_typed():
    found = parse_corruptions("blur:3, noface,lowres,blur:3")
    assert [str(one) for one in found] == ["blur:3", "noface", "lowres:24", "lowres:12"]
    assert parse_corruptions("") == ()


@pytest.mark.parametrize(("text", "message"), [
    ("blurr", "not known.  Use occlusion, blur"),
    ("blur:x", "'x' is no number"),
    ("noface:1", "takes no amount"),
    ("occlusion:1.5", "from 0 to 1 of the crop's area"),
    ("shift:50", "Use shift:40"),
])
def test_what_is_wrong_is_said(text, message):
    with pytest.raises(AvsrError, match=message):
        parse_corruptions(text)
