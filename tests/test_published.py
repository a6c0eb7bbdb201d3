"""The road of an imported model from a file to text: `avsr import`, then `transcribe` and `benchmark`, on real clips.

Weights are random, so the words mean nothing: what is shown is that each uses what it can, says so, and times its words.
"""

import json
from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from click.testing import CliRunner
from made_published import make_tokenizer

from avsr import media
from avsr.cache import read_mouth_crop
from avsr.checkpoint import Checkpoint, load, save
from avsr.cli import main
from avsr.errors import AvsrError, BadCheckpoint, BadManifest, BadMedia, NoFace
from avsr.lips import MOUTH_CROPS
from avsr.lm import NGrams
from avsr.models.hybrid import HybridAVSR, HybridDims
from avsr.text import write_sentencepiece
from avsr.transcribe import transcribe

LAYERS = {"v": {"n_video_layers": 1}, "a": {"n_audio_layers": 1}, "av": {"n_video_layers": 1, "n_audio_layers": 1}}
PIECES = ["<unk>", *(" " * (i % 3 == 0) + letter for i, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model for each modality, small and sure of what it writes."""
    folder, models = tmp_path_factory.mktemp("imported"), {}
    pieces = [piece.replace(" ", "\u2581") for piece in PIECES]
    tokenizer = write_sentencepiece(folder / "tokenizer.json", pieces, dict.fromkeys(pieces[1:], -2.0))
    for modality, layers in LAYERS.items():
        torch.manual_seed(3)
        dims = HybridDims(width=32, n_heads=4, n_inside=64, n_decoder_layers=1, n_vocab=len(PIECES) + 2, n_fusion=16, **layers)
        model = HybridAVSR(dims).eval()
        with torch.no_grad():
            model.ctc.weight.mul_(8)
            model.decoder.out.weight.mul_(8)
            model.decoder.out.bias[-1] -= 6                 # not over at once
        models[modality] = Checkpoint(modality, model, tokenizer, mouth_crop=MOUTH_CROPS["auto-avsr"],
                                      video_trained="v" in modality, pad_seconds=None,
                                      search={"beam_size": 4, "ctc_weight": 0.1, "length_penalty": 0.0})
    return models


@pytest.fixture(scope="module")
def clip(real_data, face_detector):
    return media.read(real_data / "grid/s1/bbaf3s.mpg")


# From a file to text

@pytest.mark.slow
@pytest.mark.parametrize(("name", "modality"), [("vsr", "v"), ("asr", "a"), ("av", "av")])
def test_an_oracles_file_is_imported_and_transcribes_a_real_clip(name, modality, tmp_path, real_data, face_detector):
    torch.save(oracles.state_dict(name), tmp_path / f"{name}.pth")
    make_tokenizer(tmp_path)
    run = CliRunner().invoke(main, ["import", str(tmp_path / f"{name}.pth"), "-o", str(tmp_path / "model")])
    assert run.exit_code == 0, run.output
    clip = str(real_data / "grid/s1/bbaf3s.mpg")
    arguments = ["transcribe", clip, "--model", str(tmp_path / "model"), "--modality", modality, "--beam-size", "5",
                 "--format", "srt,json", "--word-timestamps", "-o", str(tmp_path)]
    run = CliRunner().invoke(main, arguments)
    assert run.exit_code == 0, run.output
    told = json.loads((tmp_path / "bbaf3s.json").read_text())
    assert (told["modality"], told["model"]) == (modality, "model")
    words = [word for segment in told["segments"] for word in segment["words"]]
    assert words, "random weights that write nothing show nothing"
    assert all(0 <= word["start"] < word["end"] <= 3 for word in words)
    assert (tmp_path / "bbaf3s.srt").read_text().startswith("1\n00:00:0")


# Each by what it can

@pytest.mark.parametrize("modality", ["v", "a", "av"])
def test_left_to_itself_it_goes_by_what_it_can(made, clip, modality):
    told = transcribe(clip, model=made[modality])
    assert told.modality == modality
    assert told.words
    ends = [word.end for word in told.words]
    assert ends == sorted(ends)
    assert ends[-1] <= 3
    assert all(0 <= word.confidence <= 1 for word in told.words)


@pytest.mark.slow
def test_lips_left_to_themselves_look_where_somebody_is_heard_to_speak(made, clip):
    """The clip begins with half a second of silence."""
    heard, blind = transcribe(clip, model=made["v"]), transcribe(clip, model=made["v"], modality="v")
    assert (heard.modality, blind.modality) == ("v", "v")
    assert heard.segments[0].seek > 20
    assert blind.segments[0].seek == 0


@pytest.mark.parametrize(("modality", "asked", "says"), [
    ("v", "a", "v: this model uses video alone, not sound alone.  Use --modality v or auto"),
    ("v", "av", "not sound and video together"), ("av", "a", "uses sound and video together, not sound alone"),
    ("av", "v", "Use --modality av or auto"), ("a", "av", "uses sound alone, not sound and video together")])
def test_what_it_cannot_go_by_is_one_sentence(made, clip, modality, asked, says):
    with pytest.raises(AvsrError, match=says):
        transcribe(clip, model=made[modality], modality=asked)


def test_a_recording_that_lacks_what_it_needs_is_one_sentence(made, clip):
    with pytest.raises(BadMedia, match="no picture in it, and this model uses video alone"):
        transcribe(clip.audio, model=made["v"])
    with pytest.raises(BadMedia, match="no picture in it, and this model uses sound and video together"):
        transcribe(clip.audio, model=made["av"])
    with pytest.raises(BadMedia, match="no sound in it, and this model uses sound and video together"):
        transcribe(replace(clip, audio=None), model=made["av"])


@pytest.mark.parametrize(("modality", "remedy"), [("v", "Use a model that uses sound"), ("av", "Use a model that uses sound")])
def test_without_a_face_nothing_is_made_up(made, clip, modality, remedy):
    hidden = replace(clip, video=np.zeros_like(clip.video))
    with pytest.raises(NoFace, match=remedy):
        transcribe(hidden, model=made[modality], vad=False)


@pytest.mark.slow
def test_its_search_is_its_authors_unless_told_otherwise(made, clip):
    usual = transcribe(clip, model=made["a"], vad=False)
    assert transcribe(clip, model=made["a"], vad=False, beam_size=4, ctc_weight=0.1).text == usual.text
    others = [transcribe(clip, model=made["a"], vad=False, **given).text for given in ({"beam_size": 1}, {"ctc_weight": 0.9})]
    assert any(text != usual.text for text in others)
    with pytest.raises(AvsrError, match=r"ctc_weight 1: must be from 0 to below 1"):
        transcribe(clip, model=made["a"], ctc_weight=1)


@pytest.mark.parametrize(("settings", "says"), [
    ({"temperature": 0.4}, "a: its texts are searched, not drawn by chance"),
    ({"lm_weight": 0.5}, "lm_weight 0.5: there is no language model for it"),
    ({"lm_weight": -1}, "lm_weight -1: must be from 0 to 100"),
])
def test_a_setting_without_effect_is_not_passed_over(made, clip, settings, says):
    with pytest.raises(AvsrError, match=says):
        transcribe(clip, model=made["a"], **settings)


# A language model beside it

ARPA = """\\data\\
ngram 1=5

\\1-grams:
-1.0 <s>
-1.0 </s>
-3.0 <unk>
-0.1 AB
-0.2 DEF

\\end\\
"""


@pytest.mark.slow
def test_a_language_model_of_words_has_a_say(made, clip, tmp_path):
    path = tmp_path / "words.arpa"
    path.write_text(ARPA)
    alone = transcribe(clip, model=made["a"], vad=False)
    helped = transcribe(clip, model=made["a"], vad=False, lm=path, lm_weight=3.0)
    model = NGrams.open(path)
    # It knows none of these words, and each costs: there are fewer of them.
    assert 0 < len(helped.words) < len(alone.words) / 2
    assert transcribe(clip, model=made["a"], vad=False, lm=model, lm_weight=3.0).text == helped.text
    with pytest.raises(BadCheckpoint, match="cannot be read"):
        transcribe(clip, model=made["a"], lm=tmp_path / "none.arpa")


# In a benchmark

@pytest.fixture(scope="module")
def prepared(real_data, face_detector, tmp_path_factory):
    """Two clips as published networks know mouths, and a folder with our own crops."""
    folders = {}
    clips = tmp_path_factory.mktemp("clips")
    (clips / "test" / "s1").mkdir(parents=True)
    for name in ("bbaf3s", "bbas1s"):
        (clips / "test" / "s1" / f"{name}.mpg").write_bytes((real_data / f"grid/s1/{name}.mpg").read_bytes())
        (clips / "test" / "s1" / f"{name}.txt").write_text("bin blue at f three soon")
    for recipe in ("auto-avsr", "avsr"):
        folders[recipe] = tmp_path_factory.mktemp(recipe) / "prepared"
        arguments = ["prepare", "folder", str(clips), str(folders[recipe]), "--mouth-crop", recipe, "--workers", "1"]
        run = CliRunner().invoke(main, arguments)
        assert run.exit_code == 0, run.output
    return folders


@pytest.mark.slow
@pytest.mark.parametrize(("modality", "conditions"), [("v", {("v", None)}), ("a", {("a", None), ("a", 0.0)}),
                                                      ("av", {("av", None), ("av", 0.0)})])
def test_a_benchmark_asks_it_by_what_it_can(made, prepared, tmp_path, modality, conditions):
    save(made[modality], tmp_path / modality, half=False)
    arguments = ["benchmark", str(prepared["auto-avsr"]), "--model", str(tmp_path / modality), "--noise", "white", "--snr",
                 "clean,0", "-o", str(tmp_path / "runs")]
    run = CliRunner().invoke(main, arguments)
    assert run.exit_code == 0, run.output
    rows = [json.loads(line) for line in (tmp_path / "runs" / "results.jsonl").read_text().splitlines()]
    assert {(row["modality"], row["snr_db"]) for row in rows} == conditions
    assert len(rows) == 2 * len(conditions)
    assert all(row["search"] == "beam 4, CTC 0.1" and row["loss"] > 0 for row in rows)
    if modality != "av":
        assert "so it is not measured with" in run.output


def test_mouths_of_another_crop_are_refused_with_the_command_that_makes_the_right_ones(made, prepared, tmp_path):
    save(made["v"], tmp_path / "v", half=False)
    arguments = ["benchmark", str(prepared["avsr"]), "--model", str(tmp_path / "v"), "-o", str(tmp_path / "runs")]
    run = CliRunner().invoke(main, arguments)
    assert run.exit_code == 1
    assert "avsr prepare --mouth-crop auto-avsr" in run.output
    with pytest.raises(BadManifest, match=r"mouth_crop\.landmarks"):
        read_mouth_crop(prepared["avsr"], load(tmp_path / "v").mouth_crop)


def test_explain_says_that_it_cannot_look_inside(made, tmp_path, real_data):
    save(made["v"], tmp_path / "v", half=False)
    run = CliRunner().invoke(main, ["explain", str(real_data / "grid/s1/bbaf3s.mpg"), "--model", str(tmp_path / "v")])
    assert run.exit_code == 1
    assert "explain looks into gates" in run.output
