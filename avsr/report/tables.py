"""Sections of the report, and its tables: the result table in; scores, errors by kind, gains, counts and speed out.

Rows that break the no-harm criterion (both at most 0.5 points above the better of sound and video) stand out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from avsr.corrupt import CORRUPTIONS
from avsr.html.table import P_VALUE, TEXT, Column, Row, Table
from avsr.metrics import NO_HARM_TOLERANCE, Cell, Gain, cer, empty_references, gain, sentence_errors
from avsr.names import MODALITY_NAMES
from avsr.report.result_table import CLEAN, INTACT, Condition, NoHarm, ResultTable, rng, snr_text
from avsr.report.runs import Run
from avsr.report.sheet import Sheet
from avsr.results import ResultRow

CRITERION = f"both at most {NO_HARM_TOLERANCE:g} points above the better of sound and video"
BROKEN, KEPT = "broken", "kept"
GAIN_DRAWS = 1000                                           # half of the usual: each draw is searched for where it crosses
WORDS = ("system", "modality", "noise", "run", "reason", "worst", "best", "said", "written", "corruption", "ids", "device",
         "column")
COLUMNS = {name: Column(name, TEXT) for name in WORDS} | {
    "snr_db": Column("SNR, dB", "g"), "amount": Column("amount", "g"),
    "no_harm": Column("no harm", TEXT),
    "difference": Column("both minus the better", "+.1f"), "cost": Column("both minus both with intact video", "+.1f"),
    "p": Column("p", P_VALUE), "wer": Column("WER %"), "cer": Column("CER %"), "sentences": Column("sentences wrong"),
    "minutes": Column("minutes of speech"), "incomplete": Column("of them incomplete"), "ratio": Column("ratio", ".2f"),
    "empty": Column("references without a word"), "off_db": Column("SNR off by at most, dB", ".4f"),
    "audio_s": Column("seconds of speech", ",.0f"), "seconds": Column("seconds taken", ",.1f"),
    "real_time_factor": Column("real-time factor", ".3f"), "times_real_time": Column("times real time", ",.1f"),
    "peak_mb": Column("peak memory, MB", ",.0f"), "gap": Column("gap, points"), "worst_wer": Column("its WER %"),
    "best_wer": Column("its WER %"), "share": Column("% of what was said")}


@dataclass
class Section:
    """A part of the report. Plots (by name) and tables may be None, where there is nothing to show, and are left out.

    about: a sentence below the heading.  examples: lists of utterances by heading.
    """

    name: str
    title: str
    plots: Mapping[str, Sheet | None] = field(default_factory=dict)
    tables: Sequence[Table | None] = ()
    notes: Sequence[str] = ()
    about: str = ""
    examples: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sheets = {name: sheet for name, sheet in self.plots.items() if sheet is not None}
        self.all_tables = [table for table in self.tables if table is not None]
        self.shown_tables = [table for table in self.all_tables if not table.csv_only]
        self.empty = not (self.sheets or self.all_tables or self.notes or self.examples)


def make_table(name: str, title: str, rows: Sequence[Row], note: str = "", *, hidden: Collection[str] = (),
               columns: dict[str, Column] | None = None, csv_only: bool = False,
               strong: Mapping[int, Collection[str]] | None = None) -> Table | None:
    """A table of these rows, None without any. columns: those that are not in COLUMNS or differ from it; others have their
    name as the heading.  hidden: columns for the CSV alone.  Rows that break the no-harm criterion are highlighted."""
    known = COLUMNS | (columns or {})
    found = {column: known.get(column, Column(column)) for row in rows for column in row}
    found |= {column: found[column]._replace(title=None) for column in hidden if column in found}
    highlighted = [number for number, row in enumerate(rows) if row.get("no_harm") == BROKEN]
    return Table(name, title, found, rows, note, csv_only, highlighted, strong or {}) if rows else None


def noise_values(condition: Condition) -> Row:
    """A condition as columns; its SNR is a number, or `clean`."""
    return {"noise": condition[0], "snr_db": "clean" if condition[1] is None else condition[1]}


def cell_values(cell: Cell, *, corruption: bool = True) -> Row:
    """A cell as columns, with its corruption or without. Video alone is neither clean nor noisy."""
    noise = {"noise": None, "snr_db": None} if cell.modality == "v" else noise_values((cell.noise, cell.snr_db))
    return {"system": cell.system, "modality": MODALITY_NAMES[cell.modality].short, **noise,
            **({"corruption": cell.corruption, "amount": cell.amount} if corruption else {})}


def main_table(results: ResultTable, system: str | None, noise: str | None) -> Table | None:
    """WER against SNR in one noise: a system with video, if there is one, and all systems without video beside it."""
    others = {f"{other} sound": other for other in results.systems if other not in results.video_systems}
    rows = []
    for condition in results.conditions(noise):
        row: dict[str, Any] = {"system": system, **noise_values(condition), "noise": noise}
        if system is not None:
            row |= no_harm_values(results, results.no_harm(system, condition))
        rows.append(row | {column: results.rate(results.find(other, "a", condition)) for column, other in others.items()})
    who = f"{system}, " if system is not None and len(results.systems) > 1 else ""
    judged = [row["no_harm"] for row in rows if row.get("no_harm") is not None]
    note = f"No-harm criterion ({CRITERION}): kept at {judged.count(KEPT)} of {len(judged)} levels." if judged else ""
    return make_table("main", f"{who}{noise or 'no noise'}: WER %", rows, note, hidden=("system", "noise"),
                      columns={column: Column(other) for column, other in others.items()})


def no_harm_values(results: ResultTable, found: NoHarm) -> Row:
    """Rates of sound, video and both, their difference, and the criterion in a word, as columns."""
    return {**{MODALITY_NAMES[modality].short: results.rate(cell) for modality, cell in found.cells.items()},
            "difference": found.difference, "no_harm": None if found.kept is None else KEPT if found.kept else BROKEN}


def corruption_tables(results: ResultTable) -> list[Table | None]:
    """What corrupted video does, by system, at each condition at which both were measured with it."""
    kinds = {name: CORRUPTIONS[name] for name, _ in results.corruptions if name in CORRUPTIONS}
    units = "; ".join(f"{name}: {kind.about}" + (f", {kind.unit}" if kind.unit else "") for name, kind in kinds.items())
    out = []
    for system in results.corrupted_systems:
        rows = []
        for condition in results.corrupted_conditions(system) or [CLEAN]:
            intact = results.find(system, "av", condition)
            for corruption in [INTACT, *results.corruptions]:
                found = results.no_harm(system, condition, corruption)
                both = found.cells["av"]
                if both is None and found.cells["v"] is None:
                    continue
                cost = results.difference(both, intact).difference if both and intact and corruption[0] else None
                rows.append({"system": system, **noise_values(condition), "corruption": corruption[0] or "intact",
                             "amount": corruption[1], **no_harm_values(results, found), "cost": cost})
        out.append(make_table("corruptions", f"{system}: WER % with corrupted video", rows, f"{units}." if units else "",
                              hidden=("system",)))
    return out


def ordered_cells(results: ResultTable) -> list[Cell]:
    """Cells by system, modality, corruption, noise, and SNR from clean to loud noise."""
    corruptions, noises = [INTACT, *results.corruptions], [None, *results.noises]
    return sorted(results.cells, key=lambda cell: (
        results.systems.index(cell.system), list(MODALITY_NAMES).index(cell.modality),
        corruptions.index((cell.corruption, cell.amount)), noises.index(cell.noise),
        0.0 if cell.snr_db is None else -cell.snr_db))


def error_table(results: ResultTable) -> Table | None:
    """Errors by kind, for every cell but those without any input."""
    rows = []
    for cell in ordered_cells(results):
        if cell.modality == "none":
            continue
        found, rate = results.cells[cell], results.rate(cell)
        assert rate is not None
        kinds = {kind: 100 * getattr(rate.score, kind) / rate.score.words if rate.score.words else None
                 for kind in ("substitutions", "insertions", "deletions")}
        rows.append({**cell_values(cell), "utterances": len(found), "wer": rate, **kinds,
                     "sentences": sentence_errors(found, rng=rng()), "cer": cer(found, rng=rng())})
    return make_table("errors", "Errors by kind, % of the words", rows,
                      "Substitutions, insertions and deletions add up to WER. CER counts characters.")


def gain_table(results: ResultTable) -> Table | None:
    """Effective SNR gain: how many dB less noise sound alone would need to be as good as both."""
    found = {(system, noise): {snr: snr_gain(results, system, noise, snr) for snr in results.levels() if snr is not None}
             for system in results.video_systems for noise in results.noises}
    # At the highest level every improvement is beyond what was measured.
    levels = [snr for snr in results.levels() if snr is not None
              and any((one := gains[snr]) is not None and one.beyond != 0 for gains in found.values())]
    rows = [{"system": system, "noise": noise, **{f"at_{snr:g}_db": gains[snr] for snr in levels}}
            for (system, noise), gains in found.items() if any(gains[snr] for snr in levels)]
    return make_table("gains", "Effective SNR gain of video, in dB", rows,
                      "Sound alone would need so many dB less noise to reach the WER that both have here. > and <: beyond the "
                      "levels measured.", columns={f"at_{snr:g}_db": Column(f"at {snr_text(snr)} dB") for snr in levels})


def snr_gain(results: ResultTable, system: str, noise: str, snr_db: float) -> Gain | None:
    """None where sound or both were not measured there, or not on the same utterances: a run that is not whole."""
    sound, both = (results.find(system, modality, (noise, snr_db)) for modality in ("a", "av"))
    if sound is None or both is None:
        return None
    ids = {row.id for row in results.cells[both]}
    curve = [cell for cell in results.cells if cell == Cell(system, "a", noise, cell.snr_db) and cell.snr_db is not None]
    if any(ids != {row.id for row in results.cells[cell]} for cell in curve):
        return None
    return results.once((gain, system, noise, snr_db),
                        lambda: gain(results.cells, system, noise, snr_db, rng=rng(), n_draws=GAIN_DRAWS))


def speed_table(runs: Sequence[Run]) -> Table | None:
    """Time and memory by system and modality; the first batch of each, which pays for starting up, counts as well."""
    batches: dict[tuple, list[dict]] = defaultdict(list)
    for batch in (batch for run in runs for batch in run.timings):
        batches[batch["system"], batch["modality"], batch.get("device")].append(batch)
    rows = []
    for system, modality, device in sorted(batches, key=lambda key: (key[0], list(MODALITY_NAMES).index(key[1]), str(key[2]))):
        same = batches[system, modality, device]
        audio, seconds = (float(sum(batch[name] for batch in same)) for name in ("audio_s", "seconds"))
        peaks = [float(batch["peak_mb"]) for batch in same if batch.get("peak_mb") is not None]
        rows.append({"system": system, "modality": MODALITY_NAMES[modality].short, "device": device,
                     "clips": sum(batch["clips"] for batch in same), "audio_s": audio, "seconds": seconds,
                     "real_time_factor": seconds / audio if audio else None,
                     "times_real_time": audio / seconds if seconds else None, "peak_mb": max(peaks, default=None)})
    return make_table("speed", "Speed and memory", rows, "Real-time factor: seconds taken for a second of speech.")


def count_table(runs: Sequence[Run]) -> Table | None:
    """How many rows, utterances and speakers, and how near the SNR achieved came to the one asked for."""
    rows = [{"run": run.name, "system": system, **_counts([row for row in run.rows if row.system == system])}
            for run in runs for system in dict.fromkeys(row.system for row in run.rows)]
    return make_table("counts", "What was measured", rows,
                      "Incomplete: conditions in which some utterance of the run has no row. Utterances whose reference has no "
                      "word count: every word written for them is an insertion.")


def _counts(rows: Sequence[ResultRow]) -> Row:
    seconds = {row.id: row.duration_s or 0.0 for row in rows}
    conditions = Counter(Cell.of(row) for row in rows)
    off = [abs(row.snr_achieved - row.snr_db) for row in rows if row.snr_achieved is not None and row.snr_db is not None]
    return {"rows": len(rows), "utterances": len(seconds), "speakers": len({row.speaker for row in rows} - {None}),
            "minutes": sum(seconds.values()) / 60, "conditions": len(conditions),
            "incomplete": sum(n < len(seconds) for n in conditions.values()),
            "empty": empty_references({row.id: row for row in rows}.values()),
            "off_db": max(off, default=None)}


def skipped_table(runs: Sequence[Run]) -> Table | None:
    """Utterances that were skipped, by reason."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for run in runs:
        for one in run.about.get("skipped", ()):
            found[run.name, one["reason"]].append(one["id"])
    rows = [{"run": run, "reason": reason, "utterances": len(ids),
             "ids": ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")}
            for (run, reason), ids in found.items()]
    return make_table("skipped", "What was left out, and why", rows)
