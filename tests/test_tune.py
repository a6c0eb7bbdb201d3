"""Weights chosen on validation data: never worse there than none, the same noise for every weight, one help at a time."""

import gzip

import pytest
import torch
from click.testing import CliRunner
from made_corpus import corpus

from avsr.benchmark.conditions import BenchmarkSettings
from avsr.checkpoint import Checkpoint, save
from avsr.cli import main
from avsr.errors import AvsrError
from avsr.metrics import Rate
from avsr.metrics.counting import Score
from avsr.models.avsr import AVSR, Dims
from avsr.text import write_characters
from avsr.tune import Measured, Tuned, tune

WORDS = "\\data\\\nngram 1=5\n\n\\1-grams:\n-9\t<s>\n-1\t</s>\n-0.5\tab\n-0.5\tcd\n-0.5\tef\n\n\\end\\\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared corpus, a model of random weights, and a word model of the three words."""
    folder = tmp_path_factory.mktemp("corpus")
    corpus(folder)
    tokenizer = write_characters(folder / "tokenizer.json")
    torch.manual_seed(1)
    dims = Dims(width=32, n_heads=2, n_audio_layers=1, n_fusion_layers=0, n_decoder_layers=1, n_context=24,
                n_vocab=tokenizer.no_timestamps + 1, video_frontend=None)
    save(Checkpoint("random", AVSR(dims), tokenizer, pad_seconds=None), folder / "random")
    with gzip.open(folder / "words.arpa.gz", "wt") as file:
        file.write(WORDS)
    return folder


def settings(folder, **others):
    return BenchmarkSettings(**{"models": (str(folder / "random"),), "split": "valid", "modalities": ("a",),
                                "noises": ("white",), "snrs": (0.0,), "beam_size": 2,
                                "lm": str(folder / "words.arpa.gz")} | others)


def measured(weight, errors):
    return Measured(weight, Rate(100 * errors / 10, None, None, 1, "utterance", Score(errors, 10, errors, 0, 0)), {})


def test_the_best_weight_has_the_fewest_errors_and_is_the_smallest_of_equals():
    tuned = Tuned("lm", (measured(0.0, 5), measured(0.3, 4), measured(0.5, 4), measured(1.0, 6)))
    assert tuned.best.weight == 0.3
    assert tuned.option == "--lm-weight 0.3"
    assert Tuned("hotwords", (measured(0.0, 3), measured(1.0, 3))).option == "--hotword-weight 0"


@pytest.mark.slow
def test_every_weight_is_measured_in_the_same_noise_and_zero_is_no_help(folder, tmp_path):
    tuned = tune(folder, tmp_path, settings(folder), weights=(0.5,))
    assert [one.weight for one in tuned.measured] == [0.0, 0.5]
    assert tuned.best.rate.score.errors <= tuned.measured[0].rate.score.errors
    rows = [(tmp_path / f"lm_weight-{weight}" / "results.jsonl").read_text().splitlines() for weight in ("0", "0.5")]
    assert len(rows[0]) == len(rows[1]) == 3
    assert not list(tmp_path.glob("lm_weight-*/noise.jsonl"))
    assert (tmp_path / "noise.jsonl").is_file()


@pytest.mark.parametrize(("others", "message"), [
    ({"lm": None}, "none of --lm"), ({"rescore": "x", "hotwords": "ab"}, "3 of --lm"), ({"lm_weight": 0.3}, "none of --lm")])
def test_one_weight_is_tuned_at_a_time(folder, tmp_path, others, message):
    with pytest.raises(AvsrError, match=message):
        tune(folder, tmp_path, settings(folder, **others))


@pytest.mark.parametrize("weights", ["a", "0,-1", "nan", ""])
def test_weights_that_are_none_are_refused_in_one_sentence(folder, tmp_path, weights):
    done = CliRunner().invoke(main, ["tune", str(folder), "--lm", "x.arpa", "--weights", weights, "-o", str(tmp_path)])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: weights {weights!r}: not numbers from 0 to 100.  Write them as")


@pytest.mark.slow
def test_the_command_shows_a_table_and_the_option_to_use(folder, tmp_path):
    done = CliRunner().invoke(main, ["tune", str(folder), "--model", str(folder / "random"), "--noise", "white", "--snr", "0",
                                     "--hotwords", "ab,cd,ef", "--weights", "2", "-o", str(tmp_path), "-q", "--beam-size", "2"])
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["weight", "all"]
    assert lines[-1] in ("--hotword-weight 0", "--hotword-weight 2")
