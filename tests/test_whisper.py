"""Published weights: what another program makes of the same file is what ours makes of it."""

import json
import re
import shutil

import made_hostile
import numpy as np
import pytest
import torch

from avsr import checkpoint
from avsr.checkpoint import Checkpoint
from avsr.decode import BeamSearch, DecodeOptions, DecoderScorer, SuppressTokens, search
from avsr.errors import BadCheckpoint
from avsr.features import log_mel
from avsr.importers.ctranslate2 import read_ctranslate2
from avsr.importers.whisper import load_folder
from avsr.rates import SEGMENT_SAMPLES
from avsr.tensorfiles import read_safetensors


@pytest.fixture(scope="module")
def theirs(tiny_en_folder):
    from faster_whisper import WhisperModel

    return WhisperModel(str(tiny_en_folder), device="cpu", compute_type="float32", cpu_threads=1)


@pytest.fixture(scope="module")
def mel(hello):
    return torch.from_numpy(log_mel(hello, n_samples=SEGMENT_SAMPLES))[None]


@pytest.fixture(scope="module")
def memory(tiny_en, mel):
    with torch.inference_mode():
        return tiny_en.model.encode(mel)


def test_tiny_en_is_what_it_should_be(tiny_en):
    dims = tiny_en.model.dims
    assert (dims.width, dims.n_heads, dims.n_mels, dims.n_audio_layers, dims.n_decoder_layers) == (384, 6, 80, 4, 4)
    assert (dims.n_vocab, dims.n_context, dims.video_frontend) == (51_864, 448, None)
    assert tiny_en.alignment_heads == ((1, 0), (2, 0), (2, 5), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4))
    assert tiny_en.suppress_begin == (220, 50_256)
    assert len(tiny_en.suppress) == 90
    assert tiny_en.languages == ("en",)
    assert not tiny_en.video_trained


@pytest.mark.slow
def test_the_encoder_is_ctranslate2s(tiny_en, memory, mel, theirs, tiny_en_folder, monkeypatch):
    reference = torch.from_numpy(np.array(theirs.encode(mel[0].T.contiguous().numpy())))
    assert reference.shape == memory.audio.shape == (1, 1500, 384)
    assert (memory.audio - reference).abs().mean() < 1e-3
    # Its file holds the sinusoids rounded to half precision, ours are exact; with the same ones nothing differs.
    packaged = read_ctranslate2(tiny_en_folder / "model.bin")
    rounded = torch.from_numpy(packaged["encoder/position_encodings/encodings"].astype(np.float32))
    monkeypatch.setattr("avsr.models.audio.sinusoids", lambda length, width, device: rounded[:length])
    with torch.inference_mode():
        torch.testing.assert_close(tiny_en.model.encode(mel).audio, reference, atol=1e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("clip", ["hello", "wild/sadtalker__RD_Radio34_000.mp4"])
def test_greedy_tokens_are_ctranslate2s(tiny_en, theirs, clip, request):
    from avsr import media

    audio = request.getfixturevalue("hello") if clip == "hello" else media.read(
        request.getfixturevalue("real_data") / clip, want_video=False).audio
    mel, tokenizer = torch.from_numpy(log_mel(audio, n_samples=SEGMENT_SAMPLES))[None], tiny_en.tokenizer
    prompt = tokenizer.prompt("en")
    result = theirs.model.generate(theirs.encode(mel[0].T.contiguous().numpy()), [prompt], beam_size=1,
                                   return_scores=True, return_no_speech_prob=True, suppress_tokens=list(tiny_en.suppress))[0]
    with torch.inference_mode():
        scorer = DecoderScorer(tiny_en.model, tiny_en.model.encode(mel), no_speech_token=tokenizer.no_speech,
                               start_token=tokenizer.start)
        filters = [SuppressTokens(tiny_en.suppress, tiny_en.suppress_begin, len(prompt))]
        (tokens, logprob), = search([scorer], torch.tensor([prompt]), BeamSearch(1, DecodeOptions(beam_size=1), tokenizer.end),
                                    filters=filters)
    assert list(tokens) == result.sequences_ids[0]
    assert scorer.no_speech.item() == pytest.approx(result.no_speech_prob, abs=1e-3)
    assert len(tokens) > 3
    assert logprob / len(tokens) == pytest.approx(result.scores[0], abs=0.02)


# A folder in Hugging Face's layout

@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_en_folder):
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(
        d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=128, decoder_ffn_dim=128, vocab_size=51_864, max_target_positions=30))
    model.generation_config.suppress_tokens, model.generation_config.begin_suppress_tokens = [1, 2], [220]
    model.generation_config.alignment_heads = [[1, 0], [1, 1]]
    path = tmp_path_factory.mktemp("whisper") / "ours"
    model.save_pretrained(path)
    shutil.copyfile(tiny_en_folder / "tokenizer.json", path / "tokenizer.json")
    return path


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_a_hugging_face_folder_gives_its_logits(folder, mel):
    from transformers import WhisperForConditionalGeneration

    loaded = checkpoint.load(folder, lips=False)
    assert isinstance(loaded, Checkpoint)
    assert (loaded.suppress, loaded.suppress_begin, loaded.alignment_heads) == ((1, 2), (220,), ((1, 0), (1, 1)))
    assert loaded.model.dims.n_context == 30
    tokens = torch.tensor([[50_257, 50_362, 15, 16, 17]])
    with torch.no_grad():
        reference = WhisperForConditionalGeneration.from_pretrained(folder).eval()
        theirs = reference(input_features=mel.transpose(1, 2), decoder_input_ids=tokens).logits
        torch.testing.assert_close(loaded.model(tokens, mel), theirs, atol=1e-3, rtol=1e-3)


