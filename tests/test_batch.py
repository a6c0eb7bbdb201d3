"""Batches: who goes with whom, each once an epoch, alike in length, the same after any interruption, on any processes."""

import os
import subprocess
import sys
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_corpus import corpus
from made_limits import ends_within

from avsr import noise
from avsr.augment import Augment, augment_mouths
from avsr.batch import IGNORE, MAX_PADDING, Batches, InfiniteSampler, augmented, buckets, collate, loader, plan_epoch
from avsr.config import DataConfig
from avsr.dataset import NO_LABEL, Example, Examples, ManifestRow, read_prepared
from avsr.manifest import CacheEntry, Utterance
from avsr.text import write_characters


def rows_of(lengths, has="av"):
    return [ManifestRow(Utterance(f"u{i}", "u.mp4", "ab", cache=CacheEntry("s.tar", 0, 0, n, n * 640, one)), Path())
            for i, (n, one) in enumerate(zip(lengths, [has] * len(lengths) if isinstance(has, str) else has, strict=True))]


# Who goes with whom

SOME = st.one_of(st.lists(st.integers(1, 750), max_size=300), st.lists(st.sampled_from([50, 75, 76]), max_size=300),
                 st.lists(st.integers(1, 5), max_size=100), st.lists(st.integers(20, 700), unique=True, max_size=300))


@settings(max_examples=100, deadline=None)
@given(SOME, st.integers(1, 2000), st.integers(0, 9))
@example(list(range(20, 700)), 900, 0)                      # no two alike
@example([2 ** i for i in range(10)], 900, 0)
@example([75] * 1000, 900, 1)
def test_little_padding_few_frames_and_each_row_once(lengths, max_frames, seed):
    batches = buckets(lengths, max_frames, np.random.default_rng(seed))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[i] for i in batch)
        assert 1 - sum(lengths[i] for i in batch) / padded <= MAX_PADDING + 1e-9
        assert len(batch) * max(lengths[i] for i in batch) <= max_frames or len(batch) == 1


def test_batches_are_full_where_lengths_allow():
    """No two alike, yet about as few batches as frames demand; and of one length, none but the last is short."""
    lengths = list(range(100, 700))
    assert len(buckets(lengths, 4000, np.random.default_rng(0))) < 1.4 * sum(lengths) / 4000
    assert sorted(map(len, buckets([75] * 100, 900, np.random.default_rng(0)))) == [4] + [12] * 8


def test_company_changes_from_epoch_to_epoch():
    lengths = [75] * 60
    first, second = (buckets(lengths, 900, np.random.default_rng(seed)) for seed in (0, 1))
    assert {frozenset(batch) for batch in first}.isdisjoint({frozenset(batch) for batch in second})


def test_a_plan_is_a_pure_function_of_seed_and_epoch():
    rows, config = rows_of(range(20, 120)), DataConfig(p_mismatched=0.3)
    assert plan_epoch(rows, config, 1, 4) == plan_epoch(rows, config, 1, 4)
    specs = [plan_epoch(rows, config, seed, epoch) for seed, epoch in ((1, 4), (1, 5), (2, 4))]
    assert specs[0] != specs[1]
    assert specs[0] != specs[2]
    seeds = [spec.seed for epoch in specs for spec in epoch]
    assert len(set(seeds)) == len(seeds)


def test_shares_of_modalities_are_those_asked_for():
    rows = rows_of([75] * 600)
    config = DataConfig(p_audio_visual=0.5, p_audio=0.2, p_mismatched=0.25)
    specs = [spec for epoch in range(20) for spec in plan_epoch(rows, config, 0, epoch)]
    share = {name: np.mean([spec.modality == name for spec in specs]) for name in ("av", "a", "v")}
    assert share["av"] == pytest.approx(0.5, abs=0.06)
    assert share["a"] == pytest.approx(0.2, abs=0.05)
    assert share["v"] == pytest.approx(0.3, abs=0.06)
    pairs = [other is not None for spec in specs for other in spec.mismatched if spec.modality == "av"]
    assert np.mean(pairs) == pytest.approx(0.25, abs=0.03)
    assert all(other is None for spec in specs if spec.modality != "av" for other in spec.mismatched)
    assert all(own != other for spec in specs for own, other in zip(spec.rows, spec.mismatched, strict=True))


