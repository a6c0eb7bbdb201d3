"""Published checkpoints become models of ours that answer as their authors' code does; any other file is refused."""

import argparse
import ast
import hashlib
import json
import os
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path

import made_published as made
import numpy as np
import oracles
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn

from avsr import checkpoint, importers
from avsr.checkpoint import importing
from avsr.checkpoint.importing import import_checkpoint
from avsr.cli import main
from avsr.errors import AvsrError, BadCheckpoint, BadOutput, listed
from avsr.importers import auto_avsr
from avsr.importers.family import Converted, Family
from avsr.importers.reading import read_weights
from avsr.lips import MOUTH_CROPS
from avsr.models.blocks import outline
from avsr.models.hybrid import HybridAVSR
from avsr.text import SentencePieceTokenizer

PACKAGE = Path(__file__).resolve().parents[1] / "avsr"
LEGACY = {"_use_new_zipfile_serialization": False}


@pytest.fixture
def published(tmp_path):
    """Weights -> the path of a file of them, with a fitting tokenizer beside it."""
    made.make_tokenizer(tmp_path)

    def save(weights: object, name: str = "base.pth", **options) -> Path:
        path = tmp_path / name
        torch.save(weights, path, **options)
        return path

    return save


@pytest.fixture
def ears():
    """The weights of a miniature recogniser under published names: 15 MB, the smallest there is. A new dict each time."""
    return made.published(made.network("a"))


def refused(path: Path, **options) -> str:
    """Importing it raises one sentence on one line, which names the file; nothing is written."""
    with pytest.raises(AvsrError) as error:
        import_checkpoint(path, path.parent / "out", **options)
    message = str(error.value)
    assert "\n" not in message
    assert ".  " in message, "a remedy follows"
    assert not (path.parent / "out").exists()
    return message


# Weights


@pytest.mark.slow
@pytest.mark.parametrize(("modality", "fusion_norm"), [("a", "batch"), ("v", "batch"), ("av", "batch"), ("av", "layer")])
def test_every_weight_finds_its_place(published, tmp_path, modality, fusion_norm):
    network = made.network(modality, fusion_norm)
    imported = import_checkpoint(published(made.published(network)), tmp_path / "out")
    assert (imported.modality, imported.known) == (modality, None)
    assert imported.n_parameters == sum(parameter.numel() for parameter in network.parameters())
    model = checkpoint.load(imported.folder).model
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-6, atol=0, msg=name)


def answers_differ_by(model: HybridAVSR, name: str) -> float:
    """The most that CTC's log-probabilities, or the decoder's logits, of an utterance are off what the authors' code gave."""
    io = oracles.answers(name)
    mouths = io["single0.video"][:, :, 0] * model.dims.grey_std + model.dims.grey_mean if "single0.video" in io else None
    with torch.inference_mode():
        memory = model.encode(io.get("single0.audio"), mouths)
        (log_probs,) = model.ctc_log_probs(memory).values()
        logits = model.decoder(io["single0.dec_in"], model.start(memory))
    pairs = ((log_probs, io["single0.ctc_logprobs"]), (logits, io["single0.dec_logits"]))
    return max((mine - theirs).abs().max().item() for mine, theirs in pairs)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "changes"), [
    ("vsr", ()), ("asr", ()), ("av", ()), ("vsr", made.V1), ("asr", (*made.V1, *made.OLD)), ("av", made.OLD)],
    ids=["vsr", "asr", "av", "vsr of v1.0.0", "asr of old names", "av of old names"])
def test_it_answers_as_its_authors_code(published, tmp_path, name, changes):
    weights = made.renamed(oracles.state_dict(name), *changes)
    imported = import_checkpoint(published(weights), tmp_path / "out")
    loaded = checkpoint.load(imported.folder)
    assert loaded.modalities == ({"vsr": "v", "asr": "a", "av": "av"}[name],)
    assert answers_differ_by(loaded.model, name) < 1e-4


