"""A corrector on disk: model.json, model.safetensors and tokenizer.json in a folder; never pickle.

    Corrector parts -> save_parts -> folder -> load_parts
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from avsr.correct.network import TextDims, TextToText
from avsr.correct.vocabulary import Vocabulary
from avsr.errors import BadCheckpoint
from avsr.models.blocks import TooLarge, outline
from avsr.output import write_files
from avsr.schema import Between, InvalidValue, read_json, validate_table
from avsr.tensorfiles import check_finite, check_memory, misfit, n_numbers, read_header, read_safetensors

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)

KIND = "corrector"
DESCRIPTION, WEIGHTS, TOKENIZER = "model.json", "model.safetensors", "tokenizer.json"
AGAIN = "Copy the whole folder again, or train it again with avsr correct train."


@dataclass(frozen=True)
class Guard:
    """When a corrected text is used, see Correction, whose fields of these names are compared. margin, confidence, support: the
    least; keep: the largest."""

    margin: Annotated[float, Between(0, 1000)] = 1.0
    confidence: Annotated[float, Between(0, 1)] = 0.5
    keep: Annotated[float, Between(0, 1)] = 0.1
    support: Annotated[float, Between(0, 1)] = 0.65


NEVER = Guard(margin=1000.0, confidence=1.0, keep=0.0, support=1.0)


@dataclass(frozen=True)
class CorrectorParts:
    """What a folder holds. guards: by the lists that a recogniser has, such as `a` or `a+v+av`; of others nothing is corrected.
    training: facts for the reader: data, steps, scores."""

    model: TextToText
    vocabulary: Vocabulary
    guards: dict[str, Guard] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Description:
    kind: str
    dims: dict[str, Any]
    guards: dict[str, dict[str, Any]]
    training: dict[str, Any]
    tokenizer_sha256: str


def save_parts(parts: CorrectorParts, folder: Path) -> Path:
    """Write a folder, all of it or nothing, the weights in 16 bits. Raises BadOutput."""
    from safetensors.torch import save

    weights = {name: tensor.detach().half().contiguous().cpu() for name, tensor in parts.model.state_dict().items()}
    guards = {name: asdict(guard) for name, guard in parts.guards.items()}
    about = _Description(KIND, asdict(parts.model.dims), guards, parts.training, parts.vocabulary.tokenizer.sha256)
    write_files({folder / DESCRIPTION: json.dumps(asdict(about), indent=1) + "\n", folder / WEIGHTS: save(weights),
                 folder / TOKENIZER: parts.vocabulary.path.read_bytes()},
                lambda reason: f"{folder}: the corrector cannot be written ({reason}).  Make room, or choose another folder.")
    return folder


def load_parts(folder: Path) -> CorrectorParts:
    """The corrector in a folder, on the CPU. Raises BadCheckpoint."""
    about = _describe(folder)
    dims = _table(TextDims, about.dims, folder)
    guards = {name: _table(Guard, guard, folder) for name, guard in about.guards.items()}
    vocabulary = Vocabulary(folder / TOKENIZER)
    if vocabulary.tokenizer.sha256 != about.tokenizer_sha256 or vocabulary.size != dims.n_vocab:
        raise BadCheckpoint(f"{folder}: its {TOKENIZER} is not the one that {DESCRIPTION} names.  {AGAIN}")
    header = read_header(folder / WEIGHTS)
    check_memory(n_numbers(header), folder)
    try:
        if dims.width % dims.n_heads or dims.width % 2:
            raise TooLarge
        model = outline(TextToText, dims, most=n_numbers(header))
        wrong = misfit(model.state_dict(), header)
    except TooLarge:
        wrong = f"hold {n_numbers(header)} numbers"
    if wrong is not None:
        raise BadCheckpoint(f"{folder / WEIGHTS}: its weights do not fit the dims in {DESCRIPTION} ({wrong}).  {AGAIN}")
    weights = read_safetensors(folder / WEIGHTS)
    check_finite(weights, folder / WEIGHTS)
    model.load_state_dict(weights, assign=True)
    return CorrectorParts(model.eval().requires_grad_(False), vocabulary, guards, about.training)


def _describe(folder: Path) -> _Description:
    path = folder / DESCRIPTION
    if not path.is_file():
        there = "there is no such folder" if not folder.exists() else f"there is no {DESCRIPTION} in it"
        raise BadCheckpoint(f"{folder}: no corrector is here ({there}).  Name with --correct the folder model/ of a run of "
                            "avsr correct train.")
    values = read_json(path)
    if values.get("kind") != KIND:
        raise BadCheckpoint(f"{folder}: this model is no corrector, so it cannot correct texts.  Name with --correct a folder "
                            "that avsr correct train made.")
    if absent := [one.name for one in fields(_Description) if one.name not in values]:
        raise BadCheckpoint(f"{path}: lacks {', '.join(absent)}.  {AGAIN}")
    return _Description(**_checked(_Description, values, path))


def _checked(kind: type, values: dict[str, Any], path: Path, above: str = "") -> dict[str, Any]:
    try:
        return validate_table(kind, values, above)
    except InvalidValue as error:
        raise BadCheckpoint(f"{path}: {error}.  {AGAIN}") from error


def _table(kind: type[T], values: dict[str, Any], folder: Path) -> T:
    """A table of model.json, in which every field must be there, and no other."""
    names = [one.name for one in fields(kind)]
    if sorted(values) != sorted(names):
        raise BadCheckpoint(f"{folder / DESCRIPTION}: its fields are {', '.join(map(str, values)) or 'absent'} instead of "
                            f"{', '.join(names)}.  Use the version of avsr that made it, or train it again.")
    return kind(**_checked(kind, values, folder / DESCRIPTION))
