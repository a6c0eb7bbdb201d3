"""Tables of scores: rows by condition in, the main table and those beside it out.

    Book  ->  main(book), corruptions(book), kinds(book), gains(book)
Lines that break the law (both at most 0.5 points above the better of sound and lips) are bold and say so.
"""

from __future__ import annotations

from avsr.corrupt import CORRUPTIONS
from avsr.metrics import SLACK, Cell, Gain, Rate, cer, gain, sentence_errors
from avsr.report.book import Book, Condition, Judged, rng, snr_text
from avsr.report.runs import NAMES
from avsr.report.table import Column, Line, Table

LAW = f"both at most {SLACK:g} points above the better of sound and lips"
BROKEN, KEPT = "broken", "kept"
GAIN_DRAWS = 1000                                           # half of the usual: each draw is searched for where it crosses
KEYS = (Column("system", None), Column("noise", None))
SYSTEM = Column("system", "system", words=True)
CONDITION = (Column("modality", "by", words=True), Column("noise", "noise", words=True), Column("snr_db", "SNR, dB", "g"),
             Column("corruption", "picture", words=True), Column("amount", "amount", "g"))


def main(book: Book) -> list[Table]:
    """WER against SNR: a table for each system that sees and each noise, those that only hear beside it."""
    deaf = [system for system in book.systems if system not in book.seeing]
    noises = book.noises or [None]
    return [_main(book, system, noise, deaf) for system in book.seeing or [None] for noise in noises]


def _main(book: Book, system: str | None, noise: str | None, others: list[str]) -> Table:
    columns = [*KEYS, Column("snr_db", "SNR, dB", "g")]
    if system is not None:
        columns += [Column(name, name) for name in ("sound", "lips", "both")]
        columns += [Column("less", "both less the better one", "+.1f"), Column("law", "law", words=True)]
    columns += [Column(f"{other} sound", other) for other in others]
    lines = []
    for condition in book.conditions(noise):
        values, bold = [system, noise, level_of(condition[1])], False
        if system is not None:
            judged = book.judged(system, condition)
            bold = judged.kept is False
            values += [book.rate(judged.sound), book.rate(judged.lips), book.rate(judged.both), *_less(judged)]
        values += [book.rate(book.find(other, "a", *condition)) for other in others]
        lines.append(Line(tuple(values), bold))
    who = f"{system}, " if system is not None and len(book.systems) > 1 else ""
    kept = [line.values[7] for line in lines if system is not None and line.values[7] is not None]
    note = f"Law ({LAW}): kept at {kept.count(KEPT)} of {len(kept)} levels." if kept else ""
    return Table("main", f"{who}{noise or 'no noise'}: WER %", tuple(columns), tuple(lines), note)


def level_of(snr_db: float | None) -> str | float:
    """An SNR as tables have it: a number, or `clean`."""
    return "clean" if snr_db is None else snr_db


def condition_of(cell: Cell) -> tuple:
    """What the columns CONDITION hold. To lips alone it is neither clean nor noisy."""
    level = None if cell.modality == "v" else level_of(cell.snr_db)
    return NAMES[cell.modality], cell.noise, level, cell.corruption, cell.amount


def _less(judged: Judged) -> tuple[Rate | None, str | None]:
    """The difference, and the law in a word."""
    if judged.less is None:
        return None, None
    return judged.less.rate, KEPT if judged.kept else BROKEN


def corruptions(book: Book) -> list[Table]:
    """What damage to the picture does, by system, at each condition at which both were measured with it."""
    out = []
    for system in book.damaged:
        found = {(cell.noise, cell.snr_db): None for cell in book.cells
                 if cell.system == system and cell.modality == "av" and cell.corruption is not None}
        out.append(_corruptions(book, system, list(found) or [(None, None)]))
    return out