def wrapped(weights: dict, how: str, folder: Path) -> Path:
    """The same weights in a file of another kind."""
    path = folder / ("base.safetensors" if how == "safetensors" else "base.pth")
    if how == "lightning":
        weights = {"epoch": 3, "state_dict": {f"model.{name}": tensor for name, tensor in weights.items()}, "callbacks": {}}
    elif how == "data parallel":
        weights = {f"module.{name}": tensor for name, tensor in weights.items()}
    elif how == "no counts":
        weights = made.without(weights, lambda name: name.endswith("num_batches_tracked"))
    elif how == "position tables":
        weights["encoder.embed.1.pe"] = weights["decoder.embed.1.pe"] = torch.randn(1, 5000, 8)
    elif how == "parameters":
        weights = {name: nn.Parameter(tensor, tensor.is_floating_point()) if tensor.is_floating_point() else tensor
                   for name, tensor in weights.items()}
    elif how == "shared memory":
        weights["decoder.decoders.1.norm1.weight"] = weights["decoder.decoders.0.norm1.weight"]
    elif how == "float64":
        weights = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    if how == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, **LEGACY if how == "legacy" else {})
    return path


@pytest.mark.parametrize("how", ["lightning", "data parallel", "no counts", "position tables", "parameters", "shared memory",
                                 "float64", "safetensors", "legacy"])
def test_weights_are_found_however_they_are_kept(tmp_path, ears, how):
    made.make_tokenizer(tmp_path)
    path = wrapped(dict(ears), how, tmp_path)
    model = checkpoint.load(import_checkpoint(path, tmp_path / "out").folder).model
    for name, tensor in made.network("a").named_parameters():
        if how != "shared memory" or "attention_norm" not in name:
            torch.testing.assert_close(model.get_parameter(name).data, tensor.data, rtol=1e-6, atol=0, msg=name)


def test_a_file_in_half_precision_gives_what_its_numbers_give(published, tmp_path, ears):
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in ears.items()}
    model = checkpoint.load(import_checkpoint(published(halved), tmp_path / "out").folder).model
    name = "decoder.blocks.1.feed.0.weight"
    assert torch.equal(model.state_dict()[name], made.network("a").state_dict()[name].half().float())
    assert torch.equal(model.decoder.embedding.weight, halved["decoder.embed.0.weight"].float() * model.dims.width ** 0.5)


@pytest.mark.parametrize(("name", "layers", "millions"), [("vsr", (12, 0), 250), ("asr", (0, 12), 243), ("av", (12, 12), 444)])
def test_the_published_sizes(name, layers, millions):
    weights = made.published_shapes(oracles.need_oracles() / f"auto_avsr_{name}")
    assert auto_avsr.recognises(weights.keys())
    n_parameters = sum(tensor.numel() for key, tensor in weights.items() if "running_" not in key and "num_batches" not in key)
    assert round(n_parameters / 1e6) == millions
    found = auto_avsr.convert(weights)
    dims = found.dims
    assert (dims.width, dims.n_heads, dims.n_inside, dims.kernel, dims.n_vocab) == (768, 12, 3072, 31, 5049)
    assert (dims.n_video_layers, dims.n_audio_layers, dims.n_decoder_layers, dims.n_fusion) == (*layers, 6, 8192)
    assert (found.left_over, weights) == ([], {})
    network = outline(HybridAVSR, dims)
    assert {key: tensor.shape for key, tensor in found.weights.items()} == {
        key: tensor.shape for key, tensor in network.state_dict().items()}


# The folder


