"""`avsr` commands and pieces of Python, each in a process of its own, forked from one that has imported what most of them need.

    with Commands() as commands:
        commands.run(["transcribe", "clip.mp4"], folder) -> CompletedProcess
        commands.python("import torch; print(torch.__version__)") -> CompletedProcess
        commands.start(["serve"], folder) -> Program, which may be asked, sent a signal and waited for
To start Python and import torch takes 2 s of processor time, torchvision, mediapipe and librosa 5 s more, torch's compiler,
which its optimisers import, 4 s, and to end such a
process as Python does 1.6 s, in which it visits every object of every module. A fork takes 0.02 s, and os._exit no time.
One process of a test run imports, when the first test asks: conftest.py starts it, and AVSR_TESTS_FORK names its socket.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

# What is imported before the first command. None of it starts a thread where OMP_NUM_THREADS is 1, as conftest.py sets it.
IMPORTED = ("torch", "av", "avsr.transcribe.run", "avsr.cli", "torchvision.transforms.v2", "scipy.signal", "scipy.stats", "cv2",
            "mediapipe", "librosa.feature.spectral", "matplotlib.figure", "rich.progress", "torch._dynamo",
            "torch.distributed.fsdp")
# conftest.py sets these; console.limit_openmp_spinning comes too late for a torch that is imported already.
OPENMP = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
SOCKET = "AVSR_TESTS_FORK"


class Importer:
    """The process that imports, when somebody first connects to its socket. It ends with the process that made it."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="avsr-fork-"))
        self.process = subprocess.Popen([sys.executable, __file__, self.folder / "socket"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, env={**os.environ, **OPENMP})
        assert self.process.stdout.readline() == b"listening\n"
        os.environ[SOCKET] = str(self.folder / "socket")

    def close(self) -> None:
        del os.environ[SOCKET]
        self.process.stdin.close()
        assert self.process.wait(timeout=60) == 0
        shutil.rmtree(self.folder)


class Commands:
    """A process from which programs are forked. environment: that of the programs; None for that of the tests at the time."""

    def __init__(self, environment: dict[str, str] | None = None):
        self.given = environment

    @property
    def environment(self) -> dict[str, str]:
        return {**(os.environ if self.given is None else self.given), **OPENMP}

    def __enter__(self) -> Commands:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(os.environ[SOCKET])
        self.server = self.socket.makefile("rw", encoding="utf-8")
        return self

    def __exit__(self, *_):
        self.server.close()
        self.socket.close()

    def run(self, words: Sequence[object], folder: Path | None = None,
            **environment: str | None) -> subprocess.CompletedProcess:
        """One command of `avsr` to its end, its standard input empty, these variables set besides."""
        return self.start(words, folder, **environment).completed()

    def python(self, code: str, *arguments: object, folder: Path | None = None,
               **environment: str | None) -> subprocess.CompletedProcess:
        """What `python -c CODE ARGUMENTS` does, to its end. For code that must import what it uses by itself, start Python."""
        return self.start(["-c", code, *arguments], folder, **environment).completed()

    def start(self, words: Sequence[object], folder: Path | None = None, *, out: int | None = None, err: int | None = None,
              group: bool = False, **environment: str | None) -> Program:
        """Begin a command of `avsr`, or `-c CODE ARGUMENTS` of Python. out, err: descriptors of what it is to write to, such as
        a terminal; group: whether it leads a process group of its own; a variable that is None is taken away."""
        program = Program([str(word) for word in words], self)
        variables = {name: value for name, value in {**self.environment, **environment}.items() if value is not None}
        program.pid = self._ask(words=program.words, folder=str(folder or Path.cwd()), environment=variables, group=group,
                                out=_place(program.out.fileno() if out is None else out),
                                err=_place(program.err.fileno() if err is None else err))
        return program

    def _ask(self, **request: object) -> int | None:
        self.server.write(json.dumps(request) + "\n")
        self.server.flush()
        answer = self.server.readline()
        assert answer, f"the process that runs the commands ended at {request}"
        return json.loads(answer)


class Program:
    """A program that was started. pid: its number; out, err: files with what it has written there so far."""

    pid: int

    def __init__(self, words: list[str], commands: Commands):
        self.words, self.commands = words, commands
        self.out, self.err = tempfile.TemporaryFile(), tempfile.TemporaryFile()     # noqa: SIM115
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, minus the number of the signal that ended it, or None while it runs."""
        if self.returncode is None:
            self.returncode = self.commands._ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, when it has ended. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        if timeout is None and self.returncode is None:
            self.returncode = self.commands._ask(wait=self.pid)
        until = time.monotonic() + (timeout or 0)
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(self.words, timeout)
            time.sleep(0.02)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    @property
    def stdout(self) -> str:
        return _text(self.out)

    @property
    def stderr(self) -> str:
        return _text(self.err)

    def completed(self, timeout: float | None = None) -> subprocess.CompletedProcess:
        """What came of it, when it has ended. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        with self.out, self.err:
            return subprocess.CompletedProcess(self.words, self.wait(timeout), self.stdout, self.stderr)


def _place(descriptor: int) -> str:
    """Where another process opens what this one has open."""
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def _text(file) -> str:
    file.seek(0)
    return file.read().decode()


def listen(path: str) -> None:
    """Fork a process for each connection to this socket, until standard input is closed."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("listening", flush=True)
        while select.select([listener, 0], [], [])[0] == [listener]:
            for name in IMPORTED:
                __import__(name)
            gc.collect()
            gc.freeze()                                         # so that programs do not copy what they only visit
            connection, _ = listener.accept()
            with connection:
                if not os.fork():
                    listener.close()
                    serve(connection)
                    os._exit(0)


def serve(connection: socket.socket) -> None:
    """Answer requests: to fork with the number of the process, to wait or poll with its exit status."""
    with connection.makefile("rb") as requests:
        while line := requests.readline():
            request = json.loads(line)
            if number := request.get("wait") or request.get("poll"):
                ended, status = os.waitpid(number, 0 if "wait" in request else os.WNOHANG)
                answer = os.waitstatus_to_exitcode(status) if ended else None
            else:
                ends = [os.open(request.pop(name), os.O_RDWR | os.O_NOCTTY) for name in ("out", "err")]
                if not (answer := os.fork()):
                    os.close(connection.detach())
                    become(*ends, **request)
                for end in ends:
                    os.close(end)
            connection.sendall(json.dumps(answer).encode() + b"\n")


def become(out: int, err: int, words: list[str], folder: str, environment: dict[str, str], group: bool) -> None:
    """Be the program `avsr`, or Python, with these words; never returns."""
    if group:
        os.setsid()
    for opened, number in ((os.open("/dev/null", os.O_RDONLY), 0), (out, 1), (err, 2)):
        os.dup2(opened, number)
        os.close(opened)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    signal.signal(signal.SIGINT, signal.default_int_handler)    # which programs started by `nohup ... &` ignore
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    try:
        if words[0] == "-c":
            sys.argv, sys.path[0] = ["-c", *words[2:]], ""
            sys.modules["__main__"] = module = ModuleType("__main__")
            exec(compile(words[1], "<string>", "exec"), vars(module))
        else:
            from avsr.cli import main

            sys.argv = ["avsr", *words]
            main()
        leave(0)
    except SystemExit as leaving:
        if not isinstance(leaving.code, int | None):
            print(leaving.code, file=sys.stderr)
        leave(leaving.code or 0 if isinstance(leaving.code, int | None) else 1)
    except BaseException:
        traceback.print_exc()
        leave(1)


def leave(status: int) -> None:
    """End as Python does, but for the visit to every object: other threads, what is registered for the end, what is written."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    listen(sys.argv[1])
    os._exit(0)
