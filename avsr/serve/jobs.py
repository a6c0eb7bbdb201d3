"""The work of requests: a bounded queue, a few threads, and an end for work that nobody waits for any more.

    request -> Jobs.place (refused where all are taken) -> thread -> result | error; Job.cancel ends it at its next step
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

from avsr.runtime import Unit, release_memory
from avsr.serve.problems import RETRY_S, ApiError

T = TypeVar("T")


class Cancelled(Exception):
    """Nobody waits for the work any more."""


class Job(Generic[T]):
    """One piece of work. check: raises Cancelled where it was cancelled; the work calls it as often as it can.

    done, total: seconds of the recording, as far as they are known.
    """

    def __init__(self, work: Callable[[Job[T]], T], *, max_s: float | None = None):
        self._work, self._cancelled, self.max_s = work, threading.Event(), max_s
        self.future: Future[T] = Future()
        self.done, self.total = 0.0, None

    def run(self) -> None:
        """Do the work, in a thread of the queue."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.check()
            result = self._work(self)
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def cancel(self) -> None:
        """End the work at its next step."""
        self._cancelled.set()
        self.future.cancel()

    def check(self) -> None:
        """Raises Cancelled where the work was cancelled."""
        if self._cancelled.is_set():
            raise Cancelled

    def progress(self, stage: str, done: float, total: float | None, unit: Unit | None) -> None:
        """See runtime.Progress. Raises Cancelled, and ApiError where the recording is too long."""
        self.check()
        if unit == "s":
            self.done, self.total = done, total
            if self.max_s is not None and done > self.max_s:
                raise ApiError(413, f"The recording is longer than {self.max_s / 60:g} minutes.  Cut it, or start the server "
                                    "with a larger --max-minutes.", code="recording_too_long", param="file")


class Jobs:
    """Up to `n_workers` jobs at work, and `max_waiting` that wait."""

    def __init__(self, n_workers: int, max_waiting: int):
        self.n_workers, self.max_waiting = n_workers, max_waiting
        self._pool = ThreadPoolExecutor(n_workers, thread_name_prefix="request")
        self._lock, self._n_places, self._jobs = threading.Lock(), 0, set[Job]()

    @property
    def n_taken(self) -> int:
        """Places that are taken: requests that are received, wait or are at work."""
        return self._n_places

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for a request, from its first byte on. Raises ApiError where all are taken."""
        with self._lock:
            if self._n_places >= self.n_workers + self.max_waiting:
                raise ApiError(503, f"The server is busy with {self._n_places} requests, the most that it takes.  Try again "
                                    f"in {RETRY_S} s.", code="overloaded", retry_s=RETRY_S)
            self._n_places += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_places -= 1

    def start(self, job: Job[T]) -> Job[T]:
        """Put a job into the queue."""
        self._jobs.add(job)
        job.future.add_done_callback(lambda _: self._jobs.discard(job))
        self._pool.submit(self._run, job)
        return job

    def _run(self, job: Job) -> None:
        job.run()
        self._jobs.discard(job)
        if not self._jobs:                                   # nobody waits for the time that this takes
            release_memory()

    def close(self) -> None:
        """Cancel all jobs, and end."""
        for job in list(self._jobs):
            job.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)


async def finished(job: Job[T], is_gone: Callable[[], object]) -> T:
    """The result of a job. is_gone: an async function that tells whether the client has gone; then the job is cancelled, and
    Cancelled is raised."""
    waiting = asyncio.wrap_future(job.future)
    try:
        while True:
            done, _ = await asyncio.wait([waiting], timeout=0.25)
            if done:
                return waiting.result()
            if await is_gone():                              # type: ignore[misc]
                raise Cancelled
    finally:
        if not waiting.done():
            job.cancel()
            waiting.add_done_callback(lambda one: one.cancelled() or one.exception())
