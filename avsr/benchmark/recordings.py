"""Speech in noise as files: every mix of a benchmark out, for recognisers that are not of this program.

    Mixture -> FOLDER/NOISE/SNR/ID.wav (32-bit float, so that nothing is clipped), and a line of FOLDER/audio.jsonl, which says
    which file is of which id: names.file_name makes a name of each id
What another system writes about them comes back by `avsr benchmark --rows FILE`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from avsr.errors import BadOutput
from avsr.manifest import Utterance
from avsr.names import file_name
from avsr.output import REMEDY, reason_of, whole_file, write_file
from avsr.rates import SAMPLE_RATE
from avsr.runtime import Progress, no_progress

INDEX = "audio.jsonl"


@dataclass(frozen=True)
class Mixture:
    """One utterance in one noise: audio (S,) float32; noise and SNR in dB None for clean; facts: what a row tells of it."""

    utterance: Utterance
    noise: str | None
    snr_db: float | None
    audio: np.ndarray
    facts: dict[str, Any]


def write_mixtures(folder: Path, mixes: Iterable[Mixture], total: int | None = None, progress: Progress = no_progress) -> int:
    """Write them all, and an index of what they are; returns how many. total: how many there will be. Raises BadOutput."""
    import soundfile

    lines = []
    try:
        for n_done, mix in enumerate(mixes):
            level = "clean" if mix.noise is None else f"{file_name(mix.noise)}/{_decibels(mix.snr_db)}"
            path = folder / level / f"{file_name(mix.utterance.id)}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            wav = BytesIO()                                 # soundfile's own errors say `System error` where the disk is full
            soundfile.write(wav, mix.audio, SAMPLE_RATE, format="WAV", subtype="FLOAT")
            with whole_file(path) as fresh:
                fresh.write_bytes(wav.getvalue())
            lines.append({"id": mix.utterance.id, "file": path.relative_to(folder).as_posix(), "noise": mix.noise,
                          "snr_db": mix.snr_db, **mix.facts, "reference": mix.utterance.text})
            progress("writing mixes", n_done + 1, total, "files")
    except OSError as error:
        raise BadOutput(f"{folder}: a mix cannot be written ({reason_of(error)}).  {REMEDY}") from error
    write_file(folder / INDEX, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return len(lines)


def _decibels(snr_db: float) -> str:
    """`-5`, `2.5`; as many digits as tell it from any other."""
    return f"{snr_db:g}" if float(f"{snr_db:g}") == snr_db else repr(snr_db)
