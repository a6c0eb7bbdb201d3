"""The report: from rows alone and without torch; every figure and table there; what is broken is one sentence."""

import csv
import gzip
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_rows import Made, write

from avsr.errors import AvsrError
from avsr.metrics import Cell, cells, wer
from avsr.report import ReportSettings, report
from avsr.results import NAME, read_rows

SMALL = Made(n_utterances=36, n_speakers=12, noises=("babble",), snrs=(None, 0.0, -10.0))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write(tmp_path_factory.mktemp("run") / "one", SMALL)


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    """A report, and its page."""
    made = report([run], tmp_path_factory.mktemp("report"))
    return made, made.page.read_text()


def figures(made):
    return {path.name for path in made.written}


def test_figures_tables_and_page_are_there(made):
    made, page = made
    assert {"index.html", "tables.md", "wer.png", "wer.svg", "corruption.png", "visemes.png", "trust.png", "speed.png",
            "groups.png"} <= figures(made)
    assert all(path.stat().st_size > 50 for path in made.written)
    assert {path.stem for path in made.written if path.suffix == ".csv"} >= {"main", "errors", "corruptions", "gains", "speed"}
    assert (made.page.parent / "wer.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in page


def test_the_page_needs_nothing_but_itself(made):
    _, page = made
    for address in re.findall(r"""(?:src|href)=["']([^"']+)""", page):
        assert address.startswith(("data:", "#")), address[:80]
    assert not re.findall(r"url\((?!['\"]?(?:data:|#))", page)


def test_the_main_table_is_what_the_metrics_say(run, made):
    made, _ = made
    rows, _ = read_rows(run)
    of = cells(rows)
    lines = list(csv.DictReader((made.page.parent / "tables" / "main.csv").open()))
    line = next(one for one in lines if (one["system"], one["noise"], one["snr_db"]) == ("default", "babble", "0"))
    for column, cell in {"sound": Cell("default", "a", "babble", 0.0), "lips": Cell("default", "v"),
                         "both": Cell("default", "av", "babble", 0.0)}.items():
        expected = wer(of[cell], rng=np.random.default_rng(0)).percent
        assert float(line[column]) == pytest.approx(expected, abs=0.06), (column, line)


def test_a_broken_law_is_bold_and_says_so(made):
    made, page = made
    broken = [line for line in made.summary.splitlines() if "broken" in line]
    assert len(broken) == 1                                 # babble at -10 dB, see made_rows
    assert broken[0].startswith("| **−10**")
    assert "broken at babble at −10 dB" in page or "broken" in page


def test_rows_alone_are_enough_and_torch_is_not_loaded(run, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / f"{NAME}.gz").write_bytes(gzip.compress((run / NAME).read_bytes()))
    code = ("import sys; from avsr.report import report; report([sys.argv[1]], sys.argv[2]); "
            "print(sorted({'torch', 'av', 'cv2', 'mediapipe', 'transformers'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "bare", tmp_path / "out"], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
    assert (tmp_path / "out" / "index.html").exists()


def test_two_reports_of_the_same_rows_are_alike(run, made, tmp_path):
    made, _ = made
    again = report([run], tmp_path)
    for name in ("tables.md", "tables/main.csv", "wer.png"):
        assert (tmp_path / name).read_bytes() == (made.page.parent / name).read_bytes(), name
    assert again.summary == made.summary


def test_two_runs_are_compared_in_pairs(run, tmp_path):
    better = write(tmp_path / "two", replace(SMALL, quality=0.5))
    compared = report([run, better], tmp_path / "out")
    assert "compared" in {path.stem for path in compared.written}
    assert "one" in compared.summary
    assert "two" in compared.summary
    bold = [line for line in compared.summary.splitlines() if "**" in line]
    assert bold                                             # half the errors are told apart by 36 sentences


def test_only_the_rows_asked_for(run, tmp_path):
    rows, _ = read_rows(run)
    speaker = rows[0]["speaker"]
    of = report([run], tmp_path, settings=ReportSettings(where={"speaker": speaker, "noise": "babble"}))
    assert f"of {speaker}" in of.page.read_text() or speaker in of.page.read_text()
    with pytest.raises(AvsrError, match=r"no row has speaker nobody; there is .*Correct --where"):
        report([run], tmp_path, settings=ReportSettings(where={"speaker": "nobody"}))


def test_a_line_that_a_crash_cut_off_is_told(run, tmp_path):
    (tmp_path / "cut").mkdir()
    text = (run / NAME).read_text()
    (tmp_path / "cut" / NAME).write_text(text[:-30])
    assert any("cut off" in warning for warning in report([tmp_path / "cut"], tmp_path / "out").warnings)


@pytest.mark.parametrize(("change", "message"), [
    (lambda text: "", "it holds no row"),
    (lambda text: text.replace('"normaliser": "avsr-en-1"', '"normaliser": "another"', 1), "another"),
    (lambda text: "not a row\n" + text, "line 1: not JSON"),
    (lambda text: text.replace('"sha256": ', '"sha256": "other", "was": ', 1), "sha256"),
])
def test_rows_that_cannot_be_used_are_one_sentence(run, tmp_path, change, message):
    (tmp_path / NAME).write_text(change((run / NAME).read_text()))
    with pytest.raises(AvsrError, match=message):
        report([tmp_path], tmp_path / "out")


def test_two_normalisers_cannot_be_compared(run, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / NAME).write_text((run / NAME).read_text().replace('"avsr-en-1"', '"avsr-en-2"'))
    with pytest.raises(AvsrError, match="2 normalisers"):
        report([run, tmp_path / "other"], tmp_path / "out")


def test_a_missing_group_column_names_those_there_are(run, tmp_path):
    with pytest.raises(AvsrError, match=r"height.*sex"):
        report([run], tmp_path, settings=ReportSettings(group_by=("height",)))


@pytest.mark.parametrize(("arguments", "message"), [
    (["nowhere"], "no such folder"),
    (["--where", "speaker"], "Write it as speaker=s1"),
    (["--format", "jpeg"], "jpeg"),
])
def test_the_command_says_what_is_wrong(run, tmp_path, arguments, message):
    from click.testing import CliRunner

    from avsr.cli import main

    runs = [] if arguments == ["nowhere"] else [str(run)]
    done = CliRunner().invoke(main, ["report", *runs, *arguments, "-o", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert message in done.output
    assert not (Path(tmp_path) / "out" / "index.html").exists()