def test_model_json_holds_all_that_decoding_must_know(published, tmp_path):
    path = published(oracles.state_dict("vsr"), "mine.pth")
    folder = import_checkpoint(path, tmp_path / "out").folder
    facts = json.loads((folder / "model.json").read_text())
    assert (facts["network"], facts["name"], facts["base"], facts["pad_seconds"]) == ("hybrid", "out", None, None)
    assert checkpoint.load(folder).mouth_crop == MOUTH_CROPS["auto-avsr"]
    assert (facts["dims"]["grey_mean"], facts["dims"]["grey_std"]) == (0.421, 0.165)
    assert facts["search"] == {"beam_size": 40, "ctc_weight": 0.1, "length_penalty": 0.0}
    assert facts["sha256"]["tokenizer.json"] == SentencePieceTokenizer(folder / "tokenizer.json").sha256
    about = facts["training"]
    assert (about["family"], about["file"], about["published"]) == ("auto_avsr", "mine.pth", None)
    assert about["md5"] == hashlib.md5(path.read_bytes()).hexdigest()
    assert "LRS3" in about["licence"]
    assert "/" not in about["file"], "nobody's folders go into a model"


def test_a_published_file_is_known_by_its_md5(published, tmp_path, ears, monkeypatch):
    monkeypatch.setattr(importing, "_md5", lambda path, progress: "f0c5c" + 27 * "0")
    imported = import_checkpoint(published(ears), tmp_path / "out")
    assert (imported.known.file, imported.known.wer) == ("asr_trlrs3vox2_base.pth", 1.0)
    facts = json.loads((imported.folder / "model.json").read_text())
    assert facts["training"]["published"]["source"] == "auto_avsr's model zoo"


def test_half_precision_halves_it(published, tmp_path):
    path = published(oracles.state_dict("asr"))
    whole, half = (import_checkpoint(path, tmp_path / name, half=name == "half").folder for name in ("whole", "half"))
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, half)]
    assert sizes[1] / sizes[0] == pytest.approx(0.5, abs=0.01)
    assert 1e-3 < answers_differ_by(checkpoint.load(half).model, "asr") < 0.04, "what --half says it costs"


def test_importing_again_replaces_the_model_whole(published, tmp_path, ears):
    made.make_tokenizer(tmp_path / "other", n_pieces=20)
    fewer = {name: tensor[:22] if name.startswith(("ctc.", "decoder.output_layer.", "decoder.embed.")) else tensor
             for name, tensor in ears.items()}
    import_checkpoint(published(ears), tmp_path / "out")
    import_checkpoint(published(fewer), tmp_path / "out", tokenizer=tmp_path / "other")
    loaded = checkpoint.load(tmp_path / "out")
    assert (loaded.model.dims.n_vocab, loaded.tokenizer.end) == (22, 21)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.json", "model.safetensors", "tokenizer.json"]


def test_a_folder_that_cannot_be_written_is_said(published, tmp_path, ears):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(BadOutput, match=r"taken.*cannot be written.*Choose another"):
        import_checkpoint(published(ears), tmp_path / "taken")


def test_the_next_family_is_one_file(tmp_path, monkeypatch):
    network = made.network("a")
    weights = {f"theirs/{name}": tensor for name, tensor in network.state_dict().items()}

    def convert(weights):
        ours = {name: name.removeprefix("theirs/") for name in weights}
        return Converted(network.dims, {ours[name]: weights.pop(name) for name in list(weights)},
                         {new: old for old, new in ours.items()}, [])

    family = Family("theirs", lambda names: all(name.startswith("theirs/") for name in names), lambda names: None, convert, (),
                    "Free.", mouth_crop="auto-avsr", search={"beam_size": 3}, tokenizer="unigram38_units.txt")
    monkeypatch.setattr(importers, "FAMILIES", (*importers.FAMILIES, family))
    made.make_tokenizer(tmp_path)
    torch.save(weights, tmp_path / "x.pth")
    assert import_checkpoint(tmp_path / "x.pth", tmp_path / "out").family.name == "theirs"
    assert checkpoint.load(tmp_path / "out").search == {"beam_size": 3}


# The tokenizer


