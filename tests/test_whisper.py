"""Published weights: what another program makes of the same file is what ours makes of it."""

import json
import re
import shutil
import struct

import numpy as np
import pytest
import torch

from avsr import checkpoint
from avsr.checkpoint import Checkpoint
from avsr.decode import Beam, DecodeOptions, DecoderScorer, Suppress, search
from avsr.errors import BadCheckpoint
from avsr.features import log_mel
from avsr.models.whisper import load_ctranslate2, load_folder, read_ctranslate2, read_safetensors
from avsr.rates import PIECE_SAMPLES


@pytest.fixture(scope="module")
def theirs(tiny_en_folder):
    from faster_whisper import WhisperModel

    return WhisperModel(str(tiny_en_folder), device="cpu", compute_type="float32", cpu_threads=1)


@pytest.fixture(scope="module")
def mel(hello):
    return log_mel(hello, n_samples=PIECE_SAMPLES)[None]


@pytest.fixture(scope="module")
def memory(tiny_en, mel):
    with torch.inference_mode():
        return tiny_en.model.encode(mel)


def test_tiny_en_is_what_it_should_be(tiny_en):
    dims = tiny_en.model.dims
    assert (dims.width, dims.n_heads, dims.n_mels, dims.n_audio_layers, dims.n_decoder_layers) == (384, 6, 80, 4, 4)
    assert (dims.n_vocab, dims.n_context, dims.lips) == (51_864, 448, None)
    assert tiny_en.alignment_heads == ((1, 0), (2, 0), (2, 5), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4))
    assert tiny_en.suppress_begin == (220, 50_256)
    assert len(tiny_en.suppress) == 90
    assert tiny_en.languages == ("en",)
    assert not tiny_en.lips_trained


def test_the_encoder_is_ctranslate2s(tiny_en, memory, mel, theirs, packaged, monkeypatch):
    reference = torch.from_numpy(np.array(theirs.encode(mel[0].T.contiguous().numpy())))
    assert reference.shape == memory.audio.shape == (1, 1500, 384)
    assert (memory.audio - reference).abs().mean() < 1e-3
    # Its file holds the sinusoids rounded to half precision, ours are exact; with the same ones nothing differs.
    rounded = torch.from_numpy(packaged["encoder/position_encodings/encodings"].astype(np.float32))
    monkeypatch.setattr("avsr.models.audio.sinusoids", lambda length, width, device: rounded[:length])
    with torch.inference_mode():
        torch.testing.assert_close(tiny_en.model.encode(mel).audio, reference, atol=1e-3, rtol=0)


@pytest.mark.parametrize("clip", ["hello", "wild/sadtalker__RD_Radio34_000.mp4"])
def test_greedy_tokens_are_ctranslate2s(tiny_en, theirs, clip, request):
    from avsr import media

    audio = request.getfixturevalue("hello") if clip == "hello" else media.read(
        request.getfixturevalue("real_data") / clip, want_video=False).audio
    mel, tokenizer = log_mel(audio, n_samples=PIECE_SAMPLES)[None], tiny_en.tokenizer
    prompt = tokenizer.prompt("en")
    result = theirs.model.generate(theirs.encode(mel[0].T.contiguous().numpy()), [prompt], beam_size=1,
                                   return_scores=True, return_no_speech_prob=True, suppress_tokens=list(tiny_en.suppress))[0]
    with torch.inference_mode():
        scorer = DecoderScorer(tiny_en.model, tiny_en.model.encode(mel), no_speech_token=tokenizer.no_speech,
                               start_token=tokenizer.start)
        rules = [Suppress(tiny_en.suppress, tiny_en.suppress_begin, len(prompt))]
        (tokens, logprob), = search([scorer], torch.tensor([prompt]), Beam(1, DecodeOptions(beam_size=1), tokenizer.end),
                                    rules=rules)
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
    "another kind of model": (lambda f: edit(f / "config.json", model_type="bert"), "a model of type 'bert', not whisper"),
    "no type": (lambda f: edit(f / "config.json", model_type=None), "a model of type None, not whisper"),
    "config without a field": (lambda f: edit(f / "config.json", d_model=None), "config.json: lacks d_model"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "config.json: holds a JSON list"),
    "config is garbage": (lambda f: (f / "config.json").write_text("{"), "config.json: cannot be read as JSON"),
    "config gone": (lambda f: (f / "config.json").unlink(), "holds no config.json"),
    "tokenizer gone": (lambda f: (f / "tokenizer.json").unlink(), "holds no tokenizer.json"),
    "weights gone": (lambda f: (f / "model.safetensors").unlink(), "lacks audio.blocks.0.attention"),
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
    assert any(remedy in message for remedy in ("Fetch the model again", "Known: tiny.en", "Name a model's folder")), message


