"""The network: equal to Whisper's, indifferent to padding and to what its closed gates hide."""

from dataclasses import asdict, replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from avsr.importers.whisper import build, rename_hugging_face
from avsr.models import video
from avsr.models.avsr import AVSR, Dims, without_video
from avsr.models.blocks import Attention, length_mask, outline, sinusoids
from avsr.models.fusion import GatedCrossAttention, ReliabilityEstimator, agreement

SMALL = Dims(width=64, n_heads=4, n_audio_layers=3, n_video_layers=1, n_fusion_layers=2, n_decoder_layers=2, n_vocab=50,
             n_context=40)
DEAF = without_video(SMALL)
TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}


def make(dims, *, gates=None, seed=0):
    """A network of random weights, every one of them at work; `gates` opens all gates so far."""
    torch.manual_seed(seed)
    model = AVSR(dims).eval()
    with torch.no_grad():
        model.decoder.positions.normal_(0, 0.1)
        for name, parameter in model.named_parameters():
            if gates is not None and name.endswith("_gate"):
                parameter.fill_(gates)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):     # as after training: not the identity
                module.running_mean.normal_(0, 0.1)
                module.bias.normal_(0, 0.1)
    return model


def mouths_of(*shape, seed=3):
    return torch.rand(*shape, 88, 88, generator=torch.Generator().manual_seed(seed))


def mel_of(*shape, seed=4):
    return torch.randn(*shape, 80, generator=torch.Generator().manual_seed(seed))


def tokens_of(*shape, seed=5):
    return torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def closed():
    return make(SMALL)


@pytest.fixture(scope="module")
def opened():
    return make(SMALL, gates=0.7)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


# Whisper itself

