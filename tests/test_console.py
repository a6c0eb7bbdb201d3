"""What a user sees of the work: whole plain words, the right unit in every stage, nothing where nobody watches.

The commands run as a user runs them, on a terminal (a pty), and what their bars show is read from it.
"""

import ast
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from forked import Commands
from hypothesis import given
from hypothesis import strategies as st
from made_corpus import CONFIG, corpus
from made_server import hub

from avsr import checkpoint, manifest
from avsr.checkpoint import Checkpoint
from avsr.cli import console, main
from avsr.cli.console import ProgressBar, amount_text, print_result, print_status, report_errors
from avsr.errors import AvsrError
from avsr.models.avsr import AVSR, Dims
from avsr.runtime import UNITS, pick_device
from avsr.text import write_characters

ROOT = Path(__file__).resolve().parents[1]
HELLO = ROOT / "data" / "demo" / "hello.mp4"
BAR = re.compile(r"^(?P<stage>\S.*?) +[━╸╺]+ (?P<amount>.*?) *\d+:\d\d:\d\d(?: |$)")
RATE = r"(?:, [\d.]+(?: bytes| kB| MB| GB)?/s)?"


# How much is done, in words

@pytest.mark.parametrize(("amount", "text"), [
    ((63.4, 310.2, "s", 5.0), "63 of 310 s"),
    ((63.4, None, "s", 5.0), "63 s"),
    ((1.0, 1.0, "s", 5.0), "1 of 1 s"),
    ((0, 75, "utterances", 0.0), "0 of 75 utterances"),
    ((12, 75, "utterances", 3.14), "12 of 75 utterances, 3.1/s"),
    ((1, 1, "utterances", 0.01), "1 of 1 utterance"),
    ((0, 0, "utterances", 0.0), "0 of 0 utterances"),
    ((1, None, "files", 22.0), "1 file, 22/s"),
    ((7, None, "files", 22.0), "7 files, 22/s"),
    ((1_200, 5_300, "rows", 9.96), "1200 of 5300 rows, 10.0/s"),
    ((9, 10, "steps", 10.0), "9 of 10 steps, 10/s"),
    ((0, 0, "bytes", 0.0), "0 of 0 bytes"),
    ((999, None, "bytes", 0.0), "999 bytes"),
    ((1, 1, "bytes", 0.0), "1 of 1 byte"),
    ((1_500, 307_200, "bytes", 1_500.0), "2 of 307 kB, 2 kB/s"),
    ((1_200_000, 75_537_502, "bytes", 4e6), "1.2 of 75.5 MB, 4.0 MB/s"),
    ((0.5e9, 3.2e9, "bytes", 1.5e9), "0.50 of 3.20 GB, 1.50 GB/s"),
])
def test_amounts_read_as_english(amount, text):
    assert amount_text(*amount) == text


numbers = st.floats(0, 1e13) | st.integers(0, 10**13)


@given(numbers, numbers | st.none(), st.sampled_from(UNITS), numbers)
def test_any_amount_has_its_unit_and_no_other(done, total, unit, rate):
    text = amount_text(done, total, unit, rate)
    names = "bytes?|kB|MB|GB" if unit == "bytes" else unit if unit == "s" else f"{unit}?"
    assert re.fullmatch(rf"[\d.]+(?: of [\d.]+)? (?:{names}){RATE}", text)


@pytest.mark.slow
def test_every_call_gives_four_values_and_a_unit_that_is_known():
    n_calls = 0
    for path in (ROOT / "avsr").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = isinstance(node, ast.Call) and (getattr(node.func, "attr", None) or getattr(node.func, "id", None))
            if name in ("progress", "bars"):
                n_calls += 1
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                assert len(node.args) == 4, f"{where}: progress(stage, done, total, unit)"
                assert isinstance(node.args[3], ast.Constant), where
                assert node.args[3].value in (None, *UNITS), where
                if node.args[3].value is None:
                    assert [ast.literal_eval(one) for one in node.args[1:3]] == [0, None], where
    assert n_calls > 20


# Names that people have given

NASTY = "\x1b[2Jclip\u202egpj\x9b1m\nerror: nothing"
HARMLESS = r"\x1b[2Jclip\u202egpj\x9b1m\nerror: nothing"


