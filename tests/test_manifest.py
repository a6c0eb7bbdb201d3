"""Manifests: what is written is what is read, what is damaged is named, and what is wrong with data is found."""

import csv
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracking import crop, track_faces

from avsr import manifest, sync
from avsr.errors import BadManifest, BadOutput
from avsr.manifest import CacheEntry, Limits, Problem, TimedWord, Utterance
from avsr.manifest.rows import is_within_folder
from avsr.rates import SAMPLE_RATE, SAMPLES_PER_FRAME

TEXT = st.text(alphabet="aé \u2028\x85\0\n\r\t\"\\{}:,0😀", max_size=8)              # what could break a line
SPANS = st.tuples(st.floats(0, 1e6), st.floats(1e-3, 1e6)).map(lambda pair: (pair[0], pair[0] + pair[1]))
COUNT = st.integers(0, 2**50)
SHARDS = st.text(alphabet="aé \u2028\n\"\\{}:.-0/", min_size=1, max_size=8).filter(is_within_folder)


@st.composite
def utterances(draw) -> Utterance:
    start, end = draw(st.one_of(st.just((None, None)), SPANS, SPANS.map(lambda span: (None, span[1]))))
    words = st.lists(st.builds(lambda text, span: TimedWord(text, *span), TEXT, SPANS), max_size=3).map(tuple)
    return Utterance(draw(TEXT.filter(len)), draw(TEXT), draw(TEXT), draw(st.none() | TEXT), draw(TEXT),
                     draw(TEXT), start, end, draw(st.none() | words), draw(st.dictionaries(TEXT, TEXT, max_size=3)),
                     draw(st.none() | st.builds(CacheEntry, SHARDS, COUNT, COUNT, COUNT, COUNT)))


ROWS = st.lists(utterances(), max_size=5, unique_by=lambda utterance: utterance.id)
FULL = Utterance("a", "a.mp4", "bin blue", "s1", "valid", "en", 1.0, 2.5, (TimedWord("bin", 0.0, 0.5),), {"sex": "f"},
                 CacheEntry("shard-0.tar", 512, 100, 37, 24000))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("manifest") / "manifest.jsonl"


@pytest.mark.slow
@given(ROWS)
def test_what_is_written_is_read(path, rows):
    manifest.write(path, rows)
    assert manifest.read(path) == rows
    assert path.read_bytes().count(b"\n") == len(rows)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.slow
@given(ROWS.filter(len), st.data())
def test_a_line_cut_in_half_is_named_by_its_number(path, rows, data):
    manifest.write(path, rows)
    lines = path.read_bytes().split(b"\n")[:-1]
    number = data.draw(st.integers(0, len(lines) - 1))
    lines[number] = lines[number][:data.draw(st.integers(1, len(lines[number]) - 1))]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(BadManifest, match=rf"manifest.jsonl: line {number + 1}: .*  "):
        manifest.read(path)


def tried(path) -> tuple[list[Utterance] | None, str | None]:
    """What is read, or the message of why nothing is."""
    try:
        return manifest.read(path), None
    except BadManifest as error:
        return None, str(error)


@given(st.binary(max_size=60))
def test_no_bytes_give_another_error_than_badmanifest(path, content):
    path.write_bytes(content)
    rows, message = tried(path)
    assert all(isinstance(row, Utterance) for row in rows or [])
    assert message is None or (": line " in message and "  " in message)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2))


@given(st.sampled_from(sorted(Utterance.__dataclass_fields__)), JSON)
def test_a_value_of_another_kind_is_refused_or_read(path, key, value):
    manifest.write(path, [FULL])
    row = json.loads(path.read_text(encoding="utf-8")) | {key: value}
    path.write_text(json.dumps(row))
    rows, message = tried(path)
    if rows is None:
        assert ": line 1: " in message
    else:
        manifest.write(path, rows)
        assert manifest.read(path) == rows


def test_only_what_differs_from_the_default_is_written(path):
    manifest.write(path, [Utterance("é\u2028", "a.mp4", "so")])
    assert path.read_text(encoding="utf-8") == '{"id": "é\u2028", "media": "a.mp4", "text": "so"}\n'
    manifest.write(path, [FULL])
    row = json.loads(path.read_text())
    assert row["words"] == [{"text": "bin", "start": 0.0, "end": 0.5}]
    assert row["cache"]["n_frames"] == 37


