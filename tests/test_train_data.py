"""What a run learns from: optional manifests, utterances to validate with, noise of its own speakers; what lacks is told."""

from dataclasses import replace

import numpy as np
import pytest
from made_corpus import CONFIG, config, corpus

from avsr import manifest
from avsr.dataset import read_prepared
from avsr.errors import BadManifest
from avsr.train.data import noise_mixer, training_manifests, validation_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    corpus(folder, n_train=12, n_valid=7, n_sight=1)
    return folder


def test_an_optional_manifest_joins_where_it_exists_and_is_told_where_not(folder, monkeypatch):
    monkeypatch.chdir(folder)
    said = []
    text = CONFIG + ('[data.optional]\nmore = {manifest = "more/manifest.jsonl", teaches = "more people"}\n'
                     'off = false\n')
    assert training_manifests(config(folder, text=text), said.append) == [folder / "manifest.jsonl"]
    assert said == ["more/manifest.jsonl does not exist, so the model does not learn from more people."]
    (folder / "more").mkdir()
    manifest_path = folder / "more" / "manifest.jsonl"
    manifest_path.touch()
    assert training_manifests(config(folder, text=text), said.append) == [folder / "manifest.jsonl"]
    assert said[1:] == ["more/manifest.jsonl holds no prepared utterance of split 'train', so the model does not learn from "
                        "more people."]
    corpus(folder / "more")
    for there in (text, text.replace("more/manifest.jsonl", "more")):                  # a folder stands for its manifest
        assert training_manifests(config(folder, text=there), said.append)[1:] == [manifest_path]
    assert len(said) == 2
    (folder / "more.csv").write_text("media,text\na.mp4,so\n")
    with pytest.raises(BadManifest, match=r"more\.csv: a table, .*avsr prepare folder"):
        training_manifests(config(folder, text=text.replace("more/manifest.jsonl", "more.csv")), said.append)


def test_a_folder_stands_for_the_manifest_in_it(folder):
    by_folder = config(folder, "data.train=['.']", "data.valid=['.']")
    assert training_manifests(by_folder, print) == training_manifests(config(folder), print)
    assert validation_rows(by_folder) == validation_rows(config(folder))


def test_so_many_utterances_validate_evenly_picked(folder):
    def picked(most: int) -> list[str]:
        return [row.utterance.id for row in validation_rows(config(folder, f"data.max_valid={most}"))]

    everything = [f"u{i}" for i in range(12, 19)]
    assert picked(0) == picked(500) == picked(7) == everything
    assert picked(3) == ["u12", "u14", "u16"]
    assert picked(1) == ["u12"]


def test_without_a_validation_split_the_remedy_is_told(tmp_path):
    corpus(tmp_path, n_valid=0)
    with pytest.raises(BadManifest, match=r"no prepared utterance of split 'valid'.*avsr prepare again with --valid-share"):
        validation_rows(config(tmp_path))


def test_noise_of_the_training_speakers_never_has_the_speaker_in_it(folder):
    rows, _ = read_prepared([folder / "manifest.jsonl"], "train", 30)
    spread = [replace(row, utterance=replace(row.utterance, speaker=f"s{i % 5}")) for i, row in enumerate(rows)]
    said = []
    usual = CONFIG.replace("noise = {}\n", "")
    mixer = noise_mixer(config(folder, text=usual), spread, said.append)
    assert (sorted(mixer.sources), said) == (["babble", "pink", "speech-shaped", "talker", "white"], [])
    for seed in range(8):
        plan = mixer.sources["babble"].plan(8000, np.random.default_rng(seed), without="s3")
        assert 3 <= len(plan.talkers) <= 4
        assert "s3" not in plan.talkers
    alone = noise_mixer(config(folder, text=usual), rows, said.append)       # all of s1
    assert sorted(alone.sources) == ["pink", "speech-shaped", "white"]
    assert len(said) == 2
    assert noise_mixer(config(folder), rows, said.append) is None


def test_preparing_draws_the_split_and_says_so(tmp_path):
    import soundfile

    from avsr.corpora import folder as folder_corpus
    from avsr.prepare import PrepareSettings, prepare

    for i in range(8):
        (tmp_path / "clips" / f"p{i % 2}").mkdir(parents=True, exist_ok=True)
        path = tmp_path / "clips" / f"p{i % 2}" / f"c{i}.wav"
        soundfile.write(path, 0.1 * np.sin(np.arange(16_000) / 9), 16_000)
        path.with_suffix(".txt").write_text("one two")
    found = folder_corpus.read(tmp_path / "clips")

    def made(share: float):
        settings = PrepareSettings(modality="a", workers=1, valid_share=share)
        return prepare(found.utterances, tmp_path / "out", settings=settings)

    first = made(0.25)
    assert "The corpus has no split 'valid'; drawn for it: 2 of 8 training utterances (25 % of each" in first.summary()
    assert "8 utterances (6 train, 2 valid)" in first.summary()
    drawn = {row.id: row.split for row in manifest.read(first.manifest)}
    again = made(0.25)                                       # nothing is done anew, and the same are drawn
    assert again.n_done_before == 8
    assert {row.id: row.split for row in manifest.read(again.manifest)} == drawn
    none = made(0.0)
    assert {row.split for row in manifest.read(none.manifest)} == {"train"}
    assert "No utterance is in split 'valid', which avsr train needs: leave out --valid-share 0" in none.summary()
