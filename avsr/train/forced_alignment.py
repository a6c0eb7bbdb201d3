"""The sound teaches the lips: word times for utterances that have none, by aligning their text to their own sound.

    Rows without word times + a model that hears -> the same Rows with them, remembered in the run's folder
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import torch

from avsr import checkpoint
from avsr.cache import read_entry
from avsr.checkpoint import Checkpoint
from avsr.dataset import ManifestRow
from avsr.errors import BadConfig
from avsr.manifest import TimedWord
from avsr.output import append_lines
from avsr.rates import SAMPLE_RATE, VIDEO_FPS
from avsr.recogniser import Recogniser
from avsr.runtime import Progress
from avsr.text import target_tokens

AT_ONCE = 8                                                 # utterances
REMEDY = "Set data.align to a model that does, such as tiny.en for English or base for other languages, or to none."

Times = list[tuple[str, float, float]]


def timed(rows: Sequence[ManifestRow], model: str | Path, memory: Path, device: torch.device, progress: Progress) -> list[ManifestRow]:
    """Rows, those without word times given them by `model`, which hears the cached sound (see align.py for the method).

    memory: a JSON Lines file of what was found before; a last line that a kill cut short is found again. Rows without
    sound stay as they are, and so do those whose text or sound is longer than the model can take. Raises BadConfig where
    the model cannot hear, or cannot write the language of a row.
    """
    known = _remembered(memory)
    todo = [row for row in rows if row.utterance.words is None and "a" in row.utterance.cache.modality
            and row.utterance.id not in known]
    if todo:
        teacher = checkpoint.load(model, lips=False, device=device, progress=progress)
        _check(teacher, todo, model)
        n_done = 0
        for some in _batches(todo):
            progress("finding word times", n_done, len(todo), "utterances")
            found = {row.utterance.id: words for row, words in zip(some, _align(teacher, some), strict=True)}
            known |= found
            append_lines(memory, "".join(json.dumps({"id": id_, "words": words}, ensure_ascii=False) + "\n"
                                         for id_, words in found.items()))
            n_done += len(some)
        progress("finding word times", n_done, len(todo), "utterances")
    return [row if known.get(row.utterance.id) is None else replace(row, utterance=replace(
        row.utterance, words=tuple(TimedWord(*word) for word in known[row.utterance.id]))) for row in rows]


def _remembered(memory: Path) -> dict[str, Times | None]:
    """Words by id, None where there can be none; what follows the last whole line is left out."""
    text = memory.read_bytes() if memory.exists() else b""
    return {entry["id"]: entry["words"] for entry in map(json.loads, text.split(b"\n")[:-1])}


def _check(teacher: Checkpoint, rows: Sequence[ManifestRow], model: str | Path) -> None:
    """Raises BadConfig where the teacher cannot tell when the words of these rows were said."""
    if "a" not in teacher.modalities:
        how = "lips alone" if teacher.modalities == ("v",) else "sound and lips together"
        raise BadConfig(f"data.align {model}: this model goes by {how}, and word times are found by sound alone, which it "
                        f"does not hear.  {REMEDY}")
    others = Counter(row.utterance.language for row in rows if row.utterance.language not in teacher.languages)
    for language, count in others.most_common(1):
        first = next(row.utterance.id for row in rows if row.utterance.language == language)
        raise BadConfig(f"data.align {model}: {count} utterances, {first} for one, are in language {language!r}, which this "
                        f"model does not write.  {REMEDY}")


def _batches(rows: Sequence[ManifestRow]) -> Iterator[list[ManifestRow]]:
    """Rows of one language at a time, as the language decides where words part."""
    for _, group in groupby(sorted(rows, key=lambda row: row.utterance.language), key=lambda row: row.utterance.language):
        theirs = list(group)
        yield from (theirs[first:first + AT_ONCE] for first in range(0, len(theirs), AT_ONCE))


@torch.inference_mode()
def _align(teacher: Checkpoint, rows: Sequence[ManifestRow]) -> list[Times | None]:
    """The words of each row, all of one language; None of a row that is longer than the teacher can take."""
    language, found = rows[0].utterance.language, dict.fromkeys(range(len(rows)))
    prompt = teacher.tokenizer.prompt(language)
    texts = [target_tokens(teacher.tokenizer, row.utterance.text) for row in rows]
    fitting = [i for i, row in enumerate(rows) if _fits(teacher, row, len(prompt) + len(texts[i]) + 1)]
    if fitting:
        sounds = [read_entry(rows[i].base, rows[i].utterance.cache).audio for i in fitting]
        recogniser = Recogniser(teacher)
        words = recogniser.align(recogniser.encode(sounds, None, "a"), [texts[i] for i in fitting],
                                 [len(sound) / SAMPLE_RATE for sound in sounds], language)
        found |= dict(zip(fitting, words, strict=True))
    # A language without spaces makes a word of the one that begins the text.
    return [None if words is None else [(word.text.strip(), round(word.start, 3), round(word.end, 3))
                                        for word in words if word.text.strip()] for words in found.values()]


def _fits(teacher: Checkpoint, row: ManifestRow, n_tokens: int) -> bool:
    """Whether the teacher has room for so many tokens, prompt and end among them, and for all of the row's sound."""
    n_context = getattr(teacher.model.dims, "n_context", None)                # None: of imported networks, without an end
    long = teacher.pad_seconds is not None and row.n_frames > teacher.pad_seconds * VIDEO_FPS
    return not long and (n_context is None or n_tokens <= n_context)
