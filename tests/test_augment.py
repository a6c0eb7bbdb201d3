"""Augmentation: one draw for a whole clip, another for its neighbour, lips and sound in step, the same seed the same result."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avsr.augment import (
    MAX_VALUES,
    Augment,
    augment_clip,
    augment_mouths,
    augment_sound,
    bend,
    hide_frames,
    light_table,
    make_unreadable,
    speed,
    time_mask,
    warp,
)
from avsr.lips import centre
from avsr.rates import MOUTH_INPUT, MOUTH_SIZE, SAMPLE_RATE, SAMPLES_PER_FRAME, VIDEO_FPS

NONE = Augment(**{name: 0 for name in Augment.__dataclass_fields__})
# Each part of the augmentation of mouths by itself, as far as it goes.
PARTS = {"flip": replace(NONE, flip=1), "scale": replace(NONE, scale=0.1), "degrees": replace(NONE, degrees=8),
         "perspective": replace(NONE, perspective=0.03), "stretch": replace(NONE, stretch=0.2),
         "elastic": replace(NONE, elastic=1), "brightness": replace(NONE, brightness=20),
         "contrast": replace(NONE, contrast=0.2), "gamma": replace(NONE, gamma=0.2), "shade": replace(NONE, shade=0.3),
         "blur": replace(NONE, blur=1), "erase": replace(NONE, erase=1)}


def rng(seed=0):
    return np.random.default_rng(seed)


def mouths(n=25, seed=0):
    return rng(seed).integers(0, 256, (n, MOUTH_SIZE, MOUTH_SIZE)).astype(np.uint8)


def smooth(n=25, seed=0):
    """Mouths without noise, of which a shift by part of a pixel changes little."""
    coarse = torch.from_numpy(rng(seed).uniform(30, 220, (n, 1, 6, 6)))
    return torch.nn.functional.interpolate(coarse, size=(MOUTH_SIZE, MOUTH_SIZE), mode="bilinear")[:, 0].byte().numpy()


def augmented(images, amounts, seed):
    """One clip by itself."""
    return augment_mouths(torch.from_numpy(images)[None], [len(images)], [seed], amounts)[0].numpy()


def longest_run(mask):
    return max((len(run) for run in "".join("x" if one else " " for one in mask).split()), default=0)


# --- a batch of mouths ---

@pytest.mark.slow
@pytest.mark.parametrize("amounts", [Augment(), *PARTS.values()], ids=["all", *PARTS])
def test_a_seed_decides_alone_and_all_frames_are_changed_alike(amounts):
    still = np.repeat(smooth(1), 6, axis=0)
    before = still.copy()
    made = [augmented(still, amounts, seed) for seed in range(8)]
    assert np.array_equal(still, before)
    assert np.array_equal(augmented(still, amounts, 3), made[3])
    assert len({one.tobytes() for one in made}) == 8
    for one in made:
        assert (one.dtype, one.shape) == (np.uint8, (6, MOUTH_INPUT, MOUTH_INPUT))
        assert (one == one[0]).all(), "something moves that did not move"


def test_a_clip_looks_the_same_in_any_company_and_the_global_generator_stays():
    clips, seeds = [smooth(n, n) for n in (12, 9, 5)], [7, 8, 9]
    batch = torch.zeros(3, 12, MOUTH_SIZE, MOUTH_SIZE, dtype=torch.uint8)
    for row, clip in zip(batch, clips, strict=True):
        row[:len(clip)] = torch.from_numpy(clip)
    for name in ("flip", "elastic", "blur", "erase"):
        amounts = replace(Augment(), **{name: 1})
        torch.manual_seed(0)
        before = torch.get_rng_state()
        made = augment_mouths(batch, [12, 9, 5], seeds, amounts)
        assert torch.equal(torch.get_rng_state(), before)
        for one, clip, seed in zip(made, clips, seeds, strict=True):
            assert np.array_equal(one[:len(clip)].numpy(), augmented(clip, amounts, seed))
            assert not one[len(clip):].any(), "padding is changed"
        assert not torch.equal(made[0, :5], made[1, :5])


@pytest.mark.parametrize("seed", range(12))
def test_the_number_of_threads_changes_nothing(seed):
    """Worker processes have one, the trainer as many as it likes."""
    everything, found = replace(Augment(), elastic=1, blur=1, erase=1, flip=1), []
    threads = torch.get_num_threads()
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            found.append(augmented(mouths(75), everything, seed))
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(*found)


@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(0, 1000))
def test_without_amounts_it_is_a_crop_from_one_place_of_all_frames(seed):
    images = mouths(3)
    crop, mirrored = augmented(images, NONE, seed), augmented(images, PARTS["flip"], seed)
    room = MOUTH_SIZE - MOUTH_INPUT + 1
    places = [images[:, y: y + MOUTH_INPUT, x: x + MOUTH_INPUT] for y in range(room) for x in range(room)]
    assert sum(np.array_equal(crop, place) for place in places) == 1
    assert sum(np.array_equal(mirrored, place[:, :, ::-1]) for place in places) == 1


@pytest.mark.slow
def test_every_place_and_both_sides_come_up():
    marked = np.zeros((1, MOUTH_SIZE, MOUTH_SIZE), np.uint8)
    marked[0] = np.add.outer(16 * np.arange(MOUTH_SIZE), np.arange(MOUTH_SIZE)) % 256
    found = {augmented(marked, replace(NONE, flip=0.5), seed).tobytes() for seed in range(1500)}
    assert len(found) == 2 * (MOUTH_SIZE - MOUTH_INPUT + 1) ** 2


def test_the_middle_is_what_a_crop_gives_on_average():
    images = mouths()
    assert np.array_equal(centre(images), images[:, 4:92, 4:92])


def test_light_changes_within_its_bounds_and_keeps_order():
    tables = np.stack([light_table(Augment(), rng(seed)).numpy() for seed in range(200)])
    assert (np.diff(tables, axis=1) >= 0).all()
    assert 20 < np.abs(tables[:, 128] - 128).max() < 60
    assert np.array_equal(light_table(NONE, rng()).round().numpy(), np.arange(256))
    for name, most in (("brightness", 20.2), ("contrast", 0.11), ("gamma", 19)):
        moved = np.stack([light_table(PARTS[name], rng(seed)).numpy() for seed in range(200)])[:, 128] - 128
        assert 0.9 * most < np.abs(moved).max() <= most, name


def disc(radius=20):
    """A bright disc in the middle, and how far each pixel is from there."""
    y, x = np.mgrid[:MOUTH_SIZE, :MOUTH_SIZE] - (MOUTH_SIZE - 1) / 2
    return np.where(x ** 2 + y ** 2 < radius ** 2, 255, 0).astype(np.uint8)[None], x, y


def moments(picture):
    """Middle (x, y) of what is bright in a picture, relative to the picture's, and how much there is of it."""
    y, x = np.mgrid[:MOUTH_SIZE, :MOUTH_SIZE] - (MOUTH_SIZE - 1) / 2
    total = picture.sum()
    return np.array([(picture * x).sum(), (picture * y).sum()]) / total, total


