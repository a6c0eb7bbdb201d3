"""Search: it finds the known best, alone or in company, and its guards do what they say."""

import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avsr import decode, media
from avsr.decode import (
    BeamSearch,
    DecodeOptions,
    DecoderScorer,
    Hypothesis,
    Sampling,
    SuppressTokens,
    compression_ratio,
    fallback,
    search,
)
from avsr.features import log_mel
from avsr.models.avsr import AVSR, Dims
from avsr.rates import SEGMENT_SAMPLES

END = 0


class Chain:
    """A scorer that knows only the last token: `table` (V, V) of log-probabilities, or (B, V, V), one per utterance."""

    weight = 1.0

    def __init__(self, table, n_utterances=1):
        self.table = table if table.ndim == 3 else table.expand(n_utterances, *table.shape)

    def score(self, tokens):
        n_hypotheses = len(tokens) // len(self.table)
        utterance = torch.arange(len(self.table)).repeat_interleave(n_hypotheses)
        return self.table[utterance, tokens[:, -1]].clone()

    def select(self, rows, utterances):
        if utterances is not None:
            self.table = self.table[utterances]


def chain_of(seed, n_vocab, *, n_utterances=None, sharpness=2.0):
    shape = (n_vocab, n_vocab) if n_utterances is None else (n_utterances, n_vocab, n_vocab)
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * sharpness
    return logits.log_softmax(dim=-1)


def run(scorers, *, size, n_utterances=1, start=1, **options):
    """BeamSearch search after the prompt [start] of each utterance."""
    max_tokens = options.pop("max_tokens", 6)
    filters, penalty = options.pop("filters", ()), options.pop("length_penalty", 1.0)
    beam = BeamSearch(n_utterances, DecodeOptions(beam_size=size, **options), END)
    prompt = torch.full((n_utterances, 1), start)
    return search(scorers, prompt, beam, filters=filters, max_tokens=max_tokens, length_penalty=penalty)


def score_of(table, text, start=1, ended=True):
    path = [start, *text, END] if ended else [start, *text]
    return sum(table[a, b].item() for a, b in pairwise(path))


# Known best

@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n_vocab=st.integers(2, 4), max_tokens=st.integers(1, 4),
       penalty=st.sampled_from([0.0, 0.6, 1.0]))
def test_a_wide_beam_finds_the_best_of_all_texts(seed, n_vocab, max_tokens, penalty):
    table = chain_of(seed, n_vocab)
    size = n_vocab**max_tokens
    text, score = run([Chain(table)], size=size, max_tokens=max_tokens, length_penalty=penalty)[0]
    # A text of the longest length has no room for its end: it counts as it stands.
    every = {tuple(t): score_of(table, t, ended=len(t) < max_tokens)
             for length in range(max_tokens + 1) for t in product(range(1, n_vocab), repeat=length)}
    best = max(every, key=lambda t: every[t] / max(1, len(t))**penalty)
    assert score == pytest.approx(every[text], abs=1e-4)
    assert every[text] / max(1, len(text))**penalty == pytest.approx(every[best] / max(1, len(best))**penalty, abs=1e-4)


def test_a_narrow_beam_sees_past_the_greedy_choice():
    # After 1 comes 2 (0.6), which leads nowhere, or 3 (0.4), which surely ends.
    table = torch.full((6, 6), 1e-9)
    table[1, 2], table[1, 3] = 0.6, 0.4
    table[2, END], table[2, 4], table[2, 5] = 0.34, 0.33, 0.33
    table[4, END] = table[5, END] = table[3, END] = 1.0
    table = table.log()
    assert run([Chain(table)], size=1)[0][0] == (2,)
    text, score = run([Chain(table)], size=2)[0]
    assert (text, score) == ((3,), pytest.approx(math.log(0.4)))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n_vocab=st.integers(2, 8), max_tokens=st.integers(1, 8))
def test_a_beam_of_one_is_greedy(seed, n_vocab, max_tokens):
    table = chain_of(seed, n_vocab)
    text, last, ended = [], 1, False
    while len(text) < max_tokens and not ended:
        last = table[last].argmax().item()
        ended = last == END
        text += [] if ended else [last]
    found, score = run([Chain(table)], size=1, max_tokens=max_tokens)[0]
    assert (list(found), score) == (text, pytest.approx(score_of(table, text, ended=ended), abs=1e-4))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 5), n_utterances=st.integers(2, 5))
