"""Speaker turns: every person's scores and where there is speech in, whose turn it is out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

SMOOTHED = 12             # frames on either side over which scores are averaged


@dataclass(frozen=True)
class SpeakerTurn:
    """A part of a recording in which the same persons speak.

    start_frame, end_frame: from the start of the recording; the end is not included
    persons: numbers of the persons, as face tracks have them; empty where nobody in sight speaks, two where both do
    """

    start_frame: int
    end_frame: int
    persons: tuple[int, ...]


def speaker_turns(scores: Mapping[int, np.ndarray], start_frame: int, n_frames: int) -> list[SpeakerTurn]:
    """The turns that fill `n_frames` frames of speech from `start_frame` on, in order and without a hole.

    scores: for each person in sight, log-odds (n_frames,) that this person speaks, -inf in frames where the mouth is not seen.
    """
    persons = sorted(scores)
    if not persons:
        return [SpeakerTurn(start_frame, start_frame + n_frames, ())]
    smooth = np.stack([_smoothed(scores[person]) for person in persons])
    best = np.where(smooth.max(axis=0) > 0, smooth.argmax(axis=0), -1)
    edges = [0, *(np.flatnonzero(np.diff(best)) + 1).tolist(), n_frames]
    return [SpeakerTurn(start_frame + low, start_frame + high, () if best[low] < 0 else (persons[best[low]],))
            for low, high in pairwise(edges)]


def _smoothed(scores: np.ndarray) -> np.ndarray:
    """(T,) -> (T,): the mean of the finite scores nearby, -inf where there is none."""
    finite, kernel = np.isfinite(scores), np.ones(2 * SMOOTHED + 1)
    total = np.convolve(np.where(finite, scores, 0.0), kernel)[SMOOTHED:-SMOOTHED]
    count = np.convolve(finite, kernel)[SMOOTHED:-SMOOTHED]
    return np.where(count > 0.5, total / np.maximum(count, 1), -np.inf)