@pytest.mark.slow
def test_it_is_found_beside_the_weights_or_where_it_is_named(tmp_path, ears):
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save(ears, folder / "base.pth")
    assert "no tokenizer there" in refused(folder / "base.pth")
    units, model = made.make_tokenizer(tmp_path / "elsewhere")
    for named in (units, model, units.parent):
        import_checkpoint(folder / "base.pth", tmp_path / "out", tokenizer=named)
    made.make_tokenizer(folder / "spm" / "unigram")
    import_checkpoint(folder / "base.pth", tmp_path / "out")
    made.make_tokenizer(folder, stem="other")
    message = refused(folder / "base.pth")
    assert "2 lists of pieces (other_units.txt, unigram38_units.txt)" in message
    assert "--tokenizer" in message


def test_it_spells_in_the_networks_numbers(published, tmp_path, ears):
    tokenizer = checkpoint.load(import_checkpoint(published(ears), tmp_path / "out").folder).tokenizer
    lines = (tmp_path / "unigram38_units.txt").read_text(encoding="utf-8").splitlines()
    for line in lines[1:]:
        piece, number = line.split(" ")
        assert tokenizer.texts[int(number)] == piece.replace("\u2581", " ")
    assert tokenizer.decode(tokenizer.encode("the quick fox")) == " THE QUICK FOX"


def spoilt(folder: Path, how: str) -> str:
    """A tokenizer of which something is wrong; what the message says of it."""
    units, model = made.make_tokenizer(folder)
    lines = units.read_text(encoding="utf-8").splitlines()
    if how == "no model":
        model.unlink()
        return "unigram38.model: not there beside unigram38_units.txt"
    if how == "another size":
        made.make_tokenizer(folder, n_pieces=37)
        return "37 pieces, but the network writes 40 tokens, which are blank, 38 pieces and the end"
    if how == "not UTF-8":
        units.write_bytes("\n".join(lines).encode("utf-16"))
        return "cannot be read as text"
    if how == "numbers":
        units.write_text("\n".join([*lines[:4], "A 9", *lines[5:]]), encoding="utf-8")
        return "line 5: 'A 9', where a piece and the number 5 should be"
    if how == "from 0":
        units.write_text("\n".join(f"{line.split()[0]} {i}" for i, line in enumerate(lines)), encoding="utf-8")
        return "line 1: '<unk> 0', where '<unk>' and the number 1 should be"
    if how == "no unknown":
        units.write_text("\n".join(["a 1", *lines[1:]]), encoding="utf-8")
        return "where '<unk>' and the number 1 should be"
    if how == "twice":
        units.write_text("\n".join([*lines[:2], lines[1].replace("2", "3"), *lines[3:]]), encoding="utf-8")
        return "' more than once"
    if how == "the end":
        units.write_text("\n".join([*lines[:2], "<eos> 3", *lines[3:]]), encoding="utf-8")
        return "<eos> more than once, or with a meaning of its own"
    if how == "empty":
        units.write_text("")
        return "line 1: '', where '<unk>'"
    if how == "BPE":
        made.make_tokenizer(folder, kind="bpe")
        return "of type bpe"
    if how == "another training":
        units.write_text("\n".join(["<unk> 1", *(f"QQ{i} {i}" for i in range(2, 39))]), encoding="utf-8")
        return "lacks 37 of the 38 pieces"
    if how == "noise":
        model.write_bytes(os.urandom(1000))
        return "cannot be read as a SentencePiece model"
    assert how == "half"
    model.write_bytes(model.read_bytes()[:-5])
    return "cannot be read as a SentencePiece model"


@pytest.fixture(scope="module")
def ears_file(tmp_path_factory):
    """A file of a miniature recogniser, its tokenizer elsewhere."""
    path = tmp_path_factory.mktemp("ears") / "base.pth"
    torch.save(made.published(made.network("a")), path)
    return path


@pytest.mark.parametrize("how", ["no model", "another size", "not UTF-8", "numbers", "from 0", "no unknown", "twice", "the end",
                                 "empty", "BPE", "another training", "noise", "half"])
def test_a_bad_tokenizer_is_refused(ears_file, tmp_path, how):
    said = spoilt(tmp_path / "tokenizer", how)
    message = refused(ears_file, tokenizer=tmp_path / "tokenizer")
    assert said in message
    assert "tokenizer/unigram38" in message


