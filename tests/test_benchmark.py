"""The benchmark: a complete plan, the same rows in every run, noise as loud as said; what cannot be measured is told."""

import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_corpus import corpus, say, utterance
from made_limits import full_disk

from avsr import cache, checkpoint, manifest, media
from avsr.benchmark import run as benchmark_run
from avsr.benchmark.conditions import (
    BenchmarkSettings,
    conditions,
    noise_config,
    parse_modalities,
    parse_noises,
    parse_snrs,
)
from avsr.benchmark.recordings import Mixture, write_mixtures, write_samples
from avsr.benchmark.run import CallOptions, benchmark
from avsr.checkpoint import Checkpoint
from avsr.corrupt import parse_corruptions
from avsr.dataset import ManifestRow
from avsr.errors import AvsrError, BadManifest, BadOutput
from avsr.lips import MouthCropSettings
from avsr.manifest import Utterance
from avsr.models.avsr import AVSR, Dims
from avsr.names import MODALITIES
from avsr.noise import NoiseManifest, active_level, rms_level
from avsr.rates import SAMPLE_RATE
from avsr.report.examples import _recording
from avsr.results import NAME, TIMINGS, ResultRow, read_results
from avsr.text import NORMALISER, write_characters

CORRUPTIONS = parse_corruptions("blur:4,noface,face,shift:80")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared test split of three speakers, one utterance without a picture among it, and a model that babbles."""
    folder = tmp_path_factory.mktemp("corpus")
    rng, rows = np.random.default_rng(0), []
    corpus(folder)
    with cache.ShardWriter(folder) as writer:
        for i in range(9):
            words = [str(word) for word in rng.choice(["ab", "cd", "ef"], rng.integers(2, 4))]
            entry = writer.add(cache.pack(f"t{i}", say(words, sight=i != 4, seed=i)))
            rows.append(replace(utterance(f"t{i}", words, "test", entry, speaker=f"s{i % 3}"), labels={"sex": "fm"[i % 2]}))
    manifest.write(folder / "manifest.jsonl", rows)
    tokenizer = write_characters(folder / "tokenizer.json")
    torch.manual_seed(0)
    model = AVSR(Dims(width=32, n_heads=2, n_audio_layers=2, n_video_layers=1, n_fusion_layers=1, n_decoder_layers=1,
                      n_vocab=tokenizer.no_timestamps + 1, n_context=24, video_frontend="compact", video_width=32))
    torch.nn.init.normal_(model.decoder.embedding.weight, std=0.3)
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.constant_(parameter, 0.7)
    checkpoint.save(Checkpoint("random", model, tokenizer, pad_seconds=None, video_trained=True), folder / "random")
    return folder


@pytest.fixture(scope="module")
def settings(folder):
    return BenchmarkSettings(models=(str(folder / "random"),), noises=("white", "talker"), snrs=(None, 0.0, -10.0),
                             batch_size=4, corruptions=CORRUPTIONS, beam_size=2)


@pytest.fixture(scope="module")
def whole(folder, settings, tmp_path_factory):
    """A run from beginning to end: its folder, what it returned, its rows by key."""
    output = tmp_path_factory.mktemp("whole")
    done = benchmark(folder, output, settings)
    rows, n_cut = read_results(output)
    assert n_cut == 0
    return output, done, {row.key: row for row in rows}


# --- what is measured ---

SNRS = st.lists(st.one_of(st.none(), st.sampled_from([10.0, 0.0, -5.0])), min_size=1, max_size=4, unique=True).map(tuple)


@given(st.lists(st.sampled_from(["babble", "white"]), max_size=2, unique=True), SNRS,
       st.sampled_from([(), CORRUPTIONS]), SNRS, st.sets(st.sampled_from(MODALITIES), min_size=1))
def test_everything_is_measured_once_and_has_what_it_is_compared_with(noises, snrs, corruptions, corrupt_snrs, asked):
    modalities = tuple(one for one in MODALITIES if one in asked)
    plan = conditions(BenchmarkSettings(noises=tuple(noises), snrs=snrs, corruptions=corruptions, corrupt_snrs=corrupt_snrs),
                      modalities)
    cells = [(modality, heard.noise, heard.snr_db, bad) for heard in plan for modality, bad in heard.tasks]
    assert len(cells) == len(set(cells))
    for modality, noise, snr, bad in cells:
        assert modality in asked
        assert (noise is None) == (snr is None)
        assert modality not in ("none", "v") or noise is None
        assert modality not in ("none", "a") or bad is None
        if modality == "av":
            assert "a" not in asked or ("a", noise, snr, None) in cells
            assert "v" not in asked or ("v", None, None, bad) in cells
    if "av" in asked:
        wanted = {("av", noise, snr, None) for snr in snrs for noise in ([None] if snr is None else noises)}
        wanted |= {("av", noise, snr, bad) for snr in corrupt_snrs for noise in ([None] if snr is None else noises)
                   for bad in corruptions}
        assert wanted <= set(cells)


def test_lists_as_they_are_typed():
    assert parse_snrs("clean, 0,-5,0") == (None, 0.0, -5.0)
    assert parse_noises(["babble,rain=my/rain", "white"]) == (("babble", "rain", "white"), {"rain": "my/rain"})
    assert parse_modalities("av,a") == ("a", "av")


def test_a_folder_of_noise_may_have_a_comma_in_its_name(tmp_path):
    for name in ("a", "a,b", "a,b,c"):
        (tmp_path / name).mkdir()
    assert parse_noises([f"pink,rain={tmp_path}/a,b,c,white"]) == (("pink", "rain", "white"), {"rain": f"{tmp_path}/a,b,c"})
    assert parse_noises([f"rain={tmp_path}/a,b,white"]) == (("rain", "white"), {"rain": f"{tmp_path}/a,b"})
    assert parse_noises([f"rain={tmp_path}/a,white,fire={tmp_path}/a,b"]) == (
        ("rain", "white", "fire"), {"rain": f"{tmp_path}/a", "fire": f"{tmp_path}/a,b"})


@pytest.mark.parametrize(("call", "message"), [
    (lambda: parse_snrs("clean,loud"), "SNR 'loud': neither clean nor a number"),
    (lambda: parse_snrs("nan"), "SNR 'nan'"),
    (lambda: parse_snrs(""), "SNR ''"),
    (lambda: parse_noises(["rain="]), "noise 'rain=': a name is missing"),
    (lambda: parse_noises(["rain=a,rain=b"]), "rain: given as a and as b"),
    (lambda: parse_modalities("a,va"), "modality 'va': not known"),
])
def test_what_is_typed_wrong_is_said(call, message):
    with pytest.raises(AvsrError, match=message):
        call()


def test_a_noise_config_counts_only_where_it_is_named(folder, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path, tmp_path / "data", folder):
        place.mkdir(exist_ok=True)
        (place / "noise.toml").write_text('white = "nowhere"\n')
    try:
        small = replace(settings, noises=("white",), snrs=(0.0,), corruptions=(), modalities=("a",), limit=2)
        assert benchmark(folder, tmp_path / "out", small).n_rows == 2
        with pytest.raises(AvsrError, match=r"noise\.toml: noise 'white': .*nowhere matches 0 files"):
            benchmark(folder, tmp_path / "named", replace(small, noise_config=str(folder / "noise.toml")))
    finally:
        (folder / "noise.toml").unlink()
    assert (noise_config(None), noise_config("none")) == (None, None)
    with pytest.raises(AvsrError, match=r"no\.toml: no such file"):
        noise_config("no.toml")


def test_noise_that_is_not_named_is_babble_or_what_the_speakers_can_make(folder, settings, tmp_path):
    said = []
    small = replace(settings, noises=None, snrs=(0.0,), corruptions=(), modalities=("a",), limit=2)
    benchmark(folder, tmp_path / "out", small, options=CallOptions(say=said.append))
    assert {row.noise for row in read_results(tmp_path / "out")[0]} == {"speech-shaped"}
    assert said == ["The noise is speech-shaped, because babble cannot be made: it needs 4 speakers at least, and the corpus "
                    "has 3.  Name a folder of other people's speech (--noise babble=FOLDER) to have babble."]


def test_the_normaliser_asked_for_is_in_the_rows_and_never_mixes(folder, settings, tmp_path):
    small = replace(settings, noises=(), snrs=(None,), corruptions=(), modalities=("a",), limit=2)
    benchmark(folder, tmp_path / "out", replace(small, normaliser="whisper"))
    assert {row.normaliser for row in read_results(tmp_path / "out")[0]} == {"whisper-en"}
    with pytest.raises(AvsrError, match="normaliser"):
        benchmark(folder, tmp_path / "out", small)


# --- rows ---

def test_every_row_is_there_and_whole(whole):
    output, done, rows = whole
    clean, noisy, pictures = 4 * 9, 2 * 2 * 2 * 9, len(CORRUPTIONS) * 9
    assert len(rows) == done.n_rows == done.n_new == clean + noisy + 2 * pictures + 2 * pictures
    for row in rows.values():
        assert row.normaliser == NORMALISER
        assert row.loss > 0
        assert row.labels["sex"] in "fm"
        assert (row.noise is None) == (row.snr_achieved is None) == (row.noise_id is None)
        assert (row.corruption == "face") == (row.face is not None) or row.id == "t4"
        if row.face:
            assert int(row.face[1:]) % 3 != int(row.id[1:]) % 3
        if row.modality == "none":
            assert row.hypothesis == ""
    timings = [json.loads(line) for line in (output / "timings.jsonl").read_text().splitlines()]
    assert all(one["seconds"] > 0 and one["audio_s"] > 0 and one["peak_mb"] > 0 for one in timings)
    assert sum(one["clips"] for one in timings) == len(rows)
    assert json.loads((output / "run.json").read_text())["settings"]["snrs"] == [None, 0.0, -10.0]


def test_the_worst_and_the_best_can_be_seen(whole):
    output, _, rows = whole
    kept = sorted((output / "media").iterdir())
    assert len(kept) == 8
    for path in kept:
        clip = media.read(path)
        said = round(rows[("random", "v", None, None, None, None, path.stem)].duration_s * 25)
        assert said <= clip.n_frames <= said + 3            # AAC fills up its last block
        assert np.abs(clip.audio).max() > 0.1


def test_the_snr_is_what_was_asked_for(whole):
    _, _, rows = whole
    errors = [abs(row.snr_achieved - row.snr_db) for row in rows.values() if row.noise]
    assert len(errors) > 100
    assert max(errors) < 0.1
    assert {row.snr_db for row in rows.values() if row.noise} == {0.0, -10.0}


def test_one_noise_for_all_levels_modalities_and_pictures(whole):
    _, _, rows = whole
    of = {}
    for row in rows.values():
        if row.noise:
            of.setdefault((row.id, row.noise), set()).add((row.noise_id, row.noise_offset))
    assert all(len(ids) == 1 for ids in of.values())
    assert len({ids.copy().pop()[0] for ids in of.values()}) == len(of) == 18


def test_no_face_is_sound_alone(whole):
    _, _, rows = whole
    for row in rows.values():
        blind = row.corruption == "noface" or (row.id == "t4" and row.corruption != "face")
        if blind and row.modality in ("v", "av"):
            assert row.gate == 0
            if row.modality == "v":
                assert row.hypothesis == ""
                continue
            alone = rows[("random", "a", row.noise, row.snr_db, None, None, row.id)]
            assert (row.hypothesis, row.loss) == (alone.hypothesis, pytest.approx(alone.loss, abs=1e-3))


def test_what_is_seen_matters(whole):
    _, _, rows = whole
    losses = {(row.id, row.corruption, row.amount): row.loss for row in rows.values() if row.modality == "v"}
    for name, amount in (("blur", 4.0), ("face", None), ("shift", 80.0)):
        moved = [abs(losses[f"t{i}", name, amount] - losses[f"t{i}", None, None]) for i in range(9) if i != 4]
        assert max(moved) > 1e-3, name


@pytest.mark.slow
@pytest.mark.parametrize("n_lines", [0, 100, 101])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(folder, settings, whole, tmp_path, n_lines):
    output, _, rows = whole
    lines = (output / NAME).read_bytes().split(b"\n")
    (tmp_path / NAME).write_bytes(b"\n".join(lines[:n_lines]) + (b"\n" + lines[n_lines][:40] if n_lines else b""))
    done = benchmark(folder, tmp_path, settings)
    assert (tmp_path / NAME).read_bytes() == (output / NAME).read_bytes()
    assert (tmp_path / "noise.jsonl").read_bytes() == (output / "noise.jsonl").read_bytes()
    assert done.n_new == len(rows) - n_lines
    assert done.n_cut == int(n_lines > 0)
    assert benchmark(folder, tmp_path, settings).n_new == 0


@pytest.mark.slow
def test_one_at_a_time_or_all_at_once_is_the_same(folder, settings, whole, tmp_path):
    _, _, rows = whole
    benchmark(folder, tmp_path, replace(settings, batch_size=1, noises=("white",), snrs=(None, 0.0), corruptions=()))
    for row in read_results(tmp_path)[0]:
        other = rows[row.key]
        assert row.loss == pytest.approx(other.loss, abs=2e-4)
        assert replace(row, loss=0) == replace(other, loss=0)


@pytest.mark.slow
def test_a_cluster_writes_the_same_rows(folder, settings, tmp_path, monkeypatch):
    """All that a worker gets is pickled; tests/test_cluster.py has the cluster."""
    def elsewhere(work, jobs, **_):
        work, jobs = pickle.loads(pickle.dumps((work, jobs)))
        for number in reversed(range(len(jobs))):
            yield number, work(jobs[number], lambda: None)

    few = replace(settings, limit=3, noises=("white",), snrs=(None, 0.0), corruptions=())
    benchmark(folder, tmp_path / "here", few)
    monkeypatch.setattr(benchmark_run.workers, "run", elsewhere)
    monkeypatch.setattr(benchmark_run.workers, "check_cluster", lambda cluster: None)
    benchmark(folder, tmp_path / "there", few, options=CallOptions(cluster="ray"))
    assert (tmp_path / "here" / NAME).read_bytes() == (tmp_path / "there" / NAME).read_bytes()


@pytest.mark.slow
def test_a_noise_manifest_can_be_used_again(folder, settings, whole, tmp_path):
    output, _, rows = whole
    shutil.copy(output / "noise.jsonl", tmp_path / "noise of ours.jsonl")
    ours = str(tmp_path / "noise of ours.jsonl")
    asked = replace(settings, noise_manifest=ours, noises=("white",), corruptions=(), snrs=(0.0,))
    benchmark(folder, tmp_path / "out", asked)
    assert not (tmp_path / "out" / "noise.jsonl").exists()
    for row in read_results(tmp_path / "out")[0]:
        assert row == rows[row.key]


def test_mixes_can_be_heard_outside(folder, settings, whole, tmp_path):
    _, _, rows = whole
    asked = replace(settings, models=(), noises=("white",), snrs=(None, -10.0), corruptions=())
    done = benchmark(folder, tmp_path / "out", asked, save_audio=tmp_path / "mixes")
    assert done.n_rows == 0
    index = [json.loads(line) for line in (tmp_path / "mixes" / "audio.jsonl").read_text().splitlines()]
    assert len(index) == 18
    by_id = {one.id: one for one in manifest.read(folder / "manifest.jsonl")}
    for line in index:
        audio, rate = soundfile.read(tmp_path / "mixes" / line["file"], dtype="float32")
        speech = cache.read_entry(folder, by_id[line["id"]].cache).audio
        assert rate == SAMPLE_RATE
        if line["noise"] is None:
            assert np.array_equal(audio, speech)
        else:
            assert active_level(speech) - rms_level(audio.astype(np.float64) - speech) == pytest.approx(-10, abs=0.1)
            assert line["noise_id"] == rows[("random", "a", "white", -10.0, None, None, line["id"])].noise_id


AWKWARD = ("a/b_c", "a_b/c", "T", "t", "../t")


def test_ids_that_look_alike_have_a_mix_each(tmp_path):
    mixes = [Mixture(Utterance(one, "x.wav", "ab"), noise, snr, np.full(400, i / 10, np.float32), {})
             for i, one in enumerate(AWKWARD) for noise, snr in ((None, None), ("a/b", 0.5), ("a_b", 0.5000001))]
    write_mixtures(tmp_path / "mixes", mixes, 15)
    index = [json.loads(line) for line in (tmp_path / "mixes" / "audio.jsonl").read_text().splitlines()]
    assert len({line["file"].lower() for line in index}) == 15
    for line in index:
        path = tmp_path / "mixes" / line["file"]
        assert path.resolve().is_relative_to(tmp_path / "mixes")
        assert soundfile.read(path)[0][0] == pytest.approx(AWKWARD.index(line["id"]) / 10)


def test_ids_that_look_alike_have_a_recording_each_and_the_report_finds_it(folder, tmp_path):
    said = [one for one in manifest.read(folder / "manifest.jsonl") if one.id != "t4"][:len(AWKWARD)]
    rows = [ResultRow(system="x", modality="a", id=one, reference="ab", hypothesis="ab") for one in AWKWARD]
    there = {one: ManifestRow(replace(utterance, id=one), folder) for one, utterance in zip(AWKWARD, said, strict=True)}
    write_samples(tmp_path, rows, there)
    found = {_recording(tmp_path / "media", one, []) for one in AWKWARD} - {None}
    kept = list((tmp_path / "media").iterdir())
    assert len(kept) == len(found) == 4                     # the worst 2 and the best 2 of 5
    assert not (tmp_path / "t.mp4").exists()


def test_what_others_wrote_joins_our_rows(folder, settings, tmp_path):
    said = {one.id: one.text for one in manifest.read(folder / "manifest.jsonl") if one.split == "test"}
    (tmp_path / "theirs.jsonl").write_text("".join(
        json.dumps({"id": one, "hypothesis": text, "noise": "white", "snr_db": 0}) + "\n" for one, text in said.items()))
    done = benchmark(folder, tmp_path / "out", replace(settings, models=(), noises=()), predictions=[tmp_path / "theirs.jsonl"])
    rows, _ = read_results(tmp_path / "out")
    assert done.n_new == len(rows) == 9
    assert {(row.system, row.modality, row.noise, row.snr_db) for row in rows} == {("theirs", "a", "white", 0.0)}
    assert all(row.reference == row.hypothesis for row in rows)


# --- what goes wrong ---

def test_other_weights_do_not_join_the_rows_of_a_model(folder, settings, whole, tmp_path):
    output, _, _ = whole
    shutil.copy(output / NAME, tmp_path / NAME)
    with pytest.raises(BadOutput, match=r"rows of random have search beam 2, and now it is beam 3\.  Use another --output-dir"):
        benchmark(folder, tmp_path, replace(settings, beam_size=3))


@pytest.fixture
def small(settings):
    return replace(settings, noises=("white",), snrs=(0.0,), corruptions=(), modalities=("a",), limit=4)


def test_a_second_benchmark_in_a_folder_is_refused_while_the_first_is_at_work(folder, small, tmp_path):
    refused = []

    def second(stage, *_):
        if stage.startswith("measuring") and not refused:
            for output, audio in ((tmp_path / "out", None), (tmp_path / "other", tmp_path / "audio")):
                with pytest.raises(AvsrError, match="another avsr benchmark is at work in it") as caught:
                    benchmark(folder, output, small, save_audio=audio)
                refused.append(str(caught.value).partition(":")[0])

    done = benchmark(folder, tmp_path / "out", small, save_audio=tmp_path / "audio", options=CallOptions(progress=second))
    assert done.n_new == done.n_rows == 4
    assert refused == [str(tmp_path / "out"), str(tmp_path / "audio")]
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("n_bytes", [0, 1500, 6000])        # nothing; no sound; sounds, but no index or rows of all
def test_a_full_disk_leaves_only_whole_lines_and_files_and_the_run_goes_on(folder, small, tmp_path, n_bytes):
    with full_disk(n_bytes), pytest.raises(BadOutput, match=r"\(File too large\)\.  "):
        benchmark(folder, tmp_path / "full", small, save_audio=tmp_path / "full")
    for path in (path for path in (tmp_path / "full").rglob("*") if path.is_file()):
        assert not path.name.startswith("."), path
        assert path.suffix == ".jsonl", path
        assert path.read_bytes()[-1:] in (b"", b"\n"), path
    benchmark(folder, tmp_path / "full", small)
    benchmark(folder, tmp_path / "undisturbed", small)
    assert (tmp_path / "full" / NAME).read_bytes() == (tmp_path / "undisturbed" / NAME).read_bytes()


def test_times_that_a_kill_cut_off_do_not_spoil_those_that_follow(folder, small, tmp_path):
    (tmp_path / TIMINGS).write_text('{"system": "rand')
    benchmark(folder, tmp_path, small)
    assert [json.loads(line)["clips"] for line in (tmp_path / TIMINGS).read_text().splitlines()] == [4]


@pytest.mark.slow
def test_silent_speech_is_told_and_counted(folder, settings, tmp_path):
    rows = [row for row in manifest.read(folder / "manifest.jsonl") if row.split == "test"]
    cached = say(["ab", "cd"])
    cache.write_mouth_crop(tmp_path, MouthCropSettings())
    with cache.ShardWriter(tmp_path) as writer:
        entry = writer.add(cache.pack("mute", replace(cached, audio=np.zeros_like(cached.audio))))
        others = [writer.add(cache.pack(row.id, cache.read_entry(folder, row.cache))) for row in rows[:3]]
    manifest.write(tmp_path / "manifest.jsonl", [utterance("mute", ["ab", "cd"], "test", entry), *(
        replace(row, cache=one) for row, one in zip(rows[:3], others, strict=True))])
    done = benchmark(tmp_path, tmp_path / "out", replace(settings, noises=("white",), corruptions=()))
    assert done.skipped == [("mute", "its speech is silent, so it has no SNR: measured clean only")]
    found = read_results(tmp_path / "out")[0]
    assert {row.noise for row in found if row.id == "mute"} == {None}
    assert {row.modality for row in found if row.id == "mute"} == set(MODALITIES)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["skipped"][0]["id"] == "mute"
    assert NoiseManifest.open(tmp_path / "out" / "noise.jsonl", {}, []).silent == ("mute",)


def test_what_cannot_be_measured_is_one_sentence(folder, settings, tmp_path):
    with pytest.raises(BadManifest, match="no prepared utterance of split 'tset'"):
        benchmark(folder, tmp_path / "a", replace(settings, split="tset"))
    with pytest.raises(AvsrError, match=r"of 1 speaker to be measured.*Leave out --corrupt face"):
        benchmark(folder, tmp_path / "b", replace(settings, limit=1))
    with pytest.raises(AvsrError, match="rain"):
        benchmark(folder, tmp_path / "c", replace(settings, noises=("rain",)))
    empty = tmp_path / "no noise here"
    empty.mkdir()
    with pytest.raises(AvsrError, match="no noise here"):
        benchmark(folder, tmp_path / "d", replace(settings, noises=("rain",), given={"rain": str(empty)}))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_hears_the_same(folder, settings, whole, tmp_path):
    _, _, rows = whole
    benchmark(folder, tmp_path, replace(settings, device="cuda", corruptions=()))
    found = read_results(tmp_path)[0]
    assert np.mean([abs(row.loss - rows[row.key]["loss"]) for row in found]) < 0.1
