"""Cases in processes of their own, stopped where they take too much time or memory."""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.kinds import ROOT

PAGE = os.sysconf("SC_PAGE_SIZE")
LOOK_EVERY = 0.05                                           # seconds between two looks at a process's memory


@dataclass(frozen=True)
class Limits:
    """What one case may take: seconds on the clock, and bytes of memory of its process and that one's children."""

    seconds: float = 30.0
    memory: int = 2 * 10**9


@dataclass(frozen=True)
class Outcome:
    """What became of a case. outcome: accepted, refused (by an error of ours) or fault. seconds: of processor time."""

    kind: str
    number: int
    outcome: str
    message: str
    seconds: float
    memory: int


class _Worker:
    """A process that tries cases of one kind; started again after one that ended it."""

    def __init__(self, kind: str, seed: str, seeds: Path, limits: Limits):
        self.kind, self.limits = kind, limits
        self.errors = tempfile.TemporaryFile()              # noqa: SIM115 - it lives as long as the worker
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", kind, seed, str(seeds)], cwd=ROOT, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
            env={**os.environ, "OMP_NUM_THREADS": "1"})
        if self.process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"no {kind} can be tried: {self._last_words()}")

    def run(self, number: int) -> Outcome:
        """Try a case. Afterwards the process lives unless the case ended it."""
        self.process.stdin.write(f"{number}\n".encode())
        self.process.stdin.flush()
        began, memory = time.monotonic(), 0
        while not select.select([self.process.stdout], [], [], LOOK_EVERY)[0]:
            memory = max(memory, _memory_of(self.process.pid))
            seconds = time.monotonic() - began
            if seconds > self.limits.seconds or memory > self.limits.memory:
                self.close()
                message = f"stopped after {seconds:.1f} s at {memory / 1e6:.0f} MB"
                return Outcome(self.kind, number, "fault", message, seconds, memory)
        if not (line := self.process.stdout.readline()):
            status = self.process.wait()
            self.close()
            message = f"the process ended with status {status}\n{self._last_words()}"
            return Outcome(self.kind, number, "fault", message, 0.0, memory)
        answer = json.loads(line)
        return Outcome(self.kind, number, answer["outcome"], answer["message"], answer["seconds"],
                       max(memory, _memory_of(self.process.pid)))

    def _last_words(self) -> str:
        self.errors.seek(0)
        return self.errors.read()[-3000:].decode(errors="replace")

    @property
    def lives(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        """End the process and all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()


def _memory_of(group: int) -> int:
    """Bytes of memory of all processes of a group."""
    total = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:                                 # it has just ended
                continue
            total += int(fields[21]) * PAGE if int(fields[2]) == group else 0
    return total


def seeds_of(kind: str, folder: Path) -> Path:
    """A folder with what the cases of a kind are made from."""
    seeds = folder / kind / "seeds"
    seeds.mkdir(parents=True)
    subprocess.run([sys.executable, "-c", "import sys; from pathlib import Path; from tests.fuzz.kinds import TRIED; "
                    "TRIED[sys.argv[1]].seed(Path(sys.argv[2]))", kind, str(seeds)], cwd=ROOT, check=True)
    return seeds


def run(jobs: Iterator[tuple[str, int]], seeds: dict[str, Path], seed: str, *, n_workers: int, limits: Limits,
        until: Callable[[], bool] = lambda: False) -> Iterator[Outcome]:
    """Outcomes of cases (kind, number), in no particular order. seeds: see `seeds_of`, by kind. until: no further case is begun
    once it says so."""
    done: queue.Queue[Outcome | BaseException | None] = queue.Queue()
    lock, jobs = threading.Lock(), iter(jobs)

    def work() -> None:
        workers: dict[str, _Worker] = {}
        try:
            while not until():
                with lock:
                    kind, number = next(jobs, (None, 0))
                if kind is None:
                    break
                if kind not in workers or not workers[kind].lives:
                    workers[kind] = _Worker(kind, seed, seeds[kind], limits)
                done.put(workers[kind].run(number))
        except BaseException as error:
            done.put(error)
        finally:
            for worker in workers.values():
                worker.close()
            done.put(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(n_workers)]
    for thread in threads:
        thread.start()
    left = n_workers
    while left:
        outcome = done.get()
        if isinstance(outcome, BaseException):
            raise outcome
        if outcome is None:
            left -= 1
        else:
            yield outcome