def test_a_tokenizer_that_is_not_there_is_refused(ears_file, tmp_path):
    assert "nowhere: no such file or folder" in refused(ears_file, tokenizer=tmp_path / "nowhere")


# Files that are no model


def broken(folder: Path, what: str) -> Path:
    """A file, or none, that holds no weights."""
    path, weights = folder / "base.pth", {f"encoder.{i}": torch.randn(50, 50) for i in range(5)}
    if what == "a folder":
        path.mkdir()
    elif what == "empty":
        path.touch()
    elif what.startswith("half"):
        torch.save(weights, path, **LEGACY if "legacy" in what else {})
        path.write_bytes(path.read_bytes()[:int(what.split()[-1])])
    elif what == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(10_000))
    elif what == "text":
        path.write_text("weights " * 100)
    elif what == "a web page":
        path.write_text("<!DOCTYPE html><title>Google Drive - Virus scan warning</title>")
    elif what == "safetensors":
        save_file(weights, path)
        path.write_bytes(path.read_bytes()[:-100])
    elif what in ("a zip", "compressed"):
        torch.save(weights, path)
        with zipfile.ZipFile(path) as source:
            parts = {name: source.read(name) for name in source.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if what == "compressed" else zipfile.ZIP_STORED) as target:
            for name, held in parts.items() if what == "compressed" else {"model.pth": b"", "model.json": b"{}"}.items():
                target.writestr(name, held)
    elif what == "script":
        with zipfile.ZipFile(path, "w") as target:
            for name in ("base/data.pkl", "base/constants.pkl", "base/version"):
                target.writestr(name, b"")
    elif what == "pickle":
        path.write_bytes(pickle.dumps({"a": 1}, 4))
    return path


@pytest.mark.parametrize(("what", "said"), [
    ("missing", "No such file"), ("a folder", "a folder.  Name the file"), ("empty", "an empty file.  Download it again"),
    ("half 500", "only part of one.  Download it again and compare its size"),
    ("half 30000", "30000 bytes that are no checkpoint"),
    ("half 50000", "only part of one"), ("half legacy 500", "only part of one"), ("half legacy 30000", "only part of one"),
    ("half legacy 50100", "only part of one"), ("noise", "10000 bytes that are no checkpoint"), ("text", "no checkpoint"),
    ("a web page", "a web page, not a checkpoint.  Download the file itself, with a browser"), ("safetensors", "damaged"),
    ("a zip", "a zip archive of model.pth, model.json, and no checkpoint of torch.  Unpack it"), ("script", "TorchScript"),
    ("compressed", "data.pkl"), ("pickle", "no checkpoint")])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, what, said):
    assert said in refused(broken(tmp_path, what))


