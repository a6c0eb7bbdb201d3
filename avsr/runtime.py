"""How the program runs: device, dtype, processes, memory, and the progress callback. Imports torch only inside functions."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Literal, TypeVar, cast, get_args

from avsr.errors import AvsrError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Unit = Literal["s", "bytes", "utterances", "rows", "files", "steps"]
"""The unit in which the progress of a stage is counted: `s` means seconds of the recording, `rows` those of a benchmark."""

UNITS: tuple[str, ...] = get_args(Unit)

Progress = Callable[[str, float, float | None, Unit | None], None]
"""A callback `progress(stage, done, total, unit)`, always called with four positional arguments.

stage: what is being done, in a few words that a progress bar can show; another text begins another stage. done, total: how
much is done, and how much there is in all, in `unit`; total is None if that is unknown. A stage without an amount is
announced once, when it begins, by `progress(stage, 0, None, None)`. Calls may come from any thread.
"""


def no_progress(stage: str, done: float, total: float | None, unit: Unit | None) -> None:
    """A progress callback that does nothing."""


@dataclass(frozen=True)
class Processor:
    """The processor of this machine, as the device of what runs without torch."""

    type: str = "cpu"


def pick_device(device: str = "auto") -> torch.device:
    """The torch device for `auto`, `cpu`, `cuda` or `cuda:1`. Raises AvsrError if there is no such device."""
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise AvsrError(f"--device {device}: not a device this program knows.  Use auto, cpu or cuda.")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise AvsrError(f"--device {device}: torch sees no CUDA device here.  Use --device cpu.")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise AvsrError(f"--device {device}: not a device this program knows.  Use auto, cpu, cuda or cuda:0.") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise AvsrError(f"--device {device}: torch sees only {torch.cuda.device_count()} CUDA devices here.  Use cuda:0.")
    return chosen


def pick_dtype(device: torch.device) -> torch.dtype:
    """float32 on the CPU; on CUDA bfloat16 where it is fast (compute capability 8 and up), float16 before that."""
    import torch

    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16


def is_first_process() -> bool:
    """Whether this process writes and prints what is to be there once: true in one of the processes that torchrun starts."""
    return os.environ.get("RANK", "0") == "0"


def n_cores() -> int:
    """The number of processor cores that this process may use, by its affinity where the system has that."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int | None:
    """The memory of this machine; None if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def max_processes() -> int:
    """The most processes that one command may start on this machine: four for each core, but at least eight.

    More of them only take memory (260 MB for each that makes batches), and thousands would stop the machine.
    """
    return max(8, 4 * n_cores())


def exit_with_parent() -> None:
    """End this process, which multiprocessing started, as soon as its parent process has ended.

    A thread waits for the end, so it works in the middle of any task and even if the parent was killed. Without it, a process
    that is busy or writes into a full pipe would live on: PyTorch's loaders look for their parent only between batches.
    """
    import multiprocessing  # takes 8 ms, and `import avsr` imports this file

    if (parent := multiprocessing.parent_process()) is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="exit with parent", daemon=True).start()


def n_parallel_batches(device: torch.device | Processor) -> int:
    """The number of batches to process at the same time: one on a GPU, up to four on the cores of a CPU."""
    return 1 if device.type == "cuda" else min(4, n_cores())


def torch_threads() -> int | None:
    """The threads that torch uses for one operation; None where it is not loaded."""
    torch = sys.modules.get("torch")
    return None if torch is None else torch.get_num_threads()


def set_torch_threads(n: int | None) -> None:
    """Set the threads that torch uses for one operation of this thread, if it is loaded, and n is not None."""
    if n is not None and (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(n)


def release_memory() -> None:
    """Give freed memory back to the system, if the C library can (glibc's malloc_trim). It may take half a second.

    glibc keeps freed memory in pieces, for each thread, so that a process grows although it holds no more: `transcribe` by
    audio used 1290 MB after 11 minutes, and 1000 MB with this.
    """
    import ctypes

    with suppress(AttributeError, OSError, TypeError):       # another C library, none by that way, or Windows
        ctypes.CDLL(None).malloc_trim(0)


def prefetch(items: Iterable[T], n: int) -> Iterator[T]:
    """The same items, made by another thread that runs up to `n` of them ahead. An exception in the thread is raised here."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        made = deque(thread.submit(next, iterator, end) for _ in range(n))
        try:
            while (item := made.popleft().result()) is not end:
                made.append(thread.submit(next, iterator, end))
                yield cast(T, item)
        finally:
            for future in made:
                future.cancel()


def import_onnxruntime() -> ModuleType:
    """Import the package onnxruntime with its telemetry off.

    Version 1.32 writes a device id and a database of what was loaded into the user's cache, to be sent to its makers. The
    files are made as the package is imported, so `disable_telemetry_events` alone comes too late; the variable
    ORT_DISABLE_TELEMETRY prevents them. If the user has set the variable, its value is kept.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    onnxruntime = import_module("onnxruntime")
    if os.environ["ORT_DISABLE_TELEMETRY"] == "1":
        onnxruntime.disable_telemetry_events()
    return onnxruntime
