"""Many faces: those that a search of the whole frame misses are found, and who is left out is told."""

import cv2
import numpy as np
import pytest
from tracking import track_faces

from avsr import media
from avsr.faces import FaceTracker
from avsr.faces.crowds import EVERY
from avsr.lips import MouthCropSettings
from avsr.media import Clip
from avsr.stream import StreamReader, StreamSettings


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    """(160, 136, 3) head of a person, from scikit-image."""
    astronaut = pytest.importorskip("skimage.data").astronaut()[20:220, 140:310]
    return cv2.resize(astronaut, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)


def crowd(head: np.ndarray, rows: int, columns: int, n_frames: int) -> Clip:
    """A still picture of `rows` times `columns` heads, 230 pixels apart."""
    frame = np.full((230 * rows, 230 * columns, 3), 90, np.uint8)
    for top in range(20, len(frame), 230):
        for left in range(30, frame.shape[1], 230):
            frame[top : top + len(head), left : left + head.shape[1]] = head
    return Clip(np.repeat(frame[None], n_frames, axis=0), np.ones(n_frames, bool))


def test_everybody_in_a_row_is_followed(head):
    tracks = track_faces(crowd(head, 1, 6, 4))
    assert [(track.start_frame, track.end_frame) for track in tracks] == [(0, 4)] * 6
    assert sorted(track.person for track in tracks) == list(range(6))
    middles = sorted(float(track.points[0, :, 0].mean()) for track in tracks)
    np.testing.assert_allclose(np.diff(middles), 230, atol=8)


def test_who_is_left_out_is_counted_and_told(head):
    with FaceTracker(max_faces=2) as tracker:
        parts = tracker.update(crowd(head, 2, 3, 2)) + tracker.finish()
        assert {part.person for part in parts} == {0, 1}
        assert tracker.problems("talk.mp4") == ["talk.mp4: up to 6 faces are in sight at once, of which 2 were followed; the "
                                                "lips of the others were not read."]
    with FaceTracker() as tracker:
        tracker.update(crowd(head, 1, 2, 2))
        tracker.finish()
        assert tracker.problems("talk.mp4") == []


@pytest.mark.slow
def test_a_reader_tells_who_was_left_out(head):
    with media.open_recording(crowd(head, 3, 5, 2)) as recording:
        list(StreamReader(recording, MouthCropSettings(), StreamSettings(vad=False)))
        assert recording.problems == ["clip: up to 15 faces are in sight at once, of which 12 were followed; the lips of the "
                                      "others were not read."]


def test_the_squares_are_searched_seldom(head, monkeypatch):
    with FaceTracker() as tracker:
        asked = []
        monkeypatch.setattr("avsr.faces.crowds.shared_boxes", lambda: asked.append(1))
        assert tracker._crowd is not None
        tracker._crowd._next = EVERY
        assert tracker._crowd.others(crowd(head, 1, 2, 1).video[0], EVERY - 1, [], 5) == []
        assert not asked
