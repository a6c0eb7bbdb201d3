"""Faces: one steady track per person, the same however the recording is cut into windows."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tracking import track_faces

from avsr import faces, media
from avsr.errors import AvsrError
from avsr.media import Clip

WILD = "wild/visualvoice__interview.mp4"
MOUTH = {faces.MESH: 13, faces.BLAZEFACE: 3}               # number of a point of the mouth
NOSE = {faces.MESH: 1, faces.BLAZEFACE: 2}


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


@pytest.fixture(params=[faces.MESH, faces.BLAZEFACE])
def landmarks(request) -> str:
    """Whose points: what is said of tracks must hold for either."""
    if request.param == faces.BLAZEFACE:
        request.getfixturevalue("face_detector")
    return request.param


def same(a: list[faces.FaceTrack], b: list[faces.FaceTrack]) -> bool:
    names = ("points", "box", "score", "missing")
    return len(a) == len(b) and all(
        (x.person, x.start_frame, x.last) == (y.person, y.start_frame, y.last)
        and all(np.array_equal(getattr(x, name), getattr(y, name)) for name in names)
        for x, y in zip(a, b, strict=True)
    )


def test_one_speaker_is_one_track_with_all_frames(grid_clip, landmarks):
    (track,) = track_faces(grid_clip, landmarks=landmarks)
    n_frames = len(grid_clip.video)
    assert (track.start_frame, len(track.points), track.last) == (0, n_frames, True)
    assert track.points.shape == (n_frames, faces.n_points(landmarks), 2)
    assert {a.dtype for a in (track.points, track.box, track.score)} == {np.dtype(np.float32)}
    assert not track.missing.any()
    assert (track.score[2:] > 0.5).all()


def test_between_looks_landmarks_are_near_those_of_every_frame(grid_clip, landmarks):
    short = cut(grid_clip, 20, 50)
    (every,), (second,) = (track_faces(short, stride=stride, landmarks=landmarks) for stride in (1, 2))
    away = np.linalg.norm(every.points[:, MOUTH[landmarks]] - second.points[:, MOUTH[landmarks]], axis=1)
    # The mesh is followed between searches: single points of it by another 0.1 pixels, of 110 for the face.
    assert away.mean() < (1.2 if landmarks == faces.MESH else 1)
    assert away.max() < 4


@pytest.mark.slow
def test_two_people_keep_their_numbers(real_data, landmarks):
    whole = next(media.windows(real_data / WILD, 50))
    tracks = track_faces(whole, stride=2, landmarks=landmarks)
    assert len(tracks) == 2
    left, right = sorted(tracks, key=lambda track: track.box[0, 0])
    assert len(left.points) > 45
    assert len(right.points) > 45
    assert left.box[:, 2].max() < right.box[:, 0].min()


@pytest.mark.parametrize("n_frames", [1, 7, 20])
def test_windows_do_not_change_the_tracks(astronaut, n_frames, landmarks):
    shown = np.ones(40, bool)
    shown[11:16] = shown[25:] = False
    frames = [pasted((240, 320), (40 + i, 20 + i // 2, astronaut)) for i in range(40)]
    whole = clip([frame * np.uint8(s) for frame, s in zip(frames, shown, strict=True)], shown)
    assert same(track_faces(whole, landmarks=landmarks), track_faces(windows(whole, n_frames), landmarks=landmarks))


def test_a_short_gap_is_interpolated_and_marked(astronaut, landmarks):
    frames = [pasted((240, 320), (20 + 2 * i, 20, astronaut)) for i in range(30)]
    frames[10:16] = [np.zeros_like(frames[0])] * 6
    shown = [not 10 <= i < 16 for i in range(30)]
    (track,) = track_faces(clip(frames, shown), stride=2, landmarks=landmarks)
    first = 10 if landmarks == faces.MESH else 9             # which is not followed: frame 9 lies after the last search
    assert np.flatnonzero(track.missing).tolist() == list(range(first, 16))
    assert (track.score[track.missing] == 0).all()
    assert np.abs(np.diff(track.points[8:17, NOSE[landmarks], 0]) - 2).max() < 0.5


def test_a_long_gap_starts_a_new_track_of_the_same_person(astronaut, landmarks):
    frames = [pasted((240, 320), (60, 20, astronaut))] * 40
    shown = np.array([not 10 <= i < 30 for i in range(40)])
    whole = clip([f * np.uint8(s) for f, s in zip(frames, shown, strict=True)], shown)
    tracks = track_faces(whole, stride=2, landmarks=landmarks)
    assert [(track.person, track.start_frame, track.end_frame) for track in tracks] == [(0, 0, 9), (0, 30, 40)]


def test_a_face_not_found_for_a_while_is_missing_even_though_there_is_a_picture(astronaut, landmarks):
    frames = [pasted((300, 500), (60, 20, astronaut))] * 24
    frames[8:14] = [pasted((300, 500))] * 6
    (track,) = track_faces(clip(frames), landmarks=landmarks)
    assert track.missing[8:14].all()
    assert not track.missing[:7].any()


def test_a_scene_cut_ends_tracks_on_the_frame(astronaut, landmarks):
    before = [pasted((240, 320), (10, 20, astronaut))] * 11
    after = [255 - pasted((240, 320))] * 9 + [pasted((240, 320), (140, 20, astronaut))] * 10
    tracks = track_faces(clip(before + after), landmarks=landmarks)
    assert [(track.start_frame, track.end_frame) for track in tracks] == [(0, 11), (20, 30)]


def test_a_face_that_jumps_is_another_track_of_the_same_person(astronaut, landmarks):
    left = pasted((240, 500), (10, 20, astronaut))
    right = pasted((240, 500), (310, 20, astronaut))
    tracks = track_faces(clip([left] * 10 + [right] * 10), landmarks=landmarks)
    assert [(track.person, track.start_frame, track.end_frame) for track in tracks] == [(0, 0, 10), (0, 10, 20)]
    assert tracks[0].points[..., 0].max() < tracks[1].points[..., 0].min()


def test_side_by_side_faces_moving_together_stay_apart(astronaut, landmarks):
    smaller = astronaut[::-1][::-1, ::-1]
    frames = [pasted((260, 520), (10 + 3 * i, 10, astronaut), (340 - 3 * i, 50, smaller)) for i in range(24)]
    tracks = track_faces(clip(frames), stride=2, landmarks=landmarks)
    assert len(tracks) == 2
    for track in tracks:
        step = np.diff(track.points[:23, :, 0].mean(axis=1))          # the last frame repeats the look before it
        assert np.abs(np.abs(step) - 3).max() < 1.5
        assert (np.sign(step) == np.sign(step[0])).all()


def test_small_faces_are_searched_for(astronaut, landmarks):
    import cv2

    small = cv2.resize(astronaut, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    frames = [pasted((540, 960), (600 + 2 * i, 300, small)) for i in range(20)]
    (track,) = track_faces(clip(frames), landmarks=landmarks)
    assert (track.start_frame, track.end_frame) == (0, 20)
    assert 40 < track.size[0] < 60
    assert 600 < track.box[0, 0] < track.box[0, 2] < 690


@pytest.mark.parametrize("shape", [(8, 8), (240, 320), (1, 400)])
@pytest.mark.parametrize("level", [0, 128])
def test_no_face_is_no_track(shape, level, landmarks):
    assert track_faces(clip([np.full((*shape, 3), level, np.uint8)] * 4), landmarks=landmarks) == []


def test_frames_not_shown_and_clips_without_picture_are_no_track():
    assert track_faces(clip([np.zeros((64, 64, 3), np.uint8)] * 3, [False] * 3)) == []
    assert track_faces(Clip(audio=np.zeros(16_000, np.float32))) == []
    assert track_faces([]) == []


def test_windows_must_follow_one_another(astronaut):
    whole = clip([astronaut] * 6)
    with faces.FaceTracker() as tracker:
        tracker.update(cut(whole, 0, 2))
        with pytest.raises(AssertionError, match="follow"):
            tracker.update(cut(whole, 4, 6))


@pytest.mark.parametrize("close", [True, False])
def test_mediapipe_is_quiet_and_imported_late(landmarks, close):
    code = f"""
