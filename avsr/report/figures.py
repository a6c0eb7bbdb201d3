"""Figures of scores: rows by condition in, drawings out. What has nothing to show is None.

    Book  ->  wer(book), trust(book), corruption(book);  with timings: speed(book, table)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from avsr.corrupt import CORRUPTIONS
from avsr.metrics import Cell
from avsr.report.book import Book, Condition, name_of
from avsr.report.draw import (
    FAINT,
    MODALITY_COLOURS,
    MODALITY_MARKERS,
    OTHER_MARKERS,
    OTHERS,
    Drawing,
    Levels,
    Look,
    Sheet,
)
from avsr.report.runs import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXIS_WER = "word error rate, %"
WER_TICKS = (0, 1, 5, 10, 20, 40, 60, 80, 100, 120, 140)     # of a scale of square roots
FAR = 12                                                    # times as much wrong
MOST_WER = 150.0                                            # a recogniser that repeats itself has 310, and hides the rest


def look(book: Book, system: str, modality: str) -> Look:
    """The line of one system and modality, the same in every figure. The second system that sees is dashed and hollow."""
    label = NAMES[modality] if len(book.systems) == 1 else f"{system}, {NAMES[modality]}"
    if system not in book.seeing:
        i = (book.systems.index(system) - len(book.seeing)) % len(OTHERS)
        return Look(label if len(book.systems) == 1 else system, OTHERS[i], OTHER_MARKERS[i], "-")
    which = book.seeing.index(system)
    dash = ("-", (0, (4, 1.6)), (0, (1.2, 1.2)), "-.")[which % 4]
    if modality == "v":
        dash = ((0, (6, 2)), (0, (1.2, 1.2)), "-.", "-")[which % 4]
    return Look(label, MODALITY_COLOURS[modality], MODALITY_MARKERS[modality], dash, which > 0)


def wer(book: Book) -> Drawing:
    """WER against SNR, a panel for each noise."""
    noises = book.noises or [None]

    def draw() -> Sheet:
        sheet = Sheet(len(noises))
        for axis, noise in zip(sheet.axes, noises, strict=True):
            levels = Levels(book.levels(noise))
            for system in book.systems:
                _curves(book, axis, levels, system, noise)
            levels.axis(axis)
            axis.set(title=noise or "no noise", ylabel=AXIS_WER)
        _scaled(book, sheet)
        return sheet.finish()

    return Drawing("wer", "WER against noise", "Word error rate against the signal-to-noise ratio, with intervals of 95 %. "
                   "Lips do not hear the noise: their line is level. Dotted: off the scale of dB, to clean. "
                   f"{_scale(book)}Above {MOST_WER:g} % nothing is shown.", draw)


def _scaled(book: Book, sheet: Sheet) -> None:
    """One scale of WER for all panels."""
    if _far_apart(book):
        sheet.rooted(WER_TICKS)
        for axis in sheet.axes:
            axis.set_ylabel(f"{AXIS_WER} (root scale)")
    sheet.shared(most=MOST_WER)


def _scale(book: Book) -> str:
    return "The scale upwards is of square roots, so that small rates can be told apart. " if _far_apart(book) else ""


def _far_apart(book: Book) -> bool:
    """Whether both are so much better than the worst there is that a straight scale would show them as one line."""
    known = {cell: percent for cell in book.cells
             if cell.modality != "none" and cell.corruption is None and (percent := book.percent(cell)) is not None}
    both = [percent for cell, percent in known.items() if cell.modality == "av"]
    return bool(both) and FAR * float(np.median(both)) < min(max(known.values()), MOST_WER)


def _curves(book: Book, axis: Axes, levels: Levels, system: str, noise: str | None) -> None:
    """Sound, lips and both of one system in one panel."""
    for modality in ("a", "v", "av"):
        style = look(book, system, modality)
        if modality == "v":
            rate = book.rate(book.find(system, "v"))
            if rate is not None and rate.percent is not None:
                axis.axhline(rate.percent, **style.line | {"marker": ""}, zorder=2)
                if rate.low is not None:
                    axis.axhspan(rate.low, rate.high, color=style.colour, alpha=0.1, linewidth=0, zorder=0)
            continue
        found = [(snr, book.rate(book.find(system, modality, *condition)))
                 for snr, condition in zip(book.levels(noise), book.conditions(noise), strict=True)]
        known = [(snr, rate) for snr, rate in found if rate is not None and rate.percent is not None]
        if known:
            levels.band(axis, [(snr, rate.low, rate.high) for snr, rate in known], style.colour)
            levels.plot(axis, [(snr, rate.percent) for snr, rate in known], style)


def trust(book: Book) -> Drawing | None:
    """How far lips are trusted, or gates are open, against SNR: mean and the middle 80 % of utterances."""
    shown = [(system, what) for system in book.seeing for what in ("video_reliability", "gate")
             if any(getattr(row, what) is not None for cell in _plain(book, system) for row in book.cells[cell])]
    if not shown:
        return None
    words = {"video_reliability": "trust in lips", "gate": "opening of the gates"}

    def draw() -> Sheet:
        sheet = Sheet(len(shown), height=2.3)
        for axis, (system, what) in zip(sheet.axes, shown, strict=True):
            levels = Levels(book.levels())
            for i, noise in enumerate(book.noises or [None]):
                points = [(snr, values) for snr, condition in zip(book.levels(noise), book.conditions(noise), strict=True)
                          if (values := _values(book, book.find(system, "av", *condition), what))]
                style = Look(noise or "clean", (MODALITY_COLOURS["av"], *OTHERS)[i % 5], "sD^vP"[i % 5], "-")
                levels.band(axis, [(snr, *np.quantile(values, [0.1, 0.9])) for snr, values in points], style.colour)
                levels.plot(axis, [(snr, float(np.mean(values))) for snr, values in points], style)
            levels.axis(axis)
            axis.set(title=f"{system}: {words[what]}" if len(book.seeing) > 1 else words[what], ylabel=f"{words[what]}, 0 to 1",
                     ylim=(0, 1))
        return sheet.finish()

    return Drawing("trust", "Trust in lips", "How far the lips are trusted (1: wholly) and how wide the gates are through "
                   "which they enter, against the signal-to-noise ratio: mean, and the middle 80 % of utterances.", draw)


def _plain(book: Book, system: str) -> list[Cell]:
    """Cells of both, undamaged."""
    return [cell for cell in book.cells if cell.system == system and cell.modality == "av" and cell.corruption is None]


def _values(book: Book, cell: Cell | None, what: str) -> list[float]:
    return [] if cell is None else [getattr(row, what) for row in book.cells[cell] if getattr(row, what) is not None]


def corruption(book: Book) -> Drawing | None:
    """WER against the amount of damage, a panel for each kind; kinds without amounts share one."""
    damages = book.damages()
    if not damages:
        return None
    named = list(dict.fromkeys(kind for kind, amount in damages if amount is not None))
    groups = [(kind, [(kind, amount) for one, amount in damages if one == kind]) for kind in named]
    if plain := [(kind, None) for kind, amount in damages if amount is None]:
        groups.append(("", plain))
    shown = [(system, *group) for system in book.damaged for group in groups]

    def draw() -> Sheet:
        sheet = Sheet(len(shown), height=2.2)
        for axis, (system, kind, amounts) in zip(sheet.axes, shown, strict=True):
            _damage(book, axis, system, kind, amounts)
            if len(book.damaged) > 1:
                axis.set_title(f"{system}: {axis.get_title(loc='left')}")
        _scaled(book, sheet)
        return sheet.finish()

    return Drawing("corruption", "When the picture is bad", "Word error rate against the damage done to the picture, for lips "
                   "and for both; level lines: sound alone, which sees none of it. Bars: intervals of 95 %. "
                   f"{_scale(book)}", draw)


def _damage(book: Book, axis: Axes, system: str, kind: str, amounts: list[tuple[str, float | None]]) -> None:
    """One kind of damage from none to much; a delay of the picture has none in the middle."""
    places = _from_none(kind, amounts)
    for i, condition in enumerate(_damaged_at(book, system)):
        hollow, where = i > 0, name_of(condition)
        sound = book.percent(book.find(system, "a", *condition))
        if sound is not None:
            axis.axhline(sound, color=MODALITY_COLOURS["a"], linestyle=((0, (1, 1.5)), "-.", "--", "-")[i % 4], linewidth=1.2,
                         label=f"sound, {where}")
        dash = ("-", (0, (4, 1.6)))[hollow] if kind else ""  # what has no amount has no order, and no line
        both = Look(f"both, {where}", MODALITY_COLOURS["av"], "s", dash, hollow)
        _bars(book, axis, [book.find(system, "av", *condition, *damage) for damage in places], both, 0.05 * (1 + 2 * i))
    lips = Look("lips", MODALITY_COLOURS["v"], "o", (0, (6, 2)) if kind else "")
    _bars(book, axis, [book.find(system, "v", None, None, *damage) for damage in places], lips, -0.05)
    axis.set_xticks(range(len(places)), [_amount(*damage) for damage in places])
    axis.set_xlim(-0.4, len(places) - 0.6)
    unit = CORRUPTIONS[kind].unit if kind in CORRUPTIONS else ""
    axis.set(title=kind or "face", xlabel=unit, ylabel=AXIS_WER)


def _from_none(kind: str, amounts: list[tuple[str, float | None]]) -> list[tuple[str | None, float | None]]:
    """Amounts from harmless to harmful, the unharmed picture among them."""
    if kind == "lowres":                                    # pixels: fewer are worse
        return [(None, None), *reversed(amounts)]
    below = [damage for damage in amounts if damage[1] is not None and damage[1] < 0]
    return [*below, (None, None), *amounts[len(below):]]


def _amount(kind: str | None, amount: float | None) -> str:
    if kind is None:
        return "none"
    return {"noface": "no face", "face": "another's"}.get(kind, kind) if amount is None else f"{amount:g}".replace("-", "−")


def _damaged_at(book: Book, system: str) -> list[Condition]:
    """Conditions at which both were measured with damage."""
    return list({(cell.noise, cell.snr_db): None for cell in book.cells
                 if cell.system == system and cell.modality == "av" and cell.corruption is not None})


def _bars(book: Book, axis: Axes, cells: Sequence[Cell | None], style: Look, aside: float) -> None:
    """A line with intervals through those cells that there are."""
    points = [(i + aside, rate) for i, cell in enumerate(cells)
              if (rate := book.rate(cell)) is not None and rate.percent is not None]
    for place, rate in points:
        if rate.low is not None:
            axis.plot([place, place], [rate.low, rate.high], color=style.colour, linewidth=1, alpha=0.6)
    if points:
        axis.plot([place for place, _ in points], [rate.percent for _, rate in points], zorder=3, **style.line)


def speed(book: Book, speeds: Sequence[tuple[str, str, float]]) -> Drawing | None:
    """Real-time factor against WER: a point for each system and modality, with the range of its conditions."""
    points = [(system, modality, factor, percents) for system, modality, factor in speeds
              if (percents := _percents(book, system, modality))]
    if not points:
        return None

    def draw() -> Sheet:
        from matplotlib.ticker import LogLocator, NullLocator

        sheet = Sheet(1)
        (axis,) = sheet.axes
        for system, modality, factor, percents in points:
            style = look(book, system, modality)
            axis.plot([factor, factor], [min(percents), max(percents)], color=style.colour, linewidth=1.2, alpha=0.6)
            axis.plot([factor], [np.mean(percents)], **style.line | {"linestyle": "", "marker": style.marker or "o",
                                                                     "markersize": 6})
        factors = [point[2] for point in points]
        axis.set(xscale="log", xlabel="seconds of computing for a second of speech", ylabel=AXIS_WER,
                 xlim=(min(factors) / 1.8, max(factors) * 1.8))
        axis.set_ylim(bottom=0)
        if max(factors) * 1.8 > 1:
            axis.axvline(1, color=FAINT, linewidth=0.8, linestyle=":")
            axis.annotate("real time", (1, 1), xycoords=("data", "axes fraction"), fontsize=7, color=FAINT, ha="right",
                          va="top", rotation=90, xytext=(-2, -2), textcoords="offset points")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        return sheet.finish()

    return Drawing("speed", "Speed against WER", "How long it takes against how much is wrong: the mean of all noises and "
                   "levels, from the best to the worst of them.", draw)


def _percents(book: Book, system: str, modality: str) -> list[float]:
    found = [book.percent(cell) for cell in book.cells
             if (cell.system, cell.modality, cell.corruption) == (system, modality, None)]
    return [percent for percent in found if percent is not None]