def _corruptions(book: Book, system: str, conditions: list[Condition]) -> Table:
    columns = (Column("system", None), Column("noise", "noise", words=True), Column("snr_db", "SNR, dB", "g"),
               Column("corruption", "picture", words=True), Column("amount", "amount", "g"),
               *(Column(name, name) for name in ("sound", "lips", "both")),
               Column("less", "both less the better one", "+.1f"), Column("law", "law", words=True),
               Column("cost", "both less both unharmed", "+.1f"))
    lines = []
    for condition in conditions:
        for damage in [(None, None), *book.damages()]:
            judged = book.judged(system, condition, damage)
            if judged.both is None and judged.lips is None:
                continue
            whole = book.find(system, "av", *condition)
            cost = book.less(judged.both, whole).rate if judged.both and whole and damage[0] else None
            rates = [book.rate(one) for one in (judged.sound, judged.lips, judged.both)]
            lines.append(Line((system, condition[0], level_of(condition[1]), damage[0] or "unharmed", damage[1], *rates,
                               *_less(judged), cost), judged.kept is False))
    units = "; ".join(f"{name}: {CORRUPTIONS[name].about}" + (f", {CORRUPTIONS[name].unit}" if CORRUPTIONS[name].unit else "")
                      for name in dict.fromkeys(name for name, _ in book.damages()) if name in CORRUPTIONS)
    return Table("corruptions", f"{system}: WER % when the picture is bad", columns, tuple(lines), f"{units}." if units else "")


def kinds(book: Book) -> Table:
    """Errors by kind, for every cell but those in which nothing was sensed."""
    columns = (SYSTEM, *CONDITION, Column("utterances", "utterances"), Column("wer", "WER %"),
               Column("substitutions", "swapped"), Column("insertions", "added"), Column("deletions", "lost"),
               Column("sentences", "sentences wrong"), Column("cer", "CER %"))
    lines = [Line((cell.system, *condition_of(cell), *_kinds(book, cell))) for cell in ordered(book) if cell.modality != "none"]
    return Table("errors", "Errors by kind, % of the words", columns, tuple(lines),
                 "Swapped, added and lost words (substitutions, insertions, deletions) add up to WER. CER counts characters.")


def _kinds(book: Book, cell: Cell) -> tuple:
    rows, rate = book.cells[cell], book.rate(cell)
    counts = (rate.score.substitutions, rate.score.insertions, rate.score.deletions)
    parts = [100 * count / rate.score.words if rate.score.words else None for count in counts]
    return (len(rows), rate, *parts, sentence_errors(rows, rng=rng()), cer(rows, rng=rng()))


def ordered(book: Book) -> list[Cell]:
    """Cells by system, modality, noise, SNR from clean to loud, and corruption."""
    damages = [(None, None), *book.damages()]
    noises = [None, *book.noises]

    def place(cell: Cell) -> tuple:
        damage = damages.index((cell.corruption, cell.amount))
        loud = 0.0 if cell.snr_db is None else -cell.snr_db
        return book.systems.index(cell.system), list(NAMES).index(cell.modality), damage, noises.index(cell.noise), loud

    return sorted(book.cells, key=place)


def gains(book: Book) -> Table | None:
    """Effective SNR gain: how many dB less noise sound alone would need to be as good as both."""
    levels = [snr for snr in book.levels() if snr is not None]
    found = {(system, noise, snr): gain_at(book, system, noise, snr)
             for system in book.seeing for noise in book.noises for snr in levels}
    told = {key[2] for key, one in found.items() if one is not None and one.beyond != 0}
    levels = [snr for snr in levels if snr in told]         # at the highest, being better is beyond what was measured
    lines = [Line((system, noise, *values)) for system in book.seeing for noise in book.noises
             if any(values := [found[system, noise, snr] for snr in levels])]
    if not lines:
        return None
    columns = (SYSTEM, CONDITION[1], *(Column(f"at_{snr:g}_db", f"at {snr_text(snr)} dB") for snr in levels))
    return Table("gains", "What seeing is worth, in dB", columns, tuple(lines),
                 "Effective SNR gain: sound alone would need so many dB less noise to reach the WER that both have here. "
                 "> and <: beyond the levels measured.")


def gain_at(book: Book, system: str, noise: str, snr_db: float) -> Gain | None:
    """None where sound or both were not measured there, or not of the same utterances: a run that is not whole."""
    cells = [book.find(system, modality, noise, snr_db) for modality in ("a", "av")]
    if None in cells:
        return None
    ids = {row.id for row in book.cells[cells[1]]}
    curve = [cell for cell in book.cells if cell == Cell(system, "a", noise, cell.snr_db) and cell.snr_db is not None]
    if any(ids != {row.id for row in book.cells[cell]} for cell in curve):
        return None
    return book.once((gain, system, noise, snr_db),
                     lambda: gain(book.cells, system, noise, snr_db, rng=rng(), n_draws=GAIN_DRAWS))
