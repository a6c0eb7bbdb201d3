"""Preparing: the same mouths as live, nothing lost or twice however it is killed, and all that is dropped is counted."""

import json
import os
import random
import resource
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from forked import Commands, Program
from made_limits import ends_within
from tracking import crop, track_faces

from avsr import cache, lips, manifest, media, prepare
from avsr.errors import AvsrError, BadManifest, BadOutput, MissingAsset
from avsr.lips import MouthCropSettings
from avsr.manifest import Dropped, Utterance
from avsr.prepare import Prepared, PrepareSettings
from avsr.prepare.contact_sheets import write_contact_sheets
from avsr.prepare.crop import Job, Outcome
from avsr.rates import SAMPLES_PER_FRAME
from avsr.speakers import choose_speaker

TESTS = Path(__file__).resolve().parent
SMALL = 400_000                       # bytes of a shard: a dozen made-up utterances
N_MADE_UP = 60


def made_up(n: int = N_MADE_UP, folder: str = "/nowhere") -> list[Utterance]:
    return [Utterance(f"u{i:03d}", f"{folder}/{i // 2}.mp4", f"text {i}", speaker=f"s{i % 3}", start=i / 2, end=i / 2 + 1)
            for i in range(n)]


def fake_work(job: Job, tick, *, settings: PrepareSettings) -> list[Outcome]:
    """In place of crop.work: mouths made up from the id, after a moment. What an id ends in says what goes wrong."""
    out = []
    for utterance in job.utterances:
        rng = np.random.default_rng(int(utterance.id[1:4]))
        time.sleep(random.uniform(0, 0.01))
        tick()
        flag = Path(os.environ.get("TEST_PREPARE_FLAGS", "/nowhere")) / utterance.id
        if utterance.id.endswith("kill") or (utterance.id.endswith("once") and not flag.exists()):
            if utterance.id.endswith("once"):
                flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if utterance.id.endswith("sleep"):                   # at work, without a sign of life
            print(os.getpid(), flush=True)
            time.sleep(100)
        if utterance.id.endswith("mistake"):
            raise ZeroDivisionError("ours")
        if utterance.id.endswith("7"):
            out.append(Outcome(utterance.id, dropped="no face: in 60% of the frames (limit 25%)", share=0.6))
            continue
        audio = (rng.integers(-2**14, 2**14, 3 * SAMPLES_PER_FRAME) / 2**15).astype(np.float32)
        cached = cache.Cached(rng.integers(0, 256, (3, 96, 96), np.uint8), np.array([False, True, False]), audio)
        out.append(Outcome(utterance.id, cache.pack(utterance.id, cached), share=0.2, sound_hash=str(utterance.id)))
    return out


def run_fake(folder: str, workers: int = 2, limit: int | None = None) -> None:
    """For processes that are to be killed, or whose files may not grow beyond `limit` bytes."""
    prepare.work = fake_work
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    prepare.prepare(made_up(), folder, settings=PrepareSettings(workers=workers, max_bytes=SMALL))


@pytest.fixture
def faked(monkeypatch):
    monkeypatch.setattr(prepare, "work", fake_work)


def start(forked: Commands, folder: Path, *arguments) -> Program:
    code = f"import test_prepare; test_prepare.run_fake({str(folder)!r}, *{arguments!r})"
    return forked.start(["-c", f"import sys; sys.path.insert(0, {str(TESTS)!r}); {code}"], group=True)


