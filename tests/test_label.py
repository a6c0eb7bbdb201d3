"""Labels of raw recordings: what passes the limits, nothing lost or done twice however a run is killed, and all is counted."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from places import ROOT

from avsr import cache, manifest
from avsr.cli import main
from avsr.errors import AvsrError, BadManifest
from avsr.label import LabelLimits, LabelSettings, Recording, find_recordings, label, run
from avsr.label.journal import RecordingEnd
from avsr.label.labeller import LabelJob, Labelled, Share, work
from avsr.label.labels import Label, utterance, why_left_out, why_unlabelled
from avsr.label.readings import Reading, Readings, fingerprint
from avsr.manifest import TimedWord
from avsr.prepare import PrepareSettings
from avsr.prepare.crop import Outcome
from avsr.rates import SAMPLES_PER_FRAME

GOOD = Label("../raw/a.mp4", "a", 50, 100, 0, 0.0, 0.0, 2.0, "good morning", "good morning", 0.95, 0.9, 0.0, "en", "en",
             (TimedWord("good", 0.1, 0.4), TimedWord("morning", 0.4, 0.9)))
MADE_BY = {"model": "made-up", "weights": "0", "second": None, "second_weights": None, "language": None}


@pytest.mark.parametrize(("changed", "reason"), [
    ({}, None),
    ({"end_frame": 60}, r"length: 0\.40 s \(limits 0\.8 and 30 s\)"),
    ({"missing": 0.5}, r"no face: in 50% of the frames \(limit 25%\)"),
    ({"still": 1.0}, r"still mouth: in 100% of the frames"),
    ({"in_step": -0.1}, r"not in step: mouth and sound score -0\.1 \(limit 1\)"),
    ({"text": "", "confidence": None, "disagreement": None}, "no words"),
    ({"text": "...", "confidence": 0.9, "disagreement": None}, "no words"),
    ({"language": "de"}, "language: de was detected, en is expected"),
    ({"confidence": 0.1}, r"confidence: 0\.10 \(limit"),
    ({"lowest": 0.1}, r"word confidence: 0\.10 for one word \(limit"),
    ({"disagreement": 0.99}, r"disagreement: 99% of the words in the second pass \(limit"),
    ({"text": "a"}, r"speech rate: 0\.5 letters a second"),
    ({"text": "good morning all of you " * 4}, r"speech rate: 38\.0 letters a second"),
    ({"end_frame": 400, "text": "so it is " * 20}, "repeats itself: the text compresses"),
    ({"person": None, "missing": None, "still": None, "in_step": None}, None),
])
def test_what_is_left_out_and_why(changed, reason):
    found = why_left_out(replace(GOOD, **changed), LabelLimits())
    assert (found is None) == (reason is None)
    if reason is not None:
        import re

        assert re.match(reason, found), found


def test_a_segment_that_cannot_be_kept_is_not_recognised():
    unread = replace(GOOD, text=None, second=None, confidence=None, disagreement=None)
    assert why_unlabelled(unread, LabelLimits()) is None
    assert "not in step" in why_unlabelled(replace(unread, in_step=-3.0), LabelLimits())


def test_a_row_says_that_its_text_is_a_machines():
    row = utterance(GOOD, "base")
    assert (row.id, row.speaker, row.split, row.start, row.end) == ("a@2.00", "a/0", "train", 2.0, 4.0)
    assert row.labels == {"text_by": "base", "text_confidence": "0.95", "in_step": "2.0"}
    assert utterance(replace(GOOD, name="Valid/talk"), "base").split == "valid"


@pytest.mark.parametrize(("wrong", "message"), [
    ({"min_confidence": 2}, r"min_confidence 2: must be a share from 0 to 1\.  "),
    ({"min_seconds": 5, "max_seconds": 4}, r"min_seconds 5, max_seconds 4: the first must be below the second"),
    ({"language": "Klingon"}, r"language 'Klingon': not known\.  Use"),
])
def test_wrong_limits_are_named(wrong, message):
    with pytest.raises(AvsrError, match=message):
        LabelLimits(**wrong)


def fake_work(job: LabelJob, tick, *, settings: LabelSettings, prepare: PrepareSettings) -> RecordingEnd:
    """In place of labeller.work: nine segments whose labels follow from the recording's name. A recording `bad` fails."""
    if job.name == "bad":
        return RecordingEnd(job.media, 0.0, 0, (), "cannot be read: it is damaged")
    for i in range(9):
        rng = np.random.default_rng([i, *job.name.encode()])
        one = replace(GOOD, media=job.media, name=job.name, start_frame=100 * i, end_frame=100 * i + 50,
                      confidence=round(float(rng.uniform(0.5, 1)), 4), text=f"text number {i} of it")
        if one.start_frame not in job.known:
            CALLS.append(one.id)
        row = utterance(one, job.model)
        if why_left_out(one, settings.limits) is not None or row.id in job.packed:
            tick(Labelled(one))
        else:
            images = rng.integers(0, 255, (3, 96, 96), np.uint8)
            audio = (rng.integers(-2**14, 2**14, 3 * SAMPLES_PER_FRAME) / 2**15).astype(np.float32)
            packed = cache.pack(row.id, cache.Cached(images, np.zeros(3, bool), audio), {"text": row.text})
            tick(Labelled(one, row, Outcome(row.id, packed, share=0.0, sound_hash=row.id)))
        tick(Share((i + 1) / 9))
    return RecordingEnd(job.media, 36.0, 9)


