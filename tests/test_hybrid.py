"""The published networks: equal to their authors' own code, and, unlike it, indifferent to padding."""

import math

import numpy as np
import oracles
import pytest
import torch

from avsr.decode import DecodeOptions, decode
from avsr.features import standardise
from avsr.models.audio import WaveformFrontend
from avsr.models.blocks import length_mask
from avsr.models.conformer import ConformerBlock, RelativeAttention, by_key, distances
from avsr.models.hybrid import HybridAVSR, HybridDims
from avsr.rates import SAMPLES_PER_FRAME
from avsr.timing import ctc_path

NAMES = ("vsr", "asr", "av")
TOLERANCE = {"atol": 1e-4, "rtol": 0}
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
SMALL = {"width": 32, "n_heads": 4, "n_inside": 48, "n_decoder_layers": 2, "n_vocab": 20, "kernel": 7, "n_fusion": 24}
LAYERS = {"v": {"n_video_layers": 2}, "a": {"n_audio_layers": 2}, "av": {"n_video_layers": 1, "n_audio_layers": 2}}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def made(modality, **dims):
    """A small network of random weights, every one of them at work."""
    torch.manual_seed(1)
    model = HybridAVSR(HybridDims(**SMALL | LAYERS[modality] | dims)).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or "bias" in name:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model


# What the authors' own code gives

def shown(model, io, which):
    """The inputs of an oracle as `encode` takes them."""
    video, sound, frames = io.get(f"{which}.video"), io.get(f"{which}.audio"), io.get(f"{which}.frame_lengths")
    mouths = None if video is None else video[:, :, 0] * model.dims.grey_std + model.dims.grey_mean
    given = {}
    if frames is not None and mouths is not None:
        given["seen"] = length_mask(frames, mouths.shape[1])
    if frames is not None and sound is not None:
        # Of the sound alone, lengths are in samples; beside a picture, in its frames.
        given["mel_lengths"] = io["batch.lengths"] if mouths is None else frames * SAMPLES_PER_FRAME
    return model.encode(sound, mouths, **given)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", ["single0", "single1", "batch"])
def test_answers_are_the_oracles(name, which):
    """A batch's second utterance is compared with its answer alone: padding leaks into theirs (by up to 7.5 in logits)."""
    model, io = oracles.network(name), oracles.answers(name)
    memory = shown(model, io, which)
    (log_probs,) = model.ctc_log_probs(memory).values()
    found = {"encoder_out": memory.audio, "ctc_logprobs": log_probs,
             "dec_logits": model.decoder(io[f"{which}.dec_in"], model.start(memory))}
    for point, ours in found.items():
        theirs = io[f"{which}.{point}"]
        torch.testing.assert_close(ours[:1], theirs[:1], **TOLERANCE, msg=f"{name} {which} {point}")
        if which == "batch":
            alone = io[f"single1.{point}"]
            torch.testing.assert_close(ours[1:, :alone.shape[1]], alone, **TOLERANCE, msg=f"{name} {which} {point}")
            assert (theirs[1:, :alone.shape[1]] - alone).abs().max() > 0.1, "the original leaks no more: compare with it"


@pytest.mark.parametrize("name", NAMES)
def test_every_point_on_the_way_is_the_oracles(name):
    model, io, which = oracles.network(name), oracles.answers(name), "single0"
    for sense in ("video", "audio"):
        stream = getattr(model, sense)
        if stream is None:
            continue
        prefix = f"{which}.{sense}_encoder." if name == "av" else f"{which}."
        x = io[f"{which}.{sense}"] if sense == "audio" else io[f"{which}.video"][:, :, 0]
        looks = stream.frontend(x, None)
        torch.testing.assert_close(looks, io[f"{prefix}frontend_out"], **TOLERANCE)
        x = stream.project(looks)
        torch.testing.assert_close(x / model.dims.width ** 0.5, io[f"{prefix}proj_out"], **TOLERANCE)
        block = stream.blocks[0]
        for point, module, scale in (
                ("ff_macaron_out", lambda x, b=block: b.first_feed(b.first_norm(x)), 0.5),
                ("self_attn_out", lambda x, b=block: b.attention.attend(b.attention_norm(x), None), 1),
                ("conv_module_out", lambda x, b=block: b.convolution(b.convolution_norm(x), None), 1),
                ("ff_out", lambda x, b=block: b.feed(b.feed_norm(x)), 0.5)):
            out = module(x)
            torch.testing.assert_close(out, io[f"{prefix}block0.{point}"], **TOLERANCE, msg=point)
            x = x + scale * out
        torch.testing.assert_close(block.norm(x), io[f"{prefix}block0.out"], **TOLERANCE)


# The blocks, after their formulas

