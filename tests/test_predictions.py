"""Predictions of other systems: rows that our own code scores, and a message for every way in which a file may be wrong."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsr.benchmark.predictions import FIELDS, read_predictions
from avsr.errors import BadManifest
from avsr.manifest import CacheEntry, Utterance
from avsr.metrics import wer
from avsr.rates import SAMPLE_RATE
from avsr.results import ResultRow, Results, read_results
from avsr.text import NORMALISER

ENTRY = CacheEntry("shard-00000.tar", 0, 512, 75, 3 * SAMPLE_RATE)
SAID = [Utterance("a1", "a1.mkv", "Bin blue at F2 now.", "s1", "test", labels={"sex": "m", "trust": "no"}, cache=ENTRY),
        Utterance("a2", "a2.mkv", "set red by x nine again", "s1", "test", start=1.0, end=2.5),
        Utterance("b1", "b1.mkv", "lay white in c zero soon", None, "unseen")]
RIGHT = [{"id": one.id, "hypothesis": one.text} for one in SAID]


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def changed(number, **values):
    """The lines of RIGHT with one of them changed."""
    return [{**line, **(values if i == number else {})} for i, line in enumerate(RIGHT)]


# --- what comes out ---

def test_rows_are_ours_and_are_scored_by_our_code(tmp_path):
    lines = changed(0, hypothesis="bin blue at f two soon")
    rows = read_predictions(write(tmp_path / "kaldi.jsonl", lines), SAID)
    assert [row.id for row in rows] == ["a1", "a2", "b1"]
    assert {row.system for row in rows} == {"kaldi"}
    assert rows[0] == ResultRow(
        system="kaldi", modality="a", id="a1", speaker="s1", split="test", labels={"sex": "m"},
        reference="Bin blue at F2 now.", hypothesis="bin blue at f two soon", normaliser=NORMALISER, duration_s=3.0)
    assert [row.duration_s for row in rows] == [3.0, 1.5, None]
    assert (rows[2].speaker, rows[2].split) == (None, "unseen")
    assert wer(rows, rng=np.random.default_rng(0)).percent == pytest.approx(100 / 18)


def test_rows_go_through_the_file_of_results(tmp_path):
    condition = {"noise": "babble", "snr_db": -5, "modality": "av", "corruption": "blur", "amount": 4, "duration_s": 2}
    rows = read_predictions(write(tmp_path / "theirs.jsonl", [line | condition for line in RIGHT]), SAID, split="test")
    results = Results(tmp_path)
    results.add(rows)
    assert read_results(tmp_path) == (rows, 0)
    assert rows[1].key == ("theirs", "av", "babble", -5.0, "blur", 4.0, "a2")
    assert {row.split for row in rows} == {"test"}


def test_a_line_of_the_index_of_mixes_needs_only_its_hypothesis(tmp_path):
    facts = {"snr_achieved": -5.0001, "snr_rms": -7.25, "noise_id": "0123456789abcdef", "noise_offset": 812}
    lines = [{"id": one.id, "file": f"babble/-5/{one.id}.wav", "noise": "babble", "snr_db": -5.0, **facts,
              "reference": one.text, "hypothesis": "x"} for one in SAID]
    for row in read_predictions(write(tmp_path / "x.jsonl", lines), SAID):
        assert {name: getattr(row, name) for name in facts} == facts


def test_rows_of_ours_may_be_taken_as_a_form(tmp_path):
    """What they tell of our model is not taken over."""
    lines = [{**json.loads(row.line()), "system": "theirs", "sha256": "ab" * 32, "search": "beam 5", "loss": 0.5,
              "video_reliability": 0.25, "trust": 0.25, "heed": 0.5, "speaker": "me"}
             for row in read_predictions(write(tmp_path / "x.jsonl", RIGHT), SAID)]
    rows = read_predictions(write(tmp_path / "y.jsonl", lines), SAID)
    assert [row.system for row in rows] == ["theirs"] * 3
    assert all(row.sha256 is row.search is row.loss is row.video_reliability is None for row in rows)
    assert [row.speaker for row in rows] == ["s1", "s1", None]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_table_says_the_same_as_lines_of_json(tmp_path, suffix):
    lines = [{**line, "system": "kaldi", "noise": "white", "snr_db": 0.0, "noise_offset": 7, "amount": None} for line in RIGHT]
    lines[1]["hypothesis"] = ""
    lines[2]["hypothesis"] = 'lay, "white"\nin\tc'
    with (tmp_path / f"x{suffix}").open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, lines[0], delimiter="," if suffix == ".csv" else "\t")
        table.writeheader()
        table.writerows(lines)
    assert read_predictions(tmp_path / f"x{suffix}", SAID) == read_predictions(write(tmp_path / "x.jsonl", lines), SAID)


@pytest.mark.parametrize(("name", "content"), [
    ("x.csv", 'ID;Hypothesis\na1;"Bin ""blue"""\na2;\nb1;lay\n'),
    ("x.tsv", 'Id\tHYPOTHESIS\na1\t"Bin blue\na2\t\nb1\tlay\n'),
    ("x.jsonl", '{"ID": "a1", "hypothesis": "x"}\r\n{"id": "a2", "Hypothesis": ""}\r\n{"id": "b1", "hypothesis": "lay"}'),
])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_what_a_spreadsheet_writes_is_read(tmp_path, name, content, encoding):
    (tmp_path / name).write_bytes(content.encode(encoding))
    rows = read_predictions(tmp_path / name, SAID)
    assert [(row.id, row.hypothesis) for row in rows[1:]] == [("a2", ""), ("b1", "lay")]


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=20)
CELLS = st.fixed_dictionaries({"hypothesis": TEXTS}, optional={
    "system": st.sampled_from(["x", "y"]), "modality": st.sampled_from(["a", "av"]), "duration_s": st.floats(0.1, 1e6),
    "snr_rms": st.floats(-100, 100), "noise_offset": st.integers(0, 2**39), "noise_id": st.text("0123abc", min_size=1)})


