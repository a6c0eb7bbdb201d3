"""The function by which jobs are run, whichever machines do them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from avsr.runtime import n_cores
from avsr.workers import pool, ray_cluster
from avsr.workers.work import STUCK_S, TRIES, Work

__all__ = ["STUCK_S", "TRIES", "Work", "run"]


def run(work: Work, jobs: Sequence[Any], n_workers: int | None = None, *, cluster: str | None = None, gpu: bool = False,
        hold: Callable[[], bool] = lambda: False,
        on_part: Callable[[int, Any], None] = lambda number, part: None) -> Iterator[tuple[int, Any]]:
    """Results in the order in which they are made; None for a job of which TRIES workers died.

    n_workers: jobs that are done at once; None for one on each core of this machine, or of the cluster. cluster: None for
    processes on this machine, or the address of a Ray cluster, see address.parse. gpu: whether a job takes one of the cluster's
    GPUs. hold: while it is true, no job is begun until the running ones are done. on_part: called with the number of a job and
    each part of its result, as soon as it is made; by Ray, when the job is done. A job whose worker died is begun anew, and
    then its first parts may come twice.
    Raises AvsrError if no worker can be started or the cluster cannot be used, and what `work` raises of that kind;
    RuntimeError for a mistake in `work`.
    """
    if cluster is None:
        return pool.run(work, jobs, n_workers or n_cores(), hold=hold, on_part=on_part)
    return ray_cluster.run(work, jobs, n_workers, cluster, gpu=gpu, hold=hold, on_part=on_part)
