"""The training of a corrector: steps, validation against the recogniser's own texts, and the guard.

    CorrectConfig -> TrainingData -> [ batch -> loss -> step ] -> model/: the best network, with the guard that harms nothing
"""

from __future__ import annotations

import math
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import torch
from torch import nn

from avsr.config import Config
from avsr.correct.corrector import Correction, Corrector, passes
from avsr.correct.data import CorrectConfig, TrainingData, systems
from avsr.correct.folder import NEVER, CorrectorParts, Guard, load_parts, save_parts
from avsr.correct.lists import Lists
from avsr.correct.network import TextDims, TextToText
from avsr.correct.vocabulary import Vocabulary, write_vocabulary
from avsr.errors import AvsrError, BadConfig, BadOutput
from avsr.metrics import word_errors
from avsr.models.blocks import WithDropout
from avsr.output import locked
from avsr.runtime import pick_device
from avsr.schema import InvalidValue, validate_table
from avsr.train.log import TrainingLog
from avsr.train.loop import Trained, TrainOptions, learning_rate
from avsr.train.state import STATE, TrainState, load_state, save_state

DEFAULT = TrainOptions()
AT_ONCE = 32                                                # lists that are validated at once
PIECES = "tokenizer.json"
# The guards that are tried. Of those that make no more errors than the recogniser in any group of validation lists, the one
# with the fewest errors is taken.
MARGINS, CONFIDENCES, KEEPS = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0), (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), (0.02, 0.1, 0.5)
# At least half of the words: where the sound is lost a corrector invents a likely sentence (of 20 lists by tiny.en, 9 times).
SUPPORTS = (0.5, 0.65, 0.8, 1.0)


@dataclass(frozen=True)
class Judged:
    """A correction of a validation list: whose it is and in which noise, and the errors of both texts."""

    group: tuple[str, float | None]
    correction: Correction
    words: int
    errors_own: int
    errors_text: int


def train_corrector(config: CorrectConfig, folder: str | Path, options: TrainOptions = DEFAULT) -> Trained:
    """Train as `config` says, into `folder`; its result, `model/`, is for --correct. scores of it: WER before and after.

    Raises AvsrError and its kinds.
    """
    if config.train.shard or config.train.recompute or config.train.compile != "no":
        raise BadConfig(f"{config.name}: train.shard, train.recompute and train.compile are of avsr train; a corrector is "
                        "small and trained by one process.  Remove them.")
    folder = Path(folder)
    with locked(folder, "avsr correct"):
        if not options.resume and (folder / STATE).exists():
            raise BadOutput(f"{folder}: holds a run already.  Go on with --resume, or choose another with --output-dir.")
        return _Trainer(config, folder, options).run()


class _Trainer:
    """A run."""

    def __init__(self, config: CorrectConfig, folder: Path, options: TrainOptions):
        self.config, self.folder, self.options, self.device = config, folder, options, pick_device(options.device)
        self.started = time.monotonic()
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        self.data = TrainingData(config)
        path = folder / PIECES
        folder.mkdir(parents=True, exist_ok=True)
        self.vocabulary = (Vocabulary(path) if options.resume and path.exists() else
                           write_vocabulary(path, self.data.vocabulary_texts(), config.data.n_pieces))
        self.dims = _dims(config, self.vocabulary.size)
        torch.manual_seed(config.train.seed)
        self.model = TextToText(self.dims).to(self.device)
        for module in self.model.modules():
            if isinstance(module, WithDropout):
                module.dropout = config.train.dropout
        self.optimiser = _optimiser(self.model, config)
        self.state = TrainState()
        if options.resume:
            self.state = load_state(folder, self.model, self.optimiser, self._about())
            options.say(f"resumed at step {self.state.step}")
        self.before = self.state.seconds
        options.say(f"{len(self.data.real)} real lists, {len(self.data.texts)} texts, {len(self.data.others)} other texts; "
                    f"{len(self.data.valid)} lists to validate; {sum(p.numel() for p in self.model.parameters())} parameters")

    def _about(self) -> dict:
        """What a run that is resumed must share."""
        return {"sizes": {**asdict(self.dims), "n_lists": list(self.dims.n_lists)}, "seed": self.config.train.seed,
                "batch": self.config.data.batch}

    def run(self) -> Trained:
        """Take steps until the last one, or until the time is up."""
        train, state, minutes = self.config.train, self.state, self.options.minutes
        log, stopped = TrainingLog(self.folder, 0, state.step), state.step >= train.steps
        self.model.train()
        try:
            while not stopped:
                values = self._step()
                log.write(state.step, values)
                self.options.progress("training", state.step, train.steps, "steps")
                if state.step % 50 == 0:
                    self.options.say(f"step {state.step}/{train.steps}  loss {values['loss']:.3f}  lr {values['lr']:.1e}")
                stopped = state.step >= train.steps or (minutes is not None and time.monotonic() - self.started > 60 * minutes)
                due = state.step % train.valid_every == 0 or stopped
                if due:
                    log.write(state.step, self._validate())
                if due or state.step % train.save_every == 0:
                    save_state(self.folder, state, self.model, self.optimiser, self._about())
        finally:
            log.close()
        return self._finish()

    def _step(self) -> dict[str, float]:
        step, train = self.state.step, self.config.train
        rate = learning_rate(Config(self.config.name, train=train), step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        inputs, targets = self.data.batch(step, self.vocabulary, self.dims.n_lists, self.dims.n_input)
        torch.manual_seed(train.seed * 1_000_003 + step)    # of dropout
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.model(inputs, targets, self.vocabulary.end)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), train.clip)
        if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):
            raise AvsrError(f"{self.folder}: at step {step} the loss is {loss.item()}.  Lower train.lr, and start again.")
        self.optimiser.step()
        self.state.step += 1
        self.state.seconds = self.before + time.monotonic() - self.started
        return {"loss": loss.item(), "lr": rate, "norm": norm.item(), "minutes": self.state.seconds / 60}

    def _validate(self) -> dict[str, float]:
        """Judge the network without a guard, and keep it if it is the best so far."""
        self.model.eval()
        judged = judge(Corrector(CorrectorParts(self.model, self.vocabulary)), self.data)
        own, text = (_percent(judged, [getattr(one, name) for one in judged]) for name in ("errors_own", "errors_text"))
        scores = {"own": own, "unguarded": text}
        self.options.say(f"valid at step {self.state.step}: WER % {own:.1f}, corrected without guard {text:.1f}")
        if not self.state.best or text <= self.state.best[0][0]:
            self.state.best = [(text, self.state.step, scores)]
            save_parts(CorrectorParts(self.model, self.vocabulary), self.folder / "best" / f"step-{self.state.step}")
        self.model.train()
        return {f"valid_{name}": value for name, value in scores.items()}

    def _finish(self) -> Trained:
        """Write the best network with its guard to `model/`."""
        state, done = self.state, self.state.step >= self.config.train.steps
        parts = load_parts(self.folder / "best" / f"step-{state.best[0][1]}")
        judged = judge(Corrector(parts), self.data)
        guards = fit_guards(judged)
        errors = [one.errors_text if passes(guards[one.group[0]], one.correction) else one.errors_own for one in judged]
        scores = {"own": _percent(judged, [one.errors_own for one in judged]), "corrected": _percent(judged, errors)}
        training = {"step": state.best[0][1], "minutes": round(state.seconds / 60, 1), "scores": scores,
                    "lists": len(self.data.real), "texts": len(self.data.texts), "other_texts": len(self.data.others)}
        target = save_parts(replace(parts, guards=guards, training=training), self.folder / "model")
        for old in (self.folder / "best").glob("step-*"):
            if old.name != f"step-{state.best[0][1]}":
                shutil.rmtree(old)
        for name, guard in guards.items():
            self.options.say(f"guard of {name}: margin {guard.margin:g}, confidence {guard.confidence:g}, keep {guard.keep:g}, "
                             f"support {guard.support:g}")
        return Trained(self.folder, target, state.step, done, scores)


