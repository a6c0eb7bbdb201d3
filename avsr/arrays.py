"""The operations of the search on arrays of either library: torch's tensors, or NumPy's arrays where torch is not loaded.

The text of a network is searched by the same code whether torch runs the network or ONNX Runtime, which works on NumPy arrays
and never needs torch. What is as wide as the vocabulary stays where it is, on a GPU for instance; what is as wide as the beam
is NumPy's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = Any                                                 # numpy.ndarray or torch.Tensor


def is_tensor(x: object) -> bool:
    """Whether an array is torch's. This does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def to_numpy(x: Array) -> np.ndarray:
    """The array as one of NumPy's, in the memory of the processor; bfloat16 becomes float32."""
    if not is_tensor(x):
        return np.asarray(x)
    x = x.detach().cpu()
    return (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()


def like(x: Array, values: Array | Sequence) -> Array:
    """`values` as an array of the library, and on the device, of `x`; their own type is kept."""
    if not is_tensor(x):
        return to_numpy(values)
    import torch

    return torch.as_tensor(values, device=x.device)


def log_softmax(x: Array) -> Array:
    """The logarithm of the softmax over the last axis: (..., V) floating point -> (..., V)."""
    if is_tensor(x):
        return x.log_softmax(dim=-1)
    with np.errstate(invalid="ignore", divide="ignore"):     # a row of -inf alone gives NaN, as in torch
        shifted = x - x.max(axis=-1, keepdims=True)
        return np.subtract(shifted, np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), out=shifted)


def softmax(x: Array) -> Array:
    """The softmax over the last axis: (..., V) floating point -> (..., V)."""
    return x.softmax(dim=-1) if is_tensor(x) else np.exp(log_softmax(x))


def largest(x: Array, n: int) -> tuple[Array, Array]:
    """The n largest values of each row, the largest first, and their columns: (N, V) -> (N, n) twice."""
    if is_tensor(x):
        return x.topk(n, dim=1)
    columns = np.argpartition(-x, n - 1, axis=1)[:, :n] if n < x.shape[1] else np.broadcast_to(np.arange(n), x.shape)
    values = np.take_along_axis(x, columns, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(columns, order, axis=1)


def gather(x: Array, columns: Array) -> Array:
    """The values of each row at some columns: (N, V), (N, n) -> (N, n)."""
    return x.gather(1, columns) if is_tensor(x) else np.take_along_axis(x, columns, axis=1)


def repeat(x: Array, n: int) -> Array:
    """Each row n times: (N, ...) -> (n N, ...)."""
    return x.repeat_interleave(n, dim=0) if is_tensor(x) else np.repeat(x, n, axis=0)


def append(x: Array, columns: Array) -> Array:
    """Columns after those of x: (N, L), (N, K) -> (N, L + K)."""
    if not is_tensor(x):
        return np.concatenate([x, columns], axis=1)
    import torch

    return torch.cat([x, columns], dim=1)


def fill(x: Array, columns: Array, value: float) -> None:
    """Write a value into some columns (n,) of every row of x (N, V), in place."""
    if is_tensor(x):
        x.index_fill_(1, columns, value)
    else:
        x[:, columns] = value


def copy(x: Array) -> Array:
    """A copy that can be written into."""
    return x.clone() if is_tensor(x) else x.copy()
