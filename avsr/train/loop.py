"""The training loop: steps, validation, and saving.

    Config -> initialise -> [ batch -> losses -> gradient -> step ] -> valid -> state, best models, the averaged model
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import distributed

from avsr import cache, checkpoint
from avsr.augment import Augment
from avsr.batch import Batch, Batches, InfiniteSampler, augmented, loader
from avsr.checkpoint import Checkpoint
from avsr.config import Config
from avsr.dataset import Examples, ManifestRow, label_words, read_prepared, share_of
from avsr.errors import AvsrError, BadConfig, BadOutput, counted
from avsr.losses import LossModule
from avsr.models.avsr import AVSR
from avsr.models.blocks import WithDropout
from avsr.output import locked, write_file
from avsr.rates import VIDEO_FPS
from avsr.runtime import Progress, is_first_process, max_processes, n_cores, no_progress
from avsr.train.data import Say, noise_mixer, training_manifests, validation_rows
from avsr.train.forced_alignment import with_word_times
from avsr.train.group_state import GroupWriter
from avsr.train.initialise import initialise, model_path, to_save, training_facts, with_mouth_crop_of
from avsr.train.log import StepFigures, StepReport, TrainingLog
from avsr.train.optimiser import freeze_batch_norms, freeze_weights, learning_rate, make_optimiser
from avsr.train.parallel import join_group, make_parallel, n_restarts
from avsr.train.reliability import check_reliability, fit_ood, fit_reliability
from avsr.train.shortages import report_shortages
from avsr.train.speed import Trace, memory_used, peak_flops
from avsr.train.state import (
    STATE,
    TrainState,
    averaged,
    batches_per_step,
    best_one,
    how_to_continue,
    keep_best,
    load_state,
    manifest_fingerprint,
    save_state,
)
from avsr.train.valid import Validation


@dataclass(frozen=True)
class Trained:
    """The end of a run. model: its folder, None where nothing was validated yet. scores: WER by modality."""

    folder: Path
    model: Path | None
    step: int
    done: bool
    scores: dict[str, float]


@dataclass(frozen=True)
class TrainOptions:
    """Options of a run that do not change what is learnt."""

    resume: bool = False
    minutes: float | None = None                            # after which it stops, to be resumed
    device: str = "auto"
    say: Say = lambda line: None
    progress: Progress = no_progress
    profile: bool = False                                   # whether a trace of a few steps is written, see speed.Trace


def train(config: Config, folder: str | Path, options: TrainOptions = TrainOptions()) -> Trained:
    """Train as `config` says, into `folder`. Under `torchrun` each process takes its share of the batches.

    Raises AvsrError and its kinds, also where a loss is not a number or another process trains into `folder`.
    """
    return run(Trainer, config, folder, options)


def run(trainer: type[Trainer], config: Config, folder: str | Path, options: TrainOptions) -> Trained:
    """A run of one kind of training, `Trainer` or a subclass of it, alone in its folder; see `train`."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadOutput(f"{folder}: cannot be made ({error.strerror}).  Choose another with --output-dir.") from error
    with locked(folder, "avsr train") if is_first_process() else nullcontext():
        if n_restarts() and (folder / STATE).exists():      # torchrun has started the processes again, as one had ended
            options = replace(options, resume=True)
        if not options.resume and (folder / STATE).exists():
            raise BadOutput(f"{folder}: holds a run already.  Go on with --resume, or choose another with --output-dir.")
        try:
            with report_shortages(folder, config.data):
                return trainer(config, folder, options, join_group(options.device, config.train)).run()
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()


