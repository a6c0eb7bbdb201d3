"""Jobs on a Ray cluster: plain tasks, a bounded number of them at a time, begun anew where a worker or a machine is lost.

    jobs -> ray.remote tasks, one thread each -> (number of the job, result), or (number, None) if TRIES workers died of the job
Ray's own retries are off: it would begin a job anew for ever that fills the memory, and could not say how often it did.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from avsr import __version__, remote
from avsr.errors import AvsrError
from avsr.workers.address import check_cluster, is_reachable, parse
from avsr.workers.work import ONE_THREAD, TRIES, Work

CONNECT_S = 30.0                      # seconds in which a cluster must take us in
LOST = 50                             # losses of the machine a job was on, after which the run fails
LOOK_S = 5.0                          # seconds between looks at how many cores the cluster has
# Statistics are not sent, and what is not for the user is not printed; values that the user has set are kept. Without the last
# one, `uv run` would copy the whole folder to each machine and install it there.
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "1", "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


def run(work: Work, jobs: Sequence[Any], n_workers: int | None, cluster: str, *, gpu: bool, hold: Callable[[], bool],
        on_part: Callable[[int, Any], None]) -> Iterator[tuple[int, Any]]:
    """See avsr.workers.run."""
    if not jobs:
        return
    with _connected(cluster) as ray:
        tasks = _Tasks(ray, work, jobs, cluster, n_workers, gpu=gpu)
        try:
            while tasks.begin(hold):
                for number, outcome in tasks.ended():
                    if outcome is None:
                        yield number, None
                        continue
                    parts, result, n_retries = outcome
                    remote.add_retries(n_retries)
                    for part in parts:
                        on_part(number, part)
                    yield number, result
        finally:
            tasks.cancel()


class _Tasks:
    """The jobs that wait and those that run."""

    def __init__(self, ray: ModuleType, work: Work, jobs: Sequence[Any], cluster: str, n_workers: int | None, *, gpu: bool):
        self.ray, self.jobs, self.cluster, self.n_workers, self.gpu = ray, jobs, cluster, n_workers, gpu
        self.work = ray.put(ray.cloudpickle.dumps(work))
        options = {"max_retries": 0, "num_cpus": 1, "num_gpus": int(gpu), "runtime_env": {"env_vars": ONE_THREAD}}
        self.function = ray.remote(**options)(_task(os.getcwd()))
        self.waiting = deque(range(len(jobs)))
        self.running: dict[Any, int] = {}
        self.tries, self.lost = [0] * len(jobs), [0] * len(jobs)
        self.looked, self.n_slots = -LOOK_S, 1

    def begin(self, hold: Callable[[], bool]) -> bool:
        """Begin as many jobs as may run. Returns whether any runs."""
        slots = self._slots()
        while self.waiting and len(self.running) < slots and not (self.running and hold()):
            number = self.waiting.popleft()
            self.running[self.function.remote(self.work, pickle.dumps(self.jobs[number]))] = number
        return bool(self.running)

    def ended(self) -> Iterator[tuple[int, Any]]:
        """The numbers of jobs that have ended with their parts and results; None for one of which TRIES workers died."""
        ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=1.0)
        for task in ready:
            number = self.running.pop(task)
            kind, value = self._outcome(task)
            if kind == "done":
                yield number, value
            elif kind == "error":
                raise AvsrError(value)
            elif kind == "failed":
                raise RuntimeError(f"in a worker process: {value}")
            elif kind == "version":
                machine, theirs = value
                raise AvsrError(f"--cluster {self.cluster}: avsr {theirs or 'is not installed'} on {machine}, and "
                                f"{__version__} here.  Install the same version on all machines of the cluster.")
            else:
                tries = self.tries if kind == "died" else self.lost
                tries[number] += 1
                if self.tries[number] == TRIES:
                    yield number, None
                elif self.lost[number] == LOST:
                    raise AvsrError(f"--cluster {self.cluster}: a job lost its machine {LOST} times ({value}).  See to the "
                                    "machines of the cluster and run the same command again: what is done is kept.")
                else:
                    self.waiting.appendleft(number)

    def _outcome(self, task: Any) -> tuple[str, Any]:
        """What a task returned; or died, with its worker, or lost, with its machine, and Ray's words about it."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(task)
        except errors.RayTaskError as error:                 # of the few lines of _task
            return "failed", str(error)
        except (errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
            return "died", _first_line(error)
        except errors.RuntimeEnvSetupError as error:
            raise AvsrError(f"--cluster {self.cluster}: a worker cannot be started ({_first_line(error)}).  See Ray's logs on "
                            "that machine.") from error
        except errors.RayError as error:                     # the machine left, or the result was lost with it
            return "lost", _first_line(error)

    def _slots(self) -> int:
        """How many jobs may run at once: as many as asked for, else as the cluster has cores, or GPUs, at present."""
        if self.n_workers is not None:
            return self.n_workers
        if time.monotonic() - self.looked >= LOOK_S:
            self.looked = time.monotonic()
            self.n_slots = max(1, int(self.ray.cluster_resources().get("GPU" if self.gpu else "CPU", 1)))
        return self.n_slots

    def cancel(self) -> None:
        """End the jobs that run."""
        for task in self.running:
            self.ray.cancel(task, force=True)


def _task(folder: str) -> Callable[[bytes, bytes], tuple[str, Any]]:
    """The function of a task, which travels by value, as that machine may have no avsr, or another version of it."""
    expected = __version__

    def job(work: bytes, job: bytes) -> tuple[str, Any]:
        import platform

        try:
            from avsr import __version__ as version
        except ImportError:
            version = None
        if version != expected:
            return "version", (platform.node(), version)
        from avsr.workers.task import do

        return do(work, job, folder)

    return job


@contextmanager
def _connected(cluster: str) -> Iterator[ModuleType]:
    """Ray, connected to a cluster; a connection that a script has made before is used and kept. Raises AvsrError."""
    check_cluster(cluster)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield ray
        return
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    _connect(ray, cluster)
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: ModuleType, cluster: str) -> None:
    """Connect within CONNECT_S, or start a local Ray. Raises AvsrError."""
    address = parse(cluster) or _running_here()
    found: list[BaseException | None] = []

    def connect() -> None:
        try:
            # No logging_level: with `configure_logging` Ray would set the level again that was set before.
            ray.init(address or "local", log_to_driver=False, configure_logging=False, include_dashboard=False)
            found.append(None)
        except Exception as error:
            found.append(error)

    if address is None:                                      # its processes end with the thread that starts them
        with _own_signals():
            connect()
    else:                                                    # by itself Ray would wait for minutes for what is no cluster
        thread = threading.Thread(target=connect, name="connect to Ray", daemon=True)
        thread.start()
        thread.join(CONNECT_S)
    if not found:
        raise AvsrError(f"--cluster {cluster}: it did not take us in within {CONNECT_S:.0f} s.  Check that Ray runs at that "
                        "address (ray status), or leave out --cluster to work on this machine.")
    if (error := found[0]) is None:
        return
    words = _first_line(error)
    if "ersion mismatch" in str(error):
        versions = ", ".join(line.strip() for line in str(error).splitlines() if line.strip().startswith(("Ray:", "Python:")))
        raise AvsrError(f"--cluster {cluster}: the cluster and this machine have different versions of Ray or Python "
                        f"({versions or words}).  Install the same ones.") from error
    raise AvsrError(f"--cluster {cluster}: it cannot be used ({words}).  Start it with ray start --head, or leave out "
                    "--cluster to work on this machine.") from error


def _running_here() -> str | None:
    """The address of a Ray that runs on this machine, if one does. Ray itself waits for ever for one that was killed, as its
    address stays in a file."""
    place = os.environ.get("RAY_ADDRESS", "")
    with suppress(OSError):
        folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
        place = place or (Path(folder) / "ray" / "ray_current_cluster").read_text(encoding="utf-8").strip()
    return place if place and is_reachable(place) else None


@contextmanager
def _own_signals() -> Iterator[None]:
    """Take back the signals that Ray takes for itself in this context: the command line has its own way to end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _first_line(error: BaseException) -> str:
    """The first line of an error of Ray, which may have dozens, without a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".")
