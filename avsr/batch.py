"""Examples to batches: who goes with whom, in which order; padding; loading ahead in worker processes.

    Rows -> plan of an epoch (a pure function of seed and epoch) -> Batches of about equal length -> mouths augmented
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
from avsr.dataset import NO_LABEL, Draw, Example, Examples, Row
from avsr.errors import AvsrError
from avsr.runtime import exit_with_parent

IGNORE = -100                                               # in `targets`, where nothing is to be said
MAX_PADDING = 0.05                                          # of the frames of a batch, before any change of speed


@dataclass(frozen=True)
class Batch:
    """B examples, padded to the longest.

    mel: (B, C, n_mels) float32 or None, mel_lengths (B,); mouths: (B, T, 88, 88) uint8 or None, seen (B, T) bool.
    tokens: (B, L) int64, what the decoder is given; targets: (B, L), what it is to say, IGNORE where nothing.
    classes: (sum of class_lengths,) CTC classes end to end; labels: (B, T) frame labels; matched: (B,) bool.
    lengths: (B,) video frames, or as many as cover the sound.
    sounds: names of the versions of the sounds, see dataset.Draw. seeds: where the mouths are still to be augmented, and
    (B, T, 96, 96) until then: from which each clip's augmentation draws.
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
    matched: Tensor
    lengths: Tensor
    sounds: list[str] | None = None
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
class Plan:
    """A batch to be made: rows by number, with the modality of all of them, and whose mouths some of them get."""

    rows: tuple[int, ...]
    modality: str
    foreign: tuple[int | None, ...]
    seed: tuple[int, ...]
    sound: int | None = None


def collate(examples: Sequence[Example], prompt: Sequence[int], end: int, pad_columns: int | None) -> Batch:
    """Pad to the longest. prompt: the tokens every text begins with; pad_columns: length every log-mel is filled up to."""
    n_tokens = max(len(example.tokens) for example in examples) + len(prompt)
    tokens = torch.full((len(examples), n_tokens), end)
    targets = torch.full((len(examples), n_tokens), IGNORE)
    for i, example in enumerate(examples):
        said = [*prompt, *example.tokens, end]
        tokens[i, :len(said) - 1] = torch.tensor(said[:-1])
        targets[i, len(prompt) - 1:len(said) - 1] = torch.tensor(said[len(prompt):])
    mel = mel_lengths = mouths = seen = None
    if examples[0].mel is not None:
        n_columns = pad_columns or max(len(example.mel) for example in examples)
        mel = torch.zeros(len(examples), n_columns, examples[0].mel.shape[1])
        for i, example in enumerate(examples):
            mel[i, :len(example.mel)] = torch.from_numpy(example.mel)[:n_columns]
        if pad_columns is None:
            mel_lengths = torch.tensor([len(example.mel) for example in examples])
    n_frames = max(len(example.labels) for example in examples)
    if examples[0].mouths is not None:
        mouths = torch.zeros(len(examples), n_frames, *examples[0].mouths.shape[1:], dtype=torch.uint8)
        seen = torch.zeros(len(examples), n_frames, dtype=torch.bool)
        for i, example in enumerate(examples):
            mouths[i, :len(example.mouths)] = torch.from_numpy(example.mouths)
            seen[i, :len(example.seen)] = torch.from_numpy(example.seen)
    labels = torch.full((len(examples), n_frames), NO_LABEL)
    for i, example in enumerate(examples):
        labels[i, :len(example.labels)] = torch.from_numpy(example.labels)
    return Batch([example.id for example in examples], mel, mel_lengths, mouths, seen, tokens, targets,
                 torch.tensor([i for example in examples for i in example.classes], dtype=torch.long),
                 torch.tensor([len(example.classes) for example in examples]), labels,
                 torch.tensor([example.matched for example in examples]),
                 torch.tensor([len(example.labels) for example in examples]),
                 None if examples[0].sound is None else [example.sound for example in examples],
                 None if examples[0].seed is None else [example.seed for example in examples])


def augmented(batch: Batch, settings: Augment | None, device: torch.device) -> Batch:
    """The batch on a device, with its mouths augmented there if that is still to be done."""
    lengths = batch.lengths.tolist()                        # before they are on a GPU, which would have to be waited for
    batch = batch.to(device)
    if batch.seeds is None:
        return batch
    return replace(batch, mouths=augment_mouths(batch.mouths, lengths, batch.seeds, settings), seeds=None)


def buckets(lengths: Sequence[int], max_frames: int, rng: np.random.Generator) -> list[list[int]]:
    """Batches of row numbers of at most `max_frames` padded frames and MAX_PADDING of padding, in random company.

    Rows are shuffled, then sorted by length classes 2 % apart, so that neighbours are alike but not always the same. A row
    that is longer than `max_frames` gets a batch of its own.
    """
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