def hugging_face(n_mels, n_columns=None):
    """A Whisper of random weights; `n_columns` rebuilds it for that length of input, which it insists on."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=256, decoder_ffn_dim=256, num_mel_bins=n_mels, vocab_size=50, max_target_positions=40,
        max_source_positions=1500 if n_columns is None else n_columns // 2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3, suppress_tokens=None,
        begin_suppress_tokens=None, attn_implementation="eager")
    torch.manual_seed(1)
    return WhisperForConditionalGeneration(config).eval()


@pytest.mark.parametrize("n_mels", [80, 128])
def test_logits_are_whispers_at_any_length_in_one_batch(n_mels):
    lengths = [60, 200, 128]
    reference = hugging_face(n_mels)
    with torch.no_grad():
        for parameter in reference.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)      # biases and norms too
        reference.model.encoder.embed_positions.weight.copy_(sinusoids(1500, 64))
    weights = reference.state_dict()
    dims = Dims(width=64, n_heads=4, n_mels=n_mels, n_audio_layers=2, n_fusion_layers=2, n_decoder_layers=2, n_vocab=50,
                n_context=40, video_frontend=None)
    ours = build(dims, rename_hugging_face(weights), source="test")
    mel, tokens = torch.randn(3, max(lengths), n_mels), tokens_of(3, 9)
    logits = ours(tokens, mel, mel_lengths=torch.tensor(lengths))
    for i, n_columns in enumerate(lengths):
        single = hugging_face(n_mels, n_columns)
        single.load_state_dict(weights | {"model.encoder.embed_positions.weight": sinusoids(n_columns // 2, 64)})
        theirs = single(input_features=mel[i:i + 1, :n_columns].transpose(1, 2), decoder_input_ids=tokens[i:i + 1]).logits
        assert theirs.std() > 0.1, "weights too small to show anything"
        torch.testing.assert_close(logits[i:i + 1], theirs, atol=1e-3, rtol=1e-3)


def test_sinusoids_are_whispers():
    from transformers.models.whisper.modeling_whisper import sinusoids as theirs

    torch.testing.assert_close(sinusoids(1500, 384), theirs(1500, 384), atol=1e-5, rtol=0)
    torch.testing.assert_close(sinusoids(20, 64, stride=2), sinusoids(40, 64)[::2])


# Padding never changes an answer

MEL_LENGTHS, FRAMES = (15, 24), (3, 6)


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["a", "v", "av"])
def test_a_batch_of_two_is_two_batches_of_one(opened, modality):
    tokens, mel, mouths = tokens_of(2, 6), mel_of(2, 24), mouths_of(2, 6)
    seen = length_mask(torch.tensor(FRAMES), 6)
    seen[1, 2:4] = False                                    # nobody's face for a while
    both = dict(mel=mel if "a" in modality else None, mouths=mouths if "v" in modality else None)
    logits = opened(tokens, **both, mel_lengths=torch.tensor(MEL_LENGTHS) if "a" in modality else None,
                    seen=seen if "v" in modality else None)
    for i, (columns, frames) in enumerate(zip(MEL_LENGTHS, FRAMES, strict=True)):
        one = opened(tokens[i:i + 1], mel[i:i + 1, :columns] if "a" in modality else None,
                     mouths[i:i + 1, :frames] if "v" in modality else None,
                     seen=seen[i:i + 1, :frames] if "v" in modality else None)
        torch.testing.assert_close(logits[i:i + 1], one, **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("lips", ["compact", "resnet18-silu"])
@pytest.mark.parametrize("modality", ["a", "v", "av"])
def test_conformer_and_waveform_encoders_do_not_depend_on_the_batch(lips, modality):
    model = make(replace(SMALL, n_mels=0, video_frontend=lips, video_blocks="conformer"), gates=0.7)
    tokens, mouths, seen = tokens_of(2, 6), mouths_of(2, 6), length_mask(torch.tensor(FRAMES), 6)
    waves, lengths = torch.randn(2, 3840, 1, generator=torch.Generator().manual_seed(6)), torch.tensor([1920, 3840])
    seen[1, 2:4] = False
    sound, sight = "a" in modality, "v" in modality
    logits = model(tokens, waves if sound else None, mouths if sight else None, mel_lengths=lengths if sound else None,
                   seen=seen if sight else None)
    for i, (samples, frames) in enumerate(zip(lengths.tolist(), FRAMES, strict=True)):
        one = model(tokens[i:i + 1], waves[i:i + 1, :samples] if sound else None, mouths[i:i + 1, :frames] if sight else None,
                    seen=seen[i:i + 1, :frames] if sight else None)
        torch.testing.assert_close(logits[i:i + 1], one, **TOLERANCE)
    if modality == "av":                                    # who has no sound, or nothing to be seen, in a batch that has
        deaf = model(tokens, waves, mouths, mel_lengths=torch.tensor([0, 3840]), seen=seen)
        torch.testing.assert_close(deaf[:1], model(tokens[:1], None, mouths[:1, :3]), **TOLERANCE)


def test_what_lies_in_the_padding_is_not_looked_at(opened):
    tokens, mel, mouths, seen = tokens_of(1, 4), mel_of(1, 24), mouths_of(1, 4), torch.ones(1, 4, dtype=torch.bool)
    lengths, seen[0, 2] = torch.tensor([15]), False
    logits = opened(tokens, mel, mouths, mel_lengths=lengths, seen=seen)
    mel[:, 15:], mouths[0, 2] = 1e4, 77.0
    assert torch.equal(opened(tokens, mel, mouths, mel_lengths=lengths, seen=seen), logits)


@pytest.mark.slow
def test_without_video_in_a_batch_with_video_it_is_sound_alone(opened):
    tokens, mel, mouths = tokens_of(2, 6), mel_of(2, 12), mouths_of(2, 3)
    seen = torch.tensor([[True] * 3, [False] * 3])
    logits = opened(tokens, mel, mouths, seen=seen)
    torch.testing.assert_close(logits[1:], opened(tokens[1:], mel[1:]), **TOLERANCE)
    assert not torch.allclose(logits[:1], opened(tokens[:1], mel[:1]), atol=1e-3)


def test_without_sound_in_a_batch_with_sound_it_is_sight_alone(opened):
    tokens, mel, mouths = tokens_of(2, 6), mel_of(2, 12), mouths_of(2, 3)
    logits = opened(tokens, mel, mouths, mel_lengths=torch.tensor([12, 0]))
    torch.testing.assert_close(logits[1:], opened(tokens[1:], None, mouths[1:]), **TOLERANCE)


def test_nothing_at_all_still_gives_finite_numbers(opened):
    logits = opened(tokens_of(1, 3), mel_of(1, 10), mouths_of(1, 3), mel_lengths=torch.tensor([0]),
                    seen=torch.zeros(1, 3, dtype=torch.bool))
    assert logits.isfinite().all()


# Gates

def test_closed_gates_give_whispers_answer_to_the_last_bit(closed):
    tokens, mel, mouths = tokens_of(2, 6), mel_of(2, 20), mouths_of(2, 4)
    seen = torch.ones(2, 4, dtype=torch.bool)
    seen[0, 1:3] = False
    assert set(closed.gates.values()) == {0.0}
    assert torch.equal(closed(tokens, mel, mouths, seen=seen), closed(tokens, mel))
    deaf = AVSR(DEAF).eval()
    deaf.load_state_dict({name: value for name, value in closed.state_dict().items() if name in deaf.state_dict()})
    assert torch.equal(deaf(tokens, mel), closed(tokens, mel))


@pytest.mark.slow
def test_every_gate_lets_video_in(closed):
    tokens, mel, mouths = tokens_of(1, 4), mel_of(1, 10), mouths_of(1, 2)
    silent, seen_alone = closed(tokens, mel), closed.encode(None, mouths).video
    gates = {name: parameter for name, parameter in closed.named_parameters() if name.endswith("_gate")}
    assert len(gates) == 2 * (2 * SMALL.n_fusion_layers + SMALL.n_decoder_layers)
    for name, gate in gates.items():
        gate.fill_(1.0)
        assert closed.gates[name] == pytest.approx(0.7616, abs=1e-4)
        if "into_video" in name:                            # reaches the text through the video memory only
            assert not torch.allclose(closed.encode(mel, mouths).video, seen_alone, atol=1e-4), name
        else:
            assert not torch.allclose(closed(tokens, mel, mouths), silent, atol=1e-5), name
        assert torch.equal(closed(tokens, mel), silent)     # without video no gate matters
        gate.fill_(0.0)


@torch.enable_grad()
def test_gradients_reach_the_video_encoder_once_the_gates_are_open():
    mel, mouths, tokens = mel_of(1, 8), mouths_of(1, 2), tokens_of(1, 3)
    model = make(SMALL)
    model(tokens, mel, mouths).square().sum().backward()
    gates = {name: p.grad for name, p in model.named_parameters() if name.endswith("_gate")}
    assert all(grad.abs() > 0 for name, grad in gates.items() if "into_video" not in name)     # closed gates can open
    assert model.audio.conv1.weight.grad.abs().sum() > 0
    assert model.video.frontend.conv[0].weight.grad.abs().sum() == 0           # and until then the lips are left alone
    model = make(SMALL, gates=0.5)
    model(tokens, mel, mouths).square().sum().backward()
    assert model.video.frontend.conv[0].weight.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in model.named_parameters()
               if not name.startswith("ctc") and not name.endswith("key.weight"))


# Step by step

@pytest.mark.parametrize("strides", [(1,) * 7, (3, 1, 2, 1), (1, 6)])
def test_step_by_step_is_teacher_forcing(opened, strides):
    tokens, memory = tokens_of(2, 7), opened.encode(mel_of(2, 12), mouths_of(2, 3))
    whole, cache, at = opened.decoder(tokens, opened.start(memory)), opened.start(memory), 0
    for stride in strides:
        logits = opened.step(tokens[:, at:at + stride], cache)
        at += stride
        assert cache.n_tokens == at
        torch.testing.assert_close(logits, whole[:, at - 1], **TOLERANCE)


def test_hypotheses_share_a_memory_as_if_it_were_repeated(opened):
    tokens = tokens_of(6, 5)
    mel, mouths, lengths = mel_of(2, 12), mouths_of(2, 3), torch.tensor([8, 12])
    seen = length_mask(torch.tensor([2, 3]), 3)
    folded = opened.start(opened.encode(mel, mouths, mel_lengths=lengths, seen=seen))
    repeated = opened.start(opened.encode(mel, mouths, mel_lengths=lengths, seen=seen).select(torch.tensor([0, 0, 0, 1, 1, 1])))
    for piece in (tokens[:, :3], tokens[:, 3:4], tokens[:, 4:]):
        torch.testing.assert_close(opened.step(piece, folded), opened.step(piece, repeated), **TOLERANCE)


def test_selecting_rows_and_utterances_is_having_begun_with_them(opened):
    tokens = tokens_of(6, 5)
    mel, mouths = mel_of(3, 12), mouths_of(3, 3)
    memory = opened.encode(mel, mouths, mel_lengths=torch.tensor([12, 7, 10]), seen=length_mask(torch.tensor([3, 1, 2]), 3))
    cache = opened.start(memory)
    opened.step(tokens[:, :4], cache)
    rows, kept = torch.tensor([5, 5, 1, 0]), torch.tensor([2, 0])       # utterance 1 is done; 2 goes on before 0
    cache.select_rows(rows)
    cache.select_utterances(kept)
    fresh = opened.start(memory.select(kept))
    opened.step(tokens[rows, :4], fresh)
    torch.testing.assert_close(opened.step(tokens[:4, 4:], cache), opened.step(tokens[:4, 4:], fresh), **TOLERANCE)


def test_more_tokens_than_positions_are_refused(opened):
    with pytest.raises(AssertionError, match="41 tokens, room for 40"):
        opened(tokens_of(1, 41), mel_of(1, 10))


# Heads, front end, blocks

def test_ctc_heads(opened):
    heads = opened.ctc_log_probs(opened.encode(mel_of(2, 24), mouths_of(2, 3)))
    assert {name: tuple(x.shape) for name, x in heads.items()} == {
        "audio": (2, 12, 29), "video": (2, 6, 29), "fused": (2, 6, 29)}
    for log_probs in heads.values():
        torch.testing.assert_close(log_probs.exp().sum(dim=-1), torch.ones(log_probs.shape[:2]))
    assert set(opened.ctc_log_probs(opened.encode(mel_of(1, 20)))) == {"audio"}
    assert set(opened.ctc_log_probs(opened.encode(None, mouths_of(1, 2)))) == {"video"}


@pytest.mark.parametrize("lips", ["resnet18", "compact"])
def test_the_front_end_in_stretches_is_the_whole(lips, monkeypatch):
    front = make(replace(SMALL, video_frontend=lips)).video.frontend
    mouths, seen = mouths_of(2, 5), length_mask(torch.tensor([5, 3]), 5)
    if lips == "resnet18":
        mouths = mouths * seen[:, :, None, None]            # as VideoEncoder gives them
    with torch.enable_grad():
        whole = front(mouths, seen).detach()
    for n_frames in (128, 3, 1):
        monkeypatch.setattr(video, "FRAMES_AT_ONCE", n_frames)
        torch.testing.assert_close(front(mouths, seen), whole, **TOLERANCE)


# The compact frontend, blocks of their own width, the reliability estimator

COMPACT = replace(SMALL, video_frontend="compact", video_width=32, n_reliability=16)


@pytest.fixture(scope="module")
def compact():
    return make(COMPACT, gates=0.7)


def test_the_compact_frontend_is_cheap():
    """At most 0.3 GMAC for a clip of 3 s: a laptop's share. The counter counts a multiplication and an addition apart."""
    front = make(COMPACT).video.frontend
    mouths, seen = mouths_of(1, 75), torch.ones(1, 75, dtype=torch.bool)
    with FlopCounterMode(display=False) as counter:
        front(mouths, seen)
    assert 0.1e9 < counter.get_total_flops() / 2 < 0.3e9


