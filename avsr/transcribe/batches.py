"""Batches that several recordings fill together: a server has many short ones at once.

    windows of recordings, each from a thread of its own -> SharedBatches -> one batch in the network -> words to each
Padding never changes an answer, so a window's words do not depend on what else is in its batch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from avsr.runtime import Processor, n_cores, n_parallel_batches, set_torch_threads
from avsr.stream import Window
from avsr.transcribe.windows import WrittenWindow

if TYPE_CHECKING:
    import torch

    from avsr.transcribe.transcriber import Transcriber


@dataclass
class _Waiting:
    """Windows of one recording that wait for their words."""

    transcriber: Transcriber
    windows: Sequence[Window]
    is_first: bool
    words: Future[list[WrittenWindow]] = field(default_factory=Future)


class SharedBatches:
    """Threads that take windows of several recordings through the network, up to `batch_size` windows at once.

    What waits is put into a batch with the first that waits, if both are written alike. A batch that is alone in the network
    has all cores.
    """

    def __init__(self, device: torch.device | Processor, batch_size: int = 8):
        self.batch_size = batch_size
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._n_busy, self._closed = 0, False
        self._threads = [threading.Thread(target=self._work, name="batches", daemon=True)
                         for _ in range(n_parallel_batches(device))]
        for thread in self._threads:
            thread.start()

    def write(self, transcriber: Transcriber, windows: Sequence[Window], is_first: bool) -> Future[list[WrittenWindow]]:
        """The words of usable windows, in order, as soon as they are found. is_first: of the recording."""
        waiting = _Waiting(transcriber, windows, is_first)
        with self._changed:
            assert not self._closed
            self._waiting.append(waiting)
            self._changed.notify()
        return waiting.words

    def close(self) -> None:
        """End the threads; what waits is not written any more."""
        with self._changed:
            self._closed = True
            for one in self._waiting:
                one.words.cancel()
            self._waiting.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while batch := self._next():
            set_torch_threads(max(1, n_cores() // max(1, self._n_busy)))
            try:
                _write(batch)
            finally:
                with self._changed:
                    self._n_busy -= 1
            del batch                                        # nothing of it lives while this thread waits

    def _next(self) -> list[_Waiting]:
        """The next batch; empty where there will be none."""
        with self._changed:
            while True:
                while self._waiting and not self._waiting[0].words.set_running_or_notify_cancel():
                    self._waiting.popleft()
                if self._waiting:
                    break
                if self._closed:
                    return []
                self._changed.wait()
            first = self._waiting.popleft()
            batch, n_windows = [first], len(first.windows)
            for one in list(self._waiting):
                fits = n_windows + len(one.windows) <= self.batch_size and one.transcriber.writes_like(first.transcriber)
                if fits and one.words.set_running_or_notify_cancel():
                    batch.append(one)
                    n_windows += len(one.windows)
                if fits:
                    self._waiting.remove(one)
            self._n_busy += 1
            return batch


def _write(batch: Sequence[_Waiting]) -> None:
    """Find the words of a batch, and give each recording its own."""
    first = batch[0]
    try:
        if len(batch) == 1:
            first.words.set_result(first.transcriber.write(first.windows, first.is_first))
            return
        owners = [one.transcriber for one in batch for _ in one.windows]
        written = first.transcriber.write_together(owners, [window for one in batch for window in one.windows])
    except BaseException as error:                           # each recording reports it to whoever asked
        for one in batch:
            if not one.words.done():
                one.words.set_exception(error)
        return
    first_number = 0
    for one in batch:
        numbers = range(first_number, first_number + len(one.windows))
        one.words.set_result([window for number, window in written if number in numbers])
        first_number += len(one.windows)
