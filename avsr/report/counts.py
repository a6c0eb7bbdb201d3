"""What was measured, and what was not: runs in, counts, speeds and memory out.

    runs, Book  ->  speeds(runs), measured(runs, book), left_out(runs)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from avsr.report.book import Book
from avsr.report.runs import NAMES, Run
from avsr.report.table import Column, Line, Table
from avsr.report.tables import CONDITION, SYSTEM
from avsr.results import ResultRow
from avsr.text import normalise


def speeds(runs: Sequence[Run]) -> Table | None:
    """Time and memory by system and modality; the first batch of each pays for starting up and counts as well."""
    batches: dict[tuple, list[dict]] = {}
    for run in runs:
        for row in run.timings:
            batches.setdefault((row["system"], row["modality"], row.get("device")), []).append(row)
    if not batches:
        return None
    columns = (SYSTEM, CONDITION[0], Column("device", "on", words=True), Column("clips", "clips"),
               Column("audio_s", "seconds of speech", ",.0f"), Column("seconds", "seconds taken", ",.1f"),
               Column("real_time_factor", "real-time factor", ".3f"), Column("times_real_time", "times real time", ",.1f"),
               Column("peak_mb", "peak memory, MB", ",.0f"))
    lines = []
    order = sorted(batches, key=lambda key: (key[0], list(NAMES).index(key[1]), str(key[2])))
    for (system, modality, device), rows in ((key, batches[key]) for key in order):
        audio, seconds = (sum(row[name] for row in rows) for name in ("audio_s", "seconds"))
        peaks = [row["peak_mb"] for row in rows if row.get("peak_mb") is not None]
        lines.append(Line((system, NAMES[modality], device, sum(row["clips"] for row in rows), float(audio), float(seconds),
                           seconds / audio if audio else None, audio / seconds if seconds else None,
                           float(max(peaks)) if peaks else None)))
    return Table("speed", "Speed and memory", columns, tuple(lines),
                 "Real-time factor: seconds taken for a second of speech.")


def factors(runs: Sequence[Run]) -> list[tuple[str, str, float]]:
    """(system, modality, real-time factor) of those that sense anything."""
    sums: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        for row in run.timings:
            if row["modality"] != "none":
                both = sums.setdefault((row["system"], row["modality"]), [0.0, 0.0])
                both[0] += row["seconds"]
                both[1] += row["audio_s"]
    return [(*key, seconds / audio) for key, (seconds, audio) in sums.items() if audio and seconds]


def measured(runs: Sequence[Run], book: Book) -> Table:
    """How many rows, utterances and speakers, and how near the SNR achieved came to the one asked for."""
    columns = (Column("run", "run", words=True), SYSTEM, Column("rows", "rows"), Column("utterances", "utterances"),
               Column("speakers", "speakers"), Column("minutes", "minutes of speech", ".1f"),
               Column("conditions", "conditions"), Column("incomplete", "of them incomplete"),
               Column("empty", "references without a word"), Column("off_db", "SNR off by at most, dB", ".4f"))
    lines = []
    for run in runs:
        for system in dict.fromkeys(row.system for row in run.rows):
            rows = [row for row in run.rows if row.system == system]
            lines.append(Line((run.name, system, len(rows), *_counted(rows))))
    return Table("counts", "What was measured", columns, tuple(lines),
                 "Incomplete: conditions in which some utterance of the run has no row. Utterances whose reference has no word "
                 "count: what was heard in them was added.")


def _counted(rows: Sequence[ResultRow]) -> tuple:
    seconds = {row.id: row.duration_s or 0.0 for row in rows}
    conditions = Counter((row.modality, row.noise, row.snr_db, row.corruption, row.amount) for row in rows)
    texts = {row.id: row.reference for row in rows}
    off = [abs(row.snr_achieved - row.snr_db) for row in rows
           if row.snr_achieved is not None and row.snr_db is not None]
    speakers = {row.speaker for row in rows} - {None}
    return (len(seconds), len(speakers), sum(seconds.values()) / 60, len(conditions),
            sum(n < len(seconds) for n in conditions.values()), sum(not normalise(text) for text in texts.values()),
            max(off) if off else None)


def left_out(runs: Sequence[Run]) -> Table | None:
    """Utterances that were skipped, by reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for one in run.about.get("skipped", ()):
            found.setdefault((run.name, one["reason"]), []).append(one["id"])
    if not found:
        return None
    columns = (Column("run", "run", words=True), Column("reason", "reason", words=True), Column("utterances", "utterances"),
               Column("ids", "which", words=True))
    lines = [Line((run, reason, len(ids), _some(ids))) for (run, reason), ids in found.items()]
    return Table("skipped", "What was left out, and why", columns, tuple(lines))


def _some(ids: Iterable[str], most: int = 8) -> str:
    ids = list(ids)
    return ", ".join(ids[:most]) + (f" and {len(ids) - most} more" if len(ids) > most else "")