def test_the_compact_frontend_does_not_depend_on_the_batch(compact):
    tokens, mel, mouths, frames = tokens_of(2, 6), mel_of(2, 24), mouths_of(2, 6), (3, 6)
    seen = length_mask(torch.tensor(frames), 6)
    seen[1, 2:4] = False
    both = compact(tokens, mel, mouths, mel_lengths=torch.tensor([12, 24]), seen=seen)
    for i, n in enumerate(frames):
        one = compact(tokens[i:i + 1], mel[i:i + 1, :4 * n], mouths[i:i + 1, :n], seen=seen[i:i + 1, :n])
        torch.testing.assert_close(both[i:i + 1], one, **TOLERANCE)


def test_the_compact_frontend_ignores_frames_without_a_face(compact):
    mouths, seen = mouths_of(1, 6), torch.tensor([[True, True, False, True, True, False]])
    before = compact.encode(None, mouths, seen=seen).video
    mouths[0, 2], mouths[0, 5] = 9.0, -5.0
    after = compact.encode(None, mouths, seen=seen).video
    places = seen.repeat_interleave(2, dim=1)
    assert torch.equal(after[places], before[places])
    mouths[0, 1] = 0.0
    assert not torch.allclose(compact.encode(None, mouths, seen=seen).video[places], before[places], atol=1e-3)


