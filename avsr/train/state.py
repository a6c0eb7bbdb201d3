"""The files of a run: everything needed to resume bit for bit, and the best models so far.

    runs/NAME/state.json + state-STEP.safetensors   network, label heads, optimiser, in float32
    runs/NAME/best/step-STEP/                        model folders, the `keep` best on validation
    runs/NAME/model/                                 the result
The tensors are written first, and state.json, which names them, is renamed into place: a crash leaves a whole state.
"""

from __future__ import annotations

import json
import re
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from avsr import checkpoint
from avsr.checkpoint import Checkpoint
from avsr.checkpoint.old_names import AudioGate, current_dims, current_tensor
from avsr.errors import BadCheckpoint, BadOutput, listed, quote
from avsr.models.avsr import Dims
from avsr.output import reason_of, whole_file
from avsr.schema import Between, InvalidValue, Printable, read_json, validate_table
from avsr.tensorfiles import read_safetensors

STATE = "state.json"
OLDER = "Resume with the version of avsr that began the run, or start a new run with --output-dir."


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
    """The steps done, the seconds spent, and the models kept, best first, as (score, step, WER by modality)."""

    step: int = 0
    seconds: float = 0.0
    best: list[tuple[float, int, dict[str, float]]] = field(default_factory=list)


def save_state(folder: Path, state: TrainState, module: nn.Module, optimiser: torch.optim.Optimizer,
               about: dict) -> None:
    """Write the whole state. `about`: facts that a resumed run must share, such as dims. Raises BadOutput."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {f"module.{name}": tensor.detach().contiguous().cpu() for name, tensor in module.state_dict().items()}
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    for parameter, values in optimiser.state.items():
        for key, value in values.items():
            tensors[f"optimiser.{key}.{names[parameter]}"] = value.detach().contiguous().cpu()
    fresh = folder / f"state-{state.step}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(fresh, alone=True) as part:
            save_file(tensors, part)
        with whole_file(folder / STATE, alone=True) as part:
            part.write_text(json.dumps({**asdict(state), "tensors": fresh.name, "about": about}, indent=1) + "\n")
    except (OSError, SafetensorError) as error:
        named = _read(folder).tensors if (folder / STATE).exists() else None
        if fresh.name != named:                             # a file that no state names would never be deleted
            with suppress(OSError):
                fresh.unlink()
        raise BadOutput(f"{folder}: the training state cannot be written ({reason_of(error)}).  Make room, then "
                        f"{how_to_continue(folder)}.") from error
    for old in (*folder.glob("state-*.safetensors"), *folder.glob(".state-*.part")):        # the latter of a killed process
        if old != fresh:
            old.unlink()
    _drop_worse(folder, state)


def how_to_continue(folder: Path) -> str:
    """How to continue a run that was interrupted, as the end of a sentence."""
    if not (folder / STATE).exists():
        return "start again, as no state was saved yet"
    return f"go on from step {read_json(folder / STATE)['step']} with --resume"


def _read(folder: Path) -> _Stored:
    """state.json, with every field of its type. Raises BadCheckpoint."""
    path, values = folder / STATE, read_json(folder / STATE)
    remedy = "Start a new run with --output-dir."
    try:
        stored = _Stored(**validate_table(_Stored, values))
    except InvalidValue as error:
        raise BadCheckpoint(f"{path}: {error}.  {remedy}") from error
    except TypeError as error:                              # a field is missing
        absent = [f.name for f in fields(_Stored) if f.name not in values]
        raise BadCheckpoint(f"{path}: lacks {', '.join(absent)}.  {remedy}") from error
    if Path(stored.tensors).name != stored.tensors:
        raise BadCheckpoint(f"{path}: its tensors are in {quote(stored.tensors)}, but must lie beside it.  {remedy}")
    return stored


def load_state(folder: Path, module: nn.Module, optimiser: torch.optim.Optimizer, about: dict) -> TrainState:
    """Read a state into the loss module and the optimiser. Raises BadCheckpoint where it is of another run or network."""
    if not (folder / STATE).exists():
        raise BadCheckpoint(f"{folder}: no run to resume here ({STATE} is missing).  Start it without --resume.")
    stored = _read(folder)
    for key, value in about.items():
        theirs = stored.about.get(key)
        if key == "dims" and isinstance(theirs, dict):
            theirs = asdict(Dims()) | _dims(theirs, folder)     # a dimension that is absent is newer than the run
        if theirs != value:
            raise BadCheckpoint(f"{folder}: {_difference(key, theirs, value)}.  Resume with the config it was made with, or "
                                "start a new run with --output-dir.")
    tensors = read_safetensors(folder / stored.tensors, rename=_current_name)
    try:
        module.load_state_dict({name.removeprefix("module."): tensor for name, tensor in tensors.items()
                                if name.startswith("module.")})
    except RuntimeError as error:
        raise BadCheckpoint(f"{folder}: its network is not this version's ({' '.join(str(error).split())[:200]}).  {OLDER}") \
            from error
    parameters = dict(module.named_parameters())
    if mismatched := [name for name, tensor in tensors.items() if not _fits(name, tensor, parameters)]:
        raise BadCheckpoint(f"{folder}: its optimiser's state is not that of this network ({listed(mismatched)}).  Start a new "
                            "run with --output-dir.")
    _load_optimiser(optimiser, parameters, tensors)
    return TrainState(stored.step, stored.seconds, list(stored.best))


def _dims(stored: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Dims under this version's names. Raises BadCheckpoint."""
    try:
        return current_dims(stored)
    except AudioGate as error:
        raise BadCheckpoint(f"{folder}: the run there has dims.{error}.  {OLDER}") from error


