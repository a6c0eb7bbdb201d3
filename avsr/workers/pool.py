"""A pool of worker processes that may crash: jobs in, results out as they are made, each exactly once.

    jobs -> `n` processes, one thread each -> (number of the job, result), or (number, None) if TRIES workers died of the job
                                           -> parts of a result, as soon as they are made
concurrent.futures fails altogether when one of its processes is killed, as by a machine that is out of memory.
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

from avsr import remote
from avsr.errors import AvsrError
from avsr.runtime import exit_with_parent
from avsr.workers.work import ONE_THREAD, STUCK_S, TRIES, Work, use_one_thread

STARTS = 3                            # failed starts of a worker in a row after which the run fails


class _Worker:
    """A process and its current job."""

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
        self.last_message_s = time.monotonic()

    def give(self, number: int, job: Any) -> None:
        self.job, self.last_message_s = number, time.monotonic()
        with suppress(OSError):                              # it has just died: noticed when it is read
            self.pipe.send(job)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run(work: Work, jobs: Sequence[Any], n_workers: int, *, hold: Callable[[], bool],
        on_part: Callable[[int, Any], None]) -> Iterator[tuple[int, Any]]:
    """See avsr.workers.run."""
    waiting = deque(range(len(jobs)))
    tries = [0] * len(jobs)
    workers: list[_Worker] = []
    failed_starts = 0
    try:
        while waiting or any(worker.job is not None for worker in workers):
            while len(workers) < min(n_workers, len(waiting) + sum(worker.job is not None for worker in workers)):
                workers.append(_Worker(work))
            for worker in workers:
                busy = any(other.job is not None for other in workers)
                if worker.job is None and waiting and not (busy and hold()):
                    number = waiting.popleft()
                    worker.give(number, jobs[number])
            connection.wait([worker.pipe for worker in workers], timeout=1.0)
            for worker in list(workers):
                number, message, result = worker.job, *_receive(worker)
                if message == "ready":
                    failed_starts = 0
                elif message == "done" and number is not None:
                    yield number, result
                elif message == "retries":
                    remote.add_retries(result)
                elif message == "part" and number is not None:
                    on_part(number, result)
                elif message == "error":
                    raise AvsrError(result)
                elif message == "failed":
                    raise RuntimeError(f"in a worker process: {result}")
                elif message == "died":
                    workers.remove(worker)
                    worker.stop()
                    failed_starts += not worker.ready
                    if failed_starts == STARTS:
                        raise AvsrError(f"worker processes end with status {worker.process.exitcode} before they begin.  In a "
                                        "script of your own, call it below `if __name__ == '__main__':`.")
                    if number is not None:
                        tries[number] += worker.ready
                        if tries[number] < TRIES:
                            waiting.appendleft(number)
                        else:
                            yield number, None
    finally:
        for worker in workers:
            worker.stop()


def _receive(worker: _Worker) -> tuple[str | None, Any]:
    """The next message of a worker: ready, tick, part or done with a result, None (nothing yet) or died."""
    try:
        if worker.pipe.poll():
            message, result = worker.pipe.recv()
            worker.last_message_s = time.monotonic()
            worker.ready = True
            if message == "done":
                worker.job = None
            return message, result
    except (EOFError, OSError):
        return "died", None
    stuck = worker.job is not None and time.monotonic() - worker.last_message_s > STUCK_S
    return ("died" if stuck else None), None


def _serve(pipe: Connection, work: Work) -> None:
    """Run a worker until the pipe closes or the process at its other end ends, even when that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)             # Ctrl-C is for the process that started us
    exit_with_parent()
    use_one_thread()
    with suppress(EOFError, OSError):
        pipe.send(("ready", None))
        while True:
            job = pipe.recv()
            try:
                before = remote.n_retries()
                message = "done", work(job, lambda *part: pipe.send(("part", *part) if part else ("tick", None)))
                if n_retries := remote.n_retries() - before:
                    pipe.send(("retries", n_retries))
            except AvsrError as error:                       # such as a model that is not there
                message = "error", str(error)
            except Exception:                                # a bug in avsr, shown by the main process
                message = "failed", traceback.format_exc()
            pipe.send(message)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes that are started in this context compute in one thread: libraries read these variables as they load."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
