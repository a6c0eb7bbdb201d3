"""CTranslate2's model.bin: what its own converter writes, in each of its types, computes here what it computes there."""

import json
import re
import shutil
import struct

import numpy as np
import pytest
import torch
from made_whispers import as_ctranslate2, small_whisper

from avsr import checkpoint
from avsr.errors import BadCheckpoint
from avsr.importers.ctranslate2 import floats, read_ctranslate2
from avsr.importers.whisper import load_ctranslate2

TYPES = ("float32", "float16", "bfloat16", "int16", "int8", "int8_float32", "int8_float16", "int8_bfloat16")


@pytest.fixture(scope="module")
def network():
    return small_whisper()


@pytest.fixture(scope="module")
def converted(network, tmp_path_factory, tiny_en_folder):
    """Function from a type to a folder in faster-whisper's layout."""
    folders = {}

    def convert(kind):
        if kind not in folders:
            folders[kind] = as_ctranslate2(network, tmp_path_factory.mktemp(kind), tiny_en_folder / "tokenizer.json", kind)
        return folders[kind]

    return convert


@pytest.fixture
def copy(converted, tmp_path):
    return shutil.copytree(converted("float16"), tmp_path / "copy")


@pytest.fixture(scope="module")
def mel(hello):
    from avsr.features import log_mel
    from avsr.rates import SEGMENT_SAMPLES

    return torch.from_numpy(log_mel(hello, n_samples=SEGMENT_SAMPLES))[None]


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_every_type_computes_what_ctranslate2_computes(converted, mel, kind, monkeypatch):
    import ctranslate2

    loaded = checkpoint.load(converted(kind), lips=False)
    theirs = ctranslate2.models.Whisper(str(converted(kind)), device="cpu", compute_type="float32", intra_threads=1)
    # Its file holds the sinusoids in the type of the others, ours are exact; with the same ones nothing differs.
    variables = read_ctranslate2(converted(kind) / "model.bin")
    places = floats(variables, "encoder/position_encodings/encodings")
    monkeypatch.setattr("avsr.models.audio.sinusoids", lambda length, width, device: places[:length])
    reference = theirs.encode(ctranslate2.StorageView.from_array(mel.transpose(1, 2).contiguous().numpy()))
    prompt = [50_257, 50_362]
    written = theirs.generate(reference, [prompt], beam_size=1, max_length=9, return_logits_vocab=True, suppress_tokens=[],
                              suppress_blank=False)[0]
    tokens = torch.tensor([[*prompt, *written.sequences_ids[0]]])
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model.encode(mel).audio, torch.from_numpy(np.array(reference)), atol=1e-4, rtol=1e-4)
        ours = loaded.model(tokens[:, :-1], mel)[0, len(prompt) - 1:].log_softmax(dim=-1)
    logits = torch.stack([torch.from_numpy(np.array(step)) for step in written.logits[0]])
    assert len(logits) > 3
    torch.testing.assert_close(ours, logits.reshape(len(logits), -1).log_softmax(dim=-1)[:len(ours)], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("kind", "within"), [
    ("float32", 0), ("float16", 1e-3), ("bfloat16", 1e-2), ("int16", 1e-3), ("int8", 1e-2)])
def test_every_weight_is_what_was_converted(network, converted, kind, within):
    from avsr.importers.whisper import rename_hugging_face

    loaded = checkpoint.load(converted(kind), lips=False).model.state_dict()
    wanted = rename_hugging_face(network.state_dict())
    assert len(wanted) > 60
    for name, tensor in wanted.items():
        assert loaded[name].dtype == torch.float32
        torch.testing.assert_close(loaded[name], tensor, atol=within * tensor.abs().max().item(), rtol=within)


def test_settings_are_those_of_its_config(converted):
    loaded = checkpoint.load(converted("int8"), lips=False)
    assert (loaded.suppress, loaded.suppress_begin, loaded.alignment_heads) == ((1, 2), (220,), ((1, 0),))
    assert (loaded.name, loaded.video_trained, loaded.languages) == (str(converted("int8")), False, ("en",))


def test_a_folder_with_weights_of_both_layouts_is_the_one_its_config_is_of(network, copy, tiny_en_folder):
    from avsr.importers.whisper import load_folder

    with torch.no_grad():
        network.model.encoder.conv1.bias += 1               # so that the two can be told apart
    network.save_pretrained(copy / "other")
    with torch.no_grad():
        network.model.encoder.conv1.bias -= 1

    def offset():
        return load_folder(copy)[0].audio.conv1.bias.mean().item()

    shutil.copyfile(copy / "other" / "model.safetensors", copy / "model.safetensors")
    assert offset() == 0                                    # config.json is CTranslate2's, so model.bin counts
    shutil.copyfile(copy / "other" / "config.json", copy / "config.json")
    assert offset() == 1
    (copy / "model.safetensors").unlink()                   # Hugging Face's settings, but only model.bin to go by
    assert offset() == 0
    shutil.copyfile(copy / "other" / "generation_config.json", copy / "generation_config.json")
    content = json.loads((copy / "generation_config.json").read_text()) | {"suppress_tokens": [7], "alignment_heads": [[0, 1]]}
    (copy / "generation_config.json").write_text(json.dumps(content))
    settings = load_folder(copy)[1]
    assert (settings.suppress, settings.alignment_heads) == ((7,), ((0, 1),))


