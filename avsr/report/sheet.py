"""Sheets of panels: curves in, a figure out that is as wide as a paper's page (7 inches), with letters of 8 pt.

Lines differ in colour, marker and dash, so that a grey print can be read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from avsr.html.plot import MODALITY_COLOURS, OTHER_COLOURS, PAPER, file_bytes
from avsr.html.table import bounds
from avsr.names import MODALITY_NAMES
from avsr.report.result_table import ResultTable, snr_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, NARROW = 7.0, 3.3                                    # inches: a paper's two columns, and one column or a telephone
LEFT, TITLE, GUTTER, LEGEND = 0.5, 0.3, 0.1, 0.17           # inches beside, above and between panels; of a line of the legend
EM, TITLE_SIZE, SMALLEST = 0.67, 8.5, 6.0                   # width of a bold letter in its size; points
DASHES = ("-", (0, (4, 1.6)), (0, (1.2, 1.2)), "-.")
VIDEO_DASHES = ((0, (6, 2)), (0, (1.2, 1.2)), "-.", "-")
Style = dict[str, Any]                                      # of a line, for Axes.plot


def line_style(label: str, colour: str, marker: str, dash: Any = "-", hollow: bool = False) -> Style:
    """How a line is drawn. Matplotlib's legends leave out labels that begin with an underscore."""
    return {"color": colour, "marker": marker, "linestyle": dash, "label": f" {label}" if label.startswith("_") else label,
            "markerfacecolor": PAPER if hollow else colour, "markeredgecolor": colour}


def system_style(results: ResultTable, system: str, modality: str) -> Style:
    """The line of a system and modality, the same in every figure. The second system with video is dashed and hollow."""
    label = MODALITY_NAMES[modality].short if len(results.systems) == 1 else f"{system}, {MODALITY_NAMES[modality].short}"
    if system not in results.video_systems:
        i = (results.systems.index(system) - len(results.video_systems)) % len(OTHER_COLOURS)
        return line_style(label if len(results.systems) == 1 else system, OTHER_COLOURS[i], "^DvP"[i])
    number, dashes = results.video_systems.index(system), VIDEO_DASHES if modality == "v" else DASHES
    marker = {"a": "o", "v": "", "av": "s"}[modality]
    return line_style(label, MODALITY_COLOURS[modality], marker, dashes[number % 4], number > 0)


class Curve(NamedTuple):
    """A line over SNR. points: (SNR, None for clean; Rate, Estimate or number).  level: the line is as high as its first point
    everywhere, as noise does not change video alone."""

    style: Style
    points: Sequence[tuple[float | None, Any]]
    level: bool = False


class SnrPanel(NamedTuple):
    """A panel of curves. snrs: all levels that its axis shows: dB as they are, and clean beyond the highest, past a gap."""

    title: str
    ylabel: str
    snrs: Sequence[float | None]
    curves: Sequence[Curve]

    def draw(self, axis: Axes) -> None:
        """Draw the curves, and label the axis."""
        noisy = sorted(snr for snr in self.snrs if snr is not None)
        step = min(np.diff(noisy), default=5.0)
        places = {snr: snr for snr in noisy} | ({None: noisy[-1] + 1.2 * step if noisy else 0.0} if None in self.snrs else {})
        for curve in self.curves:
            if points := [(snr, places[snr], *bounds(value)) for snr, value in curve.points if bounds(value)[0] is not None]:
                (_draw_level if curve.level else _draw_curve)(axis, curve.style, points)
        axis.set_xticks(list(places.values()), [snr_text(snr) for snr in places])
        first, last = min(places.values()), max(places.values())
        pad = 0.04 * max(last - first, 1)
        axis.set(title=self.title, ylabel=self.ylabel, xlabel="signal-to-noise ratio, dB", xlim=(first - pad, last + 1.6 * pad))


def _draw_level(axis: Axes, style: Style, points: Sequence[tuple]) -> None:
    _, _, value, low, high = points[0]
    options: Style = style | {"marker": ""}
    axis.axhline(value, **options, zorder=2)
    if low is not None:
        axis.axhspan(low, high, color=style["color"], alpha=0.1, linewidth=0, zorder=0)


def _draw_curve(axis: Axes, style: Style, points: Sequence[tuple]) -> None:
    """A curve and its intervals, dotted where it leaves the scale of dB for clean."""
    noisy, clean = sorted(one[1:] for one in points if one[0] is not None), [one[1:] for one in points if one[0] is None]
    spans = [(place, low, high) for place, _, low, high in noisy if low is not None]
    if len(spans) > 1:
        places, lows, highs = np.array(spans).T
        axis.fill_between(places, lows, highs, color=style["color"], alpha=0.16, linewidth=0, zorder=1)
    for place, _, low, high in [one for one in clean + (noisy if len(spans) == 1 and clean else []) if one[2] is not None]:
        axis.plot([place, place], [low, high], color=style["color"], alpha=0.45, linewidth=2.6, zorder=1, solid_capstyle="butt")
    if noisy:
        axis.plot([one[0] for one in noisy], [one[1] for one in noisy], zorder=3, **style)
    for place, value, *_ in clean:
        alone: Style = style | {"linestyle": ""} | ({"label": "_"} if noisy else {})
        axis.plot([place], [value], zorder=3, **alone)
        if noisy:
            axis.plot([noisy[-1][0], place], [noisy[-1][1], value], color=style["color"], linestyle=(0, (1, 1.6)),
                      linewidth=1.1, zorder=2.5)