def test_the_compact_frontend_depends_on_motion(compact):
    """The same picture in other company looks otherwise: differences of frames go in."""
    still = mouths_of(1, 1).expand(1, 3, 88, 88)
    moving = still.clone()
    moving[0, 2] = 1 - moving[0, 2]
    seen = torch.ones(1, 3, dtype=torch.bool)
    one, other = (compact.video.frontend(x, seen)[0, 1] for x in (still, moving))
    assert not torch.allclose(one, other, atol=1e-3)


def test_video_blocks_may_have_a_width_of_their_own(compact):
    assert compact.video.project.out_features == 32
    assert compact.video.blocks[0].attention.query.in_features == 32
    assert compact.video.lift.weight.shape == (64, 32)
    assert compact.encode(None, mouths_of(1, 2)).video.shape == (1, 4, 64)
    assert isinstance(make(SMALL).video.lift, torch.nn.Identity)


def with_reliability(model, logit):
    """The same network, with a reliability estimator that always gives this logit."""
    torch.nn.init.zeros_(model.reliability.classifier[-1].weight)
    torch.nn.init.constant_(model.reliability.classifier[-1].bias, logit)
    return model


def test_unreliable_video_changes_nothing_at_all():
    tokens, mel, mouths = tokens_of(2, 6), mel_of(2, 12), mouths_of(2, 3)
    model = with_reliability(make(COMPACT, gates=0.7), -9.0)
    memory = model.encode(mel, mouths)
    assert memory.reliability.tolist() == [0.0, 0.0]
    assert torch.equal(model.decoder(tokens, model.start(memory)), model(tokens, mel))
    reliable = with_reliability(model, 9.0)(tokens, mel, mouths)
    assert not torch.allclose(reliable, model(tokens, mel), atol=1e-3)
    without = AVSR(replace(COMPACT, n_reliability=0)).eval()
    without.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith("reliability.")})
    assert torch.equal(reliable, without(tokens, mel, mouths)), "full reliability is as no estimator"


