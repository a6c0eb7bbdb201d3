"""Sheets of panels: curves in, a figure out that is as wide as a paper's page (7 inches), with letters of 8 pt.

    panels of curves over SNR  ->  snr_sheet(panels) -> Sheet;  Sheet(n).axes -> n panels to draw on
Lines are told apart by colour, marker and dash, so that a grey print can be read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from avsr.html.plot import MODALITY_COLOURS, OTHER_COLOURS, PAPER, STYLE
from avsr.html.table import bounds
from avsr.report.result_table import ResultTable, snr_text
from avsr.report.runs import MODALITY_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.0                                                 # inches: a paper's two columns
NARROW = 3.3                                                # one column, or a telephone
TITLE, GUTTER, LEGEND = 0.3, 0.1, 0.17                      # inches above a panel, beside it, and of a line of the legend
EM, SMALLEST = 0.67, 6.0                                    # width of a bold letter in its size; points
MARKERS = {"a": "o", "v": "", "av": "s"}
OTHER_MARKERS = ("^", "D", "v", "P")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.6)), (0, (1.2, 1.2)), "-.")
LIPS_DASHES: tuple[Any, ...] = ((0, (6, 2)), (0, (1.2, 1.2)), "-.", "-")


@dataclass(frozen=True)
class LineStyle:
    """How the line of one system and modality is drawn."""

    label: str
    colour: str
    marker: str
    dash: Any = "-"
    hollow: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """For Axes.plot."""
        label = f" {self.label}" if self.label.startswith("_") else self.label       # matplotlib's legends leave out _names
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dash, "label": label,
                "markerfacecolor": PAPER if self.hollow else self.colour, "markeredgecolor": self.colour}


def line_style(results: ResultTable, system: str, modality: str) -> LineStyle:
    """The line of a system and modality, the same in every figure. The second system with video is dashed and hollow."""
    label = MODALITY_NAMES[modality] if len(results.systems) == 1 else f"{system}, {MODALITY_NAMES[modality]}"
    if system not in results.video_systems:
        i = (results.systems.index(system) - len(results.video_systems)) % len(OTHER_COLOURS)
        return LineStyle(label if len(results.systems) == 1 else system, OTHER_COLOURS[i], OTHER_MARKERS[i])
    number = results.video_systems.index(system)
    dashes = LIPS_DASHES if modality == "v" else DASHES
    return LineStyle(label, MODALITY_COLOURS[modality], MARKERS[modality], dashes[number % 4], number > 0)


class Curve(NamedTuple):
    """A line over SNR. points: (SNR, None for clean; Rate, Estimate or number), without those that are absent.

    level: the line is as high as its first point everywhere: noise does not change lips alone."""

    style: LineStyle
    points: Sequence[tuple[float | None, Any]]
    level: bool = False


class SnrPanel(NamedTuple):
    """A panel of curves. snrs: all levels that its axis shows."""

    title: str
    ylabel: str
    snrs: Sequence[float | None]
    curves: Sequence[Curve]


def snr_sheet(panels: Sequence[SnrPanel], *, columns: int = 3, height: float = 2.4) -> Sheet:
    """The panels, not yet finished: their scales upwards are still the caller's."""
    sheet = Sheet(len(panels), columns=columns, height=height)
    for axis, panel in zip(sheet.axes, panels, strict=True):
        levels = Levels(panel.snrs)
        for curve in panel.curves:
            levels.draw(axis, curve)
        levels.label(axis)
        axis.set(title=panel.title, ylabel=panel.ylabel)
    return sheet


class Levels:
    """Places of signal-to-noise ratios on an axis: dB as they are, and clean beyond the highest, past a gap."""

    def __init__(self, snrs: Sequence[float | None]):
        self.noisy = sorted({snr for snr in snrs if snr is not None})
        self.clean = None in snrs
        step = min((b - a for a, b in zip(self.noisy, self.noisy[1:], strict=False)), default=5.0)
        self.right = (self.noisy[-1] + 1.2 * step) if self.noisy else 0.0

    def label(self, axis: Axes) -> None:
        """Ticks and labels."""
        places = [*self.noisy, *([self.right] if self.clean else [])]
        axis.set_xticks(places, [*map(snr_text, self.noisy), *(["clean"] if self.clean else [])])
        axis.set_xlabel("signal-to-noise ratio, dB")
        pad = 0.04 * max(places[-1] - places[0], 1)
        axis.set_xlim(places[0] - pad, places[-1] + 1.6 * pad)

    def draw(self, axis: Axes, curve: Curve) -> None:
        """A curve and its intervals, dotted where it leaves the scale of dB for clean."""
        style = curve.style
        known = [(snr, *bounds(value)) for snr, value in curve.points if bounds(value)[0] is not None]
        if not known:
            return
        if curve.level:
            _, value, low, high = known[0]
            axis.axhline(value, **style.options | {"marker": ""}, zorder=2)
            if low is not None and high is not None:
                axis.axhspan(low, high, color=style.colour, alpha=0.1, linewidth=0, zorder=0)
            return
        self._intervals(axis, [(snr, low, high) for snr, _, low, high in known if low is not None], style.colour)
        noisy = sorted((snr, value) for snr, value, *_ in known if snr is not None)
        clean = [value for snr, value, *_ in known if snr is None]
        if noisy:
            axis.plot(*zip(*noisy, strict=True), zorder=3, **style.options)
        if clean:
            label = "_" if noisy else style.options["label"]
            axis.plot([self.right], clean, zorder=3, **style.options | {"label": label, "linestyle": ""})
        if noisy and clean:
            snr, value = noisy[-1]
            axis.plot([snr, self.right], [value, clean[0]], color=style.colour, linestyle=(0, (1, 1.6)), linewidth=1.1, zorder=2.5)

    def _intervals(self, axis: Axes, points: Sequence[tuple[float | None, Any, Any]], colour: str) -> None:
        noisy = sorted((snr, low, high) for snr, low, high in points if snr is not None)
        if len(noisy) > 1:
            axis.fill_between(*zip(*noisy, strict=True), color=colour, alpha=0.16, linewidth=0, zorder=1)
        bars = [(self.right, low, high) for snr, low, high in points if snr is None]
        for place, low, high in bars + (noisy if len(noisy) == 1 and self.clean else []):
            axis.plot([place, place], [low, high], color=colour, alpha=0.45, linewidth=2.6, zorder=1, solid_capstyle="butt")


