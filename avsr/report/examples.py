"""Utterances to look at: rows in, those that both sound and lips got worst and best, with what was written and recordings, out.

    Book, media folder  ->  worst_and_best(book, media) -> Examples
Recordings are data URIs, so that the page needs no other file.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from avsr.metrics import NOTHING, Cell, extremes, scored
from avsr.names import file_name
from avsr.report.book import Book, name_of
from avsr.report.runs import NAMES
from avsr.text import normalise

MOST_BYTES = 3_000_000                                      # of a recording: the page must open on a telephone
N_EXAMPLES = 6                                              # of the worst, and of the best
TYPES = {".mp4": "video/mp4", ".webm": "video/webm", ".m4a": "audio/mp4", ".wav": "audio/wav", ".mp3": "audio/mpeg"}


@dataclass(frozen=True)
class Word:
    """A word of a text, and whether it is right, wrong (for another), added, or lost."""

    text: str
    fate: str


@dataclass(frozen=True)
class Written:
    """What was written at one condition."""

    by: str
    words: list[Word]
    percent: float | None


@dataclass(frozen=True)
class Example:
    """One utterance. recording: a data URI, None where there is none.  sound, both: WER % over all conditions."""

    id: str
    speaker: str | None
    reference: str
    sound: float | None
    both: float | None
    written: list[Written]
    recording: str | None
    is_video: bool


@dataclass(frozen=True)
class Examples:
    """system and modality: whose. notes: recordings that were left out."""

    system: str
    modality: str
    worst: list[Example]
    best: list[Example]
    notes: list[str]


def worst_and_best(book: Book, media: Path) -> Examples:
    """By WER over all conditions with the picture unharmed; among equals the best are those that sound alone got worst."""
    system = book.systems[0]
    there = {cell.modality for cell in book.cells if cell.system == system}
    modality = next(one for one in ("av", "a", "v") if one in there)
    whole, heard = (_by_utterance(book, system, one) for one in (modality, "a"))
    nothing = heard.get("", NOTHING)
    worst, best = extremes([row for rows in book.cells.values() for row in rows], system, N_EXAMPLES)
    rows = _rows_of(book, system, {*worst, *best})
    notes: list[str] = []

    def example(one: str) -> Example:
        found = rows[one]
        recording, is_video = _recording(media, one, notes)
        return Example(one, next(iter(found.values())).speaker, normalise(next(iter(found.values())).reference),
                       heard.get(one, nothing).percent, whole[one].percent, _written(book, found), recording, is_video)

    return Examples(system, modality, [example(one) for one in worst], [example(one) for one in best], notes)


def _by_utterance(book: Book, system: str, modality: str) -> dict:
    """Errors of each utterance over all conditions, pictures unharmed."""
    sums: dict = {}
    for cell, rows in book.cells.items():
        if (cell.system, cell.modality, cell.corruption) == (system, modality, None):
            for row, score in zip(rows, scored(rows), strict=True):
                sums[row.id] = sums.get(row.id, NOTHING) + score
    return sums


def _rows_of(book: Book, system: str, ids: set[str]) -> dict[str, dict[Cell, dict]]:
    found: dict[str, dict[Cell, dict]] = {one: {} for one in ids}
    for cell, rows in book.cells.items():
        if (cell.system, cell.corruption) == (system, None):
            for row in rows:
                if row.id in ids:
                    found[row.id][cell] = row
    return found


def _written(book: Book, found: dict[Cell, dict]) -> list[Written]:
    """By lips, and by sound and both where it is clean and in the loudest of each noise."""
    system = next(iter(found)).system
    conditions = [(None, None), *((noise, book.levels(noise)[-1]) for noise in book.noises)]
    cells = [book.find(system, "v"), *(book.find(system, modality, *one) for one in conditions for modality in ("a", "av"))]
    out = []
    for cell in cells:
        if cell is not None and cell in found:
            row = found[cell]
            by = NAMES[cell.modality] + ("" if cell.modality == "v" else f", {name_of((cell.noise, cell.snr_db))}")
            (score,) = scored([row])
            out.append(Written(by, marked(normalise(row.reference), normalise(row.hypothesis)), score.percent))
    return out


def marked(reference: str, hypothesis: str) -> list[Word]:
    """The words of a hypothesis, with those of the reference that it lost, each with its fate. Both normalised."""
    import jiwer

    said, heard, out = reference.split(), hypothesis.split(), []
    for chunk in jiwer.process_words(reference, hypothesis).alignments[0]:
        here = heard[chunk.hyp_start_idx:chunk.hyp_end_idx]
        fate = {"equal": "right", "substitute": "wrong", "insert": "added"}.get(chunk.type, "lost")
        out += [Word(word, fate) for word in (said[chunk.ref_start_idx:chunk.ref_end_idx] if fate == "lost" else here)]
    return out


def _recording(media: Path, one: str, notes: list[str]) -> tuple[str | None, bool]:
    """A data URI of media/ID.*, if there is one, and whether it has pictures. ID is a name made of the id, or the id itself."""
    for name, (suffix, kind) in product(dict.fromkeys((file_name(one), one)), TYPES.items()):
        path = media / f"{name}{suffix}"
        if not os.path.isfile(path) or not path.resolve().is_relative_to(media.resolve()):
            continue
        data = path.read_bytes()
        if len(data) > MOST_BYTES:
            notes.append(f"{path}: {len(data) / 1e6:.1f} MB is too much for the page (limit {MOST_BYTES / 1e6:g} MB), so it is "
                         "left out.")
            continue
        return f"data:{kind};base64,{base64.b64encode(data).decode()}", kind.startswith("video")
    return None, False


def total(examples: Sequence[Example]) -> int:
    """Characters of recordings in them."""
    return sum(len(example.recording or "") for example in examples)
