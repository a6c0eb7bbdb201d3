"""How figures look: panels, colours, the axis of noise; and how they are written: files for papers, SVG for the page.

Drawn to the width of a paper's page (7 inches), 8 pt. Colours are told apart by people who do not see all of them, and lines
by marker and dash as well, so that a grey print can be read. On the page they follow a light or dark screen: see THEME.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
WIDTH = 7.0                                                # inches: a paper's two columns
NARROW = 3.3                                               # one column, or a telephone
TITLE, GUTTER, LEGEND = 0.3, 0.1, 0.17                     # inches above a panel, beside it, and of a line of the legend
EM, SMALLEST = 0.67, 6.0                                   # width of a bold letter in its size; points
INK, FAINT, RULE, PAPER, WHITE = "#1b1b1c", "#66676b", "#dcdde0", "#fefefe", "#ffffff"
# Lightness in CIELAB: 57, 65, 35: apart in grey too.
MODALITY_COLOURS = {"a": "#3a87c8", "v": "#e08a1e", "av": "#00604f"}
OTHERS = ("#8a3f8f", "#7a7b80", "#a5522d", "#b8487a")      # systems that only hear
THEME = {INK: "ink", FAINT: "faint", RULE: "rule", PAPER: "paper", WHITE: "paper",
         **{MODALITY_COLOURS[modality]: name for modality, name in (("a", "sound"), ("v", "lips"), ("av", "both"))},
         **{colour: f"other{i}" for i, colour in enumerate(OTHERS)}}
MODALITY_MARKERS = {"a": "o", "v": "", "av": "s"}
OTHER_MARKERS = ("^", "D", "v", "P")
STYLE = {
    "font.family": "sans-serif", "font.size": 8, "axes.titlesize": 8.5, "axes.titleweight": "bold", "axes.labelsize": 8,
    "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "legend.fontsize": 7.5, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": FAINT, "xtick.color": FAINT, "ytick.color": FAINT, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "axes.titlecolor": INK, "axes.linewidth": 0.7, "xtick.major.width": 0.7, "ytick.major.width": 0.7, "xtick.major.size": 3,
    "ytick.major.size": 3, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y",
    "grid.color": RULE, "grid.linewidth": 0.6, "axes.axisbelow": True, "lines.linewidth": 1.5, "lines.markersize": 4.2,
    "legend.frameon": False, "legend.handlelength": 2.4, "legend.columnspacing": 1.6, "axes.titlelocation": "left",
    "axes.titley": 1.0,                                     # else its place is looked for anew in each drawing
    "text.parse_math": False,                              # else a $ in a name begins a formula
    "figure.facecolor": WHITE, "axes.facecolor": "none", "pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "avsr",
}


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn. name: of its files.  caption: what it shows."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Sheet]


@dataclass(frozen=True)
class Look:
    """How the line of one system and modality is drawn."""

    label: str
    colour: str
    marker: str
    dash: str
    hollow: bool = False

    @property
    def line(self) -> dict:
        """For Axes.plot."""
        label = f" {self.label}" if self.label.startswith("_") else self.label       # matplotlib's legends leave out _names
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dash, "label": label,
                "markerfacecolor": PAPER if self.hollow else self.colour, "markeredgecolor": self.colour}


@contextmanager
def drawn() -> Iterator[None]:
    """Figures are drawn and written in this style, whatever the user's matplotlibrc says."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


class Sheet:
    """A figure of panels, placed by the inch: matplotlib's own layouts measure every text several times, at thrice the time.

    axes: n of them, in so many columns at most. height: inches of a panel with its title and labels; square: as high as wide.
    left, bottom: inches for the labels of an axis.
    """

    def __init__(self, n: int, *, columns: int = 3, height: float = 2.4, square: bool = False, left: float = 0.5,
                 bottom: float = 0.43):
        from matplotlib.figure import Figure

        self.rows = math.ceil(n / min(columns, n))
        self.columns = math.ceil(n / self.rows)             # four in two rows of two, not of three and one
        self.width = NARROW if self.columns == 1 else WIDTH
        self.left, self.bottom = left, bottom
        pitch = (self.width - GUTTER) / self.columns
        self.height = pitch - left + TITLE + bottom if square else height
        self.figure = Figure(figsize=(self.width, self.height * self.rows))
        grid = self.figure.subplots(self.rows, self.columns, squeeze=False).flatten().tolist()
        for spare in grid[n:]:
            spare.remove()
        self.axes: list[Axes] = grid[:n]

    def first_in_row(self, axis: Axes) -> bool:
        """Whether nothing is left of it."""
        return self.axes.index(axis) % self.columns == 0

    def shared(self, *, least: float | None = 0.0, most: float = math.inf) -> None:
        """One scale upwards for all, said once a row; what is above `most` is not shown."""
        low, high = (choose(bound for axis in self.axes for bound in axis.get_ylim()) for choose in (min, max))
        for axis in self.axes:
            axis.set_ylim(low if least is None else least, min(high, most))
        self.label_left()

    def rooted(self, ticks: Sequence[float]) -> None:
        """A scale of square roots upwards."""
        for axis in self.axes:
            axis.set_yscale("function", functions=(lambda value: np.sqrt(np.maximum(value, 0)), np.square))
            axis.set_yticks(ticks)

    def label_left(self) -> None:
        """What is upwards is said by the first panel of each row."""
        for axis in self.axes:
            if not self.first_in_row(axis):
                axis.set_ylabel("")

    def finish(self) -> Sheet:
        """Everything in its place, with one legend for all panels above them, each label once."""
        self._fit_titles()
        self.head = 0.1 + self._legend(self.figure, self.width)
        self._place(self.head)
        return self

    def _legend(self, figure: Figure, width: float) -> float:
        """Put it at the top of a figure. Returns its height in inches."""
        found = {}
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

    def legend(self) -> Figure | None:
        """The legend by itself, as wide as a telephone."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(NARROW, 1))
        height = self._legend(figure, NARROW)
        figure.set_size_inches(NARROW, height + 0.1)
        return figure if height else None

    def boxes(self) -> list[tuple[float, float, float, float]]:
        """Where each panel with its labels is: left, top, width, height in points, as SVG counts them."""
        pitch = (self.width - GUTTER) / self.columns
        places = [divmod(i, self.columns) for i in range(len(self.axes))]
        return [tuple(round(72 * inches, 2) for inches in (GUTTER / 2 + column * pitch, self.head + row * self.height, pitch,
                                                           self.height)) for row, column in places]

    def _fit_titles(self) -> None:
        """Smaller where they are long; where that is not enough, the system's name is cut and what it does stays."""
        room = 72 * ((self.width - GUTTER) / self.columns - self.left)
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

    def _place(self, head: float) -> None:
        total = self.height * self.rows + head
        self.figure.set_size_inches(self.width, total)
        pitch = (self.width - GUTTER) / self.columns
        for i, axis in enumerate(self.axes):
            row, column = divmod(i, self.columns)
            x, y = GUTTER / 2 + column * pitch + self.left, total - head - (row + 1) * self.height + self.bottom
            wide, high = pitch - self.left - GUTTER / 2, self.height - self.bottom - TITLE
            axis.set_position((x / self.width, y / total, wide / self.width, high / total))
            axis.xaxis.set_label_coords(0.5, (0.04 - self.bottom) / high, transform=axis.transAxes)
            axis.xaxis.label.set_verticalalignment("bottom")
            axis.yaxis.set_label_coords((0.04 - self.left) / wide, 0.5, transform=axis.transAxes)
            axis.yaxis.label.set_verticalalignment("top")


