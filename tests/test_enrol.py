"""Enrolment: one person's lips are learnt, checked, kept small and deleted; whatever is wrong with the videos is said."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from made_corpus import config, corpus
from places import SHARED
from safetensors.torch import load_file

from avsr import checkpoint, manifest
from avsr.checkpoint.kept import enrolled_folder
from avsr.cli import main
from avsr.dataset import ManifestRow
from avsr.enrol import Check, EnrolSettings, adaptation, delete, enrol, enrolled, run
from avsr.enrol.adaptation import adapt, load_lips
from avsr.enrol.check import by_lips
from avsr.enrol.material import Material, _check_amount, _check_one_person, write_folds
from avsr.enrol.people import check_name, work_folder
from avsr.enrol.texts import given_texts, laid_over
from avsr.enrol.videos import check_one_face, find_videos
from avsr.errors import AvsrError
from avsr.label import Recording
from avsr.label.labels import Label
from avsr.models.hybrid import HybridAVSR, HybridDims
from avsr.runtime import no_progress
from avsr.text import write_sentencepiece
from avsr.train import train


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("AVSR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("AVSR_CACHE", str(tmp_path / "cache"))
    before = torch.get_num_threads()
    yield tmp_path / "data/lips"
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus of made-up words, and small lips that were trained on it for a few steps."""
    folder = tmp_path_factory.mktemp("made")
    corpus(folder)
    trained = train(config(folder, "data.p_audio=0.3"), folder / "run")
    return folder, str(trained.model)


@pytest.fixture
def material(made):
    return Material([ManifestRow(row, made[0]) for row in manifest.read(made[0]) if row.split == "train"][:6],
                    Counter({"no face: in 90% of the frames (limit 25%)": 2}))


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(adaptation, "STEPS", 2)
    monkeypatch.setattr(run, "N_FOLDS", 2)


# Names, and what is kept

@pytest.mark.parametrize(("name", "problem"), [
    ("", "not a name that every file system can hold"), ("a/b", "not a name that"), ("..", "not a name that"),
    ("a\nb", "not a name that"), ("x" * 101, "not a name that"), (" anna", "not a name that"),
    ("grid", "the name of a model already"), ("tiny.en", "the name of a model already"), ("none", "the name of a model"),
])
def test_names_that_cannot_be_given(name, problem):
    with pytest.raises(AvsrError, match=problem):
        check_name(name)


def test_other_scripts_and_capitals_are_names():
    for name in ("anna", "Anna", "Zoë-2", "安娜"):
        check_name(name)


# What the user says

def test_a_text_is_laid_over_the_segments_in_which_its_words_are_heard():
    heard = ["Bin blue at F2 now.", "", "Bin read by G3 again"]
    text = "bin blue at f two now well bin red by g three again"
    assert laid_over(heard, text, "a.mp4") == ["bin blue at f two now well", "", "bin red by g three again"]
    assert laid_over(["", ""], text, "a.mp4") == ["", ""]


def test_a_text_of_something_else_does_not_fit():
    with pytest.raises(AvsrError, match=r"a\.mp4: the given text does not fit: \d+% of its words are not what is heard"):
        laid_over(["bin blue at f two now"], "the quick brown fox jumps over it", "a.mp4")


def test_where_texts_are_found_and_missing(tmp_path):
    videos = [Recording("/v/a.mp4", "a"), Recording("/v/b.mp4", "b")]
    one = tmp_path / "talk.txt"
    one.write_text("Good morning, F2.")
    assert given_texts(None, videos) == {}
    assert given_texts(one, videos[:1]) == {"a": "good morning f two"}
    with pytest.raises(AvsrError, match="one text for 2 videos"):
        given_texts(one, videos)
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(AvsrError, match=r"no text for 1 of 2 videos, b\.mp4 for one"):
        given_texts(tmp_path, videos)
    (tmp_path / "b.txt").write_text("...")
    with pytest.raises(AvsrError, match=r"b\.txt: there is no word in it"):
        given_texts(tmp_path, videos)
    with pytest.raises(AvsrError, match="no such file or folder"):
        given_texts(tmp_path / "none", videos)


# What the videos show

