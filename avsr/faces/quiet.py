"""MediaPipe's tasks without their log, closed before the interpreter goes, shown a frame or a part of it."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mediapipe import Image

NOISE = (b"WARNING: Logging before InitGoogle", b"I0000 ", b"W0000 ", b"INFO: Created TensorFlow Lite", b"INFO: [",
         b"WARNING: [model_load.cc")                        # "Sparsity tensors may not yet be fully supported": they are

ONE_AT_A_TIME = threading.RLock()     # or two threads that put standard error aside could leave it there

Square = tuple[int, int, int]
"""Left, top, side in pixels; may reach outside the frame."""


class Quiet:
    """A MediaPipe task, made and shown its first picture without a word, closed at the latest before the interpreter goes.

    make: gives the task. first: shows it a picture (H, W, 3): the last of the noise comes with that.
    """

    def __init__(self, make: Callable[[], Any], first: Callable[[Any, Image], object]) -> None:
        with _quiet():
            self.task = make()
            first(self.task, part_of(np.zeros((64, 64, 3), np.uint8), None)[0])
        self.close = weakref.finalize(self, _close, self.task)


def part_of(frame: np.ndarray, square: Square | None) -> tuple[Image, np.ndarray, np.ndarray]:
    """The part of the frame inside `square` (None: all of it) as an image, its left top corner and its size (x, y)."""
    import mediapipe as mp

    left, top, side = square or (0, 0, max(frame.shape))
    low = np.maximum((left, top), 0)
    part = np.ascontiguousarray(frame[low[1] : top + side, low[0] : left + side])
    image = mp.Image(image_format=mp.ImageFormat.SRGB, data=part)
    return image, low, np.array([part.shape[1], part.shape[0]])


def _close(task: Any) -> None:
    with suppress(RuntimeError), _quiet():      # at the end of the program, its thread is stopped before we are called
        task.close()
    task._handle = None                         # or its __del__ closes again, after the modules it needs are gone


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MediaPipe's C++ log lines, which no setting silences, off stderr; anything else written comes out after."""
    with ONE_AT_A_TIME, tempfile.TemporaryFile() as log:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            log.seek(0)
            for line in log:
                if not line.startswith(NOISE):
                    os.write(2, line)
