"""What a worker of a cluster does with a job; it runs on a machine that has this program, too.

    bytes of `work`, bytes of a job -> ("done", (parts, result, n_retries)), ("error", sentence) or ("failed", traceback)
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

from avsr import remote
from avsr.errors import AvsrError
from avsr.workers.work import STUCK_S, Work, use_one_thread


def do(work: bytes, job: bytes, folder: str) -> tuple[str, Any]:
    """The outcome of a job: its kind, and what belongs to it. folder: what relative paths are relative to.

    The process ends if the job gives no sign of life for STUCK_S.
    """
    parts: list[Any] = []
    before = remote.n_retries()

    def tick(*part: Any) -> None:
        parts.extend(part)
        # A thread of C code, which ends the process even while other C code never returns.
        faulthandler.dump_traceback_later(STUCK_S, exit=True, file=sys.__stderr__ or sys.stderr)

    with suppress(OSError):                                  # a machine that lacks the folder lacks the files in it, too
        os.chdir(folder)
    try:
        tick()
        result = _loaded(work)(pickle.loads(job), tick)
        return "done", (parts, result, remote.n_retries() - before)
    except AvsrError as error:
        return "error", str(error)
    except Exception:                                        # a bug in avsr, shown by the process that gave the job
        return "failed", traceback.format_exc()
    finally:
        faulthandler.cancel_dump_traceback_later()


@lru_cache(maxsize=1)
def _loaded(work: bytes) -> Work:
    """The function that does jobs, unpickled once for many jobs."""
    use_one_thread()
    loaded: Callable[..., Any] = pickle.loads(work)
    return loaded