def test_relative_attention_is_its_formula():
    torch.manual_seed(0)
    width, heads, n = 24, 3, 7
    attention = RelativeAttention(width, heads)
    for parameter in attention.parameters():
        parameter.normal_(0, 0.3)
    x, deep = torch.randn(1, n, width), width // heads
    q, k, v = (layer(x)[0].view(n, heads, deep) for layer in (attention.query, attention.key, attention.value))
    u, w = attention.content_bias[:, 0], attention.distance_bias[:, 0]
    scores = torch.zeros(heads, n, n)
    for i in range(n):
        for j in range(n):
            angles = [(i - j) * 10_000 ** (-2 * m / width) for m in range(width // 2)]
            far = torch.tensor([wave(angle) for angle in angles for wave in (math.sin, math.cos)])
            far = (attention.distance.weight @ far).view(heads, deep)
            scores[:, i, j] = ((q[i] + u) * k[j] + (q[i] + w) * far).sum(dim=1) / math.sqrt(deep)
    wanted = attention.out(torch.einsum("hij,jhd->ihd", scores.softmax(dim=-1), v).reshape(1, n, width))
    torch.testing.assert_close(attention.attend(x, None), wanted, **CLOSE)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_scores_by_distance_become_scores_by_key(n):
    scores = torch.arange(float(n - 1), -n - 1, -1).expand(2, n, 2 * n)         # each the distance itself
    wanted = torch.arange(n)[:, None] - torch.arange(n)
    assert by_key(scores.contiguous()).equal(wanted.float().expand(2, n, n))
    assert distances(n, 8, torch.device("cpu"), torch.float32).shape == (2 * n, 8)


def test_what_inference_has_kept_a_training_can_use():
    block, x = ConformerBlock(16, 2, kernel=5), torch.randn(1, 11, 16)
    with torch.inference_mode():
        block(x, None)
    with torch.enable_grad():
        block(x, None).sum().backward()
    assert block.attention.distance.weight.grad.abs().sum() > 0


def test_a_block_does_not_see_what_is_masked():
    block = ConformerBlock(16, 2, kernel=5).eval()
    x, mask = torch.randn(2, 9, 16), length_mask(torch.tensor([9, 4]), 9)
    other = x.clone()
    other[1, 4:] = 100.0
    torch.testing.assert_close(block(x, mask)[1, :4], block(other, mask)[1, :4], **CLOSE)
    torch.testing.assert_close(block(x, mask)[1:, :4], block(x[1:, :4], None), **CLOSE)
    assert block(x, torch.zeros(2, 9, dtype=torch.bool)).isfinite().all()


# Company changes nothing

@pytest.mark.slow
@pytest.mark.parametrize("modality", ["v", "a", "av"])
def test_a_batch_of_unequal_lengths_is_each_alone(modality):
    model, frames = made(modality), torch.tensor([9, 5, 1])
    mouths = torch.rand(3, 9, 88, 88) if "v" in modality else None
    sound = torch.randn(3, 9 * SAMPLES_PER_FRAME, 1) if "a" in modality else None
    tokens = torch.randint(0, 20, (3, 6))
    given = {"mel_lengths": frames * SAMPLES_PER_FRAME} if sound is not None else {}
    given |= {"seen": length_mask(frames, 9)} if mouths is not None else {}
    memory = model.encode(sound, mouths, **given)
    logits, (log_probs,) = model.decoder(tokens, model.start(memory)), model.ctc_log_probs(memory).values()
    for i, n in enumerate(frames.tolist()):
        alone = model.encode(None if sound is None else sound[i:i + 1, :n * SAMPLES_PER_FRAME],
                             None if mouths is None else mouths[i:i + 1, :n])
        assert alone.audio_mask is None
        torch.testing.assert_close(memory.audio[i:i + 1, :n], alone.audio, **CLOSE)
        torch.testing.assert_close(log_probs[i:i + 1, :n], *model.ctc_log_probs(alone).values(), **CLOSE)
        torch.testing.assert_close(logits[i:i + 1], model.decoder(tokens[i:i + 1], model.start(alone)), **CLOSE)


def test_a_step_at_a_time_is_all_at_once():
    model = made("v")
    memory, tokens = model.encode(None, torch.rand(2, 6, 88, 88)), torch.randint(0, 20, (2, 7))
    cache, whole = model.start(memory), model.decoder(tokens, model.start(memory))
    for at in range(tokens.shape[1]):
        torch.testing.assert_close(model.step(tokens[:, at:at + 1], cache), whole[:, at], **CLOSE)


# Sound and sight of unlike length

@pytest.mark.slow
def test_sound_beside_a_picture_is_cut_or_filled_up_to_it_but_none_of_it_is_lost():
    model, mouths = made("av"), torch.rand(1, 6, 88, 88)
    sound = torch.randn(1, 6 * SAMPLES_PER_FRAME - 200, 1)
    filled = torch.cat([sound, torch.zeros(1, 200, 1)], dim=1)
    torch.testing.assert_close(model.encode(sound, mouths).audio, model.encode(filled, mouths).audio)
    longer = torch.randn(1, 8 * SAMPLES_PER_FRAME, 1)
    assert model.encode(longer, mouths).audio.shape[1] == 8
    # The face is lost after frame 3: what is said goes on being heard.
    seen = length_mask(torch.tensor([3]), 6)
    assert model.encode(filled, mouths, seen=seen).audio.shape[1] == 6


def test_lips_alone_end_with_the_last_frame_that_shows_them():
    model, mouths = made("v"), torch.rand(1, 6, 88, 88)
    seen = torch.tensor([[True, False, True, True, False, False]])
    torch.testing.assert_close(model.encode(None, mouths, seen=seen).audio, model.encode(None, mouths[:, :4]).audio)
    assert model.encode(None, mouths, seen=torch.zeros(1, 6, dtype=torch.bool)).audio.shape[1] == 1


@pytest.mark.parametrize("n_samples", [1, 639, 640, 1279])
def test_sound_alone_is_cut_to_whole_frames(n_samples):
    sound = torch.randn(1, n_samples, 1)
    assert made("a").encode(sound).audio.shape[1] == max(1, n_samples // SAMPLES_PER_FRAME)


def test_a_wave_front_gives_50_or_25_positions_a_second_and_knows_no_company():
    torch.manual_seed(0)
    front = WaveformFrontend(pool=10).eval()
    assert (front.samples, WaveformFrontend().samples) == (320, SAMPLES_PER_FRAME)
    sound, lengths = torch.randn(2, 3200, 1), torch.tensor([3200, 1000])
    together = front(sound, lengths)
    assert together.shape == (2, 10, 512)
    torch.testing.assert_close(together[1:, :3], front(sound[1:, :960], None), **CLOSE)


def test_a_waveform_is_standardised_over_the_utterance():
    sound = np.random.default_rng(0).normal(0.3, 0.05, 4000).astype(np.float32)
    out = standardise(sound)
    assert out.shape == (4000, 1)
    assert abs(out.mean()) < 1e-4
    assert out.std() == pytest.approx(1, abs=1e-3)
    assert not standardise(np.zeros(100, np.float32)).any()


# Times from CTC

def test_the_likeliest_path_is_found_by_looking_at_all_of_them():
    rng = np.random.default_rng(3)
    for text in ([1], [1, 2], [1, 1], [2, 1, 2]):
        log_probs = np.log(rng.dirichlet(np.ones(3), 6))
        scored = []
        for path in np.ndindex(*[3] * 6):
            collapsed = [token for at, token in enumerate(path) if token and (at == 0 or token != path[at - 1])]
            if collapsed == text:
                scored.append((sum(log_probs[t, token] for t, token in enumerate(path)), path))
        _, path = max(scored)
        first, last = ctc_path(log_probs, text)
        starts = [at for at, token in enumerate(path) if token and (at == 0 or token != path[at - 1])]
        ends = [at for at, token in enumerate(path) if token and (at == 5 or token != path[at + 1])]
        assert (first.tolist(), last.tolist()) == (starts, ends)


def test_a_text_with_no_path_is_spread_evenly():
    first, last = ctc_path(np.log(np.full((2, 4), 0.25)), [1, 2, 3])
    assert first.tolist() == [0, 0, 1]
    assert (last >= first).all()


def test_long_texts_have_paths_too():
    """More states than an int8 holds: a crash seen on a real clip."""
    text = [1, 2] * 100
    log_probs = np.full((400, 3), -5.0)
    log_probs[np.arange(400), [token for token in text for _ in range(2)]] = -0.01
    first, last = ctc_path(log_probs, text)
    assert first.tolist() == list(range(0, 400, 2))
    assert last.tolist() == list(range(1, 400, 2))


# On a GPU

@pytest.mark.gpu
@pytest.mark.parametrize("modality", ["v", "a", "av"])
def test_a_gpu_finds_the_same_text(modality):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")

    class Tokens:
        start = end = 19
        blank = 0

    frames = torch.tensor([12, 7])
    mouths = torch.rand(2, 12, 88, 88) if "v" in modality else None
    sound = torch.randn(2, 12 * SAMPLES_PER_FRAME, 1) if "a" in modality else None
    found = {}
    for device in ("cpu", "cuda"):
        model = made(modality).to(device)
        given = {} if sound is None else {"mel_lengths": (frames * SAMPLES_PER_FRAME).to(device)}
        given |= {} if mouths is None else {"seen": length_mask(frames, 12).to(device)}
        memory = model.encode(*(None if one is None else one.to(device) for one in (sound, mouths)), **given)
        found[device] = decode(model, Tokens, memory, [[19], [19]], options=DecodeOptions(beam_size=4, length_penalty=0.0))
    for ours, theirs in zip(found["cuda"], found["cpu"], strict=True):
        assert ours.tokens == theirs.tokens
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-2)         # TF32 in convolutions
