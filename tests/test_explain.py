"""What is said about a model is so: shares add up, pictures of the network are of what it computes, looking changes nothing."""

from copy import deepcopy
from dataclasses import replace
from xml.dom import minidom

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_corpus import FRAMES, say
from torch.nn import functional as F

from avsr.checkpoint import Checkpoint
from avsr.explain.ablations import ScoredWord, run_ablations, shapley_shares
from avsr.explain.attention import (
    attention_weights,
    gated_modules,
    greedy_letters,
    greedy_text,
    is_trained,
    read_attention,
    read_ctc,
    read_gates,
    record_calls,
)
from avsr.explain.input import AddedNoise, Input
from avsr.explain.page import chance, factor
from avsr.explain.plots import audio_figure, make_plot, shares_figure, tick_step, times
from avsr.explain.saliency import integrated_gradients
from avsr.html import word_edits
from avsr.html.plot import plot_style
from avsr.lips import Mouths
from avsr.metrics.contributions import shapley
from avsr.models.avsr import AVSR, Dims
from avsr.recogniser import Recogniser
from avsr.runtime import no_progress
from avsr.segment import SpeechSegment
from avsr.text import CTC_LETTERS, target_tokens, write_characters

TEXT = "ab cd"


def made(folder, **dims) -> Checkpoint:
    """A small network with random weights and open gates, which writes letters."""
    tokenizer = write_characters(folder / "tokenizer.json")
    torch.manual_seed(0)
    model = AVSR(Dims(**{"width": 32, "n_heads": 2, "n_audio_layers": 2, "n_video_layers": 1, "n_fusion_layers": 1,
                         "n_decoder_layers": 2, "n_vocab": tokenizer.no_timestamps + 1, "n_context": 16,
                         "video_frontend": "compact", "video_width": 32, "n_reliability": 8, **dims})).eval()
    torch.nn.init.normal_(model.decoder.embedding.weight, std=0.5)
    torch.nn.init.normal_(model.video.project.weight, std=0.5)        # eyes wide open: what moves must make a difference
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.constant_(parameter, 0.7)
    return Checkpoint("random", model.requires_grad_(False), tokenizer, pad_seconds=None, video_trained=True)


@pytest.fixture(scope="module", params=[1, 0], ids=["exchange", "decoder only"])
def checkpoint(request, tmp_path_factory):
    """With exchanges below the decoder, and without."""
    return made(tmp_path_factory.mktemp("letters"), n_fusion_layers=request.param)


@pytest.fixture(scope="module")
def plain(checkpoint):
    """The found of the given as it is."""
    return ablations_of(checkpoint)


def make_input(*, sound: bool = True, video: bool = True, missing: tuple[int, ...] = (), noise: float | None = None) -> Input:
    """Two words of the made-up corpus."""
    said = say(["ab", "cd"], seed=1)
    n = len(said.images)
    hidden = np.isin(np.arange(n), missing)
    size = np.ones(n, np.float32)
    mouths = Mouths(said.images, hidden, size, size, 0, 0) if video else None
    audio = said.audio if sound else None
    heard, added = audio, None
    if noise is not None:
        heard = audio + np.random.default_rng(0).normal(0, noise, len(audio)).astype(np.float32)
        added = AddedNoise("white", 0.0, 0.0, 0.0, 0)
    return Input("made.mp4", SpeechSegment(0, n), "the whole recording", n / 25, (0.0, n / 25), audio, heard, mouths,
                 None if video else "nobody", added)


def ablations_of(checkpoint, **what):
    return run_ablations(Recogniser(checkpoint), make_input(**what), TEXT, "en", no_progress)


numbers = st.floats(-50, 0)


@given(numbers, numbers, numbers, numbers)
def test_shares_add_up_and_a_sense_that_is_not_there_has_none(none, sound, video, both):
    of_all = shapley_shares({"none": none, "a": sound, "v": video, "av": both})
    assert of_all.sound + of_all.video == pytest.approx(both - none, abs=1e-9)
    alone = shapley_shares({"none": none, "a": sound})
    assert (alone.sound, alone.video) == (sound - none, 0)
    blind = shapley_shares({"none": none, "v": video})
    assert (blind.sound, blind.video) == (0, video - none)


def test_values_are_those_of_the_senses_and_words_add_up_to_them(checkpoint, plain):
    found, here = plain, make_input()
    recogniser, tokens = Recogniser(checkpoint), target_tokens(checkpoint.tokenizer, TEXT)
    assert found.tokens == tuple(tokens)
    for name in ("none", "a", "v", "av"):
        (log_probs,) = recogniser.score(recogniser.encode([here.sound], [here.mouths], name), [tokens])
        assert found.values[name] == pytest.approx(log_probs.mean().item(), abs=1e-4)
        assert sum(word.log_probs[name] for word in found.words) == pytest.approx(log_probs[:-1].sum().item(), abs=1e-3)
    assert [word.text for word in found.words] == ["ab", "cd"]
    assert found.shares.sound + found.shares.video == pytest.approx(found.values["av"] - found.values["none"], abs=1e-6)
    assert len(set(found.values.values())) == 4                    # the network is not deaf or blind
    for word in found.words:
        assert word.shares.sound + word.shares.video == pytest.approx(word.log_probs["av"] - word.log_probs["none"], abs=1e-6)
        assert 0 <= word.start < word.end <= here.segment.duration_s


