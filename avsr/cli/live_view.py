"""How live text is shown: lines of committed words, below them on a terminal what may still change, and a status line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from avsr.cli.console import print_result, print_status
from avsr.names import escape_controls

if TYPE_CHECKING:
    from rich.live import Live

    from avsr.live.recogniser import LiveUpdate
    from avsr.live.sources import LiveSource
    from avsr.transcript import Word

PAUSE_S = 1.0                         # a line ends at such a pause, at the end of a sentence, and where another speaks
LONG_LINE = 100                       # letters after which it ends at the next word
SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？", "؟", "।")


class LiveView:
    """Prints committed words on standard output as soon as they are, a line for each sentence. Use it in `with`.

    On a terminal the current line is shown at once, with the pending words dim after it and a status line below; where only
    standard error is a terminal, it shows the status line. quiet: no status line and no warnings.
    """

    def __init__(self, quiet: bool):
        self.quiet = quiet
        self._line = ""
        self._last: Word | None = None
        self._live: Live | None = None
        self._here = sys.stdout.isatty()

    def __enter__(self) -> LiveView:
        if self._here or (sys.stderr.isatty() and not self.quiet):
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=not self._here), transient=True, auto_refresh=False,
                              redirect_stdout=self._here, redirect_stderr=sys.stderr.isatty(), vertical_overflow="visible")
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live is not None:
            self._live.update("")
            self._live.stop()
            self._live = None
        self.end_line()

    def say(self, sentence: str) -> None:
        """Print a sentence on standard error, unless quiet."""
        if not self.quiet:
            print_status(sentence)

    def warn(self, problems: Sequence[str]) -> None:
        """Print problems that did not stop it."""
        for problem in problems:
            self.say(f"warning: {problem}")

    def show(self, update: LiveUpdate, behind_s: float, *, watched: bool, source: LiveSource) -> None:
        """Show an update. watched: whether lips are read. source: where it comes from, for its problems."""
        self.warn(source.problems())
        for word in update.committed:
            self._add(word)
        if self._last is not None and not update.pending and update.end_s - self._last.end > PAUSE_S:
            self.end_line()
        if self._live is not None:
            self._live.update(self._picture(update, _status(update, behind_s, watched)), refresh=True)

    def _add(self, word: Word) -> None:
        from avsr.transcript import label

        if self._last is not None and (word.speakers != self._last.speakers or word.start - self._last.end > PAUSE_S):
            self.end_line()
        added = word.text if self._line else label(word.speakers) + word.text.lstrip()
        if not self._here:                                   # a terminal shows the line in one piece, see _picture
            print_result(added, end="")
        self._line, self._last = self._line + added, word
        if word.text.rstrip().endswith(SENTENCE_ENDS) or len(self._line) > LONG_LINE:
            self.end_line()

    def end_line(self) -> None:
        """The line is complete: another begins with the next word."""
        if self._line:
            print_result(self._line.strip() if self._here else "")
        self._line, self._last = "", None

    def _picture(self, update: LiveUpdate, status: str):
        from rich.text import Text

        pending = "".join(word.text for word in update.pending)
        text = Text()
        if self._here and (self._line or pending):
            text.append(escape_controls(self._line))
            text.append(escape_controls(pending if self._line else pending.lstrip()), style="dim")
            text.append("\n")
        return text if self.quiet else text.append(status, style="dim italic")


def _status(update: LiveUpdate, behind_s: float, watched: bool) -> str:
    """How far recognition is behind, and what it makes of the lips: `0.4 s behind, lips seen, believed 83 %`."""
    parts = [f"{max(0.0, behind_s):.1f} s behind"]
    if watched:
        parts.append("no lips in sight" if update.mouth is None else "lips seen")
        if update.believed is not None:
            parts.append(f"believed {100 * update.believed:.0f} %")
    return ", ".join(parts)
