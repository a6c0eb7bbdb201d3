"""Speech in noise as files: every mix of a benchmark out, for recognisers that are not of this program.

    Mix -> FOLDER/NOISE/SNR/ID.wav (32-bit float, so that nothing is clipped), and a line of FOLDER/audio.jsonl, which says
    which file is of which id: names.file_name makes a name of each id
What another system writes about them comes back by `avsr benchmark --rows FILE`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avsr.errors import BadOutput
from avsr.manifest import Utterance
from avsr.names import file_name
from avsr.rates import SAMPLE_RATE
from avsr.runtime import Progress, no_progress

INDEX = "audio.jsonl"


@dataclass(frozen=True)
class Mix:
    """One utterance in one noise: audio (S,) float32; noise and SNR in dB None for clean; facts: what a row tells of it."""

    utterance: Utterance
    noise: str | None
    snr_db: float | None
    audio: np.ndarray
    facts: dict[str, Any]


def write_mixes(folder: Path, mixes: Iterable[Mix], total: int | None = None, progress: Progress = no_progress) -> int:
    """Write them all, and an index of what they are; returns how many. total: how many there will be. Raises BadOutput."""
    import soundfile

    lines = []
    try:
        for n_done, mix in enumerate(mixes):
            level = "clean" if mix.noise is None else f"{file_name(mix.noise)}/{_decibels(mix.snr_db)}"
            path = folder / level / f"{file_name(mix.utterance.id)}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, mix.audio, SAMPLE_RATE, subtype="FLOAT")
            lines.append({"id": mix.utterance.id, "file": path.relative_to(folder).as_posix(), "noise": mix.noise,
                          "snr_db": mix.snr_db, **mix.facts, "reference": mix.utterance.text})
            progress("writing mixes", n_done + 1, total, "files")
        (folder / INDEX).write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    except (OSError, soundfile.LibsndfileError) as error:
        raise BadOutput(f"{folder}: a mix cannot be written ({error}).  Choose another folder, or make room.") from error
    return len(lines)


def _decibels(snr_db: float) -> str:
    """`-5`, `2.5`; as many digits as tell it from any other."""
    return f"{snr_db:g}" if float(f"{snr_db:g}") == snr_db else repr(snr_db)
