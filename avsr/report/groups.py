"""For whom it fails: word error rates of speakers and groups, the gaps between them, and whether video widens these.

    ResultTable, columns ("speaker", "sex", ...)  ->  group_section -> Section of a figure and tables
Groups with fewer speakers than metrics' floor are named and not judged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from avsr.errors import AvsrError
from avsr.html.table import P_VALUE, TEXT, Column, Row, Table
from avsr.metrics import Cell, FaceEffect, Groups, by_group, columns, face_effect
from avsr.names import INPUT_MODALITIES, MODALITY_NAMES
from avsr.report.result_table import ResultTable, condition_name, rng
from avsr.report.sheet import Curve, Sheet, SnrPanel, snr_sheet, system_style
from avsr.report.tables import Section, cell_values, make_table, noise_values

NOTE = "p: how often random groups have as large a gap."


def group_section(results: ResultTable, asked: Sequence[str] | None) -> Section:
    """By the columns asked for, or by speaker and every label. Raises AvsrError where one asked for is missing."""
    notes, kept = [], []
    for column in _columns(results, asked):
        judged = [groups for cell in _measured_cells(results) if (groups := groups_of(results, column, cell))]
        if any(groups.gap for groups in judged):
            kept.append(column)
        else:
            floor = f"{judged[0].floor} {judged[0].by}s" if judged else "any rows"
            notes.append(f"By {column}: insufficient data, fewer than two groups have {floor}.")
    faces, more = mismatched_face_table(results, kept)
    tables = [build(results, column) for column in kept for build in (_rates_across, _gaps, _rates)]
    return Section("groups", "For whom it fails", {"groups": _sheet(results, kept)},
                   [*tables, video_gain_table(results, kept), faces], [*notes, *more])


def _columns(results: ResultTable, asked: Sequence[str] | None) -> list[str]:
    found = columns(results.rows)
    if missing := [name for name in asked or () if name not in found]:
        raise AvsrError(f"--group-by {missing[0]}: no row has this label; there are {', '.join(found) or 'none'}.  Choose one "
                        "of those, or add the label to the manifest and run the benchmark again.")
    return found if asked is None else list(dict.fromkeys(asked))


def groups_of(results: ResultTable, column: str, cell: Cell) -> Groups | None:
    """Rates of the groups of one cell; None where its rows lack the column, as those of an external system may."""
    def compute() -> Groups | None:
        rows = [row for row in results.cells[cell] if row.speaker is not None]
        there = column == "speaker" or any(row.labels.get(column) is not None for row in rows)
        return by_group(results.cells[cell], column, rng=rng()) if rows and there else None

    return results.once((by_group, column, cell), compute)


def _measured_cells(results: ResultTable) -> list[Cell]:
    """Cells with intact video, each once. Where some systems have video, the others are shown in a few conditions only."""
    found = [results.find(system, modality, condition) for system in results.systems for modality in INPUT_MODALITIES
             for condition in (results.all_conditions if system in results.video_systems or not results.video_systems
                               else results.main_conditions)]
    return list(dict.fromkeys(cell for cell in found if cell is not None))


def _gaps(results: ResultTable, column: str) -> Table | None:
    judged = {cell: groups for cell in _measured_cells(results) if (groups := groups_of(results, column, cell))}
    rows = [{"column": column, **cell_values(cell, corruption=False), "gap": found.gap, "p": found.p, "ratio": found.ratio,
             "worst": found.worst, "worst_wer": found.rates[found.worst], "best": found.best,
             "best_wer": found.rates[found.best], "groups": len(found.rates)}
            for cell, found in judged.items() if found.worst is not None and found.best is not None]
    return make_table(f"gaps-{column}", f"By {column}: the worst group minus the best", rows, _note(list(judged.values())),
                      hidden=("column",))


def _note(judged: Sequence[Groups]) -> str:
    """What p means, and who was not judged."""
    insufficient = {group: n for found in judged for group, n in found.insufficient.items()}
    without = max(found.without for found in judged)
    by, floor = judged[0].by, judged[0].floor
    few = ", ".join(f"{group} ({insufficient[group]} of {floor} {by}s)" for group in sorted(insufficient, key=natural_order))
    return (NOTE + (f" Insufficient data, not judged: {few}." if few else "")
            + (f" Without this label: {without} utterances." if without else ""))


def _rates(results: ResultTable, column: str) -> Table | None:
    """Each group at each condition: for CSV, as there are too many to read."""
    rows = [{"column": column, "group": group, **cell_values(cell, corruption=False), "wer": rate,
             "utterances": rate.utterances, "speakers": rate.clusters if rate.by == "speaker" else 1}
            for cell in _measured_cells(results) if (found := groups_of(results, column, cell))
            for group, rate in found.rates.items()]
    return make_table("groups", f"By {column}: each group", rows, csv_only=True)


def _rates_across(results: ResultTable, column: str) -> Table | None:
    """Groups down; systems and modalities across, clean and at the level nearest 0 dB of each noise."""
    found: dict[str, Groups] = {}
    for cell in _measured_cells(results):
        condition = cell.noise, cell.snr_db
        if (cell.modality == "v" or condition in results.main_conditions) and (groups := groups_of(results, column, cell)):
            who = ("" if len(results.systems) == 1 else f"{cell.system}, ") + MODALITY_NAMES[cell.modality].short
            found[who if cell.modality == "v" else f"{who}, {condition_name(condition)}"] = groups
    names = sorted({group for groups in found.values() for group in groups.rates}, key=natural_order)
    rows = [{"column": column, "group": name, **{head: groups.rates.get(name) for head, groups in found.items()}}
            for name in names]
    return make_table(f"each-{column}", f"By {column}: WER % of each group", rows, hidden=("column",),
                      columns={"group": Column(column, TEXT)} | {head: Column(head) for head in found})


def natural_order(name: str) -> list[tuple[int, int | str]]:
    """A sort key that puts s2 before s10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def video_gain_table(results: ResultTable, kept: Sequence[str]) -> Table | None:
    """Both minus sound alone, by group: who gains least by video, who most, and whether that is chance."""
    rows: list[Row] = []
    for system in results.video_systems:
        for condition in results.main_conditions:
            both, sound = ({row.id: row for row in results.rows_of(results.find(system, modality, condition))}
                           for modality in ("av", "a"))
            pair = [both[one] for one in both if one in sound], [sound[one] for one in sound if one in both]
            for column in (one for one in kept if one in columns(pair[0])):
                found = by_group(pair[0], column, against=pair[1], rng=rng())
                if found.gap is not None and found.worst is not None and found.best is not None:
                    rows.append({"system": system, **noise_values(condition), "column": column, "worst": found.worst,
                                 "worst_difference": found.rates[found.worst], "best": found.best,
                                 "best_difference": found.rates[found.best], "gap": found.gap, "p": found.p})
    difference = Column("both minus sound", "+.1f")
    return make_table("video-gain", "Who gains by video", rows, NOTE, columns={
        "worst": Column("gains least", TEXT), "worst_difference": difference, "best": Column("gains most", TEXT),
        "best_difference": difference})


