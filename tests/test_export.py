"""Exports: the graphs say what torch says, run without torch, and a folder that is not whole is told in one sentence."""

import json
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from made_corpus import say

from avsr import checkpoint as checkpoints
from avsr.checkpoint import Checkpoint, load
from avsr.checkpoint.exported import find_export, identity, kept_export
from avsr.cli import main
from avsr.decode import DecodeOptions
from avsr.errors import AvsrError, BadCheckpoint, BadOutput
from avsr.export import export
from avsr.export.files import _products_of_wide_inputs, quantised, traced
from avsr.export.graphs import GraphMaker
from avsr.export.run import check
from avsr.memory import Memory
from avsr.models.avsr import AVSR, Dims
from avsr.models.hybrid import HybridAVSR, HybridDims
from avsr.models.onnx import OnnxModel, open_session
from avsr.recogniser import Recogniser
from avsr.text import write_characters
from avsr.transcribe.run import load_models

DEMO = Path(__file__).parents[1] / "data" / "demo" / "hello.mp4"
MODALITIES = ["a", "v", "av"]
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Checkpoint:
    tokenizer = write_characters(tmp_path_factory.mktemp("letters") / "tokenizer.json")
    torch.manual_seed(0)
    made = AVSR(Dims(width=32, n_heads=2, n_audio_layers=1, n_video_layers=1, n_fusion_layers=1, n_decoder_layers=1,
                     n_vocab=tokenizer.no_timestamps + 1, n_context=32, video_frontend="compact", n_reliability=8)).eval()
    torch.nn.init.normal_(made.decoder.embedding.weight, std=0.3)
    for name, parameter in made.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.constant_(parameter, 0.7)
    made.reliability.detector.radius.fill_(50.0)
    made.requires_grad_(False)
    return Checkpoint("small", made, tokenizer, pad_seconds=None, video_trained=True, alignment_heads=((0, 1), (0, 0)))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("exports")
    checkpoints.save(model, place / "torch", half=False)
    done = CliRunner().invoke(main, ["export", str(place / "torch"), "--output-dir", str(place / "small"), "--quiet"])
    assert (done.exit_code, done.stdout.strip()) == (0, str(place / "small")), done.output
    return place / "small"


@pytest.fixture(scope="module")
def graphs(folder) -> Checkpoint:
    return load(folder)


def encoded(checkpoint: Checkpoint, modality: str):
    clips = [say(["ab"], seed=1), say(["cd", "ef", "ab"], seed=2), say(["ef"], seed=3)]
    clips[1].missing[-5:] = True
    recogniser = Recogniser(checkpoint)
    return recogniser, recogniser.encode([one.audio for one in clips] if "a" in modality else None, clips, modality)


@pytest.mark.slow
@pytest.mark.parametrize("modality", MODALITIES)
@torch.no_grad()
def test_the_graphs_say_what_torch_says(model, graphs, modality):
    (by_torch, ours), (by_graphs, theirs) = encoded(model, modality), encoded(graphs, modality)
    for name in (field.name for field in fields(Memory) if field.name != "seconds"):
        one, other = getattr(ours, name), getattr(theirs, name)
        assert (one is None) == (other is None), name
        assert one is None or np.abs(one.numpy().astype(float) - other).max() < TOLERANCE, name
    for name, log_probs in by_torch.model.ctc_log_probs(ours).items():
        assert np.abs(log_probs.numpy() - by_graphs.model.ctc_log_probs(theirs)[name]).max() < TOLERANCE
    tokens = np.random.default_rng(0).integers(0, 20, (3, 4))
    cache, other_cache = by_torch.model.start(ours), by_graphs.model.start(theirs)
    first = by_torch.model.read(torch.from_numpy(tokens), cache, [1, 3])
    assert np.abs(first.numpy() - by_graphs.model.read(tokens, other_cache, [1, 3])).max() < TOLERANCE
    for rows in (np.repeat(np.arange(3), 2), np.array([1, 0, 2, 2, 5, 4])):
        cache.select_rows(torch.from_numpy(rows))
        other_cache.select_rows(rows)
        step = by_torch.model.step(torch.from_numpy(tokens[:, :1].repeat(2, axis=0)), cache)
        assert np.abs(step.numpy() - by_graphs.model.step(tokens[:, :1].repeat(2, axis=0), other_cache)).max() < TOLERANCE
    assert np.abs(by_graphs.model.start(theirs).again().own[0][0]).size == 0