def test_without_a_sense_the_other_has_it_all(checkpoint):
    deaf, blind = ablations_of(checkpoint, sound=False), ablations_of(checkpoint, video=False)
    assert set(deaf.values) == {"none", "v"}
    assert set(blind.values) == {"none", "a"}
    assert deaf.shares.sound == blind.shares.video == 0
    assert deaf.shares.video == pytest.approx(deaf.values["v"] - deaf.values["none"])


@pytest.mark.slow
def test_noise_adds_what_would_have_been_written_without(checkpoint, plain):
    noisy, clean = ablations_of(checkpoint, noise=0.3), plain
    assert set(noisy.texts) == {"none", "a", "v", "av", "a_clean", "av_clean"}
    assert (noisy.texts["a_clean"], noisy.texts["av_clean"]) == (clean.texts["a"], clean.texts["av"])
    assert noisy.values["v"] == pytest.approx(clean.values["v"], abs=1e-6)
    assert noisy.values["a"] != pytest.approx(clean.values["a"], abs=1e-6)
    assert noisy.words[0].start == clean.words[0].start               # words are timed by the clean sound


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["av", "v"])
def test_gradients_add_up_to_what_the_movement_is_worth(checkpoint, modality):
    missing, here, tokens = (2, 3), make_input(missing=(2, 3)), target_tokens(checkpoint.tokenizer, TEXT)
    checkpoint = replace(checkpoint, model=deepcopy(checkpoint.model).double())       # a random network makes small differences
    recogniser = Recogniser(checkpoint)
    audio = recogniser.encode_audio([here.sound]) if "a" in modality else None
    found = integrated_gradients(recogniser, audio, here.mouths, tokens, steps=64)
    assert found.modality == modality
    assert found.pixels.shape == (2 * FRAMES, 88, 88)
    value = recogniser.score(recogniser.encode(audio, [here.mouths], modality), [tokens])[0].mean().item()
    assert found.moving == pytest.approx(value, abs=1e-4)
    assert abs(found.moving - found.still) > 1e-3
    assert found.pixels.sum() == pytest.approx(found.moving - found.still, rel=0.03)
    assert not found.pixels[list(missing)].any()
    assert found.pixels[[0, 1, 4]].any()


def test_of_a_mouth_that_stands_still_there_is_nothing_to_say(checkpoint):
    here = make_input()
    still = replace(here, mouths=replace(here.mouths, images=np.repeat(here.mouths.images[:1], 2 * FRAMES, axis=0)))
    recogniser = Recogniser(checkpoint)
    found = integrated_gradients(recogniser, recogniser.encode_audio([still.sound]), still.mouths,
                                 target_tokens(checkpoint.tokenizer, TEXT), steps=4)
    assert np.abs(found.pixels).max() < 1e-6
    assert found.moving == pytest.approx(found.still, abs=1e-5)


@pytest.mark.slow
def test_looking_changes_nothing_and_leaves_nothing_behind(checkpoint, plain):
    model, here, recogniser = checkpoint.model, make_input(), Recogniser(checkpoint)

    def run():
        memory = recogniser.encode([here.sound], [here.mouths], "av")
        return memory, recogniser.score(memory, [target_tokens(checkpoint.tokenizer, TEXT)])[0]

    memory, before = run()
    with record_calls(gated_modules(model)) as calls:
        watched, during = run()
    assert torch.equal(before, during)
    assert torch.equal(memory.audio, watched.audio)
    assert set(calls) == set(gated_modules(model))
    read_attention(Recogniser(checkpoint), memory, plain.tokens, "en", 24)
    integrated_gradients(recogniser, plain.audio, here.mouths, plain.tokens, steps=1)
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(before, run()[1])


@pytest.mark.slow
def test_the_look_that_is_shown_is_the_one_that_is_taken(checkpoint):
    here, block = make_input(missing=(0, 1)), checkpoint.model.decoder.blocks[1]
    recogniser = Recogniser(checkpoint)
    memory = recogniser.encode([here.sound], [here.mouths], "av")
    tokens = target_tokens(checkpoint.tokenizer, TEXT)
    with record_calls({"audio": block.audio, "video": block.video.attention}) as calls:
        recogniser.score(memory, [tokens])
    for name, attention in (("audio", block.audio), ("video", block.video.attention)):
        inputs, output = calls[name]
        weights = attention_weights(attention, inputs)
        assert torch.allclose(weights.sum(dim=-1), torch.ones(()), atol=1e-5)
        mixed = (weights @ inputs[2][0]).transpose(0, 1).flatten(1)
        assert torch.allclose(F.linear(mixed, attention.out.weight, attention.out.bias), output[0], atol=1e-5)
    assert not weights[..., :4].any()                                 # of frames without a face
    looks, _ = read_attention(Recogniser(checkpoint), memory, tokens, "en", 24)
    for one in looks.values():
        assert one.shape == (2, 24)
        assert one.sum(axis=1) == pytest.approx(np.ones(2), abs=1e-4)


