"""Weights on disk: the header of a file is compared with the network before any tensor is read.

    model.safetensors -> read_header -> {name: Stored}, compared by `misfit` with the network's outline
                      -> read_safetensors -> {name: Tensor}, float32, all checked by check_finite
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avsr.errors import BadCheckpoint, listed
from avsr.runtime import memory_bytes

FLOATS = ("F64", "F32", "F16", "BF16")                      # of safetensors' types, those that become float32 here
WHOLE = "I64"
BYTES = 4                                                   # of a number in memory


@dataclass(frozen=True)
class Stored:
    """A tensor as a file announces it. dtype: by its name in safetensors."""

    shape: tuple[int, ...]
    dtype: str


def read_header(path: Path, rename: Callable[[str], str] = str) -> dict[str, Stored]:
    """The tensors that a safetensors file announces, under the names that `rename` gives them. Raises BadCheckpoint."""
    with _opened(path) as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {rename(name): Stored(tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()}


def stored(weights: Mapping[str, Tensor]) -> dict[str, Stored]:
    """Weights in memory, described as `read_header` describes those of a file."""
    return {name: Stored(tuple(tensor.shape), FLOATS[1] if tensor.is_floating_point() else WHOLE)
            for name, tensor in weights.items()}


def n_numbers(found: Mapping[str, Stored]) -> int:
    """The numbers in all of these tensors together."""
    return sum(prod(one.shape) for one in found.values())


def misfit(wanted: Mapping[str, Tensor], found: Mapping[str, Stored]) -> str | None:
    """In words, why weights do not fit a network, such as `lacks audio.conv1.weight and 3 more`; None where they fit."""
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    both = sorted(wanted.keys() & found.keys())
    shapes = [f"{name} {found[name].shape} for {tuple(wanted[name].shape)}" for name in both
              if found[name].shape != tuple(wanted[name].shape)]
    types = [f"{name} of type {found[name].dtype}" for name in both
             if found[name].dtype not in (FLOATS if wanted[name].is_floating_point() else (WHOLE,))]
    for what, names in (("lacks", missing), ("has unknown", extra), ("has wrong shapes:", shapes), ("has wrong types:", types)):
        if names:
            return f"{what} {listed(names)}"
    return None


def check_memory(n: int, source: Path | str) -> None:
    """Raises BadCheckpoint where n float32 numbers do not fit this machine's memory."""
    there = memory_bytes()
    if there is not None and n * BYTES > there:
        raise BadCheckpoint(f"{source}: its {n} weights take {n * BYTES / 1e9:.1f} GB, but this machine has {there / 1e9:.1f} "
                            "GB of memory.  Use a smaller model.")


def read_safetensors(path: Path, names: Container[str] | None = None, rename: Callable[[str], str] = str) -> dict[str, Tensor]:
    """The tensors of one file under the names that `rename` gives, only those of `names` unless None; floating-point ones as
    float32. Raises BadCheckpoint."""
    with _opened(path) as file:
        tensors = {rename(name): file.get_tensor(name) for name in file.keys()  # noqa: SIM118
                   if names is None or rename(name) in names}
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def check_finite(weights: Mapping[str, Tensor], source: Path | str, *, limits: Container[str] = ()) -> None:
    """Raises BadCheckpoint where a weight is infinite or NaN. limits: names of numbers that may be infinite."""
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        low, high = torch.aminmax(tensor)                   # NaN if any is; takes a tenth of the time of isfinite
        if not (low.isfinite() and high.isfinite()) and (name not in limits or low.isnan()):
            raise BadCheckpoint(f"{source}: {listed([name])} holds values that are infinite or no numbers, so the weights are "
                                "damaged.  Fetch the model again.")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open, mapped safetensors file. Raises BadCheckpoint for every failure."""
    from safetensors import SafetensorError, safe_open

    try:
        if not path.is_file():                              # a pipe would never answer
            raise OSError("no such file" if not path.exists() else "no regular file")
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError, MemoryError, RuntimeError, LookupError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]         # it raises any of these for types that torch lacks
        raise BadCheckpoint(f"{path}: cannot be read as weights ({reason}).  Fetch the model again.") from error
