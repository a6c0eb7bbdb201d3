"""The loop: batches in, steps out, WER now and then, and everything on disk in time.

    Config -> begin -> [ batch -> losses -> gradient -> step ] -> valid -> state, best models, the averaged model
"""

from __future__ import annotations

import fnmatch
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from avsr import cache, checkpoint
from avsr.augment import Augment
from avsr.batch import Batch, Batches, InfiniteSampler, augmented, loader
from avsr.checkpoint import Checkpoint
from avsr.config import Config
from avsr.dataset import Examples, ManifestRow, label_words, read_prepared
from avsr.errors import AvsrError, BadConfig, BadOutput, counted
from avsr.losses import Losses, LossModule
from avsr.models.blocks import Block
from avsr.models.conformer import ConformerBlock
from avsr.output import locked, write_file
from avsr.rates import FEATURE_RATE, VIDEO_FPS
from avsr.runtime import Progress, max_processes, n_cores, no_progress, pick_device
from avsr.train.data import noise_mixer, rows_to_validate, training_manifests
from avsr.train.forced_alignment import timed
from avsr.train.initialise import begin, facts, finished, model_path, rate
from avsr.train.log import Line, TrainingLog
from avsr.train.reliability import can_be_judged, fit_ood, judge
from avsr.train.shortages import shortages_told
from avsr.train.state import STATE, TrainState, averaged, best_one, keep_best, load_state, save_state, way_on
from avsr.train.valid import Validation

Say = Callable[[str], None]


@dataclass(frozen=True)
class Trained:
    """How a run ended. model: its folder, None where nothing was validated yet. scores: WER by modality."""

    folder: Path
    model: Path | None
    step: int
    done: bool
    scores: dict[str, float]


@dataclass(frozen=True)
class TrainOptions:
    """How this call goes about it, which does not change what is learnt."""

    resume: bool = False
    minutes: float | None = None                            # after which it stops, to be resumed
    device: str = "auto"
    say: Say = lambda line: None
    progress: Progress = no_progress


def train(config: Config, folder: str | Path, options: TrainOptions = TrainOptions()) -> Trained:
    """Train what `config` says into `folder`. Under `torchrun` each process takes its share of the batches.

    Raises BadConfig, BadManifest, BadCheckpoint, BadOutput, and AvsrError where a loss is not a number or another process
    trains into `folder`.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadOutput(f"{folder}: cannot be made ({error.strerror}).  Choose another with --output-dir.") from error
    with locked(folder, "avsr train") if _is_first() else nullcontext():
        if not options.resume and (folder / STATE).exists():
            raise BadOutput(f"{folder}: holds a run already.  Go on with --resume, or choose another with --output-dir.")
        try:
            with shortages_told(folder, config.data):
                return _Run(config, folder, options, _join_group(options.device)).run()
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()


def _is_first() -> bool:
    """Whether this is the process that writes, of those that torchrun starts."""
    return os.environ.get("RANK", "0") == "0"


def _join_group(asked: str) -> torch.device:
    """This process's device; with `torchrun`, after joining the others."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return pick_device(asked)
    cuda = asked != "cpu" and torch.cuda.is_available()
    # The others wait while the first one validates: with nccl's own 10 minutes a large set would end the run.
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(hours=2))
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    return device


