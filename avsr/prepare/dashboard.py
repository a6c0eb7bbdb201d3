"""The line that tells how a run over a corpus gets on: utterances, hours, hours per hour, what was dropped and why.

    Dashboard.add for each result -> Dashboard.line():
    63 of 310 utterances, 0.05 hours, 1.6 hours per hour; dropped: 2 no face
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from avsr import remote
from avsr.errors import counted

Tell = Callable[[str], None]
"""A callback that shows the line, in place of the one before."""

REASONS = 4                           # most frequent ones that are named


def tell_nobody(line: str) -> None:
    """A callback that does nothing."""


class Dashboard:
    """Counts of one run. n_total: utterances in all, or None where that is unknown; n_before: those of earlier runs, which
    count as utterances but have no hours, because no time was spent on them."""

    def __init__(self, n_total: int | None, n_before: int = 0):
        self.n_total, self.n, self.seconds, self.reasons = n_total, n_before, 0.0, Counter[str]()
        self.began, self.retries = time.monotonic(), remote.n_retries()

    def add(self, n: int = 0, seconds: float = 0.0, dropped: str | None = None) -> None:
        """Count utterances, seconds of recordings, and the reason why one was dropped; what follows a colon is left out."""
        self.n, self.seconds = self.n + n, self.seconds + seconds
        if dropped is not None:
            self.reasons[dropped.partition(":")[0]] += 1

    def line(self) -> str:
        """The line as it stands."""
        hours, spent = self.seconds / 3600, max(time.monotonic() - self.began, 1e-3) / 3600
        of = "" if self.n_total is None else f" of {self.n_total}"
        parts = [f"{self.n}{of} utterances, {_hours(hours)} hours, {_hours(hours / spent)} hours per hour"]
        if self.reasons:
            most = [f"{count} {reason}" for reason, count in self.reasons.most_common(REASONS)]
            most += [f"{self.reasons.total() - sum(n for _, n in self.reasons.most_common(REASONS))} others"] \
                * (len(self.reasons) > REASONS)
            parts.append(f"dropped: {', '.join(most)}")
        if n_retries := remote.n_retries() - self.retries:
            parts.append(f"storage: {counted(n_retries, 'request')} tried again")
        return "; ".join(parts)


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2f}"
