"""Examples: what comes out of the cache, in the modality, the noise and the speed that were drawn; and chance that repeats."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from made_corpus import FRAMES, WORDS, corpus, say, utterance

from avsr import cache, manifest, noise
from avsr.augment import Augment
from avsr.dataset import NO_LABEL, SILENCE, Examples, ExampleSpec, ManifestRow, frame_labels, label_words, read_prepared
from avsr.errors import BadManifest
from avsr.features import log_mel
from avsr.lips import centre
from avsr.manifest import TimedWord
from avsr.text import write_characters

LABELS = {"ab": 1, "cd": 2, "ef": 3}
WHITE = noise.NoiseMixer({"white": noise.Coloured()}, snr_range=(-5.0, 5.0), p_clean=0.0)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """12 rows of both, 2 of sound alone, 1 of sight alone."""
    return read_prepared([corpus(tmp_path_factory.mktemp("corpus"), n_sound=2, n_sight=1)], "train", 30)[0]


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    return write_characters(tmp_path_factory.mktemp("letters") / "tokenizer.json")


@pytest.fixture
def plain(letters):
    return Examples(letters.path, 80, LABELS, None)


@pytest.fixture
def varied(letters):
    return Examples(letters.path, 80, LABELS, WHITE, Augment(), p_speed=0.5)


def rng(seed=0):
    return np.random.default_rng(seed)


def same(one, other) -> bool:
    pairs = [(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__]
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)


@pytest.mark.parametrize("modality", ["av", "a", "v"])
def test_an_example_holds_what_its_modality_says(rows, plain, letters, modality):
    row = rows[0]
    words = row.utterance.text.split()
    example = plain.make(row, ExampleSpec(modality), rng())
    n = len(words) * FRAMES
    cached = cache.read_entry(row.base, row.utterance.cache)
    if "a" in modality:
        assert example.mel.dtype == np.float32
        assert np.array_equal(example.mel, log_mel(cached.audio))
        assert example.mel.shape == (4 * n, 80)
    else:
        assert example.mel is None
    if "v" in modality:
        assert example.mouths.dtype == np.uint8
        assert np.array_equal(example.mouths, centre(cached.images))
        assert example.mouths.shape == (n, 88, 88)
        assert np.array_equal(example.seen, ~cached.missing)
    else:
        assert example.mouths is None
        assert example.seen is None
    assert example.labels.tolist() == [LABELS[word] for word in words for _ in range(FRAMES)]
    assert letters.decode(example.tokens) == f" {row.utterance.text}"
    assert len(example.classes) == len(row.utterance.text)
    assert (example.id, example.reliable, example.seed) == (row.utterance.id, True, None)


def test_chance_comes_from_the_generator_alone(rows, varied):
    first = [varied.make(row, ExampleSpec("av"), rng(i)) for i, row in enumerate(rows[:4])]
    again = [pickle.loads(pickle.dumps(varied)).make(rows[i], ExampleSpec("av"), rng(i)) for i in (3, 2, 1, 0)][::-1]
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    other = varied.make(rows[0], ExampleSpec("av"), rng(7))
    assert len({example.seed for example in (*first, other)}) == 5
    assert not np.array_equal(other.mel[:5], first[0].mel[:5])


def test_labels_stay_with_the_words_at_any_speed(rows, letters):
    """A word is louder at its own pitch: where the label says `cd`, there is the tone of `cd`."""
    row = next(row for row in rows if len(set(row.utterance.text.split())) > 1)
    quiet = Augment(**{name: 0 for name in Augment.__dataclass_fields__} | {"speed": 0.4})
    fast = Examples(letters.path, 80, LABELS, None, quiet, p_speed=1.0)
    lengths = set()
    for seed in range(6):
        example = fast.make(row, ExampleSpec("av"), rng(seed))
        lengths.add(len(example.labels))
        assert len(example.labels) == len(example.mouths) == len(example.seen)
        assert len(example.mel) == pytest.approx(4 * len(example.labels), abs=4)
        assert example.mouths.shape[1:] == (96, 96), "cropped with its batch"
        open_mouth = (example.mouths > 130).sum(axis=(1, 2)) / (56 * 80)                # 20:76 wide, 80 high at most
        heights = [0] + [height for _, height in WORDS.values()]
        wrong = np.abs(open_mouth - np.array([heights[label] for label in example.labels])) > 0.1
        assert wrong.sum() <= len(row.utterance.text.split()), "more than a frame off at the borders"
    assert len(lengths) > 2
    assert len(fast.make(row, ExampleSpec("av", varied=False), rng()).labels) == row.n_frames


def test_labels_of_frames():
    words = [TimedWord("A", 0.04, 0.12), TimedWord("b", 0.2, 0.24), TimedWord("rare", 0.28, 0.32), TimedWord("late", 0.36, 9.0)]
    labels = frame_labels(words, 10, {"a": 1, "b": 2, "late": 3})
    assert labels.tolist() == [SILENCE, 1, 1, SILENCE, SILENCE, 2, SILENCE, NO_LABEL, SILENCE, 3]
    assert labels.dtype == np.int64
    assert frame_labels(None, 3, {"a": 1}).tolist() == [NO_LABEL] * 3
    assert frame_labels([], 3, {"a": 1}).tolist() == [SILENCE] * 3


def test_labels_go_to_the_most_frequent_words(rows):
    counts = {word: sum(row.utterance.text.split().count(word) for row in rows) for word in WORDS}
    most = sorted(WORDS, key=lambda word: (-counts[word], word))
    assert label_words(rows, 2) == {most[0]: 1, most[1]: 2}
    assert label_words(rows, 500) == {word: i + 1 for i, word in enumerate(most)}
    assert label_words([ManifestRow(replace(rows[0].utterance, words=None), rows[0].base)], 500) == {}


def test_somebody_elses_mouth_is_as_long_as_the_sound(rows, plain):
    short, long = (pick(rows[:12], key=lambda row: row.n_frames) for pick in (min, max))
    for own, other in ((short, long), (long, short)):
        example = plain.make(own, ExampleSpec("av", mismatched=other), rng())
        right = plain.make(own, ExampleSpec("av"), rng())
        theirs = plain.make(other, ExampleSpec("v"), rng())
        n = min(own.n_frames, other.n_frames)
        assert not example.reliable
        assert np.array_equal(example.mel, right.mel)
        assert np.array_equal(example.labels, right.labels)
        assert len(example.mouths) == own.n_frames
        assert np.array_equal(example.mouths[:n], theirs.mouths[:n])
        assert example.seen[:n].all()
        assert not example.seen[n:].any()


def test_a_row_whose_label_trust_says_no_is_not_reliable(rows, plain):
    row = ManifestRow(replace(rows[0].utterance, labels={"trust": "no"}), rows[0].base)
    assert not plain.make(row, ExampleSpec("av"), rng()).reliable


def test_sound_alone_and_sight_alone(rows, varied):
    (sound, _), sight = [row for row in rows if row.utterance.cache.modality == "a"], rows[-1]
    example = varied.make(sound, ExampleSpec("a"), rng())
    assert example.mouths is None
    assert len(example.labels) == -(-len(example.mel) // 4)
    with pytest.raises(BadManifest, match=f"{sound.utterance.id}: mouths were asked for, .*  Prepare it again"):
        varied.make(sound, ExampleSpec("av"), rng())
    assert varied.make(sight, ExampleSpec("v"), rng()).mel is None
    with pytest.raises(BadManifest, match=f"{sight.utterance.id}: sound was asked for, .*  Prepare it again"):
        varied.make(sight, ExampleSpec("a"), rng())


def test_validation_draws_the_same_noise_at_the_level_asked_for(rows, varied):
    spec = ExampleSpec("av", snr_db=0.0, varied=False)                           # 0 is a level, not an absence
    one, two = varied.make(rows[0], spec, rng(3)), varied.make(rows[0], spec, rng(3))
    clean = varied.make(rows[0], ExampleSpec("av", varied=False), rng(3))
    assert same(one, two)
    assert np.array_equal(clean.mel, log_mel(cache.read_entry(rows[0].base, rows[0].utterance.cache).audio))
    assert np.abs(one.mel - clean.mel).mean() > 0.1
    assert np.array_equal(one.mouths, clean.mouths)


def test_letters_get_capitals_and_numbers_spelt(rows, plain, letters, tiny_en_folder):
    shout = ManifestRow(replace(rows[0].utterance, text="SET White, at F2 now!"), rows[0].base)
    example = plain.make(shout, ExampleSpec("a"), rng())
    assert letters.decode(example.tokens) == " set white at f two now"
    assert len(example.classes) == len("set white at f two now")
    assert plain.n_tokens(shout) == len(example.tokens)
    whisper = Examples(tiny_en_folder / "tokenizer.json", 80, LABELS, None)
    tokens = whisper.make(shout, ExampleSpec("a"), rng()).tokens
    assert whisper.tokenizer.decode(tokens) == " SET White, at F2 now!"


# Rows

@pytest.fixture
def several(tmp_path):
    """A manifest in which each row has something else to it."""
    with cache.ShardWriter(tmp_path) as writer:
        entry = writer.add(cache.pack("good", say(["ab", "cd"])))
    rows = [utterance("good", ["ab", "cd"], "train", entry), utterance("raw", ["ab"], "train"),
            utterance("long", ["ab"], "train", replace(entry, n_frames=800)),
            utterance("empty", ["ab"], "train", replace(entry, n_frames=0)), utterance("other", ["ab"], "test", entry)]
    manifest.write(tmp_path / "manifest.jsonl", rows)
    return tmp_path / "manifest.jsonl"


def test_rows_that_cannot_be_used_are_told(several):
    rows, left_out = read_prepared([several], "train", 30)
    assert [row.utterance.id for row in rows] == ["good"]
    assert rows[0].base == several.parent
    assert left_out == ["raw: not prepared", "long: 32.0 s, limit 30", "empty: 0 frames"]


def test_without_a_row_it_says_so(several):
    says = r"manifest\.jsonl: no prepared utterance of split 'valid' \(0 left out\), but .*  Run avsr prepare again with"
    with pytest.raises(BadManifest, match=says):
        read_prepared([several], "valid", 30)
    with pytest.raises(BadManifest, match=r"no prepared utterance of split 'train' \(4 left out\), but .*  The first one"):
        read_prepared([several], "train", 0.1)
    with pytest.raises(BadManifest, match=r"none\.jsonl: cannot be read"):
        read_prepared([several.parent / "none.jsonl"], "train", 30)


def test_an_id_in_two_manifests_is_refused(several):
    with pytest.raises(BadManifest, match=r"id 'good' is in .* too, .*  Name each manifest once"):
        read_prepared([several, several], "train", 30)


def test_a_shard_that_is_gone_is_named(several, plain):
    (row,), _ = read_prepared([several], "train", 30)
    (several.parent / "shard-00000.tar").unlink()
    with pytest.raises(BadManifest, match=r"shard-00000\.tar: no such file\.  Copy it"):
        plain.make(row, ExampleSpec("av"), rng())
