"""The files of a run: everything needed to resume bit for bit, and the best models so far.

    runs/NAME/state.json + state-STEP.safetensors   network, label heads, optimiser, in float32
    runs/NAME/state.json + state-STEP/              the same, written by several processes, see group_state.py
    runs/NAME/best/step-STEP/                        model folders, the `keep` best on validation
    runs/NAME/model/                                 the result
The tensors are written first, and state.json, which names them, is renamed into place: a crash leaves a whole state.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from avsr import checkpoint
from avsr.checkpoint import Checkpoint
from avsr.checkpoint.old_names import AudioGate, current_dims, current_tensor
from avsr.dataset import ManifestRow
from avsr.errors import BadCheckpoint, BadOutput, listed, quote
from avsr.models.avsr import Dims
from avsr.output import reason_of, whole_file
from avsr.schema import Between, InvalidValue, Printable, read_json, validate_table
from avsr.tensorfiles import Stored, read_header, read_safetensors
from avsr.train.group_state import GroupWriter, read_group_header, read_group_tensors

STATE = "state.json"
OLDER = "Resume with the version of avsr that began the run, or start a new run with --output-dir."


@dataclass(frozen=True)
class StoredState:
    """state.json. tensors: the file or folder beside it; about: see save_state."""

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
               about: dict, group: GroupWriter | None = None) -> None:
    """Write the whole state. `about`: facts that a resumed run must share, such as dims. group: of several processes, which all
    call this; the state is then written while they go on, and counts once all have written. Raises BadOutput."""
    tensors, facts = _tensors(module, optimiser), {**asdict(state), "about": about}
    best = {step for _, step, _ in state.best}

    def fails(error: BaseException) -> BadOutput:
        return BadOutput(f"{folder}: the training state cannot be written ({reason_of(error)}).  Make room, then "
                         f"{how_to_continue(folder)}.")

    if group is None:
        _save_alone(folder, f"state-{state.step}.safetensors", tensors, facts, fails)
        _drop_older(folder, state, best)
        return

    def done() -> None:
        about["files"] = sorted(path.name for path in fresh.iterdir())
        _write_facts(folder, fresh.name, facts)
        _drop_older(folder, state, best)

    named = _read(folder).tensors if (folder / STATE).exists() else None
    fresh = folder / (f"state-{state.step}" if named != f"state-{state.step}" else f"state-{state.step}-again")
    group.write(fresh, tensors, done, fails)


def _tensors(module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors of a state by name; shares of them where several processes share the network."""
    tensors = {f"module.{name}": tensor.detach() for name, tensor in module.state_dict().items()}
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    for parameter, values in optimiser.state.items():
        tensors |= {f"optimiser.{key}.{names[parameter]}": value.detach() for key, value in values.items()}
    return tensors


def _save_alone(folder: Path, name: str, tensors: dict[str, Tensor], facts: dict,
                fails: Callable[[BaseException], BadOutput]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    fresh = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(fresh, alone=True) as part:
            save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, part)
        _write_facts(folder, fresh.name, facts)
    except (OSError, SafetensorError) as error:
        named = _read(folder).tensors if (folder / STATE).exists() else None
        if fresh.name != named:                             # a file that no state names would never be deleted
            with suppress(OSError):
                fresh.unlink()
        raise fails(error) from error


def _write_facts(folder: Path, tensors: str, facts: dict) -> None:
    with whole_file(folder / STATE, alone=True) as part:
        part.write_text(json.dumps({**facts, "tensors": tensors}, indent=1) + "\n")


def _drop_older(folder: Path, state: TrainState, best: set[int]) -> None:
    """Delete what state.json does not name: older states, those of a killed process, and models that are not among the best.

    best: steps of the models that state.json names. Training may go on meanwhile and save another model; `keep_best` adds its
    step to `state.best` first, so models are listed before that is read.
    """
    named = _read(folder).tensors
    for old in (*folder.glob("state-*"), *folder.glob(".state-*.part")):
        if old.name != named:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    models = list((folder / "best").glob("step-*"))
    kept = {f"step-{step}" for step in best | {step for _, step, _ in state.best}}
    for old in models:
        if old.name not in kept:
            shutil.rmtree(old)


def how_to_continue(folder: Path) -> str:
    """How to continue a run that was interrupted, as the end of a sentence."""
    if not (folder / STATE).exists():
        return "start again, as no state was saved yet"
    return f"go on from step {read_json(folder / STATE)['step']} with --resume"


def _read(folder: Path) -> StoredState:
    """state.json, with every field of its type. Raises BadCheckpoint."""
    path, values = folder / STATE, read_json(folder / STATE)
    remedy = "Start a new run with --output-dir."
    try:
        stored = StoredState(**validate_table(StoredState, values))
    except InvalidValue as error:
        raise BadCheckpoint(f"{path}: {error}.  {remedy}") from error
    except TypeError as error:                              # a field is missing
        absent = [f.name for f in fields(StoredState) if f.name not in values]
        raise BadCheckpoint(f"{path}: lacks {', '.join(absent)}.  {remedy}") from error
    if Path(stored.tensors).name != stored.tensors:
        raise BadCheckpoint(f"{path}: its tensors are in {quote(stored.tensors)}, but must lie beside it.  {remedy}")
    return stored


def read_state(folder: Path) -> StoredState:
    """The facts of the state in a folder. Raises BadCheckpoint where there is none."""
    if not (folder / STATE).exists():
        raise BadCheckpoint(f"{folder}: no run to resume here ({STATE} is missing).  Start it without --resume.")
    return _read(folder)