CALLS: list[str] = []                 # segments that were recognised


class Killed(BaseException):
    """The process ends here."""


def fake_pool(n_at_once: int, kill_after: int | None = None):
    """In place of workers.run, in this process: the parts of `n_at_once` jobs come in turn, and after `kill_after` all ends."""
    def pool_run(task, jobs, n_workers, *, on_part, **_):
        made = {}
        for number, job in enumerate(jobs):
            parts: list = []
            made[number] = parts, task(job, lambda *part, parts=parts: parts.extend(part))
        left, n_done = list(made), 0
        while left:
            for number in left[:n_at_once][::-1]:            # later ones first
                parts, end = made[number]
                if kill_after is not None and n_done >= kill_after:
                    raise Killed
                n_done += 1
                if parts:
                    on_part(number, parts.pop(0))
                else:
                    left.remove(number)
                    yield number, end
    return pool_run


@pytest.fixture
def raw(tmp_path) -> list[Recording]:
    (tmp_path / "raw").mkdir()
    for name in "abcd":
        (tmp_path / "raw" / f"{name}.mp4").write_bytes(b"made up")
    return find_recordings(tmp_path / "raw")[0]


@pytest.fixture
def faked(monkeypatch):
    monkeypatch.setattr(run, "work", fake_work)
    monkeypatch.setattr(run, "_made_by", lambda settings, progress: MADE_BY)
    CALLS.clear()

    def labelled(recordings, folder, *, at_once=2, kill_after=None, **limits):
        monkeypatch.setattr(run.workers, "run", fake_pool(at_once, kill_after))
        settings = LabelSettings("made-up", limits=LabelLimits(**limits))
        return label(recordings, folder, settings=settings, prepare=PrepareSettings(max_bytes=150_000))

    return labelled


def contents(folder: Path) -> dict[str, bytes]:
    """What must not depend on how a run went: labels.jsonl has lines in the order in which they were made."""
    return {path.name: path.read_bytes() for path in folder.iterdir()
            if path.suffix in (".tar", ".tsv", ".html") or path.name in ("manifest.jsonl", "cache.json")}


def test_killed_at_any_moment_and_resumed_it_leaves_what_an_undisturbed_run_leaves(raw, tmp_path, faked):
    whole = faked(raw, tmp_path / "whole", at_once=1, min_confidence=0.7)
    assert 0 < len(whole.prepared.utterances) < 36
    assert len(list((tmp_path / "whole").glob("shard-*.tar"))) > 1
    assert sorted(CALLS) == sorted(set(CALLS))
    expected = contents(tmp_path / "whole")
    for moment in (1, 5, 17, 30, 44, 61):
        folder = tmp_path / "killed"
        with pytest.raises(Killed):
            faked(raw, folder, at_once=3, kill_after=moment, min_confidence=0.7)
    CALLS.clear()
    faked(raw, folder, at_once=2, min_confidence=0.7)
    assert contents(folder) == expected
    assert len(CALLS) < 36, "labels of the killed runs were used"
    before = len(CALLS)
    assert faked(raw, folder, min_confidence=0.7).n_before == 4
    assert len(CALLS) == before, "nothing was done again"