def test_reliability_is_per_utterance_and_is_selected_with_it(compact):
    tokens, mel, mouths = tokens_of(3, 5), mel_of(3, 12), mouths_of(3, 3)
    memory = compact.encode(mel, mouths)
    mixed = replace(memory, reliability=torch.tensor([0.0, 1.0, 0.5]))
    logits = compact.decoder(tokens, compact.start(mixed))
    for i in range(3):
        one = mixed.select(torch.tensor([i]))
        torch.testing.assert_close(logits[i:i + 1], compact.decoder(tokens[i:i + 1], compact.start(one)), **TOLERANCE)
    cache = compact.start(mixed)
    cache.select_utterances(torch.tensor([2, 0]))
    assert cache.reliability.tolist() == [0.5, 0.0]


def test_agreement_is_found_at_any_lag_up_to_the_longest():
    heard = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 40, dtype=torch.bool)
    for lag in (-10, -4, 0, 6, 10):
        agree = agreement(heard, heard.roll(lag, dims=1), None, mask, ReliabilityEstimator.lags())
        torch.testing.assert_close(agree, torch.ones(2))
    assert (agreement(heard, heard.roll(20, dims=1), None, mask, ReliabilityEstimator.lags()) < 0.5).all()
    half = mask.clone()
    half[1, 20:] = False
    spoilt = heard.clone()
    spoilt[1, 20:] = 7.0
    torch.testing.assert_close(agreement(heard, spoilt, None, half, ReliabilityEstimator.lags()), torch.ones(2))


def test_video_without_audio_has_no_reliability(compact, opened):
    assert compact.encode(None, mouths_of(1, 2)).reliability is None
    assert compact.encode(mel_of(1, 8)).reliability is None
    assert opened.encode(mel_of(1, 8), mouths_of(1, 2)).reliability is None
    memory = compact.encode(mel_of(1, 8), mouths_of(1, 2))
    torch.testing.assert_close(memory.reliability, (2 * memory.reliability_logits.sigmoid() - 0.5).clamp(0, 1))