class _Run:
    """One run of one process."""

    def __init__(self, config: Config, folder: Path, options: TrainOptions, device: torch.device):
        self.config, self.folder, self.options, self.device = config, folder, options, device
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0
        self.world = distributed.get_world_size() if distributed.is_initialized() else 1
        self.progress = options.progress if self.rank == 0 else no_progress       # of all processes alike: told once
        self.started = time.monotonic()
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        manifests = training_manifests(config, self.say)
        self.rows, left_out = read_prepared(manifests, "train", config.data.max_seconds)
        valid_rows = rows_to_validate(config)
        self.start = begin(config, folder, progress=self.progress)
        can_be_judged(self.start.model.dims, config)
        for manifest in manifests:
            cache.read_mouth_crop(manifest.parent, self.start.mouth_crop)
        if config.data.align is not None and config.loss.frames:
            self.rows = self._timed()
        labels = label_words(self.rows, config.data.n_labels) if config.loss.frames else {}
        mixer = noise_mixer(config, self.rows, self.say) if self._modalities() != ["v"] else None
        path, n_mels = self.start.tokenizer.path, self.start.model.dims.n_mels
        self.examples = Examples(path, n_mels, labels, mixer, Augment(**config.data.augment),
                                 p_speed=config.data.p_speed, p_corrupted=config.data.p_corrupted)
        left_out += self._leave_out_long()
        self.say(f"{counted(len(self.rows), 'utterance')}, {self.hours:.2f} hours; {len(left_out)} left out"
                 + (f", such as {left_out[0]}" if left_out else "") + f"; {len(valid_rows)} to validate")
        self.validation = Validation(valid_rows, Examples(path, n_mels, labels, mixer), self._modalities())
        self.learner = LossModule(self.start.model, config.loss, len(labels) + 1, self._sounds()).to(device)
        for module in self.learner.modules():
            if isinstance(module, (Block, ConformerBlock)):
                module.dropout = config.train.dropout
        self.optimiser = _optimiser(self.learner, config)
        self.position = TrainState()
        if options.resume:
            self.position = load_state(folder, self.learner, self.optimiser, self._about())
            self.say(f"resumed at step {self.position.step}")
        self.before = self.position.seconds

    @property
    def hours(self) -> float:
        """Of training data."""
        return sum(row.n_frames for row in self.rows) / VIDEO_FPS / 3600

    def say(self, line: str) -> None:
        """One voice for all processes."""
        if self.rank == 0:
            self.options.say(line)

    def _timed(self) -> list[ManifestRow]:
        """The rows with word times: one process finds and writes what is not known yet, then the others read it."""
        teacher, lacking = self.config.data.align, sum(row.utterance.words is None for row in self.rows)
        self.say(f"word times: {counted(lacking, 'utterance')} without, by {teacher}'s hearing unless found before")
        arguments = (self.rows, model_path(teacher, self.config), self.folder / "words.jsonl", self.device, self.progress)
        rows = timed(*arguments) if self.rank == 0 else None
        if self.world > 1:
            distributed.barrier()
        rows = timed(*arguments) if rows is None else rows
        without = [row.utterance.id for row in rows if row.utterance.words is None and "a" in row.utterance.cache.modality]
        if without:
            self.say(f"word times: none for {counted(len(without), 'utterance')}, {without[0]} for one: the text or sound is "
                     f"longer than {teacher} can take")
        return rows

    def _leave_out_long(self) -> list[str]:
        """Drop rows whose text the decoder has no room for, and say which. Raises BadConfig when none is left."""
        n_context = self.start.model.dims.n_context
        room = n_context - len(self.start.tokenizer.prompt(None))
        sizes = [self.examples.n_tokens(row) for row in self.rows]
        long = [f"{row.utterance.id}: {size} tokens, limit {room}"
                for row, size in zip(self.rows, sizes, strict=True) if size > room]
        self.rows = [row for row, size in zip(self.rows, sizes, strict=True) if size <= room]
        if not self.rows:
            raise BadConfig(f"{self.config.name}: no text fits model.dims.n_context = {n_context} ({long[0]}).  Set it higher.")
        return long

    def _sounds(self) -> Path | None:
        """Where encoded sounds are kept, if the ears do not learn and the config wants it. Raises BadConfig."""
        if not self.config.data.sound_draws:
            return None
        learning = [name for name, _ in self.start.model.audio.named_parameters() if rate(self.config, f"audio.{name}")]
        if learning:
            raise BadConfig(f"{self.config.name}: data.sound_draws keeps encoded sounds, but audio.{learning[0]} learns.  Set "
                            "train.rates \"audio.*\" = 0, or data.sound_draws = 0.")
        path = self.folder / "sounds"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _modalities(self) -> list[str]:
        data = self.config.data
        shares = {"a": data.p_audio, "v": 1 - data.p_audio_visual - data.p_audio, "av": data.p_audio_visual}
        return [name for name, share in shares.items() if share > 1e-9]

    def _about(self) -> dict:
        return {"dims": asdict(self.start.model.dims), "labels": len(self.examples.labels), "seed": self.config.train.seed,
                "frames": self.config.data.frames, "accumulate": self.config.train.accumulate, "processes": self.world}

    # --- steps ---

    def run(self) -> Trained:
        """Steps until the last one, or until time is up."""
        train, position = self.config.train, self.position
        network = self.learner
        if self.world > 1:
            network = DistributedDataParallel(self.learner, find_unused_parameters=True,
                                              device_ids=[self.device] if self.device.type == "cuda" else None)
        batches, diary = self._batches(), TrainingLog(self.folder, self.rank, position.step)
        self.learner.train()
        _settle_frozen(self.learner)
        stopped = position.step >= train.steps
        self.progress("training", position.step, train.steps, "steps")
        try:
            while not stopped:
                line = self._step(network, batches)
                self.say(line.text)
                self.progress("training", position.step, train.steps, "steps")
                diary.write(position.step, line.values)
                due = position.step % train.valid_every == 0 or position.step == train.steps
                if due:
                    diary.write(position.step, self._validate())
                stopped = position.step >= train.steps or self._time_is_up()
                if stopped or due or position.step % train.save_every == 0:
                    self._save()
        except KeyboardInterrupt:
            self.say(f"interrupted at step {position.step}; {way_on(self.folder)}")
            raise
        finally:
            diary.close()
            batches.close()
        return self._finish()

    def _batches(self) -> Iterator[tuple[Batch, float]]:
        """Batches on the device, with the seconds spent waiting for each."""
        tokenizer, pad = self.start.tokenizer, self.start.pad_seconds
        data = Batches(self.rows, self.examples, tokenizer.prompt(None), tokenizer.end,
                       None if pad is None else pad * FEATURE_RATE, finished=self.device.type == "cpu")
        sampler = InfiniteSampler(self.rows, self.config.data, self.config.train.seed, rank=self.rank, world=self.world,
                          first=self.position.step * self.config.train.accumulate * self.world)
        source = iter(loader(data, sampler, self._n_workers(), pin=self.device.type == "cuda"))
        while True:
            asked = time.monotonic()
            batch = next(source)
            waited = time.monotonic() - asked
            if isinstance(batch, AvsrError):
                raise batch
            yield augmented(batch, self.examples.augment, self.device), waited

    def _n_workers(self) -> int:
        """`data.workers`, or as many processes as this machine bears; the batches are the same with any number."""
        asked, most = self.config.data.workers, max_processes()
        if asked > most:
            self.say(f"data.workers is {asked}, and {most} are started: more would only take memory on {n_cores()} cores.")
        return min(asked, most)

    def _step(self, network: nn.Module, batches: Iterator[tuple[Batch, float]]) -> Line:
        began, waited, ids, n_clips = time.monotonic(), 0.0, [], 0
        train, step = self.config.train, self.position.step
        for group in self.optimiser.param_groups:
            group["lr"] = group["factor"] * learning_rate(self.config, step)
        self.optimiser.zero_grad(set_to_none=True)
        for part in range(train.accumulate):
            batch, seconds = next(batches)
            waited += seconds
            ids += batch.ids
            n_clips += len(batch.ids) * self.world
            torch.manual_seed(zlib.crc32(f"{train.seed} {step} {part} {self.rank}".encode()))     # of dropout
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                losses: Losses = network(batch)
            (losses.total / train.accumulate).backward()
        norm = nn.utils.clip_grad_norm_([p for g in self.optimiser.param_groups for p in g["params"]], train.clip)
        total, norm = losses.total.item(), norm.item()
        if not math.isfinite(total) or not math.isfinite(norm):
            self._stop_at_nan(ids, total, norm)
        self.optimiser.step()
        self.position.step += 1
        spent = time.monotonic() - began
        self.position.seconds = self.before + time.monotonic() - self.started
        return Line(self.position.step, train.steps, batch.modality, total,
                    {name: value.item() for name, value in losses.parts.items()},
                    {"lr": learning_rate(self.config, step), "norm": norm, "clips_s": n_clips / spent, "wait": waited / spent,
                     "minutes": self.position.seconds / 60})

    def _stop_at_nan(self, ids: list[str], total: float, norm: float) -> None:
        path = self.folder / f"nan-{self.rank}.json"
        write_file(path, json.dumps({"step": self.position.step, "ids": ids, "loss": str(total), "norm": str(norm)}) + "\n")
        raise AvsrError(f"{self.folder}: at step {self.position.step} the loss is {total} and its gradient's norm {norm}.  The "
                        f"batch's ids are in {path}; look at them, or lower train.lr and {way_on(self.folder)}.")

    def _time_is_up(self) -> bool:
        """All processes agree, or some would wait for the others for ever."""
        up = self.options.minutes is not None and time.monotonic() - self.started > 60 * self.options.minutes
        if self.world > 1:
            flag = torch.tensor(float(up), device=self.device)
            distributed.broadcast(flag, 0)
            up = bool(flag.item())
        return up

    # --- what is kept ---

    def _checkpoint(self, scores: dict[str, float]) -> Checkpoint:
        return finished(self.start, self.config, facts(self.config, self.position.step, scores, self.hours))

    def _validate(self) -> dict[str, float]:
        scores = {}
        if self.rank == 0:
            began = time.monotonic()
            scores = self.validation(self.start, self.progress)
            _settle_frozen(self.learner)
            keep_best(self.folder, self.position, self._checkpoint(scores), scores, self.config.train.keep)
            said = "  ".join(f"{name} {score:.1f}" for name, score in scores.items())
            self.say(f"valid at step {self.position.step}: WER % {said}  ({time.monotonic() - began:.0f} s)")
        if self.world > 1:
            distributed.barrier()
        return {f"valid_{name}": score for name, score in scores.items()}

    def _save(self) -> None:
        if self.rank == 0:
            save_state(self.folder, self.position, self.learner, self.optimiser, self._about())

    def _finish(self) -> Trained:
        """The averaged model, or the best where that is better, as `model/`."""
        position, done = self.position, self.position.step >= self.config.train.steps
        if self.rank or not (position.best or done):
            return Trained(self.folder, None, position.step, done, {})
        last = {name: tensor.clone() for name, tensor in self.start.model.state_dict().items()}
        scores = {}
        if position.best:
            mean = self.validation(averaged(self.folder, position, self.start), self.progress)
            scores = position.best[0][2]
            if sum(mean.values()) <= sum(scores.values()):
                scores = mean
            else:
                best_one(self.folder, position, self.start)
        if getattr(self.start.model, "trust", None) is not None:
            fit_ood(self.start, self.rows, seed=self.config.train.seed, progress=self.progress)
            if self.config.reliability.variants and done:
                n_lessons = judge(self.start, self.rows, self.examples, self.config.judges, self._sounds(),
                                  seed=self.config.train.seed, progress=self.progress)
                self.say(f"judges: taught by {n_lessons} samples of {1 + self.config.reliability.variants} sights")
                scores = {}                                 # others by now
        scores = scores or self.validation(self.start, self.progress)
        path = checkpoint.save(self._checkpoint(scores), self.folder / "model",
                               remedy=f"Make room, then {way_on(self.folder)}.")
        self.start.model.load_state_dict(last)
        return Trained(self.folder, path, position.step, done, scores)