def test_shares_that_are_all_but_for_rounding():
    """1 - 0.9 - 0.1 is a little below 0, which numpy takes for no chance."""
    specs = plan_epoch(rows_of([75] * 100), DataConfig(p_audio_visual=0.9, p_audio=0.1), 0, 0)
    assert {spec.modality for spec in specs} <= {"av", "a"}


def test_rows_that_lack_a_modality_keep_to_themselves():
    has = ["av", "a", "v", "av", "a"] * 20
    rows = rows_of([75] * 100, has)
    for epoch in range(3):
        specs = plan_epoch(rows, DataConfig(p_mismatched=0.5), 0, epoch)
        assert sorted(i for spec in specs for i in spec.rows) == list(range(100))
        for spec in specs:
            kinds = {has[i] for i in spec.rows}
            assert len(kinds) == 1
            assert spec.modality == kinds.pop() or has[spec.rows[0]] == "av"
            assert all(other is None or has[other] == "av" for other in spec.mismatched)


def test_unreliable_mouths_get_batches_of_their_own_with_their_sound():
    rows = [ManifestRow(replace(row.utterance, labels={"trust": "no"}) if i % 4 == 0 else row.utterance, row.base)
            for i, row in enumerate(rows_of([75] * 100))]
    specs = plan_epoch(rows, DataConfig(p_audio_visual=0.2, p_audio=0.4), 0, 0)
    assert sorted(i for spec in specs for i in spec.rows) == list(range(100))
    for spec in specs:
        assert len({i % 4 == 0 for i in spec.rows}) == 1
        assert spec.modality == "av" or spec.rows[0] % 4


# The infinite sequence

def take(n, **where):
    return list(islice(InfiniteSampler(rows_of(range(20, 60)), DataConfig(frames=300), 3, **where), n))


def test_a_resumed_run_goes_on_with_the_same_batches():
    whole = take(40)
    assert len({spec.seed[1] for spec in whole}) > 2, "of several epochs"
    for first in (1, 7, 20):
        assert take(40 - first, first=first) == whole[first:]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_batches_out(world):
    whole = take(30 * world)
    parts = [take(30, rank=rank, world=world) for rank in range(world)]
    assert [spec for step in zip(*parts, strict=True) for spec in step] == whole
    assert take(20, rank=1, world=world, first=10 * world) == parts[1][10:]


# Padding

def made(n_columns, n_frames, tokens, *, sound=True, sight=True):
    rng = np.random.default_rng(n_frames)
    return Example(f"u{n_frames}", rng.normal(size=(n_columns, 80)).astype(np.float32) if sound else None,
                   rng.integers(0, 256, (n_frames, 88, 88), np.uint8) if sight else None,
                   np.ones(n_frames, bool) if sight else None, tokens, [1] * len(tokens),
                   np.full(n_frames, 2), n_frames != 5)


def test_padding():
    examples = [made(20, 5, [7, 8]), made(12, 3, [9])]
    batch = collate(examples, [100, 101], 99, None)
    assert batch.modality == "av"
    assert batch.tokens.tolist() == [[100, 101, 7, 8], [100, 101, 9, 99]]
    assert batch.targets.tolist() == [[IGNORE, 7, 8, 99], [IGNORE, 9, 99, IGNORE]]
    assert batch.classes.tolist() == [1, 1, 1]
    assert batch.class_lengths.tolist() == [2, 1]
    assert batch.labels.tolist() == [[2] * 5, [2, 2, 2, NO_LABEL, NO_LABEL]]
    assert batch.reliable.tolist() == [False, True]
    assert batch.mel.shape == (2, 20, 80)
    assert batch.mel_lengths.tolist() == [20, 12]
    assert batch.lengths.tolist() == [5, 3]
    assert torch.equal(batch.mel[1, :12], torch.from_numpy(examples[1].mel))
    assert not batch.mel[1, 12:].any()
    assert batch.mouths.dtype == torch.uint8
    assert batch.seen.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert torch.equal(batch.mouths[1, :3], torch.from_numpy(examples[1].mouths))