def test_scale_and_rotation_are_about_the_middle_and_within_their_bounds():
    picture, x, y = disc()
    bar = np.where((np.abs(y) < 4) & (np.abs(x) < 32), 255, 0)[None]
    both = torch.from_numpy(np.concatenate([picture, bar])).float()
    sizes, angles = [], []
    for seed in range(60):
        moved, turned = warp(both, replace(NONE, scale=0.1, degrees=8), rng(seed)).numpy()
        middle, total = moments(moved)
        assert np.abs(middle).max() < 0.2
        sizes.append(np.sqrt(total / picture.sum()))
        rows, columns = np.nonzero(turned > 127)
        angles.append(np.degrees(np.arctan(np.polyfit(columns, rows, 1)[0])))
    assert 0.89 < min(sizes) < 0.92 < 1.08 < max(sizes) < 1.11
    assert -8.3 < min(angles) < -6 < 6 < max(angles) < 8.3


def test_a_perspective_moves_corners_and_rubber_its_points_by_as_much_as_they_say():
    """Of a mark in a corner, 8 pixels from the edges."""
    mark = torch.zeros(1, MOUTH_SIZE, MOUTH_SIZE)
    mark[0, 6:11, 6:11] = 255
    before, _ = moments(mark.numpy())
    ways = {"perspective": (lambda seed: warp(mark, PARTS["perspective"], rng(seed)), 0.03 * MOUTH_SIZE),
            "elastic": (lambda seed: bend(mark, rng(seed)), 2.0)}
    for name, (change, most) in ways.items():
        moved = np.array([moments(change(seed).numpy())[0] - before for seed in range(100)])
        assert 0.6 * most < np.abs(moved).max() < 1.3 * most, name
        assert np.abs(moved.mean(axis=0)).max() < 0.2 * most, name


