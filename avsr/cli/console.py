"""What the commands share: output, errors as one sentence, the progress bar."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from avsr.cli.stopping import Stopped, Stopping, leave, stoppable
from avsr.errors import AvsrError, BadOutput
from avsr.names import escape_controls
from avsr.runtime import is_first_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress, TaskID

    from avsr.runtime import Unit

SILENCE_S = 60.0                                            # seconds without a line in a log
OTHERS_WIDTH = 48                                           # columns of a bar but its name
# Whisper's users type underscores, so both spellings are accepted.
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True,
           "token_normalize_func": lambda name: name.replace("_", "-") if name.startswith("-") or "_" in name else name}


class Number(click.FloatRange):
    """A number within bounds on the command line. Click alone accepts `nan` within any bounds."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        return number if math.isfinite(number) else self.fail(f"{value} is not a finite number.", param, ctx)


def print_status(message: str, *, lines: bool = False) -> None:
    """Print a line on standard error, or several if `lines` keeps the line breaks. Control characters, which names of files may
    contain, are escaped."""
    print(escape_controls(message, lines=lines), file=sys.stderr, flush=True)


def print_result(text: str, *, lines: bool = False, end: str = "\n") -> None:
    """Print a line of results on standard output: on a terminal as `print_status` does, in a file or a pipe unchanged.
    end: what follows the text; nothing where the line goes on."""
    print(escape_controls(text, lines=lines) if sys.stdout.isatty() else text, end=end, flush=True)


class Commands(click.Group):
    """The group of commands. Arguments that an error repeats are escaped as by `print_status`."""

    def make_context(self, *args, **extra) -> click.Context:
        with _escaped_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _escaped_errors():
            return super().invoke(ctx)


@contextmanager
def _escaped_errors() -> Iterator[None]:
    try:
        yield
    except click.ClickException as error:
        vars(error)["message"] = escape_controls(error.message, lines=True)
        raise


@contextmanager
def report_errors(go_on: Callable[[], str] | str = "Give the same command again; it begins anew.") -> Iterator[Stopping]:
    """Print an error of the block as one sentence and exit with status 1. A closed pipe, as in `| head`, gives no message.
    Ctrl-C and SIGTERM end the program as stopping.py describes, and as the Stopping that is given may change.

    go_on: what is left after a stop and what the user should do next, in one or two sentences; or a function that returns it.
    """
    def end(number: int) -> None:
        leave(number, go_on if isinstance(go_on, str) else go_on())

    replace_unencodable_letters()
    # If the home folder cannot be written, matplotlib keeps its fonts in a temporary folder and warns in two long lines.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        with stoppable(end) as stopping:
            yield stopping
    except Stopped as signalled:
        end(signalled.number)
    except AvsrError as error:
        print_status(f"error: {error}")
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())   # or Python complains again when it exits
        sys.exit(1)


def replace_unencodable_letters() -> None:
    """Write a question mark for a letter that the encoding of standard output or standard error lacks, instead of failing with
    UnicodeEncodeError. Another way that the user has chosen by PYTHONIOENCODING is kept."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def check_writable(folder: Path) -> None:
    """Check that a folder can be written to, before an hour of work. Raises BadOutput."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".avsr-{os.getpid()}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadOutput(f"{folder}: cannot be written to ({error.strerror}).  Choose another with --output-dir.") from error


