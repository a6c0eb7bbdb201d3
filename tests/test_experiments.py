"""The scripts of experiments/: what they compute from rows, that their noise is the same in every run, what they may reuse."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from avsr.cache import Cached
from avsr.checkpoint import Checkpoint
from avsr.decode import DecodeOptions
from avsr.models.avsr import AVSR, Dims
from avsr.text import write_letters

GRID = Path(__file__).resolve().parents[1] / "experiments" / "grid"


@pytest.fixture(scope="module")
def evaluate():
    """experiments/grid/evaluate.py as a module, with its folder where Python looks, as when it is run."""
    sys.path.insert(0, str(GRID))
    try:
        spec = importlib.util.spec_from_file_location("evaluate", GRID / "evaluate.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(GRID))


CURVE = {-5.0: 80.0, 0.0: 60.0, 5.0: 30.0, 10.0: 10.0, 20.0: 5.0}


@pytest.mark.parametrize(("both", "gain"), [
    (60.0, 0.0),                                            # the lips add nothing
    (45.0, 2.5), (30.0, 5.0), (20.0, 7.5), (7.5, 15.0), (5.0, 20.0),
    (70.0, -2.5), (80.0, -5.0),                             # they do harm
    (4.0, math.inf), (90.0, -math.inf),                     # beyond what was measured
])
def test_gain_is_read_off_the_straight_line_between_levels(evaluate, both, gain):
    assert evaluate.gain_db(CURVE, both) == pytest.approx(gain)


def test_gain_takes_the_nearest_level_of_a_curve_that_rises_again(evaluate):
    assert evaluate.gain_db({0.0: 50.0, 5.0: 10.0, 10.0: 30.0, 20.0: 0.0}, 20.0) == pytest.approx(3.75)
    assert evaluate.gain_db({0.0: 50.0, 5.0: 50.0, 10.0: 40.0}, 45.0) == pytest.approx(7.5)
    assert evaluate.gain_db(CURVE, 10.0, at_db=5.0) == pytest.approx(5.0)


def test_the_law_is_to_be_no_worse_than_the_better_one_within_half_a_point(evaluate):
    assert evaluate.law(10.5, 10.0, 40.0)
    assert evaluate.law(10.5, 40.0, 10.0)
    assert not evaluate.law(10.6, 10.0, 40.0)
    assert evaluate.law(0.0, 0.0, 0.0)


def row(modality, snr_db, hypothesis, one="s1-1", noise="babble", speaker="s1"):
    """A row of the results, of a reference of ten words."""
    return {"model": "m", "sha256": "0", "beam_size": 5, "temperatures": [0.0], "split": "test", "id": one, "speaker": speaker,
            "modality": modality, "noise": None if snr_db is None else noise, "snr_db": snr_db,
            "reference": "a b c d e f g h i j", "hypothesis": hypothesis}


def test_the_table_marks_a_broken_law_and_tells_the_gain(evaluate):
    right, wrong = "a b c d e f g h i j", "a b c d e"
    rows = [row("a", None, right), row("v", None, "a b c d e f g"), row("av", None, "a b c d e f g h i"),
            row("a", 0.0, wrong), row("av", 0.0, right), row("a", 5.0, right), row("a", 0.0, "x", noise="white")]
    lines = evaluate.table(evaluate.cells_of(rows, "babble"), [None, 5.0, 0.0])
    assert lines[2:5] == ["| clean | 0.0 | 30.0 | **10.0** | +10.0 |", "| 5 | 0.0 | 30.0 | - | - |",
                          "| 0 | 50.0 | 30.0 | 0.0 | -30.0 |"]
    assert "kept at 1 of 2 levels" in lines[6]
    assert "worth 5.0 dB" in lines[8]


def test_rows_are_found_again_though_a_kill_cut_the_last_one(evaluate, tmp_path):
    path = tmp_path / "rows.jsonl"
    kept, cut = row("a", -5.0, "a b"), row("av", -5.0, "a")
    evaluate.Rows(path).add([kept])
    with path.open("a") as file:
        file.write(json.dumps(cut)[:40])
    rows = evaluate.Rows(path)
    assert kept in rows
    assert cut not in rows
    rows.add([cut])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [kept, cut]
    assert {**kept, "model": "the same weights elsewhere"} in rows
    for name, value in {"sha256": "1", "modality": "v", "noise": "white", "snr_db": 0.0, "id": "s1-2", "beam_size": 1,
                        "temperatures": [0.0, 0.2]}.items():
        assert {**kept, name: value} not in rows, name


@pytest.mark.parametrize("name", ["babble", "talker", "noisex-babble", "music", "natural", "white"])
def test_noise_is_the_same_in_every_run_and_at_every_level(evaluate, real_data, name):
    speech = np.sin(np.arange(16_000) / 20).astype(np.float32)

    one_run, another = (evaluate.open_noises([name], real_data) for _ in range(2))
    once = evaluate.disturb(speech, "s1-x", name, 0.0, one_run)
    other = evaluate.disturb(speech, "s1-y", name, 0.0, another)    # first, so that what was read before differs
    again = evaluate.disturb(speech, "s1-x", name, 0.0, another)
    louder = evaluate.disturb(speech, "s1-x", name, -20.0, another)
    assert np.array_equal(once.audio, again.audio)
    assert (once.audio - speech) * 10 == pytest.approx(louder.audio - speech, abs=1e-3)
    assert not np.array_equal(once.audio, other.audio)
    assert [once.snr_db, louder.snr_db] == pytest.approx([0, -20], abs=0.01)


def test_babble_is_six_voices_of_the_three_talkers_nobody_trained_on(evaluate, real_data):
    babble = evaluate.open_noises(["babble"], real_data)["babble"]
    assert len(babble.choose(np.random.default_rng(0))) == 6
    files = [path for sources in babble.talkers.values() for path in sources]
    assert {path.parent.name for path in files} == {"s38", "s39", "s40"}
    assert len(set(files)) == len(files)


def test_sound_alone_may_be_taken_from_both_where_no_layer_fuses(evaluate, hello, tmp_path):
    torch.manual_seed(0)
    tokenizer = write_letters(tmp_path / "tokenizer.json")
    sound = hello[:32_000]
    mouths = np.random.default_rng(0).integers(0, 256, (50, 96, 96), dtype=np.uint8)
    clip = Cached(mouths, np.zeros(50, bool), sound)
    for n_fusion in (0, 1):
        model = AVSR(Dims(width=32, n_heads=2, n_audio_layers=2, n_video_layers=1, n_fusion_layers=n_fusion, n_decoder_layers=1,
                          n_vocab=34, n_context=32, lips="compact")).eval()
        for gate, parameter in model.named_parameters():
            if gate.endswith("_gate"):
                parameter.data.fill_(1.0)
        checkpoint = Checkpoint("tiny", model, tokenizer, lips_trained=True, pad_seconds=None)
        alone, both = (evaluate.encode(checkpoint, modality, [sound], [clip]) for modality in ("a", "av"))
        assert torch.equal(alone.audio, both.audio) == (n_fusion == 0)
        found = evaluate.recognise(checkpoint, ["v", "a", "av"], [sound], [clip], DecodeOptions(2, temperatures=(0.0,)))
        by_itself = evaluate.recognise(checkpoint, ["a"], [sound], [clip], DecodeOptions(2, temperatures=(0.0,)))
        assert found["a"][0]["hypothesis"] == by_itself["a"][0]["hypothesis"]
        assert set(found) == {"a", "v", "av"}