def test_utterances_that_end_at_different_times_do_not_disturb_each_other(seed, size, n_utterances):
    tables = chain_of(seed, 7, n_utterances=n_utterances, sharpness=3.0)
    together = run([Chain(tables)], size=size, n_utterances=n_utterances, max_tokens=12)
    for table, (text, score) in zip(tables, together, strict=True):
        alone = run([Chain(table)], size=size, max_tokens=12)[0]
        assert (text, score) == (alone[0], pytest.approx(alone[1], abs=1e-4))


def test_another_scorer_changes_the_answer_by_its_weight():
    likes_two, likes_three = torch.full((4, 4), -5.0), torch.full((4, 4), -5.0)
    likes_two[1, 2], likes_two[1, 3] = -0.1, -2.0
    likes_three[1, 3], likes_three[1, 2] = -0.1, -2.0
    likes_two[2:, END] = likes_three[2:, END] = -0.01
    main, other = Chain(likes_two.log_softmax(-1)), Chain(likes_three)
    answers = {}
    for weight in (0.0, 0.5, 2.0):
        other.weight = weight
        answers[weight] = run([main, other], size=3)[0]
    assert [text for text, _ in answers.values()] == [(2,), (2,), (3,)]
    expected = score_of(main.table[0], (3,)) + 2 * score_of(likes_three, (3,))
    assert answers[2.0][1] == pytest.approx(expected, abs=1e-4)


def test_patience_waits_for_more_texts():
    table = torch.full((4, 4), 1e-9)
    table[1, END], table[1, 2] = 0.3, 0.7
    table[2, END], table[2, 3] = 0.1, 0.9
    table[3, END] = 1.0
    table = table.log()
    assert run([Chain(table)], size=2)[0][0] == ()          # () and (2) have ended before (2, 3) can
    text, score = run([Chain(table)], size=2, patience=2.0)[0]
    assert (text, score) == ((2, 3), pytest.approx(math.log(0.7 * 0.9), abs=1e-4))


def test_a_text_ends_only_from_among_the_best():
    table = torch.full((5, 5), 1e-9)
    table[1, 2], table[1, 3] = 0.6, 0.4
    table[2, END], table[2, 2] = 0.9, 0.1
    table[3, 4], table[3, END] = 0.6, 0.4                   # this end, 0.16, is third after 0.54 and 0.24
    table[4, END] = 1.0
    text, score = run([Chain(table.log())], size=2, length_penalty=2.0)[0]
    assert (text, score) == ((3, 4), pytest.approx(math.log(0.24), abs=1e-4))


@pytest.mark.parametrize("max_tokens", [1, 3])
def test_an_endless_text_is_cut(max_tokens):
    table = torch.full((3, 3), -20.0)
    table[1:, 2] = 0.0
    assert run([Chain(table)], size=2, max_tokens=max_tokens, filters=[SuppressTokens((END,))])[0][0] == (2,) * max_tokens


# Rules

def test_suppressed_tokens_are_never_written_and_some_not_first():
    table = torch.tensor([[0.0, 0, 0, 0, 0], [1, 0, 9, 8, 7], [1, 0, 9, 8, 7], [1, 0, 9, 8, 7], [1, 0, 9, 8, 7]])
    plain = run([Chain(table)], size=1, max_tokens=3)[0][0]
    ruled = run([Chain(table)], size=1, max_tokens=3, filters=[SuppressTokens((2,), (3,), n_prompt=1)])[0]
    assert (plain, ruled[0]) == ((2, 2, 2), (4, 3, 3))
    first, later = torch.tensor([1.0, 0, 7]).log_softmax(0)[2], torch.tensor([1.0, 0, 8, 7]).log_softmax(0)[2]
    assert ruled[1] == pytest.approx((first + 2 * later).item(), abs=1e-4)      # the rest shares what was forbidden


# Sampling

def sample(table, temperature, *, seed=0, n_utterances=1, best_of=3, max_tokens=8):
    strategy = Sampling(n_utterances, DecodeOptions(best_of=best_of, seed=seed), END, temperature)
    return search([Chain(table, n_utterances)], torch.full((n_utterances, 1), 1), strategy, max_tokens=max_tokens)


def test_a_seed_gives_one_text_and_seeds_differ():
    table = chain_of(3, 9, sharpness=0.5)
    assert sample(table, 1.0) == sample(table, 1.0)
    assert len({sample(table, 1.0, seed=seed)[0] for seed in range(12)}) > 6


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_a_temperature_near_nothing_is_greedy(seed):
    table = chain_of(seed, 6)
    (text, score), = sample(table, 1e-4)
    assert (text, score) == (run([Chain(table)], size=1, max_tokens=8)[0][0], pytest.approx(
        run([Chain(table)], size=1, max_tokens=8)[0][1], abs=1e-4))


