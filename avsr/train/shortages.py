"""Errors with a remedy for a machine that runs out of disk space, memory or processes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from avsr.config import DataConfig
from avsr.errors import AvsrError, BadOutput
from avsr.output import NO_ROOM
from avsr.train.state import how_to_continue

NO_MEMORY = ("DefaultCPUAllocator", "CUDA out of memory", "HIP out of memory")      # how torch's errors begin or go on
NO_WORKER = "DataLoader worker"                             # how they begin where one of its processes has ended
# What they hold where another process of the group has ended; the last of NCCL.
NO_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL communicator was aborted",
           "remote process exited")


@contextmanager
def report_shortages(folder: Path, data: DataConfig) -> Iterator[None]:
    """Raise BadOutput for a full disk and AvsrError for too little memory or too few processes, and where another process of a
    group has ended, in place of a traceback.

    folder: the run's. Other exceptions pass. torch learns by a signal that a process of the loader was killed, so it raises
    its RuntimeError anywhere within the block.
    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise BadOutput(f"{error.filename or folder}: it cannot be written ({error.strerror}).  Make room, then "
                            f"{how_to_continue(folder)}.") from error
        if error.errno in (errno.EAGAIN, errno.ENOMEM):
            raise AvsrError(f"{folder}: a process or its memory cannot be had ({error.strerror}) with data.workers = "
                            f"{data.workers}.  Set it lower, then {how_to_continue(folder)}.") from error
        raise
    except (RuntimeError, MemoryError) as error:
        if str(error).startswith(NO_WORKER):
            raise AvsrError(f"{folder}: one of {data.workers} processes that make batches has ended ({_first_line(error)}), "
                            f"most likely because memory was short.  Set data.workers lower, then "
                            f"{how_to_continue(folder)}.") from error
        if any(words in str(error) for words in NO_PEER):
            raise AvsrError(f"{folder}: another process of the group has ended ({_first_line(error)}).  Look at what it said "
                            f"itself, then {how_to_continue(folder)}; torchrun --max-restarts N does so by itself.") from error
        if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
            raise AvsrError(f"{folder}: there is too little memory for batches of data.frames = {data.frames} "
                            f"({_first_line(error) or 'MemoryError'}).  Set data.frames or the network's dims lower, then "
                            f"{how_to_continue(folder)}.") from error
        raise


def _first_line(error: Exception, longest: int = 200) -> str:
    return (str(error).splitlines() or [""])[0][:longest].rstrip(" .")