def test_weights_in_shards_and_half_precision(folder, copy):
    from safetensors.torch import load_file, save_file

    weights = {name: tensor.half() for name, tensor in load_file(copy / "model.safetensors").items()}
    (copy / "model.safetensors").unlink()
    names = sorted(weights)
    for i, part in enumerate((names[::2], names[1::2])):
        save_file({name: weights[name] for name in part}, copy / f"model-0000{i + 1}-of-00002.safetensors")
    whole, parts = (load_folder(path)[0].state_dict() for path in (folder, copy))
    for name, tensor in whole.items():
        if not name.startswith("ctc"):                      # new, and so random, in both
            assert parts[name].dtype == torch.float32
            torch.testing.assert_close(parts[name], tensor, atol=1e-3, rtol=1e-3)


def test_a_folder_without_generation_config_goes_by_config_json(copy):
    (copy / "generation_config.json").unlink()
    edit(copy / "config.json", suppress_tokens=[5], begin_suppress_tokens=[6])
    loaded = checkpoint.load(copy, lips=False)
    assert (loaded.suppress, loaded.suppress_begin, loaded.alignment_heads) == ((5,), (6,), ())


def test_weights_of_another_precision_beside_them_are_left_alone(copy):
    """As in the hub's large-v3, which holds model.fp32-00001-of-00002.safetensors beside model.safetensors."""
    for name in ("model.fp32-00001-of-00002.safetensors", "model.fp16.safetensors", "model-00001-of-00002.safetensors"):
        (copy / name).write_bytes(b"garbage")
    assert checkpoint.load(copy, lips=False).model.dims.width == 32


def test_an_index_says_which_files_are_the_shards(folder, copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = sorted(weights)
    where = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: weights[name] for name in names if where[name] == file}, copy / file)
    (copy / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (copy / "model-00001-of-00003.safetensors").write_bytes(b"garbage")
    whole, parts = (load_folder(path)[0].state_dict() for path in (folder, copy))
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items() if not name.startswith("ctc"))


def test_what_whisper_lacks_is_drawn_as_ever(folder):
    head = load_folder(folder)[0].ctc["audio"]
    limit = head.in_features ** -0.5
    for weight in (head.weight, head.bias):
        assert 0.3 * limit < weight.std() < 0.9 * limit     # uniform within the limit: 0.58
        assert weight.abs().max() <= limit


def test_only_tensors_that_are_asked_for_are_read(copy):
    path = copy / "model.safetensors"
    everything = read_safetensors(path)
    name = sorted(everything)[0]
    some = read_safetensors(path, {name, "no such tensor"})
    assert list(some) == [name]
    assert torch.equal(some[name], everything[name])


def edit(path, **changes):
    content = json.loads(path.read_text())
    for name, value in changes.items():
        if value is None:
            del content[name]
        else:
            content[name] = value
    path.write_text(json.dumps(content))


def reshape_weights(folder, change):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


