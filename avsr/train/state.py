"""What a run leaves on disk: everything needed to go on bit for bit, and the best models so far.

    runs/NAME/state.json + state-STEP.safetensors   network, label heads, optimiser: as they were, float32
    runs/NAME/best/step-STEP/                        model folders, the `keep` best on validation
    runs/NAME/model/                                 the result
Whole or not at all: tensors are written first, and state.json, which names them, is renamed into place.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from avsr import checkpoint
from avsr.checkpoint import Checkpoint
from avsr.errors import BadCheckpoint, BadOutput
from avsr.models.avsr import Dims
from avsr.models.weights import listed, read_safetensors
from avsr.output import reason_of, whole_file
from avsr.schema import Between, InvalidValue, Printable, quote, read_json, validate_table

STATE = "state.json"


@dataclass(frozen=True)
class _Stored:
    """state.json. tensors: the file beside it; about: see save_state."""

    step: Annotated[int, Between(0, 2**53)]
    seconds: Annotated[float, Between(0, 2**53)]
    best: tuple[tuple[float, Annotated[int, Between(0, 2**53)], dict[str, float]], ...]
    tensors: Annotated[str, Printable(255)]
    about: dict[str, Any]


@dataclass
class TrainState:
    """Where a run is: steps done, seconds spent, and the models kept, best first, as (score, step, WER by modality)."""

    step: int = 0
    seconds: float = 0.0
    best: list[tuple[float, int, dict[str, float]]] = field(default_factory=list)


def save_state(folder: Path, position: TrainState, learner: nn.Module, optimiser: torch.optim.Optimizer,
               about: dict) -> None:
    """Write all of it. `about`: facts that a resumed run must share, such as dims. Raises BadOutput."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {f"learner.{name}": tensor.detach().contiguous().cpu() for name, tensor in learner.state_dict().items()}
    names = {parameter: name for name, parameter in learner.named_parameters()}
    for parameter, values in optimiser.state.items():
        for key, value in values.items():
            tensors[f"optimiser.{key}.{names[parameter]}"] = value.detach().contiguous().cpu()
    fresh = folder / f"state-{position.step}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(fresh, alone=True) as part:
            save_file(tensors, part)
        with whole_file(folder / STATE, alone=True) as part:
            part.write_text(json.dumps({**asdict(position), "tensors": fresh.name, "about": about}, indent=1) + "\n")
    except (OSError, SafetensorError) as error:
        if fresh.name != _tensors_of(folder):               # what no state names would fill the disk for good
            with suppress(OSError):
                fresh.unlink()
        raise BadOutput(f"{folder}: the training state cannot be written ({reason_of(error)}).  Make room, then "
                        f"{way_on(folder)}.") from error
    for old in (*folder.glob("state-*.safetensors"), *folder.glob(".state-*.part")):        # the latter of a kill
        if old != fresh:
            old.unlink()
    _drop_worse(folder, position)


def way_on(folder: Path) -> str:
    """What is left to do with a run that broke off, as the end of a sentence."""
    if not (folder / STATE).exists():
        return "start again, as no state was saved yet"
    return f"go on from step {read_json(folder / STATE)['step']} with --resume"


def _tensors_of(folder: Path) -> str | None:
    """The name of the file that the state in `folder` needs."""
    return _read(folder).tensors if (folder / STATE).exists() else None


def _read(folder: Path) -> _Stored:
    """state.json, with every field of its type. Raises BadCheckpoint."""
    path, values = folder / STATE, read_json(folder / STATE)
    remedy = "Start a new run with --output-dir."
    try:
        stored = _Stored(**validate_table(_Stored, values))
    except InvalidValue as error:
        raise BadCheckpoint(f"{path}: {error}.  {remedy}") from error
    except TypeError as error:                              # a field without a default is not there
        absent = [f.name for f in fields(_Stored) if f.name not in values]
        raise BadCheckpoint(f"{path}: lacks {', '.join(absent)}.  {remedy}") from error
    if Path(stored.tensors).name != stored.tensors:
        raise BadCheckpoint(f"{path}: its tensors are in {quote(stored.tensors)}, but must lie beside it.  {remedy}")
    return stored


