"""The tensors of a state that several processes write together, each its share, while training goes on.

    tensors -> copies in memory -> state-STEP/shard-*.safetensors (torch.distributed.checkpoint) -> state.json names the folder
Any number of processes can read such a folder. Nothing in it is pickled.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor, distributed

from avsr.errors import AvsrError, BadCheckpoint
from avsr.output import reason_of
from avsr.tensorfiles import Stored, listed


class GroupWriter:
    """Writes states one after the other, in a thread of each process. All processes call its methods in the same order."""

    def __init__(self) -> None:
        # Its threads exchange messages while the main threads exchange gradients, which must not be mixed up.
        group = distributed.new_group(backend="gloo")
        assert isinstance(group, distributed.ProcessGroup), "this process belongs to it"
        self.group = group
        self.saving: Future | None = None
        self.fails: Callable[[BaseException], AvsrError] | None = None

    def write(self, folder: Path, tensors: Mapping[str, Tensor], done: Callable[[], None],
              fails: Callable[[BaseException], AvsrError]) -> None:
        """Copy the tensors and begin to write them into `folder`.

        done: is called in the first process when all have written; it makes the state known. fails: makes the error that `wait`
        or the next `write` raises from what went wrong.
        """
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
        from torch.distributed.checkpoint.state_dict_saver import async_save

        self.wait()
        fresh = folder.with_name(f".{folder.name}.part")
        first = distributed.get_rank() == 0

        def finish(saved: Future) -> None:
            if first and saved.exception() is None:
                fresh.rename(folder)
                done()

        if first:
            for old in (fresh, folder):                     # left by a process that was killed
                shutil.rmtree(old, ignore_errors=True)
        distributed.barrier(self.group)
        storage = HuggingFaceStorageWriter(str(fresh), save_distributed=True)
        self.fails = fails
        self.saving = _after(async_save(dict(tensors), storage_writer=storage, process_group=self.group), finish)

    def wait(self) -> None:
        """Wait until the state is written. Raises the error of `fails` if it could not be."""
        saving, self.saving = self.saving, None
        if saving is not None and (error := saving.exception()) is not None:
            assert self.fails is not None
            causes = [cause for cause, _ in getattr(error, "failures", {}).values()]
            raise self.fails(causes[0] if causes else error) from error


def _after(saving: Any, work: Callable[[Future], None]) -> Future:
    """A future that is done when `work`, which gets the first one, has returned."""
    out: Future = Future()

    def follow(saved: Future) -> None:
        try:
            work(saved)
            error = saved.exception()
        except BaseException as failure:
            error = failure
        if error is None:
            out.set_result(None)
        else:
            out.set_exception(error)

    saving.add_done_callback(follow)
    return out


def read_group_header(folder: Path) -> dict[str, Stored]:
    """The tensors that a folder holds. Raises BadCheckpoint where a part of one is missing."""
    found = _metadata(folder)
    for name, one in found.items():
        there = sum(prod(chunk.sizes) for chunk in one.chunks)
        if there != prod(one.size):
            raise BadCheckpoint(f"{folder}: holds {there} of {prod(one.size)} numbers of {listed([name])}, so a file is "
                                "missing or damaged.  Copy the folder again, or start a new run with --output-dir.")
    return {name: Stored(tuple(one.size), str(one.properties.dtype)) for name, one in found.items()}


def read_group_tensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fill tensors, whole ones or shares, with those of the same names in a folder. Raises BadCheckpoint."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        with warnings.catch_warnings():                     # that this process is alone
            warnings.simplefilter("ignore", UserWarning)
            load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=not distributed.is_initialized())
    except BaseException as error:                          # torch's CheckpointException is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise _damaged(folder, error) from error


def _metadata(folder: Path) -> dict[str, Any]:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    try:
        if not folder.is_dir():
            raise OSError("no such folder")
        return HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except Exception as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: BaseException) -> BadCheckpoint:
    reason = " ".join(reason_of(error).split())[:200]
    return BadCheckpoint(f"{folder}: cannot be read as a training state ({reason}).  Copy the folder again, or start a new run "
                         "with --output-dir.")