@pytest.mark.parametrize(("spoil", "says"), [
    (lambda f: (f / "model.bin").unlink(), "names no model_type, so it is CTranslate2's, but there is no model.bin beside it"),
    (lambda f: (f / "tokenizer.json").unlink(), "holds no tokenizer.json, which makes words of its tokens"),
    (lambda f: (f / "config.json").unlink(), "holds no config.json and no model.json"),
    (lambda f: (f / "config.json").write_text("{}"), "its config.json names neither a model_type"),
    (lambda f: (f / "config.json").write_text('{"bos_token": "<s>", "unk_token": "<unk>"}'), "names neither a model_type"),
])
def test_a_wrong_folder_is_named_with_a_remedy(copy, spoil, says):
    spoil(copy)
    with pytest.raises(BadCheckpoint) as caught:
        checkpoint.load(copy, lips=False)
    assert str(caught.value).startswith(str(copy))
    assert says in str(caught.value)
    assert re.search(r"  [A-Z].*\.$", str(caught.value))


def test_nothing_is_read_before_it_is_asked_for(tiny_en_folder):
    """The arrays lie in the mapped file: together they are as large as it, and the process hardly grows."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    variables = read_ctranslate2(tiny_en_folder / "model.bin")
    assert sum(array.nbytes for array in variables.values()) > 75_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000          # kilobytes


# The file

def write_ctranslate2(path, variables):
    """A model.bin of these variables; a float16 array is marked as such (layout: OpenNMT/CTranslate2 model_spec.py)."""
    kinds = {np.dtype("float32"): 0, np.dtype("int8"): 1, np.dtype("int16"): 2, np.dtype("int32"): 3, np.dtype("float16"): 4,
             np.dtype("float64"): 9}

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
    embeddings = packaged["decoder/embeddings/weight"][:60]
    return variables | {"decoder/embeddings/weight": embeddings, "decoder/projection/weight": embeddings}


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


FEED = "encoder/layer_0/ffn/linear_0/weight"


@pytest.mark.parametrize(("change", "says"), [
    (lambda v: v.pop("decoder/embeddings/weight"), "lacks decoder/embeddings/weight"),
    (lambda v: v.pop("encoder/layer_0/ffn/linear_0/weight"), "lacks audio.blocks.0.feed.0.weight"),
    (lambda v: v.update({"encoder/surprise/weight": np.zeros(3, np.float32)}), "has unknown encoder/surprise/weight"),
    (lambda v: v.update({"encoder/layer_0/ffn/linear_0/weight_scale": np.zeros(3, np.float32)}), "has unknown .*weight_scale"),
    (lambda v: v.update({"decoder/projection/weight": np.zeros((60, 384), np.float16)}), "has unknown decoder/projection"),
    (lambda v: v.update({FEED: np.zeros((1536, 384), np.int8)}), "linear_0/weight .* is quantised as int8 with no scales"),
    (lambda v: v.update({FEED: np.zeros((1536, 384), np.int32)}), "quantised as int32 with no scales.*--quantization float16"),
    (lambda v: v.update({FEED: np.zeros((1536, 384), np.int8), f"{FEED}_scale": np.ones(5, np.float32)}),
     r"quantised as int8 with scales of shape \(5,\)"),
    (lambda v: v.update({FEED: np.zeros((1536, 384), np.float64)}), "linear_0/weight is of type 9, known are 0 to 5"),
])
def test_a_file_of_other_variables_is_refused_by_name(small, tiny_en_folder, tmp_path, change, says):
    variables = dict(small)
    change(variables)
    with pytest.raises(BadCheckpoint, match=says):
        load_ctranslate2(write_ctranslate2(tmp_path / "model.bin", variables), tiny_en_folder / "config.json")


def test_names_for_the_same_numbers_are_not_believed_without_end(small, tiny_en_folder, tmp_path):
    """A file of 40 MB whose 10,000 aliases of one matrix would become 24 GB."""
    path = write_ctranslate2(tmp_path / "model.bin", small)
    names = [name for i in range(10_000) for name in (f"encoder/layer_{i}/ffn/linear_0/weight", FEED)]
    aliases = [struct.pack("<H", len(name) + 1) + name.encode() + b"\0" for name in names]
    path.write_bytes(path.read_bytes()[:-4] + struct.pack("<I", 10_000) + b"".join(aliases))
    with pytest.raises(BadCheckpoint, match=r"become \d{11} bytes, .*many names stand for the same numbers\.  Install"):
        load_ctranslate2(path, tiny_en_folder / "config.json")


@pytest.mark.parametrize(("spoil", "says"), [
    (lambda data: data.replace(struct.pack("<2I", 1536, 384), struct.pack("<2I", 2**32 - 1, 2**32 - 1), 1), "bytes, not "),
    (lambda data: data[:22] + struct.pack("<I", 2**32 - 1) + data[26:], "4294967295 entries, and at most 65536 can be"),
    (lambda data: data.replace(b"WhisperSpec", b"Whisper\x1b[1m", 1), r"layout 6 of 'Whisper\\x1b\[1m', known is 6"),
])
def test_sizes_in_the_file_are_not_believed(small, tiny_en_folder, tmp_path, spoil, says):
    path = write_ctranslate2(tmp_path / "model.bin", small)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(BadCheckpoint, match=says):
        load_ctranslate2(path, tiny_en_folder / "config.json")


def test_a_number_of_heads_that_no_whisper_has(small, tiny_en_folder, tmp_path):
    for heads in (0, -1, 5, 127):
        path = write_ctranslate2(tmp_path / "model.bin", small | {"decoder/num_heads": np.array(heads, np.int8)})
        with pytest.raises(BadCheckpoint, match=r"(n_heads is|width 384 in) .*so it is no Whisper\.  Install"):
            load_ctranslate2(path, tiny_en_folder / "config.json")