def load_state(folder: Path, learner: nn.Module, optimiser: torch.optim.Optimizer, about: dict) -> TrainState:
    """Take up what `save_state` left. Raises BadCheckpoint: none there, or of another network."""
    if not (folder / STATE).exists():
        raise BadCheckpoint(f"{folder}: no run to resume here ({STATE} is missing).  Start it without --resume.")
    state = _read(folder)
    for key, value in about.items():
        theirs = state.about.get(key)
        if key == "dims" and isinstance(theirs, dict):
            theirs = asdict(Dims()) | theirs                # one that is absent is younger than the run
        if theirs != value:
            raise BadCheckpoint(f"{folder}: {_difference(key, theirs, value)}.  Resume with the config it was made with, or "
                                "start a new run with --output-dir.")
    tensors = read_safetensors(folder / state.tensors)
    try:
        learner.load_state_dict({name.removeprefix("learner."): tensor for name, tensor in tensors.items()
                                 if name.startswith("learner.")})
    except RuntimeError as error:
        raise BadCheckpoint(f"{folder}: its network is not this version's ({' '.join(str(error).split())[:200]}).  Go on with "
                            "the version of avsr it was begun with, or start a new run with --output-dir.") from error
    parameters = dict(learner.named_parameters())
    if strange := [name for name, tensor in tensors.items() if not _fits(name, tensor, parameters)]:
        raise BadCheckpoint(f"{folder}: its optimiser's state is not that of this network ({listed(strange)}).  Start a new "
                            "run with --output-dir.")
    _load_optimiser(optimiser, parameters, tensors)
    return TrainState(state.step, state.seconds, list(state.best))


def _fits(name: str, tensor: Tensor, parameters: dict[str, nn.Parameter]) -> bool:
    """Whether a stored tensor is the network's, or what the optimiser knows of one of its parameters."""
    kind, _, rest = name.partition(".")
    parameter = parameters.get(rest.partition(".")[2])
    return kind == "learner" or (kind == "optimiser" and parameter is not None and tensor.shape in ((), parameter.shape))


def _difference(key: str, theirs: object, ours: object) -> str:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        name = next(name for name in sorted(theirs.keys() | ours.keys()) if theirs.get(name) != ours.get(name))
        key, theirs, ours = f"{key}.{name}", theirs.get(name), ours.get(name)
    return f"the run there has {key} = {theirs if isinstance(theirs, str) else quote(theirs)}, this one {ours}"


def _load_optimiser(optimiser: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], tensors: dict[str, Tensor]) -> None:
    trained = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    for name, tensor in tensors.items():
        if not name.startswith("optimiser."):
            continue
        _, key, parameter_name = name.split(".", 2)
        parameter = parameters[parameter_name]
        if id(parameter) in trained:
            value = tensor if key == "step" else tensor.to(parameter.device)
            optimiser.state[parameter][key] = value.clone()


def keep_best(folder: Path, position: TrainState, model: Checkpoint, scores: dict[str, float], keep: int) -> None:
    """Save the model if it is among the `keep` best by mean WER. What no longer is goes with the next state, not before:
    a run killed in between takes up the state that still names it. Raises BadOutput."""
    score = sum(scores.values()) / len(scores)
    position.best = sorted([*position.best, (score, position.step, scores)], key=lambda entry: entry[:2])[:keep]
    steps = {step for _, step, _ in position.best}
    if position.step in steps:
        checkpoint.save(model, folder / "best" / f"step-{position.step}", half=False,
                        remedy=f"Make room, then {way_on(folder)}.")


def _drop_worse(folder: Path, position: Position) -> None:
    names = {f"step-{step}" for _, step, _ in position.best}
    for old in (folder / "best").glob("step-*"):
        if old.name not in names:
            shutil.rmtree(old)


def averaged(folder: Path, position: TrainState, model: Checkpoint) -> Checkpoint:
    """The mean of the best models' weights in `model`'s network."""
    states = [checkpoint.load(folder / "best" / f"step-{step}").model.state_dict() for _, step, _ in position.best]
    mean = {name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(tensor.dtype)
            if tensor.is_floating_point() else tensor for name, tensor in states[0].items()}
    model.model.load_state_dict(mean)
    return model


def best_one(folder: Path, position: TrainState, model: Checkpoint) -> Checkpoint:
    """The best model's weights in `model`'s network."""
    return averaged(folder, replace(position, best=position.best[:1]), model)
