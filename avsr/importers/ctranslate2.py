"""Reads CTranslate2's `model.bin`: the variables of a Whisper, mapped from the file in the type in which they are stored.

    model.bin -> arrays by name, as stored and not read yet;  `floats` -> one of them as float32
Layout: OpenNMT/CTranslate2 `python/ctranslate2/specs/model_spec.py`, version 6. float32, float16 and bfloat16 are widened; int8
(with a scale per row) and int16 (with one scale) are divided by their scales, as CTranslate2 does for float32.
"""

from __future__ import annotations

import mmap
import struct
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avsr.errors import BadCheckpoint, listed, quote

VERSION, SPEC = 6, "WhisperSpec"
REMEDY = "Install or fetch it again."
BFLOAT16 = np.dtype("<u2")                                  # the upper half of a float32; numpy has no such type
# In the order of the DataType of CTranslate2's types.h.
TYPES = (np.dtype("<f4"), np.dtype("i1"), np.dtype("<i2"), np.dtype("<i4"), np.dtype("<f2"), BFLOAT16)
SCALED = (np.dtype("i1"), np.dtype("<i2"))
EVERY_ROW = slice(None)
MAX_NAMES = 2**16                                                # variables or names; the largest Whisper has about 1,500
WIDENED = 8                                                 # times the file's size: int8 becomes four times as large


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """The variables of a file by name, as stored; an alias is the same array as its variable. Raises BadCheckpoint."""
    reader = _Reader(path)
    try:
        reader.header()
        variables = dict(reader.variable() for _ in range(reader.count()))
        aliases = [(reader.text(), reader.text()) for _ in range(reader.count())]
        for alias, name in aliases:
            variables[alias] = variables[name]
            if (scale := f"{name}_scale") in variables:
                variables[f"{alias}_scale"] = variables[scale]
    except (struct.error, UnicodeDecodeError, KeyError, ValueError) as error:
        raise BadCheckpoint(f"{path}: damaged at byte {reader.at} of {len(reader.data)} ({error}).  {REMEDY}") from error
    _check_types(path, variables)
    if (claimed := 4 * n_floats(variables)) > WIDENED * len(reader.data):
        raise BadCheckpoint(f"{path}: its variables become {claimed} bytes, but the file has {len(reader.data)}: many names "
                            f"stand for the same numbers.  {REMEDY}")
    return variables


def n_floats(variables: dict[str, np.ndarray]) -> int:
    """The sum of their sizes, without the output projection, which shares the embeddings."""
    return sum(array.size for name, array in variables.items() if name != "decoder/projection/weight")


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
            if path.exists() and not path.is_file():
                raise BadCheckpoint(f"{path}: is no regular file.  {REMEDY}")
            with path.open("rb") as file:
                empty = path.stat().st_size == 0            # which cannot be mapped
                # Writing would change a copy in memory; torch complains of arrays that it could not write to.
                self.data = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise BadCheckpoint(f"{path}: cannot be read ({error.strerror}).  {REMEDY}") from error

    def take(self, layout: str) -> tuple:
        self.at += struct.calcsize(layout)
        return struct.unpack_from(layout, self.data, self.at - struct.calcsize(layout))

    def count(self) -> int:
        """How many entries follow."""
        (count,) = self.take("<I")
        if count > MAX_NAMES:
            raise ValueError(f"{count} entries, and at most {MAX_NAMES} can be")
        return count

    def text(self) -> str:
        """A string, stored with its length and a zero at the end."""
        (length,) = self.take("<H")
        self.at += length
        return bytes(self.data[self.at - length:self.at - 1]).decode()

    def header(self) -> None:
        (version,), spec = self.take("<I"), self.text()
        if (version, spec) != (VERSION, SPEC):
            raise BadCheckpoint(f"{self.path}: CTranslate2 layout {version} of {listed([spec])}, known is {VERSION} of {SPEC}."
                                "  Name a Whisper, or convert it again.")
        self.take("<I")                                     # the spec's revision

    def variable(self) -> tuple[str, np.ndarray]:
        name, (n_dims,) = self.text(), self.take("<B")
        shape, (kind, n_bytes) = self.take(f"<{n_dims}I"), self.take("<BI")
        if kind >= len(TYPES):
            raise BadCheckpoint(f"{self.path}: {listed([name])} is of type {kind}, known are 0 to {len(TYPES) - 1}.  Convert "
                                "it with --quantization float16, or install a newer avsr.")
        if (needed := prod(shape) * TYPES[kind].itemsize) != n_bytes:        # before numpy, which takes no larger numbers
            raise ValueError(f"{listed([name])} of shape {shape[:8]} has {n_bytes} bytes, not {quote(needed)}")
        array = np.frombuffer(self.data, TYPES[kind], prod(shape), self.at).reshape(shape)
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
            raise BadCheckpoint(f"{path}: {listed([name])} {array.shape} is quantised as {array.dtype} with {beside}; known "
                                "are int8 with a scale for each row and int16 with one.  Convert it with --quantization "
                                "float16.")
