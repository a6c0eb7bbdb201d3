"""Batches of examples: which examples share a batch, in which order; padding; loading ahead in worker processes.

    rows -> plan of an epoch (a pure function of seed and epoch) -> Batches of about equal length -> mouths augmented
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from avsr.augment import Augment, augment_mouths
from avsr.config import DataConfig
from avsr.dataset import NO_LABEL, Example, Examples, ExampleSpec, ManifestRow
from avsr.errors import AvsrError
from avsr.runtime import exit_with_parent

IGNORE = -100                                               # in `targets`, where there is no token to predict
MAX_PADDING = 0.05                                          # of the frames of a batch, before any change of speed


@dataclass(frozen=True)
class Batch:
    """B examples, padded to the longest.

    mel: (B, C, n_mels) float32 or None, mel_lengths (B,); mouths: (B, T, 88, 88) uint8 or None, seen (B, T) bool.
    tokens: (B, L) int64, the decoder's input; targets: (B, L), the tokens that follow, or IGNORE.
    classes: (sum of class_lengths,) CTC classes end to end; labels: (B, T) frame labels; reliable: (B,) bool, see Example.
    lengths: (B,) video frames, or as many as cover the sound.
    seeds: of each clip's augmentation, where the mouths are still (B, T, 96, 96); None once they are augmented.
    """

    ids: list[str]
    mel: Tensor | None
    mel_lengths: Tensor | None
    mouths: Tensor | None
    seen: Tensor | None
    tokens: Tensor
    targets: Tensor
    classes: Tensor
    class_lengths: Tensor
    labels: Tensor
    reliable: Tensor
    lengths: Tensor
    seeds: list[int] | None = None

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)
                 if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        """The same in pinned memory, for DataLoader."""
        return replace(self, **{f.name: getattr(self, f.name).pin_memory() for f in fields(self)
                                if isinstance(getattr(self, f.name), Tensor)})

    @property
    def modality(self) -> str:
        """av, a or v."""
        return ("a" if self.mel is not None else "") + ("v" if self.mouths is not None else "")


@dataclass(frozen=True)
class BatchSpec:
    """A batch to be made: the numbers of its rows, their modality, and the rows whose mouths replace the right ones."""

    rows: tuple[int, ...]
    modality: str
    mismatched: tuple[int | None, ...]
    seed: tuple[int, ...]


def collate(examples: Sequence[Example], prompt: Sequence[int], end: int, pad_columns: int | None) -> Batch:
    """Pad to the longest. prompt: the tokens at the start of every text; pad_columns: the length of every padded log-mel."""
    n_tokens = max(len(example.tokens) for example in examples) + len(prompt)
    tokens = torch.full((len(examples), n_tokens), end)
    targets = torch.full((len(examples), n_tokens), IGNORE)
    for i, example in enumerate(examples):
        said = [*prompt, *example.tokens, end]
        tokens[i, :len(said) - 1] = torch.tensor(said[:-1])
        targets[i, len(prompt) - 1:len(said) - 1] = torch.tensor(said[len(prompt):])
    mel = mel_lengths = mouths = seen = None
    if mels := [example.mel for example in examples if example.mel is not None]:
        n_columns = pad_columns or max(map(len, mels))
        mel = torch.zeros(len(examples), n_columns, mels[0].shape[1])
        for i, one in enumerate(mels):
            mel[i, :len(one)] = torch.from_numpy(one)[:n_columns]
        if pad_columns is None:
            mel_lengths = torch.tensor([len(one) for one in mels])
    n_frames = max(len(example.labels) for example in examples)
    if examples[0].mouths is not None:
        mouths = torch.zeros(len(examples), n_frames, *examples[0].mouths.shape[1:], dtype=torch.uint8)
        seen = torch.zeros(len(examples), n_frames, dtype=torch.bool)
        for i, example in enumerate(examples):
            assert example.mouths is not None, "all examples of a batch have one modality"
            assert example.seen is not None
            mouths[i, :len(example.mouths)] = torch.from_numpy(example.mouths)
            seen[i, :len(example.seen)] = torch.from_numpy(example.seen)
    labels = torch.full((len(examples), n_frames), NO_LABEL)
    for i, example in enumerate(examples):
        labels[i, :len(example.labels)] = torch.from_numpy(example.labels)
    return Batch([example.id for example in examples], mel, mel_lengths, mouths, seen, tokens, targets,
                 torch.tensor([i for example in examples for i in example.classes], dtype=torch.long),
                 torch.tensor([len(example.classes) for example in examples]), labels,
                 torch.tensor([example.reliable for example in examples]),
                 torch.tensor([len(example.labels) for example in examples]),
                 [example.seed for example in examples if example.seed is not None] or None)


def augmented(batch: Batch, settings: Augment | None, device: torch.device) -> Batch:
    """The batch on a device, with its mouths augmented there if they are not yet."""
    lengths = batch.lengths.tolist()                        # before they are on a GPU, where reading them would wait for it
    batch = batch.to(device)
    if batch.seeds is None or batch.mouths is None:
        return batch
    assert settings is not None, "mouths without a seed are not augmented"
    return replace(batch, mouths=augment_mouths(batch.mouths, lengths, batch.seeds, settings), seeds=None)


def buckets(lengths: Sequence[int], max_frames: int, rng: np.random.Generator) -> list[list[int]]:
    """Random batches of row numbers, of at most `max_frames` padded frames and a share of MAX_PADDING of padding; a longer row
    gets a batch of its own. Rows are shuffled, then sorted by length classes 2 % apart."""
    order = rng.permutation(len(lengths))
    classes = np.round(np.log(np.maximum(1, np.asarray(lengths)))[order] / np.log(1.02)) if len(order) else np.zeros(0)
    batches: list[list[int]] = [[]]
    longest = total = 0
    for i in order[np.argsort(classes, kind="stable")]:
        batch, length = batches[-1], lengths[i]
        most = max(longest, length)
        too_many = (len(batch) + 1) * most > max_frames
        too_loose = (total + length) < (1 - MAX_PADDING) * (len(batch) + 1) * most
        if batch and (too_many or too_loose):
            batches.append([])
            most, total = length, 0
        batches[-1].append(int(i))
        longest, total = most, total + length
    return [batches[i] for i in rng.permutation(len(batches))] if lengths else []


def plan_epoch(rows: Sequence[ManifestRow], config: DataConfig, seed: int, epoch: int) -> list[BatchSpec]:
    """The batches of an epoch. Rows without mouths, or without sound, get batches of their own with the modality they have;
    so do rows with unreliable mouths, of which only the reliability estimator learns, with both modalities."""
    rng = np.random.default_rng((seed, epoch))
    specs: list[BatchSpec] = []
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(row.cache.modality if row.reliable else "unreliable", []).append(i)
    mouths = groups.get("av", []) + groups.get("unreliable", [])
    shares = (config.p_audio_visual, config.p_audio,
              max(0.0, 1 - config.p_audio_visual - config.p_audio))             # 1 - 0.9 - 0.1 < 0
    for has, members in sorted(groups.items()):
        for batch in buckets([rows[i].n_frames for i in members], config.frames, rng):
            chosen = tuple(members[i] for i in batch)
            modality = str(rng.choice(["av", "a", "v"], p=shares)) if has == "av" else "av" if has == "unreliable" else has
            others = tuple(int(rng.choice(mouths)) if modality == "av" and rng.random() < config.p_mismatched else None
                           for _ in chosen)
            mismatched = tuple(None if other == own else other for own, other in zip(chosen, others, strict=True))
            specs.append(BatchSpec(chosen, modality, mismatched, (seed, epoch, len(specs))))
    return [specs[i] for i in rng.permutation(len(specs))]


class Batches(Dataset):
    """Makes the batch of a BatchSpec. finished: whether mouths are augmented here, ahead in worker processes, or else by
    `augmented` on a GPU; both draw the same random numbers."""

    def __init__(self, rows: Sequence[ManifestRow], examples: Examples, prompt: Sequence[int], end: int,
                 pad_columns: int | None, *, finished: bool = True):
        self.rows, self.examples, self.finished = rows, examples, finished
        self.prompt, self.end, self.pad_columns = tuple(prompt), end, pad_columns

    def __getitem__(self, spec: BatchSpec) -> Batch | AvsrError:
        """The batch, or its error, which the user would see as a traceback if a worker process raised it."""
        try:
            return self._make(spec)
        except AvsrError as error:
            return error

    def _make(self, spec: BatchSpec) -> Batch:
        made = []
        for place, (number, other) in enumerate(zip(spec.rows, spec.mismatched, strict=True)):
            one = ExampleSpec(spec.modality, None if other is None else self.rows[other])
            made.append(self.examples.make(self.rows[number], one, np.random.default_rng((*spec.seed, place))))
        batch = collate(made, self.prompt, self.end, self.pad_columns)
        return augmented(batch, self.examples.augment, torch.device("cpu")) if self.finished else batch


class InfiniteSampler(Sampler):
    """Yields a BatchSpec for every batch of all epochs, from number `first` on; of `world` processes each takes its share."""

    def __init__(self, rows: Sequence[ManifestRow], config: DataConfig, seed: int, *, first: int = 0, rank: int = 0,
                 world: int = 1):
        self.rows, self.config, self.seed, self.first, self.rank, self.world = rows, config, seed, first, rank, world

    def __iter__(self) -> Iterator[BatchSpec]:
        number, epoch = 0, 0
        while True:
            for spec in plan_epoch(self.rows, self.config, self.seed, epoch):
                if number >= self.first and number % self.world == self.rank:
                    yield spec
                number += 1
            epoch += 1


def loader(batches: Batches, sampler: InfiniteSampler, n_workers: int, *, pin: bool) -> DataLoader:
    """Batches in the sampler's order, made ahead in `n_workers` processes; 0: in this process, when needed."""
    ahead = {"prefetch_factor": 4, "persistent_workers": True, "multiprocessing_context": "spawn",
             "worker_init_fn": _init_worker} if n_workers else {}
    return DataLoader(batches, batch_size=None, sampler=sampler, num_workers=n_workers, pin_memory=pin, **ahead)


def _init_worker(number: int) -> None:
    exit_with_parent()
    torch.set_num_threads(1)                                # two threads beside the training process's would wait
    # numpy's too: on busy cores they took more than half of a sound example's time.
    threadpool_limits(1, user_api="blas")
