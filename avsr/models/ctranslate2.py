"""CTranslate2's `model.bin`: the variables of a Whisper, mapped from the file, in whatever type they are stored.

    model.bin -> name: array as stored, none of which is read before it is asked for;  `floats` gives one as float32
Layout and quantisation: OpenNMT/CTranslate2 `python/ctranslate2/specs/model_spec.py`, version 6. float32, float16 and bfloat16
are widened; int8 (a scale for each row) and int16 (one scale) are divided by their scales, as CTranslate2 itself does where it
computes in float32.
"""

from __future__ import annotations

import mmap
import struct
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avsr.errors import BadCheckpoint

VERSION, SPEC = 6, "WhisperSpec"
REMEDY = "Install or fetch it again."
BFLOAT16 = np.dtype("<u2")                                  # the upper half of a float32; numpy has no type of its own for it
# In the order of the DataType of CTranslate2's types.h.
TYPES = (np.dtype("<f4"), np.dtype("i1"), np.dtype("<i2"), np.dtype("<i4"), np.dtype("<f2"), BFLOAT16)
SCALED = (np.dtype("i1"), np.dtype("<i2"))
EVERY_ROW = slice(None)


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """The variables of a file by name, as stored; a variable that stands for another is that one's array.

    Raises BadCheckpoint for another version, another kind of model, a type without a known meaning, or a damaged file.
    """
    reader = _Reader(path)
    try:
        reader.header()
        (count,) = reader.take("<I")
        variables = dict(reader.variable() for _ in range(count))
        (count,) = reader.take("<I")
        aliases = [(reader.text(), reader.text()) for _ in range(count)]
        for alias, name in aliases:
            variables[alias] = variables[name]
            if (scale := f"{name}_scale") in variables:
                variables[f"{alias}_scale"] = variables[scale]
    except (struct.error, UnicodeDecodeError, KeyError, ValueError) as error:
        raise BadCheckpoint(f"{path}: damaged at byte {reader.at} of {len(reader.data)} ({error}).  {REMEDY}") from error
    _check_types(path, variables)
    return variables


def floats(variables: dict[str, np.ndarray], name: str, rows: slice = EVERY_ROW) -> Tensor:
    """A variable, or some of its rows, as float32 in memory of its own."""
    array = variables[name][rows]
    if array.dtype not in SCALED:
        return _widened(array)
    scale = variables[f"{name}_scale"]
    scale = _widened(scale[rows] if scale.ndim else scale)
    return _widened(array).div_(scale.reshape(*scale.shape, *[1] * (array.ndim - scale.ndim)))


def _widened(array: np.ndarray) -> Tensor:
    # By torch, which takes a fifth of numpy's time for float16.
    stored = torch.from_numpy(array.view("<i2")).view(torch.bfloat16) if array.dtype == BFLOAT16 else torch.from_numpy(array)
    return stored.to(torch.float32, copy=True)


def is_setting(variables: dict[str, np.ndarray], name: str) -> bool:
    """Whether a variable is no weight: a single number that says how to compute, or the scales of a quantised weight."""
    scaled = variables.get(name.removesuffix("_scale"))
    return variables[name].ndim == 0 or (name.endswith("_scale") and scaled is not None and scaled.dtype in SCALED)


class _Reader:
    """A file, mapped, and how far it has been read."""

    def __init__(self, path: Path):
        self.path, self.at = path, 0
        try:
            with path.open("rb") as file:
                empty = path.stat().st_size == 0            # which cannot be mapped
                # Writing would change a copy in memory; torch complains of arrays that it could not write to.
                self.data = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise BadCheckpoint(f"{path}: cannot be read ({error.strerror}).  {REMEDY}") from error

    def take(self, layout: str) -> tuple:
        self.at += struct.calcsize(layout)
        return struct.unpack_from(layout, self.data, self.at - struct.calcsize(layout))

    def text(self) -> str:
        """A string, stored with its length and a zero at the end."""
        (length,) = self.take("<H")
        self.at += length
        return bytes(self.data[self.at - length:self.at - 1]).decode()

    def header(self) -> None:
        (version,), spec = self.take("<I"), self.text()
        if (version, spec) != (VERSION, SPEC):
            raise BadCheckpoint(f"{self.path}: CTranslate2 layout {version} of {spec}, known is {VERSION} of {SPEC}.  Name a "
                                "Whisper, or convert it again.")
        self.take("<I")                                     # the spec's revision

    def variable(self) -> tuple[str, np.ndarray]:
        name, (n_dims,) = self.text(), self.take("<B")
        shape, (kind, n_bytes) = self.take(f"<{n_dims}I"), self.take("<BI")
        if kind >= len(TYPES):
            raise BadCheckpoint(f"{self.path}: {name} is of type {kind}, known are 0 to {len(TYPES) - 1}.  Convert it with "
                                "--quantization float16, or install a newer avsr.")
        array = np.frombuffer(self.data, TYPES[kind], prod(shape), self.at).reshape(shape)
        if array.nbytes != n_bytes:
            raise ValueError(f"{name} of shape {shape} has {n_bytes} bytes, not {array.nbytes}")
        self.at += n_bytes
        return name, array


def _check_types(path: Path, variables: dict[str, np.ndarray]) -> None:
    """Raises BadCheckpoint for whole numbers whose scales are missing or do not fit: they mean nothing."""
    for name, array in variables.items():
        if array.ndim == 0 or array.dtype.kind == "f" or array.dtype == BFLOAT16:
            continue
        scale = variables.get(f"{name}_scale")
        if array.dtype not in SCALED or scale is None or scale.shape not in ((), array.shape[:1]):
            beside = "no scales" if scale is None else f"scales of shape {scale.shape}"
            raise BadCheckpoint(f"{path}: {name} {array.shape} is quantised as {array.dtype} with {beside}; known are "
                                "int8 with a scale for each row and int16 with one.  Convert it with --quantization float16.")