def test_whispers_padding_has_one_length():
    batch = collate([made(20, 5, [7]), made(52, 13, [7])], [100], 99, 40)
    assert batch.mel.shape == (2, 40, 80)
    assert batch.mel_lengths is None
    assert batch.mel[0, :20].abs().sum() > 0
    assert not batch.mel[0, 20:].any()


def test_what_is_absent_is_none():
    sound = collate([made(20, 5, [7], sight=False)], [100], 99, None)
    assert (sound.modality, sound.mouths, sound.seen) == ("a", None, None)
    sight = collate([made(20, 5, [7], sound=False)], [100], 99, None)
    assert (sight.modality, sight.mel, sight.mel_lengths) == ("v", None, None)
    there = sight.to(torch.device("cpu"))
    assert there.mel is None
    assert torch.equal(there.mouths, sight.mouths)
    assert augmented(sight, None, torch.device("cpu")).mouths is sight.mouths, "without seeds there is nothing to do"


# Loading

def equal(one, other):
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rows, _ = read_prepared([corpus(folder, 8, n_sound=2)], "train", 30)
    letters = write_characters(folder / "tokenizer.json")
    mixer = noise.NoiseMixer({"white": noise.Coloured()}, snr_range=(0, 10))
    examples = Examples(letters.path, 80, {"ab": 1}, mixer, Augment())
    return rows, Batches(rows, examples, letters.prompt(None), letters.end, None)


@pytest.mark.slow
def test_a_worker_ends_with_a_trainer_that_is_killed():
    code = "from made_limits import Slow; from avsr.batch import loader; next(iter(loader(Slow(), range(9), 1, pin=False)))"
    trainer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)})
    worker = int(trainer.stdout.readline())
    trainer.kill()
    trainer.wait()
    assert ends_within(worker, 3)


@pytest.mark.slow
def test_a_worker_gives_the_same_batches(prepared):
    rows, batches = prepared
    config = DataConfig(frames=60, p_mismatched=0.5, p_audio_visual=0.6, p_audio=0.2)
    here, there = (list(islice(loader(batches, InfiniteSampler(rows, config, 1), n_workers, pin=False), 12))
                   for n_workers in (0, 1))
    assert all(equal(one, other) for one, other in zip(here, there, strict=True))
    assert {batch.modality for batch in here} >= {"av", "a"}
    resumed = list(islice(loader(batches, InfiniteSampler(rows, config, 1, first=5), 0, pin=False), 7))
    assert all(equal(one, other) for one, other in zip(here[5:], resumed, strict=True))


def test_mouths_are_augmented_in_the_loader_or_on_the_device_alike(prepared):
    rows, batches = prepared
    config, cpu = DataConfig(frames=60, p_audio_visual=0.5, p_audio=0.2), torch.device("cpu")
    later = Batches(rows, batches.examples, batches.prompt, batches.end, None, finished=False)
    for spec in [spec for spec in plan_epoch(rows, config, 1, 0) if "v" in spec.modality][:3]:
        made, still = batches[spec], later[spec]
        assert (made.seeds, len(still.seeds)) == (None, len(still.ids))
        assert (made.mouths.shape[2:], still.mouths.shape[2:]) == ((88, 88), (96, 96))
        assert equal(augmented(still, batches.examples.augment, cpu), made)
        assert torch.equal(still.seen, made.seen)
        assert len(set(still.seeds)) == len(still.seeds)
        alone = augment_mouths(still.mouths[:1], still.lengths[:1].tolist(), still.seeds[:1], batches.examples.augment)
        assert torch.equal(alone[0], made.mouths[0]), "its company does not matter"


def test_what_is_wrong_comes_as_it_is(prepared):
    """From a worker process an exception would come with its traceback as its message."""
    rows, batches = prepared
    broken = Batches([ManifestRow(row.utterance, Path("/nowhere")) for row in rows], batches.examples, [1], 2, None)
    (error,) = islice(loader(broken, InfiniteSampler(rows, DataConfig(), 1), 0, pin=False), 1)
    assert "/nowhere/shard-00000.tar: no such file." in str(error)
