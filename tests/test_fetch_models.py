"""Published lip readers: from a hub on this machine to a model that is used by its name."""

import hashlib
import shutil
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from made_published import make_tokenizer, network, published
from made_server import hub, publisher, zipped

from avsr.checkpoint import load
from avsr.checkpoint.kept import fetched_folder
from avsr.cli import main
from avsr.download import http
from avsr.errors import BadCheckpoint
from avsr.fetch import hub as hub_module
from avsr.fetch import models, sources
from avsr.fetch.hub import HUB, hub_source
from avsr.models.hybrid import HybridAVSR

OFFLINE_ADDRESS = "http://127.0.0.1:9"                      # nobody listens there


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The root of a hub: somebody's lip reader, alone, in a Space and in a zip; and the tokenizer's two files by name."""
    root = tmp_path_factory.mktemp("hub")
    weights = root / "somebody" / "lips" / "model.pth"
    weights.parent.mkdir(parents=True)
    torch.save(published(network("v")), weights)
    space = root / "spaces" / "author" / "demo" / "deep"
    space.mkdir(parents=True)
    shutil.copyfile(weights, space / "model.pth")
    packed = root / "packer" / "zips" / "all.zip"
    packed.parent.mkdir(parents=True)
    packed.write_bytes(zipped({"LRS3/model.pth": weights.read_bytes(), "LRS3/model.json": b"{}"}))
    spm = tmp_path_factory.mktemp("spm")
    make_tokenizer(spm, stem="unigram5000")
    return root, {path.name: path.read_bytes() for path in spm.iterdir()}


@pytest.fixture
def server(files, tmp_path, monkeypatch):
    """The hub and the authors' repository in place of the public ones; and an empty cache."""
    root, tokenizer = files
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(http, "PAUSES_SECONDS", (0, 0))
    monkeypatch.setenv("AVSR_CACHE", str(tmp_path / "cache"))
    shutil.copytree(root, tmp_path / "hub")
    with hub(tmp_path / "hub") as server, publisher(tokenizer) as authors:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
        moved = {part: replace(one, url=f"{authors.address}/files/{one.name}", checksum=None)
                 for part, one in models.TOKENIZER_FILES.items()}
        monkeypatch.setattr(hub_module, "TOKENIZER_FILES", moved)
        for name, path in (("vsr-lrs3", "somebody/lips/resolve/main/model.pth"),
                           ("vsr-lrs3-space", "spaces/author/demo/resolve/main/deep/model.pth"),
                           ("vsr-lrs3-zip", "packer/zips/resolve/main/all.zip")):
            monkeypatch.setattr(models, "TOKENIZER_FILES", moved)
            source = models._published(name, "a lip reader", "1 MB", models._on_hub(path),
                                       keep=sources.SOURCES[name].keep)
            monkeypatch.setitem(sources.SOURCES, name, source)
        yield server


def fetch(*arguments: str):
    return CliRunner().invoke(main, ["fetch", *arguments])


@pytest.mark.parametrize("name", ["vsr-lrs3", "vsr-lrs3-space", "vsr-lrs3-zip", "somebody/lips", "somebody/lips:model.pth"])
def test_a_lip_reader_is_fetched_once_and_loaded_by_its_name(server, name):
    if name != "somebody/lips":                             # which could be a Whisper of the hub
        with pytest.raises(BadCheckpoint, match=f"{name}: not fetched yet.  Run avsr fetch {name} --accept-licence"):
            load(name)
    refused = fetch(name)
    assert (refused.exit_code, server.fetched) == (1, [])
    assert "run again with --accept-licence" in refused.stderr
    assert "does not replace" in refused.stderr, "the terms are shown first"
    for _ in (1, 2):
        result = fetch(name, "--accept-licence")
        assert (result.exit_code, result.stdout) == (0, f"{fetched_folder(name)}\n"), result.stderr
        assert len(server.fetched) == 1, "nothing is fetched twice"
    found = load(name)
    assert isinstance(found.model, HybridAVSR)
    assert (found.name, found.modalities) == (name, ("v",))
    assert torch.equal(found.model.ctc.bias, network("v").ctc.bias)
    assert not list(fetched_folder(name).rglob("*.pth")), "the model holds all that the published file holds"
    assert f"--lips {name}" in result.stderr


def test_a_file_that_changed_since_the_first_fetch_is_refused(server, tmp_path):
    assert fetch("vsr-lrs3", "--accept-licence").exit_code == 0
    (fetched_folder("vsr-lrs3") / "model.safetensors").unlink()
    other = tmp_path / "hub" / "somebody" / "lips" / "model.pth"
    other.write_bytes(other.read_bytes() + b"x")
    result = fetch("vsr-lrs3", "--accept-licence")
    assert result.exit_code == 1
    assert "it is not what was fetched first (sha256 begins" in result.stderr
    assert "delete" in result.stderr
    assert not list(fetched_folder("vsr-lrs3").rglob("*.pth"))


def test_a_model_that_changed_on_the_disk_is_not_loaded(server):
    assert fetch("vsr-lrs3", "--accept-licence").exit_code == 0
    path = fetched_folder("vsr-lrs3") / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Exception, match=r"model\.safetensors"):
        load("vsr-lrs3")


@pytest.mark.parametrize(("name", "problem"), [
    ("nobody/nothing", "has no such repository"),
    ("somebody/lips:other.pth", "its repository has no such file.  Name the file"),
])
def test_what_the_hub_does_not_have_is_said(server, name, problem):
    result = fetch(name, "--accept-licence")
    assert (result.exit_code, problem in result.stderr) == (1, True), result.stderr


def test_a_hub_that_is_down_is_said_in_one_sentence(server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", OFFLINE_ADDRESS)
    result = fetch("vsr-lrs3", "--accept-licence")
    assert result.exit_code == 1
    assert f"{OFFLINE_ADDRESS} does not answer" in result.stderr
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in fetch("vsr-lrs3", "--accept-licence").stderr


def test_every_published_model_names_its_tokenizer_and_its_terms():
    for name, source in models.MODELS.items():
        assert source.must_agree, name
        if name != "lr-asd":
            assert source.parts.keys() == {"weights", *models.TOKENIZER_FILES}
            assert source.files[source.parts["weights"]].url.startswith(f"{HUB}/")
    assert hub_source("grid") is None
    assert hub_source("a/b:c/d.pth").files["d.pth"].url == f"{HUB}/a/b/resolve/main/c/d.pth"


def test_the_sum_is_written_down_at_the_first_fetch(server, files):
    assert fetch("vsr-lrs3", "--accept-licence").exit_code == 0
    record = (fetched_folder("vsr-lrs3") / ".fetched" / "weights.json").read_text()
    assert hashlib.sha256((files[0] / "somebody" / "lips" / "model.pth").read_bytes()).hexdigest() in record
    assert "c0ffee" in record, "the revision that the hub announced"
