"""Collects n-best lists of the recogniser that is to be corrected: clips of a manifest in noise, with corrupted mouths or not.

    manifest, models -> sound in noise, mouths -> read_lists -> lines of lists.jsonl
The clips should be held out of the training of the recogniser, or the corrector learns from fewer errors than it will meet.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from avsr.cache import Cached, read_entry, read_mouth_crop
from avsr.checkpoint import Checkpoint
from avsr.combine import open_recogniser
from avsr.config import Config
from avsr.correct.lists import LabelledLists, line_of, read_file, read_lists
from avsr.corrupt import CORRUPTIONS, Corruption, Mouth, corrupt
from avsr.dataset import ManifestRow, read_prepared
from avsr.errors import AvsrError
from avsr.manifest import manifest_path
from avsr.noise import NoiseMixer
from avsr.output import append_lines, locked
from avsr.rates import SEGMENT_SECONDS
from avsr.runtime import Progress, no_progress
from avsr.text import normalise
from avsr.train.data import noise_mixer

# How mouths are corrupted, and the lowest and highest amount. The lips of `grid` have seen the train clips of s1: without this
# they make next to no errors there.
CORRUPTED = {"occlusion": (0.1, 0.6), "blur": (1.0, 6.0), "lowres": (8.0, 32.0), "dropped": (0.1, 0.7)}


@dataclass(frozen=True)
class CollectSettings:
    """What is collected. modality: see combine.open_recogniser. snrs: dB, drawn evenly for each clip, None for clean.
    noise: a config, of whose section data.noise the noise is made. p_corrupted: share of mouths that are corrupted, see
    CORRUPTED. rounds: how often each clip is taken, in other noise each time."""

    split: str = "train"
    modality: str = "a"
    snrs: tuple[float | None, ...] = (None, 10.0, 5.0, 0.0, -5.0, -10.0)
    p_corrupted: float = 0.0
    rounds: int = 1
    batch_size: int = 8
    beam_size: int | None = None
    seed: int = 0


def collect(manifest: str | Path, checkpoint: Checkpoint, noise: Config, output: Path, settings: CollectSettings, *,
            say: Callable[[str], None] = lambda line: None, progress: Progress = no_progress) -> int:
    """Write the lists of each clip of a split into `output`, and return how many it holds; the same call goes on where a former
    one was stopped. Raises AvsrError."""
    path = manifest_path(Path(manifest))
    if settings.modality not in checkpoint.modalities:
        raise AvsrError(f"{checkpoint.name}: cannot be used by modality {settings.modality}, but by "
                        f"{', '.join(checkpoint.modalities)}.  Choose another with --modality.")
    rows, _ = read_prepared([path], settings.split, SEGMENT_SECONDS)
    rows = [row for row in rows if set(settings.modality) <= set(row.cache.modality)]
    if not rows:
        raise AvsrError(f"{path}: no utterance of split {settings.split!r} has what modality {settings.modality} needs.  "
                        "Prepare them with --modality av.")
    if "v" in settings.modality:
        read_mouth_crop(path.parent, checkpoint.mouth_crop)
    mixer = noise_mixer(noise, rows, say) if "a" in settings.modality else None
    with locked(output.parent, "avsr correct"):
        done = {(one.id, one.noise, one.snr_db) for one in read_file(output)} if output.exists() else set()
        n_done = len(done)
        todo = _tasks(rows, settings)[n_done:]
        collector = _Collector(checkpoint, mixer, settings)
        for first in range(0, len(todo), settings.batch_size):
            progress("collecting n-best lists", n_done, len(rows) * settings.rounds, "utterances")
            some = todo[first:first + settings.batch_size]
            append_lines(output, "".join(f"{line_of(one)}\n" for one in collector(some)))
            n_done += len(some)
    return n_done


@dataclass(frozen=True)
class _Task:
    """A clip, and the number of the round in which it is taken."""

    row: ManifestRow
    round: int

    def rng(self, seed: int) -> np.random.Generator:
        """By the clip's name alone, so that it does not depend on the others."""
        return np.random.default_rng(zlib.crc32(f"{seed} {self.round} {self.row.utterance.id}".encode()))


def _tasks(rows: Sequence[ManifestRow], settings: CollectSettings) -> list[_Task]:
    """All clips, round by round, in an order that mixes the speakers, so that a part of a file is as good as the whole."""
    order = np.random.default_rng(settings.seed).permutation(len(rows))
    return [_Task(rows[i], number) for number in range(settings.rounds) for i in order]


class _Collector:
    """Makes the lists of a few clips at once."""

    def __init__(self, checkpoint: Checkpoint, mixer: NoiseMixer | None, settings: CollectSettings):
        self.recogniser, self.mixer, self.settings = open_recogniser(checkpoint, settings.modality), mixer, settings
        # No fallback temperatures, as in a benchmark: what is drawn by chance teaches nothing.
        self.search = self.recogniser.search_options(beam_size=settings.beam_size, temperatures=(0.0,))

    @torch.inference_mode()
    def __call__(self, tasks: Sequence[_Task]) -> Iterator[LabelledLists]:
        """The lists of each task."""
        rngs = [task.rng(self.settings.seed) for task in tasks]
        cached = [read_entry(task.row.base, task.row.cache) for task in tasks]
        mouths = [self._mouth(one, rng) for one, rng in zip(cached, rngs, strict=True)]
        heard = [self._noisy(task.row, one, rng) for task, one, rng in zip(tasks, cached, rngs, strict=True)]
        audio = [sound for sound, _, _ in heard] if "a" in self.settings.modality else None
        memory = self.recogniser.encode(audio, mouths, self.settings.modality)
        found = read_lists(self.recogniser, memory, self.settings.modality, self.search)
        for task, (_, noise, snr_db), one in zip(tasks, heard, found, strict=True):
            utterance = task.row.utterance
            yield LabelledLists(utterance.id, normalise(utterance.text),
                                normalise(self.recogniser.detokenize(one.own.tokens)), one.lists, noise, snr_db)

    def _noisy(self, row: ManifestRow, cached: Cached, rng: np.random.Generator) -> tuple[np.ndarray, str | None, float | None]:
        """The sound in noise at one of the levels, the noise, and the level asked for."""
        sound = np.zeros(0, np.float32) if cached.audio is None else cached.audio
        snr_db = self.settings.snrs[int(rng.integers(len(self.settings.snrs)))]
        if snr_db is None or self.mixer is None or not sound.any():
            return sound, None, None
        mixer = NoiseMixer(self.mixer.sources, snrs=(snr_db,))
        mixed = mixer(sound, row.utterance.speaker, rng)
        return mixed.audio, mixed.source, snr_db

    def _mouth(self, cached: Cached, rng: np.random.Generator) -> Mouth | None:
        """The mouth, corrupted or not."""
        if cached.images is None or cached.missing is None or "v" not in self.settings.modality:
            return None
        if rng.random() >= self.settings.p_corrupted:
            return Mouth(cached.images, cached.missing)
        name = sorted(CORRUPTED)[int(rng.integers(len(CORRUPTED)))]
        assert name in CORRUPTIONS
        return corrupt(cached.images, cached.missing, Corruption(name, round(float(rng.uniform(*CORRUPTED[name])), 2)), rng)
