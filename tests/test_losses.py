"""Losses: each against a calculation of its own, none of them changed by padding; the reliability closes the gates."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from avsr.batch import IGNORE, collate
from avsr.config import LossConfig
from avsr.dataset import NO_LABEL, Example
from avsr.losses import LossModule, ctc_per_letter, memory_lengths
from avsr.models.avsr import AVSR, Dims
from avsr.models.fusion import ReliabilityEstimator

DIMS = Dims(width=32, n_heads=2, n_audio_layers=2, n_video_layers=1, n_fusion_layers=1, n_decoder_layers=1, n_vocab=40,
            n_context=20, video_frontend="compact", n_reliability=8)
NONE = LossConfig(attention=0, ctc_audio=0, ctc_video=0, ctc_fused=0, frames=0, reliability=0)
ALL = LossConfig(reliability=0.5)
N_LABELS = 4


def example(name, n_frames, tokens, *, modality="av", reliable=True, unseen=(), seed=0):
    rng = np.random.default_rng(seed)
    seen = np.ones(n_frames, bool)
    seen[list(unseen)] = False
    labels = rng.integers(0, N_LABELS, n_frames)
    labels[0] = NO_LABEL
    mel, mouths = rng.normal(size=(4 * n_frames, 80)).astype(np.float32), rng.integers(0, 256, (n_frames, 88, 88), np.uint8)
    mel = mel if "a" in modality else None
    mouths, seen = (mouths, seen) if "v" in modality else (None, None)
    return Example(name, mel, mouths, seen, tokens, [token % 28 + 1 for token in tokens], labels, reliable)


def batch_of(*examples, pad=None):
    return collate(examples, [30, 31], 29, pad)


def loss_module(config, dims=DIMS):
    torch.manual_seed(0)
    made = LossModule(AVSR(dims), config, N_LABELS).eval()
    for name, parameter in made.named_parameters():
        if name.endswith("_gate"):
            torch.nn.init.constant_(parameter, 0.7)
    return made


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


ONE, TWO = example("one", 8, [1, 2, 3], seed=1, unseen=[3]), example("two", 5, [4, 4], seed=2)


def memory_of(made, batch):
    return made.model.encode(batch.mel, None if batch.mouths is None else batch.mouths / 255, mel_lengths=batch.mel_lengths,
                             seen=batch.seen)


def smoothed(log_probs, target, smoothing):
    """Of one position: the share of `smoothing` goes evenly to all classes."""
    return -((1 - smoothing) * log_probs[target] + smoothing * log_probs.mean())


def test_attention_is_smoothed_cross_entropy_of_every_token_and_the_end():
    made, batch = loss_module(replace(NONE, attention=2.0, smoothing=0.1)), batch_of(ONE, TWO)
    losses = made(batch)
    memory = replace(memory_of(made, batch), reliability=None)
    log_probs = made.model.decoder(batch.tokens, made.model.start(memory)).log_softmax(-1)
    said = [[None, 1, 2, 3, 29], [None, 4, 4, 29]]                      # after the second token of the prompt
    terms = [smoothed(log_probs[i, place], token, 0.1)
             for i, tokens in enumerate(said) for place, token in enumerate(tokens) if token is not None]
    assert len(terms) == 7 == (batch.targets != IGNORE).sum()
    torch.testing.assert_close(losses.parts["attention"], torch.stack(terms).mean())
    torch.testing.assert_close(losses.total, 2 * torch.stack(terms).mean())
    assert set(losses.parts) == {"attention"}


@pytest.mark.parametrize("name", ["audio", "video", "fused"])
def test_ctc_is_torchs_of_each_alone(name):
    made, batch = loss_module(replace(NONE, **{f"ctc_{name}": 1.0})), batch_of(ONE, TWO)
    log_probs = made.model.ctc_log_probs(memory_of(made, batch))[name]
    alone = [F.ctc_loss(log_probs[i, :2 * n], torch.tensor([one.classes]), torch.tensor([2 * n]),
                        torch.tensor([len(one.classes)]), reduction="sum") / len(one.classes)
             for i, (one, n) in enumerate(((ONE, 8), (TWO, 5)))]
    losses = made(batch)
    torch.testing.assert_close(losses.parts[f"ctc_{name}"], torch.stack(alone).mean())
    assert set(losses.parts) == {f"ctc_{name}"}


def test_ctc_of_short_texts_by_hand():
    """Two positions, one letter: blank-letter, letter-blank, letter-letter."""
    log_probs = torch.randn(1, 2, 29).log_softmax(-1)
    batch = batch_of(example("x", 1, [4]))
    p = log_probs[0].exp()
    want = -(p[0, 0] * p[1, 5] + p[0, 5] * p[1, 0] + p[0, 5] * p[1, 5]).log()
    torch.testing.assert_close(ctc_per_letter(log_probs, torch.tensor([2]), batch), want[None])


def test_a_text_too_long_for_its_frames_teaches_nothing_and_is_not_readable():
    batch = batch_of(example("x", 1, [4, 4, 5]), ONE)
    log_probs = torch.randn(2, 16, 29).log_softmax(-1)
    made = loss_module(replace(NONE, reliability=1.0, readable_loss=1e9))          # whatever can be read at all is reliable
    lengths = memory_lengths("video", batch, 16, made.model)
    assert lengths.tolist() == [2, 16]
    assert ctc_per_letter(log_probs, lengths, batch)[0] == 0
    assert ctc_per_letter(log_probs, lengths, batch, impossible=torch.inf)[0] == torch.inf
    logits = memory_of(made, batch).reliability_logits
    want = F.binary_cross_entropy_with_logits(logits, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(made(batch).parts["reliability"], want)


@torch.enable_grad()
def test_gradients_stay_numbers_where_a_text_is_too_long():
    made = loss_module(ALL)
    made(batch_of(example("x", 1, [4, 4, 5]), ONE)).total.backward()
    assert all(parameter.grad.isfinite().all() for parameter in made.parameters() if parameter.grad is not None)


def test_frame_labels_ignore_missing_faces_and_mismatched_mouths():
    stranger = example("stranger", 6, [5], seed=3, reliable=False)
    made, batch = loss_module(replace(NONE, frames=1.0, smoothing=0.2)), batch_of(ONE, TWO, stranger)
    parts, memory = made(batch).parts, memory_of(made, batch)
    terms = {"audio": [], "video": []}
    for name, states in (("audio", memory.audio), ("video", memory.unfused_video)):
        log_probs = made.labels[name](states[:, ::2]).log_softmax(-1)
        for i, one in enumerate((ONE, TWO, stranger)):
            for t, label in enumerate(one.labels):
                if label != NO_LABEL and (name == "audio" or (one.seen[t] and one.reliable)):
                    terms[name].append(smoothed(log_probs[i, t], label, 0.2))
    assert (len(terms["audio"]), len(terms["video"])) == (7 + 4 + 5, 6 + 4)
    for name, some in terms.items():
        torch.testing.assert_close(parts[f"frames_{name}"], torch.stack(some).mean())
    assert set(parts) == {"frames_audio", "frames_video"}


def test_a_mismatched_mouth_has_no_ctc_loss():
    """Attention, and CTC of what is seen, leave the stranger out; what is heard is heard all the same."""
    stranger = replace(ONE, id="stranger", reliable=False)
    made = loss_module(LossConfig(frames=0))
    both, alone, strange = (made(batch_of(*some)).parts for some in ((TWO, stranger), (TWO,), (stranger,)))
    for name in ("attention", "ctc_video", "ctc_fused"):
        torch.testing.assert_close(both[name], alone[name], msg=name)
    torch.testing.assert_close(both["ctc_audio"], (alone["ctc_audio"] + strange["ctc_audio"]) / 2)
    assert strange["attention"] == 0
    assert "ctc_video" not in strange


@pytest.mark.parametrize("modality", ["av", "a", "v"])
@pytest.mark.parametrize("pad", [None, 60])
def test_padding_changes_no_loss(modality, pad):
    """CTC, and the reliability's, are means over utterances; the others over frames and tokens."""
    one, two = (example(str(n), n, tokens, modality=modality, seed=n, unseen=[1])
                for n, tokens in ((11, [1, 2, 3]), (6, [4, 5])))
    made = loss_module(replace(ALL, readable_loss=1e9))
    both, *alone = (made(batch_of(*some, pad=pad)).parts for some in ((one, two), (one,), (two,)))
    wanted = {"av": {"reliability", "frames_audio", "frames_video", "ctc_audio", "ctc_video", "ctc_fused"},
              "a": {"frames_audio", "ctc_audio"}, "v": {"frames_video", "ctc_video"}}[modality] | {"attention"}
    assert set(both) == wanted
    for name in wanted:
        if name == "attention":
            weights = [4, 3]
        elif name.startswith("frames"):
            weights = [10 - (name == "frames_video"), 5 - (name == "frames_video")]
        else:
            weights = [1, 1]
        mean = sum(w * parts[name] for w, parts in zip(weights, alone, strict=True)) / sum(weights)
        torch.testing.assert_close(both[name], mean, atol=1e-4, rtol=1e-4, msg=name)