import sys, numpy as np
from avsr import faces
assert not {{"mediapipe", "cv2", "torch"}} & set(sys.modules)
from avsr.media import Clip
tracker = faces.FaceTracker(landmarks={landmarks!r})
tracker.update(Clip(np.full((3, 64, 64, 3), 99, np.uint8), np.ones(3, bool)))
if {close}:
    tracker.close()
"""
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root,
                          env={**os.environ, "PYTHONPATH": str(root)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_mediapipe_imports_for_drawing_is_imported_when_it_draws():
    code = """
import sys
from avsr.faces.log_suppression import import_mediapipe
mediapipe = import_mediapipe()
assert mediapipe.tasks.vision.FaceLandmarker and import_mediapipe() is mediapipe
assert not [name for name in sys.modules if name.partition(".")[0] in ("matplotlib", "sounddevice")]
draw = sys.modules["mediapipe.tasks.python.vision.drawing_utils"]
figure = draw.plt.figure
import matplotlib.pyplot
assert figure is matplotlib.pyplot.figure and sys.modules["matplotlib.pyplot"] is not draw.plt
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[1])


def test_matplotlib_that_is_there_already_is_mediapipes_too():
    code = """
import matplotlib.pyplot
from avsr.faces.log_suppression import import_mediapipe
import_mediapipe()
import sys
assert sys.modules["mediapipe.tasks.python.vision.drawing_utils"].plt is matplotlib.pyplot is sys.modules["matplotlib.pyplot"]
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[1])


# -- the detector's points


def test_the_detector_gives_whole_pixels_where_it_looks_and_size_and_middle_of_the_mesh(grid_clip, face_detector):
    (mesh,), (four,) = (track_faces(grid_clip, landmarks=name) for name in (faces.MESH, faces.BLAZEFACE))
    assert np.array_equal(four.points[::3], np.round(four.points[::3]))
    assert not np.array_equal(four.points[1::3], np.round(four.points[1::3]))
    np.testing.assert_allclose(four.size.mean(), mesh.size.mean(), rtol=0.08)
    middle = (four.box - mesh.box).reshape(-1, 2, 2).mean(axis=(0, 1)) / mesh.size.mean()
    assert np.abs(middle).max() < 0.06
    assert np.array_equal(mesh.size, faces.face_size(mesh.points))
    pairs = {0: [33, 133], 1: [362, 263], 2: [1], 3: [13, 14]}     # right eye, left eye, nose, mouth
    for point, theirs in pairs.items():
        away = four.points[:, point] - mesh.points[:, theirs].mean(axis=1)
        assert np.linalg.norm(away, axis=1).mean() < 0.08 * mesh.size.mean()


def test_the_largest_faces_are_followed(real_data, face_detector):
    whole = next(media.windows(real_data / WILD, 20))
    both = track_faces(whole, landmarks=faces.BLAZEFACE)
    (one,) = track_faces(whole, landmarks=faces.BLAZEFACE, max_faces=1)
    assert one.size[0] == max(track.size[0] for track in both)


@pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket", "brick", "coins"])
def test_things_are_no_faces(name, landmarks):
    """Of parts of the rocket's picture the detector says up to 0.63, which is why it must be surer when searching."""
    picture = getattr(pytest.importorskip("skimage.data"), name)()
    picture = picture if picture.ndim == 3 else picture[:, :, None].repeat(3, axis=2)
    assert track_faces(clip([picture] * 2), landmarks=landmarks) == []


def test_the_network_of_the_package_is_that_of_google_with_the_description_put_in(face_detector):
    from avsr.faces import detectors

    model = detectors.with_metadata(face_detector.read_bytes())
    assert b"TFLITE_METADATA" in model
    assert detectors.with_metadata(model) == model


def test_points_nobody_knows_are_named():
    with pytest.raises(AvsrError, match=r"landmarks 'dlib-68': not known to this version, which has mediapipe-mesh-478, "):
        faces.FaceTracker(landmarks="dlib-68")
