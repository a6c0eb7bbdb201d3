"""Talking faces of our own making: sentences of all sorts, clips that a corpus reader takes, kept when they are there."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from avsr import media
from avsr.corpora import folder
from avsr.errors import BadOutput

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "experiments" / "whisper_lips"))

import make_faces


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def test_the_vocabulary_is_open_and_sentences_are_as_whisper_writes_them():
    plans = make_faces.plan(2000, seed=1)
    assert len({word for clip in plans for word in words(clip.text)}) >= 400
    assert len({clip.text for clip in plans}) == len(plans)
    for clip in plans:
        assert re.fullmatch(r"[A-Z][\w ,:']*[.?!]", clip.text), clip.text
        assert 4 <= len(clip.text.split()) <= 12, clip.text
        assert not re.search(r"\ba [aeiou]", clip.text), clip.text


def test_every_tenth_is_for_validation_and_more_clips_leave_the_first_as_they_are():
    plans = make_faces.plan(40, seed=2)
    assert [i for i, clip in enumerate(plans, start=1) if clip.split == "valid"] == [10, 20, 30, 40]
    assert make_faces.plan(10, seed=2) == plans[:10]
    assert make_faces.plan(10, seed=3) != plans[:10]


def test_a_clip_is_filmed_read_as_a_corpus_and_kept(tmp_path, monkeypatch):
    plans = make_faces.plan(1, seed=1)
    tiny = [replace(clip, text="Hi.", scene=clip.scene | {"size": 96}, look=replace(clip.look, height=112, width=148))
            for clip in plans]
    monkeypatch.setattr(make_faces, "plan", lambda n_clips, seed: tiny)
    made = make_faces.make_faces(tmp_path, 1)
    assert (made.n_clips, made.n_kept) == (1, 0)
    assert made.film_s > 0.3
    corpus = folder.read(tmp_path)
    [row] = corpus.utterances
    assert not corpus.dropped
    assert (row.id, row.text, row.speaker, row.split, row.labels) == ("made-0001", "Hi.", "made-1", "train", {"trust": "no"})
    clip = media.read(row.media)
    assert clip.video.shape[1:] == (112, 148, 3)
    assert abs(clip.audio).max() > 0.1
    assert clip.shown.all()                                  # to the end: by dark frames these clips could be told
    before = Path(row.media).stat().st_mtime_ns
    assert make_faces.make_faces(tmp_path, 1).n_kept == 1
    assert Path(row.media).stat().st_mtime_ns == before
    (tmp_path / "made-0001.txt").write_text("Another seed.\n")
    with pytest.raises(BadOutput, match=r"made-0001\.txt: says 'Another seed\.', where .* --seed"):
        make_faces.make_faces(tmp_path, 1)


def test_half_a_folder_is_not_believed(tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(make_faces.talking_face, "render", stop)
    with pytest.raises(KeyboardInterrupt):
        make_faces.make_faces(tmp_path, 3)
    corpus = folder.read(tmp_path)
    assert not corpus.utterances
    assert {dropped.reason for dropped in corpus.dropped} == {"no such file"}


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BadOutput, match="cannot be written"):
        make_faces.make_faces(tmp_path / "file" / "below", 1)
