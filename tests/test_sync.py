"""How mouths move: talkers are told from photographs, covers and frozen pictures; who is in step with the sound is found."""

import cv2
import numpy as np
import pytest
from tracking import crop, track_faces

from avsr import media, sync
from avsr.lips import Mouths
from avsr.rates import SAMPLES_PER_FRAME
from avsr.speakers import choose_speaker

N_FRAMES = 75


def face(rng: np.random.Generator) -> np.ndarray:
    """(192, 192) float64: skin with spots of all sizes, as textured as a face is."""
    spots = sum(cv2.GaussianBlur(rng.normal(size=(192, 192)), (0, 0), sigma) * sigma * 8 for sigma in (2, 6, 20))
    return 140 + spots


def opened(skin: np.ndarray, opening: float) -> np.ndarray:
    """The face with a dark mouth between lips, open by `opening` in 0..1."""
    image = skin.copy()
    cv2.ellipse(image, (96, 96), (34, 16 + int(14 * opening)), 0, 0, 360, 100, -1)
    cv2.ellipse(image, (96, 96), (26, 2 + int(14 * opening)), 0, 0, 360, 40, -1)
    return image


def loudness(rng: np.random.Generator) -> np.ndarray:
    """(T,) in 0..1: syllables of about 200 ms."""
    return np.clip(np.convolve(rng.normal(size=N_FRAMES), np.ones(5) / 3, "same"), 0, 1)


def filmed(pictures, rng: np.random.Generator, *, shake: float = 0.0, grain: float = 2.0, flicker: float = 0.0) -> np.ndarray:
    """Pictures (T, 192, 192) by a hand that shakes by so many pixels of the crop and turns -> (T, 96, 96) uint8."""
    smooth = np.hanning(9) / np.hanning(9).sum()
    right, down, turn, near = (np.convolve(rng.normal(size=N_FRAMES), smooth, "same") for _ in range(4))
    out = []
    for i, picture in enumerate(pictures):
        matrix = cv2.getRotationMatrix2D((96, 96), shake * turn[i], 1 + 0.01 * shake * near[i])
        matrix[:, 2] += [2 * shake * right[i], 2 * shake * down[i]]
        moved = cv2.warpAffine(picture, matrix, (192, 192), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        small = cv2.resize(moved, (96, 96), interpolation=cv2.INTER_AREA) * (1 + flicker * rng.normal())
        out.append(small + rng.normal(0, grain, small.shape))
    return np.clip(out, 0, 255).astype(np.uint8)


def talking(seed: int, **how) -> tuple[np.ndarray, np.ndarray]:
    """Mouths (T, 96, 96) uint8 and sound (S,) of a made-up talker."""
    rng = np.random.default_rng(seed)
    skin, loud = face(rng), loudness(rng)
    sound = rng.normal(size=(N_FRAMES, SAMPLES_PER_FRAME)) * (0.001 + 0.2 * loud[:, None])
    return filmed([opened(skin, one) for one in loud], rng, **how), sound.astype(np.float32).ravel()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("how", [{}, {"shake": 0.4}, {"grain": 8.0}, {"flicker": 0.03}, {"grain": 0.0}], ids=str)
def test_a_talker_moves_however_he_is_filmed_and_his_photograph_does_not(how, seed):
    images, _ = talking(seed, **how)
    assert not sync.motionless(images).any()
    rng = np.random.default_rng(seed)
    photograph = filmed([opened(face(rng), seed / 3)] * N_FRAMES, rng, **how)
    assert sync.motionless(photograph).all()


def test_a_covered_mouth_does_not_move():
    images, _ = talking(0)
    images[:, 30:80, 20:76] = 128
    assert sync.motionless(images).all()


def test_only_what_stopped_is_still_where_a_camera_froze():
    images, _ = talking(0)
    images[30:] = images[30]
    assert not sync.motionless(images)[:20].any()
    assert sync.motionless(images)[35:].all()


def test_frames_without_a_face_are_never_called_still():
    missing = np.arange(N_FRAMES) % 5 == 0
    photograph = np.repeat(filmed([opened(face(np.random.default_rng(0)), 0.3)], np.random.default_rng(0)), N_FRAMES, axis=0)
    assert np.array_equal(sync.motionless(photograph, missing), ~missing)
    assert not sync.motionless(photograph[:0]).any()


def test_of_a_mouth_that_is_hardly_seen_nothing_is_said():
    photograph = np.repeat(filmed([opened(face(np.random.default_rng(0)), 0.3)], np.random.default_rng(0)), N_FRAMES, axis=0)
    missing = np.arange(N_FRAMES) >= sync.MIN_FROZEN_FRAMES - 1
    assert sync.movement(photograph, missing) is None
    assert not sync.motionless(photograph, missing).any()


def person(number: int, images: np.ndarray, size: float) -> Mouths:
    n = len(images)
    return Mouths(images, np.zeros(n, bool), np.full(n, size, np.float32), np.full(n, 0.9, np.float32), 0, number)


def test_a_smaller_face_that_moves_is_chosen_before_a_larger_still_one():
    images, sound = talking(0)
    photograph = filmed([opened(face(np.random.default_rng(5)), 0.3)] * N_FRAMES, np.random.default_rng(5))
    people = [person(0, photograph, 200), person(1, images, 80)]
    for heard in (sound, None):
        assert choose_speaker(people, 0, N_FRAMES, heard).person == 1
    assert choose_speaker(people[:1], 0, N_FRAMES, sound).person == 0        # alone, it is what there is to be looked at


def test_a_smaller_face_in_step_with_the_sound_is_chosen_before_a_larger_one_that_is_not():
    (images, sound), (other, _) = talking(0), talking(1)
    people = [person(0, other, 200), person(1, images, 80)]
    assert choose_speaker(people, 0, N_FRAMES, sound).person == 1
    assert choose_speaker(people, 0, N_FRAMES).person == 0
    assert choose_speaker([person(0, images, 200), person(1, other, 80)], 0, N_FRAMES, sound).person == 0


@pytest.mark.slow
def test_a_real_talker_moves_and_a_picture_of_him_does_not(real_data):
    """One clip; the figures for all of them are in step.py."""
    clip = media.read(next(iter(sorted((real_data / "grid" / "s4").glob("*.mpg")))))
    (track,) = track_faces(clip)
    mouths = crop(clip, track)
    assert not sync.motionless(mouths.images, mouths.missing).any()
    rng = np.random.default_rng(0)
    grainy = np.clip(mouths.images[30] + rng.normal(0, 5, mouths.images.shape), 0, 255).astype(np.uint8)
    assert sync.motionless(grainy, mouths.missing).all()
