"""Named recipes: "auto-avsr" makes the crops that auto_avsr makes, and the recipes stored so far still load."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from places import SHARED
from tracking import crop, track_faces

from avsr import faces, lips, media
from avsr.errors import BadCheckpoint
from avsr.faces import FaceTrack, FaceTracker
from avsr.lips import MOUTH_CROPS, MouthCropper, MouthCropSettings
from avsr.media import Clip

ORACLE = SHARED / "oracles" / "auto_avsr_crops" / "crops.npz"
NAMES = ("s1_bbaf2n", "s26_bgbsza", "s31_bgiq6p")
AUTO_AVSR = MOUTH_CROPS["auto-avsr"]
CROPPED = {name: mouth_crop for name, mouth_crop in MOUTH_CROPS.items() if name != "none"}      # which takes whole pictures
STORED_BEFORE = {
    "landmarks": "mediapipe-mesh-478",
    "size": 96,
    "anchors": [[33, 133], [362, 263], [98, 97, 2, 326, 327]],
    "reference": [[102.07, 94.27], [156.36, 93.58], [129.0, 135.9]],
    "mouth": [81, 82, 13, 312, 311],
    "smooth": 12,
}


@pytest.fixture(scope="session")
def theirs():
    """Their crops, landmarks and transforms of three GRID clips."""
    if not ORACLE.is_file():
        pytest.skip("auto_avsr's crops (../shared/oracles) are not on this machine")
    return np.load(ORACLE)


@pytest.fixture(scope="session")
def read_clip(real_data):
    """Clip by name. Training clips have been compressed again: their own crops of these differ by 1.8 grey levels."""
    def read(name: str) -> Clip:
        speaker, utterance = name.split("_")
        paths = sorted((real_data / "grid" / speaker).glob(f"{utterance}.m*"))
        if not paths:
            pytest.skip(f"the clip {name} is not among those in ../shared/data/grid")
        return media.read(paths[0])
    return read


def track_of(points: np.ndarray, start: int = 0, last: bool = True) -> FaceTrack:
    points = points.astype(np.float32)
    box = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
    n_frames = len(points)
    return FaceTrack(0, start, points, box, np.ones(n_frames, np.float32), np.zeros(n_frames, bool), last)


def smoothed(points: np.ndarray, mouth_crop: MouthCropSettings) -> np.ndarray:
    marks = lips._group_means(points, mouth_crop)
    person = lips._OpenCrop(0, 0, 0, marks, *np.zeros((3, len(marks))))
    return lips._smooth(person, slice(0, len(marks)), mouth_crop.smooth // 2)


def mapped(matrices: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.einsum("tij,t...j->t...i", matrices[:, :, :2], points) + matrices[:, :, 2].reshape(
        len(points), *[1] * (points.ndim - 2), 2)


def their_matrices(theirs, name: str) -> tuple[np.ndarray, np.ndarray]:
    """From frame to crop (T, 2, 3), and their smoothed mouth in the frame (T, 2), from what the oracle stores."""
    mouth = smoothed(theirs[f"{name}.landmarks"], AUTO_AVSR)[:, 3]
    matrices = theirs[f"{name}.affine"].copy()
    corners = mapped(matrices, mouth) - 48
    matrices[:, :, 2] -= [[round(x), round(y)] for x, y in corners]
    return matrices, mouth


# -- near the published crops


@pytest.mark.parametrize("name", NAMES)
def test_their_points_give_their_transforms(theirs, name):
    """Least squares over four points is what their LMEDS finds; the same whole pixel is the corner in every frame."""
    expected, _ = their_matrices(theirs, name)
    ours = lips._matrices(smoothed(theirs[f"{name}.landmarks"], AUTO_AVSR), AUTO_AVSR)
    corners = np.array([[0, 0], [96, 0], [0, 96], [96, 96]]) @ np.linalg.inv(expected[0, :, :2]).T + 150
    corners = np.repeat(corners[None], len(expected), axis=0)
    np.testing.assert_allclose(mapped(ours, corners), mapped(expected, corners), atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_their_points_give_their_crops(theirs, read_clip, name):
    images = crop(read_clip(name), track_of(theirs[f"{name}.landmarks"]), AUTO_AVSR).images
    assert np.abs(images.astype(int) - theirs[f"{name}.crops"]).mean() < 2             # 1.74 and 1.77, all of it compression


@pytest.mark.parametrize("name", NAMES)
def test_what_we_find_gives_their_crops(theirs, read_clip, face_detector, name):
    """From the file on, in use: measured 0.88 and 1.01 pixels, 3.3 and 3.2 grey levels, of which 1.8 is compression."""
    clip = read_clip(name)
    (track,) = track_faces(clip, landmarks=AUTO_AVSR.landmarks)
    images = crop(clip, track, AUTO_AVSR).images
    ours = lips._matrices(smoothed(track.points, AUTO_AVSR), AUTO_AVSR)
    expected, mouth = their_matrices(theirs, name)
    distance = np.linalg.norm(mapped(ours, mouth) - mapped(expected, mouth), axis=1)
    assert distance.mean() < 2
    assert np.percentile(distance, 90) < 2
    assert np.abs(images.astype(int) - theirs[f"{name}.crops"]).mean() < 6


@pytest.mark.parametrize("n_frames", [1, 7, 30])
def test_windows_give_the_same_mouths_from_the_file_on(read_clip, face_detector, n_frames):
    clip = read_clip(NAMES[0])
    (track,) = track_faces(clip, landmarks=AUTO_AVSR.landmarks)
    expected, got = crop(clip, track, AUTO_AVSR), []
    with FaceTracker(landmarks=AUTO_AVSR.landmarks) as tracker:
        cropper = MouthCropper(AUTO_AVSR)
        for i in range(0, len(clip.video), n_frames):
            window = Clip(clip.video[i : i + n_frames], clip.shown[i : i + n_frames], start_frame=i)
            got += cropper.update(window, tracker.update(window))
        got += cropper.finish(tracker.finish())
    for name in ("images", "missing", "size", "score"):
        assert np.array_equal(np.concatenate([getattr(mouths, name) for mouths in got]), getattr(expected, name)), name


# -- what the fields do


@pytest.fixture
def moving() -> tuple[Clip, dict[str, np.ndarray]]:
    """30 grey-noise frames, and by mouth_crop the points (30, N, 2) of a face that drifts, turns and trembles in them."""
    rng = np.random.default_rng(3)
    video = rng.integers(0, 256, (30, 120, 160, 1), np.uint8).repeat(3, axis=3)
    drift, points = np.arange(30)[:, None, None] * [0.4, -0.3], {}
    for name, mouth_crop in CROPPED.items():
        place = np.zeros((faces.n_points(mouth_crop.landmarks), 2))
        for group, at in zip((*mouth_crop.anchors, mouth_crop.mouth), AUTO_AVSR.reference, strict=True):
            place[list(group)] = np.array(at) * 0.8 - [20, 40]
        points[name] = (place + drift + rng.normal(0, 0.7, (30, *place.shape))).astype(np.float32)
    return Clip(video, np.ones(30, bool)), points


def test_the_mouth_lies_within_half_a_pixel_of_the_middle_on_whole_pixels_of_the_mean_face(moving):
    marks = smoothed(moving[1]["auto-avsr"], AUTO_AVSR)
    matrices = lips._matrices(marks, AUTO_AVSR)
    off = mapped(matrices, marks[:, -1]) - 48
    assert np.abs(off).max() <= 0.5
    assert np.abs(off).max() > 0.2
    whole = matrices[:, :, 2] - lips.similarity(marks, np.array(AUTO_AVSR.reference))[:, :, 2]
    np.testing.assert_allclose(whole, np.round(whole), atol=1e-9)
    middle = replace(AUTO_AVSR, whole_pixels=False)
    np.testing.assert_allclose(mapped(lips._matrices(marks, middle), marks[:, -1]), 48)


def test_the_mouth_is_laid_on_its_own_reference_point(moving):
    """A lower mouth makes the face smaller in "auto-avsr" and leaves the default as large as it is."""
    scales = {}
    for name, mouth_crop in CROPPED.items():
        for drop in (0, 20):
            lower = moving[1][name].copy()
            lower[:, list(mouth_crop.mouth)] += [0, drop]
            scales[name, drop] = np.hypot(*lips._matrices(smoothed(lower, mouth_crop), mouth_crop)[:, :, 0].T)
    np.testing.assert_allclose(scales["avsr", 20], scales["avsr", 0])
    assert (scales["auto-avsr", 20] < 0.95 * scales["auto-avsr", 0]).all()


def test_close_ups_are_sampled_as_theirs_or_averaged(moving):
    clip, points = moving
    large = Clip(clip.video.repeat(4, axis=1).repeat(4, axis=2), clip.shown)
    large.video[:, ::2] = 0
    sampled, averaged = (crop(large, track_of(points["auto-avsr"] * 4), replace(AUTO_AVSR, averaged=flag)).images
                         for flag in (False, True))
    assert sampled.std() > 1.3 * averaged.std()


@pytest.mark.parametrize("name", CROPPED)
@pytest.mark.parametrize("n_frames", [1, 4, 11])
def test_windows_give_the_same_mouths_with_every_mouth_crop(moving, name, n_frames):
    clip, points = moving[0], moving[1][name]
    expected = crop(clip, track_of(points), MOUTH_CROPS[name]).images
    cropper = MouthCropper(MOUTH_CROPS[name])
    got = []
    for i in range(0, 30, n_frames):
        window = Clip(clip.video[i : i + n_frames], clip.shown[i : i + n_frames], start_frame=i)
        got += cropper.update(window, [track_of(points[i : i + n_frames], i, last=i + n_frames >= 30)])
    got += cropper.finish()
    np.testing.assert_array_equal(np.concatenate([mouths.images for mouths in got]), expected)


def test_the_default_crops_are_what_they_were(moving):
    """Written out as before there were other recipes: three anchors, mouth in the middle; shipped weights know these."""
    clip, points = moving[0], moving[1]["avsr"]
    marks = smoothed(points, MouthCropSettings())
    matrices = lips.similarity(marks[:, :3], np.array(STORED_BEFORE["reference"]))
    for matrix, mouth in zip(matrices, marks[:, 3], strict=True):
        matrix[:, 2] = 48 - matrix[:, :2] @ mouth
    expected = [cv2.warpAffine(frame[:, :, 0], matrix, (96, 96)) for frame, matrix in zip(clip.video, matrices, strict=True)]
    np.testing.assert_array_equal(crop(clip, track_of(points)).images, np.stack(expected))


def test_points_of_another_kind_are_a_mistake(moving):
    clip, points = moving
    for name, other in (("avsr", "auto-avsr"), ("auto-avsr", "avsr")):
        with pytest.raises(AssertionError, match="another kind"):
            crop(clip, track_of(points[other]), MOUTH_CROPS[name])


# -- stored recipes


def test_mouth_crop_settings_stored_before_there_were_others_are_the_default():
    assert MouthCropSettings.from_dict(STORED_BEFORE) == MouthCropSettings() == MOUTH_CROPS["avsr"]


@pytest.mark.parametrize("name", MOUTH_CROPS)
def test_named_mouth_crops_survive_storing(name):
    assert MouthCropSettings.from_dict(MOUTH_CROPS[name].to_dict()) == MOUTH_CROPS[name]


@pytest.mark.parametrize("missing", STORED_BEFORE)
def test_a_field_that_was_always_there_is_required(missing):
    values = {name: value for name, value in STORED_BEFORE.items() if name != missing}
    with pytest.raises(BadCheckpoint, match=f'"{missing}" is not there'):
        MouthCropSettings.from_dict(values)


def test_a_field_nobody_knows_is_refused():
    with pytest.raises(BadCheckpoint, match='"whole_pixel" is not known'):
        MouthCropSettings.from_dict({**STORED_BEFORE, "whole_pixel": True})


def test_mouth_crops_differ_by_name():
    lines = MOUTH_CROPS["avsr"].differences(MOUTH_CROPS["auto-avsr"])
    assert [line.split(":")[0] for line in lines] == ["landmarks", "anchors", "reference", "mouth", "whole_pixels", "averaged"]
    assert lines[-1] == "averaged: True against False"
