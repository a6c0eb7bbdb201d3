"""Following: between searches a face is where the mesh would find it, and losing it is noticed."""

import numpy as np
import pytest
from test_faces import clip, pasted
from tracking import crop, track_faces

from avsr import faces, lips, media
from avsr.faces import following
from avsr.lips import MouthCropSettings


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """(200, 170, 3) head of a person, from scikit-image."""
    return pytest.importorskip("skimage.data").astronaut()[20:220, 140:310]


@pytest.fixture(scope="session")
def mesh(astronaut) -> np.ndarray:
    """(478, 2) of the astronaut in the middle of a picture of 240x320."""
    (track,) = track_faces(clip([pasted((240, 320), (80, 20, astronaut))]))
    return track.points[0]


def centres_apart(reference: faces.FaceTrack, other: faces.FaceTrack) -> np.ndarray:
    """(T,) distance in pixels of the crop between the middles of the mouths that two tracks of a whole clip give."""
    settings = MouthCropSettings()

    def matrices(track):
        marks = lips._group_means(track.points, settings)
        person = lips._OpenCrop(0, 0, 0, marks, *np.zeros((3, len(marks))))
        return lips._matrices(lips._smooth(person, slice(0, len(marks)), settings.smooth // 2), settings)

    a, b = matrices(reference), matrices(other)
    middle = np.full(2, settings.size / 2)
    there = np.einsum("tij,tj->ti", np.linalg.inv(b[:, :, :2]), middle - b[:, :, 2])
    return np.linalg.norm(np.einsum("tij,tj->ti", a[:, :, :2], there) + a[:, :, 2] - middle, axis=1)


def test_all_points_move_with_the_key_points(mesh):
    weights = following.carry_weights(mesh)
    turn, shift = np.array([[0.95, -0.2], [0.2, 0.95]]), np.array([7.0, -3.0])
    moved = following.key_points(mesh @ turn.T + shift) - following.key_points(mesh)
    expected = mesh @ turn.T + shift - mesh
    got = weights @ moved
    assert np.abs(got - expected).max() < 3                  # groups of points move as one
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-4)
    lip = np.zeros((17, 2))
    lip[5] = 0, 4
    assert (weights @ lip)[13].tolist() == [0, 4]
    assert np.abs((weights @ lip)[[33, 263, 152]]).max() < 0.1


def test_the_network_finds_a_face_that_moved_and_knows_when_there_is_none(astronaut, mesh):
    network, before = following.shared_network(), following.key_points(mesh)
    for left, top in [(80, 20), (88, 24), (72, 12)]:
        found, sure = network(pasted((240, 320), (left, top, astronaut)), before)
        assert np.linalg.norm(found - before - (left - 80, top - 20), axis=1)[:8].mean() < 3
        assert sure > 0
    assert network(pasted((240, 320)), before)[1] < 0
    assert network(pasted((240, 320), (200, 100, astronaut[:100, :100])), before)[1] < 0


def test_a_nod_between_two_searches_is_followed(astronaut):
    """There and back within the time of one interval: nothing of it shows in the frames that are searched."""
    up_and_down = np.round(12 * np.sin(np.linspace(0, 2 * np.pi, 13))).astype(int)
    frames = [pasted((280, 320), (80, 20 + int(shift), astronaut)) for shift in [0, *up_and_down]]
    (track,) = track_faces(clip(frames), key_interval=26)
    nose = track.points[1:14, 1, 1] - track.points[0, 1, 1]
    assert np.abs(nose - up_and_down).max() < 3             # it begins at once, which is between two frames that are followed


def test_grey_frames_give_nearly_the_same_tracks(astronaut):
    import cv2

    frames = [pasted((240, 320), (60 + i, 20 + i // 2, astronaut)) for i in range(20)]
    (colour,) = track_faces(clip(frames))
    video = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    (grey,) = track_faces(media.Clip(video, np.ones(20, bool)))
    assert np.linalg.norm(colour.points - grey.points, axis=2).mean() < 2


def test_a_shorter_key_interval_shortens_the_lag():
    with faces.FaceTracker() as usual, faces.FaceTracker(key_interval=6) as quick, faces.FaceTracker(stride=1) as reference:
        assert usual.lag - quick.lag == usual.key_interval - 6
        assert reference.key_interval == 1


def test_someone_who_comes_while_another_is_followed_is_found_soon(astronaut):
    import cv2

    other = cv2.resize(astronaut, None, fx=0.8, fy=0.8)[:, ::-1]
    frames = [pasted((240, 480), (20, 20, astronaut), *([(300, 40, other)] if i >= 14 else [])) for i in range(50)]
    first, second = track_faces(clip(frames))
    assert (first.start_frame, first.end_frame) == (0, 50)
    assert 14 <= second.start_frame <= 22


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grid/s4/*.mpg", "grid/s23/*.mpg", "wild/omniavsr__Sa27SUR0Mlo_00013_h264.mp4"])
def test_mouths_are_where_the_mesh_of_every_frame_puts_them(real_data, name):
    """Within 2 pixels of the crop in 95 of 100 frames."""
    with media.open_recording(sorted(real_data.glob(name))[0], want_audio=False) as recording:
        whole = next(recording.windows(75, grey=True))
    (every,), (followed,) = track_faces(whole, stride=1), track_faces(whole)
    assert every.end_frame == followed.end_frame
    assert np.percentile(centres_apart(every, followed), 95) < 2
    images = [crop(whole, track).images.astype(int) for track in (every, followed)]
    assert np.abs(images[0] - images[1]).mean() < 5
