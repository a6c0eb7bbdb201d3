"""MediaPipe's tasks: imported without what is not used here, silent, closed before the interpreter goes; and their pictures."""

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

NOISE = (b"WARNING: Logging before InitGoogle", b"I0000 ", b"W0000 ", b"INFO: Created TensorFlow Lite", b"INFO: [",
         b"WARNING: [model_load.cc")                        # "Sparsity tensors may not yet be fully supported": they are

ONE_AT_A_TIME = threading.RLock()     # or two threads that put standard error aside could leave it there

# MediaPipe imports these for functions that draw and record, which are not used here: together half as long as torch takes.
UNUSED = ("matplotlib", "matplotlib.pyplot", "sounddevice")

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
    mp = import_mediapipe()
    left, top, side = square or (0, 0, max(frame.shape))
    low = np.maximum((left, top), 0)
    part = np.ascontiguousarray(frame[low[1] : top + side, low[0] : left + side])
    image = mp.Image(image_format=mp.ImageFormat.SRGB, data=part)
    return image, low, np.array([part.shape[1], part.shape[0]])


class _Postponed(ModuleType):
    """A module that is imported when the first of its attributes is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):                   # the import system asks for these; they are no use of the module
            raise AttributeError(name)
        with ONE_AT_A_TIME:
            _forget_postponed()
            return getattr(import_module(self.__name__), name)


def _forget_postponed() -> None:
    """From now on, importing one of UNUSED gives the module itself."""
    for name in UNUSED:
        if isinstance(sys.modules.get(name), _Postponed):
            del sys.modules[name]


def import_mediapipe() -> ModuleType:
    """The package mediapipe, with its tasks. Those of UNUSED that it imports, and nobody has imported before, are postponed
    until one of their functions is called."""
    if "mediapipe" in sys.modules:
        return import_module("mediapipe")           # which waits where another thread imports it just now
    with ONE_AT_A_TIME:
        postponed = {name: _Postponed(name) for name in UNUSED if name.partition(".")[0] not in sys.modules}
        sys.modules.update(postponed)
        for name, module in postponed.items():
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(postponed[parent], child, module)
        try:
            return import_module("mediapipe")
        finally:
            _forget_postponed()


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