def mismatched_face_table(results: ResultTable, kept: Sequence[str]) -> tuple[Table | None, list[str]]:
    """The counterfactual test: the same sound with another speaker's face, and whether it matters whose. With notes."""
    names, notes = list(kept) or ["speaker"], []
    found: dict[Cell, dict[str, FaceEffect]] = {}
    for cell in results.cells:
        intact = replace(cell, corruption=None, amount=None)
        if cell.corruption != "face" or cell.modality not in ("v", "av") or intact not in results.cells:
            continue
        for name in names:
            try:
                effect = face_effect(results.cells[cell], results.cells[intact], column=name, rng=rng())
                found.setdefault(cell, {})[name] = effect
            except AvsrError as error:                      # such as a run that is not whole
                notes.append(f"Another's face: {error}")
    judged = [name for name in names if any(name in effects and effects[name].groups.gap for effects in found.values())]
    rows = []
    for cell, effects in found.items():
        overall = next(iter(effects.values())).overall
        row = {**cell_values(cell, corruption=False), "cost": overall.difference, "p": overall.p}
        for name in judged:
            groups = effects[name].groups if name in effects else None
            row |= {f"gap_{name}": groups and groups.gap, f"p_{name}": groups and groups.p}
        rows.append(row)
    more = {f"gap_{name}": Column(f"gap by the face's {name}") for name in judged}
    more |= {f"p_{name}": Column("p of the gap", P_VALUE) for name in judged}
    note = "WER with another's face minus WER with one's own" + ("; gap: whether it matters whose face." if judged else ".")
    cost = Column("another's face minus one's own, points", "+.1f")
    return (make_table("faces", "The same sound with another speaker's face", rows, note, columns={"cost": cost} | more),
            list(dict.fromkeys(notes)))


def _sheet(results: ResultTable, kept: Sequence[str]) -> Sheet | None:
    """Gap against SNR by modality, a panel for each column and noise."""
    systems = results.video_systems or results.systems
    shown = [(system, column, noise) for system in systems for column in kept for noise in results.panel_noises]
    if not shown:
        return None
    sheet = snr_sheet([SnrPanel(", ".join([*[system] * (len(systems) > 1), f"by {column}", *filter(None, [noise])]),
                                "gap in WER, points", results.levels(noise), list(_gap_curves(results, system, column, noise)))
                       for system, column, noise in shown], columns=2 if len(results.noises) == 2 else 3, height=2.2)
    for column in kept:
        same = [axis for axis, (_, one, _) in zip(sheet.axes, shown, strict=True) if one == column]
        high = max(axis.get_ylim()[1] for axis in same)
        for axis in same:
            axis.set_ylim(0, high)
            axis.locator_params(axis="y", integer=True)
    sheet.label_left()
    return sheet.finish()


def _gap_curves(results: ResultTable, system: str, column: str, noise: str | None) -> Iterator[Curve]:
    for modality in INPUT_MODALITIES:
        cells = {condition[1]: results.find(system, modality, condition) for condition in results.conditions(noise)}
        points = [(snr_db, found.gap if modality != "v" else found.gap.percent) for snr_db, cell in cells.items()
                  if cell is not None and (found := groups_of(results, column, cell)) and found.gap is not None]
        yield Curve(system_style(results, system, modality), points, level=modality == "v")