def test_files_and_folders_are_found_and_named_once(tmp_path):
    for name in ("x/a.mp4", "y/a.mp4", "y/b.mkv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"made up")
    found = find_videos([tmp_path / "x/a.mp4", tmp_path / "y", tmp_path / "y/b.mkv"])
    assert [one.name for one in found] == ["a", "a-2", "b"]
    with pytest.raises(AvsrError, match="no such file"):
        find_videos([tmp_path / "c.mp4"])


def test_two_who_speak_in_one_video_are_counted():
    label = Label("talk.mp4", "talk", 0, 100, person=0)
    _check_one_person([label, replace(label, start_frame=100, end_frame=108, person=1)])
    with pytest.raises(AvsrError, match=r"talk\.mp4: 2 people speak in it, one for 4 s and another for 2 s"):
        _check_one_person([label, replace(label, start_frame=100, end_frame=150, person=1)])


def test_too_little_speech_is_said_with_the_reason(material):
    class Corpus:
        ends = (1, 2)

    _check_amount(replace(material, rows=material.rows * 10), Corpus())
    with pytest.raises(AvsrError, match=r"2 videos: .* s of speech in 2 segments can be used .*2 because of this: no face"):
        _check_amount(replace(material, rows=material.rows[:2]), Corpus())


@pytest.mark.slow
def test_the_faces_of_two_people_differ_and_those_of_one_do_not(real_data):
    one, again, other = (Recording(str(SHARED / "data/grid" / name), name) for name in
                         ("s4/bbilzs.mkv", "s4/swwc4a.mkv", "s26/" + next((real_data / "grid/s26").glob("*.mkv")).name))
    check_one_face([one, again])
    with pytest.raises(AvsrError, match=r"its face is another person's than that of .*bbilzs\.mkv \(distance \d+, limit 130\)"):
        check_one_face([one, other])


# Which lips

def test_what_cannot_be_enrolled_with_is_said(tmp_path, tiny_en):
    for name, problem in (("tiny.en", "ears and no lips"), ("default", "would not believe these lips")):
        with pytest.raises(AvsrError, match=problem):
            load_lips(name, no_progress)
    pieces = write_sentencepiece(tmp_path / "tokenizer.json", ["<unk>", "\u2581a", "b"], {"\u2581a": -1.0, "b": -2.0})
    network = HybridAVSR(HybridDims(width=8, n_heads=2, n_inside=8, n_audio_layers=1, n_decoder_layers=1, n_vocab=5))
    imported = checkpoint.Checkpoint("imported", network, pieces, pad_seconds=None)
    with pytest.raises(AvsrError, match="an imported network, which cannot be trained further"):
        load_lips(str(checkpoint.save(imported, tmp_path / "imported")), no_progress)


# The whole road

def test_only_the_adapted_weights_are_kept(made, material, tmp_path, few_steps):
    lips = load_lips(made[1], no_progress)
    rows = write_folds(material, [0, 1])
    assert [row.split for row in manifest.read(rows)] == ["valid"] * 2 + ["train"] * 4
    adapted = adapt(lips, made[1], rows, tmp_path / "run", device="cpu", progress=no_progress)
    folder = checkpoint.save(replace(adapted, name="anna", base=made[1]), enrolled_folder("anna"))
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    stored = load_file(folder / "model.safetensors")
    assert stored
    assert all(name.startswith(adaptation.ADAPTED.rstrip("*")) for name in stored)
    before, after = lips.model.state_dict(), checkpoint.load("anna").model.state_dict()
    assert {name for name in after if not torch.equal(before[name], after[name])} == set(stored)
    assert checkpoint.load("anna", lips=False).modalities == ("a",)


def test_a_person_is_enrolled_listed_used_and_deleted(made, material, tmp_path, few_steps, monkeypatch, place):
    monkeypatch.setattr(run, "gather", lambda *_, **__: material)
    monkeypatch.setattr(run, "check_one_face", lambda *_: None)
    scores = iter([5, 1, 1])

    def read(lips, rows):
        return replace(by_lips(lips, rows), errors=next(scores))

    monkeypatch.setattr(run, "by_lips", read)
    video = tmp_path / "talk.mp4"
    video.write_bytes(b"made up")
    done = enrol("anna", [video], EnrolSettings(lips=made[1], ears=made[1], device="cpu"))
    assert done.check.better
    assert set(done.check.by_sound) == set(done.check.by_both) == {"0 dB", "-5 dB"}
    assert [path.name for path in place.iterdir()] == ["anna"]
    (person,) = enrolled()
    assert (person.name, person.base, person.n_bytes) == ("anna", made[1], done.n_bytes)
    listed = CliRunner().invoke(main, ["enrol", "--list"]).stdout
    assert f"held-out words wrong, {done.check.before:.0f} % before" in listed
    assert f"{place / 'anna'} (" in listed
    assert "avsr enrol anna --delete" in listed
    with pytest.raises(AvsrError, match="anna: this name is taken"):
        enrol("anna", [video])
    deleted = CliRunner().invoke(main, ["enrol", "anna", "--delete"])
    assert (deleted.exit_code, enrolled()) == (0, [])
    assert "Nobody is enrolled" in CliRunner().invoke(main, ["enrol", "--list"]).stderr


def test_lips_that_did_not_get_better_are_not_kept(made, material, tmp_path, few_steps, monkeypatch, place):
    monkeypatch.setattr(run, "gather", lambda *_, **__: material)
    monkeypatch.setattr(run, "check_one_face", lambda *_: None)
    monkeypatch.setattr(run, "by_lips", lambda lips, rows: replace(by_lips(lips, rows), errors=1))
    video = tmp_path / "talk.mp4"
    video.write_bytes(b"made up")
    with pytest.raises(AvsrError, match=r"anna: not kept, because the lips did not get better: by lips alone \d+ % of \d+"):
        enrol("anna", [video], EnrolSettings(lips=made[1], ears=made[1], device="cpu"))
    assert not list(place.iterdir())


def test_a_killed_enrolment_leaves_what_delete_removes(place):
    (work_folder("anna") / "cache").mkdir(parents=True)
    delete("anna")
    assert not list(place.iterdir())
    with pytest.raises(AvsrError, match="anna: nothing is kept under this name; enrolled: nobody"):
        delete("anna")


def test_the_check_says_what_the_lips_are_worth():
    check = Check(180, 58.3, 22.4, {"0 dB": 20.0, "-5 dB": 61.0}, {"0 dB": 11.0, "-5 dB": 20.4})
    assert check.sentence("base") == (
        "By lips alone 22 % of 180 held-out words are wrong, 58 % before; at 0 dB 20 % by sound alone (base) and 11 % by both, "
        "at -5 dB 61 % by sound alone (base) and 20 % by both.")
    assert not replace(check, after=58.3).better


@pytest.mark.parametrize("n", [3, 4, 10])
def test_every_row_is_held_out_once(n):
    parts = run.folds(n)
    assert len(parts) == run.N_FOLDS
    assert [i for part in parts for i in part] == list(range(n))


def test_the_command_says_what_it_needs(tmp_path: Path):
    for given in ([], ["anna"]):
        found = CliRunner().invoke(main, ["enrol", *given])
        assert found.exit_code == 1
        assert "error: avsr enrol: no name or no video is given." in found.stderr
