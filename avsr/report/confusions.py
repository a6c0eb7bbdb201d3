"""Confusions of visemes (classes of sounds that look alike on the lips), as a figure and a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from avsr.errors import MissingAsset
from avsr.html.plot import FAINT, INK, PAPER
from avsr.html.table import Row
from avsr.metrics import VISEMES, Confusions, confusions
from avsr.names import MODALITY_NAMES
from avsr.report.result_table import ResultTable
from avsr.report.sheet import Sheet
from avsr.report.tables import Section, make_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELLED = 0.1                                              # shares from which on a confusion has its number in its square
Found = dict[tuple[str, str], Confusions]                   # by system and modality


def confusion_section(results: ResultTable) -> Section:
    """The confusions of every system with video, in all noises and levels together, with intact video."""
    found: Found = {}
    notes = []
    try:
        for system in results.video_systems or results.systems[:1]:
            for modality in ("v", "av", "a"):
                rows = [row for cell, kept in results.cells.items() for row in kept
                        if (cell.system, cell.modality, cell.corruption) == (system, modality, None)]
                if rows:
                    found[system, modality] = confusions(rows, "viseme")
    except MissingAsset as error:
        found, notes = {}, [f"Visemes are left out: {error}"]
    if unknown := sorted({word for one in found.values() for word in one.unknown}):
        notes = [f"Visemes: {len(unknown)} words are not in the dictionary and were left out ({', '.join(unknown[:8])})."]
    classes = "; ".join(f"{name}: {' '.join(sounds)}" for name, sounds in VISEMES.items() if len(sounds) > 1)
    table = make_table("visemes", "Confused visemes, the commonest first",
                       [row for key, one in found.items() for row in _rows(*key, one)],
                       f"Visemes and their sounds: {classes}.")
    return Section("visemes", "Confusions", {"visemes": _sheet(results, found)}, [table], notes)


def confusion_rates(found: Confusions) -> np.ndarray:
    """The share of each class said (rows, the last is insertions) that was written as each (columns, the last is deletions):
    (n + 1, n + 1), 0 to 1."""
    counts = np.asarray(found.counts, float)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _rows(system: str, modality: str, found: Confusions) -> list[Row]:
    part, said, written = confusion_rates(found), [*found.names, "insertion"], [*found.names, "deletion"]
    pairs = [(int(found.counts[i][j]), i, j) for i, j in zip(*np.nonzero(found.counts), strict=True) if i != j]
    return [{"system": system, "modality": MODALITY_NAMES[modality].short, "said": said[i], "written": written[j],
             "times": times, "share": 100 * float(part[i, j])}
            for times, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))]


def _sheet(results: ResultTable, found: Found) -> Sheet | None:
    if not found:
        return None
    sheet = Sheet(len(found), square=True, bottom=0.56)
    for axis, ((system, modality), one) in zip(sheet.axes, found.items(), strict=True):
        _draw_matrix(axis, one)
        axis.set(title=", ".join([system] * (len(results.video_systems) > 1) + [MODALITY_NAMES[modality].short]), ylabel="said",
                 xlabel="written" if one.percent is None else f"written, {one.percent:.1f} % wrong")
    sheet.label_left()
    return sheet.finish()


def _draw_matrix(axis: Axes, found: Confusions) -> None:
    """Opacity shows the rate, so that the figure follows the page from light to dark."""
    from matplotlib.colors import ListedColormap, to_rgb

    part, n = confusion_rates(found), len(found.names)
    inks = ListedColormap([(*to_rgb(INK), i / 64) for i in range(65)])
    axis.pcolormesh(np.sqrt(part), cmap=inks, vmin=0, vmax=1, linewidth=0)
    for i, j in zip(*np.nonzero(part >= LABELLED), strict=True):
        if i != j:
            axis.text(j + 0.5, i + 0.52, f"{100 * part[i, j]:.0f}", ha="center", va="center", fontsize=5,
                      color=PAPER if part[i, j] > 0.25 else INK)
    axis.set_xticks(np.arange(n + 1) + 0.5, [*found.names, "del"], rotation=90, fontsize=6.5)
    axis.set_yticks(np.arange(n + 1) + 0.5, [*found.names, "ins"], fontsize=6.5)
    axis.axhline(n, color=FAINT, linewidth=0.6)
    axis.axvline(n, color=FAINT, linewidth=0.6)
    axis.set(aspect="equal", xlim=(0, n + 1), ylim=(n + 1, 0))
    axis.grid(visible=False)
    axis.tick_params(length=0)
