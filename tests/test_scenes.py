"""Scene cuts: found on the frame, whatever the windows; a shaking camera and a flash are none."""

import numpy as np
import pytest

from avsr.faces.scenes import CutFinder, ShotFrame


def pictures(n_frames: int, seed: int, *, colour: bool = True) -> np.ndarray:
    """(T, 90, 120, 3) or (T, 90, 120) uint8: one shot of rough patches, which hardly move."""
    rng = np.random.default_rng(seed)
    patches = np.kron(rng.integers(0, 256, (9, 12, 3)), np.ones((10, 10, 1)))
    shot = np.stack([np.clip(patches + rng.normal(0, 2, patches.shape), 0, 255) for _ in range(n_frames)]).astype(np.uint8)
    return shot if colour else shot[..., 0]


def given(video: np.ndarray, shown=None, *, n_frames: int = 1000) -> list[ShotFrame]:
    """The frames that come out when the video goes in in windows of n_frames."""
    finder, out = CutFinder(), []
    shown = np.ones(len(video), bool) if shown is None else shown
    for start in range(0, len(video), n_frames):
        part = slice(start, start + n_frames)
        out += finder.update(range(start, start + len(video[part])), video[part], shown[part])
    return out + list(finder.finish())


def cuts(frames: list[ShotFrame]) -> list[int]:
    return [frame.number for frame in frames if frame.cut]


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("n_frames", [1, 3, 1000])
def test_cuts_are_found_on_the_frame_in_windows_of_any_length(colour, n_frames):
    video = np.concatenate([pictures(n, seed, colour=colour) for seed, n in enumerate((9, 4, 2, 8))])
    frames = given(video, n_frames=n_frames)
    assert cuts(frames) == [9, 13, 15]
    assert [frame.number for frame in frames] == list(range(len(video)))
    assert all(np.array_equal(frame.picture, picture) for frame, picture in zip(frames, video, strict=True))


def test_a_shaking_camera_a_flash_and_a_fade_are_no_cuts():
    still = pictures(12, 0)
    rng = np.random.default_rng(1)
    shaken = np.stack([np.roll(frame, rng.integers(5, 20, 2), axis=(0, 1)) for frame in pictures(12, 2)])
    flash = pictures(12, 3).astype(int)
    flash[6] += 150
    fade = pictures(12, 4) * np.linspace(1, 0, 12)[:, None, None, None]
    for video in (still, shaken, np.clip(flash, 0, 255).astype(np.uint8), fade.astype(np.uint8)):
        assert cuts(given(video)) == []


def test_a_small_sudden_change_is_perhaps_a_cut():
    video = pictures(12, 0)
    video[5:, 20:60, 40:80] = 255 - video[5:, 20:60, 40:80]
    frames = given(video)
    assert cuts(frames) == []
    assert [frame.number for frame in frames if frame.perhaps] == [5]


def test_there_is_no_cut_after_frames_without_a_picture():
    video = np.concatenate([pictures(6, 0), pictures(6, 1)])
    shown = np.arange(12) != 6
    frames = given(video, shown)
    assert cuts(frames) == []
    assert [frame.shown for frame in frames] == shown.tolist()
    assert given(video[:0]) == []
