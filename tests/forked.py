"""`avsr` commands, each in a process of its own, forked from one that has imported what most of them need.

    with Commands(environment) as commands: commands.run(["transcribe", "clip.mp4"], folder) -> CompletedProcess
To start Python and import torch takes 2 s of processor time, torchvision and mediapipe 3 s more, a fork 0.02 s.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

# What is imported before the first command. None of it starts a thread where OMP_NUM_THREADS is 1, as conftest.py sets it.
USUAL = ("torch", "av", "avsr.transcribe.run", "avsr.cli")
EVERYTHING = (*USUAL, "torchvision.transforms.v2", "scipy.signal", "cv2", "mediapipe")


class Commands:
    """The process from which commands are forked, with these environment variables and imported modules."""

    def __init__(self, environment: dict[str, str], imported: tuple[str, ...] = USUAL):
        # console.limit_openmp_spinning comes too late for a torch that is imported already: commands took twice as long.
        self.environment = {**environment, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
        self.imported = imported

    def __enter__(self) -> Commands:
        self.server = subprocess.Popen([sys.executable, __file__, *self.imported], env=self.environment, text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *_):
        self.server.stdin.close()
        assert self.server.wait(timeout=60) == 0

    def run(self, words: Sequence[str | Path | int], folder: Path) -> subprocess.CompletedProcess:
        """One command in a folder, its standard input empty."""
        words = [str(word) for word in words]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            here = f"/proc/{os.getpid()}/fd"
            request = {"words": words, "folder": str(folder), "out": f"{here}/{out.fileno()}", "err": f"{here}/{err.fileno()}"}
            self.server.stdin.write(json.dumps(request) + "\n")
            self.server.stdin.flush()
            answer = self.server.stdout.readline()
            assert answer, f"the process that runs the commands ended at {words}"
            return subprocess.CompletedProcess(words, int(answer), *(_text(file) for file in (out, err)))


def _text(file) -> str:
    file.seek(0)
    return file.read().decode()


def serve() -> None:
    """Fork for each request on standard input, and answer with the exit status. The forked process leaves by SystemExit."""
    for name in sys.argv[1:]:
        __import__(name)
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    while line := requests.readline():
        child = os.fork()
        if not child:
            requests.close()
            become(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def become(words: list[str], folder: str, out: str, err: str) -> None:
    """Be the program `avsr` with these words; never returns."""
    for path, mode, number in (("/dev/null", os.O_RDONLY, 0), (out, os.O_WRONLY, 1), (err, os.O_WRONLY, 2)):
        opened = os.open(path, mode)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(folder)
    sys.argv = ["avsr", *words]
    from avsr.cli import main

    sys.exit(main())


if __name__ == "__main__":
    serve()