class Trainer:
    """A run, as one process executes it."""

    def __init__(self, config: Config, folder: Path, options: TrainOptions, device: torch.device):
        self.config, self.folder, self.options, self.device = config, folder, options, device
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0
        self.world = distributed.get_world_size() if distributed.is_initialized() else 1
        self.progress = options.progress if self.rank == 0 else no_progress       # reported by one process
        self.started = time.monotonic()
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        manifests = training_manifests(config, self.say)
        self.rows, left_out = read_prepared(manifests, "train", config.data.max_seconds)
        valid_rows = validation_rows(config)
        self.start = with_mouth_crop_of(manifests[0], initialise(config, folder, progress=self.progress), config)
        assert isinstance(self.start.model, AVSR)
        self.model = self.start.model
        check_reliability(self.model.dims, config)
        for manifest in manifests:
            cache.read_mouth_crop(manifest.parent, self.start.mouth_crop)
        self.rows = share_of(self.rows, config.data.share, config.train.seed)
        self.rows, valid_rows = self._labelled(self.rows, valid_rows)
        labels = label_words(self.rows, config.data.n_labels) if config.loss.frames else {}
        mixer = noise_mixer(config, self.rows, self.say) if self._modalities() != ["v"] else None
        path, n_mels = self.start.tokenizer.path, self.model.dims.n_mels
        self.examples = Examples(path, n_mels, labels, mixer, Augment(**config.data.augment),
                                 p_speed=config.data.p_speed, p_corrupted=config.data.p_corrupted)
        left_out += self._leave_out_long()
        self.say(f"{counted(len(self.rows), 'utterance')}, {self.hours:.2f} hours; {len(left_out)} left out"
                 + (f", such as {left_out[0]}" if left_out else "") + f"; {len(valid_rows)} to validate")
        self.loss_module = LossModule(self.model, config.loss, len(labels) + 1)
        for module in self.loss_module.modules():
            if isinstance(module, WithDropout):
                module.dropout = config.train.dropout
        freeze_weights(self.loss_module, config)
        self.parallel = make_parallel(self.loss_module, device, config.train)
        if self.parallel.whole is not None:
            self.start = replace(self.start, model=self.parallel.whole.model)
            self.validation = self._validation(valid_rows, Examples(path, n_mels, labels, mixer))
        self.optimiser = make_optimiser(self.loss_module, config)
        self.writer = GroupWriter() if self.world > 1 else None
        self.state, self.per_step = TrainState(), config.train.accumulate * self.world
        if options.resume:
            self.per_step = batches_per_step(folder, config.train.accumulate, self.world)
            self.state = load_state(folder, self.loss_module, self.optimiser, self._about())
            self.say(f"resumed at step {self.state.step}")
        self.before = self.state.seconds

    @property
    def hours(self) -> float:
        """Hours of training data."""
        return sum(row.n_frames for row in self.rows) / VIDEO_FPS / 3600

    def say(self, line: str) -> None:
        """Report a line, from the first process only."""
        if self.rank == 0:
            self.options.say(line)

    def _labelled(self, rows: list[ManifestRow],
                  valid_rows: list[ManifestRow]) -> tuple[list[ManifestRow], list[ManifestRow]]:
        """The rows of training and validation with what their frame labels are made of: the times of words."""
        if self.config.data.align is not None and self.config.loss.frames:
            self.rows = rows
            rows = self._with_word_times()
        return rows, valid_rows

    def _validation(self, rows: list[ManifestRow], examples: Examples) -> Callable[[Checkpoint, Progress], dict[str, float]]:
        """What measures the model: percent of errors by modality."""
        return Validation(rows, examples, self._modalities())

    def _with_word_times(self) -> list[ManifestRow]:
        """The rows with word times: one process finds and writes those that are missing, then the others read them."""
        aligner = self.config.data.align
        assert aligner is not None
        missing = sum(row.utterance.words is None for row in self.rows)
        self.say(f"word times: {counted(missing, 'utterance')} without; {aligner} aligns those that were not aligned before")
        arguments = (self.rows, model_path(aligner, self.config), self.folder / "words.jsonl", self.device, self.progress)
        rows = with_word_times(*arguments) if self.rank == 0 else None
        if self.world > 1:
            distributed.barrier()
        rows = with_word_times(*arguments) if rows is None else rows
        without = [row.utterance.id for row in rows if row.utterance.words is None and "a" in row.cache.modality]
        if without:
            self.say(f"word times: none for {counted(len(without), 'utterance')}, such as {without[0]}, whose text or sound is "
                     f"longer than {aligner} can take")
        return rows

    def _leave_out_long(self) -> list[str]:
        """Drop rows whose text is too long for the decoder, and say which. Raises BadConfig where none is left."""
        n_context = self.model.dims.n_context
        room = n_context - len(self.start.tokenizer.prompt(None))
        sizes = [self.examples.n_tokens(row) for row in self.rows]
        long = [f"{row.utterance.id}: {size} tokens, limit {room}"
                for row, size in zip(self.rows, sizes, strict=True) if size > room]
        self.rows = [row for row, size in zip(self.rows, sizes, strict=True) if size <= room]
        if not self.rows:
            raise BadConfig(f"{self.config.name}: no text fits model.dims.n_context = {n_context} ({long[0]}).  Set it higher.")
        return long

    def _modalities(self) -> list[str]:
        data = self.config.data
        shares = {"a": data.p_audio, "v": 1 - data.p_audio_visual - data.p_audio, "av": data.p_audio_visual}
        return [name for name, share in shares.items() if share > 1e-9]

    def _about(self) -> dict:
        """What a run that is resumed must share: all that its batches and their order follow from, and the network."""
        return {"dims": asdict(self.model.dims), "labels": len(self.examples.labels), "seed": self.config.train.seed,
                "frames": self.config.data.frames, "data": manifest_fingerprint(self.rows)}

    @property
    def parts(self) -> int:
        """The batches of a step that this process computes."""
        return self.per_step // self.world

    # --- steps ---

    def run(self) -> Trained:
        """Take steps until the last one, or until the time is up."""
        train, state = self.config.train, self.state
        self.parallel.start()
        batches, log = self._batches(), TrainingLog(self.folder, self.rank, state.step)
        self.loss_module.train()
        freeze_batch_norms(self.loss_module)
        trace = Trace(self.folder / f"trace-{self.rank}.json.gz", self.device, self.say) if self.options.profile else None
        stopped = state.step >= train.steps
        self.progress("training", state.step, train.steps, "steps")
        try:
            while not stopped:
                line = self._step(batches)
                self.say(line.text)
                self.progress("training", state.step, train.steps, "steps")
                log.write(state.step, line.values)
                due = state.step % train.valid_every == 0 or state.step == train.steps
                if due:
                    log.write(state.step, self._validate())
                stopped = state.step >= train.steps or self._time_is_up()
                if trace is not None:
                    trace.step()
                if stopped or due or state.step % train.save_every == 0:
                    self._save()
        except KeyboardInterrupt:
            self.say(f"interrupted at step {state.step}; {how_to_continue(self.folder)}")
            raise
        finally:
            if trace is not None:
                trace.close()
            log.close()
            batches.close()
        return self._finish()

    def _batches(self) -> Generator[tuple[Batch, float]]:
        """Batches on the device, with the seconds spent waiting for each."""
        tokenizer = self.start.tokenizer
        data = Batches(self.rows, self.examples, tokenizer.prompt(None), tokenizer.end, self.start.pad_columns,
                       finished=self.device.type == "cpu")
        sampler = InfiniteSampler(self.rows, self.config.data, self.config.train.seed, rank=self.rank, world=self.world,
                          first=self.state.step * self.per_step)
        source = iter(loader(data, sampler, self._n_workers(), pin=self.device.type == "cuda"))
        while True:
            asked = time.monotonic()
            batch = next(source)
            waited = time.monotonic() - asked
            if isinstance(batch, AvsrError):
                raise batch
            yield augmented(batch, self.examples.augment, self.device), waited

    def _n_workers(self) -> int:
        """`data.workers`, or the most processes that suit this machine; the batches are the same with any number."""
        asked, most = self.config.data.workers, max_processes()
        if asked > most:
            self.say(f"data.workers is {asked}, but {most} are started: more would only take memory on {n_cores()} cores.")
        return min(asked, most)

    def _step(self, batches: Iterator[tuple[Batch, float]]) -> StepReport:
        began, waited, ids = time.monotonic(), 0.0, []
        train, step, figures = self.config.train, self.state.step, StepFigures()
        for group in self.optimiser.param_groups:
            group["lr"] = group["factor"] * learning_rate(self.config, step)
        self.optimiser.zero_grad(set_to_none=True)
        for part in range(self.parts):
            batch, seconds = next(batches)
            waited += seconds
            ids += batch.ids
            number = part * self.world + self.rank          # in the step, whichever process computes it
            torch.manual_seed(zlib.crc32(f"{train.seed} {step} {number} 0".encode()))     # of dropout
            losses = self.parallel.backward(batch, self.parts, last=part == self.parts - 1)
            figures.add(losses, batch.modality)
        norm = self.parallel.clip([p for g in self.optimiser.param_groups for p in g["params"]], train.clip)
        own, figures = figures.total, figures.of_all(self.parallel)
        if not math.isfinite(figures.total) or not math.isfinite(norm):
            self._stop_at_nan(ids, own, norm)
        self.optimiser.step()
        self.state.step += 1
        self.state.seconds = self.before + time.monotonic() - self.started
        return StepReport(self.state.step, train.steps, figures.total, figures.parts,
                          {"lr": learning_rate(self.config, step), "norm": norm,
                           **self._pace(len(ids), waited, time.monotonic() - began), "minutes": self.state.seconds / 60})

    def _pace(self, n_clips: int, waited: float, spent: float) -> dict[str, float]:
        """How well a step has used the machine, all processes together; see log.StepReport."""
        clips, waiting, flops = self.parallel.sum([n_clips, waited / spent, self.parallel.flops.take()])
        peak, memory = peak_flops(self.device), memory_used(self.device)
        pace = {"clips_s": clips / spent, "wait": waiting / self.world, "flops": flops / spent}
        if peak is not None:
            pace["mfu"] = flops / spent / (peak * self.world)
        if memory is not None:
            (pace["memory"],) = self.parallel.max([memory])
        return pace

    def _stop_at_nan(self, ids: list[str], total: float, norm: float) -> None:
        path = self.folder / f"nan-{self.rank}.json"
        write_file(path, json.dumps({"step": self.state.step, "ids": ids, "loss": str(total), "norm": str(norm)}) + "\n")
        raise AvsrError(f"{self.folder}: at step {self.state.step} the loss is {total} and its gradient's norm {norm}.  The "
                        f"batch's ids are in {path}; look at them, or lower train.lr and {how_to_continue(self.folder)}.")

    def _time_is_up(self) -> bool:
        """Whether the time is up, by the clock of the first process."""
        return self.parallel.agree(self.options.minutes is not None
                                   and time.monotonic() - self.started > 60 * self.options.minutes)

    # --- saving ---

    def _checkpoint(self, scores: dict[str, float]) -> Checkpoint:
        return to_save(self.start, self.config, training_facts(self.config, self.state.step, scores, self.hours))

    def _validate(self) -> dict[str, float]:
        """Measure the model in the first process, while the others wait, and keep it if it is good."""
        scores, began = {}, time.monotonic()
        with self.parallel.gathered():
            if self.rank == 0:
                scores = self._measure(began)
        self.parallel.barrier()
        freeze_batch_norms(self.loss_module)
        return {f"valid_{name}": score for name, score in scores.items()}

    def _measure(self, began: float) -> dict[str, float]:
        scores = self.validation(self.start, self.progress)
        keep_best(self.folder, self.state, self._checkpoint(scores), scores, self.config.train.keep)
        said = "  ".join(f"{name} {score:.1f}" for name, score in scores.items())
        self.say(f"valid at step {self.state.step}: WER % {said}  ({time.monotonic() - began:.0f} s)")
        return scores

    def _save(self) -> None:
        facts = {"accumulate": self.config.train.accumulate, "processes": self.world, "batches": self.per_step}
        if self.rank == 0 or self.writer is not None:
            save_state(self.folder, self.state, self.loss_module, self.optimiser, self._about() | facts, self.writer)

    def _finish(self) -> Trained:
        """Write the model to `model/`, in the first process."""
        state, done = self.state, self.state.step >= self.config.train.steps
        if self.writer is not None:
            self.writer.wait()
        with self.parallel.gathered():
            return Trained(self.folder, None, state.step, done, {}) if self.rank else self._write_model(done)

    def _write_model(self, done: bool) -> Trained:
        """Write the averaged model, or the best one where that is better."""
        state = self.state
        if not (state.best or done):
            return Trained(self.folder, None, state.step, done, {})
        last = {name: tensor.clone() for name, tensor in self.start.model.state_dict().items()}
        scores = {}
        if state.best:
            mean = self.validation(averaged(self.folder, state, self.start), self.progress)
            scores = state.best[0][2]
            if sum(mean.values()) <= sum(scores.values()):
                scores = mean
            else:
                best_one(self.folder, state, self.start)
        if self.start.model.reliability is not None:
            fit_ood(self.start, self.rows, seed=self.config.train.seed, progress=self.progress)
            if self.config.reliability.variants and done:
                n_samples = fit_reliability(self.start, self.rows, self.examples, self.config.reliability,
                                            seed=self.config.train.seed, progress=self.progress)
                self.say(f"reliability: fitted on {n_samples} sounds with {1 + self.config.reliability.variants} mouths each")
                scores = {}                                 # the estimator has changed them
        scores = scores or self.validation(self.start, self.progress)
        path = checkpoint.save(self._checkpoint(scores), self.folder / "model",
                               remedy=f"Make room, then {how_to_continue(self.folder)}.")
        self.start.model.load_state_dict(last)
        return Trained(self.folder, path, state.step, done, scores)
