"""Values from files, checked against the annotations of a dataclass before anything is made of them.

    model.json, config.toml -> a table -> validate, validate_table -> values of the annotated types, within their bounds
An annotation is `int`, `float`, `str`, `bool`, `dict`, `tuple[X, ...]`, `tuple[X, Y]` or `X | None`, with bounds as in
`Annotated[int, Between(1, 64)]`, `Annotated[tuple[X, ...], Between(1, 9)]` (its length), `Annotated[str, OneOf(...)]` or
`Annotated[str, Printable(200)]`.
"""

from __future__ import annotations

import json
import types
import typing
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from avsr.errors import AvsrError, BadCheckpoint, quote

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)

LONGEST_FILE = 2**22                                        # bytes of JSON: 4 MB, which need up to 40 times as much memory
AGAIN = "Fetch the model again."


class InvalidValue(Exception):
    """A value does not have the type of its field; `str(error)` names the field, the value and what it must be."""


@dataclass(frozen=True)
class Between:
    """The smallest and the largest number that a field accepts; of a tuple, the smallest and the largest length."""

    least: float
    most: float


@dataclass(frozen=True, eq=False)
class OneOf:
    """The texts that a field accepts."""

    known: Collection[str]


@dataclass(frozen=True)
class Printable:
    """Text of 1 to `longest` characters, without control characters and surrogates."""

    longest: int


def from_keywords(kind: type[T], values: Mapping[str, Any], function: str) -> T:
    """The dataclass of a function's settings from keyword arguments. Raises AvsrError for a name that does not exist."""
    known = [field.name for field in fields(kind)]
    for name in values:
        if name not in known:
            nearest = (get_close_matches(name, known, 1, 0) or known)[0]
            raise AvsrError(f"{function} has no setting {name!r}.  Use {nearest}, or any of {', '.join(known)}.")
    return kind(**values)


def validate(value: Any, hint: Any, name: str, *, null: str | None = None) -> Any:
    """`value`, which a file holds under `name`, as the annotated type. Raises InvalidValue.

    hint: the annotation. null: what stands for None in the file, which is a word in TOML, because that has no null.
    """
    hint, bounds, optional = _parts(hint)
    if optional and value == null:
        return None
    kind = typing.get_origin(hint) or hint
    if kind is Any:
        return value
    if kind is tuple and isinstance(value, list | tuple):
        inner = typing.get_args(hint)
        inner = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(inner) == len(value) and (bounds is None or bounds.least <= len(value) <= bounds.most):
            return tuple(validate(item, one, f"{name}[{i}]", null=null)
                         for i, (item, one) in enumerate(zip(value, inner, strict=True)))
    if kind is dict and isinstance(value, Mapping):
        _, inner = typing.get_args(hint) or (str, Any)
        return {key: validate(item, inner, f"{name}.{quote(key)[1:-1]}", null=null) for key, item in value.items()}
    if kind in (bool, str) and isinstance(value, kind) and _allowed(value, bounds):
        return value
    if kind in (int, float) and _is_number(value, kind) and _allowed(value, bounds):
        return kind(value)
    absent = f" or {null or 'null'}" if optional else ""
    raise InvalidValue(f"{name} is {quote(value)}, but must be {_wanted(kind, hint, bounds)}{absent}")


def validate_table(kind: type, values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The fields of the dataclass `kind` that a table names, each as `validate` gives it.

    above: is put before names in messages. The caller checks for unknown names and absent fields. Raises InvalidValue.
    """
    hints = type_hints(kind)
    return {f.name: validate(values[f.name], hints[f.name], above + f.name) for f in fields(kind) if f.name in values}


def read_json(path: Path, *, longest: int = LONGEST_FILE) -> dict[str, Any]:
    """The JSON object in a file of at most `longest` bytes. Raises BadCheckpoint."""
    try:
        data = read_file(path, longest=longest)
        value = json.loads(data)
        if rb"\ud" in data.lower():                         # a lone surrogate could not be written
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise BadCheckpoint(f"{path}: cannot be read as JSON (its lists or tables are nested too deeply).  {AGAIN}") from error
    except ValueError as error:
        raise BadCheckpoint(f"{path}: cannot be read as JSON ({error}).  {AGAIN}") from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path}: holds a JSON {type(value).__name__}, not an object.  {AGAIN}")
    return value


def read_file(path: Path, *, longest: int, remedy: str = AGAIN) -> bytes:
    """The bytes of a regular file. Raises BadCheckpoint if it is longer, or is a pipe or a device, which might never end."""
    try:
        if path.exists() and not path.is_file():
            raise BadCheckpoint(f"{path}: is no regular file.  Put a copy of the file in its place.")
        if (size := path.stat().st_size) > longest:
            raise BadCheckpoint(f"{path}: has {size} bytes, and such a file has at most {longest}.  {remedy}")
        return path.read_bytes()
    except (OSError, ValueError) as error:                  # ValueError: a character that no path can have
        reason = getattr(error, "strerror", None) or error
        raise BadCheckpoint(f"{path}: cannot be read ({reason}).  {remedy}") from error


@lru_cache(maxsize=32)
def type_hints(kind: type) -> dict[str, Any]:
    """The annotations of a dataclass by field name, with their bounds."""
    return typing.get_type_hints(kind, include_extras=True)


def _parts(hint: Any) -> tuple[Any, Any, bool]:
    """An annotation as the type, its bounds or None, and whether null is allowed."""
    optional = typing.get_origin(hint) in (typing.Union, types.UnionType)
    if optional:
        hint, _ = typing.get_args(hint)                     # X | None
    bounds = None
    if typing.get_origin(hint) is typing.Annotated:
        hint, bounds = typing.get_args(hint)
    return hint, bounds, optional


def _is_number(value: Any, kind: type) -> typing.TypeGuard[float]:
    """Whether a value is a finite number, and a whole one if `kind` is int. True and False are not numbers."""
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        return False
    return abs(value) < 1e300                               # False for nan; a longer whole number would not fit a float


def _allowed(value: Any, bounds: Any) -> bool:
    if isinstance(bounds, Between):
        return bounds.least <= value <= bounds.most
    if isinstance(bounds, OneOf):
        return value in bounds.known
    if isinstance(bounds, Printable):
        return 1 <= len(value) <= bounds.longest and not any(unicodedata.category(one) in ("Cc", "Cs") for one in value)
    return True


def _wanted(kind: type, hint: Any, bounds: Any) -> str:
    """What a field accepts, in words."""
    if isinstance(bounds, OneOf):
        return f"one of {', '.join(bounds.known)}"
    if isinstance(bounds, Printable):
        return f"text of 1 to {bounds.longest} characters, none of them a control character"
    if kind is tuple:
        inner = typing.get_args(hint)
        items = "texts" if _parts(inner[0])[0] is str else "lists" if typing.get_origin(inner[0]) is tuple else "numbers"
        some = f"{bounds.least} to {bounds.most} {items}" if bounds is not None else items
        return f"a list of {some}" if inner[-1] is Ellipsis else f"a list of {len(inner)} {items}"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a table"}[kind]
    return words if bounds is None else f"{words} from {_number(bounds.least)} to {_number(bounds.most)}"


def _number(value: float) -> str:
    """A bound in a message: a whole number in full, any other as short as possible."""
    return str(value) if isinstance(value, int) else f"{value:g}"
