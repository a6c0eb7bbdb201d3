"""Word times: the warping path is the cheapest, and the words are where they were really said."""

import csv
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from avsr import media, timing
from avsr.features import log_mel
from avsr.rates import SAMPLE_RATE, SEGMENT_SAMPLES
from avsr.text import Tokenizer
from avsr.transcript import Word

COSTS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
                   elements=st.floats(-5, 5, width=32, allow_subnormal=False))


def plain_warp_cost(cost):
    """The cost of the cheapest path, cell by cell."""
    n, m = cost.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    for i in range(n):
        for j in range(m):
            total[i + 1, j + 1] = cost[i, j] + min(total[i, j], total[i, j + 1], total[i + 1, j])
    return total[n, m]


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(COSTS)
def test_the_path_is_the_cheapest_from_corner_to_corner(cost):
    rows, columns = timing.dtw(cost)
    n, m = cost.shape
    assert (rows[0], columns[0], rows[-1], columns[-1]) == (0, 0, n - 1, m - 1)
    steps = set(zip(np.diff(rows), np.diff(columns), strict=True))
    assert steps <= {(0, 1), (1, 0), (1, 1)}
    assert cost[rows, columns].sum(dtype=np.float64) == pytest.approx(plain_warp_cost(cost.astype(np.float64)), abs=1e-3)


def test_a_path_along_a_valley():
    truth = np.array([0, 0, 0, 1, 1, 2, 3, 3, 3, 3])
    cost = np.ones((4, 10), np.float32)
    cost[truth, np.arange(10)] = -1
    assert timing.dtw(cost)[0].tolist() == truth.tolist()
    starts, ends = timing.token_times(cost)                  # the last row closes the path: three tokens
    np.testing.assert_allclose(starts, [0, 0.06, 0.10])
    np.testing.assert_allclose(ends, [0.06, 0.10, 0.12])


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float32, st.tuples(st.just(2), st.just(3), st.integers(8, 30)),
                  elements=st.floats(-9, 9, width=32)), st.sampled_from([3, 5, 7]))
def test_the_median_is_scipys_inside(x, width):
    from scipy.signal import medfilt

    ours, reach = timing.median_filter(x, width), width // 2
    np.testing.assert_array_equal(ours[..., reach:-reach], medfilt(x, (1, 1, width))[..., reach:-reach])
    edge = np.concatenate([x[..., reach:0:-1], x], axis=-1)  # reflected
    np.testing.assert_array_equal(ours[..., 0], np.median(edge[..., :width], axis=-1))


def test_the_median_leaves_short_inputs_alone():
    x = np.random.default_rng(0).standard_normal((2, 3, 3))
    assert np.array_equal(timing.median_filter(x, 7), x)


# Words

@pytest.fixture(scope="module")
def tokenizer(tiny_en_folder):
    return Tokenizer(tiny_en_folder / "tokenizer.json")


def words_of(tokenizer, text, boundaries, chances=None):
    """Words where token i lasts from boundaries[i] to boundaries[i + 1]."""
    tokens, boundaries = tokenizer.encode(text), np.array(boundaries, float)
    assert len(tokens) == len(boundaries) - 1, [tokenizer.decode([t]) for t in tokens]
    chances = np.ones(len(tokens)) if chances is None else np.array(chances)
    words = timing._words(tokenizer, tokens, chances, boundaries[:-1], boundaries[1:], "en")
    return [(word.text, round(word.start, 3), round(word.end, 3)) for word in words]


def test_the_pause_at_a_comma_is_no_part_of_a_word(tokenizer):
    assert words_of(tokenizer, " one, two", [0.0, 0.3, 0.9, 1.2]) == [(" one,", 0.0, 0.3), (" two", 0.9, 1.2)]
    assert words_of(tokenizer, ' "one" two', [0.0, 0.2, 0.5, 0.9, 1.2]) == [(' "one"', 0.2, 0.5), (" two", 0.9, 1.2)]