@pytest.mark.parametrize(("line", "message"), [
    ('{"id": "b", "media": "b", "text": "t", "spaker": "x"}', "unknown key spaker.  Did you mean speaker?"),
    ('{"id": "b", "media": "b", "text": "t", "colour": "x"}', "unknown key colour.  Known: id, media"),
    ('{"id": "b", "media": "b"}', "text is missing"),
    ('{"id": "", "media": "b", "text": "t"}', "id is empty"),
    ('{"id": 3, "media": "b", "text": "t"}', "id is 3, it must be text"),
    ('{"id": "b", "media": "b", "text": null}', "text is null, it must be text"),
    ('{"id": "b", "media": "b", "text": "t", "start": "1"}', 'start is "1", it must be a number'),
    ('{"id": "b", "media": "b", "text": "t", "start": true}', "start is true, it must be a number"),
    ('{"id": "b", "media": "b", "text": "t", "start": NaN}', "NaN is no number"),
    ('{"id": "b", "media": "b", "text": "t", "start": -0.5}', "start is -0.5 s, it must not be negative"),
    ('{"id": "b", "media": "b", "text": "t", "start": 2, "end": 1}', "end is 1 s, which does not come after its start of 2 s"),
    ('{"id": "b", "media": "b", "text": "t", "end": 0}', "end is 0 s"),
    ('{"id": "b", "media": "b", "text": "t", "words": [{"text": "t", "start": 2, "end": 1}]}', "words[0].end is 1 s"),
    ('{"id": "b", "media": "b", "text": "t", "words": [{"text": "t", "start": 2}]}', "words[0].end is missing"),
    ('{"id": "b", "media": "b", "text": "t", "words": ["t"]}', 'words[0] is "t", it must be an object'),
    ('{"id": "b", "media": "b", "text": "t", "labels": {"age": 3}}', "labels.age is 3, it must be text"),
    ('{"id": "b", "media": "b", "text": "t", "cache": {"shard": "s"}}', "cache.offset is missing"),
    ('{"id": "b", "media": "b", "text": "t", "cache": {"shard": "s", "offset": -1, "size": 0, "n_frames": 0, "n_samples": 0}}',
     "cache.offset is -1"),
    ('{"id": "a", "media": "b", "text": "t"}', "id 'a' is already that of line 1"),
    ('["a"]', "a list, where an object in braces belongs"),
    ("\xff", "byte 0 is no UTF-8"),
])
def test_each_mistake_is_named(path, line, message):
    manifest.write(path, [FULL])
    path.write_bytes(path.read_bytes() + b"\n" + line.encode("latin-1"))
    with pytest.raises(BadManifest) as error:
        manifest.read(path)
    assert str(error.value).startswith(f"{path}: line 3: ")
    assert message in str(error.value)
    assert "  " in str(error.value)


@pytest.mark.parametrize(("values", "message"), [
    ({"offset": 2**63}, "cache.offset is 9223372036854775808, it must be from 0 to 2^53.  Run avsr prepare again."),
    ({"size": 10**4000}, "cache.size is a number of more than 40 digits, it must be from 0 to 2^53."),
    ({"shard": "/etc/passwd"}, 'cache.shard is "/etc/passwd", but shards lie beside their manifest or in folders below it.'),
    *(({"shard": shard}, "but shards lie beside their manifest") for shard in
      ("../../x.tar", "a/../../x.tar", "..", "file:///etc/passwd", "a\0b", "")),
])
def test_a_cache_reads_no_files_but_its_own(path, values, message):
    manifest.write(path, [FULL])
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, "cache": {**row["cache"], **values}}))
    with pytest.raises(BadManifest) as error:
        manifest.read(path)
    assert f"{path}: line 1: " in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_an_editors_marks_do_no_harm(path, encoding):
    row = '{"id": "Zoë", "media": "m", "text": "t", "start": 1, "speaker": null}\r\n\r\n'
    path.write_bytes(row.encode(encoding))
    assert manifest.read(path) == [Utterance("Zoë", "m", "t", start=1.0)]
    assert manifest.read(path.parent) == manifest.read(path)             # a folder stands for the manifest in it


