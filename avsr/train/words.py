"""The sound teaches the lips: word times for utterances that have none, by aligning their text to their own sound.

    Rows without word times + a model that hears -> the same Rows with them, remembered in the run's folder
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from avsr import checkpoint
from avsr.align import align
from avsr.cache import read_entry
from avsr.dataset import Row
from avsr.features import log_mel
from avsr.manifest import TimedWord
from avsr.rates import FEATURE_RATE, SAMPLE_RATE
from avsr.runtime import Progress

AT_ONCE = 8                                                 # utterances


def timed(rows: Sequence[Row], model: str | Path, memory: Path, device: torch.device, progress: Progress) -> list[Row]:
    """Rows, those without word times given them by `model`'s cross-attention (see align.py), which hears the cached sound.

    memory: a JSON Lines file of what was found before; a last line that a kill cut short is found again. Rows without
    sound stay as they are.
    """
    known = _remembered(memory)
    todo = [row for row in rows if row.utterance.words is None and "a" in row.utterance.cache.modality
            and row.utterance.id not in known]
    if todo:
        teacher = checkpoint.load(model, lips=False, device=device, progress=progress)
        with memory.open("a") as file:
            for first in range(0, len(todo), AT_ONCE):
                progress("finding word times", first, len(todo))
                some = todo[first:first + AT_ONCE]
                for row, words in zip(some, _align(teacher, some, device), strict=True):
                    known[row.utterance.id] = words
                    file.write(json.dumps({"id": row.utterance.id, "words": words}, ensure_ascii=False) + "\n")
    return [row if row.utterance.id not in known else replace(row, utterance=replace(
        row.utterance, words=tuple(TimedWord(*word) for word in known[row.utterance.id]))) for row in rows]


def _remembered(memory: Path) -> dict[str, list]:
    """Words by id; drops what follows the last whole line from the file."""
    text = memory.read_text() if memory.exists() else ""
    whole = text[:text.rfind("\n") + 1]
    if whole != text:
        memory.write_text(whole)
    return {entry["id"]: entry["words"] for entry in map(json.loads, whole.splitlines())}


@torch.inference_mode()
def _align(teacher: checkpoint.Checkpoint, rows: Sequence[Row], device: torch.device) -> list[list[tuple[str, float, float]]]:
    sounds = [read_entry(row.base, row.utterance.cache).audio for row in rows]
    tokenizer, n_mels = teacher.tokenizer, teacher.model.dims.n_mels
    longest = max(len(sound) for sound in sounds) if teacher.pad_seconds is None else teacher.pad_seconds * SAMPLE_RATE
    mel = torch.zeros(len(rows), -(-longest * FEATURE_RATE // SAMPLE_RATE), n_mels)
    for i, sound in enumerate(sounds):
        columns = log_mel(sound, n_mels=n_mels)[:mel.shape[1]]
        mel[i, :len(columns)] = columns
    lengths = None
    if teacher.pad_seconds is None:
        lengths = torch.tensor([-(-len(sound) * FEATURE_RATE // SAMPLE_RATE) for sound in sounds], device=device)
    found = align(teacher.model, tokenizer, teacher.model.encode(mel.to(device), mel_lengths=lengths),
                  [tokenizer.prompt(row.utterance.language) for row in rows],
                  [tokenizer.encode(f" {row.utterance.text.strip()}") for row in rows],
                  [len(sound) / SAMPLE_RATE for sound in sounds], language=rows[0].utterance.language,
                  heads=teacher.alignment_heads)
    return [[(word.text.strip(), round(word.start, 3), round(word.end, 3)) for word in words] for words in found]