def test_reliability_targets_are_matching_readable_mouths():
    stranger = replace(TWO, id="stranger", reliable=False)
    batch = batch_of(ONE, TWO, stranger)
    made = loss_module(replace(NONE, reliability=3.0))
    memory = memory_of(made, batch)
    log_probs = made.model.ctc["video"](memory.unfused_video).log_softmax(-1)
    per_letter = ctc_per_letter(log_probs, memory_lengths("video", batch, 16, made.model), batch)
    assert per_letter[1] != per_letter[0]
    limit = per_letter[:2].mean().item()                                # one of the two can be read
    made.config = replace(made.config, readable_loss=limit)
    target = torch.tensor([float(per_letter[0] < limit), float(per_letter[1] < limit), 0.0])
    assert target.sum() == 1
    losses = made(batch)
    wanted = F.binary_cross_entropy_with_logits(memory.reliability_logits, target)
    torch.testing.assert_close(losses.parts["reliability"], wanted)
    torch.testing.assert_close(losses.total, 3 * losses.parts["reliability"])
    assert "reliability" not in made(batch_of(replace(ONE, mel=None))).parts, "nothing to compare the lips with"


def test_a_clear_no_closes_the_look():
    assert ReliabilityEstimator.degree(torch.tensor([-9.0, -2.5, 0.0, 2.5, 9.0])).tolist() == [0, 0, 0.5, 1, 1]
    made, batch = loss_module(NONE).model, batch_of(ONE, TWO)
    for logit, same in ((-20.0, True), (20.0, False)):
        torch.nn.init.zeros_(made.reliability.classifier[-1].weight)
        torch.nn.init.constant_(made.reliability.classifier[-1].bias, logit)
        logits = made(batch.tokens, batch.mel, batch.mouths / 255, mel_lengths=batch.mel_lengths, seen=batch.seen)
        alone = made(batch.tokens, batch.mel, mel_lengths=batch.mel_lengths)
        assert torch.equal(logits, alone) is same


@torch.enable_grad()
def test_where_only_frozen_parts_have_a_say_the_gradient_is_nothing():
    made = loss_module(replace(NONE, attention=1.0)).requires_grad_(False)
    made.labels.requires_grad_(True)
    made(batch_of(ONE)).total.backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in made.parameters())


def test_with_no_loss_at_all_it_is_nothing():
    losses = loss_module(NONE)(batch_of(ONE))
    assert losses.parts == {}
    assert losses.total == 0