def test_a_word_without_time_takes_some_of_the_pause_or_of_a_neighbour(tokenizer):
    assert words_of(tokenizer, " one, two three", [0.0, 0.3, 0.9, 0.9, 1.2]) == [
        (" one,", 0.0, 0.3), (" two", 0.6, 0.9), (" three", 0.9, 1.2)]
    assert words_of(tokenizer, " one two three", [0.0, 0.3, 0.3, 0.6]) == [
        (" one", 0.0, 0.3), (" two", 0.3, 0.45), (" three", 0.45, 0.6)]
    assert words_of(tokenizer, " one two", [0.0, 0.4, 0.4]) == [(" one", 0.0, 0.2), (" two", 0.2, 0.4)]
    assert words_of(tokenizer, " one two", [0.0, 0.0, 0.0]) == [(" one", 0.0, 0.0), (" two", 0.0, 0.0)]


def test_beside_a_sentence_end_no_word_lasts_too_long(tokenizer):
    assert words_of(tokenizer, " one two. three four", [0.0, 0.3, 0.6, 0.7, 3.0, 3.3]) == [
        (" one", 0.0, 0.3), (" two.", 0.3, 0.6), (" three", 2.4, 3.0), (" four", 3.0, 3.3)]
    assert words_of(tokenizer, " one two three", [0.0, 2.0, 2.3, 2.6])[0] == (" one", 1.4, 2.0)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_words_stay_in_order_and_never_overlap(tokenizer, data):
    text = "".join(data.draw(st.lists(st.sampled_from([" one", " two", ",", ".", " (", ")", " naïve", "日"]), max_size=12)))
    tokens = tokenizer.encode(text)
    boundaries = np.sort(data.draw(hnp.arrays(np.int64, len(tokens) + 1, elements=st.integers(0, 100)))) / 50
    words = timing._words(tokenizer, tokens, np.ones(len(tokens)), boundaries[:-1], boundaries[1:], "en")
    assert "".join(word.text for word in words) == text
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert not words or (times[0] >= 0 and times[-1] <= boundaries[-1])
    assert all(isinstance(word, Word) and word.confidence == 1 for word in words)


# The real network

@torch.inference_mode()
def timed(checkpoint, audios, texts, **options):
    """Words of known texts: list of list of Word."""
    mels = [torch.from_numpy(log_mel(audio, n_samples=SEGMENT_SAMPLES)) for audio in audios]
    memory = checkpoint.model.encode(torch.stack(mels))
    return timing.align(
        checkpoint.model, checkpoint.tokenizer, memory, [checkpoint.tokenizer.prompt("en")] * len(audios),
        [checkpoint.tokenizer.encode(text) for text in texts], [len(audio) / SAMPLE_RATE for audio in audios], language="en",
        **{"heads": checkpoint.alignment_heads} | options)


HELLO = " Hello, this video was made by a computer. You can read the words on my lips."


@pytest.mark.slow
def test_phrases_begin_and_end_where_the_voice_does(tiny_en):
    pytest.importorskip("espeakng_loader")
    from talking_voice import speak

    speech, lead = speak(HELLO.strip()), 0.5
    words, = timed(tiny_en, [np.pad(speech.samples, int(lead * SAMPLE_RATE))], [HELLO])
    assert "".join(word.text for word in words) == HELLO
    phonemes = speech.phonemes
    pauses = [(a.end_s, b.start_s) for a, b in pairwise(phonemes) if b.start_s - a.end_s > 0.1]
    after_full_stop = max(pauses, key=lambda pause: pause[1] - pause[0])
    you = next(i for i, word in enumerate(words) if word.text == " You")
    found = [words[0].start, words[you - 1].end, words[you].start, words[-1].end]
    truth = [phonemes[0].start_s, *after_full_stop, phonemes[-1].end_s]
    assert found == pytest.approx([lead + time for time in truth], abs=0.3)
    assert all(word.end > word.start for word in words)
    assert np.mean([word.confidence for word in words]) > 0.7


