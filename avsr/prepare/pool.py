"""Worker processes that may crash: jobs in, results out as they are made, each exactly once.

    jobs -> `n` processes, one thread each -> (number of the job, result), or (number, None) where two workers died of it
concurrent.futures gives up altogether when one of its processes is killed, as by a machine that is out of memory.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from typing import Any

from avsr.errors import AvsrError
from avsr.runtime import exit_with_parent

Work = Callable[[Any, Callable[[], None]], Any]
"""`work(job, tick) -> result`: picklable; calls `tick` at least once in STUCK_S."""

STUCK_S = 600.0                       # without a sign of life before a worker is taken for stuck, and killed
TRIES = 2                             # of a job whose worker died
STARTS = 3                            # in a row that may fail before we give up
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class _Worker:
    """A process and what it is at."""

    def __init__(self, work: Work):
        self.pipe, theirs = connection.Pipe()
        # spawn: a fork of a process with threads, as numpy's and torch's, may hang.
        self.process = get_context("spawn").Process(target=_serve, args=(theirs, work), daemon=True)
        try:
            with _one_thread():
                self.process.start()
        except OSError as error:
            raise AvsrError(f"a worker process cannot be started ({error.strerror}).  Use fewer with --workers.") from error
        theirs.close()
        self.job: int | None = None
        self.ready = False
        self.heard = time.monotonic()

    def give(self, number: int, job: Any) -> None:
        self.job, self.heard = number, time.monotonic()
        with suppress(OSError):                              # it has just died: noticed when it is read
            self.pipe.send(job)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run(work: Work, jobs: Sequence[Any], n_workers: int, *,
        hold: Callable[[], bool] = lambda: False) -> Iterator[tuple[int, Any]]:
    """Results in the order in which they are made. While `hold()`, no job is begun before those at work are done."""
    line = deque(range(len(jobs)))
    tries = [0] * len(jobs)
    workers: list[_Worker] = []
    failed_starts = 0
    try:
        while line or any(worker.job is not None for worker in workers):
            while len(workers) < min(n_workers, len(line) + sum(worker.job is not None for worker in workers)):
                workers.append(_Worker(work))
            for worker in workers:
                busy = any(other.job is not None for other in workers)
                if worker.job is None and line and not (busy and hold()):
                    number = line.popleft()
                    worker.give(number, jobs[number])
            connection.wait([worker.pipe for worker in workers], timeout=1.0)
            for worker in list(workers):
                number, said, result = worker.job, *_listen(worker)
                if said == "ready":
                    failed_starts = 0
                elif said == "done":
                    yield number, result
                elif said == "failed":
                    raise RuntimeError(f"in a worker process: {result}")
                elif said == "died":
                    workers.remove(worker)
                    worker.stop()
                    failed_starts += not worker.ready
                    if failed_starts == STARTS:
                        raise AvsrError(f"worker processes end with status {worker.process.exitcode} before they begin.  In a "
                                        "script of your own, call prepare below `if __name__ == '__main__':`.")
                    if number is not None:
                        tries[number] += worker.ready
                        if tries[number] < TRIES:
                            line.appendleft(number)
                        else:
                            yield number, None
    finally:
        for worker in workers:
            worker.stop()


def _listen(worker: _Worker) -> tuple[str | None, Any]:
    """The next thing a worker says: ready, tick, done with a result, None (nothing yet) or died."""
    try:
        if worker.pipe.poll():
            said, result = worker.pipe.recv()
            worker.heard = time.monotonic()
            worker.ready = True
            if said == "done":
                worker.job = None
            return said, result
    except (EOFError, OSError):
        return "died", None
    stuck = worker.job is not None and time.monotonic() - worker.heard > STUCK_S
    return ("died" if stuck else None), None


def _serve(pipe: Connection, work: Work) -> None:
    """A worker's life: until the pipe ends or the process at its other end does, even when that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)             # Ctrl-C is for the process that started us
    exit_with_parent()
    with suppress(ImportError):
        import cv2

        cv2.setNumThreads(1)
    with suppress(EOFError, OSError):
        pipe.send(("ready", None))
        while True:
            job = pipe.recv()
            try:
                said = "done", work(job, lambda: pipe.send(("tick", None)))
            except Exception:                                # a mistake of ours, shown where it can be seen
                said = "failed", traceback.format_exc()
            pipe.send(said)


@contextmanager
def _one_thread() -> Iterator[None]:
    """What is started in here computes in one thread: libraries read these as they load."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