@settings(deadline=None)
@given(st.lists(CELLS, min_size=3, max_size=3))
def test_whatever_a_system_writes_comes_back_by_every_format(tmp_path_factory, cells):
    folder = tmp_path_factory.mktemp("x")
    same = {name: cells[0][name] for name in ("system", "modality") if name in cells[0]}
    lines = [{"id": one.id, **{name: cell for name, cell in values.items() if name not in ("system", "modality")}, **same}
             for one, values in zip(SAID, cells, strict=True)]
    rows = read_predictions(write(folder / "x.jsonl", lines), SAID)
    for line, row in zip(lines, rows, strict=True):
        assert {name: getattr(row, name) for name in line} == line
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        with (folder / f"x{suffix}").open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, FIELDS, delimiter=delimiter)
            table.writeheader()
            table.writerows(lines)
        assert read_predictions(folder / f"x{suffix}", SAID) == rows


# --- what is missing ---

def test_utterances_that_are_missing_are_an_error(tmp_path):
    lines = [*RIGHT, {"id": "a1", "hypothesis": "x", "noise": "rain", "snr_db": 0}]
    path = write(tmp_path / "kaldi.jsonl", lines)
    with pytest.raises(BadManifest, match=r"kaldi.jsonl: predictions missing: 2; of kaldi, a, rain, snr_db 0.0 2 of the 3 "
                                          r"utterances, a2, b1\.  Add them, with an empty hypothesis"):
        read_predictions(path, SAID)


def test_silent_speech_has_no_snr_so_nobody_can_have_met_it_there(tmp_path):
    noisy = [{**line, "noise": "rain", "snr_db": 0} for line in RIGHT[:2]]
    assert len(read_predictions(write(tmp_path / "x.jsonl", [*RIGHT, *noisy]), SAID, silent={"b1"})) == 5
    with pytest.raises(BadManifest, match=r"predictions missing: 1; of x, a 1 of the 3 utterances, b1\.  "):
        read_predictions(write(tmp_path / "x.jsonl", RIGHT[:2]), SAID, silent={"b1"})


# --- what is wrong ---

WRONG = {
    "unknown id": (changed(1, id="a7"), r"x.jsonl: ids that are not among the 3 utterances measured: 1, 'a7' in line 2\.  "
                                        r"One that is: 'a1'\.  Name the right split"),
    "twice": ([*RIGHT, RIGHT[1]], r"x.jsonl, line 4: a2 is there already, in line 2, .* \(x, a\)\.  Take one"),
    "no id": ([{"hypothesis": "x"}], r"line 1: no id\.  A line needs id and hypothesis"),
    "no hypothesis": ([{"id": "a1"}], r"line 1: no hypothesis\.  .*write \"\" where nothing was recognised"),
    "null hypothesis": (changed(2, hypothesis=None), r"line 3: no hypothesis\.  "),
    "id a number": (changed(0, id=7), r"line 1: id is 7, it must be text\.  Correct it"),
    "hypothesis a list": (changed(0, hypothesis=["a"]), r"line 1: hypothesis is \[\"a\"\], it must be text\.  "),
    "half a letter": (changed(0, hypothesis="\ud800"), r"line 1: hypothesis holds half a surrogate pair\.  "),
    "a number in quotes": (changed(0, noise="rain", snr_db="-5"), r"line 1: snr_db is \"-5\", it must be a number\.  "),
    "true": (changed(0, noise="rain", snr_db=True), r"line 1: snr_db is true, it must be a number\.  "),
    "endless": (changed(0, noise="rain", snr_db=1e400), r"line 1: not JSON \(Infinity is no number\)\.  "),
    "half an offset": (changed(0, noise_offset=0.5), r"line 1: noise_offset is 0\.5, it must be a whole number\.  "),
    "modality": (changed(0, modality="audio"), r"line 1: modality is 'audio'\.  Use a \(sound\)"),
    "noise without SNR": (changed(0, noise="rain"), r"line 1: noise is \"rain\" and there is no snr_db\.  Give both"),
    "SNR without noise": (changed(0, snr_db=0), r"line 1: snr_db is 0\.0 and there is no noise\.  Give both"),
    "amount of nothing": (changed(0, amount=0), r"line 1: amount is 0 and there is no corruption\.  "),
    "lips in noise": (changed(0, modality="v", noise="rain", snr_db=0), r"modality is 'v', which noise 'rain' does not affect"),
    "sound blurred": (changed(0, corruption="blur", amount=4), r"modality is 'a', which corruption 'blur' does not affect\.  "),
    "no time": (changed(0, duration_s=0), r"line 1: duration_s is 0, it must be above 0\.  "),
    "another normaliser": (changed(1, normaliser="whisper-en"), rf"line 2: .*'whisper-en', and rows here by '{NORMALISER}'\."),
    "another test set": (changed(1, reference="set red by x eight again"), r"line 2: reference is \"set red by x eight again\""
                                                                           r", and the manifest has .* for a2\.  Is it of"),
    "a typo": (changed(0, snr=0), r"line 1: unknown key 'snr'\.  Did you mean snr_db\?"),
    "another key": (changed(0, zebra=0), r"line 1: unknown key 'zebra'\.  Known are id, hypothesis, .*; take it out"),
}