def plan_epoch(rows: Sequence[Row], config: DataConfig, seed: int, epoch: int) -> list[Plan]:
    """The batches of an epoch. Rows without mouths, or without sound, keep to themselves and to what they have; so do rows
    whose mouths are not to be believed, of which only the judge learns, and that takes both."""
    rng = np.random.default_rng((seed, epoch))
    plans: list[Plan] = []
    sound = epoch % config.sound_draws if config.sound_draws else None
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(row.utterance.cache.modality if row.believed else "not believed", []).append(i)
    mouths = groups.get("av", []) + groups.get("not believed", [])
    shares = (config.p_both, config.p_sound, max(0.0, 1 - config.p_both - config.p_sound))         # 1 - 0.9 - 0.1 < 0
    for has, members in sorted(groups.items()):
        for batch in buckets([rows[i].n_frames for i in members], config.frames, rng):
            chosen = tuple(members[i] for i in batch)
            modality = str(rng.choice(["av", "a", "v"], p=shares)) if has == "av" else "av" if has == "not believed" else has
            foreign = tuple(int(rng.choice(mouths)) if modality == "av" and rng.random() < config.p_foreign else None
                            for _ in chosen)
            foreign = tuple(None if other == own else other for own, other in zip(chosen, foreign, strict=True))
            plans.append(Plan(chosen, modality, foreign, (seed, epoch, len(plans)), sound))
    return [plans[i] for i in rng.permutation(len(plans))]


class Batches(Dataset):
    """Makes the batch of a Plan, wherever DataLoader calls it.

    finished: mouths are augmented here, which is right for training on the CPU: worker processes then do it ahead. False
    leaves it to `augmented` on a GPU. Both draw the same.
    """

    def __init__(self, rows: Sequence[Row], examples: Examples, prompt: Sequence[int], end: int, pad_columns: int | None, *,
                 finished: bool = True):
        self.rows, self.examples, self.finished = rows, examples, finished
        self.prompt, self.end, self.pad_columns = tuple(prompt), end, pad_columns

    def __getitem__(self, plan: Plan) -> Batch | AvsrError:
        """The batch, or what is wrong with it: raised in a worker process, it would reach the user as a traceback."""
        try:
            return self._make(plan)
        except AvsrError as error:
            return error

    def _make(self, plan: Plan) -> Batch:
        made = []
        for place, (number, foreign) in enumerate(zip(plan.rows, plan.foreign, strict=True)):
            draw = Draw(plan.modality, None if foreign is None else self.rows[foreign], sound=plan.sound)
            made.append(self.examples.make(self.rows[number], draw, np.random.default_rng((*plan.seed, place))))
        batch = collate(made, self.prompt, self.end, self.pad_columns)
        return augmented(batch, self.examples.augment, torch.device("cpu")) if self.finished else batch


class Endless(Sampler):
    """Plans from batch number `first` on, of all epochs, of which this process takes one in `world`."""

    def __init__(self, rows: Sequence[Row], config: DataConfig, seed: int, *, first: int = 0, rank: int = 0, world: int = 1):
        self.rows, self.config, self.seed, self.first, self.rank, self.world = rows, config, seed, first, rank, world

    def __iter__(self) -> Iterator[Plan]:
        number, epoch = 0, 0
        while True:
            for plan in plan_epoch(self.rows, self.config, self.seed, epoch):
                if number >= self.first and number % self.world == self.rank:
                    yield plan
                number += 1
            epoch += 1


def loader(batches: Batches, sampler: Endless, n_workers: int, *, pin: bool) -> DataLoader:
    """Batches in the sampler's order, made ahead in `n_workers` processes; 0: when asked for, in this one."""
    ahead = {"prefetch_factor": 4, "persistent_workers": True, "multiprocessing_context": "spawn",
             "worker_init_fn": _settle_worker} if n_workers else {}
    return DataLoader(batches, batch_size=None, sampler=sampler, num_workers=n_workers, pin_memory=pin, **ahead)


def _settle_worker(number: int) -> None:
    exit_with_parent()
    torch.set_num_threads(1)                                # two threads beside the trainer's would wait for each other
    # numpy's too: on busy cores they took more than half of a sound example's time.
    threadpool_limits(1, user_api="blas")


def padding(batches: Sequence[Sequence[int]], lengths: Sequence[int]) -> float:
    """Share of frames that are padding."""
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    return 1 - sum(lengths[i] for batch in batches for i in batch) / padded