class Levels:
    """Where signal-to-noise ratios lie: dB as they are, and clean beyond the highest, past a gap."""

    def __init__(self, snrs: Sequence[float | None]):
        self.noisy = sorted({snr for snr in snrs if snr is not None})
        self.clean = None in snrs
        step = min((b - a for a, b in zip(self.noisy, self.noisy[1:], strict=False)), default=5.0)
        self.right = (self.noisy[-1] + 1.2 * step) if self.noisy else 0.0

    def at(self, snr_db: float | None) -> float:
        """Its place."""
        return self.right if snr_db is None else snr_db

    def axis(self, axis: Axes) -> None:
        """Ticks, labels, and a mark where dB end and clean begins."""
        places = [*self.noisy, *([self.right] if self.clean else [])]
        names = [f"{snr:g}".replace("-", "−") for snr in self.noisy] + (["clean"] if self.clean else [])
        axis.set_xticks(places, names)
        axis.set_xlabel("signal-to-noise ratio, dB")
        pad = 0.04 * max(places[-1] - places[0], 1)
        axis.set_xlim(places[0] - pad, places[-1] + 1.6 * pad)

    def plot(self, axis: Axes, points: Sequence[tuple[float | None, float]], look: Look) -> None:
        """A line through them, dotted where it leaves the scale of dB for clean."""
        noisy = sorted((snr, value) for snr, value in points if snr is not None)
        clean = [value for snr, value in points if snr is None]
        style = look.line
        if noisy:
            axis.plot(*zip(*noisy, strict=True), zorder=3, **style)
        if clean:
            label = "_" if noisy else style["label"]
            axis.plot([self.right], clean, zorder=3, **style | {"label": label, "linestyle": ""})
        if noisy and clean:
            last = noisy[-1]
            axis.plot([last[0], self.right], [last[1], clean[0]], color=look.colour, linestyle=(0, (1, 1.6)), linewidth=1.1,
                      zorder=2.5)

    def band(self, axis: Axes, points: Sequence[tuple[float | None, float | None, float | None]], colour: str) -> None:
        """Between low and high, clean included; nothing where they are absent."""
        known = sorted((self.at(snr), low, high) for snr, low, high in points if low is not None)
        noisy = [point for point in known if not self.clean or point[0] != self.right]
        if len(noisy) > 1:
            axis.fill_between(*zip(*noisy, strict=True), color=colour, alpha=0.16, linewidth=0, zorder=1)
        for place, low, high in known if self.clean else []:
            if place == self.right or len(noisy) == 1:
                axis.plot([place, place], [low, high], color=colour, alpha=0.45, linewidth=2.6, zorder=1,
                          solid_capstyle="butt")


def file_bytes(figure: Figure, kind: str) -> bytes:
    """As a file of this format. The same rows give the same bytes: no dates, ids by content."""
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    out = io.BytesIO()
    figure.savefig(out, format=kind, dpi=300, metadata=metadata)
    return out.getvalue()


def page_svg(svg: str, name: str, alt: str) -> str:
    """An SVG file as an element of a page: in the page's colours and type, with ids that clash with no other figure's."""
    text = svg[svg.index("<svg"):]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text).replace("xlink:href", "href")
    text = re.sub(r"font: ([^;\"]*?)px [^;\"]*", r"font-size: \1px; font-family: inherit", text)
    for colour, variable in THEME.items():
        text = text.replace(colour, f"var(--{variable})")
    tail = f'role="img" aria-label="{html.escape(alt)}">'
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', lambda found: f'<svg viewBox="{found[1]}" {tail}', text, count=1)
