"""Faces: one steady track per person, the same however the recording is cut into windows."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from avsr import faces, media
from avsr.media import Clip

WILD = "wild/visualvoice__interview.mp4"


def clip(frames, shown=None) -> Clip:
    video = np.ascontiguousarray(np.stack(frames))
    return Clip(video, np.ones(len(video), bool) if shown is None else np.asarray(shown))


def cut(whole: Clip, start: int, end: int) -> Clip:
    return Clip(whole.video[start:end], whole.shown[start:end], start_frame=whole.start_frame + start)


def windows(whole: Clip, n_frames: int) -> list[Clip]:
    return [cut(whole, start, start + n_frames) for start in range(0, len(whole.video), n_frames)]


def pasted(shape, *places):
    """A grey picture with pictures pasted at (left, top, picture)."""
    frame = np.full((*shape, 3), 90, np.uint8)
    for left, top, picture in places:
        frame[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return frame


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """(200, 170, 3) head of a person, from scikit-image."""
    return pytest.importorskip("skimage.data").astronaut()[20:220, 140:310]


@pytest.fixture(scope="session")
def grid_clip(real_data) -> Clip:
    return media.read(next(iter(sorted((real_data / "grid" / "s1").glob("*.mpg")))))


def same(a: list[faces.Track], b: list[faces.Track]) -> bool:
    names = ("points", "box", "score", "missing")
    return len(a) == len(b) and all(
        (x.person, x.start_frame, x.last) == (y.person, y.start_frame, y.last)
        and all(np.array_equal(getattr(x, name), getattr(y, name)) for name in names)
        for x, y in zip(a, b, strict=True)
    )


def test_one_speaker_is_one_track_with_all_frames(grid_clip):
    (track,) = faces.track(grid_clip)
    n_frames = len(grid_clip.video)
    assert (track.start_frame, len(track.points), track.last) == (0, n_frames, True)
    assert track.points.shape == (n_frames, 478, 2)
    assert {a.dtype for a in (track.points, track.box, track.score)} == {np.dtype(np.float32)}
    assert not track.missing.any()
    assert (track.score[2:] > 0.5).all()


def test_between_looks_landmarks_are_near_those_of_every_frame(grid_clip):
    short = cut(grid_clip, 20, 50)
    (every,), (second,) = faces.track(short, stride=1), faces.track(short, stride=2)
    away = np.linalg.norm(every.points[:, 13] - second.points[:, 13], axis=1)
    assert away.mean() < 1
    assert away.max() < 4


def test_two_people_keep_their_numbers(real_data):
    whole = next(media.windows(real_data / WILD, 50))
    tracks = faces.track(whole, stride=2)
    assert len(tracks) == 2
    left, right = sorted(tracks, key=lambda track: track.box[0, 0])
    assert len(left.points) > 45
    assert len(right.points) > 45
    assert left.box[:, 2].max() < right.box[:, 0].min()


@pytest.mark.parametrize("n_frames", [1, 7, 20])
def test_windows_do_not_change_the_tracks(astronaut, n_frames):
    shown = np.ones(40, bool)
    shown[11:16] = shown[25:] = False
    frames = [pasted((240, 320), (40 + i, 20 + i // 2, astronaut)) for i in range(40)]
    whole = clip([frame * np.uint8(s) for frame, s in zip(frames, shown, strict=True)], shown)
    assert same(faces.track(whole), faces.track(windows(whole, n_frames)))


def test_a_short_gap_is_interpolated_and_marked(astronaut):
    frames = [pasted((240, 320), (20 + 2 * i, 20, astronaut)) for i in range(30)]
    frames[10:16] = [np.zeros_like(frames[0])] * 6
    shown = [not 10 <= i < 16 for i in range(30)]
    (track,) = faces.track(clip(frames, shown), stride=2)
    assert np.flatnonzero(track.missing).tolist() == list(range(9, 16))      # frame 9 lies after the last look
    assert (track.score[track.missing] == 0).all()
    assert np.abs(np.diff(track.points[8:17, 1, 0]) - 2).max() < 0.5


def test_a_long_gap_starts_a_new_track(astronaut):
    frames = [pasted((240, 320), (60, 20, astronaut))] * 40
    shown = np.array([not 10 <= i < 30 for i in range(40)])
    tracks = faces.track(clip([f * np.uint8(s) for f, s in zip(frames, shown, strict=True)], shown), stride=2)
    assert [(track.person, track.start_frame, track.end_frame) for track in tracks] == [(0, 0, 9), (1, 30, 40)]


def test_a_face_not_found_for_a_while_is_missing_even_though_there_is_a_picture(astronaut):
    frames = [pasted((300, 500), (60, 20, astronaut))] * 24
    frames[8:14] = [pasted((300, 500))] * 6
    (track,) = faces.track(clip(frames))
    assert track.missing[8:14].all()
    assert not track.missing[:7].any()


def test_a_scene_cut_ends_tracks_on_the_frame(astronaut):
    before = [pasted((240, 320), (10, 20, astronaut))] * 11
    after = [255 - pasted((240, 320))] * 9 + [pasted((240, 320), (140, 20, astronaut))] * 10
    tracks = faces.track(clip(before + after))
    assert [(track.start_frame, track.end_frame) for track in tracks] == [(0, 11), (20, 30)]


def test_a_face_that_jumps_is_another_person(astronaut):
    left = pasted((240, 500), (10, 20, astronaut))
    right = pasted((240, 500), (310, 20, astronaut))
    tracks = faces.track(clip([left] * 10 + [right] * 10))
    assert [track.person for track in tracks] == [0, 1]
    assert tracks[0].points[..., 0].max() < tracks[1].points[..., 0].min()


def test_side_by_side_faces_moving_together_stay_apart(astronaut):
    smaller = astronaut[::-1][::-1, ::-1]
    frames = [pasted((260, 520), (10 + 3 * i, 10, astronaut), (340 - 3 * i, 50, smaller)) for i in range(24)]
    tracks = faces.track(clip(frames), stride=2)
    assert len(tracks) == 2
    for track in tracks:
        step = np.diff(track.points[:23, :, 0].mean(axis=1))          # the last frame repeats the look before it
        assert np.abs(np.abs(step) - 3).max() < 1.5
        assert (np.sign(step) == np.sign(step[0])).all()


def test_small_faces_are_searched_for(astronaut):
    import cv2

    small = cv2.resize(astronaut, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    frames = [pasted((540, 960), (600 + 2 * i, 300, small)) for i in range(20)]
    (track,) = faces.track(clip(frames))
    assert (track.start_frame, track.end_frame) == (0, 20)
    assert 40 < faces.face_size(track.points[0]) < 60
    assert 600 < track.box[0, 0] < track.box[0, 2] < 690


@pytest.mark.parametrize("shape", [(8, 8), (240, 320), (1, 400)])
@pytest.mark.parametrize("level", [0, 128])
def test_no_face_is_no_track(shape, level):
    assert faces.track(clip([np.full((*shape, 3), level, np.uint8)] * 4)) == []


def test_frames_not_shown_and_clips_without_picture_are_no_track():
    assert faces.track(clip([np.zeros((64, 64, 3), np.uint8)] * 3, [False] * 3)) == []
    assert faces.track(Clip(audio=np.zeros(16_000, np.float32))) == []
    assert faces.track([]) == []


def test_windows_must_follow_one_another(astronaut):
    whole = clip([astronaut] * 6)
    with faces.FaceTracker() as tracker:
        tracker.update(cut(whole, 0, 2))
        with pytest.raises(AssertionError, match="follow"):
            tracker.update(cut(whole, 4, 6))


def test_mediapipe_is_quiet_and_imported_late():
    code = """
import sys, numpy as np
from avsr import faces
assert not {"mediapipe", "cv2", "torch"} & set(sys.modules)
from avsr.media import Clip
tracker = faces.FaceTracker()
tracker.update(Clip(np.full((3, 64, 64, 3), 99, np.uint8), np.ones(3, bool)))
"""
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root,
                          env={**os.environ, "PYTHONPATH": str(root)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