def test_a_blur_takes_detail_and_leaves_the_mean():
    images = mouths(5)
    made, plain = augmented(images, PARTS["blur"], 1), augmented(images, NONE, 1)
    assert made.std() < 0.8 * plain.std()
    assert made.mean() == pytest.approx(plain.mean(), abs=1)


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_one_rectangle_is_covered_in_all_frames(seed):
    images = np.full((3, MOUTH_SIZE, MOUTH_SIZE), 200, np.uint8)
    images[:, :, :MOUTH_SIZE // 2] = 100
    made = augmented(images, PARTS["erase"], seed)
    covered = np.all(made == 150, axis=0)
    rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    assert covered.sum() == len(rows) * len(columns)
    for side in (rows, columns):
        assert 0.08 * MOUTH_INPUT < np.ptp(side) + 1 <= 0.4 * MOUTH_INPUT + 1
    assert set(np.unique(made[:, ~covered])) == {100, 200}


def test_beyond_a_pictures_edge_there_is_its_mean_grey():
    white = np.full((2, MOUTH_SIZE, MOUTH_SIZE), 230, np.uint8)
    for seed in range(20):
        assert (augmented(white, replace(Augment(), brightness=0, contrast=0, gamma=0, scale=0.5), seed) == 230).all()


def test_a_light_from_one_side_brightens_one_edge_as_much_as_it_darkens_the_other():
    white = np.full((2, MOUTH_SIZE, MOUTH_SIZE), 100, np.uint8)
    for seed in range(20):
        made = augmented(white, replace(NONE, shade=0.4), seed)[0].astype(float)
        assert abs(made.mean() - 100) < 4, "cropped at up to 4 pixels from the middle"
        assert 100 < made.max() < 141
        assert np.abs(np.diff(made, n=2, axis=0)).max() <= 2, "it falls off evenly"


def test_a_stretch_widens_what_it_lowers():
    square = np.zeros((2, MOUTH_SIZE, MOUTH_SIZE), np.uint8)
    square[:, 28:68, 28:68] = 200
    areas, ratios = [], []
    for seed in range(20):
        seen = augmented(square, replace(NONE, stretch=0.3), seed)[0] > 100
        tall, wide = seen.any(axis=1).sum(), seen.any(axis=0).sum()
        areas.append(tall * wide)
        ratios.append(wide / tall)
    assert max(abs(area - 1600) for area in areas) < 100
    assert 0.7 < min(ratios) < 0.95
    assert 1.05 < max(ratios) < 1.4


def test_the_largest_amounts_are_taken():
    images = mouths(4)
    for seed in range(20):
        made = augmented(images, replace(Augment(), **MAX_VALUES), seed)
        assert made.shape == (4, MOUTH_INPUT, MOUTH_INPUT)


def test_a_clip_of_any_size_is_cropped():
    clip = torch.from_numpy(np.ascontiguousarray(mouths(2)[:, :90, :93]))
    assert augment_clip(clip, 128.0, Augment(), rng()).shape == (2, MOUTH_INPUT, MOUTH_INPUT)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_draws_what_a_cpu_draws():
    batch, everything = torch.from_numpy(np.stack([smooth(30, n) for n in range(6)])), replace(Augment(), elastic=0.5, blur=0.5)
    here, there = (augment_mouths(one, [30] * 6, range(6), everything).cpu().int() for one in (batch, batch.cuda()))
    assert (here - there).abs().max() <= 2
    assert ((here - there).abs() > 0).float().mean() < 0.01


@pytest.mark.slow
def test_torchvision_is_imported_by_nobody_who_does_not_augment():
    """It takes longer to import than torch itself."""
    code = ("import sys, avsr.cli, avsr.transcribe, avsr.benchmark, avsr.explain, avsr.report, avsr.train; "
            "print(sorted({'torch', 'torchvision'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['torch']"


# --- an example ---

def test_hidden_frames_come_from_the_generator_and_leave_the_cache_alone():
    images, before = mouths(), mouths()
    made = [hide_frames(images, Augment(), rng(seed)) for seed in range(6)]
    assert np.array_equal(images, before)
    assert np.array_equal(hide_frames(images, Augment(), rng(3)), made[3])
    assert len({one.tobytes() for one in made}) > 1
    assert np.array_equal(hide_frames(images, replace(Augment(), mask_frames=0), rng()), images)


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


@pytest.mark.slow
def test_unreadable_mouths_come_in_all_five_ways_and_keep_their_shape():
    moving = np.zeros((30, MOUTH_INPUT, MOUTH_INPUT), np.uint8)
    for number, image in enumerate(moving):                 # a bright bar that falls, over a mark at the top
        image[20 + number:24 + number] = 200
        image[:5, :5] = 250
    ways = set()
    for seed in range(60):
        made = make_unreadable(moving, rng(seed))
        assert made.shape == moving.shape
        assert made.dtype == np.uint8
        assert not np.array_equal(made, moving)
        assert np.array_equal(made, make_unreadable(moving, rng(seed)))
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