def learning_rate(config: Config, step: int) -> float:
    """Linear warm-up, then a cosine to `final` of `lr` at the last step."""
    train = config.train
    if step < train.warmup:
        return train.lr * (step + 1) / train.warmup
    along = min(1.0, (step - train.warmup) / max(1, train.steps - train.warmup))
    return train.lr * (train.final + (1 - train.final) * 0.5 * (1 + math.cos(math.pi * along)))


def _optimiser(learner: LossModule, config: Config) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only; parts with a rate of 0 are frozen. Raises BadConfig if nothing is left."""
    names = [name.removeprefix("model.") for name, _ in learner.named_parameters()]
    for pattern in config.train.rates:
        if not fnmatch.filter(names, pattern):
            parts = ", ".join(sorted({f"{name.partition('.')[0]}.*" for name in names}))
            raise BadConfig(f"{config.name}: train.rates \"{pattern}\" fits no weight.  Known are {parts}, and names within.")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in learner.named_parameters():
        factor = rate(config, name.removeprefix("model."))
        parameter.requires_grad_(factor > 0)
        if factor > 0:
            decay = config.train.weight_decay if parameter.ndim > 1 and "embedding" not in name else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    if not groups:
        raise BadConfig(f"{config.name}: train.rates freezes every weight.  Give some part a rate above 0.")
    return torch.optim.AdamW([{"params": parameters, "factor": factor, "weight_decay": decay}
                              for (factor, decay), parameters in groups.items()],
                             lr=config.train.lr, betas=config.train.betas)


def _settle_frozen(learner: nn.Module) -> None:
    """Frozen parts keep their running means (batch norm) as well as their weights."""
    for module in learner.modules():
        own = list(module.parameters())
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not any(p.requires_grad for p in own):
            module.eval()