@pytest.mark.parametrize(("lines", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_line_is_named_with_its_remedy(tmp_path, lines, message):
    with pytest.raises(BadManifest, match=message) as raised:
        read_predictions(write(tmp_path / "x.jsonl", lines), SAID)
    assert str(raised.value).startswith(str(tmp_path / "x.jsonl"))


def test_many_unknown_ids_are_counted_and_three_are_named(tmp_path):
    lines = [*RIGHT, *({"id": f"z{i}", "hypothesis": ""} for i in range(20))]
    with pytest.raises(BadManifest, match=r": ids that .*: 20, 'z0' in line 4, 'z1' in line 5, 'z2' in line 6, \.\.\.\.  "):
        read_predictions(write(tmp_path / "x.jsonl", lines), SAID)


FILES = {
    "x.jsonl": [
        (b'{"id": "a1", "hypothesis": ""}\n{"id": "a2", "hypo', r"line 2: cut off after 18 letters\.  Let the program"),
        (b'{"id": "a1", "hypo\n{"id": "a2", "hypothesis": ""}\n', r"line 1: not JSON \(.*\)\.  Write one object a line"),
        (b'["a1", "x"]\n', r"line 1: \[\"a1\", \"x\"\], where an object in braces belongs\.  "),
        (b"[" * 100_000 + b"\n", r"line 1: not JSON"),
        (b"\n \n", r"no predictions in it\.  Write a line"),
        (b"", r"no predictions in it\.  "),
        (b'{"id": "a1", "hypothesis": "\xff"}\n', r"byte 28 is no UTF-8\.  Save the file as UTF-8"),
    ],
    "x.csv": [
        (b"id,hypothesis\na1,bin,blue\n", r"line 2: 3 cells, where the header has 2\.  Put text that holds the delimiter"),
        (b"id,hypothesis\na1,bin\na2\n", r"line 3: 1 cells, where the header has 2\.  "),
        (b'id,hypothesis\na1,"bin blue\n', r"line 2: not a table \(.*\)\.  Close its double quotes"),
        (b"id,id\na1,a1\n", r"line 1: the header has \"id\" twice\.  "),
        (b"name,text\na1,x\n", r"line 2: unknown key 'name'\.  "),
        (b"id,hypothesis,noise,snr_db\na1,x,rain,loud\n", r"line 2: snr_db is \"loud\", it must be a number\.  "),
        (b"id,hypothesis,noise,snr_db\na1,x,rain,nan\n", r"line 2: snr_db is NaN, it must be a number\.  "),
        (b"id,hypothesis\n", r"no predictions in it\.  "),
    ],
}


@pytest.mark.parametrize(("name", "data", "message"), [(name, *case) for name, cases in FILES.items() for case in cases])
def test_a_file_that_is_damaged_says_where(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadManifest, match=message):
        read_predictions(tmp_path / name, SAID)


def test_a_last_line_without_its_end_is_whole_if_it_can_be_read(tmp_path):
    path = write(tmp_path / "x.jsonl", RIGHT)
    path.write_bytes(path.read_bytes().rstrip(b"\n").replace(b"\n", b"\r\n"))
    assert len(read_predictions(path, SAID)) == 3


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BadManifest, match=r"x.jsonl: it cannot be read \(No such file or directory\)\.  Name a file of pred"):
        read_predictions(tmp_path / "x.jsonl", SAID)
    with pytest.raises(BadManifest, match=r"it cannot be read"):
        read_predictions(tmp_path, SAID)