def judge(corrector: Corrector, data: TrainingData) -> list[Judged]:
    """The corrections of the validation lists, of the recogniser that made them and of its models alone."""
    rows: list[tuple[tuple[str, float | None], str, Lists, str]] = []
    for one in data.valid:
        if one.reference:
            rows += [((system, one.snr_db), one.reference, lists, own) for system, (lists, own) in systems(one).items()]
    out = []
    for first in range(0, len(rows), AT_ONCE):
        some = rows[first:first + AT_ONCE]
        found = corrector.correct([lists for _, _, lists, _ in some], [own for *_, own in some])
        out += [Judged(group, one, len(reference.split()), word_errors(reference, own).errors,
                       word_errors(reference, one.text).errors)
                for (group, reference, _, own), one in zip(some, found, strict=True)]
    return out


def fit_guards(judged: Sequence[Judged]) -> dict[str, Guard]:
    """The guard of each recogniser."""
    names = dict.fromkeys(one.group[0] for one in judged)
    return {name: fit_guard([one for one in judged if one.group[0] == name]) for name in names}


def fit_guard(judged: Sequence[Judged]) -> Guard:
    """The guard with the fewest errors among those that raise the errors of no group; of equals the strictest."""
    best, least = NEVER, sum(one.errors_own for one in judged)
    for values in product(reversed(MARGINS), reversed(CONFIDENCES), KEEPS, reversed(SUPPORTS)):
        guard = Guard(*values)
        gained: dict[tuple[str, float | None], int] = defaultdict(int)
        for one in judged:
            gained[one.group] += (one.errors_own - one.errors_text) * passes(guard, one.correction)
        errors = sum(one.errors_own for one in judged) - sum(gained.values())
        if errors < least and all(value >= 0 for value in gained.values()):
            best, least = guard, errors
    return best


def _percent(judged: Sequence[Judged], errors: Sequence[int]) -> float:
    return round(100 * sum(errors) / max(1, sum(one.words for one in judged)), 2)


def _dims(config: CorrectConfig, n_vocab: int) -> TextDims:
    """The sizes that the config asks for. Raises BadConfig."""
    known = set(asdict(TextDims())) - {"n_vocab"}
    if unknown := sorted(config.dims.keys() - known):
        raise BadConfig(f"{config.name}: dims.{unknown[0]} is not a setting.  Known are {', '.join(sorted(known))}.")
    try:
        dims = TextDims(**{**validate_table(TextDims, config.dims, "dims."), "n_vocab": n_vocab})
    except InvalidValue as error:
        raise BadConfig(f"{config.name}: {error}.  Remove it to use the default.") from error
    if dims.width % dims.n_heads or dims.width % 2:
        raise BadConfig(f"{config.name}: dims.width {dims.width} is odd or no multiple of dims.n_heads {dims.n_heads}.  "
                        "Use such as 128 and 4.")
    return dims


def _optimiser(model: nn.Module, config: CorrectConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    train = config.train
    groups = [{"params": [p for p in model.parameters() if (p.ndim > 1) == matrices], "weight_decay": decay}
              for matrices, decay in ((True, train.weight_decay), (False, 0.0))]
    return torch.optim.AdamW(groups, lr=train.lr, betas=train.betas)
