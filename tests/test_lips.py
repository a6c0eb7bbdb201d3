"""Mouths: centred, upright, of one size, and the same whether cropped whole or in windows."""

import json
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracking import crop, track_faces

from avsr import faces, lips, media
from avsr.errors import BadCheckpoint
from avsr.faces import FaceTrack
from avsr.lips import MouthCropper, MouthCropSettings, Mouths
from avsr.media import Clip
from avsr.speakers import choose_speaker

LIPS = [61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91, 78, 81, 13, 311, 308, 402, 14, 178]     # outer, then inner


def clip(frames, shown=None) -> Clip:
    video = np.ascontiguousarray(np.stack(frames))
    return Clip(video, np.ones(len(video), bool) if shown is None else np.asarray(shown))


def windows(whole: Clip, n_frames: int) -> list[Clip]:
    return [
        Clip(whole.video[i : i + n_frames], whole.shown[i : i + n_frames], start_frame=whole.start_frame + i)
        for i in range(0, len(whole.video), n_frames)
    ]


def streamed(clips) -> list[Mouths]:
    """Mouths of all people from windows, pieces joined per person."""
    pieces: list[Mouths] = []
    with faces.FaceTracker() as tracker:
        cropper = MouthCropper()
        for window in clips:
            pieces += cropper.update(window, tracker.update(window))
            assert len(cropper._frames) < 22
        pieces += cropper.finish(tracker.finish())
    joined = {}
    for piece in pieces:
        joined.setdefault(piece.person, []).append(piece)
    return [join(joined[person]) for person in sorted(joined)]


def join(pieces: list[Mouths]) -> Mouths:
    assert all(a.end_frame == b.start_frame for a, b in pairwise(pieces))
    arrays = [np.concatenate([getattr(p, name) for p in pieces]) for name in ("images", "missing", "size", "score")]
    return Mouths(*arrays, pieces[0].start_frame, pieces[0].person)


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """(512, 512, 3) a person looking at the camera, from scikit-image."""
    return pytest.importorskip("skimage.data").astronaut()


@pytest.fixture(scope="session")
def grid_clip(real_data) -> Clip:
    return media.read(next(iter(sorted((real_data / "grid" / "s1").glob("*.mpg")))))


def mouth_of(frame: np.ndarray) -> np.ndarray:
    """(96, 96) the mouth in a still picture."""
    still = clip([frame] * 5)
    (track,) = track_faces(still)
    return crop(still, track).images[2]


def fake(person, start, length, *, size=100.0, score=0.9, level=50, gaps=()) -> Mouths:
    missing = np.zeros(length, bool)
    missing[list(gaps)] = True
    return Mouths(np.full((length, 96, 96), level, np.uint8), missing, np.full(length, size, np.float32),
                  np.where(missing, 0, score).astype(np.float32), start, person)


def still_track(points: np.ndarray, n_frames: int) -> FaceTrack:
    all_points = np.repeat(points[None].astype(np.float32), n_frames, axis=0)
    box = np.concatenate([all_points.min(axis=1), all_points.max(axis=1)], axis=1)
    return FaceTrack(0, 0, all_points, box, np.ones(n_frames, np.float32), np.zeros(n_frames, bool))


# -- crops


def test_grid_mouths_are_centred(grid_clip):
    """Landmarks, carried into the crop, put the mouth in its middle and the eyes level, within 2 pixels."""
    (track,) = track_faces(grid_clip)
    mouths = crop(grid_clip, track)
    assert mouths.images.shape == (len(grid_clip.video), 96, 96)
    assert mouths.images.dtype == np.uint8
    assert not mouths.missing.any()
    mouth_crop = MouthCropSettings()
    matrices = lips._matrices(lips._group_means(track.points, mouth_crop), mouth_crop)
    inside = np.einsum("tij,tnj->tni", matrices[:, :, :2], track.points) + matrices[:, None, :, 2]
    lips_points = inside[:, LIPS].mean(axis=1)
    assert np.abs(lips_points.mean(axis=0) - 48).max() < 2
    assert np.abs(lips_points - 48).max() < 6
    eyes = inside[:, [33, 133]].mean(axis=1) - inside[:, [362, 263]].mean(axis=1)
    assert np.abs(eyes[:, 1]).max() < 2
    assert np.abs(np.abs(eyes[:, 0]) - 54.3).max() < 4


def test_the_landmarker_finds_the_mouth_in_the_middle_of_the_aligned_face(astronaut):
    """The same transform, of the whole face: landmarks found afresh in the aligned picture are where they should be."""
    turned = cv2.warpAffine(astronaut, cv2.getRotationMatrix2D((220, 120), 20, 1.0), (512, 512))
    (track,) = track_faces(clip([turned] * 4))
    wide = MouthCropSettings(size=400)
    aligned = crop(clip([turned] * 4), track, wide).images
    assert aligned.shape[1:] == (400, 400)
    (again,) = track_faces(clip([cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) for image in aligned]))
    mouth = again.points[0, list(wide.mouth)].mean(axis=0)
    assert np.abs(mouth - 200).max() < 2
    eyes = again.points[0, [33, 133]].mean(axis=0) - again.points[0, [362, 263]].mean(axis=0)
    assert abs(np.degrees(np.arctan2(eyes[1], -eyes[0]))) < 2


