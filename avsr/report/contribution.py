"""Modality contribution: what sound and video each add (Shapley values) by condition, as a table and a figure."""

from __future__ import annotations

from collections import Counter
from itertools import product

from avsr.errors import AvsrError
from avsr.html.plot import BOTH, VIDEO
from avsr.html.table import Column, Row
from avsr.metrics import Estimate, ModalityContributions, condition_shapley
from avsr.report.figures import reliability_sheet
from avsr.report.result_table import Condition, ResultTable, rng
from avsr.report.sheet import Curve, Sheet, SnrPanel, line_style, snr_sheet
from avsr.report.tables import Section, make_table, noise_values

STYLES = {"wer": line_style("in words recognised (WER)", BOTH, "s"),
          "loss": line_style("in the loss of the reference", VIDEO, "D", (0, (4, 1.6)), hollow=True)}
UNITS = {"wer": ("points of WER", ".1f", 100), "loss": ("nats a token", ".2f", 1)}
Found = dict[tuple[str, Condition, str], ModalityContributions]  # by system, condition and measure


def contribution_section(results: ResultTable) -> Section:
    """What sound and video contribute to every system with video, in each condition with intact video, and how reliable the
    system thinks the video is."""
    found: Found = {}
    failed: Counter[str] = Counter()
    for system, condition, measure in product(results.video_systems, results.all_conditions, UNITS):
        cell = results.find(system, "av", condition)
        # A system of one modality, as imported models are, has no shares.
        if cell is None or all(other.modality == "av" for other in results.cells if other.system == system):
            continue
        try:
            shares = condition_shapley(results.cells, cell, measure, rng=rng())
        except AvsrError as error:                          # a run that is not whole, or without "none"
            failed[str(error)] += 1
            continue
        if shares is not None:
            found[system, condition, measure] = shares
    columns = {f"{measure}_{name}": Column(f"{name}, {unit}", pattern) for measure, (unit, pattern, _) in UNITS.items()
               for name in ("sound", "video")}
    columns |= {f"{measure}_share": Column("share of video", ".2f") for measure in UNITS}
    rows = [_row(found, *key) for key in dict.fromkeys(key[:2] for key in found)]
    table = make_table("contribution", "Modality contribution", rows,
                       "Shapley values: what a modality takes off the errors (or the loss of the reference), averaged over "
                       "which of the two is given first. A share above 1 or below 0: one of the modalities does harm.",
                       columns=columns)
    return Section("contribution", "Video reliability and modality contribution",
                   {"reliability": reliability_sheet(results), "contribution": _sheet(results, found)}, [table],
                   [f"{n} conditions have no shares of sound and video: {why}" for why, n in failed.items()])


def _row(found: Found, system: str, condition: Condition) -> Row:
    row = {"system": system, **noise_values(condition)}
    for measure, (*_, factor) in UNITS.items():
        shares = found.get((system, condition, measure))
        row |= {f"{measure}_sound": shares and _scaled(shares.sound, factor),
                f"{measure}_video": shares and _scaled(shares.video, factor), f"{measure}_share": shares and shares.share}
    return row


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    low, high = (bound and factor * bound for bound in (estimate.low, estimate.high))
    return Estimate(factor * estimate.value, low, high)


def _sheet(results: ResultTable, found: Found) -> Sheet | None:
    if not found:
        return None
    sheet = snr_sheet([
        SnrPanel(", ".join([system] * (len(results.video_systems) > 1) + [noise or "clean"]), "share of video",
                 results.levels(noise), [Curve(style, [(condition[1], shares.share) for condition in results.conditions(noise)
                                                       if (shares := found.get((system, condition, measure))) and shares.share])
                                         for measure, style in STYLES.items()])
        for system in results.video_systems for noise in results.panel_noises], height=2.2)
    for axis in sheet.axes:
        axis.set_ylim(min(axis.get_ylim()[0], 0), max(axis.get_ylim()[1], 1))
    sheet.share_y()
    return sheet.finish()