CONV = "model.encoder.conv1.weight"
WRONG_FOLDERS = {
    "another kind of model": (lambda f: edit(f / "config.json", model_type="bert"),
                              "a model of type \"bert\", not whisper.  Name a Whisper's folder, or one of tiny.en"),
    "no type": (lambda f: edit(f / "config.json", model_type=None), "its config.json names neither a model_type"),
    "config without a field": (lambda f: edit(f / "config.json", d_model=None), "config.json: lacks d_model"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "config.json: holds a JSON list"),
    "config is garbage": (lambda f: (f / "config.json").write_text("{"), "config.json: cannot be read as JSON"),
    "config gone": (lambda f: (f / "config.json").unlink(), "holds no config.json"),
    "tokenizer gone": (lambda f: (f / "tokenizer.json").unlink(), "holds no tokenizer.json"),
    "weights gone": (lambda f: (f / "model.safetensors").unlink(), "holds neither model.safetensors nor model.bin"),
    "weights pickled": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
                        "its weights are in pytorch_model.bin, a pickle, which may run any code"),
    "a shard gone": (lambda f: (f / "model.safetensors").rename(f / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'), "model-00001-of-00002.safetensors: cannot be read"),
    "an index without files": (lambda f: (f / "model.safetensors").rename(f / "model.safetensors.index.json").write_text("{}"),
                               "model.safetensors.index.json: lists no files in its weight_map"),
    "an index that leaves the folder": (
        lambda f: (f / "model.safetensors").rename(f / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "../model.safetensors"}}'), "model.safetensors.index.json: lists no files in its weight_map"),
    "weights cut short": (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]),
                          "model.safetensors: cannot be read as weights"),
    "weights are garbage": (lambda f: (f / "model.safetensors").write_bytes(b"garbage"), "cannot be read as weights"),
    "a tensor missing": (lambda f: reshape_weights(f, lambda w: w.pop(CONV)), "lacks audio.conv1.weight"),
    "a tensor left over": (lambda f: reshape_weights(f, lambda w: w.update(extra=torch.zeros(1))), "has unknown extra"),
    "another shape": (lambda f: reshape_weights(f, lambda w: w.update({CONV: torch.zeros(32, 81, 3)})),
                      "has wrong shapes: audio.conv1.weight (32, 81, 3) for (32, 80, 3)"),
}


@pytest.mark.parametrize("case", WRONG_FOLDERS)
def test_a_wrong_folder_is_named_with_a_remedy(copy, case):
    spoil, says = WRONG_FOLDERS[case]
    spoil(copy)
    with pytest.raises(BadCheckpoint) as caught:
        checkpoint.load(copy, lips=False)
    message = str(caught.value)
    assert message.startswith(str(copy))
    assert says in message
    remedies = ("Fetch the model again", "Name a Whisper's folder", "Name a model's folder", "save_pretrained",
                "Put the tokenizer.json")
    assert any(remedy in message for remedy in remedies), message


SIZES = ("d_model", "decoder_attention_heads", "num_mel_bins", "encoder_layers", "decoder_layers", "vocab_size",
         "max_target_positions")
SETTINGS = ("suppress_tokens", "begin_suppress_tokens", "alignment_heads")


@pytest.mark.parametrize(("file", "fields"), [("config.json", (*SIZES, "model_type")), ("generation_config.json", SETTINGS)])
def test_every_field_is_checked_before_anything_is_made(copy, file, fields):
    kept = json.loads((copy / file).read_text()) if (copy / file).exists() else {"suppress_tokens": [1]}
    for field in fields:
        for name, value in made_hostile.VALUES.items():
            if value is made_hostile.MISSING or not (value or field in SIZES):      # none suppressed, or known
                continue
            text = json.dumps(kept | {field: value}).replace(json.dumps(made_hostile.DEEP), "[" * 10_000 + "]" * 10_000)
            (copy / file).write_text(text)
            if (field, name) in (("suppress_tokens", "long list"), ("begin_suppress_tokens", "long list")):
                continue
            with pytest.raises(BadCheckpoint) as caught:
                load_folder(copy)
            assert re.fullmatch(r"[^\0-\x1f]{5,600}  [A-Z][^\0-\x1f]*\.", str(caught.value)), (field, name)


@pytest.mark.parametrize("listed", [[], None, "x", {"a": 1}, {"a": ""}, {"a": ".."}, {"a": "."}, {"a": "/etc/passwd"},
                                    {"a": "b\0.safetensors"},
                                    {"a": "../model.safetensors"}, {"a": "config.json"}, {}])
def test_shards_lie_in_the_folder(copy, listed):
    (copy / "model.safetensors").rename(copy / "model-1.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    with pytest.raises(BadCheckpoint, match=r"lists no files in its weight_map|holds neither"):
        load_folder(copy)


def test_weights_that_are_no_numbers_are_refused(copy):
    reshape_weights(copy, lambda weights: weights[CONV].view(-1)[5:6].fill_(torch.inf))
    with pytest.raises(BadCheckpoint, match=r"copy: audio\.conv1\.weight holds values that are infinite .*again\."):
        load_folder(copy)


def test_a_head_that_is_not_there_is_named(copy):
    path = copy / "generation_config.json"
    path.write_text(json.dumps({"alignment_heads": [[0, 1], [2, 0]]}))
    with pytest.raises(BadCheckpoint, match=r"head \(2, 0\) is named, counted from 0, of 2 layers with 2 heads each\.  Take"):
        checkpoint.load(copy, lips=False)
