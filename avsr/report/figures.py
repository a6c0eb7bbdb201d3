"""Figures of scores: the result table in, sheets out. What has nothing to show is None."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from avsr.corrupt import CORRUPTIONS
from avsr.html.plot import BOTH, FAINT, OTHER_COLOURS, SOUND, VIDEO
from avsr.html.table import bounds
from avsr.metrics import Cell, Estimate
from avsr.names import MODALITY_NAMES
from avsr.report.result_table import INTACT, Corruption, ResultTable, condition_name, snr_text
from avsr.report.runs import Run
from avsr.report.sheet import Curve, Sheet, SnrPanel, Style, line_style, snr_sheet, system_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXIS_WER = "word error rate, %"
WER_TICKS = (0, 1, 5, 10, 20, 40, 60, 80, 100, 120, 140)     # of a scale of square roots
FAR = 12                                                    # times as much wrong
MOST_WER = 150.0                                            # a recogniser that repeats itself has 310, and hides the rest


def wer_sheet(results: ResultTable) -> Sheet:
    """WER against SNR, a panel for each noise."""
    return _scaled(results, snr_sheet([
        SnrPanel(noise or "no noise", AXIS_WER, results.levels(noise), list(_wer_curves(results, noise)))
        for noise in results.panel_noises]))


def _wer_curves(results: ResultTable, noise: str | None) -> Iterator[Curve]:
    for system in results.systems:
        for modality in ("a", "v", "av"):
            points = [(condition[1], rate) for condition in results.conditions(noise)
                      if (rate := results.rate(results.find(system, modality, condition))) is not None]
            yield Curve(system_style(results, system, modality), points, level=modality == "v")


def _scaled(results: ResultTable, sheet: Sheet) -> Sheet:
    """One scale of WER for all panels: of roots, where both are so much better than the worst there is that a straight scale
    would show them as one line."""
    known = {cell: percent for cell in results.cells
             if cell.modality != "none" and cell.corruption is None and (percent := results.percent(cell)) is not None}
    both = [percent for cell, percent in known.items() if cell.modality == "av"]
    if both and FAR * float(np.median(both)) < min(max(known.values()), MOST_WER):
        sheet.root_scale = True
        for axis in sheet.axes:
            axis.set_yscale("function", functions=(lambda value: np.sqrt(np.maximum(value, 0)), np.square))
            axis.set(yticks=WER_TICKS, ylabel=f"{AXIS_WER} (root scale)")
    sheet.share_y(low=0.0, most=MOST_WER)
    return sheet.finish()


def reliability_sheet(results: ResultTable) -> Sheet | None:
    """Estimated video reliability and the opening of the gates against SNR: mean and the middle 80 % of utterances."""
    words = {"video_reliability": "video reliability", "gate": "opening of the gates"}

    def curve(i: int, system: str, noise: str | None, field: str) -> Curve:
        values = [(condition[1], [value for row in results.rows_of(results.find(system, "av", condition))
                                  if (value := getattr(row, field)) is not None]) for condition in results.conditions(noise)]
        return Curve(line_style(noise or "clean", (BOTH, *OTHER_COLOURS)[i % 5], "sD^vP"[i % 5]),
                     [(snr_db, Estimate(float(np.mean(some)), *map(float, np.quantile(some, [0.1, 0.9]))))
                      for snr_db, some in values if some])

    panels = [SnrPanel(f"{system}: {what}" if len(results.video_systems) > 1 else what, f"{what}, 0 to 1", results.levels(),
                       [curve(i, system, noise, field) for i, noise in enumerate(results.panel_noises)])
              for system in results.video_systems for field, what in words.items()]
    if not (panels := [panel for panel in panels if any(curve.points for curve in panel.curves)]):
        return None
    sheet = snr_sheet(panels, height=2.3)
    for axis in sheet.axes:
        axis.set_ylim(0, 1)
    return sheet.finish()


def corruption_sheet(results: ResultTable) -> Sheet | None:
    """WER against the amount of corruption, a panel for each kind; kinds without amounts share one."""
    kinds = list(dict.fromkeys(str(kind) if amount is not None else "" for kind, amount in results.corruptions))
    shown = [(system, kind) for system in results.corrupted_systems for kind in sorted(kinds, key=lambda kind: not kind)]
    if not shown:
        return None
    sheet = Sheet(len(shown), height=2.2)
    for axis, (system, kind) in zip(sheet.axes, shown, strict=True):
        _draw_corruptions(results, axis, system, kind)
        axis.set_title(f"{system}: {kind or 'face'}" if len(results.corrupted_systems) > 1 else kind or "face")
    return _scaled(results, sheet)


def _draw_corruptions(results: ResultTable, axis: Axes, system: str, kind: str) -> None:
    """One kind of corruption, or those without amounts, from harmless to harmful; a delay has the intact video amid."""
    same = [one for one in results.corruptions if (str(one[0]) if one[1] is not None else "") == kind]
    below = [one for one in same if one[1] is not None and one[1] < 0]
    places: list[Corruption] = [*below, INTACT, *same[len(below):]]
    if kind == "lowres":                                    # pixels: fewer are worse
        places = [INTACT, *reversed(same)]
    for i, condition in enumerate(results.corrupted_conditions(system)):
        where, sound = condition_name(condition), results.percent(results.find(system, "a", condition))
        if sound is not None:
            axis.axhline(sound, color=SOUND, linestyle=((0, (1, 1.5)), "-.", "--", "-")[i % 4], linewidth=1.2,
                         label=f"sound, {where}")
        dash = ("-", (0, (4, 1.6)))[i > 0] if kind else ""  # what has no amount has no order, and no line
        cells = [results.find(system, "av", condition, corruption) for corruption in places]
        _draw_bars(results, axis, cells, line_style(f"both, {where}", BOTH, "s", dash, i > 0), 0.05 * (1 + 2 * i))
    cells = [results.find(system, "v", corruption=corruption) for corruption in places]
    _draw_bars(results, axis, cells, line_style(MODALITY_NAMES["v"].short, VIDEO, "o", (0, (6, 2)) if kind else ""), -0.05)
    names = {"noface": "no face", "face": "another's", None: "none"}
    axis.set_xticks(range(len(places)), [names.get(one, str(one)) if amount is None else snr_text(amount)
                                         for one, amount in places])
    axis.set(xlim=(-0.4, len(places) - 0.6), xlabel=CORRUPTIONS[kind].unit if kind in CORRUPTIONS else "", ylabel=AXIS_WER)


def _draw_bars(results: ResultTable, axis: Axes, cells: Sequence[Cell | None], style: Style, aside: float) -> None:
    """A line with intervals through those cells that there are."""
    points = [(i + aside, *bounds(rate)) for i, cell in enumerate(cells)
              if (rate := results.rate(cell)) is not None and rate.percent is not None]
    for place, _, low, high in points:
        if low is not None and high is not None:
            axis.plot([place, place], [low, high], color=style["color"], linewidth=1, alpha=0.6)
    if points:
        axis.plot([point[0] for point in points], [point[1] for point in points], zorder=3, **style)


def speed_sheet(results: ResultTable, runs: Sequence[Run]) -> Sheet | None:
    """Real-time factor against WER: a point for each system and modality, with the range of its conditions."""
    from matplotlib.ticker import LogLocator, NullLocator

    sums: dict[tuple[str, str], np.ndarray] = {}
    for batch in (batch for run in runs for batch in run.timings if batch["modality"] != "none"):
        key = batch["system"], batch["modality"]
        sums[key] = sums.get(key, np.zeros(2)) + np.array([batch["seconds"], batch["audio_s"]])
    points = {}
    for key, (seconds, audio) in sums.items():
        percents = [percent for cell in results.cells if (cell.system, cell.modality, cell.corruption) == (*key, None)
                    and (percent := results.percent(cell)) is not None]
        if audio and seconds and percents:
            points[key] = seconds / audio, percents
    if not points:
        return None
    sheet = Sheet(1)
    (axis,) = sheet.axes
    for key, (factor, percents) in points.items():
        style = system_style(results, *key)
        axis.plot([factor, factor], [min(percents), max(percents)], color=style["color"], linewidth=1.2, alpha=0.6)
        axis.plot([factor], [np.mean(percents)],
                  **style | {"linestyle": "", "marker": style["marker"] or "o", "markersize": 6})
    factors = [factor for factor, _ in points.values()]
    axis.set(xscale="log", xlabel="seconds of computing for a second of speech", ylabel=AXIS_WER,
             xlim=(min(factors) / 1.8, max(factors) * 1.8))
    axis.set_ylim(bottom=0)
    if max(factors) * 1.8 > 1:
        axis.axvline(1, color=FAINT, linewidth=0.8, linestyle=":")
        axis.annotate("real time", (1, 1), xycoords=("data", "axes fraction"), fontsize=7, color=FAINT, ha="right", va="top",
                      rotation=90, xytext=(-2, -2), textcoords="offset points")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return sheet.finish()