def test_half_a_line_that_a_kill_left_is_passed_over(raw, tmp_path, faked):
    whole = contents((faked(raw, tmp_path / "whole")).prepared.manifest.parent)
    with (tmp_path / "whole" / "labels.jsonl").open("a") as file:
        file.write('{"label": {"media": "../raw/a')
    faked([*raw, Recording(str(tmp_path / "raw" / "e.mp4"), "e")], tmp_path / "whole")
    assert contents(faked(raw, tmp_path / "whole").prepared.manifest.parent).keys() >= whole.keys()


def test_other_limits_need_no_other_pass_of_the_model(raw, tmp_path, faked):
    few = faked(raw, tmp_path / "out", min_confidence=0.9)
    CALLS.clear()
    more = faked(raw, tmp_path / "out", min_confidence=0.6)
    again = faked(raw, tmp_path / "out", min_confidence=0.9)
    assert CALLS == []
    assert len(few.prepared.utterances) < len(more.prepared.utterances)
    assert [row.id for row in few.prepared.utterances] == [row.id for row in again.prepared.utterances]
    for row in manifest.read(tmp_path / "out"):
        assert cache.read_entry(tmp_path / "out", row.cache, name=row.id).n_frames == 3


def test_whole_recordings_are_drawn_for_validation(raw, tmp_path, faked):
    corpus = faked(raw, tmp_path / "out", min_confidence=0.6)
    splits = {row.media: set() for row in corpus.prepared.utterances}
    for row in corpus.prepared.utterances:
        splits[row.media].add(row.split)
    assert sorted(map(sorted, splits.values())) == [["train"], ["train"], ["train"], ["valid"]]
    assert "Split 'valid' has all segments of 1 recording, drawn by recording." in corpus.summary()


def test_all_that_is_left_out_is_counted_and_shown(raw, tmp_path, faked):
    broken = Recording(str(tmp_path / "raw" / "bad.mp4"), "bad")
    corpus = faked([*raw, broken], tmp_path / "out", min_confidence=0.75)
    kept, listed = len(corpus.prepared.utterances), (tmp_path / "out" / "dropped.tsv").read_text().splitlines()[1:]
    assert kept + len(listed) == 36 + 1
    assert "../raw/bad.mp4\tcannot be read: it is damaged" in listed
    text = corpus.summary()
    assert f"{kept} utterances" in text
    assert "of 36 segments" in text
    assert f"{36 - kept:6d}  confidence" in text
    assert "The texts were written by the model made-up and compared with those of made-up on the same sound in faint noise. " \
           "Nobody has read them" in text
    with pytest.raises(BadManifest, match=r"1 of 5 recordings could not be read \(limit 5%\); what the others gave can be"):
        corpus.check()
    page = (tmp_path / "out" / "labels.html").read_text()
    assert f"Kept: {kept}" in page
    assert f"Left out: confidence: {36 - kept}" in page
    assert "data:video/mp4;base64," in page
    with pytest.raises(BadManifest, match=r"none of 36 segments was kept, 36 because of this: confidence\."):
        faked(raw, tmp_path / "none", min_confidence=1.0).check()


def test_labels_of_another_model_are_refused(raw, tmp_path, faked, monkeypatch):
    faked(raw, tmp_path / "out")
    monkeypatch.setattr(run, "_made_by", lambda settings, progress: {**MADE_BY, "weights": "1"})
    with pytest.raises(BadManifest, match=r"labels\.jsonl: the labels were made in another way \(weights: 0 against 1\)\.  "):
        faked(raw, tmp_path / "out")
    lines = (tmp_path / "out" / "labels.jsonl").read_text().splitlines()
    monkeypatch.setattr(run, "_made_by", lambda settings, progress: MADE_BY)
    (tmp_path / "out" / "labels.jsonl").write_text("\n".join([lines[0], '{"label": {"media": 3}}', ""]))
    with pytest.raises(BadManifest, match=r"labels\.jsonl: line 2 is not of this program's kind"):
        faked(raw, tmp_path / "out")