@pytest.mark.parametrize(("angle", "scale"), [(25, 1.0), (-15, 0.7), (0, 1.6), (5, 3.0)])
def test_turned_and_scaled_faces_give_nearly_the_same_mouth(astronaut, angle, scale):
    side = round(512 * scale)
    matrix = cv2.getRotationMatrix2D((220, 120), angle, scale)
    matrix[:, 2] += np.array([220, 120]) * (scale - 1)
    upright = mouth_of(astronaut).astype(int)
    changed = mouth_of(cv2.warpAffine(astronaut, matrix, (side, side), flags=cv2.INTER_CUBIC)).astype(int)
    assert np.abs(upright - changed)[8:88, 8:88].mean() < 8


def test_a_close_up_is_averaged_not_sampled():
    """Stripes of one pixel in a face ten times too large become even grey."""
    frame = np.zeros((1000, 1000, 3), np.uint8)
    frame[:, ::2] = 200
    points = np.full((478, 2), 500.0)
    mouth_crop = MouthCropSettings()
    for group, place in zip(mouth_crop.anchors, mouth_crop.reference, strict=True):
        points[list(group)] = 10 * np.array(place) - 800
    points[list(mouth_crop.mouth)] = 500, 780
    image = crop(clip([frame] * 3), still_track(points, 3)).images[1]
    inside = image[10:60, 10:86].astype(int)
    assert inside.min() >= 85
    assert inside.max() <= 115


def test_a_mouth_outside_the_picture_is_black():
    points = np.full((478, 2), -900.0)
    for group, place in zip(MouthCropSettings().anchors, MouthCropSettings().reference, strict=True):
        points[list(group)] = np.array(place) * 10 - 3000
    images = crop(clip([np.full((50, 60, 3), 255, np.uint8)] * 3), still_track(points, 3)).images
    assert not images.any()


def test_smoothing_steadies_the_shape_without_lag():
    rng = np.random.default_rng(0)
    base = rng.uniform(0, 100, (4, 2))
    marks = base + np.arange(40)[:, None, None] * [3.0, 0.0] + rng.normal(0, 1, (40, 4, 2))
    person = lips._OpenCrop(0, 0, 0, marks, *np.zeros((3, 40)))
    smoothed = lips._smooth(person, slice(0, 40), 6)
    np.testing.assert_allclose(smoothed.mean(axis=1), marks.mean(axis=1))
    wobble = [(m - m.mean(axis=1, keepdims=True))[6:-6].std(axis=0).mean() for m in (marks, smoothed)]
    assert wobble[1] < wobble[0] / 2
    np.testing.assert_allclose(smoothed[[0, -1]], marks[[0, -1]])