def test_what_is_no_manifest_says_what_to_do(tmp_path):
    (tmp_path / "t.csv").write_text("media,text\na.mp4,hello\n")
    with pytest.raises(BadManifest, match=r"t\.csv: a table, and .* is needed\.  Make one of it: avsr prepare folder .*t\.csv"):
        manifest.read(tmp_path / "t.csv")
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(BadManifest, match=r"pipe\.jsonl: a pipe or a device, not a file\.  "):
        manifest.read(tmp_path / "pipe.jsonl")
    with pytest.raises(BadManifest, match=rf"^{tmp_path}/none: cannot be read \(No such .*\)\.  Make it with avsr prepare"):
        manifest.read(tmp_path / "a" / ".." / "none")


def test_what_cannot_be_written_leaves_the_old_file(path, tmp_path):
    manifest.write(path, [FULL])
    with pytest.raises(BadManifest, match="'a'"):
        manifest.write(path, [FULL, FULL])
    with pytest.raises(BadManifest, match="Rename"):
        manifest.write(path, [replace(FULL, media="\udcff.mp4")])
    with pytest.raises(BadManifest, match="times"):
        manifest.write(path, [replace(FULL, start=float("nan"))])
    assert manifest.read(path) == [FULL]
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOutput, match="cannot be written"):
        manifest.write(tmp_path / "file" / "m.jsonl", [FULL])
    with pytest.raises(BadManifest, match="cannot be read"):
        manifest.read(tmp_path / "none.jsonl")


PEOPLE = [Utterance(f"s{s}_{i}", f"s{s}/{i}.mp4", "t", f"s{s}", "test" if i == 19 else "train")
          for s in (1, 2, 3) for i in range(20)]


def test_splits_by_ids():
    by_id = manifest.split(PEOPLE, "valid", ids=["s1_3", "s2_4"])
    assert [row.id for row in by_id if row.split == "valid"] == ["s1_3", "s2_4"]
    assert [replace(row, split="") for row in by_id] == [replace(row, split="") for row in PEOPLE]
    assert manifest.split(PEOPLE, "valid", ids=["s9_9"]) == PEOPLE


@given(st.floats(0, 1), st.integers(0, 5))
def test_a_fraction_is_drawn_of_each_speaker_whatever_the_order(fraction, seed):
    drawn = manifest.split(PEOPLE, "valid", fraction=fraction, among="train", seed=seed)
    for speaker in ("s1", "s2", "s3"):
        assert sum(row.split == "valid" for row in drawn if row.speaker == speaker) == round(fraction * 19)
    assert sum(row.split == "test" for row in drawn) == 3
    assert manifest.split(PEOPLE[::-1], "valid", fraction=fraction, among="train", seed=seed) == drawn[::-1]


@given(n_train=st.integers(0, 60), n_test=st.integers(0, 3), n_valid=st.integers(0, 2), n_speakers=st.integers(1, 5),
       share=st.floats(0, 0.9))
def test_a_corpus_without_a_validation_split_gets_one_of_its_training_utterances(n_train, n_test, n_valid, n_speakers, share):
    kinds = ["train"] * n_train + ["test"] * n_test + ["valid"] * n_valid
    rows = [Utterance(f"u{i}", f"u{i}.mp4", "ab", f"s{i % n_speakers}", split) for i, split in enumerate(kinds)]
    drawn = manifest.draw_valid(rows, share)
    assert [row.id for row in drawn] == [row.id for row in rows]
    moved = [new for old, new in zip(rows, drawn, strict=True) if old.split != new.split]
    assert all(row.split == "valid" for row in moved)
    if n_valid or n_train < 2 or not share:
        assert drawn == rows
    else:
        assert 1 <= len(moved) < n_train
        for speaker in {row.speaker for row in rows}:
            there = sum(row.speaker == speaker and row.split == "train" for row in rows)
            assert sum(row.speaker == speaker for row in moved) <= max(1, round(share * there))
        assert manifest.draw_valid(rows[::-1], share) == drawn[::-1]      # a matter of the ids alone
        assert manifest.draw_valid(drawn, share) == drawn                 # once there is one, it stays