def test_no_byte_that_falls_over_brings_it_down(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "base.pth"
    for options in ({}, LEGACY):
        torch.save({f"encoder.{i}": torch.randn(3, 5) for i in range(3)}, path, **options)
        whole = path.read_bytes()
        for _ in range(150):
            spoilt = np.frombuffer(whole, np.uint8).copy()
            spoilt[rng.integers(0, len(whole), rng.integers(1, 20))] = rng.integers(0, 256)
            path.write_bytes(spoilt.tobytes())
            with suppress(BadCheckpoint):
                read_weights(path)


A = torch.zeros(3)


@pytest.mark.parametrize(("held", "said"), [
    ([A], "holds a list"), (A, "holds a Tensor"), (None, "holds a NoneType"), ({}, "holds 0 entries"),
    ({"epoch": 3, "step": 4}, "holds 2 entries, none of them a weight"), ({"state_dict": {}}, "holds 0 entries"),
    ({"encoder.a": A, "epoch": 3}, "epoch beside 1 weights, and no weight itself"), ({3: A}, "3 beside 0 weights"),
    ({"encoder.a": A, "encoder.b": [1, 2]}, "encoder.b beside 1 weights"),
    ({"a": torch.zeros(1).expand(10**6, 10**6)}, "its weights claim 4000.00 GB, but it holds"),
    ({"a": torch.zeros(3, dtype=torch.complex64)}, "a is complex64, not plain numbers"),
    ({"a": torch.eye(3).to_sparse()}, "a is sparse_coo"), ({"a": torch.zeros(3, device="meta")}, "a is empty"),
    ({"a": torch.zeros(3).to(torch.float8_e4m3fn)}, "a is float8_e4m3fn"),
    ({"model_state_dict": {"trunk.layer1.0.conv1.weight": A, "frontend3D.0.weight": A, "tcn.weight": A}},
     "3 weights of no family"),
    ({"model_state_dict": {"trunk.layer1.0.conv1.weight": A, "frontend3D.0.weight": A}}, "a frontend without a decoder"),
    ({"model": {"encoder.w2v_model.encoder.layers.0.fc1.weight": A, "decoder.embed_tokens.weight": A}},
     "2 weights of no family that is known, such as decoder.embed_tokens.weight, "
     "encoder.w2v_model.encoder.layers.0.fc1.weight.  Known: auto_avsr, lr_asd; data/README.md"),
    ({"\x1b[31mred\nline": A}, "such as '\\x1b[31mred\\nline'"),
], ids=range(18))
@pytest.mark.filterwarnings("ignore")                       # torch's, of saving what is in beta
def test_other_contents_are_refused(tmp_path, held, said):
    torch.save(held, tmp_path / "base.pth")
    assert said in refused(tmp_path / "base.pth")


@pytest.mark.filterwarnings("ignore")                       # torch means to do without them
def test_quantised_weights_are_refused(tmp_path):
    torch.save({"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}, tmp_path / "base.pth")
    assert "a is qint8, not plain numbers" in refused(tmp_path / "base.pth")


def test_names_in_a_message_stay_on_one_line():
    assert listed(["a", "b"]) == "a, b"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert len(listed(["x" * 10**6])) < 200


# Weights that are no network


def changed(weights: dict, how: str) -> str:
    """Spoils the weights; what the message says of it."""
    feed, block = "encoder.encoders.1.feed_forward.w_1.weight", "encoder.encoders.1."
    if how == "left over":
        weights |= {"proj_decoder.weight": A, "language.model": A}
        return "2 of its weights have no place in our network: proj_decoder.weight, language.model"
    if how == "newer layout":
        renamed = made.renamed(weights, (r"conv_module\.norm", "conv_module.batch_norm"))
        weights.clear()
        weights |= renamed
        return "encoder.encoders.0.conv_module.batch_norm.weight, encoder.encoders.0.conv_module.batch_norm.bias"
    if how == "two layouts":
        weights["proj_encoder.bias"] = weights["encoder.embed.0.bias"]
        return "1 of its weights have no place in our network: proj_encoder.bias"
    if how == "missing":
        del weights[feed]
        return "1 weights are not there, which ours calls audio.blocks.1.feed.0.weight"
    if how == "no CTC":
        del weights["ctc.ctc_lo.weight"]
        return "without ctc.ctc_lo.weight: half a model, or a newer layout"
    if how in ("a gap", "no decoder"):
        part = "encoder.encoders.0." if how == "a gap" else "decoder.decoders."
        for name in [name for name in weights if name.startswith(part) and not name.endswith("pointwise_cov1.weight")]:
            del weights[name]
        return "without encoder.encoders.0.norm_ff.weight" if how == "a gap" else "without decoder.decoders.0"
    if how == "a gap between":
        renamed = made.renamed(weights, (r"^encoder\.encoders\.1\.", "encoder.encoders.2."))
        weights.clear()
        weights |= renamed
        return "without encoder.encoders.1:"
    if how == "shape":
        weights[feed] = weights[feed][:, :-1]
        return f"1 of its weights do not fit the others: {feed} (24 x 15 where 24 x 16 is due)"
    if how == "wide":
        name = f"{block}conv_module.pointwise_cov1.weight"
        weights[name] = weights[name].expand(-1, -1, 3).contiguous()
        return f"{name} (32 x 16 x 3 where 32 x 16 is due)"
    if how == "flat":
        weights["encoder.encoders.0.conv_module.depthwise_conv.weight"] = A
        return "without encoder.encoders.0.conv_module.depthwise_conv.weight of 3 dimensions"
    if how == "scalar":
        weights[f"{block}self_attn.pos_bias_u"] = torch.tensor(1.0)
        return f"{block}self_attn.pos_bias_u ( where 2 x 1 x 8 is due)"
    if how == "heads":
        for name in [name for name in weights if "pos_bias" in name]:
            weights[name] = torch.zeros(3, 8)
        return "width 16 and 3 heads"
    if how == "no heads":
        weights["encoder.encoders.0.self_attn.pos_bias_u"] = torch.zeros(0, 8)
        return "n_heads 0"
    if how == "even kernel":
        weights["encoder.encoders.0.conv_module.depthwise_conv.weight"] = torch.zeros(16, 1, 30)
        return "kernel 30"
    if how == "wider than its weights":                     # of which a network would take 400 GB
        weights["encoder.encoders.0.norm_ff.weight"] = torch.zeros(16_384)
        weights["encoder.encoders.0.feed_forward.w_1.weight"] = torch.zeros(65_536, 1)
        return "numbers are fewer than a network of its sizes has"
    if how == "integers":
        weights["decoder.embed.0.weight"] = weights["decoder.embed.0.weight"].to(torch.int32)
        return "decoder.embed.0.weight (40 x 16 whole numbers where 40 x 16 is due)"
    if how == "NaN":
        weights[feed][3, 3] = torch.nan
        return "audio.blocks.1.feed.0.weight has values that are no numbers"
    if how == "infinite":
        weights["ctc.ctc_lo.bias"][1] = -torch.inf
        return "ctc.bias has values that are no numbers"
    assert how == "variance"
    weights["encoder.frontend.trunk.bn1.running_var"].fill_(-1.0)
    return "its network gives values that are no numbers"


@pytest.mark.parametrize("how", ["left over", "newer layout", "two layouts", "missing", "no CTC", "a gap", "a gap between",
                                 "no decoder", "shape", "wide", "flat", "scalar", "heads", "no heads", "even kernel",
                                 "wider than its weights",
                                 "integers", "NaN", "infinite", "variance"])
def test_weights_that_are_no_whole_network_are_refused(published, ears, how):
    said = changed(ears, how)
    message = refused(published(ears))
    assert said in message
    assert "Download it again" in message or ("data/README.md" in message and "auto_avsr" in message)


def test_what_half_precision_cannot_hold_is_refused(published, tmp_path, ears):
    ears["encoder.frontend.trunk.bn1.running_var"][0] = 1e5
    path = published(ears)
    message = refused(path, half=True)
    assert "audio.frontend.bn1.running_var goes up to 100000, and half precision to 65504.  Import it without --half" in message
    import_checkpoint(path, tmp_path / "out")


# Files that would run something


class Runs:
    """Unpickling it runs a command."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize(("hide", "options"), [
    (lambda weights, evil: {**weights, "encoder.x": evil}, {}), (lambda weights, evil: {**weights, "encoder.x": evil}, LEGACY),
    (lambda weights, evil: {"state_dict": weights, "callbacks": [{"deep": (evil,)}]}, {}),
    (lambda weights, evil: evil, LEGACY)])
def test_nothing_in_a_file_is_run(tmp_path, monkeypatch, hide, options):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, marker = tmp_path / "base.pth", tmp_path / "was here"
    torch.save(hide({"encoder.a": torch.zeros(3)}, Runs(marker)), path, **options)
    assert f"holds {os.system.__module__}.system, which is code and not weights; none of it was run" in refused(path)
    assert not marker.exists()
    with path.open("rb") as file:                           # the file is what it is meant to be
        torch.load(file, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_in_a_bare_pickle_is_run(tmp_path, protocol):
    path, marker = tmp_path / "base.pth", tmp_path / "was here"
    path.write_bytes(pickle.dumps(Runs(marker), protocol))
    message = refused(path)
    assert "system, which is code" in message or "no checkpoint" in message
    assert not marker.exists()


@pytest.mark.parametrize("options", [{}, LEGACY])
def test_a_training_with_its_settings_in_python_is_refused_by_name(tmp_path, options):
    held = {"state_dict": {"model.encoder.a": torch.zeros(3)}, "hyper_parameters": argparse.Namespace(lr=1e-3)}
    torch.save(held, tmp_path / "epoch=9.ckpt", **options)
    message = refused(tmp_path / "epoch=9.ckpt")
    assert "holds argparse.Namespace, which is code" in message
    assert "save its state_dict alone" in message


@pytest.mark.slow
def test_nothing_of_ours_unpickles_what_it_does_not_know():
    loads = 0
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called, given = ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if path.parts[-2:] == ("label", "run.py") and called == "pickle.load":
                continue                                     # of a file without a name that the same process wrote
            if path.parts[-2:] == ("workers", "task.py") and called == "pickle.loads":
                continue                                     # of a job that the command gave to its own cluster
            assert called not in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.jit.load", "joblib.load"), path
            assert given.get("allow_pickle", "False") == "False", path
            if called == "torch.load":
                loads += 1
                assert given.get("weights_only") == "True", path
    assert loads


# The command


def test_the_command_imports_and_says_what_it_has(published, tmp_path, ears):
    result = CliRunner().invoke(main, ["import", str(published(ears)), "-o", str(tmp_path / "out"), "--half"])
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'out'}\n")
    for said in ("auto_avsr, by sound alone: 2 audio and 2 decoder blocks of width 16, 4 M parameters, 40 tokens.",
                 "none of the published", "Apache-2.0", "LRS3", "half the size; log-probabilities move by up to 0.04",
                 f"--model {tmp_path / 'out'} --modality a"):
        assert said in result.stderr


def test_the_command_can_be_quiet_and_has_a_folder_of_its_own(published, tmp_path, ears, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["import", str(published(ears)), "--quiet"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "models/base\n", "")
    assert checkpoint.load("models/base").name == "base"


@pytest.mark.parametrize("what", ["missing", "a folder", "noise", "half 30000"])
def test_the_command_gives_bad_input_one_line_and_status_1(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    path = broken(tmp_path, what)
    result = CliRunner().invoke(main, ["import", str(path)])
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    assert result.stderr.startswith(f"error: {path}: ")
    assert not (tmp_path / "models").exists(), "nothing is left of it"


def test_help_says_what_half_costs():
    help_text = " ".join(CliRunner().invoke(main, ["import", "--help"]).output.split())
    assert "half the size; log-probabilities move by up to 0.04, as measured on small networks" in help_text


@pytest.mark.slow
def test_the_command_as_it_is_typed(forked, published, tmp_path, ears):
    done = forked.run(["import", published(ears), "--output-dir", tmp_path / "out"])
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'out'}\n"), done.stderr
    assert "40 tokens" in done.stderr
    assert "Warning" not in done.stderr


def test_the_data_page_lists_every_known_file_with_its_command():
    page = (Path(__file__).parents[1] / "data" / "README.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for family in importers.FAMILIES:
        for known in family.known:
            (row,) = [row for row in rows if f"| {known.md5} |" in row]
            senses = {"v": "lips", "a": "sound", "av": "both at once"}[known.modality]
            assert f"| `{known.file}` | {senses} |" in row
            assert f"`avsr import {known.file} -o models/" in row
            if known.wer is not None:
                assert f"| {known.wer:.1f} |" in row or f"| {known.wer} |" in row
    folders = [row.rsplit("-o models/", 1)[1].split()[0].strip("`|") for row in rows if "-o models/" in row]
    assert len(set(folders)) == len(folders), "two of them would overwrite each other"
