"""Pre-training: clusters of the sound as targets, no text read, resumed bit for bit, and a model that training starts from."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from made_corpus import config, corpus, say
from safetensors.torch import load_file

from avsr import manifest
from avsr.checkpoint import load
from avsr.cli import main
from avsr.combine import open_recogniser
from avsr.dataset import ManifestRow, frame_labels, label_words, read_prepared, share_of
from avsr.errors import BadCheckpoint, BadManifest
from avsr.manifest import Utterance
from avsr.pretrain import pretrain
from avsr.pretrain.clusters import Clusters, acoustic_features, timed
from avsr.rates import SAMPLE_RATE
from avsr.runtime import no_progress
from avsr.train import TrainOptions, train
from avsr.train.initialise import initialise

SHORT = ("pretrain.clusters=4", "train.steps=4", "train.valid_every=2", "train.save_every=1", "data.augment={}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    corpus(folder)
    return folder


def weights(run):
    return load_file(run / json.loads((run / "state.json").read_text())["tensors"])


def same(one, other):
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def test_clusters_tell_the_tones_of_words_apart(folder):
    rows, _ = read_prepared([folder], "train", 30.0)
    clusters = Clusters.fit(rows, 4, seed=0, progress=no_progress)
    words = say(["ab", "cd", "ab"], seed=9).audio
    assert words is not None
    found = clusters.of(words)
    middles = [found[3], found[9], found[15]]
    assert middles[0] == middles[2] != middles[1]


def test_features_have_a_row_for_each_video_frame_and_no_loudness():
    audio = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE + 300).astype(np.float32)
    made = acoustic_features(audio)
    assert made.shape == (26, 156)
    np.testing.assert_allclose(acoustic_features(audio * 0.5)[:25], made[:25], atol=0.02)


def test_runs_of_clusters_become_frame_labels_again():
    labels = np.array([2, 2, 0, 1, 1, 1, 2])
    words = timed(labels)
    row = ManifestRow(Utterance("a", "a.mp4", "", "s", "train", words=words), None)
    numbers = label_words([row], 10)
    made = frame_labels(words, len(labels), numbers)
    names = {number: word for word, number in numbers.items()}
    assert [names[one] for one in made] == [f"cluster {label}" for label in labels]


@pytest.mark.slow
def test_texts_are_not_read(folder, tmp_path):
    other = tmp_path / "silent"
    other.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            (other / path.name).write_bytes(path.read_bytes())
    rows = [replace(row, text="", words=None) for row in manifest.read(folder / "manifest.jsonl")]
    manifest.write(other / "manifest.jsonl", rows)
    pretrain(config(folder, *SHORT), tmp_path / "one")
    pretrain(config(other, *SHORT), tmp_path / "two")
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit_and_training_starts_from_it(folder, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    said = []
    done = pretrain(config(folder, *SHORT), whole, TrainOptions(say=said.append))
    assert any(line.startswith("valid at step 2: frame error %") for line in said)
    pretrain(config(folder, *SHORT), parts, TrainOptions(minutes=1e-9))
    assert json.loads((parts / "state.json").read_text())["step"] == 1
    pretrain(config(folder, *SHORT), parts, TrainOptions(resume=True))
    assert same(weights(whole), weights(parts))
    assert done.scores.keys() == {"a", "v", "av"}
    assert done.model is not None
    with pytest.raises(BadCheckpoint, match=r"pre-trained without text, so it writes none yet\.  Train it"):
        open_recogniser(load(done.model), "av")
    settings = config(folder, f"model.start={done.model}", "data.share=0.3", "train.steps=1", "train.valid_every=1")
    start = initialise(settings, tmp_path / "start")
    pretrained = load_file(done.model / "model.safetensors")
    name = "video.frontend.over_time.weight"
    assert start.model.state_dict()[name].half().equal(pretrained[name].half())
    assert train(settings, tmp_path / "fine").model is not None


def test_a_share_of_the_transcripts_is_drawn_by_speaker_and_grows(folder):
    rows = [ManifestRow(Utterance(f"{speaker}-{i}", "x.mp4", "ab", speaker, "train"), folder)
            for speaker, n in (("s1", 40), ("s2", 3)) for i in range(n)]
    tenth, third = (share_of(rows, share, seed=1) for share in (0.1, 0.3))
    count = {speaker: sum(row.utterance.speaker == speaker for row in tenth) for speaker in ("s1", "s2")}
    assert count == {"s1": 4, "s2": 1}
    assert {row.utterance.id for row in tenth} <= {row.utterance.id for row in third}
    assert share_of(rows, 1.0, seed=1) == rows
    assert share_of(rows, 0.1, seed=2) != tenth


def test_more_clusters_than_frames_are_refused(folder):
    rows, _ = read_prepared([folder], "train", 30.0)
    with pytest.raises(BadManifest, match=r"fewer than the 9000 clusters\.  Prepare more clips"):
        Clusters.fit(rows, 9000, seed=0, progress=no_progress)


def test_a_corpus_without_sound_is_refused_by_the_command(tmp_path):
    corpus(tmp_path, 0, 0, n_sight=4)
    rows = list(manifest.read(tmp_path / "manifest.jsonl"))
    manifest.write(tmp_path / "manifest.jsonl", [*rows[:3], replace(rows[3], split="valid")])
    config(tmp_path, *SHORT)
    done = CliRunner().invoke(main, ["pretrain", str(tmp_path / "config.toml"), "-o", str(tmp_path / "run"),
                                     *(word for one in SHORT for word in ("--set", one)), "--set", "data.p_audio_visual=0",
                                     "--set", "data.p_audio=0"])
    assert done.exit_code == 1
    assert "0 frames of sound in 3 utterances" in done.stderr
