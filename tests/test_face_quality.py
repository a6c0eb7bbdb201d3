"""Faces that are turned away: told by the mesh, masked in the mouths, and counted in what the user is told."""

import numpy as np
import pytest

from avsr import media
from avsr.checkpoint import load
from avsr.faces.quality import CHIN, FOREHEAD, LEFT_EDGE, NOSE_TIP, RIGHT_EDGE, nose_place, turned_away
from avsr.lips import Mouths
from avsr.modality import VideoUse
from avsr.rates import SAMPLE_RATE
from avsr.segment import SpeechSegment
from avsr.stream import Window


def head(yaw: float, roll: float = 0.0) -> np.ndarray:
    """(478, 2) the points that matter of a round head, in pixels, turned and tilted by degrees."""
    places = {FOREHEAD: (0, -90, 40), CHIN: (0, 90, 40), NOSE_TIP: (0, 10, 100), RIGHT_EDGE: (-80, 0, 0), LEFT_EDGE: (80, 0, 0)}
    turn, tilt = np.radians(yaw), np.radians(roll)
    points = np.zeros((478, 2), np.float32)
    for number, (x, y, z) in places.items():
        x = x * np.cos(turn) + z * np.sin(turn)
        points[number] = 300 + x * np.cos(tilt) - y * np.sin(tilt), 200 + x * np.sin(tilt) + y * np.cos(tilt)
    return points


@pytest.mark.parametrize("roll", [0, 30, -80])
def test_a_face_is_turned_away_when_the_nose_reaches_its_outline_however_the_head_is_tilted(roll):
    yaws = np.array([-70, -20, 0, 20, 35, 70])
    points = np.stack([head(yaw, roll) for yaw in yaws])
    assert turned_away(points).tolist() == [True, False, False, False, False, True]
    places = nose_place(points)
    assert places[2] == pytest.approx(0, abs=1e-6)
    assert np.sign(np.round(places, 6)).tolist() == np.sign(yaws).tolist()
    assert np.abs(places[3]) < np.abs(places[4]) < 1


def test_four_points_tell_nothing():
    assert not turned_away(np.zeros((5, 4, 2), np.float32)).any()


@pytest.fixture(scope="module")
def default():
    return load("default")


@pytest.mark.parametrize(("n_turned", "seen"), [(10, False), (10, True), (0, False)])
def test_mouths_that_are_turned_away_are_masked_and_told(default, n_turned, seen):
    score = np.ones(50, np.float32)
    score[:n_turned] = 0
    mouths = Mouths(np.full((50, 96, 96), 90, np.uint8), np.zeros(50, bool), np.full(50, 100, np.float32), score, 0, 0)
    window = Window(SpeechSegment(0, 50), None, mouths, seen=np.ones(50, bool) if seen else None)
    with media.open_recording(media.Clip(audio=np.zeros(2 * SAMPLE_RATE, np.float32))) as recording:
        use = VideoUse(default, recording, "av", max_missing=0.25, only_in_distribution=False)
        masked = use.without_turned_away(window)
        assert np.flatnonzero(masked.mouths.missing).tolist() == list(range(n_turned))
        assert masked.seen is None or masked.seen.sum() == 50 - n_turned
        use.count(masked, None)
        told = use.outcome("")[2]
    expected = ["clip: the face is turned away in 10 of 50 frames, in which the lips were not read."]
    assert told == (expected if n_turned else [])
