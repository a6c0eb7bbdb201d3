"""What both engines keep to: how often a job is tried, how long it may be silent, how its threads are limited."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Work = Callable[[Any, Callable[..., None]], Any]
"""`work(job, tick) -> result`: picklable. It calls `tick()`, or `tick(part)` with a part of the result, at least
once in STUCK_S (seconds)."""

STUCK_S = 600.0                       # seconds without a sign of life after which a worker is ended
# Attempts at a job whose worker died, as by Ray's default of 3 retries. A worker may also die of other causes than its job,
# such as a machine without memory; with 2 attempts, two such deaths would cost a clip.
TRIES = 4
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def use_one_thread() -> None:
    """Let OpenCV, which reads no variable of the environment, compute in one thread; those of ONE_THREAD are set before."""
    os.environ.update(ONE_THREAD)
    with suppress(ImportError):
        import cv2

        cv2.setNumThreads(1)