def limit_openmp_spinning() -> None:
    """Let torch's OpenMP threads sleep after 1000 rounds (20 to 50 microseconds) of waiting for work; call it before torch is
    imported.

    Variables that the user has set are kept. By default the threads spin for 300,000 rounds, which took 4 of 11 seconds of
    processor time for a clip of 6 s with OMP_NUM_THREADS=1 on two busy cores.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


class ProgressBar:
    """Progress on standard error: one bar for the present stage, if standard error is a terminal.

    lines: if it is not a terminal but perhaps the log of a long job, whether to print a line about the progress after each
    minute without one. `quiet` turns both off.
    """

    def __init__(self, quiet: bool, *, lines: bool = False):
        self.rich: Progress | None = None
        self.task: TaskID | None = None
        self.quiet, self.stage, self.noted = quiet, "", ""
        talks = not quiet and is_first_process()
        self.shown = talks and sys.stderr.isatty()
        self.lines, self.last_said = talks and lines and not self.shown, time.monotonic()

    def __enter__(self) -> ProgressBar:
        if self.shown:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.table import Column
            from rich.text import Text

            class Bars(Progress):
                """The bar, and below it the note."""

                note = ""

                def get_renderables(self):
                    yield from super().get_renderables()
                    if self.note:
                        yield Text(self.note, no_wrap=True, overflow="ellipsis")

            console = Console(stderr=True)
            bar = 20 if console.width >= 100 else 10
            name = Column(max_width=max(10, console.width - bar - OTHERS_WIDTH), no_wrap=True, overflow="ellipsis")
            self.rich = Bars(
                TextColumn("{task.description}", markup=False, table_column=name), BarColumn(bar_width=bar),
                TextColumn("{task.fields[amount]}", markup=False), TimeElapsedColumn(), TimeRemainingColumn(),
                console=console, transient=True, redirect_stdout=sys.stdout.isatty(), redirect_stderr=True)
            self.rich.start()
        return self

    def __exit__(self, *_) -> None:
        if self.rich is not None:
            self.rich.stop()

    def begin(self, path: str, *, heading: bool) -> None:
        """Begin the next file."""
        self.stage = ""
        if heading and not self.quiet:
            print_status(f"{path}:")

    def print_line(self, line: str) -> None:
        """Print a line on standard error, unless quiet."""
        if not self.quiet:
            self.last_said = time.monotonic()
            print_status(line)

    def note(self, line: str) -> None:
        """Show a line below the bar, in place of the one before; in a log it follows the amount."""
        self.noted = escape_controls(line)
        if self.rich is not None:
            vars(self.rich)["note"] = self.noted

    def warn(self, problems: Sequence[str]) -> None:
        """Print problems that did not stop the work."""
        for problem in problems:
            self.print_line(f"warning: {problem}")

    def __call__(self, stage: str, done: float, total: float | None, unit: Unit | None) -> None:
        """See runtime.Progress."""
        if self.rich is None and not self.lines:
            return
        stage = escape_controls(stage)
        if fresh := stage != self.stage:
            self.stage, self.began = stage, (time.monotonic(), done)
        rate = (done - self.began[1]) / max(time.monotonic() - self.began[0], 1e-3)
        amount = "" if unit is None else amount_text(done, total, unit, rate)
        if self.rich is not None:
            self._draw(self.rich, done, total, amount, fresh=fresh)
        elif amount and time.monotonic() - self.last_said >= SILENCE_S:
            self.print_line(f"{stage}: {amount}{self.noted and '; '}{self.noted}")

    def _draw(self, rich: Progress, done: float, total: float | None, amount: str, *, fresh: bool) -> None:
        if fresh or self.task is None:
            if self.task is not None:
                rich.remove_task(self.task)
            self.task = rich.add_task(self.stage, total=total, amount=amount)
        # The bar is drawn ten times a second, and also at the beginning and the end of a stage, or short ones would not be
        # seen.
        rich.update(self.task, completed=done, total=total, amount=amount, refresh=fresh or done == total)


SIZES = ((1e9, "GB", 2), (1e6, "MB", 1), (1e3, "kB", 0), (1, "bytes", 0))       # at least so many bytes: unit, decimals


def amount_text(done: float, total: float | None, unit: Unit, rate: float) -> str:
    """How much is done, as a bar shows it: `63 of 310 s`, `12 of 75 utterances, 3.1/s`, `1.2 of 75.5 MB, 4.0 MB/s`.

    rate: units per second. It is not shown while it is 0, nor for seconds of a recording, which the remaining time tells.
    """
    most = done if total is None else total
    size, name, decimals = _scale(most) if unit == "bytes" else (1, unit, 0)
    numbers = [f"{number / size:.{decimals}f}" for number in (done, total) if number is not None]
    text = f"{' of '.join(numbers)} {name.removesuffix('s') if numbers[-1] == '1' and name != 's' else name}"
    if unit == "bytes":
        size, name, decimals = _scale(rate)
        speed, per = f"{rate / size:.{decimals}f}", f" {name}/s"
    else:
        speed, per = f"{rate:.{0 if rate >= 10 else 1}f}", "/s"
    return text if unit == "s" or float(speed) <= 0 else f"{text}, {speed}{per}"


def _scale(n_bytes: float) -> tuple[float, str, int]:
    """The unit in which a number of bytes is shown: its size, its name, and the decimals."""
    return next((one for one in SIZES if n_bytes >= one[0]), SIZES[-1])