@pytest.mark.parametrize("n_frames", [1, 5, 33])
def test_windows_give_the_same_mouths_bit_for_bit(astronaut, n_frames):
    head = astronaut[20:220, 140:310]
    frames = [np.full((240, 320, 3), 90, np.uint8) for _ in range(44)]
    for i, frame in enumerate(frames):
        frame[20 + i // 2 : 220 + i // 2, 10 + 2 * i : 180 + 2 * i] = head[: 220 - i // 2]
    shown = np.ones(44, bool)
    shown[12:18] = False
    whole = clip([frame * np.uint8(s) for frame, s in zip(frames, shown, strict=True)], shown)
    expected = [crop(whole, track) for track in track_faces(whole)]
    got = streamed(windows(whole, n_frames))
    assert len(got) == len(expected) == 1
    for a, b in zip(got, expected, strict=True):
        assert (a.person, a.start_frame) == (b.person, b.start_frame)
        for name in ("images", "missing", "size", "score"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert expected[0].missing[12:18].all()
    assert not expected[0].images[12:18].any()


@pytest.mark.slow
def test_a_real_recording_in_windows_gives_the_same_mouths(real_data):
    path = real_data / "wild" / "facerecognition__short_hamilton_clip.mp4"      # two cuts, people come and go
    whole = media.read(path)
    short = Clip(whole.video[60:100], whole.shown[60:100], start_frame=60)
    expected = [crop(short, track) for track in track_faces(short)]
    got = streamed(windows(short, 7))
    assert [m.images.shape for m in got] == [m.images.shape for m in expected]
    assert all(np.array_equal(a.images, b.images) for a, b in zip(got, expected, strict=True))


@pytest.mark.slow
def test_mouths_like_those_auto_avsr_makes(real_data):
    """Near the published mouth_crop's crops: networks trained on those see what they know."""
    oracle = real_data.parent / "oracles" / "auto_avsr_crops" / "crops.npz"
    if not oracle.is_file():
        pytest.skip("the reference crops are not on this machine")
    theirs = np.load(oracle)
    for name in ("s1_bbaf2n", "s26_bgbsza"):
        speaker, utterance = name.split("_")
        source = media.read(next((real_data / "grid" / speaker).glob(f"{utterance}.m*")))
        (track,) = track_faces(source)
        ours = crop(source, track).images
        expected = theirs[f"{name}.crops"][: len(ours)]
        assert np.abs(ours.astype(int) - expected).mean() < 6
        window = np.outer(np.hanning(96), np.hanning(96))
        shift, _ = cv2.phaseCorrelate(ours.mean(axis=0), expected.mean(axis=0), window)
        assert np.hypot(*shift) < 2


# -- choosing


def test_choose_takes_the_largest_steadiest_face():
    small, large = fake(0, 0, 50, size=80, level=10), fake(1, 0, 50, size=120, level=20)
    chosen = choose_speaker([small, large], 10, 30)
    assert (chosen.person, chosen.start_frame, len(chosen.images)) == (1, 10, 20)
    assert (chosen.images == 20).all()
    shaky = fake(1, 0, 50, size=90, score=0.3, level=20)
    assert choose_speaker([small, shaky], 10, 30).person == 0


def test_choose_counts_only_frames_where_the_face_was_found():
    seldom = fake(0, 0, 40, size=150, gaps=range(4, 40))
    assert choose_speaker([seldom, fake(1, 0, 40, size=100)], 0, 40).person == 1


def test_choose_joins_cameras_and_marks_where_nobody_is_seen():
    first, second = fake(0, 0, 20, level=10), fake(1, 25, 15, level=20)
    chosen = choose_speaker([first, second], 5, 45)
    assert chosen.images[:, 0, 0].tolist() == [10] * 15 + [0] * 5 + [20] * 15 + [0] * 5
    assert chosen.missing.tolist() == [False] * 15 + [True] * 5 + [False] * 15 + [True] * 5
    assert chosen.size[17] == 0
    assert chosen.person == 0


def test_choose_does_not_jump_to_a_listener_when_the_speaker_turns_away():
    speaker, listener = fake(0, 0, 20, size=200), fake(1, 10, 40, size=60)
    assert choose_speaker([speaker, listener], 0, 50).missing[20:].all()


def test_choose_takes_pieces_and_gives_the_stretch_asked_for():
    whole = fake(3, 0, 30)
    pieces = [fake(3, 0, 12), fake(3, 12, 18)]
    a, b = choose_speaker([whole], 4, 28), choose_speaker(pieces, 4, 28)
    assert np.array_equal(a.images, b.images)
    assert len(a.images) == 24


def test_choose_is_none_where_nobody_is_seen():
    assert choose_speaker([], 0, 10) is None
    assert choose_speaker([fake(0, 50, 10)], 0, 10) is None
    assert choose_speaker([fake(0, 0, 10, gaps=range(10))], 0, 10) is None


# -- mouth_crop


def test_mouth_crops_that_differ_name_the_field():
    assert MouthCropSettings().differences(MouthCropSettings()) == []
    assert MouthCropSettings().differences(MouthCropSettings(smooth=6)) == ["smooth: 12 against 6"]


def test_mouth_crop_settings_survive_json():
    mouth_crop = MouthCropSettings(smooth=8)
    assert MouthCropSettings.from_dict(json.loads(json.dumps(mouth_crop.to_dict()))) == mouth_crop


@pytest.mark.parametrize("change", [{"smoth": 12}, {"smooth": None}])
def test_mouth_crop_settings_with_other_fields_are_refused_by_name(change):
    values = {**MouthCropSettings().to_dict(), **change}
    values = {name: value for name, value in values.items() if value is not None}
    with pytest.raises(BadCheckpoint, match=next(iter(change))):
        MouthCropSettings.from_dict(values)


# -- the similarity transform

number = st.floats(-500, 500, allow_nan=False, width=32)


@given(st.floats(-3.1, 3.1), st.floats(0.05, 20), number, number, st.integers(0, 2**32 - 1))
def test_similarity_is_found_again(angle, scale, x, y, seed):
    points = np.random.default_rng(seed).uniform(-100, 100, (5, 2))
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = lips.similarity(points, points @ turn.T + [x, y])
    np.testing.assert_allclose(matrix, np.column_stack([turn, [x, y]]), atol=1e-6 * (1 + scale))


@given(st.integers(0, 2**32 - 1))
def test_similarity_is_the_best_and_never_mirrors(seed):
    rng = np.random.default_rng(seed)
    source, target = rng.uniform(-100, 100, (2, 5, 2))

    def error(matrix):
        return np.square(source @ matrix[:, :2].T + matrix[:, 2] - target).sum()

    best = lips.similarity(source, target)
    assert np.linalg.det(best[:, :2]) >= 0
    a, b, (x, y) = best[0, 0], best[1, 0], best[:, 2]
    for da, db, dx, dy in 0.01 * np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [-1, 1, -1, 1]]):
        other = np.array([[a + da, -b - db, x + dx], [b + db, a + da, y + dy]])
        assert error(best) <= error(other)


def test_similarity_of_one_point_is_finite():
    assert np.isfinite(lips.similarity(np.ones((3, 2)), np.arange(6.0).reshape(3, 2))).all()
