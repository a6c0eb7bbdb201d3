"""What pictures are drawn on: axes over one time axis with the words above, and SVG in the page's own colours.

    inches, seconds, words  ->  TimeFigure  ->  SVG text, the same bytes each time
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

from avsr.names import escape_controls

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from avsr.explain.passes import SharedWord

# The colours of the report; `draw` turns them into the page's own, so that one picture serves light and dark.
INK, FAINT, SOUND, SIGHT, BOTH = "#1b1b1c", "#66676b", "#3a87c8", "#e08a1e", "#00604f"
VARIABLES = {INK: "ink", FAINT: "faint", SOUND: "sound", SIGHT: "lips", BOTH: "both"}
# Of the insides of heat maps, which are seen through: between those of the light and of the dark page.
RGB = {SOUND: (0.27, 0.57, 0.86), SIGHT: (0.91, 0.56, 0.16), BOTH: (0.10, 0.58, 0.48)}
WIDTH, PER_SECOND = 9.2, 1.0                                # inches: of a page, and at least for a second
LONGEST_LABEL = 13                                          # letters of a word
LEFT, RIGHT, BOTTOM = 0.95, 0.15, 0.42                      # inches around what is drawn


@dataclass(frozen=True)
class Picture:
    """An SVG element. width: inches at which its letters have their size; frame: where its time axis begins and ends, as
    shares of the width, None where it has none."""

    name: str
    svg: str
    width: float
    frame: tuple[float, float] | None = None


class TimeFigure:
    """Axes one below the other on one time axis, with the words above them."""

    def __init__(self, heights: Sequence[float], duration_s: float, words: Sequence[SharedWord], gap: float = 0.12):
        """heights, gap: inches."""
        from matplotlib.figure import Figure

        self.duration_s = duration_s
        self.width = max(WIDTH, LEFT + RIGHT + PER_SECOND * duration_s)
        self.inner = self.width - LEFT - RIGHT
        turned = self._crowded(words)
        longest = max((len(short(word.text)) for word in words), default=0)
        top = 0.2 + 0.055 * longest if turned else 0.3 if words else 0.14
        height = top + sum(heights) + gap * (len(heights) - 1) + BOTTOM
        self.figure = Figure(figsize=(self.width, height))
        self.axes, below = [], height - top
        for one in heights:
            below -= one
            box = (LEFT / self.width, below / height, self.inner / self.width, one / height)
            self.axes.append(self._axis(self.figure.add_axes(box), last=len(self.axes) == len(heights) - 1))
            below -= gap
        style = {"ha": "left" if turned else "center", "rotation": 50 if turned else 0}
        least, at = 0.14 * duration_s / self.inner if turned else 0.0, -math.inf
        for word in words:
            at = max((word.start + min(word.end, duration_s)) / 2, at + least)
            self.axes[0].annotate(short(word.text), (at, 1), (0, 4), xycoords=("data", "axes fraction"), va="bottom",
                                  textcoords="offset points", annotation_clip=False, color=INK, fontsize=9,
                                  rotation_mode="anchor", **style)
            for axis in self.axes:
                axis.axvline(word.start, color=FAINT, linewidth=0.6 if len(words) <= 20 else 0.3, zorder=3)
        if words:
            for axis in self.axes:
                axis.axvline(words[-1].end, color=FAINT, linewidth=0.6 if len(words) <= 20 else 0.3, zorder=3)

    def _axis(self, axis: Axes, *, last: bool) -> Axes:
        axis.set_xlim(0, self.duration_s)
        axis.patch.set_visible(False)
        _plain(axis)
        axis.tick_params(axis="x", labelbottom=last, length=3 if last else 0)
        if last:
            axis.set_xlabel("seconds", fontsize=8, color=INK)
        return axis

    def _crowded(self, words: Sequence[SharedWord]) -> bool:
        """Whether the words would run into each other; 0.078 inches a letter."""
        per_second = self.inner / self.duration_s
        reach = -math.inf
        for word in words:
            middle, half = per_second * (word.start + word.end) / 2, 0.078 * (len(word.text) + 1) / 2
            if middle - half < reach:
                return True
            reach = middle + half
        return False

    @property
    def frame(self) -> tuple[float, float]:
        """Where time begins and ends, as shares of the width."""
        return LEFT / self.width, 1 - RIGHT / self.width

    def picture(self, name: str, about: str) -> Picture:
        """See `draw`."""
        return Picture(name, draw(self.figure, name, about), self.width, self.frame)


def _plain(axis: Axes) -> None:
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(FAINT)
    axis.tick_params(colors=FAINT, labelcolor=INK, labelsize=8)


def short(text: str) -> str:
    """A word as it fits beside a row. What SVG may not hold is spelt out."""
    text = escape_controls(text)
    return text if len(text) <= LONGEST_LABEL else text[:LONGEST_LABEL - 1] + "…"


def draw(figure: Figure, name: str, about: str) -> str:
    """The figure as an SVG element, the same bytes each time.

    name: put before its ids, which must not be another picture's; about: read out to those who do not see it.
    """
    import matplotlib
    from matplotlib.text import Text

    out = StringIO()
    for letters in figure.findobj(Text):
        letters.set_parse_math(False)                       # else a $ in a word begins a formula
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False}):
        figure.savefig(out, format="svg", transparent=True, dpi=160, metadata={"Date": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg"):], flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font: ([^;\"]*?)([\d.]+)px [^;\"]*", r"font: \1\2px var(--font)", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    width, height = (72 * inches for inches in figure.get_size_inches())
    opening = f'<svg viewBox="0 0 {width:.1f} {height:.1f}" role="img" aria-label="{html.escape(about)}">'
    return re.sub(r"<svg [^>]*>", lambda _: opening, text, count=1).replace("xlink:href", "href")


def tick_step(low: float, high: float) -> float:
    """Nats between ticks: the logarithm of a round factor, for at most six ticks."""
    factors = (1.1, 1.2, 1.5, 2, 5, 10, 100, 1e3, 1e4, 1e6, 1e8, 1e10)
    return next((math.log(one) for one in factors if (high - low) / math.log(one) <= 6), math.log(1e12))


def times(nats: float) -> str:
    """A difference of log-probabilities as a factor: x10, ÷2, with powers of ten from a thousand on."""
    factor = math.exp(abs(nats))
    sign = "×" if nats >= 0 else "÷"
    if factor < 1.005:
        return "×1"
    if factor < 999:
        return f"{sign}{factor:.3g}" if factor < 9.5 else f"{sign}{factor:.0f}"
    return f"{sign}10" + str(round(abs(nats) / math.log(10))).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