class Sheet:
    """A figure of panels, placed by the inch: matplotlib's own layouts measure every text several times, at thrice the time.

    axes: n of them, in so many columns at most. height: inches of a panel with its title and labels; square: as high as wide.
    bottom: inches for the labels of the axis below.
    """

    left = 0.5                                              # inches for the labels of the axis beside

    def __init__(self, n: int, *, columns: int = 3, height: float = 2.4, square: bool = False, bottom: float = 0.43):
        from matplotlib.figure import Figure

        self.rows = math.ceil(n / min(columns, n))
        self.columns = math.ceil(n / self.rows)             # four in two rows of two, not of three and one
        self.width, self.bottom = NARROW if self.columns == 1 else WIDTH, bottom
        self.pitch = (self.width - GUTTER) / self.columns
        self.height = self.pitch - self.left + TITLE + bottom if square else height
        self.figure = Figure(figsize=(self.width, self.height * self.rows))
        grid = self.figure.subplots(self.rows, self.columns, squeeze=False).flatten().tolist()
        for spare in grid[n:]:
            spare.remove()
        self.axes: list[Axes] = grid[:n]
        self.root_scale = False

    def use_root_scale(self, ticks: Sequence[float]) -> None:
        """A scale of square roots upwards."""
        self.root_scale = True
        for axis in self.axes:
            axis.set_yscale("function", functions=(lambda value: np.sqrt(np.maximum(value, 0)), np.square))
            axis.set_yticks(ticks)

    def share_y(self, *, low: float | None = None, most: float = math.inf) -> None:
        """One scale upwards for all panels; what is above `most` is not shown."""
        least, high = (choose(bound for axis in self.axes for bound in axis.get_ylim()) for choose in (min, max))
        for axis in self.axes:
            axis.set_ylim(least if low is None else low, min(high, most))
        self.label_left()

    def label_left(self) -> None:
        """Keep the label of the scale upwards only in the first panel of each row."""
        for i, axis in enumerate(self.axes):
            if i % self.columns:
                axis.set_ylabel("")

    def finish(self) -> Sheet:
        """Everything in its place, with one legend for all panels above them, each label once."""
        self._fit_titles()
        self.head = 0.1 + self._draw_legend(self.figure, self.width)
        total = self.height * self.rows + self.head
        self.figure.set_size_inches(self.width, total)
        wide, high = self.pitch - self.left - GUTTER / 2, self.height - self.bottom - TITLE
        for i, axis in enumerate(self.axes):
            row, column = divmod(i, self.columns)
            x = GUTTER / 2 + column * self.pitch + self.left
            y = total - self.head - (row + 1) * self.height + self.bottom
            axis.set_position((x / self.width, y / total, wide / self.width, high / total))
            axis.xaxis.set_label_coords(0.5, (0.04 - self.bottom) / high, transform=axis.transAxes)
            axis.xaxis.label.set_verticalalignment("bottom")
            axis.yaxis.set_label_coords((0.04 - self.left) / wide, 0.5, transform=axis.transAxes)
            axis.yaxis.label.set_verticalalignment("top")
        return self

    def _draw_legend(self, figure: Figure, width: float) -> float:
        """Put the legend at the top of a figure. Returns its height in inches."""
        found: dict[str, Any] = {}
        for axis in self.axes:
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                found.setdefault(label, handle)
        if not found:
            return 0.0
        across = width * 19                                 # characters of this size that fit beside each other
        columns = max(1, min(len(found), int(across // (max(map(len, found)) + 9))))
        names = [name for i in range(columns) for name in list(found)[i::columns]]      # matplotlib fills column by column
        figure.legend([found[name] for name in names], names, loc="upper left", ncols=columns, borderaxespad=0.6, borderpad=0)
        return LEGEND * math.ceil(len(found) / columns)

    def legend(self) -> Figure:
        """The legend by itself, as wide as a telephone."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(NARROW, 1))
        figure.set_size_inches(NARROW, self._draw_legend(figure, NARROW) + 0.1)
        return figure

    def boxes(self) -> list[tuple[float, ...]]:
        """Left, top, width and height of each panel with its labels, in points, as SVG counts them."""
        places = [divmod(i, self.columns) for i in range(len(self.axes))]
        inches = [(GUTTER / 2 + column * self.pitch, self.head + row * self.height, self.pitch, self.height)
                  for row, column in places]
        return [tuple(round(72 * one, 2) for one in box) for box in inches]

    def _fit_titles(self) -> None:
        """Make long titles smaller; where that is not enough, the system's name is cut."""
        room = 72 * (self.pitch - self.left)
        for axis in self.axes:
            title = axis.get_title(loc="left")
            size = room / max(len(title), 1) / EM
            if size >= STYLE["axes.titlesize"]:
                continue
            if size < SMALLEST:
                system, mark, what = title.rpartition(": " if ": " in title else ", ")
                size, left = SMALLEST, int(room / SMALLEST / EM) - len(mark + what) - 1
                title = f"{system[:max(left, 1)]}…{mark}{what}"
            axis.set_title(title, fontsize=size)

