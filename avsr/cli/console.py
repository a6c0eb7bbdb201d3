"""What the commands share: what is said on standard error, errors as one sentence, the progress bar."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from avsr.errors import AvsrError, BadOutput

if TYPE_CHECKING:
    from collections.abc import Iterator

# Whisper's users type underscores: both spellings are understood.
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True,
           "token_normalize_func": lambda name: name.replace("_", "-") if name.startswith("-") or "_" in name else name}


def say(message: str) -> None:
    """One line on standard error."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def told() -> Iterator[None]:
    """Errors as one sentence and status 1; a reader that went away, as in `| head`, is no error."""
    try:
        yield
    except AvsrError as error:
        say(f"error: {error}")
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())   # else Python complains once more on leaving
        sys.exit(1)


def check_writable(folder: Path) -> None:
    """Before an hour of work, not after it. Raises BadOutput."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".avsr-{os.getpid()}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadOutput(f"{folder}: cannot be written to ({error.strerror}).  Choose another with --output-dir.") from error


def let_waiting_threads_sleep() -> None:
    """OpenMP's threads, of torch, sleep while they wait for work, after 1000 looks at it (20 to 50 microseconds).

    Must be called before torch is imported; what the user has set stays. By default they look 300,000 times, which took 4 of 11
    seconds of processor time of a clip of 6 s where OMP_NUM_THREADS was 1 and the two cores had other work as well.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """What is imported and loaded inside is kept until the program ends, so Python's search for garbage never looks at it.

    Of `import torch` that search takes 0.3 s of processor time, and 0.5 s more when the program ends.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class Bars:
    """Progress on standard error: one bar that shows the stage at hand. Silent where nobody watches."""

    def __init__(self, quiet: bool):
        self.quiet, self.rich, self.task, self.stage = quiet, None, None, ""
        self.shown = not quiet and sys.stderr.isatty()

    def __enter__(self) -> Bars:
        if self.shown:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self.rich = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"), TimeElapsedColumn(),
                TimeRemainingColumn(), console=Console(stderr=True), transient=True,
                redirect_stdout=sys.stdout.isatty(), redirect_stderr=True)
            self.rich.start()
        return self

    def __exit__(self, *_) -> None:
        if self.rich is not None:
            self.rich.stop()

    def begin(self, path: str, *, heading: bool) -> None:
        """The next file."""
        self.stage, self.name = "", Path(path).name
        if heading and not self.quiet:
            say(f"{path}:")

    def warn(self, problems: Sequence[str]) -> None:
        """What the user should know though the work was done."""
        if not self.quiet:
            for problem in problems:
                say(f"warning: {problem}")

    def __call__(self, stage: str, done: float, total: float | None) -> None:
        """See runtime.Progress."""
        if self.rich is None:
            return
        if stage != self.stage:
            if self.task is not None:
                self.rich.remove_task(self.task)
            self.stage, self.began = stage, (time.monotonic(), done)
            name = self.name if stage == "transcribe" else stage
            self.task = self.rich.add_task(name, total=total, completed=done, amount="")
        rate = (done - self.began[1]) / max(time.monotonic() - self.began[0], 1e-3)
        self.rich.update(self.task, completed=done, total=total, amount=_amount(stage, done, total, rate))


def _amount(stage: str, done: float, total: float | None, rate: float) -> str:
    """Seconds of the recording, clips with their rate, or megabytes of a download."""
    if stage == "prepare":
        return f"{done:.0f} of {total:.0f} clips, {rate:.1f}/s"
    if stage == "transcribe":
        return f"{done:.0f} s" if total is None else f"{done:.0f} of {total:.0f} s"
    return f"{done / 1e6:.0f} MB" if total is None else f"{done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else ""
