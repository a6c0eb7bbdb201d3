"""The report: everything in it comes from rows, is right, can be opened without a network, and bad rows are told."""

import csv
import gzip
import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from html.parser import HTMLParser
from xml.dom import minidom

import made_rows
import numpy as np
import pytest
from made_limits import full_disk
from made_rows import Made

from avsr.cli.report import report_command
from avsr.errors import AvsrError, BadOutput
from avsr.metrics import by_group, difference, paired, wer
from avsr.output import locked
from avsr.report import ReportSettings, report
from avsr.report.runs import open_run
from avsr.results import REQUIRED_FIELDS, read_results

SMALL = Made(n_utterances=50, n_speakers=10, snrs=(None, 0.0, -10.0),
             damage=(("occlusion", 0.5), ("shift", -80.0), ("shift", 80.0), ("noface", None), ("face", None)))
TINY = Made(6, 3, ("grid",), ("babble",), (None, 0.0), (("noface", None),))
QUICK = ReportSettings(formats=())


def rng():
    return np.random.default_rng(0)


def table(folder, name):
    """Lines of a CSV."""
    with (folder / "tables" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def rewrite(run, change):
    """A run with other rows: `change` gives the row to keep, or None."""
    path = run / "results.jsonl"
    rows = [new for line in path.read_text().splitlines() if (new := change(json.loads(line))) is not None]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


class Page(HTMLParser):
    """What a page asks for, and its text."""

    def __init__(self, path):
        super().__init__()
        self.wanted, self.ids, self.text, self.open = [], [], [], [""]
        self.feed(path.read_text())
        self.all = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.wanted += [value for name, value in attrs if name in ("src", "href", "data", "poster", "xlink:href")]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_data(self, data):
        if self.open[-1] not in ("style", "script"):
            self.text.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder as a benchmark leaves it, with small recordings of two utterances."""
    folder = made_rows.write(tmp_path_factory.mktemp("runs") / "small", SMALL)
    (folder / "media").mkdir()
    for row in made_rows.utterances(SMALL):
        (folder / "media" / f"{row['id']}.mp4").write_bytes(b"not a real video " + row["id"].encode())
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with hardly anything in it."""
    return made_rows.write(tmp_path_factory.mktemp("runs") / "tiny", TINY)


@pytest.fixture(scope="module")
def made(run):
    """Its report."""
    return report([run], run / "report")


@pytest.fixture(scope="module")
def rows(run):
    return read_results(run)[0]


def pick(rows, modality, noise=None, snr_db=None, corruption=None, amount=None, system="default"):
    wanted = (system, modality, noise, snr_db, corruption, amount)
    return [row for row in rows if row.key[:-1] == wanted]


# --- what is in it ---

def test_every_figure_and_table_is_written(run, made):
    names = {path.relative_to(run / "report").as_posix() for path in made.written}
    figures = {f"{name}.{kind}" for name in ("wer", "corruption", "reliability", "contribution", "visemes", "groups", "speed")
               for kind in ("png", "svg")}
    tables = {f"tables/{name}.csv" for name in
              ("main", "gains", "corruptions", "contribution", "visemes", "each-speaker", "each-sex", "gaps-sex", "groups",
               "video-gain", "faces", "speed", "errors", "counts", "skipped")}
    assert figures | {"index.html", "tables.md", "written.txt"} <= names
    assert tables - names == {"tables/each-speaker.csv"}                    # five utterances of each are too few to judge
    assert all(path.stat().st_size for path in made.written)
    assert "By speaker: insufficient data, fewer than two groups have 20 utterances." in made.warnings
    assert {path.name for path in (run / "report").iterdir()} == {name.split("/")[0] for name in names}


def test_the_main_table_is_what_the_metrics_say(run, made, rows):
    lines = table(run / "report", "main")
    assert [(line["noise"], line["snr_db"]) for line in lines] == [(noise, snr) for noise in ("babble", "white")
                                                                   for snr in ("clean", "0", "-10")]
    for line in lines:
        condition = (None, None) if line["snr_db"] == "clean" else (line["noise"], float(line["snr_db"]))
        sound, video, both = pick(rows, "a", *condition), pick(rows, "v"), pick(rows, "av", *condition)
        for name, some in (("sound", sound), ("video", video), ("both", both)):
            rate = wer(some, rng=rng())
            assert [float(line[name + end]) for end in ("", "_low", "_high")] == pytest.approx(
                [rate.percent, rate.low, rate.high], rel=1e-5)
        better = min(sound, video, key=lambda some: wer(some, rng=rng()).percent)
        less = difference(both, better, rng=rng())
        assert [float(line["difference" + end]) for end in ("", "_low", "_high")] == pytest.approx(
            [less.percent, less.low, less.high], rel=1e-4, abs=1e-5)
        assert line["no_harm"] == ("kept" if less.percent <= 0.5 else "broken")
        other = wer(pick(rows, "a", *condition, system="faster-whisper:tiny.en"), rng=rng())
        assert float(line["faster-whisper:tiny.en sound"]) == pytest.approx(other.percent, rel=1e-5)
    assert {line["no_harm"] for line in lines} == {"kept", "broken"}


def test_where_the_no_harm_criterion_is_broken_the_line_is_bold_and_says_so(run, made):
    lines = {(line["noise"], line["snr_db"].replace("-", "−")): line["no_harm"] for line in table(run / "report", "main")}
    texts = (run / "report" / "tables.md").read_text().split("**default, babble: WER %**")[1].split("##")[0]
    noise, found = "babble", {}
    for text in texts.splitlines():
        noise = "white" if "default, white" in text else noise
        cells = [cell.strip() for cell in text.strip("|").split("|")]
        if cells[0].strip("*") in ("clean", "0", "−10") and len(cells) == 7:
            found[noise, cells[0].strip("*")] = cells
    assert set(found) == set(lines)
    for key, cells in found.items():
        assert all(cell.startswith("**") for cell in cells) == (lines[key] == "broken"), key
        assert any(cell.startswith("**") for cell in cells) == (lines[key] == "broken"), key
    page = (run / "report" / "index.html").read_text()
    assert page.count('<tr class="bold">') == sum(
        line["no_harm"] == "broken" for name in ("main", "corruptions") for line in table(run / "report", name))
    assert re.match(r"\*\*default, babble: WER %\*\*\n\n\| +SNR, dB \| +sound \| +video \| +both \|", made.summary)
    assert made.summary in texts or made.summary.split("\n\n")[1] in texts


def test_bad_pictures_groups_and_counts(run, made, rows):
    lines = table(run / "report", "corruptions")
    line = next(one for one in lines if (one["noise"], one["corruption"], one["amount"]) == ("white", "shift", "-80"))
    hit, whole = pick(rows, "av", "white", -10.0, "shift", -80.0), pick(rows, "av", "white", -10.0)
    assert float(line["both"]) == pytest.approx(wer(hit, rng=rng()).percent, rel=1e-5)
    video = pick(rows, "v", corruption="shift", amount=-80.0)
    assert float(line["video"]) == pytest.approx(wer(video, rng=rng()).percent, rel=1e-5)
    assert float(line["cost"]) == pytest.approx(difference(hit, whole, rng=rng()).percent, rel=1e-5)
    found = by_group(pick(rows, "av", "babble", 0.0), "sex", rng=rng())
    (gap,) = [one for one in table(run / "report", "gaps-sex")
              if (one["system"], one["modality"], one["noise"], one["snr_db"]) == ("default", "both", "babble", "0")]
    assert (gap["worst"], float(gap["gap"])) == (found.worst, pytest.approx(found.gap.percent, rel=1e-5))
    one, two = table(run / "report", "counts")
    assert (one["system"], two["system"]) == ("default", "faster-whisper:tiny.en")
    assert (int(one["rows"]), int(one["utterances"]), int(one["speakers"]), int(one["incomplete"])) == (
        sum(row.system == "default" for row in rows), 50, 10, 0)
    off = max(abs(row.snr_achieved - row.snr_db) for row in rows if row.system == "default" and row.noise)
    assert float(one["off_db"]) == pytest.approx(off, rel=1e-4)
    assert table(run / "report", "skipped") == [{"run": "small", "reason": "silent speech: SNR undefined", "utterances": "1",
                                                 "ids": "s3-00099"}]
    fast = table(run / "report", "speed")
    timings = [row for row in made_rows.timings(SMALL) if (row["system"], row["modality"]) == ("default", "av")]
    (both,) = [one for one in fast if (one["system"], one["modality"]) == ("default", "both")]
    seconds, audio = (sum(row[name] for row in timings) for name in ("seconds", "audio_s"))
    assert float(both["real_time_factor"]) == pytest.approx(seconds / audio, rel=1e-5)
    assert float(both["peak_mb"]) == max(row["peak_mb"] for row in timings)


def test_the_page_needs_nothing_but_itself(run, made, rows):
    page = Page(made.page)
    text = made.page.read_text()
    assert all(value.startswith(("data:", "#")) for value in page.wanted)
    assert not re.findall(r"url\((?!#)|@import|<script|<link|<iframe", text)
    assert {value[1:] for value in page.wanted if value.startswith("#")} <= set(page.ids)
    own = [one for one in page.ids if re.match(r"(wer|reliability|groups|contribution|visemes|corruption|speed)-", one)]
    assert len(own) == len(set(own)) > 100                                   # ids of one figure are in no other
    for heading in ("WER against noise", "Corrupted video", "Confusions", "Error rates by group", "Worst and best", "Speed"):
        assert heading in page.all
    assert "avsr benchmark data/grid --split test" in page.all
    assert "signal-to-noise ratio, dB" in page.all                           # text of the figures is text
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def test_the_worst_and_the_best_are_and_can_be_heard(run, made, rows):
    page = made.page.read_text()
    shown = re.findall(r'<p class="faint">(s\d+-\d+), speaker', page)
    errors = {row.id: 0 for row in rows}
    for row in rows:
        if (row.system, row.modality, row.corruption) == ("default", "av", None):
            errors[row.id] += wer([row], rng=rng()).score.errors
    counts = sorted(errors.values())
    assert sorted(errors[one] for one in shown[:6]) == counts[-6:]
    assert sorted(errors[one] for one in shown[6:]) == counts[:6]
    assert page.count('<video controls preload="metadata" src="data:video/mp4;base64,') == 12
    worst = next(row for row in rows if row.id == shown[0])
    assert f'<p class="said">{worst.reference}</p>' in page


@pytest.mark.slow
def test_the_same_rows_give_the_same_report(tiny, tmp_path):
    settings = ReportSettings(formats=("pdf",))
    first, second = (report([tiny], tmp_path / name, settings=settings) for name in ("one", "two"))
    for one, two in zip(first.written, second.written, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name
    assert (tmp_path / "one" / "wer.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_what_an_earlier_report_left_is_taken_away_and_nothing_else(tiny, tmp_path):
    (tmp_path / "tables").mkdir()
    mine = tmp_path / "tables" / "mine.csv"
    mine.write_text("kept")
    report([tiny], tmp_path, settings=ReportSettings(formats=("svg",)))
    assert (tmp_path / "reliability.svg").exists()
    bare = rewrite(made_rows.write(tmp_path / "bare", Made(n_utterances=4, n_speakers=2, snrs=(None,), damage=())),
                   lambda row: {**row, "video_reliability": None, "gate": None})
    report([bare], tmp_path, settings=ReportSettings(formats=("svg",)))
    assert (tmp_path / "wer.svg").exists()
    assert not (tmp_path / "reliability.svg").exists()
    assert mine.read_text() == "kept"


# --- two runs ---

@pytest.fixture(scope="module")
def better(tmp_path_factory):
    """The same sentences heard by a better system of the same name, at another set of levels."""
    return made_rows.write(tmp_path_factory.mktemp("others") / "better", Made(
        n_utterances=50, n_speakers=10, snrs=(None, 0.0, 5.0), damage=(("noface", None),), quality=0.4, noises=("babble",)))


@pytest.mark.slow
def test_two_runs_are_compared_on_the_same_utterances(run, better, rows, tmp_path):
    made = report([run, better], tmp_path, settings=QUICK)
    lines = table(tmp_path, "compared")
    theirs = read_results(better)[0]
    (line,) = [one for one in lines if (one["first"], one["modality"], one["noise"], one["snr_db"], one["corruption"]) ==
               ("small: default", "sound", "babble", "0", "")]
    found = paired(pick(theirs, "a", "babble", 0.0), pick(rows, "a", "babble", 0.0), rng=rng())
    assert [float(line["difference" + end]) for end in ("", "_low", "_high")] == pytest.approx(
        [found.difference.percent, found.difference.low, found.difference.high], rel=1e-4)
    assert float(line["p"]) == pytest.approx(found.p, rel=1e-5)
    assert (line["second"], line["utterances"]) == ("better: default", "50")
    assert "**better: default against small: default: WER %**" in made.summary
    alone = {(one["system"], one["noise"], one["snr_db"]) for one in table(tmp_path, "one-run-only")
             if one["modality"] == "sound"}
    assert alone == {(f"small: {name}", noise, snr) for name in ("default", "faster-whisper:tiny.en")
                     for noise, snr in (("babble", "-10"), ("white", "0"), ("white", "-10"))} | {
                    (f"better: {name}", "babble", "5") for name in ("default", "faster-whisper:tiny.en")}
    page = Page(made.page).all
    assert "Benchmark: small and better" in page
    assert "In one run only" in page


@pytest.mark.slow
def test_systems_of_different_names_keep_them(tmp_path):
    one, two, alike = (made_rows.write(tmp_path / name / "run", Made(6, 3, (system,), (), (None,), ()))
                       for name, system in (("x", "grid"), ("y", "tiny"), ("z", "grid")))
    lines = report([one, two], tmp_path / "out", settings=QUICK) and table(tmp_path / "out", "compared")
    assert {(line["first"], line["second"]) for line in lines} == {("grid", "tiny")}
    assert "Benchmark: x/run and y/run" in (tmp_path / "out" / "index.html").read_text()
    report([one, alike], tmp_path / "out", settings=QUICK)
    assert {(line["first"], line["second"]) for line in table(tmp_path / "out", "compared")} == {("x/run", "z/run")}


@pytest.mark.slow
def test_other_noise_and_utterances_of_one_run_only_are_told(tiny, tmp_path):
    ids = sorted({row.id for row in read_results(tiny)[0]})
    other = made_rows.write(tmp_path / "other", TINY)
    rewrite(other, lambda row: None if row["id"] == ids[0] else {**row, "noise_offset": 7} if row["noise"] else row)
    made = report([tiny, other], tmp_path / "out", settings=QUICK)
    assert any(note.startswith("1 utterance of one run alone, left out of the differences; ") for note in made.warnings)
    assert any("pieces of noise (babble) are not the same" in note for note in made.warnings)
    assert {line["utterances"] for line in table(tmp_path / "out", "compared")} == {"5"}


@pytest.mark.parametrize(("change", "message"), [
    (lambda row: {**row, "id": "x" + row["id"]}, "no utterance is in both, so nothing can be paired.  Compare"),
    (lambda row: {**row, "reference": row["reference"] + " again"}, "6 of 6 utterances have other references, such as"),
    (lambda row: {**row, "normaliser": "whisper-en-1"}, "rows of 2 normalisers cannot be compared")])
def test_runs_that_cannot_be_compared(tiny, tmp_path, change, message):
    other = rewrite(made_rows.write(tmp_path / "other", TINY), change)
    with pytest.raises(AvsrError, match=re.escape(message)):
        report([tiny, other], tmp_path / "out")


def test_one_run_twice_or_three(run, tmp_path):
    with pytest.raises(AvsrError, match="given twice"):
        report([run, run / "." / "report" / ".."], tmp_path)
    with pytest.raises(AvsrError, match="3 runs given"):
        report([run, tmp_path, tmp_path / "x"], tmp_path)


# --- runs that are not whole, small or odd ---

def test_a_run_that_was_stopped_is_reported_as_far_as_it_is(run, tmp_path):
    part = made_rows.write(tmp_path / "part", TINY)
    rewrite(part, lambda row: None if (row["modality"], row["noise"], row["id"]) == ("av", "babble", "s1-00000") else row)
    with (part / "results.jsonl").open("a") as file:
        file.write('{"layout": 1, "system": "defa')
    made = report([part], tmp_path / "out", settings=QUICK)
    assert "its last line was cut off by a crash and is left out" in made.warnings[0]
    assert "cut off by a crash" in Page(made.page).all
    assert any("have no shares of sound and video" in note for note in made.warnings)
    (ours,) = table(tmp_path / "out", "counts")
    assert int(ours["incomplete"]) == 2                                      # with a face and without
    assert all(line["difference"] for line in table(tmp_path / "out", "main"))    # on the utterances that are there


@pytest.mark.parametrize(("made", "change"), [
    (Made(1, 1, ("grid",), ("babble",), (None, 0.0), ()), lambda row: row),
    (Made(6, 3, ("pocketsphinx",), ("white",), (None, -5.0), (), seeing=0), lambda row: row),
    (Made(6, 3, ("grid",), (), (None,), ()), lambda row: row if row["modality"] == "v" else None),
    (Made(6, 3, ("grid",), ("babble",), (0.0, -5.0), ()), lambda row: row if row["modality"] != "v" else None),
    (Made(6, 3, ("grid",), ("babble",), (None, 0.0), (("face", None),)),
     lambda row: {**row, "speaker": None, "labels": {}, "reference": "" if row["id"].endswith("3") else row["reference"]}),
    (Made(6, 3, ("one", "two"), ("babble",), (None, 0.0), (("blur", 2.0),), seeing=2),
     lambda row: {name: row[name] for name in REQUIRED_FIELDS})],
    ids=["one utterance", "sound alone", "video alone", "no clean, no video", "nobody named", "least that rows must have"])
def test_odd_runs_have_a_report(tmp_path, made, change):
    run = rewrite(made_rows.write(tmp_path / "run", made), change)
    for name in ("timings.jsonl", "run.json"):
        (run / name).unlink()
    done = report([run], tmp_path / "out", settings=QUICK)
    assert "<svg" in done.page.read_text()
    assert "There is no run.json beside the rows" in Page(done.page).all
    assert table(tmp_path / "out", "main")
    assert len(done.summary.splitlines()) >= 4


def test_texts_are_texts_and_not_html(tmp_path):
    run = made_rows.write(tmp_path / "run", Made(4, 2, ("a|b*c",), ("<i>",), (None, 0.0), ()))
    rewrite(run, lambda row: {**row, "hypothesis": "<script>alert(1)</script>", "labels": {"sex": "<b>"}})
    made = report([run], tmp_path / "out", settings=ReportSettings(title="<h1>&", formats=()))
    page = made.page.read_text()
    assert "<script" not in page
    assert "<title>&lt;h1&gt;&amp;</title>" in page
    assert "<i>" not in page
    for line in (tmp_path / "out" / "tables.md").read_text().splitlines():
        if line.startswith("| a"):
            assert re.match(r"\| a\\\|b\\\*c +\| ", line)


def test_recordings_that_are_too_large_or_elsewhere_are_left_out(run, tmp_path, monkeypatch):
    from avsr.report import examples

    monkeypatch.setattr(examples, "MOST_BYTES", 20)
    other = made_rows.write(tmp_path / "run", TINY)
    (tmp_path / "secret.mp4").write_bytes(b"x")
    (other / "media").mkdir()
    for row in made_rows.utterances(TINY):
        (other / "media" / f"{row['id']}.mp4").write_bytes(b"x" * (21 if row["speaker"] == "s1" else 20))
    rewrite(other, lambda row: {**row, "id": "../../secret"} if row["id"] == "s2-00001" else row)
    made = report([other], tmp_path / "out", settings=QUICK)
    page = made.page.read_text()
    shown = re.findall(r'<p class="faint">(\S+), speaker', page)
    assert {"../../secret", "s1-00000"} <= set(shown)
    assert page.count("<video") == sum(not one.startswith("s1-") and "secret" not in one for one in shown)
    assert page.count("is too much for the page (limit 2e-05 MB)") == sum(one.startswith("s1-") for one in shown)


# --- scripts ---

@pytest.mark.parametrize(("reference", "hypothesis", "says"), [
    ("วันนี้อากาศดี", "วันนี้อากาศ", "without spaces between words"), ("今日はいい天気", "今日は天気", "without spaces between words"),
    ("وَلَدٌ كَتَبَ", "ولد كتب", "no hypothesis has any"), ("وَلَدٌ كَتَبَ", "وَلَدٌ كُتِبَ", None), ("मैं कल गया", "मैं कील गयी", None)])
def test_what_word_error_rates_do_not_tell_of_a_script_is_said(tmp_path, reference, hypothesis, says):
    texts = {"reference": reference, "hypothesis": hypothesis}
    run = rewrite(made_rows.write(tmp_path / "run", TINY), lambda row: row | texts)
    warnings = " ".join(open_run(run).warnings)
    assert says in warnings if says else not warnings


# --- names that people have given ---

NAMES = {"noise": "a$b$_{$ <script>alert(1)</script>\x1b[31m",
         "system": "_x$\\frac$ ![i](http://x) `q`", "speaker": "s|\n<b>$ "}


def test_names_are_shown_as_they_are_and_do_no_harm(tmp_path):
    def named(row):
        names = {name: prefix + row[name] for name, prefix in NAMES.items() if row[name]}
        return {**row, **names, "labels": {"../../../x<$>\x07": f"v$1$ {row['speaker']}", "X": "1", "x": row["speaker"]}}

    run, folder = rewrite(made_rows.write(tmp_path / "run<b>\x1b", TINY), named), tmp_path / "out" / "deep"
    made = report([run], folder, settings=ReportSettings(formats=("svg",)))
    assert all(path.resolve().is_relative_to(folder) for path in made.written)
    tables, page = ((folder / name).read_text() for name in ("tables.md", "index.html"))
    for text in (tables, page, *made.warnings, made.summary):
        assert not re.search("[\x00-\x09\x0b-\x1f]", text)
        assert "<script>alert" not in text
    assert "&lt;script>alert(1)&lt;/script>" in tables
    assert "![i](" not in tables
    drawings = {path.stem: path.read_text() for path in made.written if path.suffix == ".svg"}
    assert "a$b$_{$ &lt;script&gt;" in drawings["wer"]
    for drawing in drawings.values():
        minidom.parseString(drawing)                        # XML that browsers take


# --- bad input ---

def bad(name, text=None, change=None):
    def make(folder):
        run = made_rows.write(folder / name, Made(4, 2, ("grid",), ("babble",), (None, 0.0), ()))
        if change is not None:
            rewrite(run, change)
        elif text is None:
            (run / "results.jsonl").unlink()
        else:
            (run / "results.jsonl").write_text(text)
        return run
    return make


@pytest.mark.parametrize(("make", "message"), [
    (lambda folder: folder / "nowhere", "nowhere: no such folder.  Give"),
    (bad("none"), "none: there is no results.jsonl in it.  Give"),
    (bad("empty", ""), "results.jsonl: it holds no row.  Run"),
    (bad("cut", '{"layout": 1, "sys'), "results.jsonl: it holds no row.  Run"),
    (bad("broken", "{}\n"), "results.jsonl, line 1: layout is not there"),
    (bad("junk", "\x01\n"), "results.jsonl, line 1: not JSON"),
    (bad("mixed", change=lambda row: {**row, "normaliser": "other"} if row["modality"] == "v" else row),
     "grid has normaliser other, and avsr-2 before that, so these rows are not one measurement.  Put them"),
    (bad("weights", change=lambda row: {**row, "sha256": "1" * 64} if row["modality"] == "v" else row), "grid has sha256 1111"),
    (bad("sense", change=lambda row: {**row, "modality": "touch"} if row["modality"] == "v" else row),
     "modality 'touch', and there are a, v, av, none.  Correct it."),
    (bad("nothing", change=lambda row: row if row["modality"] == "none" else None), "all 4 rows are of modality none")])
def test_rows_that_cannot_be_reported_are_told_in_one_sentence(tmp_path, make, message):
    with pytest.raises(AvsrError) as caught:
        report([make(tmp_path)], tmp_path / "out")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "text", "message"), [
    ("timings.jsonl", '{"system": "grid"}\n', "timings.jsonl, line 1: not a batch"),
    ("timings.jsonl", "[]\n", "timings.jsonl, line 1: not a batch"),
    ("run.json", "{", "run.json: not JSON"), ("run.json", "[]", "run.json: not JSON (not an object)")])
def test_broken_files_beside_the_rows_are_told(tmp_path, name, text, message):
    run = made_rows.write(tmp_path / "run", Made(2, 2, ("grid",), (), (None,), ()))
    (run / name).write_text(text)
    with pytest.raises(AvsrError, match=re.escape(message)):
        report([run], tmp_path / "out")


@pytest.mark.slow
def test_a_group_column_that_is_missing(run, tmp_path):
    with pytest.raises(AvsrError, match=r"--group-by age: no row has this label; there are speaker, accent, sex\.  Choose"):
        report([run], tmp_path, settings=ReportSettings(("sex", "age")))
    made = report([run], tmp_path, settings=ReportSettings(("sex",), formats=()))
    assert not any("By accent" in note or "By speaker" in note for note in made.warnings)
    assert {line["column"] for line in table(tmp_path, "groups")} == {"sex"}


def test_a_folder_that_cannot_be_written_to(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOutput, match=r"file: it cannot be written \(File exists\)\.  Choose"):
        report([run], tmp_path / "file", settings=QUICK)


@pytest.mark.slow
def test_a_disk_that_is_full_leaves_nothing_half(tmp_path):
    run = made_rows.write(tmp_path / "run", TINY)
    report([run], tmp_path / "whole", settings=QUICK)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").rglob("*") if path.is_file()}
    with full_disk(20_000), pytest.raises(BadOutput, match=r"index.html: it cannot be written \(File too large\)\.  C"):
        report([run], tmp_path / "full", settings=QUICK)
    with full_disk(1_000), pytest.raises(BadOutput, match=r"(png|svg): it cannot be written \(File too large\)\.  C"):
        report([run], tmp_path / "full", settings=ReportSettings())
    for path in (path for path in (tmp_path / "full").rglob("*") if path.is_file()):
        assert path.read_bytes() == whole[path.name]
    with locked(tmp_path / "full", "avsr report"), pytest.raises(AvsrError, match="full: another avsr report is at work in it"):
        report([run], tmp_path / "full", settings=QUICK)


# --- some of the rows ---

@pytest.mark.slow
def test_only_the_rows_asked_for(run, rows, tmp_path):
    made = report([run], tmp_path, settings=ReportSettings(where={"speaker": "s1", "noise": "babble"}, formats=()))
    (line,) = [line for line in table(tmp_path, "main") if line["snr_db"] == "0"]
    one = [row for row in pick(rows, "av", "babble", 0.0) if row.speaker == "s1"]
    assert (float(line["both"]), line["noise"]) == (pytest.approx(wer(one, rng=rng()).percent, rel=1e-5), "babble")
    assert "utterances of s1, split test" in Page(made.page).all
    with pytest.raises(AvsrError, match=r"no row has speaker nobody; there is .*Correct --where"):
        report([run], tmp_path, settings=ReportSettings(where={"speaker": "nobody"}))


@pytest.mark.slow
def test_rows_in_an_archive_are_enough(tiny, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "results.jsonl.gz").write_bytes(gzip.compress((tiny / "results.jsonl").read_bytes()))
    report([tmp_path / "bare"], tmp_path / "archive", settings=QUICK)
    report([tiny], tmp_path / "rows", settings=QUICK)
    assert table(tmp_path / "archive", "errors") == table(tmp_path / "rows", "errors")


@pytest.mark.slow
def test_texts_are_compared_by_the_normaliser_asked_for_and_the_page_names_it(tiny, tmp_path):
    """`colour` and `color` are one word by Whisper's rules; rows may name a normaliser, and --normaliser goes before it."""
    run = shutil.copytree(tiny, tmp_path / "run")
    rewrite(run, lambda row: {**row, "reference": "it is the colour", "hypothesis": "it's the color"})
    for normaliser, percent in ((None, 75), ("avsr", 75), ("whisper", 0)):
        made = report([run], tmp_path / "out", settings=replace(QUICK, normaliser=normaliser))
        assert {line["both"] for line in table(tmp_path / "out", "main")} == {str(percent)}
        assert ("whisper-en" in Page(made.page).all, "avsr-2" in Page(made.page).all) == (not percent, bool(percent))
    other = rewrite(shutil.copytree(run, tmp_path / "other"), lambda row: {**row, "normaliser": "whisper-en"})
    assert "whisper-en" in Page(report([other], tmp_path / "out", settings=QUICK).page).all
    with pytest.raises(AvsrError, match=r"rows of 2 normalisers cannot be compared.*Choose one with --normaliser"):
        report([run, other], tmp_path / "out", settings=QUICK)
    report([run, other], tmp_path / "out", settings=replace(QUICK, normaliser="whisper"))


# --- the command ---

@pytest.fixture
def command(forked):
    return lambda *arguments: forked.run(["report", *arguments])


@pytest.mark.slow
def test_the_command_prints_the_table_and_says_where_the_rest_is(command, tiny, tmp_path):
    made = report([tiny], tmp_path / "function", settings=QUICK)
    done = command(tiny, "--output_dir", tmp_path / "out", "--format", "svg", "--group-by", "sex", "--title", "In noise")
    assert (done.returncode, done.stdout.strip()) == (0, made.summary.strip())
    assert f"Open {tmp_path / 'out' / 'index.html'}" in done.stderr
    assert "<h1>In noise</h1>" in (tmp_path / "out" / "index.html").read_text()
    assert not (tmp_path / "out" / "wer.png").exists()


@pytest.mark.parametrize(("arguments", "message"), [
    (["nowhere"], "error: nowhere: no such folder.  Give"),
    (["nowhere", "--where", "speaker"], "error: --where speaker: it names no column and value.  Write it as speaker=s1."),
    (["nowhere", "--format", "jpeg"], "error: --format jpeg: figures are written as png, svg, pdf.  Use any of these.")])
def test_the_command_fails_in_one_sentence(command, arguments, message):
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_no_torch_is_loaded(tiny, tmp_path):
    code = ("import sys\nfrom click.testing import CliRunner\nfrom avsr.cli import main\n"
            f"done = CliRunner().invoke(main, ['report', {str(tiny)!r}, '-o', {str(tmp_path)!r}, '-q', '-f', ''])\n"
            "assert (done.exit_code, done.output) == (0, ''), done.output\n"
            "print(sorted({'torch', 'av', 'mediapipe', 'librosa', 'tokenizers', 'matplotlib.pyplot'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert (tmp_path / "index.html").exists()


def test_its_options_are_those_of_the_function():
    typed = {option.name for option in report_command.params} - {"runs", "output_dir", "quiet"}
    assert typed == {field.name for field in fields(ReportSettings)}
    (formats,) = [option.default for option in report_command.params if option.name == "formats"]
    assert tuple(formats.split(",")) == ReportSettings().formats
    assert all(option.help for option in report_command.params if option.name != "runs")