@pytest.mark.slow
def test_gates_tell_what_they_let_through(checkpoint, plain):
    model, found = checkpoint.model, plain
    memory = found.memories["av"]
    _, calls = read_attention(Recogniser(checkpoint), memory, found.tokens, "en", 24)
    gates = read_gates(model, found.calls | calls, 0.5, 24)
    assert [gate.where for gate in gates] == ["into audio", "into video"] * model.dims.n_fusion_layers + ["decoder"] * 2
    assert all(gate.attention == pytest.approx(np.tanh(0.7)) and gate.change > 0.01 for gate in gates)
    assert {gate.where: gate.reliability for gate in gates}["decoder"] == 0.5
    _, distrusted = read_attention(Recogniser(checkpoint), replace(memory, reliability=torch.zeros(1)), found.tokens, "en", 24)
    assert all(gate.change == 0 for gate in read_gates(model, distrusted, 0.0, 24))


def test_heads_that_never_learnt_are_told_from_those_that_did(checkpoint, plain):
    shown, untrained = read_ctc(checkpoint.model, plain.memories, 24)
    assert (shown, untrained) == ({}, ["audio", "video", "fused"])
    head = torch.nn.Linear(384, 29)
    assert not is_trained(head)
    assert not is_trained(head.half())
    torch.manual_seed(0)
    learnt = torch.nn.Linear(32, 29)
    for _ in range(30):
        loss = F.cross_entropy(learnt(torch.eye(32)), torch.arange(32) % 29)
        (slope,) = torch.autograd.grad(loss, [learnt.weight])
        learnt.weight.data -= slope
    assert is_trained(learnt)


def test_letters_are_those_of_the_surest_path():
    path = [0, 0, 2, 2, 0, 2, 3, 0, 1, 1, 4]
    log_probs = np.full((len(path), 29), -9.0)
    log_probs[np.arange(len(path)), path] = [-0.1, -0.1, -0.5, -0.2, -0.1, -0.3, -0.4, -0.1, -0.2, -0.1, -0.1]
    assert greedy_letters(log_probs) == [(3, 2), (5, 2), (6, 3), (9, 1), (10, 4)]
    assert greedy_text(log_probs) == "".join(CTC_LETTERS[i - 1] for i in (2, 2, 3, 1, 4)) == "aab c"


@settings(max_examples=200)
@given(st.lists(st.sampled_from("abcd")), st.lists(st.sampled_from("abcd")))
def test_compared_texts_hold_both_texts(reference, text):
    found = word_edits(" ".join(reference), " ".join(text))
    assert [one["word"] for one in found if one["edit"] != "deletion"] == text
    assert sum(one["edit"] in ("equal", "substitution", "deletion") for one in found) == len(reference)


@pytest.mark.parametrize(("log_prob", "text"), [(0.0, "100\u00a0%"), (-0.5, "61\u00a0%"), (-5.0, "0.7\u00a0%"),
                                                (-9.4, "1 in 12,000"), (-40.0, "1 in 2.4e17")])
def test_chances_in_words(log_prob, text):
    assert chance(log_prob) == text


@pytest.mark.parametrize(("nats", "words", "tick"), [(0.0, "1", "×1"), (1.13, "3.1", "×3.1"), (-0.7, "0.5", "÷2.01"),
                                                     (5.0, "150", "×148"), (9.5, "13,000", "×10⁴")])
def test_factors_in_words(nats, words, tick):
    assert factor(nats) == words
    assert times(nats) == tick


@given(st.floats(-60, 0), st.floats(0.001, 60))
def test_ticks_are_few(low, high):
    assert (high - low) / tick_step(low, high) <= 6


def test_words_that_look_like_formulas_are_drawn_as_they_are():
    texts = ["$a_{$", "<b>", "\x1b[31m", r"\g<9>"]
    words = [ScoredWord(f" {text}", i, i + 1, {}, shapley(0, 1, 1, 2)) for i, text in enumerate(texts)]
    mels, looks = {"sound": np.zeros((400, 80), np.float32)}, np.ones((4, 200), np.float32)
    with plot_style():
        figures = shares_figure(words, 4.0, sound=True, video=True), audio_figure(mels, looks, words, 4.0)
        plots = [make_plot("plot", figure) for figure in figures]
    for plot in plots:
        minidom.parseString(plot.svg)                       # XML that browsers take
        assert all(text in plot.svg for text in ("$a_{$", "&lt;b&gt;", r"\x1b[31m", r"\g&lt;9&gt;"))
