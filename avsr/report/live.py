"""What a live benchmark measured: errors and delays as a table, and errors against delay as a plot.

    LiveRows -> Table, Figure
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from avsr.benchmark.live import LiveRow
from avsr.html.plot import FAINT, MODALITY_COLOURS, PAPER, plot_style
from avsr.html.table import TEXT, Column, Row, Table
from avsr.metrics import word_errors
from avsr.names import MODALITY_NAMES
from avsr.text import normalise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = {
    "system": Column("system", TEXT), "modality": Column("modality", TEXT), "speaker": Column("speaker", TEXT),
    "agreement_s": Column("agreement, s", ".1f"), "words": Column("words"), "offline": Column("offline WER %"),
    "live": Column("live WER %"), "unaware": Column("delay without computing, s", ".2f"), "unaware_95": Column("95 %", ".2f"),
    "aware": Column("delay, s", ".2f"), "aware_95": Column("95 %", ".2f"), "behind": Column("behind at most, s", ".2f"),
    "busy": Column("share computed", ".2f")}


def live_table(rows: Sequence[LiveRow]) -> Table:
    """Errors and delays of each system, modality and agreement: of all speakers, and of each where there are several."""
    out: list[Row] = []
    for (system, modality, agreement_s), group in groupby(sorted(rows, key=_setting), key=_setting):
        of_setting = list(group)
        speakers = sorted({str(row.speaker) for row in of_setting})
        for speaker in (None, *(speakers if len(speakers) > 1 else ())):
            of_speaker = [row for row in of_setting if speaker is None or str(row.speaker) == speaker]
            out.append({"system": system, "modality": MODALITY_NAMES[modality].short, "agreement_s": agreement_s,
                        "speaker": speaker or "all", **asdict(summary(of_speaker))})
    note = ("A delay is the time at which a word was committed minus the time at which it was over: the median, and the 95th "
            "percentile; without computing, only the recording takes time.")
    return Table("live", "Live", COLUMNS, out, note)


def _setting(row: LiveRow) -> tuple[str, str, float]:
    return row.system, row.modality, row.agreement_s


@dataclass(frozen=True)
class LiveSummary:
    """The figures of some rows: words said, WER offline and live in %, median delay and its 95th percentile in seconds without
    and with the time of computing, by how many seconds recognition was behind at most, and the share of the time that it
    computed. None where there are no words."""

    words: int
    offline: float | None
    live: float | None
    unaware: float | None
    unaware_95: float | None
    aware: float | None
    aware_95: float | None
    behind: float
    busy: float


def summary(rows: Sequence[LiveRow]) -> LiveSummary:
    """The figures of some rows."""
    delays = np.array([delay for row in rows for delay in row.delays]).reshape(-1, 2)
    percentiles = np.percentile(delays, [50, 95], axis=0).T.flatten().tolist() if len(delays) else [None] * 4
    return LiveSummary(sum(len(normalise(row.reference).split()) for row in rows),
                       word_error_rate([(row.reference, row.offline) for row in rows]),
                       word_error_rate([(row.reference, row.hypothesis) for row in rows]), *percentiles,
                       behind=max(row.behind_s for row in rows), busy=max(row.busy for row in rows))


def word_error_rate(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Errors per 100 words of (reference, hypothesis); None without words."""
    scores = [word_errors(normalise(reference), normalise(hypothesis)) for reference, hypothesis in pairs]
    n_words = sum(one.words for one in scores)
    return 100 * sum(one.errors for one in scores) / n_words if n_words else None


def live_figure(rows: Sequence[LiveRow]) -> Figure:
    """Word error rate against the median delay, a curve for each system and modality; dashed: its offline error rate."""
    from matplotlib.figure import Figure

    with plot_style():
        figure = Figure(figsize=(4.6, 3.0), layout="constrained")
        axes = figure.add_subplot()
        systems = list(dict.fromkeys(row.system for row in rows))
        for (system, modality), group in groupby(sorted(rows, key=_setting), key=lambda row: (row.system, row.modality)):
            _draw_curve(axes, list(group), modality, system if len(systems) > 1 else "")
        axes.set_xlabel("median delay of a word, s (line: computing counts; hollow: it takes no time)")
        axes.set_ylabel("WER, %")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.legend()
        return figure


def _draw_curve(axes: Axes, rows: list[LiveRow], modality: str, system: str) -> None:
    found = [summary(list(group)) for _, group in groupby(rows, key=lambda row: row.agreement_s)]
    points = sorted((one.aware, one.unaware, one.live) for one in found if one.aware is not None)
    colour, label = MODALITY_COLOURS[modality], f"{system} {MODALITY_NAMES[modality].short}".strip()
    aware, unaware, wers = zip(*points, strict=True) if points else ((), (), ())
    axes.plot(aware, wers, color=colour, marker="o", label=label)
    axes.plot(unaware, wers, color=colour, marker="o", linestyle="none", markerfacecolor=PAPER)
    if (offline := found[0].offline) is not None:
        axes.axhline(offline, color=colour, linestyle=(0, (4, 2)), linewidth=0.9)
        axes.annotate("offline", (1, offline), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=FAINT,
                      fontsize=7)
