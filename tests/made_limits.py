"""Limits of a process in place of a machine's: a disk that is full; and whether a process is alive."""

import os
import resource
import signal
import time
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def full_disk(n_bytes=0):
    """Stands for a full disk: no file of this process can become longer than `n_bytes`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def ends_within(pid, seconds):
    """Whether a process of that number, which is no child of ours, ends in so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not is_alive(pid):
            return True
        time.sleep(0.02)
    return False


def is_alive(pid):
    """Whether a process works or waits; one that has ended and is kept for its parent's sake does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:                                # no /proc on this system, or it has just ended
        return not Path("/proc/self").exists()


class Slow:
    """A data set whose items take long, as on a network file system that hangs; its process is named first."""

    def __getitem__(self, number):
        print(os.getpid(), flush=True)
        time.sleep(100)