def test_a_draw_does_not_depend_on_the_company():
    tables = chain_of(5, 7, n_utterances=4, sharpness=1.0)
    together = sample(tables, 0.8, n_utterances=4, max_tokens=15)
    assert together == [sample(table, 0.8, max_tokens=15)[0] for table in tables]


def test_draws_follow_the_probabilities():
    table = torch.full((4, 4), -30.0)
    table[1, 2], table[1, 3] = math.log(0.7), math.log(0.3)
    table[2:, END] = 0.0
    n = 400
    draws = [sample(table, 1.0, seed=seed, best_of=1)[0][0] for seed in range(n)]
    assert draws.count((2,)) / n == pytest.approx(0.7, abs=0.08)


# The real decoder as a scorer

@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    model = AVSR(Dims(width=32, n_heads=2, n_audio_layers=1, n_fusion_layers=0, n_decoder_layers=2, n_vocab=30, n_context=20,
                      video_frontend=None)).eval()
    with torch.no_grad():
        model.decoder.embedding.weight.mul_(3)
        model.decoder.positions.normal_()
    return model


def plain_greedy(model, memory, prompt, max_tokens):
    """The whole text through the network for every token."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + max_tokens:
        best = model.decoder(torch.tensor([tokens]), model.start(memory))[0, -1].argmax().item()
        if best == END:
            break
        tokens.append(best)
    return tuple(tokens[len(prompt):])


@torch.no_grad()
def test_beam_one_is_greedy_written_plainly(small):
    mels = torch.randn(6, 40, 80, generator=torch.Generator().manual_seed(1)) * 3
    memory = small.encode(mels)
    scorer = DecoderScorer(small, memory, no_speech_token=5, start_token=1)
    texts = search([scorer], torch.tensor([[1, 2]] * 6), BeamSearch(6, DecodeOptions(beam_size=1), END), max_tokens=15)
    expected = [plain_greedy(small, memory.select(torch.tensor([i])), [1, 2], 15) for i in range(6)]
    assert [text for text, _ in texts] == expected
    logits = small.decoder(torch.tensor([[1]] * 6), small.start(memory))[:, 0]
    torch.testing.assert_close(torch.from_numpy(scorer.no_speech), logits.softmax(dim=-1)[:, 5])


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 4])
def test_scores_are_the_networks_own(small, size):
    memory = small.encode(torch.randn(3, 40, 80, generator=torch.Generator().manual_seed(2)) * 3)
    scorer = DecoderScorer(small, memory, no_speech_token=None, start_token=1)
    texts = search([scorer], torch.tensor([[1]] * 3), BeamSearch(3, DecodeOptions(beam_size=size), END), max_tokens=10)
    for i, (text, score) in enumerate(texts):
        row = [1, *text, END]
        log_probs = small.decoder(torch.tensor([row]), small.start(memory.select(torch.tensor([i]))))[0].log_softmax(-1)
        wanted = sum(log_probs[at, token].item() for at, token in enumerate(row[1:]))
        unended = wanted - log_probs[len(row) - 2, END].item()
        assert score == pytest.approx(wanted if len(text) < 10 else unended, abs=1e-3)


# Guards

class FakeTokenizer:
    end, start, no_speech, no_timestamps = 90, 91, 92, 93

    def decode(self, tokens):
        return "".join(chr(32 + token) for token in tokens)


class Script:
    """A network whose text each utterance has in a script, by temperature: nothing but what `decode` asks of it."""

    class Dims:
        n_vocab, n_context = 100, 300

    dims = Dims()
    joint_ctc = ctc_only = False

    def __init__(self, monkeypatch, scripts):
        self.calls = []
        monkeypatch.setattr(fallback, "DecoderScorer", lambda model, memory, **kw: memory)
        monkeypatch.setattr(fallback, "search", self.search)
        self.scripts = scripts

    def search(self, scorers, prompt, strategy, **options):
        memory, temperature = scorers[0], getattr(strategy, "temperature", 0.0)
        self.calls.append((temperature, tuple(memory.ids)))
        found = [self.scripts[i][temperature] for i in memory.ids]
        memory.no_speech = np.array([no_speech for _, _, no_speech in found])
        return [(tuple(map(ord, text)), logprob) for text, logprob, _ in found]

    def run(self, **options):
        memory = FakeMemory(range(len(self.scripts)))
        return decode.decode(self, FakeTokenizer(), memory, [[91, 93]] * len(self.scripts), options=DecodeOptions(**options))


class FakeMemory:
    states = torch.zeros(0)

    def __init__(self, ids):
        self.ids = list(ids)
        self.audio, self.video, self.n_utterances = torch.zeros(len(self.ids), 1, 1), None, len(self.ids)
        self.seconds = None

    def select(self, utterances):
        return FakeMemory(self.ids[i] for i in utterances)


LOOP, FINE = "and then and then " * 20, "the quick brown fox jumps"


def test_what_loops_is_tried_again_warmer_and_the_rest_is_kept(monkeypatch):
    script = Script(monkeypatch, [
        {0.0: (FINE, -3.0, 0.1)},
        {0.0: (LOOP, -3.0, 0.1), 0.2: (LOOP, -4.0, 0.1), 0.4: ("something else", -5.0, 0.1)},
        {0.0: ("not believed", -99.0, 0.1), 0.2: ("believed", -2.0, 0.1)},
    ])
    texts = script.run()
    assert script.calls == [(0.0, (0, 1, 2)), (0.2, (1, 2)), (0.4, (1,))]
    assert [("".join(map(chr, text.tokens)), text.temperature) for text in texts] == [
        (FINE, 0.0), ("something else", 0.4), ("believed", 0.2)]


def test_silence_is_dropped_and_not_tried_again(monkeypatch):
    script = Script(monkeypatch, [{0.0: ("thanks for watching", -60.0, 0.9)}, {0.0: ("surely said", -1.0, 0.9)}])
    texts = script.run()
    assert script.calls == [(0.0, (0, 1))]
    assert texts[0] == Hypothesis((), -60.0, pytest.approx(0.9), 0.0)
    assert "".join(map(chr, texts[1].tokens)) == "surely said"


def test_without_guards_the_first_text_is_the_text(monkeypatch):
    script = Script(monkeypatch, [{0.0: (LOOP, -9999.0, 0.99)}])
    texts = script.run(compression_ratio_threshold=None, logprob_threshold=None, no_speech_threshold=None)
    assert "".join(map(chr, texts[0].tokens)) == LOOP
    assert len(script.calls) == 1


def test_the_last_attempt_stands(monkeypatch):
    script = Script(monkeypatch, [dict.fromkeys((0.0, 0.2), (LOOP, -3.0, 0.1))])
    assert script.run(temperatures=(0.0, 0.2))[0].temperature == 0.2


def test_measures():
    assert compression_ratio("") == 0
    assert compression_ratio(FINE) < 1.5
    assert compression_ratio(LOOP) > 10
    assert Hypothesis((1, 2, 3), -8.0).avg_logprob == -2.0


# All of it on real sound

def real_pieces(hello, real_data):
    return [hello, media.read(real_data / "grid/s1/bbaf3s.mpg", want_video=False).audio]


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize("temperatures", [(0.0,), (0.6,)])
def test_a_batch_of_real_pieces_is_each_by_itself(tiny_en, hello, real_data, temperatures):
    mel = torch.stack([torch.from_numpy(log_mel(audio, n_samples=SEGMENT_SAMPLES)) for audio in real_pieces(hello, real_data)])
    prompt, options = tiny_en.tokenizer.prompt("en"), DecodeOptions(temperatures=temperatures, beam_size=3, best_of=2)
    memory = tiny_en.model.encode(mel)

    def texts_of(which):
        return decode.decode(tiny_en.model, tiny_en.tokenizer, memory.select(torch.tensor(which)), [prompt] * len(which),
                             suppress=tiny_en.suppress, suppress_begin=tiny_en.suppress_begin, options=options)

    together = texts_of([0, 1])
    for i, text in enumerate(together):
        alone, = texts_of([i])
        assert alone.tokens == text.tokens
        assert alone.logprob == pytest.approx(text.logprob, abs=1e-2)
        assert alone.no_speech_prob == pytest.approx(text.no_speech_prob, abs=1e-3)
    said = tiny_en.tokenizer.decode(together[0].tokens)
    if temperatures == (0.0,):
        assert said == " Hello, this video was made by a computer. You can read the words on my lips."
    assert all(token < tiny_en.tokenizer.end for text in together for token in text.tokens)