def test_another_seed_draws_others():
    ids = [row.id for row in PEOPLE]
    assert manifest.shuffled(ids, 0) != manifest.shuffled(ids, 1)
    assert manifest.shuffled(ids, 0)[:5] == [id_ for id_ in manifest.shuffled([*ids, "new"], 0) if id_ != "new"][:5]


def mouths(rng, n_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """A made-up talker: the mouth darkens and moves with the loudness of the sound."""
    loud = np.clip(np.convolve(rng.normal(size=n_frames), np.ones(5) / 3, "same"), 0, 1)
    images = np.full((n_frames, 96, 96), 120.0)
    images[:, 44:56, 30:66] -= 80 * loud[:, None, None]
    images += (loud * np.resize([-1, 1], n_frames) * 4)[:, None, None] * np.resize([0, 1], (96, 96))
    images += np.random.default_rng(0).normal(0, 4, images.shape)       # a camera's noise: no picture stands quite still
    audio = rng.normal(size=(n_frames, SAMPLES_PER_FRAME)) * (0.001 + 0.2 * loud[:, None])
    return images.clip(0, 255).astype(np.uint8), audio.astype(np.float32).ravel()


def fields(problems: list[Problem]) -> list[str]:
    return [problem.field for problem in problems]


def test_a_sound_utterance_has_no_problem():
    images, audio = mouths(np.random.default_rng(0), 75)
    assert manifest.check(FULL, images=images, missing=np.zeros(75, bool), audio=audio) == []
    assert manifest.check(Utterance("a", "a.wav", "no times known")) == []


def test_each_problem_is_found():
    images, audio = mouths(np.random.default_rng(0), 75)
    missing = np.arange(75) < 20
    row = Utterance("a", "a.mp4", "bin blue")
    assert fields(manifest.check(row, images=images, missing=missing, audio=audio)) == ["missing"]
    assert manifest.check(row, missing=missing, limits=Limits(max_missing=0.3)) == []
    assert manifest.check(row, images=images, audio=audio[:-6 * SAMPLES_PER_FRAME]) == [
        Problem("a", "length", "3.00 s, 2.76 s", "mouths and sound differ in length")]
    assert fields(manifest.check(replace(row, text=" "))) == ["text"]
    assert fields(manifest.check(replace(row, text="x" * 106), audio=audio)) == ["duration"]
    assert manifest.check(replace(row, text="x" * 105), audio=audio) == []
    assert fields(manifest.check(row, audio=audio[:3000])) == ["duration"]
    assert fields(manifest.check(replace(row, start=1.0, end=32.0))) == ["duration"]
    assert fields(manifest.check(replace(FULL, cache=replace(FULL.cache, n_frames=60)))) == ["length"]
    assert fields(manifest.check(row, audio=np.zeros(SAMPLE_RATE, np.float32))) == ["audio"]
    assert fields(manifest.check(row, audio=np.full(SAMPLE_RATE, np.nan, np.float32))) == ["audio"]


def test_duplicates_are_found():
    first = Utterance("a", "a.mp4", "so", start=0.0, end=1.0)
    rows = [first, replace(first, id="b", start=1.0, end=2.0), replace(first, id="c"), first, replace(first, id="d", media="d"),
            replace(first, id="e", media="e", text="other")]
    sound = manifest.content_hash(np.linspace(-1, 1, 99, dtype=np.float32))
    found = manifest.check_all(rows, {"a": sound, "d": sound, "e": sound})
    assert [(problem.id, problem.field, problem.reason) for problem in found] == [
        ("c", "media", "the same recording and times as a"), ("a", "id", "the same id as a"),
        ("d", "audio", "the same text and sound as a")]


def test_the_hash_is_of_the_sound_to_16_bits():
    sound = np.random.default_rng(0).normal(size=99).astype(np.float32).clip(-1, 1)
    assert manifest.content_hash(sound) == manifest.content_hash(sound * np.float32(1 - 1e-7))
    assert manifest.content_hash(sound) != manifest.content_hash(sound * np.float32(0.99))


@given(st.integers(-8, 8), st.integers(0, 9))
def test_the_lag_of_shifted_signals_is_found(shift, seed):
    signal = np.random.default_rng(seed).normal(size=100)
    lips, sound = signal[10 - shift: 90 - shift], signal[10:90]          # lips[t + shift] goes with sound[t]
    frames, correlation = sync.peak(sync.correlations(lips, sound, 10))
    assert frames == shift
    assert correlation == pytest.approx(1)


@given(st.integers(0, 40), st.integers(0, 40))
def test_still_lips_and_short_clips_have_no_lag(n_lips, n_sound):
    assert sync.peak(sync.correlations(np.ones(n_lips), np.arange(n_sound), 12)) == (0, 0.0)
    assert sync.mouth_opening(np.zeros((n_lips, 96, 96), np.uint8)).shape == (n_lips,)


def test_energy_has_a_value_for_each_frame_and_none_beyond_the_sound():
    audio = np.concatenate([np.full(SAMPLES_PER_FRAME, 0.25), np.full(SAMPLES_PER_FRAME, 0.0625)]).astype(np.float32)
    assert sync.energy(audio, 3).tolist() == [0.5, 0.25, 0.0]
    assert sync.energy(audio, 1).tolist() == [0.5]


def shifted(images: np.ndarray, audio: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """The same talker with lips `frames` later than the sound."""
    if frames >= 0:
        return images[:len(images) - frames], audio[frames * SAMPLES_PER_FRAME:]
    return images[-frames:], audio[:frames * SAMPLES_PER_FRAME]


@pytest.mark.parametrize("frames", [0, 8, -8])
def test_lips_out_of_step_are_found_by_speaker(frames):
    rng = np.random.default_rng(1)
    clips = [shifted(*mouths(rng, 75), frames) for _ in range(20)]
    curves = [manifest.step_curve(images, None, audio) for images, audio in clips]
    assert fields(manifest.check_speakers({"s1": curves, "few": curves[:19]})) == ([] if frames == 0 else ["step"])
    for problem in manifest.check_speakers({"s1": curves}):
        assert problem.id == "speaker s1"
        assert abs(int(problem.value) - frames) <= 1


def test_lips_out_of_step_are_found_in_a_clip_where_that_is_plain():
    images, audio = shifted(*mouths(np.random.default_rng(3), 150), 8)
    (problem,) = manifest.check(FULL, images=images, missing=np.zeros(len(images), bool), audio=audio)
    assert problem.field == "step"
    assert problem.reason == "lips come 8 frames after the sound"
    assert manifest.step_curve(images, np.arange(len(images)) < 40, audio) is None


@pytest.mark.slow
def test_real_lips_are_in_step_and_shifted_ones_are_not(real_data):
    """GRID's s1, some clips each way; the figures for all of them are in checks.py."""
    from avsr import media

    clips = []
    for path in sorted((real_data / "grid" / "s1").glob("*.mkv"))[::80]:
        clip = media.read(path)
        (track,) = track_faces(clip, max_faces=1)
        clips.append((crop(clip, track).images, clip.audio))
    limits = Limits(min_clips=10)
    for frames, wanted in ((0, []), (8, ["step"])):
        pairs = [shifted(images, audio[:len(images) * SAMPLES_PER_FRAME], frames) for images, audio in clips]
        if not frames:
            assert [problem for images, audio in pairs for problem in manifest.check(FULL, images=images, audio=audio)] == []
        curves = [manifest.step_curve(images, None, audio) for images, audio in pairs]
        assert fields(manifest.check_speakers({"s1": curves}, limits=limits)) == wanted


@given(st.lists(st.builds(Problem, TEXT, TEXT, TEXT, TEXT), max_size=4))
def test_problems_are_read_as_written_but_for_white_space(path, problems):
    table = path.with_name("problems.tsv")
    manifest.write_problems(table, problems)
    plain = [Problem(*(" ".join(value.split()) for value in vars(problem).values())) for problem in problems]
    with table.open(newline="") as file:
        assert [Problem(**row) for row in csv.DictReader(file, delimiter="\t")] == plain
    table.unlink()


def test_dropped_items_are_a_table(tmp_path):
    manifest.write_dropped(tmp_path / "dropped.tsv", [manifest.Dropped("a.mp4", "empty\tfile")])
    assert (tmp_path / "dropped.tsv").read_text() == "item\treason\na.mp4\tempty file\n"
