"""Plots: how figures look, and how they are written: files for papers, SVG elements for a page.

Colours are told apart by people who do not see all of them, and on a page they follow a light or dark screen: see THEME.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
INK, FAINT, RULE, PAPER, WHITE = "#1b1b1c", "#66676b", "#dcdde0", "#fefefe", "#ffffff"
# Lightness in CIELAB: 57, 65, 35: apart in grey too.
SOUND, VIDEO, BOTH = "#3a87c8", "#e08a1e", "#00604f"
MODALITY_COLOURS = {"a": SOUND, "v": VIDEO, "av": BOTH}
OTHER_COLOURS = ("#8a3f8f", "#7a7b80", "#a5522d", "#b8487a")         # systems without video
THEME = {INK: "ink", FAINT: "faint", RULE: "rule", PAPER: "paper", WHITE: "paper", SOUND: "sound", VIDEO: "video", BOTH: "both",
         **{colour: f"other{i}" for i, colour in enumerate(OTHER_COLOURS)}}
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.size": 8, "axes.titlesize": 8.5, "axes.titleweight": "bold", "axes.labelsize": 8,
    "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "legend.fontsize": 7.5, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": FAINT, "xtick.color": FAINT, "ytick.color": FAINT, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "axes.titlecolor": INK, "axes.linewidth": 0.7, "xtick.major.width": 0.7, "ytick.major.width": 0.7, "xtick.major.size": 3,
    "ytick.major.size": 3, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y",
    "grid.color": RULE, "grid.linewidth": 0.6, "axes.axisbelow": True, "lines.linewidth": 1.5, "lines.markersize": 4.2,
    "legend.frameon": False, "legend.handlelength": 2.4, "legend.columnspacing": 1.6, "axes.titlelocation": "left",
    "axes.titley": 1.0,                                     # else matplotlib computes its place again for each drawing
    "text.parse_math": False,                               # else a $ in a name begins a formula
    "figure.facecolor": WHITE, "axes.facecolor": "none", "pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "avsr",
}


@contextmanager
def plot_style(**more: Any) -> Iterator[None]:
    """Figures are drawn and written in STYLE, whatever the user's matplotlibrc says. more: further settings of matplotlib."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        settings: dict[Any, Any] = STYLE | more
        matplotlib.rcParams.update(settings)
        yield


def file_bytes(figure: Figure, kind: str, *, dpi: int = 300) -> bytes:
    """A figure as a file of one of FORMATS. The same figure gives the same bytes: no dates, ids by content."""
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    out = io.BytesIO()
    figure.savefig(out, format=kind, dpi=dpi, metadata=metadata)
    return out.getvalue()


def svg_element(svg: bytes, name: str) -> str:
    """An SVG file as an element of a page, in the page's colours. The element NAME-caption describes it; NAME stands before its
    ids, so that they differ from those of other figures."""
    text = svg.decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg"):], flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text).replace("xlink:href", "href")
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    for colour, variable in THEME.items():
        text = text.replace(colour, f"var(--{variable})")
    opening = rf'<svg viewBox="\1" role="img" aria-labelledby="{name}-caption">'
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', opening, text, count=1)
