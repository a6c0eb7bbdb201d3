"""Word error rates of speakers and groups, the gaps between them, and whether video widens these.

Groups with fewer speakers than metrics' floor are named and not judged.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from avsr.errors import AvsrError
from avsr.html.table import P_VALUE, TEXT, Column, Row, Table
from avsr.metrics import Cell, FaceEffect, Groups, by_group, columns, face_effect
from avsr.names import INPUT_MODALITIES, MODALITY_NAMES
from avsr.report.result_table import ResultTable, condition_name, rng
from avsr.report.sheet import Curve, Sheet, SnrPanel, snr_sheet, system_style
from avsr.report.tables import Section, cell_values, make_table, noise_values

NOTE = "p: how often random groups have as large a gap."
CellGroups = dict[Cell, Groups]                             # of one column


def group_section(results: ResultTable, asked: Sequence[str] | None) -> Section:
    """By the columns asked for, or by speaker and every label. Raises AvsrError where one asked for is missing."""
    notes: list[str] = []
    kept: dict[str, CellGroups] = {}
    for column in _columns(results, asked):
        found = _groups_by_cell(results, column)
        if any(groups.gap for groups in found.values()):
            kept[column] = found
        else:
            floor = next((f"{groups.floor} {groups.by}s" for groups in found.values()), "any rows")
            notes.append(f"By {column}: insufficient data, fewer than two groups have {floor}.")
    faces, more = mismatched_face_table(results, list(kept) or ["speaker"])
    tables = [table for column, found in kept.items()
              for table in (_rates_across(results, column, found), _gaps(column, found), _rates(column, found))]
    return Section("groups", "Error rates by group", {"groups": _sheet(results, kept)},
                   [*tables, video_gain_table(results, list(kept)), faces], [*notes, *more])


def _columns(results: ResultTable, asked: Sequence[str] | None) -> list[str]:
    found = columns(results.rows)
    if missing := [name for name in asked or () if name not in found]:
        raise AvsrError(f"--group-by {missing[0]}: no row has this label; there are {', '.join(found) or 'none'}.  Choose one "
                        "of those, or add the label to the manifest and run the benchmark again.")
    return found if asked is None else list(dict.fromkeys(asked))


def _groups_by_cell(results: ResultTable, column: str) -> CellGroups:
    """The groups of each cell with intact pictures whose rows have the column, which those of an external system may lack.
    Where some systems have video, the others are shown in a few conditions only."""
    every = results.video_systems or results.systems
    found = [results.find(system, modality, condition) for system in results.systems for modality in INPUT_MODALITIES
             for condition in (results.all_conditions if system in every else results.main_conditions)]
    return {cell: by_group(results.cells[cell], column, rng=rng()) for cell in dict.fromkeys(found) if cell is not None
            and column in columns(row for row in results.cells[cell] if row.speaker is not None)}


def _gaps(column: str, found: CellGroups) -> Table | None:
    rows = [{"column": column, **cell_values(cell, corruption=False), "gap": one.gap, "p": one.p, "ratio": one.ratio,
             "worst": one.worst, "worst_wer": one.rates[one.worst], "best": one.best, "best_wer": one.rates[one.best],
             "groups": len(one.rates)}
            for cell, one in found.items() if one.worst is not None and one.best is not None]
    return make_table(f"gaps-{column}", f"By {column}: the worst group minus the best", rows, _note(list(found.values())),
                      hidden=("column",))


def _note(judged: Sequence[Groups]) -> str:
    """What p means, and who was not judged."""
    insufficient = {group: n for found in judged for group, n in found.insufficient.items()}
    without = max(found.without for found in judged)
    by, floor = judged[0].by, judged[0].floor
    few = ", ".join(f"{group} ({insufficient[group]} of {floor} {by}s)" for group in sorted(insufficient, key=natural_order))
    return (NOTE + (f" Insufficient data, not judged: {few}." if few else "")
            + (f" Without this label: {without} utterances." if without else ""))


def _rates(column: str, found: CellGroups) -> Table | None:
    """Each group at each condition: for CSV, as there are too many to read."""
    rows = [{"column": column, "group": group, **cell_values(cell, corruption=False), "wer": rate,
             "utterances": rate.utterances, "speakers": rate.clusters if rate.by == "speaker" else 1}
            for cell, one in found.items() for group, rate in one.rates.items()]
    return make_table("groups", f"By {column}: each group", rows, csv_only=True)


def _rates_across(results: ResultTable, column: str, found: CellGroups) -> Table | None:
    """Groups down; systems and modalities across, clean and at the level nearest 0 dB of each noise."""
    across: dict[str, Groups] = {}
    for cell, groups in found.items():
        condition = cell.noise, cell.snr_db
        who = ("" if len(results.systems) == 1 else f"{cell.system}, ") + MODALITY_NAMES[cell.modality].short
        if cell.modality == "v" or condition in results.main_conditions:
            across[who if cell.modality == "v" else f"{who}, {condition_name(condition)}"] = groups
    names = sorted({group for groups in across.values() for group in groups.rates}, key=natural_order)
    rows = [{"column": column, "group": name, **{head: groups.rates.get(name) for head, groups in across.items()}}
            for name in names]
    return make_table(f"each-{column}", f"By {column}: WER % of each group", rows, hidden=("column",),
                      columns={"group": Column(column, TEXT)})


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


def mismatched_face_table(results: ResultTable, names: Sequence[str]) -> tuple[Table | None, list[str]]:
    """The counterfactual test: the same sound with another speaker's face, and whether it matters to which group of the columns
    `names` that face belongs. Returns notes as well."""
    notes = []
    found: dict[Cell, dict[str, FaceEffect]] = defaultdict(dict)
    for cell in results.cells:
        intact = replace(cell, corruption=None, amount=None)
        if cell.corruption != "face" or cell.modality not in ("v", "av") or intact not in results.cells:
            continue
        for name in names:
            try:
                found[cell][name] = face_effect(results.cells[cell], results.cells[intact], column=name, rng=rng())
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


def _sheet(results: ResultTable, kept: Mapping[str, CellGroups]) -> Sheet | None:
    """Gap against SNR by modality, a panel for each column and noise."""
    systems = results.video_systems or results.systems
    shown = [(system, column, noise) for system in systems for column in kept for noise in results.panel_noises]
    if not shown:
        return None
    sheet = snr_sheet([SnrPanel(", ".join([*[system] * (len(systems) > 1), f"by {column}", *filter(None, [noise])]),
                                "gap in WER, points", results.levels(noise),
                                list(_gap_curves(results, system, noise, kept[column])))
                       for system, column, noise in shown], columns=2 if len(results.noises) == 2 else 3, height=2.2)
    for column in kept:
        same = [axis for axis, (_, one, _) in zip(sheet.axes, shown, strict=True) if one == column]
        high = max(axis.get_ylim()[1] for axis in same)
        for axis in same:
            axis.set_ylim(0, high)
            axis.locator_params(axis="y", integer=True)
    sheet.label_left()
    return sheet.finish()


def _gap_curves(results: ResultTable, system: str, noise: str | None, groups: CellGroups) -> Iterator[Curve]:
    for modality in INPUT_MODALITIES:
        cells = {condition[1]: results.find(system, modality, condition) for condition in results.conditions(noise)}
        points = [(snr_db, found.gap if modality != "v" else found.gap.percent) for snr_db, cell in cells.items()
                  if cell is not None and (found := groups.get(cell)) and found.gap is not None]
        yield Curve(system_style(results, system, modality), points, level=modality == "v")