def test_what_was_listened_to_before_is_not_heard_again(opened):
    tokens, mel, mouths, lengths = tokens_of(2, 4), mel_of(2, 24), mouths_of(2, 6), torch.tensor([15, 24])
    states = opened.encode_audio(mel, lengths)
    for look in (mouths, None):
        kept = opened.encode(None, look, mel_lengths=lengths, audio_states=states)
        fresh = opened.encode(mel, look, mel_lengths=lengths)
        assert torch.equal(opened.decoder(tokens, opened.start(kept)), opened.decoder(tokens, opened.start(fresh)))


@torch.enable_grad()
def test_attention_with_nothing_to_look_at_gives_zeros():
    attention, x = Attention(16, 2), torch.randn(2, 3, 16, requires_grad=True)
    keys, values = attention.keys_values(torch.randn(2, 5, 16))
    mask = torch.tensor([[[[True, True, False, False, False]]], [[[False] * 5]]])
    out = attention(x, keys, values, mask)
    assert out[0].abs().sum() > 0
    assert torch.equal(out[1], torch.zeros(3, 16))
    out.sum().backward()
    assert x.grad.isfinite().all()


def test_attention_weights_are_those_it_uses():
    attention, x, other = Attention(16, 2), torch.randn(1, 3, 16), torch.randn(1, 5, 16)
    keys, values = attention.keys_values(other)
    mixed = attention.weights(x, keys).softmax(dim=-1) @ values             # (1, H, L, D / H)
    torch.testing.assert_close(attention.out(mixed.transpose(1, 2).flatten(2)), attention(x, keys, values))


def test_a_closed_gate_stays_closed_for_any_input():
    block = GatedCrossAttention(16, 2)
    x = torch.randn(2, 3, 16) * 100
    keys, values = block.attention.keys_values(torch.randn(2, 5, 16) * 100)
    assert torch.equal(block(x, keys, values, torch.ones(2, 5, dtype=torch.bool)), x)


def test_the_same_dims_and_weights_are_the_same_network(opened):
    again = AVSR(Dims(**asdict(opened.dims))).eval()
    again.load_state_dict(opened.state_dict())
    inputs = tokens_of(1, 4), mel_of(1, 8), mouths_of(1, 2)
    assert torch.equal(again(*inputs), opened(*inputs))


def test_wrong_use_is_refused(closed):
    with pytest.raises(AssertionError, match="neither audio nor video"):
        closed.encode(None)
    with pytest.raises(AssertionError, match="no video encoder"):
        AVSR(DEAF).encode(None, mouths_of(1, 2))
    with pytest.raises(ValueError, match="2 fusion layers among 1 audio layers"):
        Dims(n_audio_layers=1, n_fusion_layers=2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_gives_the_same_answer(opened, dtype):
    tokens, mel, mouths = tokens_of(2, 6), mel_of(2, 24), mouths_of(2, 6)
    lengths, seen = torch.tensor(MEL_LENGTHS), length_mask(torch.tensor(FRAMES), 6)
    here = opened(tokens, mel, mouths, mel_lengths=lengths, seen=seen)
    there = make(SMALL, gates=0.7).to("cuda", dtype)
    logits = there(tokens.cuda(), mel.to("cuda", dtype), mouths.to("cuda", dtype), mel_lengths=lengths.cuda(), seen=seen.cuda())
    close = {"atol": 5e-3, "rtol": 5e-3} if dtype == torch.float32 else {"atol": 0.2, "rtol": 0.1}
    torch.testing.assert_close(logits.cpu(), here, **close)


def test_an_outline_filled_with_weights_is_the_network():
    torch.manual_seed(0)
    made, empty = AVSR(COMPACT).eval(), outline(AVSR, COMPACT).eval()
    assert empty.state_dict().keys() == made.state_dict().keys()
    empty.load_state_dict(made.state_dict(), assign=True)
    for name, tensor in made.state_dict().items():
        assert torch.equal(empty.state_dict()[name], tensor), name
    assert all(parameter.requires_grad for parameter in empty.parameters())


def test_the_weights_of_an_outline_are_not_drawn(monkeypatch):
    drawn = []
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, *_, **__: drawn.append(self) or self)
    monkeypatch.setattr(torch.Tensor, "normal_", lambda self, *_, **__: drawn.append(self) or self)
    outline(AVSR, COMPACT)
    assert not drawn
    AVSR(COMPACT)
    assert drawn
