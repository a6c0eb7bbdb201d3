"""Limits of a process in place of a machine's: a disk that is full."""

import resource
import signal
from contextlib import contextmanager


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