def _current_name(name: str) -> str:
    """The name that this version gives to a stored tensor, `module.NAME` or `optimiser.KEY.NAME`."""
    found = re.fullmatch(r"(learner|module|optimiser\.\w+)\.(model\.)?(.*)", name)
    if found is None:
        return name
    return f"{found[1].replace('learner', 'module')}.{found[2] or ''}{current_tensor(found[3])}"


def _fits(name: str, tensor: Tensor, parameters: dict[str, nn.Parameter]) -> bool:
    """Whether a stored tensor is the network's, or what the optimiser knows of one of its parameters."""
    kind, _, rest = name.partition(".")
    parameter = parameters.get(rest.partition(".")[2])
    return kind == "module" or (kind == "optimiser" and parameter is not None and tensor.shape in ((), parameter.shape))


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


def keep_best(folder: Path, state: TrainState, model: Checkpoint, scores: dict[str, float], keep: int) -> None:
    """Save the model if it is among the `keep` best by mean WER. Others are deleted with the next state, because a run that is
    killed before resumes from a state that still names them. Raises BadOutput."""
    score = sum(scores.values()) / len(scores)
    state.best = sorted([*state.best, (score, state.step, scores)], key=lambda entry: entry[:2])[:keep]
    steps = {step for _, step, _ in state.best}
    if state.step in steps:
        checkpoint.save(model, folder / "best" / f"step-{state.step}", half=False,
                        remedy=f"Make room, then {how_to_continue(folder)}.")


def _drop_worse(folder: Path, state: TrainState) -> None:
    names = {f"step-{step}" for _, step, _ in state.best}
    for old in (folder / "best").glob("step-*"):
        if old.name not in names:
            shutil.rmtree(old)


def averaged(folder: Path, state: TrainState, model: Checkpoint) -> Checkpoint:
    """The mean of the best models' weights in `model`'s network."""
    states = [checkpoint.load(folder / "best" / f"step-{step}").model.state_dict() for _, step, _ in state.best]
    mean = {name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(tensor.dtype)
            if tensor.is_floating_point() else tensor for name, tensor in states[0].items()}
    model.model.load_state_dict(mean)
    return model


def best_one(folder: Path, state: TrainState, model: Checkpoint) -> Checkpoint:
    """The best model's weights in `model`'s network."""
    return averaged(folder, replace(state, best=state.best[:1]), model)
