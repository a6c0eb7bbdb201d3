"""Ctrl-C and SIGTERM: a command ends within GRACE_S seconds, with one sentence that says how to continue.

Python runs the handler of a signal in the main thread, which may be waiting for seconds of work in other threads. So the
handler only raises Stopped, and another thread, which the signal wakes, ends the process if the main thread has not ended in
time. Files are written under temporary names and renamed, so whatever exists is whole.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from avsr.names import escape_controls

GRACE_S = 1.5                                               # the most seconds from the signal to the end of the process
_leaving = threading.Lock()                                 # held by the thread that ends the process
NAMES: dict[int, str] = {signal.SIGINT: "by Ctrl-C", signal.SIGTERM: "by SIGTERM"}


class Stopped(KeyboardInterrupt):
    """A signal asks the program to end. number: that of the signal."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class Stopping:
    """How a block ends at a signal. grace_s: seconds after which the process is ended if the block has not."""

    grace_s = GRACE_S

    @contextmanager
    def politely(self, ask: Callable[[], None], grace_s: float) -> Iterator[None]:
        """Within this part of the block the first signal only calls `ask`, and the part has `grace_s` to end; a second signal
        ends the process. Where the block is not stoppable, Ctrl-C calls `ask` as well if this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def first(number: int, _: object) -> None:
            signal.signal(number, handlers[number])
            ask()

        handlers = {number: signal.getsignal(number) for number in NAMES if signal.getsignal(number) is not signal.SIG_IGN}
        self.grace_s = grace_s
        for number in handlers:
            signal.signal(number, first)
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


@contextmanager
def stoppable(leave: Callable[[int], None]) -> Iterator[Stopping]:
    """Within the block, SIGINT and SIGTERM raise Stopped in the main thread. If that is still in the block after GRACE_S, or at
    a second signal, another thread calls `leave(number)`, which must end the process.

    An ignored signal stays ignored, as nohup and a shell's `&` want it. In other threads than the main one, which receive no
    signals, nothing changes; nor on Windows, where select cannot wait for a pipe: Ctrl-C raises KeyboardInterrupt there.
    """
    stopping = Stopping()
    if threading.current_thread() is not threading.main_thread() or os.name != "posix":
        yield stopping
        return
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)                          # as signal.set_wakeup_fd wants it
    threading.Thread(target=_wait_and_leave, args=(receiver, leave, stopping), daemon=True).start()
    handlers = {number: signal.signal(number, _raise) for number in NAMES if signal.getsignal(number) is not signal.SIG_IGN}
    before = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    try:
        yield stopping
    finally:
        signal.set_wakeup_fd(before)
        os.close(sender)                                    # which ends the other thread
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _raise(number: int, _: object) -> None:
    raise Stopped(number)


def _wait_and_leave(receiver: int, leave: Callable[[int], None], stopping: Stopping) -> None:
    """Wait for a signal, then for the main thread to leave the block, which closes the other end of the pipe."""
    number = _next(receiver, None)
    if number is not None:
        second = _next(receiver, time.monotonic() + stopping.grace_s)
        if second is not None:
            leave(number)
    os.close(receiver)


def _next(receiver: int, until: float | None) -> int | None:
    """The number of the next signal, which Python writes as a byte; 0 if there is none by then, None if the pipe was closed."""
    while select.select([receiver], [], [], None if until is None else max(0.0, until - time.monotonic()))[0]:
        if not (byte := os.read(receiver, 1)):
            return None
        if byte[0] in NAMES:
            return byte[0]
    return 0


def leave(number: int, sentence: str) -> None:
    """End the process now: print why, and exit with the status that shells expect, 128 plus the number of the signal.

    Both threads may call this; the later one waits for the end.
    """
    if not _leaving.acquire(blocking=False):
        threading.Event().wait()
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K\x1b[?25h")               # remove the progress bar, and show the cursor that it hides
    print(escape_controls(f"stopped {NAMES[number]}: {sentence}"), file=sys.stderr, flush=True)
    os._exit(128 + number)                                  # a normal exit would wait for threads that are at work
