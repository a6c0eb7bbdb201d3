"""Forced alignment: word times for utterances that have none, found by aligning their text with their audio.

    rows without word times + a model that transcribes audio -> the same rows with them, kept in the run's folder
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
from avsr.checkpoint import Checkpoint
from avsr.dataset import ManifestRow, sound_of
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


def with_word_times(rows: Sequence[ManifestRow], model: str | Path, kept: Path, device: torch.device,
                    progress: Progress) -> list[ManifestRow]:
    """The rows, where those without word times get them from `model` and the cached sound (timing.py has the method).

    kept: a JSON Lines file of earlier results. Rows without sound, and those that are longer than the model can take, stay as
    they are. Raises BadConfig where the model does not transcribe audio, or not in the language of a row.
    """
    known = _read_kept(kept)
    todo = [row for row in rows if row.utterance.words is None and "a" in row.cache.modality
            and row.utterance.id not in known]
    if todo:
        aligner = checkpoint.load(model, lips=False, device=device, progress=progress)
        _check(aligner, todo, model)
        n_done = 0
        for some in _batches(todo):
            progress("finding word times", n_done, len(todo), "utterances")
            found = {row.utterance.id: words for row, words in zip(some, _align(aligner, some), strict=True)}
            known |= found
            append_lines(kept, "".join(json.dumps({"id": id_, "words": words}, ensure_ascii=False) + "\n"
                                       for id_, words in found.items()))
            n_done += len(some)
        progress("finding word times", n_done, len(todo), "utterances")
    return [row if (words := known.get(row.utterance.id)) is None else replace(row, utterance=replace(
        row.utterance, words=tuple(TimedWord(*word) for word in words))) for row in rows]


def _read_kept(path: Path) -> dict[str, Times | None]:
    """Words by id, None for a row that is too long; an incomplete last line is ignored."""
    text = path.read_bytes() if path.exists() else b""
    return {entry["id"]: entry["words"] for entry in map(json.loads, text.split(b"\n")[:-1])}


def _check(aligner: Checkpoint, rows: Sequence[ManifestRow], model: str | Path) -> None:
    """Raises BadConfig where the model cannot align these rows."""
    if "a" not in aligner.modalities:
        how = "video alone" if aligner.modalities == ("v",) else "audio and video together"
        raise BadConfig(f"data.align {model}: this model transcribes {how}, and word times are found from audio alone.  "
                        f"{REMEDY}")
    others = Counter(row.utterance.language for row in rows if row.utterance.language not in aligner.languages)
    for language, count in others.most_common(1):
        first = next(row.utterance.id for row in rows if row.utterance.language == language)
        raise BadConfig(f"data.align {model}: {count} utterances, {first} for one, are in language {language!r}, which this "
                        f"model does not write.  {REMEDY}")


def _batches(rows: Sequence[ManifestRow]) -> Iterator[list[ManifestRow]]:
    """Batches of rows of one language, because the language decides where words are separated."""
    for _, group in groupby(sorted(rows, key=lambda row: row.utterance.language), key=lambda row: row.utterance.language):
        theirs = list(group)
        yield from (theirs[first:first + AT_ONCE] for first in range(0, len(theirs), AT_ONCE))


@torch.inference_mode()
def _align(aligner: Checkpoint, rows: Sequence[ManifestRow]) -> list[Times | None]:
    """The words of each row, all of one language; None for a row that is longer than the model can take."""
    language, found = rows[0].utterance.language, dict.fromkeys(range(len(rows)))
    prompt = aligner.tokenizer.prompt(language)
    texts = [target_tokens(aligner.tokenizer, row.utterance.text) for row in rows]
    fitting = [i for i, row in enumerate(rows) if _fits(aligner, row, len(prompt) + len(texts[i]) + 1)]
    if fitting:
        sounds = [sound for i in fitting if (sound := sound_of(rows[i])) is not None]
        recogniser = Recogniser(aligner)
        words = recogniser.align(recogniser.encode(sounds, None, "a"), [texts[i] for i in fitting],
                                 [len(sound) / SAMPLE_RATE for sound in sounds], language)
        found |= dict(zip(fitting, words, strict=True))
    # In a language without spaces, the space at the start of the text is a word of its own.
    return [None if words is None else [(word.text.strip(), round(word.start, 3), round(word.end, 3))
                                        for word in words if word.text.strip()] for words in found.values()]


def _fits(aligner: Checkpoint, row: ManifestRow, n_tokens: int) -> bool:
    """Whether the model can take n_tokens tokens, with prompt and end, and all of the row's sound."""
    n_context = aligner.model.dims.n_context
    long = aligner.pad_seconds is not None and row.n_frames > aligner.pad_seconds * VIDEO_FPS
    return not long and (n_context is None or n_tokens <= n_context)