def test_a_name_cannot_command_the_terminal(capsys):
    with ProgressBar(quiet=False) as bars:
        bars.begin(NASTY, heading=True)
        bars.warn([f"{NASTY}: cut short"])
    with pytest.raises(SystemExit), report_errors():
        raise AvsrError(f"{NASTY}: no such file.  Name another.")
    print_status("two\nlines", lines=True)
    assert capsys.readouterr().err.splitlines() == [
        f"{HARMLESS}:", f"warning: {HARMLESS}: cut short", f"error: {HARMLESS}: no such file.  Name another.", "two", "lines"]


def test_an_argument_that_is_refused_cannot_either():
    done = CliRunner().invoke(main, ["report", NASTY, f"--no-such-{NASTY}"])
    assert done.exit_code == 2
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", done.output)
    assert "error: nothing" in done.output
    done = CliRunner().invoke(main, [NASTY])
    assert done.exit_code == 2
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", done.output)


def test_results_are_harmless_on_a_terminal_and_as_they_are_in_a_pipe(capsys, forked):
    print_result(NASTY)
    assert capsys.readouterr().out == f"{NASTY}\n"
    code = (f"from avsr.cli.console import ProgressBar, print_result\nprint_result({NASTY!r})\n"
            f"with ProgressBar(False) as bars:\n    bars({NASTY!r}, 1, 2, 's')")
    seen = raw(forked, code)
    assert HARMLESS in seen
    assert not re.search("\x1b\\[2Jclip|[\u202e\x9b]", seen)


# Where nobody watches

def test_a_log_gets_a_line_after_a_minute_of_silence_and_only_where_it_is_wanted(capsys, monkeypatch):
    def printed(*, quiet=False, **options):
        with ProgressBar(quiet, **options) as bars:
            bars("loading the model", 0, None, None)
            bars("finding word times", 0, 40, "utterances")
            bars("finding word times", 8, 40, "utterances")
            bars.print_line("a line")
        return capsys.readouterr().err.splitlines()

    assert printed(lines=True) == printed() == ["a line"]
    monkeypatch.setattr(console, "SILENCE_S", 0.0)
    first, second, line = printed(lines=True)
    assert first == "finding word times: 0 of 40 utterances"
    assert re.fullmatch(r"finding word times: 8 of 40 utterances, \d+/s", second)
    assert line == "a line"
    assert printed() == ["a line"]
    assert printed(quiet=True, lines=True) == []


# On a terminal

def read_to_end(terminal: int) -> bytes:
    """All that is written to a terminal until its other end is closed."""
    seen = b""
    try:
        while chunk := os.read(terminal, 1 << 16):
            seen += chunk
    except OSError:                                         # Linux's way to say that the other end was closed
        pass
    finally:
        os.close(terminal)
    return seen


def raw(forked: Commands, code: str) -> str:
    """What a piece of Python writes to a terminal, on standard output and standard error, as it is."""
    ours, theirs = pty.openpty()
    program = forked.start(["-c", code], out=theirs, err=theirs)
    os.close(theirs)
    seen = read_to_end(ours)
    assert program.wait() == 0
    return seen.decode()


