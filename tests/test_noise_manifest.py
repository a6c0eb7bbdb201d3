"""Noise manifests: what is drawn is written down, made again bit for bit by anybody, and never other than asked for."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from avsr.errors import AvsrError, BadManifest, BadMedia, BadOutput
from avsr.noise import (
    Babble,
    Coloured,
    NoiseManifest,
    Recorded,
    Recordings,
    SpeechShaped,
    TargetSpeech,
    active_level,
    open_families,
    rms_level,
)
from avsr.rates import SAMPLE_RATE

SECOND = SAMPLE_RATE
SNRS = (-10.0, 0.0, 20.0)


def gaussian(n, seed, gain=0.1):
    return (gain * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def speech(seed, n=SECOND):
    """Noise with pauses, so that its active level is not its RMS."""
    return gaussian(n, seed) * (np.arange(n) % 16_000 < 6000)


def save(path, audio):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, SAMPLE_RATE)


@pytest.fixture
def folder(tmp_path):
    """noise/: rain (two short recordings with a gap), voices of four talkers."""
    gap = np.zeros(1000, np.float32)
    for i in range(2):
        save(tmp_path / "noise" / "rain" / f"{i}.wav", np.concatenate([gap, gaussian(5000, i), gap, gaussian(2000 + i, 9)]))
    for i in range(4):
        voice = np.concatenate([gap, gaussian(7000, 20 + i, 0.02 * (i + 1)), gap])
        save(tmp_path / "noise" / "voices" / f"v{i}" / "a.flac", voice)
    return tmp_path


def families(folder, *names):
    """rain, babble from files, own from recordings that are no files, pink, shaped; or those named."""
    own = {f"s{i}": [Recorded(f"s{i}-{j}", lambda seed=10 * i + j: speech(seed)) for j in range(2)] for i in range(5)}
    known = {
        "rain": Recordings(sorted((folder / "noise" / "rain").glob("*.wav"))),
        "babble": Babble({path.name: sorted(path.iterdir()) for path in (folder / "noise" / "voices").iterdir()}, "all"),
        "own": open_families(["babble"], own=own)["babble"],
        "pink": Coloured(1.0),
        "shaped": SpeechShaped(sorted((folder / "noise" / "voices").rglob("*.flac"))),
    }
    return {name: known[name] for name in names or known}


def spoken(*ids, n=SECOND):
    """Utterances `s1-x` of speaker s1, each with its own speech."""
    return [TargetSpeech(one, one.partition("-")[0], speech(int.from_bytes(one.encode(), "big") % 2 ** 32, n)) for one in ids]


IDS = ("s1-a", "s1-b", "s2-a")


# --- the ratio ---

@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2 ** 32), n=st.integers(400, 60_000), n_noise=st.integers(400, 60_000),
       speech_db=st.floats(-70, 0), noise_db=st.floats(-70, 0), level=st.sampled_from(["active", "rms"]),
       other=st.floats(-30, 40))
def test_the_ratio_is_kept_within_a_tenth_of_a_decibel(seed, n, n_noise, speech_db, noise_db, level, other):
    clean = gaussian(n, seed, 10 ** (speech_db / 20)) * (np.arange(n) % 16_000 < 10_000)
    sources = {"files": Recordings([Recorded(str(i), lambda i=i: gaussian(n_noise + i, seed + i, 10 ** (noise_db / 20)))
                                    for i in (1, 2)]), "white": Coloured()}
    with tempfile.TemporaryDirectory() as folder:
        made = NoiseManifest.open(Path(folder) / "noise.jsonl", sources, [TargetSpeech(str(seed), None, clean)], level=level)
        for family in sources:
            for snr_db in (*SNRS, other):
                mixed = made.mix(str(seed), family, snr_db, clean)
                added = rms_level(mixed.audio.astype(np.float64) - clean)
                assert {"active": active_level, "rms": rms_level}[level](clean) - added == pytest.approx(snr_db, abs=0.1)
                assert mixed.snr_db == pytest.approx(snr_db, abs=1e-3)
                assert mixed.snr_rms == pytest.approx(rms_level(clean) - added, abs=1e-9)
                assert mixed.audio.dtype == np.float32


def test_the_same_noise_is_heard_at_every_level_and_clean_is_clean(folder):
    (one,) = spoken("s1-a")
    made = NoiseManifest.open(folder / "noise.jsonl", families(folder), [one])
    for family in made.families:
        loud, soft = ((made.mix(one.id, family, snr, one.audio).audio.astype(np.float64) - one.audio) for snr in (-20, 0))
        np.testing.assert_allclose(loud, soft * 10, atol=1e-5)
        clean = made.mix(one.id, family, None, one.audio)
        assert np.array_equal(clean.audio, one.audio)
        assert clean.audio is not one.audio
        assert (clean.snr_db, clean.snr_rms, clean.noise_id, clean.offset) == (None, None, None, None)


def test_a_mixture_says_where_its_noise_is_from(folder):
    (one,) = spoken("s1-a")
    made = NoiseManifest.open(folder / "noise.jsonl", families(folder), [one])
    row = made.row("s1-a", "rain")
    mixed = made.mix("s1-a", "rain", 0, one.audio)
    assert mixed.offset == row["streams"][0][0]["offset"] > 0
    assert mixed.noise_id == row["noise_id"]
    assert mixed.gain == row["gain"]
    assert made.mix(one.id, "rain", 20, one.audio).gain == pytest.approx(row["gain"] / 10)
    assert mixed.snr_rms < -1                                # of speech that pauses for five eighths of the time
    assert made.mix(one.id, "pink", 0, one.audio).offset is None


def test_a_ratio_that_cannot_be_held_fails(folder):
    (one,) = spoken("s1-a")
    made = NoiseManifest.open(folder / "noise.jsonl", families(folder, "pink"), [one])
    assert made.mix(one.id, "pink", 100, one.audio).snr_db == pytest.approx(100, abs=0.1)
    with pytest.raises(AvsrError, match=r"s1-a in pink: an SNR of 190 dB was asked for and .* more than 0\.1 dB off\.  Ask"):
        made.mix(one.id, "pink", 190, one.audio)
    for absurd in (float("nan"), float("inf"), 7000):
        with pytest.raises(AvsrError, match=r"is asked for\.  Ask for -200 to 200 dB"):
            made.mix(one.id, "pink", absurd, one.audio)


# --- made again ---

def render(path, utterance, noise, snr_db, clean):
    """From data/README.md alone."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    (row,) = (row for row in rows if (row.get("id"), row.get("noise")) == (utterance, noise))
    (family,) = (row for row in rows if row.get("family") == noise)
    total = np.zeros(row["n_samples"])
    for stream in row["streams"]:
        out = np.zeros(0)
        if isinstance(stream, dict):
            f = np.arange(stream["n_fft"] // 2 + 1) * (rows[0]["sample_rate"] / stream["n_fft"])
            a = (np.maximum(f, 20.0) ** (-stream["exponent"] / 2) if "exponent" in stream
                 else np.sqrt(np.interp(f, 40.0 * np.arange(201), family["power"])))
            a *= stream["n_fft"] / (2 * np.sqrt((a ** 2).sum()))
            x = np.random.default_rng(stream["seed"]).standard_normal((len(a), 2))
            out = np.fft.irfft((x[:, 0] + 1j * x[:, 1]) * a, stream["n_fft"])[:row["n_samples"]]
        for cut in stream if isinstance(stream, list) else ():
            sound = (soundfile.read(path.parent / cut["file"], dtype="float32")[0] if "file" in cut
                     else speech(10 * int(cut["recording"][1]) + int(cut["recording"][3])))
            piece, fade = sound[cut["offset"]:][:cut["length"]].astype(float) * cut["gain"], cut["fade"]
            t, split = (np.arange(fade) + 0.5) * np.pi / (2 * max(fade, 1)), len(out) - fade
            out = np.concatenate([out[:split], out[split:] * np.cos(t) + piece[:fade] * np.sin(t), piece[fade:]])
        total += out
    return clean + (total.astype(np.float32).astype(float) * (row["gain"] * 10 ** (-snr_db / 20))).astype(np.float32)


def test_a_few_lines_of_numpy_make_the_same_mixture_bit_for_bit(folder):
    path, utterances = folder / "out" / "noise.jsonl", spoken(*IDS)
    made = NoiseManifest.open(path, families(folder), utterances)
    fades = 0
    for one in utterances:
        for family in made.families:
            mixed = made.mix(one.id, family, -5, one.audio).audio
            assert np.array_equal(render(path, one.id, family, -5, one.audio), mixed), family
            streams = made.row(one.id, family)["streams"]
            fades += sum(cut["fade"] > 0 for stream in streams if isinstance(stream, list) for cut in stream)
    assert fades > 20                                        # noise shorter than the clip was in it


SCRIPT = """
import hashlib, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_noise_manifest as t
folder, ids, names = Path(sys.argv[2]), sys.argv[4].split(","), sys.argv[5].split(",")
made = t.NoiseManifest.open(folder / sys.argv[3] / "noise.jsonl", t.families(folder, *names), t.spoken(*ids))
for one in sorted(t.spoken(*ids), key=lambda one: one.id):
    for name in sorted(names):
        print(one.id, name, hashlib.sha256(made.mix(one.id, name, 0, one.audio).audio).hexdigest())
"""


@pytest.mark.slow
def test_another_process_makes_the_same_bits(folder):
    def run(output, ids, names, seed):                      # a seed that Python reads when it starts
        return subprocess.run([sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(folder), output, ids, names],
                              env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout

    one = run("one", "s1-a,s1-b,s2-a", "rain,babble,own,pink,shaped", "1")
    assert one.count("\n") == 15
    assert run("two", "s1-a,s1-b,s2-a", "rain,babble,own,pink,shaped", "2") == one
    assert (folder / "two" / "noise.jsonl").read_bytes() == (folder / "one" / "noise.jsonl").read_bytes()
    made = NoiseManifest.open(folder / "three" / "noise.jsonl", families(folder, "shaped", "pink", "own", "babble", "rain"),
                              spoken("s2-a", "s1-b", "s1-a"))                # in another order, which does not matter
    assert one.splitlines() == [f"{id_} {name} {hashlib.sha256(made.mix(id_, name, 0, each.audio).audio).hexdigest()}"
                                for each in spoken(*IDS) for name in sorted(made.families) for id_ in [each.id]]


def test_several_threads_mix_as_one_does(folder):
    utterances = spoken(*(f"s{i}-{j}" for i in range(5) for j in "ab"))
    jobs = [(one, name) for one in utterances for name in ("rain", "own")]

    def mixtures(workers):
        made = NoiseManifest.open(folder / "noise.jsonl", families(folder, "rain", "own"), utterances)
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(lambda job: made.mix(job[0].id, job[1], 0, job[0].audio).audio, jobs))

    assert all(np.array_equal(one, other) for one, other in zip(mixtures(1), mixtures(4), strict=True))


# --- the file ---

def contents(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def unordered(path):
    return sorted(path.read_text().splitlines())


def test_what_a_manifest_says_of_itself_and_of_each_row(folder):
    path, utterances = folder / "noise.jsonl", spoken(*IDS)
    made = NoiseManifest.open(path, families(folder), utterances)
    first, *rest = contents(path)
    assert first == made.header
    assert {key: first[key] for key in ("layout", "sample_rate", "level", "fade")} == {
        "layout": 1, "sample_rate": SAMPLE_RATE, "level": "active", "fade": "equal-power"}
    assert first["avsr"]
    told = [row for row in rest if "id" in row]
    assert len(told) == len(made) == 15
    assert {(row["id"], row["noise"]) for row in told} == {(one, name) for one in IDS for name in made.families}
    for row in told:
        clean = next(one.audio for one in utterances if one.id == row["id"])
        assert row["seed"] == int(hashlib.sha256(f"{row['noise']} {row['id']}".encode()).hexdigest()[:12], 16)
        assert row["speech_sha256"] == hashlib.sha256(clean.astype("<f4").tobytes()).hexdigest()
        assert row["speech_db"] == pytest.approx(active_level(clean), abs=1e-6)
        assert row["speech_rms_db"] == pytest.approx(rms_level(clean), abs=1e-6)
        assert row["gain"] == pytest.approx(10 ** ((row["speech_db"] - row["noise_rms_db"]) / 20), rel=1e-6)
        assert row["noise_rms_db"] == pytest.approx(rms_level(made.noise(row["id"], row["noise"])), abs=1e-6)
        assert row["speaker"] not in row["talkers"]
        assert len(set(row["talkers"])) == len(row["talkers"]) == {"babble": 4, "own": 4}.get(row["noise"], 0)
        plain = {key: value for key, value in row.items() if key != "noise_id"}
        text = json.dumps(json.loads(json.dumps(plain), object_hook=lambda one: {k: v for k, v in one.items() if k != "file"}),
                          sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert row["noise_id"] == hashlib.sha256(text.encode()).hexdigest()[:16]
    cut = next(row for row in told if row["noise"] == "rain")["streams"][0][0]
    assert cut["file"].startswith("noise/rain/")
    assert cut["sha256"] == hashlib.sha256((folder / cut["file"]).read_bytes()).hexdigest()


def test_families_and_utterances_are_added_as_one_run_would_have_made_them(folder):
    whole, grown, utterances = folder / "a" / "noise.jsonl", folder / "b" / "noise.jsonl", spoken(*IDS)
    NoiseManifest.open(whole, families(folder), utterances)
    NoiseManifest.open(grown, families(folder, "rain"), utterances[1:2])
    before = grown.read_bytes()
    NoiseManifest.open(grown, families(folder, "rain", "own"), utterances[:2])
    assert grown.read_bytes().startswith(before)
    NoiseManifest.open(grown, families(folder, "pink", "babble", "shaped"), utterances)
    NoiseManifest.open(grown, families(folder), utterances)
    assert unordered(grown) == unordered(whole)


def test_a_whole_manifest_is_read_and_not_written_again_nor_is_any_speech_read(folder):
    path = folder / "noise.jsonl"
    NoiseManifest.open(path, families(folder), spoken(*IDS))
    before = path.stat()

    def never():
        raise AssertionError("it is all there")

    again = NoiseManifest.open(path, families(folder), [TargetSpeech(one, one[:2], never) for one in IDS])
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(again) == 15
    assert ("s1-a", "rain") in again
    assert ("s1-z", "rain") not in again
    assert [one.name for one in folder.iterdir() if one.name.startswith(".")] == []


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_a_last_line_that_was_cut_off_is_made_again(data):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "noise.jsonl"
        made = [TargetSpeech(one, "s1", speech(1, 4000)) for one in ("s1-ä", "s1-ö")]
        NoiseManifest.open(path, {"pink": Coloured(1.0)}, made)
        whole = path.read_bytes()
        path.write_bytes(cut := whole[:data.draw(st.integers(0, len(whole)))])
        NoiseManifest.open(path, {}, ())                     # with nothing to add, the half line goes
        n_lines = cut.count(b"\n")
        assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:max(1, n_lines)])
        NoiseManifest.open(path, {"pink": Coloured(1.0)}, made)
        assert path.read_bytes() == whole


def test_a_manifest_moves_with_its_noise_and_its_ids_do_not_tell_where_it_lay(folder, tmp_path):
    (one,) = utterances = spoken("s1-a")
    made = NoiseManifest.open(folder / "noise.jsonl", families(folder, "rain", "babble"), utterances)
    deep = NoiseManifest.open(folder / "a" / "b" / "noise.jsonl", families(folder, "rain", "babble"), utterances)
    for family in made.families:
        assert made.row("s1-a", family)["noise_id"] == deep.row("s1-a", family)["noise_id"]
        assert made.row("s1-a", family) != deep.row("s1-a", family)
    wanted = made.mix(one.id, "babble", 0, one.audio).audio
    moved = tmp_path / "elsewhere"
    for name in ("noise", "noise.jsonl"):
        (moved / name).parent.mkdir(exist_ok=True)
        shutil.move(folder / name, moved / name)
    alone = NoiseManifest.open(moved / "noise.jsonl", {}, ())                # nothing but the manifest and its files
    assert np.array_equal(alone.mix(one.id, "babble", 0, one.audio).audio, wanted)
    # The manifest stayed in a/b and its noise has moved: found again by its name and sha256 in the folders now given.
    found = NoiseManifest.open(folder / "a" / "b" / "noise.jsonl", families(moved, "rain", "babble"), utterances)
    assert np.array_equal(found.mix(one.id, "babble", 0, one.audio).audio, wanted)


def test_a_link_to_the_output_folder_does_not_mislead(folder):
    (folder / "real" / "deep").mkdir(parents=True)
    (folder / "link").symlink_to(folder / "real" / "deep", target_is_directory=True)
    (one,) = spoken("s1-a")
    NoiseManifest.open(folder / "link" / "noise.jsonl", families(folder, "rain"), [one])
    again = NoiseManifest.open(folder / "real" / "deep" / "noise.jsonl", {}, ())
    assert again.row("s1-a", "rain")["streams"][0][0]["file"].startswith("../../noise/")
    assert again.mix("s1-a", "rain", 0, one.audio).snr_db == pytest.approx(0, abs=0.1)


def test_progress_counts_the_utterances_that_are_added(folder):
    told = []
    NoiseManifest.open(folder / "noise.jsonl", families(folder, "pink"), spoken(*IDS), progress=lambda *one: told.append(one))
    assert told == [("drawing noise", n, 3, "utterances") for n in range(4)]


# --- what is wrong ---

def test_silent_speech_has_no_ratio_and_is_listed(folder):
    sounds = {"s1-x": np.zeros(SECOND, np.float32), "s1-y": None, "s1-z": np.zeros(0, np.float32)}
    utterances = [*spoken("s1-a"), *(TargetSpeech(one, "s1", lambda audio=audio: audio) for one, audio in sounds.items())]
    path = folder / "noise.jsonl"
    for _ in range(2):
        made = NoiseManifest.open(path, families(folder, "rain", "pink"), utterances)
        assert made.silent == ("s1-x", "s1-y", "s1-z")
        for one, audio in sounds.items():
            row = made.row(one, "rain")
            assert (row["gain"], row["speech_db"], row["speech_rms_db"], row["streams"]) == (None, None, None, [])
            with pytest.raises(BadMedia, match=rf"{one}: it is silent over all \d+ samples .* has no meaning\.  Leave it out"):
                made.mix(one, "rain", 0, audio)
    with pytest.raises(BadMedia, match="s1-n: it holds samples that are not numbers"):
        NoiseManifest.open(path, families(folder, "rain"), [TargetSpeech("s1-n", "s1", np.full(9, np.nan))])


def test_files_that_changed_or_are_gone_are_named_before_anything_is_mixed(folder):
    path, utterances = folder / "out" / "noise.jsonl", spoken(*IDS)
    NoiseManifest.open(path, families(folder), utterances)
    sources, rain = families(folder), sorted((folder / "noise" / "rain").iterdir())
    kept = [file.read_bytes() for file in rain]
    for file in rain:
        save(file, gaussian(9000, 5))
    with pytest.raises(BadManifest, match=r"rain/\d\.wav: it has changed: its sha256 begins .{12}, .* wants .{12}\.  Put the"):
        NoiseManifest.open(path, sources, utterances)
    assert NoiseManifest.open(path, families(folder, "babble"), utterances)            # which is not cut from them
    lazy = NoiseManifest.open(path, {}, ())
    with pytest.raises(BadManifest, match="it has changed"):
        lazy.mix("s1-a", "rain", 0, utterances[0].audio)
    for file in rain:
        file.unlink()
    with pytest.raises(BadManifest, match=rf"{folder}/noise/rain/\d\.wav: no such file, and noise of .*  Put it back, or"):
        NoiseManifest.open(path, sources, utterances)
    for file, blob in zip(rain, kept, strict=True):
        file.write_bytes(blob)
    assert NoiseManifest.open(path, sources, utterances)


def test_recordings_of_a_corpus_that_changed_or_are_not_given_are_named(folder):
    (one,) = spoken("s1-a")
    path = folder / "noise.jsonl"
    NoiseManifest.open(path, families(folder, "own"), [one])
    with pytest.raises(BadManifest, match=r"noise is cut from s\d-\d, which is not among the recordings given\.  Open it with"):
        NoiseManifest.open(path, {}, ()).mix("s1-a", "own", 0, one.audio)
    other = {f"s{i}": [Recorded(f"s{i}-{j}", lambda: speech(99)) for j in range(2)] for i in range(5)}
    made = NoiseManifest.open(path, {"own": open_families(["babble"], own=other)["babble"]}, [one])
    with pytest.raises(BadManifest, match=r"s\d-\d: its sound has changed since .* was written .*  Use the corpus as it was"):
        made.mix("s1-a", "own", 0, one.audio)


def test_other_speech_and_rows_that_are_not_there_are_refused(folder):
    (one,) = spoken("s1-a")
    made = NoiseManifest.open(folder / "noise.jsonl", families(folder, "pink"), [one])
    for other in (one.audio[:-1], one.audio * np.float32(0.5), np.zeros(SECOND, np.float32)):
        with pytest.raises(BadManifest, match=r"s1-a: this is not the speech that .* was written for: \d+ samples, sha256"):
            made.mix("s1-a", "pink", 0, other)
    for asked in (("s1-b", "pink"), ("s1-a", "rain")):
        with pytest.raises(BadManifest, match=f"no row of {asked[0]} in {asked[1]} among 1.  Open it with that"):
            made.mix(*asked, 0, one.audio)


def test_a_family_that_became_another_is_refused(folder):
    path, utterances = folder / "noise.jsonl", spoken("s1-a")
    NoiseManifest.open(path, families(folder), utterances)
    before = path.read_bytes()
    rain = Recordings(sorted((folder / "noise" / "rain").glob("*.wav"))[:1])
    voices = families(folder, "babble")["babble"].talkers
    others = {"rain": (rain, "names_sha256, recordings"), "pink": (Coloured(2.0), "exponent"),
              "babble": (Babble(voices, 3), "n_talkers"), "own": (Coloured(), "exponent, kind, n_talkers, talkers")}
    for name, (other, differs) in others.items():
        with pytest.raises(BadManifest, match=rf"'{name}' was drawn from something else than is given now \(by {differs}\)"):
            NoiseManifest.open(path, {name: other}, utterances)
    with pytest.raises(BadManifest, match="its level is 'active', and 'rms' is asked for"):
        NoiseManifest.open(path, families(folder), utterances, level="rms")
    assert path.read_bytes() == before


@pytest.mark.parametrize(("change", "says"), [
    (lambda text: text.replace('"layout": 1', '"layout": 2'), "layout is 2, this program knows 1.  Update avsr"),
    (lambda text: text.replace('"equal-power"', '"linear"'), "fade is 'linear', this program knows 'equal-power'"),
    (lambda text: text.replace('"active"', '"loudness"'), "level is 'loudness', this program knows 'active' and 'rms'"),
    (lambda text: '{"layout": 1, "modality": "av", "id": "x"}\n', "line 1: this is no noise manifest.  Choose another output"),
    (lambda text: '{"layout": 1, "modality": "av"', "line 1: this is no noise manifest.  Choose another output"),
    (lambda text: "id,noise\n", "line 1: this is no noise manifest"),
    (lambda text: text.replace('"fade": 0', '"fade": 1', 1), "line 3: it was changed: its noise_id is not"),
    (lambda text: text.replace('"gain": ', '"gain": 1', 1), "line 3: it was changed"),
    (lambda text: text.replace('"seed"', '"seeds"', 1), "line 3: seed is missing"),
    (lambda text: text.replace('{"id"', '["id"', 1), "line 3: no row of a noise manifest"),
    (lambda text: text.replace('{"id"', '7\n{"id"', 1), "line 3: no row of a noise manifest"),
    (lambda text: text + text.splitlines()[-1] + "\n", "line 5: this row is there already"),
    (lambda text: text.replace('"s1-a"', '"s1-\udcff"', 1), "byte"),
])
def test_a_file_that_is_none_or_was_edited_is_not_touched(folder, change, says):
    path, utterances = folder / "noise.jsonl", spoken("s1-a", "s1-b")
    NoiseManifest.open(path, families(folder, "rain"), utterances)
    blob = change(path.read_text()).encode(errors="surrogateescape")
    path.write_bytes(blob)
    with pytest.raises(BadManifest) as error:
        NoiseManifest.open(path, families(folder, "rain"), utterances)
    assert says in str(error.value)
    assert str(error.value).startswith(str(path))
    assert ".  " in str(error.value)
    assert path.read_bytes() == blob


def test_cuts_that_do_not_add_up_are_said_though_their_id_is_right(folder):
    path, (one,) = folder / "noise.jsonl", spoken("s1-a")
    NoiseManifest.open(path, families(folder, "rain"), [one])
    *head, row = contents(path)
    for key, value in (("length", 1), ("offset", -1), ("offset", 10 ** 6), ("fade", 3), ("gain", None), ("sha256", 5)):
        changed = json.loads(json.dumps(row))
        changed["streams"][0][0][key] = value
        plain = json.loads(json.dumps({k: v for k, v in changed.items() if k != "noise_id"}),
                           object_hook=lambda one: {k: v for k, v in one.items() if k != "file"})
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        changed["noise_id"] = hashlib.sha256(text.encode()).hexdigest()[:16]
        path.write_text("".join(json.dumps(each) + "\n" for each in (*head, changed)))
        with pytest.raises(BadManifest):
            NoiseManifest.open(path, {}, ()).mix("s1-a", "rain", 0, one.audio)


def test_noise_that_comes_out_otherwise_than_it_was_drawn_is_refused(folder):
    path, (one,) = folder / "noise.jsonl", spoken("s1-a")
    NoiseManifest.open(path, families(folder, "shaped"), [one])
    lines = contents(path)
    lines[1]["power"] = [1.0, *[0.0] * 200]                  # as if another generator were at work
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    made = NoiseManifest.open(path, families(folder, "shaped"), [one])
    with pytest.raises(BadManifest, match=r"s1-a in shaped: the noise has .* dB here and had .* dB when it was drawn, so a"):
        made.mix("s1-a", "shaped", 0, one.audio)


def test_what_cannot_be_in_a_manifest(folder):
    path, utterances = folder / "noise.jsonl", spoken("s1-a")
    with pytest.raises(AvsrError, match=r"a waveform has no name for a manifest\.  Give it one, as Recorded"):
        NoiseManifest.open(path, {"rain": Recordings([gaussian(SECOND, 1)])}, utterances)
    with pytest.raises(BadManifest, match="two of 2 utterances have one id"):
        NoiseManifest.open(path, families(folder), utterances * 2)
    silent = Recordings([Recorded("hush", lambda: np.zeros(SECOND))])
    with pytest.raises(BadMedia, match="hush: it is silent, so it makes no noise"):
        NoiseManifest.open(path, {"hush": silent}, utterances)
    with pytest.raises(AvsrError, match="an utterance has no speaker"):
        NoiseManifest.open(path, families(folder, "own"), [TargetSpeech("x", None, speech(1))])
    assert not path.exists()                                 # whole or not at all
    (folder / "file").write_text("")
    with pytest.raises(BadOutput, match=r"cannot be written \(.*\)\.  Choose another output folder"):
        NoiseManifest.open(folder / "file" / "noise.jsonl", families(folder, "pink"), utterances)


def test_the_noise_of_this_project_mixed_into_real_speech(real_data, noise_grid_config, tmp_path):
    from avsr import media

    clips = [next((real_data / "grid" / name).glob("*.mpg")) for name in ("s1", "s30")]
    utterances = [TargetSpeech(clip.stem, clip.parent.name, media.read(clip, want_video=False).audio) for clip in clips]
    families_ = open_families(["babble", "natural"], config=noise_grid_config)
    made = NoiseManifest.open(tmp_path / "noise.jsonl", families_, utterances)
    assert [len(made.row(one.id, "babble")["talkers"]) for one in utterances] == [6, 5]
    for one in utterances:
        for snr_db in SNRS:
            mixed = made.mix(one.id, "babble", snr_db, one.audio)
            measured = active_level(one.audio) - rms_level(mixed.audio.astype(np.float64) - one.audio)
            assert measured == pytest.approx(snr_db, abs=0.01)
