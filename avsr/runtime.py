"""Where and how things run: device, dtype, threads, and the progress protocol. Imports torch only inside functions."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, get_args

from avsr.errors import AvsrError

if TYPE_CHECKING:
    import torch

Unit = Literal["s", "bytes", "utterances", "rows", "files", "steps"]
"""What a stage of the work is counted in: `s` is seconds of the recording, `rows` are a benchmark's, all else says itself."""

UNITS: tuple[str, ...] = get_args(Unit)

Progress = Callable[[str, float, float | None, Unit | None], None]
"""`progress(stage, done, total, unit)`, always called with these four, in order and without names.

stage: what is being done, in a few plain words that a bar can show as they are; another stage begins where it changes.
done: how much of it is done, total: how much there is, both in `unit`; total is None where that is not known.
A stage without an amount is announced once, as it begins, by `progress(stage, 0, None, None)`.
A call may come from another thread than the one that started the work.
"""


def no_progress(stage: str, done: float, total: float | None, unit: Unit | None) -> None:
    """The progress callback of callers who do not want one."""


def pick_device(device: str = "auto") -> torch.device:
    """The torch device for `auto`, `cpu` or `cuda` (also `cuda:1`).

    Raises AvsrError when CUDA is asked for and there is none.
    """
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


def n_cores() -> int:
    """Processor cores this process may use (respects affinity and containers that set it)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Memory of this machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def max_processes() -> int:
    """How many processes may work for one command on this machine: four for each core, and eight at least.

    More of them only take memory (260 MB each that makes batches), and thousands of them would stop the machine.
    """
    return max(8, 4 * n_cores())


def exit_with_parent() -> None:
    """Let this process, which multiprocessing started, end as soon as the process that started it has ended.

    A thread waits for that, so it also happens where the parent was killed, and in the middle of any work. Without it a
    process that is at work, or that writes into a full pipe, lives on; PyTorch's loaders look for their parent between batches.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, name="end with parent", daemon=True).start()


def n_parallel_batches(device: torch.device) -> int:
    """How many batches to work on side by side: one on a GPU, up to four on the CPU's cores."""
    return 1 if device.type == "cuda" else min(4, n_cores())


def release_memory() -> None:
    """Give the memory that was freed back to the system. glibc keeps it, in pieces and for each thread, so that a process
    grows although nothing is kept: `transcribe` by sound had 1290 MB after 11 minutes, with this 1000 MB. Does nothing where
    the C library has no malloc_trim. Takes up to half a second, so it is for long work."""
    import ctypes

    with suppress(AttributeError, OSError, TypeError):       # another C library, none by that way, or Windows
        ctypes.CDLL(None).malloc_trim(0)