@pytest.mark.slow
@pytest.mark.parametrize("modality", MODALITIES)
@torch.no_grad()
def test_texts_scores_and_times_are_those_of_torch(model, graphs, modality):
    (by_torch, ours), (by_graphs, theirs) = encoded(model, modality), encoded(graphs, modality)
    options = DecodeOptions(beam_size=3, temperatures=(0.0, 0.4), logprob_threshold=-0.1, max_tokens=20)
    texts, same = by_torch.decode(ours, options), by_graphs.decode(theirs, options)
    assert [one.tokens for one in texts] == [one.tokens for one in same]
    assert [one.logprob for one in texts] == pytest.approx([one.logprob for one in same], abs=1e-2)
    tokens = [[2, 3, 4], [5, 6], [7, 8, 9, 2]]
    for one, other in zip(by_torch.score(ours, tokens), by_graphs.score(theirs, tokens), strict=True):
        assert np.abs(one.numpy() - other).max() < TOLERANCE
    seconds = ours.seconds.tolist()
    for one, other in zip(by_torch.align(ours, tokens, seconds), by_graphs.align(theirs, tokens, seconds), strict=True):
        assert [(word.text, word.start, word.end) for word in one] == [(word.text, word.start, word.end) for word in other]


@pytest.mark.slow
def test_an_export_transcribes_without_torch(folder):
    code = ("import sys\nfrom avsr.cli import main\n"
            f"main(['transcribe', {str(DEMO)!r}, '--model', {str(folder)!r}, '-q'], standalone_mode=False)\n"
            "assert 'torch' not in sys.modules, 'torch was imported'\nprint('without')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["without"], done.stderr[-2000:]


@pytest.mark.slow
def test_int8_is_smaller_and_near(folder, tmp_path):
    import onnx

    whole = onnx.load(folder / "decode_a.onnx")
    small = quantised(onnx.load(folder / "decode_a.onnx"))
    onnx.save(small, tmp_path / "decode_a.onnx")
    rounded = [node.input for node in small.graph.node if node.op_type in ("MatMulInteger", "DynamicQuantizeMatMul")]
    kept = [node.name for node in small.graph.node if node.op_type in ("MatMul", "Gemm")]
    assert kept == _products_of_wide_inputs(whole)
    assert len(rounded) > len(kept) > 0
    assert len(small.SerializeToString()) < len(whole.SerializeToString())
    rng = np.random.default_rng(0)
    given = {one.name: rng.standard_normal([2 if d.dim_param else d.dim_value for d in one.type.tensor_type.shape.dim])
             .astype(np.float32) for one in whole.graph.input}
    given |= {"tokens": np.array([[2, 3], [4, 5]]), "rows": np.arange(2), "positions": np.array([0, 1]),
              "audio_mask": np.ones((2, 2), bool)}
    exact, near = (open_session(path / "decode_a.onnx").run(["logits"], given)[0] for path in (folder, tmp_path))
    assert 0 < np.abs(exact - near).max() < 0.05 * np.abs(exact).max()


@pytest.mark.slow
@torch.no_grad()
def test_attention_without_a_mask_works_block_by_block_and_its_result_is_not_rounded(tmp_path):
    """As in models whose sound is padded to one length, such as `default`."""
    import onnx

    torch.manual_seed(0)
    hears = AVSR(Dims(width=32, n_heads=2, n_audio_layers=1, n_fusion_layers=0, n_decoder_layers=1, n_vocab=9, n_context=8,
                      video_frontend=None)).eval()
    graph = next(GraphMaker(hears, pads=True).graphs())
    whole = traced(graph, "padded")
    operations = [node.op_type for node in whole.graph.node]
    assert (operations.count("MultiHeadAttention"), operations.count("Attention")) == (1, 0)
    kept = _products_of_wide_inputs(whole)
    assert len(kept) == 2                                    # the last product of the attention, and that of the feed-forward
    small = quantised(onnx.ModelProto.FromString(whole.SerializeToString()))
    assert [node.name for node in small.graph.node if node.op_type in ("MatMul", "Gemm")] == kept
    for columns in (64, 200):
        mel = np.random.default_rng(columns).standard_normal((2, columns, 80)).astype(np.float32)
        expected = hears.encode_audio(torch.from_numpy(mel), None).numpy()
        for name, proto, tolerance in (("whole", whole, 1e-4), ("small", small, 0.1)):
            onnx.save(proto, tmp_path / f"{name}.onnx")
            assert np.abs(open_session(tmp_path / f"{name}.onnx").run(None, {"mel": mel})[0] - expected).max() < tolerance


@pytest.mark.slow
def test_a_folder_that_is_not_whole_is_told(folder, tmp_path):
    def broken(name: str) -> Path:
        copied = tmp_path / name
        shutil.copytree(folder, copied)
        return copied

    lacking = broken("lacking")
    (lacking / "decode_a.onnx").unlink()
    recogniser, memory = encoded(load(lacking), "a")
    with pytest.raises(BadCheckpoint, match=r"decode_a\.onnx: this file of the export is missing\.  Run avsr export again"):
        recogniser.decode(memory)
    altered = broken("altered")
    data = bytearray((altered / "weights.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (altered / "weights.bin").write_bytes(data)
    with pytest.raises(BadCheckpoint, match=r"weights\.bin: this file of the export was altered"):
        encoded(load(altered), "a")
    without = broken("without")
    (without / "tokenizer.json").unlink()
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json: this file of the export is missing"):
        load(without)


@pytest.mark.slow
def test_where_there_is_nothing_to_hear_or_see_the_text_is_that_of_torch(model, graphs):
    """By `none` the memory is empty: its one position is masked."""
    options = DecodeOptions(beam_size=2, temperatures=(0.0,), max_tokens=6)
    texts = []
    for one in (model, graphs, padded(graphs)):
        recogniser = Recogniser(one)
        with recogniser.no_gradients():
            texts.append(recogniser.decode(recogniser.encode([np.zeros(4000, np.float32)], None, "none"), options)[0].tokens)
    assert texts[0] == texts[1] == texts[2]


def padded(checkpoint: Checkpoint) -> Checkpoint:
    """The same, as if its sound was always padded: its decoder takes no mask of the sound."""
    ours = checkpoint.model
    made = OnnxModel(ours.dims, ours.modalities, ours._open_graph, pads=True, estimates_reliability=True)
    return replace(checkpoint, model=made)


@pytest.mark.slow
def test_what_an_export_cannot_do_is_told(folder, graphs, tmp_path):
    with pytest.raises(BadCheckpoint, match="runs on the processor alone, and cuda was asked for"):
        load(folder, device="cuda")
    with pytest.raises(BadCheckpoint, match="an export, which --lips cannot join"):
        load_models(str(folder), "grid", "av", "cpu")
    with pytest.raises(BadCheckpoint, match="is exported already"):
        export(graphs, tmp_path / "again")


@pytest.mark.slow
def test_an_export_is_found_by_name_only_if_it_is_of_the_same_model(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("AVSR_CACHE", str(tmp_path))
    assert checkpoints.export_for(folder, "cpu") == folder
    assert checkpoints.export_for("default", "cpu") is None
    shutil.copytree(folder, kept_export("default"))
    source = checkpoints.folder_of("default")
    assert find_export("default", source) is None, "it was made from another model"
    about = json.loads((kept_export("default") / "model.json").read_text())
    about["onnx"]["source"] = identity(source)
    (kept_export("default") / "model.json").write_text(json.dumps(about))
    assert checkpoints.export_for("default", "cpu") == kept_export("default")
    assert checkpoints.export_for("default", "cuda") is None
    named = load_models("default", None, "a", "cpu", kept_export=True)
    assert (named.name, type(named.model).__name__, named.modalities) == ("default", "OnnxModel", ("a",))


def test_an_export_without_a_folder_needs_a_name():
    done = CliRunner().invoke(main, ["export", "data/demo"], catch_exceptions=False)
    assert done.exit_code == 1
    assert "exports are kept by a model's name, and this is a path" in done.stderr


def test_models_that_cannot_be_exported_are_told(model):
    hybrid = HybridAVSR(HybridDims(width=16, n_heads=2, n_inside=16, n_audio_layers=1, n_decoder_layers=1, n_vocab=9, kernel=3))
    with pytest.raises(BadCheckpoint, match="its search adds CTC's scores"):
        check(replace(model, model=hybrid))
    alone = AVSR(replace(model.model.dims, n_decoder_layers=0))
    with pytest.raises(BadCheckpoint, match="it has no decoder"):
        check(replace(model, model=alone))


def test_a_missing_package_and_a_folder_of_another_kind_are_told(model, tmp_path, monkeypatch):
    (tmp_path / "model.json").write_text("{}")
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BadOutput, match=r"holds model\.json, thesis\.txt, which is no part of an export"):
        export(model, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    for damaged in ("{", '{"network": "onnx"}'):
        (tmp_path / "model.json").write_text(damaged)
        with pytest.raises(BadOutput, match=r"holds model\.json, thesis\.txt, which is no part of an export"):
            export(model, tmp_path)
    monkeypatch.setattr("avsr.export.run.find_spec", lambda name: None)
    remedy = r"the package onnx and onnxscript is not installed\.  Run pip install 'avsr\[export\]'"
    with pytest.raises(AvsrError, match=remedy):
        check(model)