def batches_per_step(folder: Path, accumulate: int, world: int) -> int:
    """How many batches a step of the run in a folder takes, which `world` processes then share; the list of batches is the same
    with any number of processes. accumulate: as the config has it. Raises BadCheckpoint."""
    about = read_state(folder).about
    before, processes = about.get("accumulate"), about.get("processes")
    theirs = about.get("batches", before * processes if isinstance(before, int) and isinstance(processes, int) else None)
    if not isinstance(theirs, int) or theirs < 1:
        raise BadCheckpoint(f"{folder / STATE}: about.batches is {quote(theirs)}, but must be a whole number above 0.  Start a "
                            "new run with --output-dir.")
    if theirs != accumulate * world and before != accumulate:
        raise BadCheckpoint(f"{folder}: a step of the run there takes {theirs} batches, but train.accumulate = {accumulate} "
                            f"makes it {accumulate * world}.  Resume with train.accumulate = {before}, or start a new run with "
                            "--output-dir.")
    if theirs % world:
        raise BadCheckpoint(f"{folder}: a step of the run there takes {theirs} batches, which {world} processes cannot share "
                            f"evenly.  Resume with a number of processes that divides {theirs}, or start a new run with "
                            "--output-dir.")
    return theirs


def load_state(folder: Path, module: nn.Module, optimiser: torch.optim.Optimizer, about: dict) -> TrainState:
    """Read a state into the loss module and the optimiser. Raises BadCheckpoint where it is of another run or network.

    Any number of processes may read it, however many have written it.
    """
    stored = read_state(folder)
    for key, value in about.items():
        theirs = stored.about.get(key)
        if key == "dims" and isinstance(theirs, dict):
            theirs = asdict(Dims()) | _dims(theirs, folder)     # a dimension that is absent is newer than the run
        if theirs != value and not (key == "data" and theirs is None):          # runs of former versions do not tell
            raise BadCheckpoint(f"{folder}: {_difference(key, theirs, value)}.  Resume with the "
                                f"{'manifest' if key == 'data' else 'config'} it was made with, or start a new run with "
                                "--output-dir.")
    path, parameters = folder / stored.tensors, dict(module.named_parameters())
    if path.is_dir() and (missing := [name for name in stored.about.get("files", []) if not (path / str(name)).exists()]):
        raise BadCheckpoint(f"{path / str(missing[0])}: no such file, although the state has it.  Copy the folder again, or "
                            "start a new run with --output-dir.")
    found = read_group_header(path) if path.is_dir() else read_header(path, _current_name)
    if mismatched := [name for name, one in found.items() if not _fits(name, one.shape, parameters)]:
        raise BadCheckpoint(f"{folder}: its optimiser's state is not that of this network ({listed(mismatched)}).  Start a new "
                            "run with --output-dir.")
    tensors = _read_tensors(path, found, module, parameters)
    try:
        module.load_state_dict({name.removeprefix("module."): tensor for name, tensor in tensors.items()
                                if name.startswith("module.")})
    except RuntimeError as error:
        raise BadCheckpoint(f"{folder}: its network is not this version's ({' '.join(str(error).split())[:200]}).  {OLDER}") \
            from error
    _load_optimiser(optimiser, parameters, tensors)
    return TrainState(stored.step, stored.seconds, list(stored.best))


def _read_tensors(path: Path, found: Mapping[str, Stored], module: nn.Module,
                  parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """The tensors of a state, each shared by the processes as the network's own."""
    own = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    likes = {name: own.get(name) if name.startswith("module.") else parameters[name.split(".", 2)[2]] for name in found}
    if not path.is_dir():
        return {name: _shared_as(tensor, likes[name]) for name, tensor in read_safetensors(path, rename=_current_name).items()}
    tensors = {name: torch.zeros(one.shape) if (like := likes[name]) is None or like.shape != one.shape else
               torch.empty_like(like, requires_grad=False) for name, one in found.items()}
    read_group_tensors(path, tensors)
    return tensors


def _shared_as(tensor: Tensor, like: Tensor | None) -> Tensor:
    """A whole tensor, or this process's share of it where `like` is shared."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


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


def _fits(name: str, shape: tuple[int, ...], parameters: dict[str, nn.Parameter]) -> bool:
    """Whether a stored tensor is the network's, or what the optimiser knows of one of its parameters."""
    kind, _, rest = name.partition(".")
    parameter = parameters.get(rest.partition(".")[2])
    return kind == "module" or (kind == "optimiser" and parameter is not None and shape in ((), tuple(parameter.shape)))


def _difference(key: str, theirs: object, ours: object) -> str:
    if key == "data" and isinstance(theirs, dict) and isinstance(ours, dict):
        return (f"the training data have changed since the run began, which had {theirs.get('utterances')} utterances: the "
                f"{ours.get('utterances')} of today are others, or lie elsewhere in the shards")
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


def manifest_fingerprint(rows: Sequence[ManifestRow]) -> dict[str, int | str]:
    """How many utterances there are, and a hash of their ids, splits and places in the shards, in their order: what the
    batches of a run follow from, beside its seed."""
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps([row.utterance.id, row.utterance.split, asdict(row.cache)]).encode() + b"\n")
    return {"utterances": len(rows), "sha256": found.hexdigest()}


def keep_best(folder: Path, state: TrainState, model: Checkpoint, scores: dict[str, float], keep: int) -> None:
    """Save the model if it is among the `keep` best by mean WER. Others are deleted with the next state, because a run that is
    killed before resumes from a state that still names them. Raises BadOutput."""
    score = sum(scores.values()) / len(scores)
    state.best = sorted([*state.best, (score, state.step, scores)], key=lambda entry: entry[:2])[:keep]
    steps = {step for _, step, _ in state.best}
    if state.step in steps:
        checkpoint.save(model, folder / "best" / f"step-{state.step}", half=False,
                        remedy=f"Make room, then {how_to_continue(folder)}.")


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
