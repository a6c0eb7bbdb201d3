"""Pre-training without text: the training loop, with acoustic clusters in place of words.

    Config -> clusters of the sound -> [ masked sound and mouths -> the cluster of every frame ] -> a model to start from
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from avsr import checkpoint
from avsr.augment import Augment
from avsr.batch import Batch, augmented, collate
from avsr.checkpoint import Checkpoint
from avsr.config import Config, LossConfig
from avsr.dataset import NO_LABEL, Examples, ExampleSpec, ManifestRow
from avsr.losses import LossModule
from avsr.names import MODALITY_NAMES
from avsr.pretrain.clusters import Clusters
from avsr.rates import MEMORY_PER_FRAME
from avsr.runtime import Progress, no_progress
from avsr.train.loop import Trained, Trainer, TrainOptions, run
from avsr.train.state import how_to_continue

DEFAULT = TrainOptions()
MASKS_ALONE = Augment(flip=0, scale=0, degrees=0, perspective=0, elastic=0, brightness=0, contrast=0, gamma=0, blur=0, erase=0,
                      speed=0, gain_db=0)
CLUSTERS = "clusters.safetensors"
AT_ONCE = 16                                                # utterances validated at once


def pretrain(config: Config, folder: str | Path, options: TrainOptions = DEFAULT) -> Trained:
    """Pre-train as `config` says, into `folder`: masked prediction of acoustic clusters (AV-HuBERT; Shi et al. 2022).

    The loss is the cross-entropy of the cluster z_t of each video frame,  L = - sum_t log p(z_t | masked sound, masked mouths),
    from sound, from mouths or from both (modality dropout), with spans of both hidden, each for itself (data.augment's
    mask_frames and mask_seconds). Hidden and visible frames count alike. Texts of the manifest are not read.
    The model starts fine-tuning as `model.start`. Raises as `train` does.
    """
    config = replace(config, data=replace(config.data, align=None, n_labels=config.pretrain.clusters), loss=LossConfig(
        attention=0.0, ctc_audio=0.0, ctc_video=0.0, ctc_fused=0.0, frames=1.0, smoothing=config.loss.smoothing))
    return run(Pretrainer, config, folder, options)


class Pretrainer(Trainer):
    """A run of pre-training: a training run whose frame labels are clusters, measured by the errors of their prediction."""

    def _labelled(self, rows: list[ManifestRow],
                  valid_rows: list[ManifestRow]) -> tuple[list[ManifestRow], list[ManifestRow]]:
        """The rows of both with runs of clusters in place of words; the clusters are computed once for a run."""
        path, config = self.folder / CLUSTERS, self.config.pretrain
        if path.exists():
            clusters = Clusters.open(path)
        else:
            n = min(config.clips, len(rows))
            clusters = Clusters.fit([rows[i * len(rows) // n] for i in range(n)], config.clusters, seed=self.config.train.seed,
                                    progress=self.progress)
            if self.rank == 0:
                clusters.save(path)
        self.say(f"targets: {len(clusters.centres)} clusters of the sound; no text is read")
        return self._clustered(clusters, rows), self._clustered(clusters, valid_rows)

    def _clustered(self, clusters: Clusters, rows: Sequence[ManifestRow]) -> list[ManifestRow]:
        out = []
        for number, row in enumerate(rows):
            self.progress("clusters of the sound", number, len(rows), "utterances")
            out.append(clusters.label(row))
        return out

    def _validation(self, rows: list[ManifestRow], examples: Examples) -> Callable[[Checkpoint, Progress], dict[str, float]]:
        """What measures the model: see FrameErrors."""
        asked = Augment(**self.config.data.augment)
        masks = replace(MASKS_ALONE, mask_frames=asked.mask_frames, mask_seconds=asked.mask_seconds)
        assert self.parallel.whole is not None
        return FrameErrors(rows, Examples(examples.tokenizer_path, examples.n_mels, examples.labels, examples.mixer, masks,
                                          p_speed=0.0), self.parallel.whole, self._modalities())

    def _measure(self, began: float) -> dict[str, float]:
        scores = self.validation(self.start, self.progress)
        self.say(f"valid at step {self.state.step}: frame error % "
                 + "  ".join(f"{name} {score:.1f}" for name, score in scores.items()))
        return scores

    def _write_model(self, done: bool) -> Trained:
        """Write the model as it is to `model/`."""
        scores = self.validation(self.start, self.progress)
        made = self._checkpoint({})
        made = replace(made, training={**made.training, "valid_frame_errors": scores})
        path = checkpoint.save(made, self.folder / "model",
                               remedy=f"Make room, then {how_to_continue(self.folder)}.")
        return Trained(self.folder, path, self.state.step, done, scores)


class FrameErrors:
    """Percent of the frames whose cluster is not the likeliest one, with the same spans hidden and the same noise each time."""

    def __init__(self, rows: Sequence[ManifestRow], examples: Examples, module: LossModule, modalities: Sequence[str]):
        self.examples, self.module = examples, module
        self.rows = {one: [row for row in rows if set(one) <= set(row.cache.modality)] for one in modalities}

    @torch.inference_mode()
    def __call__(self, checkpoint: Checkpoint, progress: Progress = no_progress) -> dict[str, float]:
        """By modality: from mouths alone by the head for mouths, otherwise by the head for sound, whose states are fused."""
        was_training, scores = self.module.training, {}
        self.module.eval()
        for modality, rows in self.rows.items():
            wrong = total = 0
            for first in range(0, len(rows), AT_ONCE):
                progress(f"validating by {MODALITY_NAMES[modality].long}", first, len(rows), "utterances")
                errors, frames = self._count(rows[first:first + AT_ONCE], modality, checkpoint)
                wrong, total = wrong + errors, total + frames
            scores[modality] = round(100 * wrong / max(1, total), 3)
        self.module.train(was_training)
        return scores

    def _count(self, rows: Sequence[ManifestRow], modality: str, checkpoint: Checkpoint) -> tuple[int, int]:
        """The frames whose cluster is missed, and all that have one."""
        made = [self.examples.make(row, ExampleSpec(modality), np.random.default_rng(zlib.crc32(row.utterance.id.encode())))
                for row in rows]
        batch = collate(made, checkpoint.tokenizer.prompt(None), checkpoint.tokenizer.end, checkpoint.pad_columns)
        return frame_errors(self.module, augmented(batch, self.examples.augment, next(self.module.parameters()).device))


def frame_errors(module: LossModule, batch: Batch) -> tuple[int, int]:
    """The frames of a batch whose cluster is not the likeliest one, and all frames that have one."""
    mouths = None if batch.mouths is None else batch.mouths.float() / 255
    memory = module.model.encode(batch.mel, mouths, mel_lengths=batch.mel_lengths, seen=batch.seen)
    name, states = ("video", memory.unfused_video) if memory.audio is None else ("audio", memory.audio)
    assert states is not None
    logits = module.labels[name](states[:, ::MEMORY_PER_FRAME])[:, :batch.labels.shape[1]]
    labels = batch.labels[:, :logits.shape[1]]
    known = labels != NO_LABEL
    return int(((logits.argmax(dim=-1) != labels) & known).sum()), int(known.sum())
