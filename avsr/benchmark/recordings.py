"""Recordings that a benchmark writes: every mixture of speech and noise, and samples for the report's page.

    Mixture  ->  FOLDER/NOISE/SNR/ID.wav (32-bit float, so that nothing is clipped), and a line of FOLDER/audio.jsonl each
    rows + cache  ->  FOLDER/media/ID.mp4: the mouth, and the sound as recorded, of the best and the worst utterances
Other systems transcribe the mixtures, and `avsr benchmark --rows FILE` reads what they wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from avsr import media
from avsr.cache import read_entry
from avsr.dataset import ManifestRow
from avsr.errors import BadOutput
from avsr.manifest import Utterance
from avsr.metrics import worst_and_best_ids
from avsr.names import file_name
from avsr.output import REMEDY, reason_of, whole_file, write_file
from avsr.rates import SAMPLE_RATE
from avsr.results import ResultRow, json_line
from avsr.runtime import Progress, no_progress

INDEX = "audio.jsonl"
MEDIA = "media"
N_SAMPLES = 5                                               # of the worst utterances, and of the best, of each system
SAMPLE_CRF = 23                                             # video quality: 30 kB for 3 s, and the page holds all samples


@dataclass(frozen=True)
class Mixture:
    """One utterance in one noise: audio (S,) float32; noise and SNR in dB None for clean; facts: fields of its row."""

    utterance: Utterance
    noise: str | None
    snr_db: float | None
    audio: np.ndarray
    facts: dict[str, Any]


def write_mixtures(folder: Path, mixtures: Iterable[Mixture], total: int, progress: Progress = no_progress) -> None:
    """Write all mixtures and their index. total: how many there are. Raises BadOutput."""
    import soundfile

    lines = []
    try:
        for n_done, mixture in enumerate(mixtures, 1):
            level = "clean"
            if mixture.noise is not None and mixture.snr_db is not None:
                level = f"{file_name(mixture.noise)}/{_decibels(mixture.snr_db)}"
            path = folder / level / f"{file_name(mixture.utterance.id)}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            wav = BytesIO()                                 # soundfile's own errors say `System error` where the disk is full
            soundfile.write(wav, mixture.audio, SAMPLE_RATE, format="WAV", subtype="FLOAT")
            with whole_file(path) as fresh:
                fresh.write_bytes(wav.getvalue())
            lines.append(json_line({
                "id": mixture.utterance.id, "file": path.relative_to(folder).as_posix(), "noise": mixture.noise,
                "snr_db": mixture.snr_db, **mixture.facts, "reference": mixture.utterance.text}))
            progress("writing mixes", n_done, total, "files")
    except OSError as error:
        raise BadOutput(f"{folder}: a mix cannot be written ({reason_of(error)}).  {REMEDY}") from error
    write_file(folder / INDEX, "".join(lines))


def _decibels(snr_db: float) -> str:
    """`-5`, `2.5`; with as many digits as tell it from any other."""
    return f"{snr_db:g}" if float(f"{snr_db:g}") == snr_db else repr(snr_db)


def write_samples(folder: Path, rows: Iterable[ResultRow], utterances: Mapping[str, ManifestRow]) -> None:
    """Write those of each system's best and worst utterances that are not there yet. Raises BadOutput."""
    rows = list(rows)
    wanted = {one for system in {row.system for row in rows} for ids in worst_and_best_ids(rows, system, N_SAMPLES)
              for one in ids}
    (folder / MEDIA).mkdir(parents=True, exist_ok=True)
    for one in sorted(wanted & set(utterances)):
        cached = read_entry(utterances[one].base, utterances[one].cache)
        path = folder / MEDIA / f"{file_name(one)}{'.mp4' if cached.images is not None else '.m4a'}"
        if not path.exists():
            media.write(cached.images, path, audio=cached.audio, crf=SAMPLE_CRF)
