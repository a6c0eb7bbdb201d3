"""Speaker turns: every person's scores and where there is speech in, whose turn it is out.

    scores {person: (T,) log-odds}, speech (T,) in 0..1, level (T,) dB -> SpeakerTurns, cut at pauses
The turns are the most likely path (Viterbi) through nobody, each person and each pair, where a change has its cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import numpy as np

LARGEST_SCORE = 3.0       # log-odds beyond which a score says no more
UNSEEN_SCORE = -1.0       # of a person in a frame without the mouth: it may be turned away for a moment
# Chosen with the network after a third of its training. On 18 conversations made of GRID (experiments/speaker_text), in which
# 108 sentences are said, these costs give 104 turns and
# the right speaker in 98.3 % of the frames of speech. Where all in sight talk and one of them is heard
# (experiments/active_speaker, `dubbed`, valid) it is 88.7 % (87.0 if nobody costs nothing, 90.8 with 1.0), and 92.8 % where
# somebody off screen is heard (95.0, 88.0). Two who talk at once are named in 33 % of the frames, in 23 % with 2.0 for a pair,
# and in 45 % with 1.0, which names a second speaker where there is none.
CHANGE_COST = 12.0        # log-odds that a change of speaker must bring
PAIR_COST = 1.5           # log-odds in each frame by which both must exceed one alone
NOBODY_COST = 0.5         # log-odds in each frame by which nobody in sight must be ahead of somebody
MOST_IN_PAIRS = 4         # persons whose pairs are considered: those with the highest scores
REACH = 8                 # frames by which a cut is moved to a pause
QUIET = 0.5               # probability of speech below which a frame is a pause
LEVEL_DB = 40.0           # of sound that count as much as the whole range of probability


@dataclass(frozen=True)
class SpeakerTurn:
    """A part of a recording in which the same persons speak.

    start_frame, end_frame: from the start of the recording; the end is not included
    persons: numbers of the persons, as face tracks have them, the one with the highest score first; empty where nobody in
        sight speaks, two where both do
    """

    start_frame: int
    end_frame: int
    persons: tuple[int, ...]


def speaker_turns(scores: Mapping[int, np.ndarray], start_frame: int, n_frames: int,
                  speech: np.ndarray | None = None) -> list[SpeakerTurn]:
    """The turns that fill `n_frames` frames of speech from `start_frame` on, in order and without a hole.

    scores: for each person in sight, log-odds (n_frames,) that this person speaks, -inf in frames where the mouth is not seen.
    speech: probability (n_frames,) of speech, by which frames count; in a pause the turn goes on. None where all is speech.
    """
    persons = sorted(scores)
    if not persons or not n_frames:
        return [SpeakerTurn(start_frame, start_frame + n_frames, ())] if n_frames else []
    clear = np.stack([np.where(np.isfinite(scores[one]), scores[one], UNSEEN_SCORE) for one in persons]).astype(np.float64)
    clear, counted = clear.clip(-LARGEST_SCORE, LARGEST_SCORE), np.ones(n_frames) if speech is None else speech
    states = _states(clear * counted)
    gains = [clear[list(state)].sum(axis=0) - PAIR_COST * (len(state) - 1) if state else np.full(n_frames, -NOBODY_COST)
             for state in states]
    path = _best_path(np.stack(gains) * counted)
    edges = [0, *(np.flatnonzero(np.diff(path)) + 1).tolist(), n_frames]
    turns = []
    for low, high in pairwise(edges):
        here = sorted(states[path[low]], key=lambda i: -(clear[i] * counted)[low:high].sum())
        turns.append(SpeakerTurn(start_frame + low, start_frame + high, tuple(persons[i] for i in here)))
    return turns


def _states(clear: np.ndarray) -> list[tuple[int, ...]]:
    """Rows of the persons (n, T) who may speak at the same time: nobody, one, and two of those with the highest scores."""
    loudest = np.argsort(-np.maximum(clear, 0).sum(axis=1), kind="stable")[:MOST_IN_PAIRS]
    return [(), *((i,) for i in range(len(clear))), *combinations(sorted(loudest.tolist()), 2)]


def _best_path(gains: np.ndarray) -> np.ndarray:
    """(states, T) log-odds -> (T,) int: the states with the largest sum of gains, less CHANGE_COST for each change."""
    n_states, n_frames = gains.shape
    total, came_from = gains[:, 0].copy(), np.zeros((n_frames, n_states), np.int64)
    stay = np.arange(n_states)
    for t in range(1, n_frames):
        best = int(total.argmax())
        changes = total[best] - CHANGE_COST > total
        came_from[t] = np.where(changes, best, stay)
        total = np.where(changes, total[best] - CHANGE_COST, total) + gains[:, t]
    path = np.empty(n_frames, np.int64)
    path[-1] = int(total.argmax())
    for t in range(n_frames - 1, 0, -1):
        path[t - 1] = came_from[t, path[t]]
    return path


def cut_at_pauses(turns: Sequence[SpeakerTurn], speech: np.ndarray, level_db: np.ndarray) -> list[SpeakerTurn]:
    """The same turns, each boundary moved to the quietest frame within the pause around it and REACH frames beyond.

    speech: probability (T,), level_db: (T,) of the sound, both from the start of the first turn on.
    """
    if not turns:
        return []
    loudness = speech + np.clip(level_db - level_db.max(), -LEVEL_DB, 0) / LEVEL_DB
    loudness = np.convolve(np.pad(loudness, 1, mode="edge"), np.ones(3) / 3, mode="valid")
    first, out, start = turns[0].start_frame, [], turns[0].start_frame
    for turn, following in pairwise(turns):
        at = turn.end_frame - first
        low = high = at
        while low > start - first + 1 and (at - low < REACH or speech[low - 1] < QUIET):
            low -= 1
        while high < following.end_frame - first - 1 and (high - at < REACH or speech[high] < QUIET):
            high += 1
        nearest = sorted(range(low, high + 1), key=lambda i: (round(float(loudness[i - 1] + loudness[i]), 3), abs(i - at)))
        end = first + nearest[0]
        out.append(replace(turn, start_frame=start, end_frame=end))
        start = end
    return [*out, replace(turns[-1], start_frame=start)]