def watch(start, *words: object, width: int = 160, **environment: str) -> tuple[int, dict[str, set[str]], str]:
    """Run a program on a terminal: its exit status, by stage all amounts that its bar showed, and the whole text.

    start: what begins it, as forked.Commands.start does."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    with open(os.devnull, "wb") as nowhere:
        plain = dict.fromkeys(("COLUMNS", "LINES", "NO_COLOR", "RANK"))
        process = start(words, out=nowhere.fileno(), err=theirs, **plain | {"TERM": "xterm-256color"} | environment)
    os.close(theirs)
    seen = read_to_end(ours)
    text = re.sub(r"\x1b\[[0-9;]*m", "", seen.decode())
    text = "\n".join(line.strip() for line in re.split(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]+", text) if line.strip())
    bars = defaultdict(set)
    for found in filter(None, map(BAR.match, text.splitlines())):
        bars[found["stage"]].add(found["amount"])
    return process.wait(), bars, text


def torchrun(words, *, out: int, err: int, **environment: str | None) -> subprocess.Popen:
    """Begin two processes of Python."""
    command = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, *words)
    variables = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    return subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=variables)


@pytest.fixture
def avsr(forked):
    """`avsr(*words)` runs a command on a terminal, see watch."""
    return partial(watch, forked.start)


def check(bars: dict[str, set[str]], expected: dict[str, str]) -> None:
    """Every stage is expected and shows the amounts it should: "" for none, or a pattern."""
    assert bars.keys() == expected.keys()
    for stage, pattern in expected.items():
        assert all(re.fullmatch(f"{pattern}{RATE}" if pattern else "", amount) for amount in bars[stage]), (stage, bars[stage])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A made-up corpus without word times, a config that uses all that a run can do, and a teacher of word times."""
    folder = tmp_path_factory.mktemp("made")
    corpus(folder)
    rows = [replace(one, words=None) for one in manifest.read(folder / "manifest.jsonl")]
    manifest.write(folder / "manifest.jsonl", rows)
    text = CONFIG.replace("n_fusion_layers = 1", "n_fusion_layers = 0\nn_trust = 2")
    text = text.replace("[data]", '[data]\nalign = "teacher"')
    (folder / "config.toml").write_text(f"{text}\n[judges]\nsights = 1\nsteps = 2\nattune_steps = 2\n")
    model(folder / "teacher", video_frontend=None, n_video_layers=0)
    return folder


def model(folder, **dims):
    """A model of ours with random weights that spells letters."""
    tokenizer = write_characters(folder.parent / "letters.json")
    torch.manual_seed(0)
    network = AVSR(Dims(**{"width": 32, "n_heads": 2, "n_audio_layers": 1, "n_video_layers": 1, "n_fusion_layers": 1,
                           "n_decoder_layers": 1, "n_vocab": tokenizer.no_timestamps + 1, "n_context": 24, "video_width": 32,
                           "video_frontend": "compact"} | dims))
    return checkpoint.save(Checkpoint(folder.name, network, tokenizer, pad_seconds=None, video_trained=True), folder)


@pytest.mark.slow
def test_training_shows_word_times_steps_validation_and_lessons(avsr, made, tmp_path):
    status, bars, text = avsr("train", made / "config.toml", "-o", tmp_path / "run")
    assert status == 0, text
    check(bars, {"finding word times": r"\d+ of 12 utterances", "training": r"\d+ of 10 steps",
                 "validating by sound alone": "0 of 3 utterances", "validating by video alone": "0 of 3 utterances",
                 "validating by sound and video together": "0 of 3 utterances",
                 "reliability: encoding": r"\d+ of 12 utterances", "reliability: making samples": r"\d+ of 12 utterances",
                 "reliability: fitting": ""})
    assert len(re.findall(r"^step \d+/10 ", text, re.MULTILINE)) == 10               # and a line for each step, as in a log


@pytest.mark.slow
def test_two_processes_speak_with_one_voice(made, tmp_path):
    status, bars, text = watch(torchrun, "-m", "avsr", "train", made / "config.toml", "-o", tmp_path / "run", "--device",
                               "cpu", "--set", "train.steps=2", "--set", "reliability.variants=0")
    assert status == 0, text
    assert bars["training"] >= {"0 of 2 steps"}
    assert text.count("The model is") == 1
    assert "Nothing was validated" not in text              # as it was for the second


@pytest.mark.slow
def test_a_benchmark_shows_noise_files_and_rows(avsr, made, tmp_path):
    model(made / "random")
    status, bars, text = avsr("benchmark", made, "--split", "train", "--model", made / "random", "--noise", "white", "--snr",
                              "clean,0", "--noise-config", "none", "--limit", 4, "--modality", "a,v", "-o", tmp_path / "out",
                              "--save-audio", tmp_path / "mixes")
    assert status == 0, text
    check(bars, {"drawing noise": r"\d of 4 utterances", "writing mixes": r"\d of 8 files",
                 "measuring random": r"\d+ of 12 rows"})
    status, bars, text = avsr("report", tmp_path / "out")
    assert status == 0, text
    check(bars, {"reading rows": "", "counting errors": "", "drawing figures": ""})


