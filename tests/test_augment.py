"""Augmentation: one draw for a whole clip, lips and sound in step, the same generator the same result."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsr.augment import (
    Augment,
    augment_mouths,
    augment_sound,
    centre,
    crop_flip,
    erase,
    jitter,
    ruin,
    speed,
    time_mask,
)
from avsr.rates import MOUTH_INPUT, MOUTH_SIZE, SAMPLE_RATE, SAMPLES_PER_FRAME, VIDEO_FPS

STILL = {"scale": 0, "degrees": 0, "brightness": 0, "contrast": 0, "gamma": 0}
NONE = Augment(**{name: 0 for name in Augment.__dataclass_fields__})


def rng(seed=0):
    return np.random.default_rng(seed)


def mouths(n=25, seed=0):
    return rng(seed).integers(0, 256, (n, MOUTH_SIZE, MOUTH_SIZE)).astype(np.uint8)


def longest_run(mask):
    return max((len(run) for run in "".join("x" if one else " " for one in mask).split()), default=0)


@pytest.mark.parametrize("change", [
    lambda images, rng: crop_flip(images, rng), lambda images, rng: jitter(images, rng), lambda images, rng: erase(images, rng),
    lambda images, rng: time_mask(images, rng), lambda images, rng: augment_mouths(images, Augment(), rng),
], ids=["crop_flip", "jitter", "erase", "time_mask", "augment_mouths"])
def test_the_same_generator_gives_the_same_mouths_and_leaves_the_cache_alone(change):
    images, before = mouths(), mouths()
    results = [change(images, rng(seed)) for seed in range(6)]
    assert np.array_equal(images, before)
    assert np.array_equal(change(images, rng(3)), results[3])
    assert len({result.tobytes() for result in results}) > 1
    for result in results:
        assert result.dtype == np.uint8
        assert len(result) == len(images)
        assert result.flags.c_contiguous


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_a_crop_is_one_place_of_all_frames_mirrored_or_not(seed):
    images = mouths(3)
    crop = crop_flip(images, rng(seed))
    assert crop.shape == (3, MOUTH_INPUT, MOUTH_INPUT)
    room = MOUTH_SIZE - MOUTH_INPUT + 1
    places = [images[:, y: y + MOUTH_INPUT, x: x + MOUTH_INPUT] for y in range(room) for x in range(room)]
    assert sum(np.array_equal(crop, place) or np.array_equal(crop, place[:, :, ::-1]) for place in places) == 1


def test_every_place_and_both_sides_come_up():
    marked = np.arange(MOUTH_SIZE ** 2, dtype=np.int32).reshape(1, MOUTH_SIZE, MOUTH_SIZE)
    corners = {int(crop_flip(marked, rng(seed))[0, 0, 0]) for seed in range(2000)}
    assert len(corners) == 2 * (MOUTH_SIZE - MOUTH_INPUT + 1) ** 2


def test_the_middle_is_what_a_crop_gives_on_average():
    images = mouths()
    assert np.array_equal(centre(images), images[:, 4:92, 4:92])


def test_no_amount_of_jitter_is_no_jitter():
    assert np.array_equal(jitter(mouths(), rng(), **STILL), mouths())
    assert np.array_equal(augment_mouths(mouths(5)[:, 4:92, 4:92], NONE, rng()), mouths(5)[:, 4:92, 4:92])
    assert jitter(mouths(0), rng()).shape == (0, MOUTH_SIZE, MOUTH_SIZE)


def test_jitter_moves_all_frames_alike():
    still = np.repeat(mouths(1), 6, axis=0)
    assert all((frame == frames[0]).all() for frames in [jitter(still, rng(seed)) for seed in range(5)] for frame in frames)


def test_light_changes_within_its_bounds_and_keeps_order():
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, None], (1, 4, 1))
    tables = np.stack([jitter(ramp, rng(seed), scale=0, degrees=0)[0, 0].astype(int) for seed in range(200)])
    assert (np.diff(tables, axis=1) >= 0).all()
    assert 20 < np.abs(tables[:, 128] - 128).max() < 60


def test_scale_and_rotation_are_about_the_middle():
    disc = np.zeros((1, MOUTH_SIZE, MOUTH_SIZE), np.uint8)
    y, x = np.mgrid[:MOUTH_SIZE, :MOUTH_SIZE] - (MOUTH_SIZE - 1) / 2
    disc[0][x ** 2 + y ** 2 < 20 ** 2] = 255
    for seed in range(20):
        moved = jitter(disc, rng(seed), **{**STILL, "scale": 0.1, "degrees": 8})[0] / 255
        assert abs((moved * x).sum() / moved.sum()) < 0.2
        assert 0.88 < np.sqrt(moved.sum() / (disc / 255).sum()) < 1.12


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_erase_covers_one_rectangle_in_all_frames(seed):
    images = mouths(3)
    covered = np.any(erase(images, rng(seed)) != images, axis=0)
    rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    for side in (rows, columns):
        assert 0.08 * MOUTH_SIZE < np.ptp(side) + 1 <= 0.4 * MOUTH_SIZE + 1
    assert covered.sum() > 0.98 * len(rows) * len(columns)


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(0, 1000))
def test_frames_are_hidden_once_a_second_and_no_longer_than_asked(n, seed):
    images = mouths(n)[:, :4, :4]
    hidden = np.any(time_mask(images, rng(seed)) != images, axis=(1, 2))
    seconds = -(-n // VIDEO_FPS)
    assert hidden.sum() <= 10 * seconds
    assert n >= VIDEO_FPS or hidden.sum() <= 0.4 * n


def test_half_of_the_most_is_hidden_on_average_with_the_mean():
    images = mouths(25)[:, :4, :4]
    masked = [time_mask(images, rng(seed)) for seed in range(500)]
    hidden = [np.any(one != images, axis=(1, 2)) for one in masked]
    assert np.mean([one.sum() for one in hidden]) == pytest.approx(5, abs=0.3)
    assert max(map(longest_run, hidden)) == 10
    assert {int(one[mask].flat[0]) for one, mask in zip(masked, hidden, strict=True) if mask.any()} == {round(images.mean())}


def test_sound_is_hidden_at_most_two_fifths_and_its_level_moves_by_decibels():
    audio = rng().normal(0, 0.1, 3 * SAMPLE_RATE).astype(np.float32)
    gains = []
    for seed in range(50):
        made = augment_sound(audio, Augment(), rng(seed))
        assert made.dtype == np.float32
        values, counts = np.unique(made, return_counts=True)
        assert counts.max() <= 3 * 0.4 * SAMPLE_RATE
        kept = made != values[counts.argmax()]
        gains.append(20 * np.log10(np.median(made[kept] / audio[kept])))
    assert -6.01 < min(gains) < -4 < 4 < max(gains) < 6.01
    assert np.array_equal(augment_sound(audio, NONE, rng()), audio)


def test_ruined_mouths_come_in_all_five_ways_and_keep_their_shape():
    moving = np.zeros((30, MOUTH_INPUT, MOUTH_INPUT), np.uint8)
    for number, image in enumerate(moving):                 # a bright bar that falls, over a mark at the top
        image[20 + number:24 + number] = 200
        image[:5, :5] = 250
    ways = set()
    for seed in range(60):
        made = ruin(moving, rng(seed))
        assert made.shape == moving.shape
        assert made.dtype == np.uint8
        assert not np.array_equal(made, moving)
        assert np.array_equal(made, ruin(moving, rng(seed)))
        if (made == made[0]).all():
            ways.add("still")
        elif sorted(made.reshape(30, -1).tolist()) == sorted(moving.reshape(30, -1).tolist()):
            ways.add("shuffled")
        elif np.array_equal(made, moving[:, ::-1]):
            ways.add("upside down")
        else:
            ways.add("blurred" if made.max() < 200 else "snow")
    assert ways == {"still", "shuffled", "upside down", "blurred", "snow"}


# --- speed ---

@settings(deadline=None)
@given(st.integers(1, 200), st.floats(0.5, 2.0), st.integers(-300, 300))
def test_lips_and_sound_stay_in_step(n, factor, spare):
    images = np.arange(n, dtype=np.uint8)[:, None, None]
    audio = np.zeros(max(1, n * SAMPLES_PER_FRAME + spare), np.float32)
    new, missing, sound, times = speed(images, np.arange(n) % 2 == 0, audio, factor, np.array([[0.0, n / VIDEO_FPS]]))
    assert len(new) == len(missing) == max(1, round(n / factor))
    assert len(sound) == pytest.approx(len(audio) * len(new) / n, abs=0.5001)
    assert times[0, 1] == pytest.approx(len(new) / VIDEO_FPS)
    assert np.array_equal(missing, new[:, 0, 0] % 2 == 0)
    assert (np.diff(new[:, 0, 0].astype(int)) >= 0).all()
    middles = (np.arange(len(new)) + 0.5) / len(new)
    assert np.abs((new[:, 0, 0] + 0.5) / n - middles).max() <= 0.5 / n + 1e-9


@pytest.mark.parametrize("factor", [0.9, 1.1, 1.25])
def test_a_flash_and_a_click_at_one_time_stay_at_one_time(factor):
    images, audio = np.zeros((75, 2, 2), np.uint8), np.zeros(75 * SAMPLES_PER_FRAME, np.float32)
    for frame in (10, 40, 70):
        images[frame] = 255
        audio[frame * SAMPLES_PER_FRAME: (frame + 1) * SAMPLES_PER_FRAME] = 0.5
    new, _, sound, _ = speed(images, None, audio, factor)
    heard = np.abs(sound[: len(new) * SAMPLES_PER_FRAME]).reshape(len(new), -1).mean(axis=1) > 0.25
    assert np.abs(np.flatnonzero(heard)[:, None] - np.flatnonzero(new[:, 0, 0])).min(axis=0).max() <= 1


def test_pitch_rises_with_the_speed_and_loudness_stays():
    audio = np.sin(2 * np.pi * 500 * np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
    *_, sound, _ = speed(None, None, audio, 1.25)
    power = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    assert power.argmax() * SAMPLE_RATE / len(sound) == pytest.approx(625, abs=2)
    assert np.std(sound[1000:-1000]) == pytest.approx(np.std(audio), rel=0.01)
    assert sound.dtype == np.float32


def test_what_is_absent_stays_absent_and_speed_one_changes_nothing():
    assert speed(None, None, np.zeros(640, np.float32), 1.5)[:2] == (None, None)
    new, missing, audio, times = speed(mouths(30), None, None, 1.5)
    assert (len(new), missing, audio, times) == (20, None, None, None)
    same = speed(mouths(30), None, None, 1.001)
    assert np.array_equal(same[0], mouths(30))


def test_each_part_can_be_switched_off():
    images = np.repeat(mouths(1), 25, axis=0)
    assert augment_mouths(images, replace(NONE, mask_frames=10), rng(1)).std(axis=0).max() > 0
    assert augment_mouths(images, replace(Augment(), mask_frames=0), rng(1)).std(axis=0).max() == 0