def contents(folder: Path) -> dict[str, bytes]:
    """All that counts of a prepared folder. The journal tells of retries, so it may differ."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "journal.jsonl"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, forked) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    process = start(forked, folder, 1)
    assert process.wait() == 0, process.stderr
    return folder


def test_everything_is_there_in_the_order_of_the_corpus(undisturbed):
    rows = manifest.read(undisturbed / "manifest.jsonl")
    assert [row.id for row in rows] == [u.id for u in made_up() if not u.id.endswith("7")]
    for row in rows:
        cached = cache.read_entry(undisturbed, row.cache, name=row.id)
        expected = np.random.default_rng(int(row.id[1:4]))
        audio = (expected.integers(-2**14, 2**14, 3 * SAMPLES_PER_FRAME) / 2**15).astype(np.float32)
        assert np.array_equal(cached.audio, audio)
        assert np.array_equal(cached.images, expected.integers(0, 256, (3, 96, 96), np.uint8))
    assert (undisturbed / "dropped.tsv").read_text().splitlines()[1:] == [
        f"u{i:03d}\tno face: in 60% of the frames (limit 25%)" for i in range(7, N_MADE_UP, 10)]
    assert {path.name for path in (undisturbed / "contact_sheets").iterdir()} == {"s0.png", "s1.png", "s2.png"}
    assert len(list(undisturbed.glob("shard-*.tar"))) > 3
    assert not list(undisturbed.glob("*.part"))


@pytest.mark.slow
def test_any_number_of_workers_writes_the_same_bytes(undisturbed, tmp_path, faked):
    prepare.prepare(made_up(), tmp_path, settings=PrepareSettings(workers=3, max_bytes=SMALL))
    here, there = contents(tmp_path), contents(undisturbed)
    media_of = [{**json.loads(line), "media": ""} for line in here.pop("manifest.jsonl").splitlines()]
    assert media_of == [{**json.loads(line), "media": ""} for line in there.pop("manifest.jsonl").splitlines()]
    assert here == there


@pytest.mark.slow
def test_killed_at_random_moments_it_leaves_what_an_undisturbed_run_leaves(undisturbed, forked):
    folder = undisturbed.with_name("killed")                 # beside it, so that relative paths are the same
    rng = random.Random(time.time_ns())
    lines = [0]
    for _ in range(4):
        process = start(forked, folder)
        goal = lines[-1] + rng.randint(1, 12)
        while process.poll() is None and lines_of(folder) < goal:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.03))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        lines.append(lines_of(folder))
    assert lines[-1] >= 4
    process = start(forked, folder)
    assert process.wait() == 0, process.stderr
    assert contents(folder) == contents(undisturbed)
    ids = Counter(json.loads(line).get("id") for line in (folder / "journal.jsonl").read_text().splitlines())
    assert max(ids.values()) == 1                            # nothing was done twice but what was in hand


def lines_of(folder: Path) -> int:
    path = folder / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("cut", ["row", "bytes", "zeros", "renamed", "shard"])
def test_what_a_crash_or_a_power_cut_leaves_is_taken_up(undisturbed, cut, faked):
    folder = undisturbed.with_name(f"cut-{cut}")
    folder.mkdir()
    for name, data in contents(undisturbed).items():
        (folder / name).write_bytes(data)
    (folder / "journal.jsonl").write_bytes((undisturbed / "journal.jsonl").read_bytes())
    last = sorted(folder.glob("shard-*.tar"))[-1]
    part = last.with_name(f"{last.name}.part")
    if cut != "shard":
        last.rename(part)
    if cut == "row":                                         # half a line at the end
        with (folder / "journal.jsonl").open("rb+") as file:
            file.truncate((folder / "journal.jsonl").stat().st_size - 30)
    elif cut == "bytes":                                     # lines outlived the bytes they tell of
        os.truncate(part, part.stat().st_size // 2)
    elif cut == "zeros":
        size = part.stat().st_size
        os.truncate(part, size // 3)
        os.truncate(part, size)
    elif cut == "shard":                                     # a shard that somebody removed comes back under a new name
        last.unlink()
    prepare.prepare(made_up(), folder, settings=PrepareSettings(workers=1, max_bytes=SMALL))
    assert contents(folder) == contents(undisturbed)


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_clip_and_no_other(tmp_path, faked, monkeypatch):
    monkeypatch.setenv("TEST_PREPARE_FLAGS", str(tmp_path))
    utterances = [Utterance(f"u{i:03d}{what}", f"{i}.mp4", "text") for i, what in enumerate(["", "once", "kill", "", ""])]
    settings = PrepareSettings(workers=2, max_dropped=0.1)
    prepared = prepare.prepare(utterances, tmp_path / "out", settings=settings)
    assert [row.id for row in prepared.utterances] == ["u000", "u001once", "u003", "u004"]
    assert prepared.dropped == [Dropped("u002kill", "worker died")]
    with pytest.raises(BadManifest, match=r"1 of 5 utterances dropped \(20%, limit 10%\).*dropped\.tsv"):
        prepared.check()
    utterances[2] = replace(utterances[2], id="u002")        # next time it is tried again
    assert len(prepare.prepare(utterances, tmp_path / "out", settings=settings).utterances) == 5


def test_a_mistake_of_ours_is_not_taken_for_a_bad_clip(tmp_path, faked):
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        prepare.prepare([Utterance("u000mistake", "0.mp4", "text")], tmp_path, settings=PrepareSettings(workers=1))


@pytest.mark.slow
def test_workers_end_with_a_process_that_is_killed(tmp_path, forked):
    code = (f"import sys; sys.path.insert(0, {str(TESTS)!r}); import test_prepare; "
            f"test_prepare.prepare.work = test_prepare.fake_work; "
            f"test_prepare.prepare.prepare([test_prepare.Utterance('u000sleep', '0.mp4', 'text')], {str(tmp_path)!r})")
    process = forked.start(["-c", code])
    while not process.stdout.endswith("\n"):
        assert process.poll() is None, process.stderr
        time.sleep(0.01)
    worker = int(process.stdout)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert ends_within(worker, 3)


def test_more_workers_than_the_machine_bears_are_refused():
    with pytest.raises(AvsrError, match=r"workers 100000: at most \d+ on this machine of \d+ cores\.  Leave it out"):
        PrepareSettings(workers=100_000)


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_what_is_done_is_kept(undisturbed, forked):
    # RLIMIT_FSIZE stands in for a disk that is full: the write of a shard fails in the middle, with EFBIG for ENOSPC.
    folder = undisturbed.with_name("full")
    process = start(forked, folder, 2, 100_000)
    assert process.wait() == 1
    text = process.stderr
    assert "BadOutput" in text.splitlines()[-1]
    assert "File too large after" in text
    assert "Make room and run the same command again: what is done is kept." in text
    assert 1 < lines_of(folder) < N_MADE_UP
    process = start(forked, folder)
    assert process.wait() == 0, process.stderr
    assert contents(folder) == contents(undisturbed)


def test_a_full_disk_leaves_no_half_page(undisturbed, tmp_path):
    for name, data in contents(undisturbed).items():
        (tmp_path / name).write_bytes(data)
    rows = manifest.read(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(BadOutput, match=r"/s0\.png: it cannot be written \(File too large\)\.  Make room, or choose"):
            write_contact_sheets(tmp_path, rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "contact_sheets").iterdir()) == []


def test_speakers_whose_names_look_alike_have_pages_of_their_own(tmp_path):
    names = ["a/b", "a_b", "A b", "\u0e01" * 200, "$&", None]
    cached = cache.Cached(np.zeros((3, 96, 96), np.uint8), np.zeros(3, bool), None)
    with cache.ShardWriter(tmp_path) as writer:
        rows = [Utterance(f"u{i}", f"{i}.mp4", "text", speaker, cache=writer.add(cache.pack(f"u{i}", cached)))
                for i, speaker in enumerate(names)]
    pages = write_contact_sheets(tmp_path, rows)
    assert len({path.name.lower() for path in pages}) == len(pages) == 6
    assert all(len(path.name.encode()) < 256 and path.is_file() for path in pages)


@pytest.mark.parametrize("line", ["[]", '{"id": "u000"}', '{"what": null, "problems": [], "cache": null, "curve": null}'])
def test_a_journal_of_somebody_else_is_refused(undisturbed, tmp_path, line, faked):
    first, *_ = (undisturbed / "journal.jsonl").read_text().splitlines()
    for lines in ((line,), (first, line)):
        (tmp_path / "cache.json").write_bytes((undisturbed / "cache.json").read_bytes())
        (tmp_path / "journal.jsonl").write_text("".join(f"{one}\n" for one in lines))
        with pytest.raises(BadManifest, match=r"journal\.jsonl: .*  Prepare into an empty folder"):
            prepare.prepare(made_up(4), tmp_path, settings=PrepareSettings(workers=1))


def test_what_a_training_would_lack_is_said(tmp_path):
    def told(*splits: str, share: float = 0.05, dropped=()) -> str:
        everything = [Utterance(f"u{i}", f"{i}.mp4", "text", "s1", split) for i, split in enumerate(splits)]
        drawn = manifest.draw_valid(everything, share)
        n_drawn = Counter(row.split for row in drawn)["valid"] - splits.count("valid")
        prepared = Prepared(tmp_path / "manifest.jsonl", drawn, list(dropped), [], len(drawn), 0,
                            PrepareSettings(valid_share=share), n_drawn, splits.count("train"))
        prepared.check()
        return prepared.summary()

    one = told("train")
    assert "1 utterance (1 train)" in one
    assert "No utterance is in split 'valid', which avsr train needs: it is drawn from two training utterances or more" in one
    assert "drawn for it: 1 of 3 training utterances (5 % of each speaker, but at least one in all" in told(*["train"] * 3)
    assert "which avsr train needs: leave out --valid-share 0, or" in told("train", "train", share=0.0)
    assert "No utterance is in split 'train': avsr benchmark can measure" in told("test", "valid")
    assert "No utterance" not in told("train", "valid")
    with pytest.raises(BadManifest, match=r"nothing that can be used is left: 1 dropped, 1 of them because of this: its \.txt "
                                          r"is empty\.  .*dropped\.tsv lists each with its reason\.$"):
        told(dropped=[Dropped("a.wav", "its .txt is empty")])
    with pytest.raises(BadManifest, match=r"the corpus holds no utterance\.  Check"):
        told()


def test_a_folder_prepared_in_another_way_is_refused(tmp_path, faked):
    def again(**settings):
        return prepare.prepare(made_up(4), tmp_path / "out", settings=PrepareSettings(workers=1, **settings))

    again()
    with pytest.raises(BadManifest, match=r"mouth_crop\.smooth: 12 against 6"):
        again(mouth_crop=MouthCropSettings(smooth=6))
    with pytest.raises(BadManifest, match="modality: av against a"):
        again(modality="a")
    (tmp_path / "out" / "journal.jsonl").unlink()
    with pytest.raises(BadOutput, match="Choose an empty folder"):
        again()


def test_two_at_once_do_not_write_over_one_another(tmp_path, faked):
    from avsr.prepare.journal import Journal

    with (Journal(tmp_path, MouthCropSettings(), "av", SMALL),
          pytest.raises(AvsrError, match="another avsr prepare is at work")):
        prepare.prepare(made_up(4), tmp_path, settings=PrepareSettings(workers=1))


@pytest.mark.slow
def test_a_corpus_may_grow_and_limits_may_change_without_doing_it_again(tmp_path, faked):
    def kept(n, **settings):
        stages = []
        prepared = prepare.prepare(made_up(n), tmp_path, settings=PrepareSettings(workers=1, **settings),
                                   progress=lambda *call: stages.append(call))
        return len(prepared.utterances), stages[0]

    assert kept(6) == (6, ("preparing", 0, 6, "utterances"))
    assert kept(10) == (9, ("preparing", 6, 10, "utterances"))               # u007 has no face in 60 %
    assert kept(10) == (9, ("preparing", 10, 10, "utterances"))              # that was looked for: not again
    assert kept(10, max_missing=0.1) == (0, ("preparing", 10, 10, "utterances"))
    assert kept(10, max_missing=0.9) == (9, ("preparing", 9, 10, "utterances"))      # now it may be another matter
    with pytest.raises(BadManifest, match="2 utterances have the id"):
        prepare.prepare([*made_up(3), *made_up(1)], tmp_path)


def test_wrong_settings_are_named():
    for wrong in ({"modality": "va"}, {"max_missing": 2}, {"max_dropped": -1}, {"workers": 0}):
        with pytest.raises(AvsrError, match=f"{next(iter(wrong))} .*  "):
            PrepareSettings(**wrong)


def grid_clips(real_data: Path, speaker: str, n: int) -> list[Path]:
    return sorted(path for path in (real_data / "grid" / speaker).iterdir() if path.suffix in (".mpg", ".mkv"))[:n]


@pytest.mark.slow
def test_real_clips_one_path_for_training_and_use(real_data, tmp_path):
    """Whole clips, parts of a longer recording, sound alone: as cropped live, bit for bit."""
    whole, tall = grid_clips(real_data, "s23", 1)[0], sorted((real_data / "wild").iterdir())[0]
    utterances = [Utterance("whole", str(whole), "bin blue", "s23"),
                  Utterance("late", str(tall), "b", start=1.0, end=2.0),
                  Utterance("early", str(tall), "a", start=0.2, end=1.52),
                  Utterance("beyond", str(tall), "c", start=9000.0, end=9001.0)]
    prepared = prepare.prepare(utterances, tmp_path / "out", settings=PrepareSettings(workers=1, max_missing=1.0))
    rows = {row.id: row for row in prepared.utterances}
    for path, parts in ((whole, {"whole": (0, None)}), (tall, {"early": (5, 38), "late": (25, 50)})):
        with media.open_recording(path) as recording:
            (clip,) = recording.windows(400, grey=True)
        everybody = [crop(clip, track) for track in track_faces(clip)]
        for name, (first, end) in parts.items():
            end = clip.n_frames if end is None else end
            live = choose_speaker(everybody, first, end)
            if live is None:
                assert name not in rows
                continue
            cached = cache.read_entry(tmp_path / "out", rows[name].cache, name=name)
            assert np.array_equal(cached.images, live.images)
            assert np.array_equal(cached.missing, live.missing)
            audio = clip.audio[first * SAMPLES_PER_FRAME:end * SAMPLES_PER_FRAME]
            assert np.abs(cached.audio - audio).max() <= np.abs(audio).max() * 2.0**-15
    assert "whole" in rows
    assert Dropped("beyond", "outside the recording") in prepared.dropped
    assert (tmp_path / "out" / rows["whole"].media).resolve() == whole.resolve()


@pytest.fixture
def avsr(forked):
    """`avsr(*arguments, **options)` starts `avsr prepare`."""
    return lambda *arguments, **options: forked.start(["prepare", *arguments], **options)


@pytest.mark.slow
def test_the_command_killed_and_resumed_on_real_clips(avsr, real_data, tmp_path):
    for path in grid_clips(real_data, "s30", 2) + grid_clips(real_data, "s1", 1):
        (tmp_path / "grid" / path.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "grid" / path.parent.name / path.name).symlink_to(path)
    one = avsr("grid", tmp_path / "grid", tmp_path / "one", "--workers", 2)
    two = avsr("grid", tmp_path / "grid", tmp_path / "two", "--workers", 1, group=True)
    while two.poll() is None and lines_of(tmp_path / "two") < 2:
        time.sleep(0.01)
    os.killpg(two.pid, signal.SIGKILL)
    two.wait()
    three = avsr("grid", tmp_path / "grid", tmp_path / "two", "--workers", 1).completed()
    assert three.stdout == ""
    assert "3 utterances, " in three.stderr
    assert "of them by an earlier run" in three.stderr
    one = one.completed()
    assert (one.returncode, one.stdout) == (0, "")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.slow
def test_mouths_for_the_lip_readers_of_others(avsr, real_data, tmp_path, face_detector):
    """--mouth-crop: as cropped live with those settings, bit for bit, and what it is stands beside the manifest."""
    path = grid_clips(real_data, "s23", 1)[0]
    (tmp_path / "in" / "s23").mkdir(parents=True)
    (tmp_path / "in" / "s23" / path.name).symlink_to(path)
    command = ("grid", tmp_path / "in", tmp_path / "out", "--quiet", "--workers", 1)
    done = avsr(*command, "--mouth-crop", "auto-avsr").completed()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    recipe = lips.MOUTH_CROPS["auto-avsr"]
    assert cache.read_mouth_crop(tmp_path / "out") == recipe
    clip = media.read(path)
    (track,) = track_faces(clip, landmarks=recipe.landmarks)
    (row,) = manifest.read(tmp_path / "out" / "manifest.jsonl")
    assert np.array_equal(cache.read_entry(tmp_path / "out", row.cache).images, crop(clip, track, recipe).images)
    told = avsr(*command).completed().stderr
    assert "mouth_crop.landmarks: blazeface-full-range-4 against mediapipe-mesh-478" in told
    assert "into an empty folder" in told


def test_every_mouth_crop_can_be_asked_for_and_wants_its_own_file(tmp_path, monkeypatch):
    from avsr.cli.prepare import prepare_command

    (option,) = [option for option in prepare_command.params if option.name == "mouth_crop"]
    assert list(option.type.choices) == list(lips.MOUTH_CROPS)
    assert lips.MOUTH_CROPS[option.default] == PrepareSettings().mouth_crop
    for name, variable in (("avsr", "AVSR_FACE_LANDMARKER"), ("auto-avsr", "AVSR_FACE_DETECTOR")):
        monkeypatch.setenv(variable, str(tmp_path / "nowhere"))
        with pytest.raises(MissingAsset, match=variable):
            prepare.prepare([], tmp_path / "out", settings=PrepareSettings(mouth_crop=lips.MOUTH_CROPS[name]))
        monkeypatch.delenv(variable)


@pytest.mark.slow
def test_broken_files_are_counted_with_reasons(avsr, real_data, tmp_path):
    (tmp_path / "in").mkdir()
    names = ("*0byte.mpg", "*webcam*.mp4", "*trump5*.mp4")      # empty; no sound, 44 bytes; no face in most frames
    broken = [path for name in names for path in (real_data / "broken").glob(name)]
    good = grid_clips(real_data, "s23", 1)[0]
    for path in [*broken, good]:
        (tmp_path / "in" / path.name).symlink_to(path)
        (tmp_path / "in" / path.with_suffix(".txt").name).write_text("some words")
    done = avsr("folder", tmp_path / "in", tmp_path / "out", "--modality", "av").completed()
    told = done.stderr
    assert done.returncode == 1
    assert "utterances dropped" in told.splitlines()[-1]
    listed = (tmp_path / "out" / "dropped.tsv").read_text().splitlines()[1:]
    reasons = Counter(line.split("\t")[1].partition(":")[0] for line in listed)
    assert reasons == {"the file is empty (0 bytes), as half a copy is": 1, "no sound": 1, "cannot be read": 1, "no face": 1}
    assert all(f"     1  {reason}" in told for reason in reasons)
    assert [row.media for row in manifest.read(tmp_path / "out" / "manifest.jsonl")] == ["../in/" + good.name]


def test_sound_alone(real_data, tmp_path):
    (sound, *_), clip = sorted((real_data / "lombard_audio").rglob("*.opus")), grid_clips(real_data, "s23", 1)[0]
    utterances = [Utterance("sound", str(sound), "text"), Utterance("clip", str(clip), "text")]
    prepared = prepare.prepare(utterances, tmp_path, settings=PrepareSettings(workers=1, modality="a"))
    for row in prepared.utterances:
        cached = cache.read_entry(tmp_path, row.cache)
        live = media.read(row.media if row.media.startswith("/") else tmp_path / row.media, want_video=False).audio
        assert cached.images is None
        assert row.cache.modality == "a"
        assert np.abs(cached.audio - live).max() <= np.abs(live).max() * 2.0**-15
    assert len(prepared.utterances) == 2
    prepared = prepare.prepare(utterances[:1], tmp_path / "av", settings=PrepareSettings(workers=1))
    assert prepared.dropped == [Dropped("sound", "no picture")]


def test_the_old_name_of_the_option_still_works_and_warns(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from avsr.cli import main

    monkeypatch.setenv("AVSR_FACE_DETECTOR", str(tmp_path / "nowhere"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").touch()
    (tmp_path / "in" / "a.txt").write_text("hello")
    done = CliRunner().invoke(main, ["prepare", "folder", str(tmp_path / "in"), str(tmp_path / "out"), "--recipe", "auto-avsr"])
    assert done.exit_code == 1
    assert "warning: the option --recipe is now called --mouth-crop; the old name still works." in done.stderr
    assert "AVSR_FACE_DETECTOR" in done.stderr, "the settings of auto-avsr were taken"
    assert "--recipe" not in CliRunner().invoke(main, ["prepare", "--help"]).stdout