@pytest.mark.slow
def test_preparing_shows_utterances(avsr, tmp_path):
    source = tmp_path / "mine"
    source.mkdir()
    for name in ("one", "two"):
        (source / f"{name}.mp4").symlink_to(HELLO)
        (source / f"{name}.txt").write_text("hello this video was made by a computer")
    status, bars, text = avsr("prepare", "folder", source, tmp_path / "out", "--modality", "a", "--workers", 1)
    assert status == 0, text
    check(bars, {"preparing": r"\d of 2 utterances"})


@pytest.mark.slow
def test_transcribing_shows_seconds_of_the_recording_and_names_it_as_it_is(avsr, made, tmp_path):
    (tmp_path / "a [b] talk.mp4").symlink_to(HELLO)         # in square brackets: no markup
    status, bars, text = avsr("transcribe", tmp_path / "a [b] talk.mp4", HELLO, "--model", made / "teacher", "--modality", "a",
                              "--beam-size", 1)
    assert status == 0, text
    check(bars, {"loading the model": "", "transcribing a [b] talk.mp4": r"\d of 6 s", "transcribing hello.mp4": r"\d of 6 s"})


@pytest.mark.slow
def test_explaining_shows_what_it_does(avsr, made, tmp_path):
    status, bars, text = avsr("explain", HELLO, "--model", made / "teacher", "-o", tmp_path / "out")
    assert status == 0, text
    check(bars, {"loading the model": "", "reading hello.mp4": r"\d of 6 s", "encoding": "",
                 "searching for texts": "", "drawing the page": ""})


@pytest.mark.slow
def test_a_download_shows_bytes(avsr, tmp_path):
    (tmp_path / "hub" / "me" / "model").mkdir(parents=True)
    (tmp_path / "hub" / "me" / "model" / "config.json").write_text(json.dumps({"spare": "x" * 300_000}))
    with hub(tmp_path / "hub") as server:
        proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), "")
        status, bars, text = avsr("transcribe", HELLO, "--model", "me/model", "--modality", "a", HF_HUB_DISABLE_XET="1",
                                  HF_ENDPOINT=server.address, HF_HOME=str(tmp_path / "home"), **proxies)
    assert status == 1
    assert "error: " in text                                # the hub there has one file, which is of no model
    check(bars, {"loading the model": "", "downloading config.json of me/model": "300 of 300 kB"})


def test_on_a_narrow_terminal_the_name_is_cut_and_the_amount_is_not(forked):
    code = ("from avsr.cli.console import ProgressBar\nwith ProgressBar(False) as bars:\n"
            "    bars('downloading model.safetensors of openai/whisper-large-v3-turbo', 1.5e9, 3.2e9, 'bytes')")
    _, bars, _ = watch(forked.start, "-c", code, width=80)
    ((stage, amounts),) = bars.items()
    assert (stage, amounts) == ("downloading model.saf…", {"1.50 of 3.20 GB"})
    assert watch(forked.start, "-c", code, RANK="1")[1:] == ({}, "")               # torchrun's second, on the same terminal


# Numbers that are typed

TYPED = {("transcribe", "x.mp4"): ("--beam-size", "--batch-size", "--temperature", "--max-missing", "--ctc-weight",
                                   "--lm-weight", "--max-line-width"),
         ("benchmark", "x"): ("--beam-size", "--batch-size", "--max-missing", "--limit"),
         ("prepare", "folder", "x", "y"): ("--workers", "--max-missing", "--max-dropped", "--valid-share"),
         ("train", "x.toml"): ("--minutes",),
         ("explain", "x.mp4"): ("--snr", "--seed", "--start", "--end")}


@pytest.mark.parametrize("value", ["nan", "inf", "-1e400", "1e999", "9" * 400, "1e20x", ""])
def test_no_number_is_taken_that_is_beyond_all_sense(value):
    for command, options in TYPED.items():
        for option in options:
            done = CliRunner().invoke(main, [*command, option, value])
            assert done.exit_code in (1, 2), (command, option)
            assert re.search(r"(Invalid value for '.+': |error: workers )", done.output), (command, option, done.output)


@pytest.mark.parametrize("device", ["cpu:x", "cpu:-3", "gpu", "cuda:999"])
def test_a_device_that_there_is_not_is_named(device):
    with pytest.raises(AvsrError, match=rf"--device {device}: .*  "):
        pick_device(device)