def test_recordings_are_found_by_name_and_their_texts_are_not_used(tmp_path):
    for name in ("a.mp4", "a.wav", "b.wav", "b.txt", "sub/c.mkv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"made up")
    found, dropped = find_recordings(tmp_path)
    assert [(Path(one.media).name, one.name) for one in found] == [("a.mp4", "a"), ("b.wav", "b"), ("c.mkv", "sub/c")]
    (text,) = dropped
    assert (Path(text.item).name, text.reason) == ("b.txt", "a text that is not used: --label writes its own")


@pytest.mark.parametrize(("arguments", "message"), [
    (["folder", "IN", "OUT", "--min-confidence", "0.5"], "--min-confidence: it has a meaning only with --label MODEL.  "),
    (["grid", "IN", "OUT", "--label", "base"], "--label base: it is for a folder of recordings without texts.  "),
    (["folder", "IN", "OUT", "--label", "tiny.en", "--language", "Elvish"], "language 'Elvish': not known.  "),
])
def test_what_cannot_be_labelled_is_one_sentence(tmp_path, arguments, message):
    (tmp_path / "IN").mkdir()
    (tmp_path / "IN" / "a.mp4").write_bytes(b"made up")
    done = CliRunner().invoke(main, ["prepare", *(str(tmp_path / one) if one in ("IN", "OUT") else one for one in arguments)])
    assert done.exit_code == 1
    assert message in done.stderr


@pytest.mark.slow
def test_a_real_recording_is_cut_read_twice_and_packed(tiny_en, tmp_path, monkeypatch):
    """The worker itself on the demo clip: segments, texts, confidence, agreement, and the mouth that made the sound."""
    readings = Readings(tiny_en, None)
    assert fingerprint(readings, "en")["model"] == "tiny.en"
    with pytest.raises(AvsrError, match=r"does not write language 'de'"):
        fingerprint(readings, "de")
    monkeypatch.setattr("avsr.label.readings.loaded", lambda *names: readings)
    clip = ROOT / "data" / "demo" / "hello.mp4"
    job = LabelJob(str(clip), "hello.mp4", "hello", "tiny.en", {}, frozenset())
    parts: list = []
    limits = LabelLimits(min_confidence=0.6, max_disagreement=0.5, min_in_step=-10)
    settings = LabelSettings("tiny.en", limits=limits)
    end = work(job, lambda *part: parts.extend(part), settings=settings, prepare=PrepareSettings())
    made = [part for part in parts if isinstance(part, Labelled)]
    assert end.reason is None
    assert end.n_segments == len(made) >= 1
    assert "this video was made by a computer" in " ".join(one.label.text or "" for one in made).lower()
    kept = [one for one in made if one.outcome is not None]
    assert kept
    for one in kept:
        assert one.outcome.packed.n_frames == one.label.end_frame - one.label.start_frame
        assert one.label.words[-1].end <= one.label.seconds
        assert one.label.missing == 0.0
    assert all(one.clip is not None for one in made if one.utterance is None)
    known = {one.label.start_frame: one.label for one in made}
    monkeypatch.setattr(Readings, "read", lambda *inputs, **named: pytest.fail("the labels are known"))
    again: list = []
    work(replace(job, known=known), lambda *part: again.extend(part), settings=settings, prepare=PrepareSettings())
    assert [one for one in again if isinstance(one, Labelled)] == made


def test_what_cannot_be_read_costs_only_its_recording(tmp_path, monkeypatch):
    monkeypatch.setattr("avsr.label.readings.loaded", lambda *names: None)
    (tmp_path / "a.mp4").write_bytes(b"no recording")
    job = LabelJob(str(tmp_path / "a.mp4"), "a.mp4", "a", "m", {}, frozenset())
    end = work(job, lambda *part: None, settings=LabelSettings("m"), prepare=PrepareSettings())
    assert end.reason.startswith("cannot be read: ")
    assert end.n_segments == 0


def test_a_reading_holds_what_a_label_holds():
    assert set(Reading.__dataclass_fields__) < set(Label.__dataclass_fields__)
    assert json.loads(json.dumps(MADE_BY)) == MADE_BY