def snr_sheet(panels: Sequence[SnrPanel], *, columns: int = 3, height: float = 2.4) -> Sheet:
    """The panels, not yet finished: their scales upwards are still the caller's."""
    sheet = Sheet(len(panels), columns=columns, height=height)
    for axis, panel in zip(sheet.axes, panels, strict=True):
        panel.draw(axis)
    return sheet


class Sheet:
    """A figure of panels, placed by the inch: matplotlib's own layouts measure every text several times, at thrice the time.
    axes: n of them, in so many columns at most. height: inches of a panel with its title and labels; square: as high as wide.
    bottom: inches for the labels of the axis below."""

    def __init__(self, n: int, *, columns: int = 3, height: float = 2.4, square: bool = False, bottom: float = 0.43):
        from matplotlib.figure import Figure

        self.rows = math.ceil(n / min(columns, n))
        self.columns = math.ceil(n / self.rows)             # four in two rows of two, not of three and one
        self.width, self.bottom = NARROW if self.columns == 1 else WIDTH, bottom
        self.pitch = (self.width - GUTTER) / self.columns
        self.height = self.pitch - LEFT + TITLE + bottom if square else height
        self.figure = Figure(figsize=(self.width, self.height * self.rows))
        grid = self.figure.subplots(self.rows, self.columns, squeeze=False).flatten().tolist()
        for spare in grid[n:]:
            spare.remove()
        self.axes: list[Axes] = grid[:n]
        self.root_scale = False

    def share_y(self, *, low: float | None = None, most: float = math.inf) -> None:
        """Give all panels one vertical scale; what is above `most` is not shown."""
        limits = [axis.get_ylim() for axis in self.axes]
        for axis in self.axes:
            axis.set_ylim(min(one[0] for one in limits) if low is None else low, min(max(one[1] for one in limits), most))
        self.label_left()

    def label_left(self) -> None:
        """Keep the label of the vertical scale only in the first panel of each row."""
        for i, axis in enumerate(self.axes):
            if i % self.columns:
                axis.set_ylabel("")

    def finish(self) -> Sheet:
        """Put everything in its place, with one legend for all panels above them, each label once."""
        self.head = 0.1 + self._draw_legend(self.figure, self.width)
        total = self.height * self.rows + self.head
        wide, high = self.pitch - LEFT - GUTTER / 2, self.height - self.bottom - TITLE
        self.figure.set_size_inches(self.width, total)
        for axis, (left, top, *_) in zip(self.axes, self.boxes(), strict=True):
            y = total - top / 72 - self.height + self.bottom
            axis.set_position(((left / 72 + LEFT) / self.width, y / total, wide / self.width, high / total))
            axis.xaxis.set_label_coords(0.5, (0.04 - self.bottom) / high, transform=axis.transAxes)
            axis.xaxis.label.set_verticalalignment("bottom")
            axis.yaxis.set_label_coords((0.04 - LEFT) / wide, 0.5, transform=axis.transAxes)
            axis.yaxis.label.set_verticalalignment("top")
            self._fit_title(axis)
        return self

    def _draw_legend(self, figure: Figure, width: float) -> float:
        """Put the legend at the top of a figure. Returns its height in inches."""
        pairs = [pair for axis in self.axes for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
        found = {label: handle for handle, label in reversed(pairs)}
        names = list(dict.fromkeys(label for _, label in pairs))
        if not names:
            return 0.0
        across = width * 19                                 # characters of this size that fit beside each other
        columns = max(1, min(len(names), int(across // (max(map(len, names)) + 9))))
        by_column = [name for i in range(columns) for name in names[i::columns]]        # matplotlib fills column by column
        figure.legend([found[name] for name in by_column], by_column, loc="upper left", ncols=columns, borderaxespad=0.6,
                      borderpad=0)
        return LEGEND * math.ceil(len(names) / columns)

    @cached_property
    def svg(self) -> bytes:
        """The figure as a file, drawn once for the file and the page, as drawing is what takes the time."""
        return file_bytes(self.figure, "svg")

    def legend(self) -> Figure:
        """The legend by itself, as wide as a telephone."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(NARROW, 1))
        figure.set_size_inches(NARROW, self._draw_legend(figure, NARROW) + 0.1)
        return figure

    def boxes(self) -> list[tuple[float, float, float, float]]:
        """Left, top, width and height of each panel with its labels, in points, as SVG counts them."""
        places = [divmod(i, self.columns) for i in range(len(self.axes))]
        wide, high = 72 * self.pitch, 72 * self.height
        return [(36 * GUTTER + column * wide, 72 * self.head + row * high, wide, high) for row, column in places]

    def _fit_title(self, axis: Axes) -> None:
        """Make a long title smaller; where that is not enough, the system's name is cut."""
        title, room = axis.get_title(loc="left"), 72 * (self.pitch - LEFT) / EM
        size = min(TITLE_SIZE, room / max(len(title), 1))
        if size < SMALLEST:
            system, mark, what = title.rpartition(": " if ": " in title else ", ")
            size, left = SMALLEST, int(room / SMALLEST) - len(mark + what) - 1
            title = f"{system[:max(left, 1)]}…{mark}{what}"
        axis.set_title(title, fontsize=size)