# CTranslate2's file

def write_ctranslate2(path, variables):
    """A model.bin of these variables; a float16 array is marked as such (layout: OpenNMT/CTranslate2 model_spec.py)."""
    kinds = {np.dtype("float32"): 0, np.dtype("int8"): 1, np.dtype("int16"): 2, np.dtype("float16"): 4}

    def text(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", 6), text("WhisperSpec"), struct.pack("<II", 3, len(variables))]
    for name, array in variables.items():
        parts += [text(name), struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape),
                  struct.pack("<BI", kinds[array.dtype], array.nbytes), array.tobytes()]
    path.write_bytes(b"".join([*parts, struct.pack("<I", 0)]))
    return path


@pytest.fixture(scope="module")
def packaged(tiny_en_folder):
    return read_ctranslate2(tiny_en_folder / "model.bin")


@pytest.fixture(scope="module")
def small(packaged):
    """One layer of each kind and 60 tokens of it."""
    variables = {name: array for name, array in packaged.items() if not re.search(r"/layer_[1-9]", name)}
    return variables | {"decoder/embeddings/weight": packaged["decoder/embeddings/weight"][:60]}


def test_any_size_is_read_off_the_file(small, tiny_en, tiny_en_folder, tmp_path):
    path = write_ctranslate2(tmp_path / "model.bin", small)
    again = read_ctranslate2(path)
    assert again.keys() == small.keys()
    assert all(np.array_equal(again[name], array) for name, array in small.items())
    model, _ = load_ctranslate2(path, tiny_en_folder / "config.json")
    dims = model.dims
    assert (dims.n_audio_layers, dims.n_decoder_layers, dims.n_fusion_layers, dims.n_vocab) == (1, 1, 1, 60)
    whole, part = tiny_en.model.state_dict(), model.state_dict()
    assert torch.equal(part["decoder.blocks.0.audio.key.weight"], whole["decoder.blocks.0.audio.key.weight"])


def cut(data, part):
    return data[:int(len(data) * part)]


@pytest.mark.parametrize(("spoil", "says"), [
    (lambda data: cut(data, 0.5), "damaged at byte"),
    (lambda data: cut(data, 0.0001), "damaged at byte"),
    (lambda data: b"", "damaged at byte 4 of 0"),
    (lambda data: b"\5\0\0\0" + data[4:], "CTranslate2 layout 5 of WhisperSpec, known is 6"),
    (lambda data: data.replace(b"WhisperSpec", b"XhisperSpec", 1), "CTranslate2 layout 6 of XhisperSpec"),
    (lambda data: b"\x80" * 1000, "CTranslate2 layout|damaged at byte"),
])
def test_a_damaged_file_is_named_with_a_remedy(tiny_en_folder, tmp_path, spoil, says):
    path = tmp_path / "model.bin"
    path.write_bytes(spoil((tiny_en_folder / "model.bin").read_bytes()[:5_000_000]))
    with pytest.raises(BadCheckpoint, match=says) as caught:
        load_ctranslate2(path, tiny_en_folder / "config.json")
    assert str(caught.value).startswith(f"{path}: ")
    assert "again." in str(caught.value)


def test_an_absent_file_is_named(tiny_en_folder, tmp_path):
    with pytest.raises(BadCheckpoint, match=r"model\.bin: cannot be read"):
        load_ctranslate2(tmp_path / "model.bin", tiny_en_folder / "config.json")


@pytest.mark.parametrize(("change", "says"), [
    (lambda v: v.pop("decoder/embeddings/weight"), "lacks decoder/embeddings/weight"),
    (lambda v: v.pop("encoder/layer_0/ffn/linear_0/weight"), "lacks audio.blocks.0.feed.0.weight"),
    (lambda v: v.update({"encoder/surprise/weight": np.zeros(3, np.float32)}), "has unknown encoder/surprise/weight"),
    (lambda v: v.update({"encoder/layer_0/ffn/linear_0/weight_scale": np.zeros(3, np.float32)}), "has unknown .*weight_scale"),
])
def test_a_file_of_other_variables_is_refused_by_name(small, tiny_en_folder, tmp_path, change, says):
    variables = dict(small)
    change(variables)
    with pytest.raises(BadCheckpoint, match=says):
        load_ctranslate2(write_ctranslate2(tmp_path / "model.bin", variables), tiny_en_folder / "config.json")