def grid_truth(folder, n):
    """`n` sentences of GRID: sound and (word, start, end) by hand."""
    rows = [row for row in csv.DictReader((folder / "splits.tsv").open(), delimiter="\t")
            if row["has_align"] == "1" and row["split"] == "valid" and row["speaker"] == "s1"]
    for row in rows[::len(rows) // n][:n]:
        stem = folder / row["speaker"] / row["utterance"]
        lines = [line.split() for line in stem.with_suffix(".align").read_text().splitlines()]
        yield media.read(stem.with_suffix(".mkv"), want_video=False).audio, [
            (word, int(start) / 25_000, int(end) / 25_000) for start, end, word in lines if word not in ("sil", "sp")]


@pytest.mark.parametrize("size", ["tiny.en", pytest.param("base", marks=pytest.mark.slow)])
def test_words_of_grid_are_where_people_marked_them_and_no_worse_than_faster_whispers(size, request, real_data):
    from faster_whisper import WhisperModel
    from faster_whisper.tokenizer import Tokenizer as Theirs

    from avsr.benchmark.baselines import packaged_whisper

    checkpoint = request.getfixturevalue(size.replace(".", "_"))
    truth = list(grid_truth(real_data / "grid", 4))
    texts = [f" {' '.join(word for word, _, _ in words).capitalize()}." for _, words in truth]
    ours = timed(checkpoint, [audio for audio, _ in truth], texts)
    model = WhisperModel(str(packaged_whisper(size)), device="cpu", compute_type="float32", cpu_threads=1)
    spelling = Theirs(model.hf_tokenizer, size == "base", task="transcribe", language="en")
    errors = {"ours": [], "theirs": []}
    for (audio, words), text, found in zip(truth, texts, ours, strict=True):
        assert len(found) == len(words)
        segment = {"seek": 0, "tokens": checkpoint.tokenizer.encode(text), "start": 0.0, "end": len(audio) / SAMPLE_RATE}
        features = np.ascontiguousarray(log_mel(audio, n_samples=SEGMENT_SAMPLES).T)
        model.add_word_timestamps([[segment]], spelling, model.encode(features), len(audio) // 160, "\"'“¿([{-",
                                  "\"'.。,，!！?？:：”)]}、", 0.0)
        errors["ours"] += [abs(word.start - start) for word, (_, start, _) in zip(found, words, strict=True)]
        errors["theirs"] += [abs(word["start"] - start) for word, (_, start, _) in zip(segment["words"], words, strict=True)]
    assert np.median(errors["ours"]) < 0.06
    assert np.median(errors["ours"]) <= np.median(errors["theirs"])
    assert np.mean(errors["ours"]) <= np.mean(errors["theirs"])


@pytest.mark.slow
def test_a_batch_is_each_by_itself_and_silence_has_no_words(tiny_en, hello):
    audios, texts = [hello, hello[:40_000]], ["", " Hello, this video"]
    together = timed(tiny_en, audios, texts)
    assert together[0] == []
    alone, = timed(tiny_en, audios[1:], texts[1:])
    assert [word.text for word in together[1]] == [word.text for word in alone] == [" Hello,", " this", " video"]
    np.testing.assert_allclose([(word.start, word.end, word.confidence) for word in together[1]],
                               [(word.start, word.end, word.confidence) for word in alone], atol=0.021)
    assert all(0 <= word.start <= word.end <= 2.5 for word in alone)


@pytest.mark.slow
def test_without_heads_the_upper_layers_are_looked_at(tiny_en, hello):
    assert timing.default_heads(tiny_en.model) == [(layer, head) for layer in (2, 3) for head in range(6)]
    words, = timed(tiny_en, [hello], [HELLO], heads=())
    picked, = timed(tiny_en, [hello], [HELLO])
    assert np.median(np.abs([a.start - b.start for a, b in zip(words, picked, strict=True)])) < 0.2


@torch.inference_mode()
def test_from_video_alone_words_have_times_too(tokenizer):
    from avsr.models.avsr import AVSR, Dims

    torch.manual_seed(0)
    model = AVSR(Dims(width=32, n_heads=2, n_audio_layers=1, n_video_layers=1, n_fusion_layers=1, n_decoder_layers=2,
                      n_vocab=51_864, n_context=20)).eval()
    memory = model.encode(None, torch.rand(1, 10, 88, 88))
    words, = timing.align(model, tokenizer, memory, [tokenizer.prompt("en")], [tokenizer.encode(" one two")], [0.4],
                         language="en", heads=[(0, 0)])
    assert [word.text for word in words] == [" one", " two"]
    assert all(0 <= word.start <= word.end <= 0.4 for word in words)
