"""Ctrl-C and SIGTERM: a command ends within GRACE_S, with one sentence that says how to go on.

Python runs a signal's handler in the main thread, which may be waiting for work of several seconds in other threads. So the
handler only raises Stopped there, and a thread that the signal wakes ends the process where the main thread has not ended by
itself in time. Files are written under temporary names and renamed, so that whatever is there is whole.
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

GRACE_S = 1.5                                               # seconds from the signal to the end, at most
_leaving = threading.Lock()                                 # taken by the thread that ends the process
NAMES = {signal.SIGINT: "by Ctrl-C", signal.SIGTERM: "by SIGTERM"}


class Stopped(KeyboardInterrupt):
    """A signal that asks the program to end. number: the signal's."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@contextmanager
def stoppable(leave: Callable[[int], None]) -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise Stopped in the main thread; after GRACE_S, `leave(number)` is called in another thread
    where the main thread is still inside. `leave` must end the process. A second signal ends the process at once.

    A signal that is ignored, as nohup and a shell's `&` have it, stays so. Only the main thread can receive signals: in any
    other nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)                          # as signal.set_wakeup_fd wants it
    threading.Thread(target=_watch, args=(receiver, leave), daemon=True).start()
    handlers = {number: signal.signal(number, _raise) for number in NAMES if signal.getsignal(number) is not signal.SIG_IGN}
    before = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(sender)                                    # which ends the thread that watches
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _raise(number: int, _: object) -> None:
    raise Stopped(number)


def _watch(receiver: int, leave: Callable[[int], None]) -> None:
    """Wait for a signal, then for the end of the main thread's work, which closes the other end of the pipe."""
    number = _next(receiver, None)
    if number is not None:
        second = _next(receiver, time.monotonic() + GRACE_S)
        if second is not None:
            leave(number)
    os.close(receiver)


def _next(receiver: int, until: float | None) -> int | None:
    """The number of the next signal, which Python writes as a byte, or 0 where there is none by then; None once all is over."""
    while select.select([receiver], [], [], None if until is None else max(0.0, until - time.monotonic()))[0]:
        if not (byte := os.read(receiver, 1)):
            return None
        if byte[0] in NAMES:
            return byte[0]
    return 0


def leave(number: int, sentence: str) -> None:
    """End the process now: say why, and give the status that shells expect, 128 and the signal's number.

    The main thread and the one that watches it may both come here; the later one waits for the end.
    """
    if not _leaving.acquire(blocking=False):
        threading.Event().wait()
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K\x1b[?25h")               # the progress bar goes, and the cursor that it hides comes back
    print(escape_controls(f"stopped {NAMES[number]}: {sentence}"), file=sys.stderr, flush=True)
    os._exit(128 + number)                                  # threads that are at work would be waited for otherwise
