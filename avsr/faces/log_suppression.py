"""MediaPipe's tasks without their log, imported without what is not used here, and closed before the interpreter ends."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mediapipe import Image

LOG_LINES = (b"WARNING: Logging before InitGoogle", b"I0000 ", b"W0000 ", b"INFO: Created TensorFlow Lite", b"INFO: [",
         b"WARNING: [model_load.cc")                        # "Sparsity tensors may not yet be fully supported": they are

STDERR_LOCK = threading.RLock()       # without it, two threads that redirect standard error could leave it redirected

# MediaPipe imports these for functions that draw and record, which are not used here. They take half as long as torch.
UNUSED = ("matplotlib", "matplotlib.pyplot", "sounddevice",
          *(f"mediapipe.tasks.python.{name}" for name in ("audio", "decision", "retrieval", "text")))

Square = tuple[int, int, int]
"""Left, top, side in pixels; may reach outside the frame."""


class MediaPipeTask:
    """A MediaPipe task whose log lines are left out, and which is closed at the latest before the interpreter ends.

    make: makes the task. first: shows it a picture (H, W, 3), as the last log lines come with the first picture.
    """

    def __init__(self, make: Callable[[], Any], first: Callable[[Any, Image], object]) -> None:
        with _without_log():
            self.task = make()
            first(self.task, cut_out(np.zeros((64, 64, 3), np.uint8), None)[0])
        self.close = weakref.finalize(self, _close, self.task)

    def detect(self, image: Image, time_ms: int | None = None) -> Any:
        """What the task finds in a picture; in VIDEO mode with its time. MediaPipe may warn of any, once in a process."""
        with _without_log():
            return self.task.detect(image) if time_ms is None else self.task.detect_for_video(image, time_ms)


def cut_out(frame: np.ndarray, square: Square | None) -> tuple[Image, np.ndarray, np.ndarray]:
    """The part of the frame inside `square` (None: all of it) as an image, its left top corner and its size (x, y)."""
    mp = import_mediapipe()
    left, top, side = square or (0, 0, max(frame.shape))
    low = np.maximum((left, top), 0)
    part = frame[low[1] : top + side, low[0] : left + side]
    part = np.ascontiguousarray(part) if part.ndim == 3 else np.repeat(part[:, :, None], 3, axis=2)
    image = mp.Image(image_format=mp.ImageFormat.SRGB, data=part)
    return image, low, np.array([part.shape[1], part.shape[0]])


class _LazyModule(ModuleType):
    """A module that is imported when the first of its attributes is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):                   # the import system asks for these; they are no use of the module
            raise AttributeError(name)
        with STDERR_LOCK:
            _drop_lazy_modules()
            return getattr(import_module(self.__name__), name)


def _drop_lazy_modules() -> None:
    """Let further imports of UNUSED modules import them."""
    for name in UNUSED:
        if isinstance(sys.modules.get(name), _LazyModule):
            del sys.modules[name]


def import_mediapipe() -> ModuleType:
    """Import the package mediapipe with its tasks. The UNUSED modules that it imports, unless they are imported already, are
    loaded only when one of their functions is called."""
    if "mediapipe" in sys.modules:
        return import_module("mediapipe")           # which waits where another thread imports it just now
    with STDERR_LOCK:
        lazy = {name: _LazyModule(name) for name in UNUSED if name.partition(".")[0] not in sys.modules}
        sys.modules.update(lazy)
        for name, module in lazy.items():
            parent, _, child = name.rpartition(".")
            if parent in lazy:
                setattr(lazy[parent], child, module)
        try:
            return import_module("mediapipe")
        finally:
            _drop_lazy_modules()


def _close(task: Any) -> None:
    with suppress(RuntimeError), _without_log():      # at the end of the program, its thread is stopped before we are called
        task.close()
    task._handle = None                         # or its __del__ closes again, after the modules it needs are gone


@contextmanager
def _without_log() -> Iterator[None]:
    """Keep MediaPipe's C++ log lines, which no setting silences, off standard error; any other line is written afterwards."""
    with STDERR_LOCK, tempfile.TemporaryFile() as log:
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
                if not line.startswith(LOG_LINES):
                    os.write(2, line)
