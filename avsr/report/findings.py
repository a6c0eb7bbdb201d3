"""Findings: what the tables say, in sentences for the head of the page."""

from __future__ import annotations

from collections.abc import Iterator

from avsr.html.table import signed
from avsr.names import MODALITY_NAMES
from avsr.report.result_table import NoHarm, ResultTable, condition_name, snr_text
from avsr.report.tables import CRITERION, snr_gain

MOST_BROKEN = 6                                             # conditions named one by one


def findings(results: ResultTable) -> list[str]:
    """The rates near 0 dB, the gain by video, and where the no-harm criterion holds, for every system with video."""
    return [(f"{system}, " if len(results.video_systems) > 1 else "") + text
            for system in results.video_systems for text in (*_near_zero(results, system), *_no_harm(results, system))]


def _near_zero(results: ResultTable, system: str) -> Iterator[str]:
    for noise in results.noises:
        levels = [snr for snr in results.levels(noise) if snr is not None and results.find(system, "av", (noise, snr))]
        if not levels:
            continue
        level = min(levels, key=abs)
        cells, gain = results.no_harm(system, (noise, level)).cells, snr_gain(results, system, noise, level)
        rates = ", ".join(f"{MODALITY_NAMES[modality].short} {percent:.1f} %" for modality, cell in cells.items()
                          if (percent := results.percent(cell)) is not None)
        more = ""
        if gain is not None:
            size = f"{gain.db:.1f}" if gain.beyond is None else f"{'more' if gain.db > 0 else 'less'} than {gain.beyond:g}"
            more = f"; the effective SNR gain of video is {signed(size)} dB"
        yield f"{noise} at {snr_text(level)} dB: WER by {rates}{more}."


def _no_harm(results: ResultTable, system: str) -> Iterator[str]:
    conditions = {condition_name(one): one for one in results.all_conditions}
    intact = {name: results.no_harm(system, one) for name, one in conditions.items()}
    corrupted = {f"{name}, {kind}" + ("" if amount is None else f" {amount:g}"): results.no_harm(system, one, (kind, amount))
                 for name, one in conditions.items() for kind, amount in results.corruptions}
    yield from _kept(intact, f"no-harm criterion ({CRITERION})")
    yield from _kept(corrupted, "no-harm criterion with corrupted video")


def _kept(found: dict[str, NoHarm], what: str) -> Iterator[str]:
    n_known = sum(one.kept is not None for one in found.values())
    broken = [f"{name} ({signed(f'{one.difference.percent:+.1f}')})" for name, one in found.items()
              if one.difference and not one.kept]
    more = f" and {len(broken) - MOST_BROKEN} more" if len(broken) > MOST_BROKEN else ""
    if n_known:
        yield (f"{what}: kept at {n_known - len(broken)} of {n_known} conditions"
               + (f"; broken at {'; '.join(broken[:MOST_BROKEN])}{more}." if broken else "."))
