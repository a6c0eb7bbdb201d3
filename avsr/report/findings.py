"""Findings: what the tables say, in sentences for the head of the page."""

from __future__ import annotations

from avsr.metrics import Gain
from avsr.report.result_table import NoHarm, ResultTable, condition_name, snr_text
from avsr.report.runs import MODALITY_NAMES
from avsr.report.tables import CRITERION, snr_gain

MOST_BROKEN = 6                                             # conditions named one by one


def findings(results: ResultTable) -> list[str]:
    """The rates near 0 dB, the gain by video, and where the no-harm criterion holds."""
    out = []
    for system in results.video_systems:
        who = f"{system}, " if len(results.video_systems) > 1 else ""
        found = [_near_zero(results, system, noise) for noise in results.noises] + _no_harm(results, system)
        out += [who + text for text in found if text]
    return out


def _near_zero(results: ResultTable, system: str, noise: str) -> str | None:
    levels = [snr for snr in results.levels(noise) if snr is not None and results.find(system, "av", (noise, snr))]
    if not levels:
        return None
    level = min(levels, key=abs)
    cells = results.no_harm(system, (noise, level)).cells
    rates = ", ".join(f"{MODALITY_NAMES[modality]} {percent:.1f} %" for modality, cell in cells.items()
                      if (percent := results.percent(cell)) is not None)
    gain = snr_gain(results, system, noise, level)
    more = "" if gain is None else f"; the effective SNR gain of video is {_decibels(gain)}"
    return f"{noise} at {snr_text(level)} dB: WER by {rates}{more}."


def _decibels(gain: Gain) -> str:
    beyond = gain.beyond
    text = f"{gain.db:.1f} dB" if beyond is None else f"{'more' if gain.db > 0 else 'less'} than {beyond:g} dB"
    return text.replace("-", "−")


def _no_harm(results: ResultTable, system: str) -> list[str | None]:
    intact = {condition_name(one): results.no_harm(system, one) for one in results.all_conditions}
    corrupted = {f"{condition_name(one)}, {kind}" + ("" if amount is None else f" {amount:g}"):
                 results.no_harm(system, one, (kind, amount))
                 for one in results.all_conditions for kind, amount in results.corruptions}
    return [_kept(intact, f"no-harm criterion ({CRITERION})"), _kept(corrupted, "no-harm criterion with a bad picture")]


def _kept(found: dict[str, NoHarm], what: str) -> str | None:
    known = {name: one for name, one in found.items() if one.kept is not None}
    broken = [f"{name} ({one.difference.percent:+.1f})" for name, one in known.items() if one.difference and not one.kept]
    if not known:
        return None
    named = "; ".join(broken[:MOST_BROKEN]).replace("-", "−")
    more = f" and {len(broken) - MOST_BROKEN} more" if len(broken) > MOST_BROKEN else ""
    end = f"; broken at {named}{more}" if broken else ""
    return f"{what}: kept at {len(known) - len(broken)} of {len(known)} conditions{end}."
