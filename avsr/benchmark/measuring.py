"""What a system makes of a batch of utterances: the sound mixed, the mouths corrupted, recognised, as rows.

    Batch (utterances in one audio condition) -> Measurer.measure -> rows, timings
All that is drawn follows from ids and settings, so a batch gives the same rows in a thread of this process and on a machine
of a cluster.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from avsr import noise
from avsr.benchmark.conditions import AudioCondition, BenchmarkSettings, Task, group_labels
from avsr.benchmark.systems import Request, Result, System
from avsr.cache import Cached, read_entry
from avsr.corrupt import Corruption, Mouth, corrupt
from avsr.dataset import ManifestRow
from avsr.rates import SAMPLE_RATE
from avsr.results import Key, ResultRow

Measured = tuple[list[ResultRow], list[dict[str, Any]]]


@dataclass(frozen=True)
class Batch:
    """A batch of utterances in one audio condition: the work of one thread at a time."""

    condition: AudioCondition
    rows: Sequence[ManifestRow]

    @property
    def n_results(self) -> int:
        return len(self.rows) * len(self.condition.tasks)


@dataclass(frozen=True)
class Measurer:
    """All that decides how a batch is shown to a system. rows: the utterances that are measured, of which other faces are
    taken. normaliser: the name of the one for the texts. noises: None where all is clean."""

    settings: BenchmarkSettings
    rows: Sequence[ManifestRow]
    normaliser: str
    noises: noise.NoiseManifest | None

    def measure(self, system: System, batch: Batch) -> Measured:
        """The rows of a batch and its timings. Runs in a thread or in a worker process."""
        condition, utterances = batch.condition, [row.utterance for row in batch.rows]
        cached = [read_entry(row.base, row.cache) for row in batch.rows]
        mixed = [self.mixed(row, one.audio, condition) for row, one in zip(batch.rows, cached, strict=True)]
        videos = [[self._corrupted(row, one, corruption) for row, one in zip(batch.rows, cached, strict=True)]
                  for _, corruption in condition.tasks]
        requests = [Request(modality, [self._usable(mouth) for mouth, _ in video])
                    for (modality, _), video in zip(condition.tasks, videos, strict=True)]
        results = system.recognise([audio for audio, _ in mixed], [one.text for one in utterances], requests)
        rows = [ResultRow(**key_of(system, condition, task, utterance.id)._asdict(), **system.facts, **facts, **vars(found),
                          face=face, speaker=utterance.speaker, split=self.settings.split, reference=utterance.text,
                          normaliser=self.normaliser, labels=group_labels(utterance.labels),
                          duration_s=round(len(audio) / SAMPLE_RATE, 3))
                for task, video, result in zip(condition.tasks, videos, results, strict=True)
                for utterance, (audio, facts), (_, face), found in
                zip(utterances, mixed, video, result.recognitions, strict=True)]
        return rows, _timings(system, batch, results, sum(len(audio) for audio, _ in mixed))

    def mixed(self, row: ManifestRow, speech: np.ndarray | None,
               condition: AudioCondition) -> tuple[np.ndarray, dict[str, Any]]:
        """The audio of a condition, and the fields of its row that describe the noise in it."""
        assert speech is not None, row.utterance.id
        if condition.noise is None:
            return speech, {}
        assert self.noises is not None, condition
        made = self.noises.mix(row.utterance.id, condition.noise, condition.snr_db, speech)
        assert made.snr_db is not None, condition
        assert made.snr_rms is not None, condition
        return made.audio, {"snr_achieved": round(made.snr_db, 4), "snr_rms": round(made.snr_rms, 4),
                            "noise_id": made.noise_id, "noise_offset": made.offset}

    def _corrupted(self, row: ManifestRow, cached: Cached, corruption: Corruption | None) -> tuple[Mouth | None, str | None]:
        """The mouth that is shown, None where none was prepared, and the id of another utterance whose mouth it is."""
        mouth = _mouth(cached)
        if mouth is None or corruption is None:
            return mouth, None
        rng, other, face = np.random.default_rng(corruption_seed(row.utterance.id, corruption)), None, None
        if corruption.name == "face":
            shown = self._of_anotherspeaker_of(row, rng)
            other, face = _mouth(read_entry(shown.base, shown.cache)), shown.utterance.id
        return corrupt(mouth.images, mouth.missing, corruption, rng, other), face

    def _of_anotherspeaker_of(self, row: ManifestRow, rng: np.random.Generator) -> ManifestRow:
        """An utterance of another speaker, chosen speaker first, or the face would nearly always be the same."""
        others = [one for one in self.rows if one.utterance.speaker != row.utterance.speaker
                  and "v" in one.cache.modality]
        speakers = sorted({speaker_of(one) for one in others})
        chosen = speakers[int(rng.integers(len(speakers)))]
        of_speaker = [one for one in others if speaker_of(one) == chosen]
        return of_speaker[int(rng.integers(len(of_speaker)))]

    def _usable(self, mouth: Mouth | None) -> Mouth | None:
        """The mouth, None where too few frames show a face. `transcribe` also leaves out mouths that do not move; here they
        are shown, so that rows stay comparable with those of earlier runs."""
        if mouth is None or not len(mouth.missing) or mouth.missing.mean() > self.settings.max_missing:
            return None
        return mouth


class MeasureBatch:
    """The work of a worker process: a system that is opened once, and batches. open_system: picklable."""

    def __init__(self, measurer: Measurer, open_system: Callable[[], System]):
        self.measurer, self.open_system = measurer, open_system
        self.system: System | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "system": None}

    def __call__(self, batch: Batch, tick: Callable[..., None]) -> Measured:
        if self.system is None:
            self.system = self.open_system()
            tick()
        return self.measurer.measure(self.system, batch)


def _mouth(cached: Cached) -> Mouth | None:
    return None if cached.images is None or cached.missing is None else Mouth(cached.images, cached.missing)


def speaker_of(row: ManifestRow) -> str:
    """The speaker; an utterance without one has its own."""
    return row.utterance.speaker or row.utterance.id


def key_of(system: System, condition: AudioCondition, task: Task, utterance: str) -> Key:
    modality, corruption = task
    name, amount = (None, None) if corruption is None else (corruption.name, corruption.amount)
    return Key(system.name, modality, condition.noise, condition.snr_db, name, amount, utterance)


def keys_of(system: System, batch: Batch) -> Iterator[Key]:
    return (key_of(system, batch.condition, task, row.utterance.id) for task in batch.condition.tasks for row in batch.rows)


def _timings(system: System, batch: Batch, results: Sequence[Result], n_samples: int) -> list[dict]:
    peak = _peak_bytes(system.device)
    return [{"system": system.name, "modality": modality, "noise": batch.condition.noise, "snr_db": batch.condition.snr_db,
             "corruption": corruption and corruption.name, "amount": corruption and corruption.amount,
             "clips": len(batch.rows), "audio_s": round(n_samples / SAMPLE_RATE, 3), "seconds": round(result.seconds, 6),
             "peak_mb": None if peak is None else round(peak / 1e6), "device": system.device,
             "first": batch.rows[0].utterance.id}
            for (modality, corruption), result in zip(batch.condition.tasks, results, strict=True)]


def _peak_bytes(device: str) -> int | None:
    """The most memory that was in use so far; None on Windows, which does not say."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def corruption_seed(utterance: str, corruption: Corruption) -> int:
    """The first 64 bits of the sha256 of the id, a NUL and the corruption, so that every machine draws the same."""
    return int.from_bytes(hashlib.sha256(f"{utterance}\0{corruption}".encode()).digest()[:8], "big")
