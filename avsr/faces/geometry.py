"""Similarity transforms of the plane, which lay the points of a face on those of a mean face."""

from __future__ import annotations

import numpy as np


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares rotation, scaling and shift (no mirror) of points (..., N, 2) onto (N, 2) -> (..., 2, 3) float64.

    Umeyama's problem, which for the plane has a closed form in complex numbers.
    """
    a, b = (np.asarray(points, np.float64) @ np.array([1, 1j]) for points in (source, target))
    a_mean, b_mean = a.mean(axis=-1, keepdims=True), b.mean(axis=-1, keepdims=True)
    spread = (np.abs(a - a_mean) ** 2).sum(axis=-1)
    turn = ((a - a_mean).conj() * (b - b_mean)).sum(axis=-1) / np.maximum(spread, 1e-12)
    shift = b_mean[..., 0] - turn * a_mean[..., 0]
    rows = [[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
