"""Models by `owner/model`, from a hub on this machine: the files that each layout needs are fetched, and no others."""

import json
import shutil

import pytest
from made_server import hub
from made_whispers import as_ctranslate2, as_hugging_face, small_whisper

from avsr import checkpoint
from avsr.errors import BadCheckpoint, MissingAsset


@pytest.fixture(scope="module")
def published(tmp_path_factory, tiny_en_folder):
    """The hub's models: Hugging Face's layout whole, without generation_config.json, in shards and pickled; CTranslate2's."""
    root, network, tokenizer = tmp_path_factory.mktemp("hub"), small_whisper(), tiny_en_folder / "tokenizer.json"
    whole = as_hugging_face(network, root / "me" / "whole", tokenizer)
    (whole / "flax_model.msgpack").write_bytes(b"not wanted")
    for name in ("tuned", "pickled", "wordless", "bert"):
        shutil.copytree(whole, root / "me" / name)
    (root / "me" / "tuned" / "generation_config.json").unlink()
    (root / "me" / "pickled" / "model.safetensors").rename(root / "me" / "pickled" / "pytorch_model.bin")
    (root / "me" / "wordless" / "tokenizer.json").unlink()
    (root / "me" / "bert" / "config.json").write_text('{"model_type": "bert"}')
    network.save_pretrained(root / "me" / "shards", max_shard_size="2MB")
    shutil.copyfile(tokenizer, root / "me" / "shards" / "tokenizer.json")
    as_ctranslate2(network, root / "me" / "faster-whisper", tokenizer, "int8_float16")
    return root


@pytest.fixture
def server(published, tmp_path, monkeypatch):
    with hub(published) as server:
        address = server.address
        for name, value in {"ENDPOINT": address, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": True,
                            "HUGGINGFACE_CO_URL_TEMPLATE": f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"}.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        yield server


@pytest.mark.slow
@pytest.mark.parametrize(("name", "files"), [
    ("whole", ["config.json", "tokenizer.json", "generation_config.json", "model.safetensors"]),
    ("tuned", ["config.json", "tokenizer.json", "model.safetensors"]),
    ("faster-whisper", ["config.json", "tokenizer.json", "model.bin"]),
])
def test_the_files_of_each_layout_are_fetched_once(server, name, files, monkeypatch):
    loaded = checkpoint.load(f"me/{name}", lips=False)
    assert loaded.name == f"me/{name}"
    assert loaded.model.dims.width == 32
    assert server.fetched == [f"me/{name}/{file}" for file in files]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    server.fetched.clear()
    again = checkpoint.load(f"me/{name}", lips=False)       # without a network, what the model does not have is known too
    assert again.alignment_heads == loaded.alignment_heads
    assert server.fetched == []


@pytest.mark.slow
def test_shards_are_fetched_as_the_index_lists_them(server, published):
    listed = json.loads((published / "me" / "shards" / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(listed.values())) > 1
    loaded = checkpoint.load("me/shards", lips=False).model.state_dict()
    assert {file.removeprefix("me/shards/") for file in server.fetched} >= set(listed.values())
    whole = checkpoint.load("me/whole", lips=False).model.state_dict()
    assert all((loaded[name] == tensor).all() for name, tensor in whole.items() if not name.startswith("ctc"))


@pytest.mark.parametrize(("name", "says"), [
    ("me/pickled", r"me/pickled: it has no weights in safetensors, .*pickles, .*any code.*  If you trust it, .*that folder"),
    ("me/wordless", r"me/wordless: holds no tokenizer\.json, .*  Put the tokenizer\.json of the Whisper"),
    ("me/bert", r"""me/bert: a model of type "bert", not whisper\.  Name a Whisper's folder, or one of tiny\.en"""),
    ("me/nothing", r"me/nothing/config\.json: not in the local .*has no such model\.  Check the name"),
])
def test_what_is_no_use_is_refused_before_its_weights_are_fetched(server, name, says):
    with pytest.raises((BadCheckpoint, MissingAsset), match=says):
        checkpoint.load(name, lips=False)
    assert not [file for file in server.fetched if "model." in file]
