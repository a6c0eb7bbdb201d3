"""Embedded training: texts without times and features in, an HMM out.

    flat start -> E-step (forward and backward over whole sentences) -> M-step -> ... -> split mixtures -> ...

Streams may be trained side by side: the probabilities of the states come from the streams that have a weight, such as clean
sound, and the mixtures of all streams are fitted to them, such as those of the same sound in noise (single-pass retraining in
"The HTK Book").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from avsr.hmm.inference import forward_backward
from avsr.hmm.mixtures import FLOOR_SHARE, Mixtures, Sums
from avsr.hmm.model import HMM, Streams, Weights
from avsr.hmm.networks import SILENCE, Network, Units

BATCH = 32                                                  # utterances: of 16, 32 and 64 the fastest on one core
STAY = (0.05, 0.98)                                         # bounds of the probability to stay in a state
FIRST_STAY = 0.8
SOUND = "sound"                                             # the stream whose first coefficient is loudness
LOUD_QUANTILE = 0.5                                         # of the loudness of an utterance


@dataclass(frozen=True)
class Example:
    """An utterance to learn from. spoken: its units in order, without silences.  first: (T,) the state of each frame to begin
    with, such as another model's alignment; None: equal segmentation.

    variants: other sounds of the same frames, such as the sentence in noise: for each a stream
    and its features (T, D), which the states of `observed` teach as well."""

    network: Network
    spoken: tuple[str, ...]
    observed: Streams
    variants: Sequence[tuple[str, np.ndarray]] = ()
    first: np.ndarray | None = None


def numbered(lengths: Mapping[str, int], ties: Mapping[str, tuple[str, int]] | None = None) -> Units:
    """Units with states of their own. lengths: states of each unit; ties: units that are one state of another, by its index."""
    units, at = {}, 0
    for name, length in lengths.items():
        units[name] = tuple(range(at, at + length))
        at += length
    return units | {name: (units[other][index],) for name, (other, index) in (ties or {}).items()}


def flat_start(units: Units, examples: Sequence[Example]) -> tuple[HMM, dict[str, np.ndarray]]:
    """A first HMM by equal segmentation (HTK's HInit), and the floor (D,) of each stream's variances.

    The frames between the first and the last loud one are shared evenly among the states of the units that were spoken. With
    the same Gaussian for every state instead (HTK's HCompV), 267 states of words came out of 8 rounds of EM with 41 % WER on
    GRID's valid clips.
    """
    frames: dict[str, list[np.ndarray]] = {}
    for example in examples:
        for name, features in (*example.observed.items(), *example.variants):
            frames.setdefault(name, []).append(features)
    n_states = 1 + max(state for states in units.values() for state in states)
    streams, floors = {}, {}
    for name, parts in frames.items():
        whole = np.concatenate(parts).astype(np.float64)
        mean, variance = np.nanmean(whole, axis=0), np.nanvar(whole, axis=0)
        streams[name], floors[name] = Mixtures.flat(n_states, mean, variance), FLOOR_SHARE * variance
    model = HMM(units, streams, np.full(n_states, FIRST_STAY), {})
    expected = Expected.zeros(model)
    for example in examples:
        path = equal_segmentation(example, units) if example.first is None else example.first
        states, places = np.unique(path, return_inverse=True)
        _add(expected, model, example, states, np.eye(len(states))[places])
    streams = {name: mixtures.updated(expected.streams[name], floors[name]) for name, mixtures in model.streams.items()}
    return replace(model, streams=streams), floors


def equal_segmentation(example: Example, units: Units) -> np.ndarray:
    """(T,) the state of each frame: silence up to the first loud one and after the last, between them all states in turn."""
    loudness = example.observed[SOUND][:, 0]
    loud = np.flatnonzero(np.convolve(loudness, np.ones(9) / 9, "same") > np.quantile(loudness, LOUD_QUANTILE))
    first, last = loud[0], loud[-1] + 1
    chain = [state for unit in example.spoken for state in units[unit]]
    silence = units[SILENCE]
    return np.concatenate([spread(silence, first), spread(chain, last - first), spread(silence, len(loudness) - last)])


def spread(states: Sequence[int], n_frames: int) -> np.ndarray:
    """(n_frames,) states in turn, each for as long as the others."""
    return np.array(states)[np.arange(n_frames) * len(states) // max(1, n_frames)]


@dataclass
class Expected:
    """The sums of an E-step: of each stream, of moves (visits and stays of each state), and the log likelihood per frame."""

    streams: dict[str, Sums]
    frames: np.ndarray
    stays: np.ndarray
    log_likelihood: float
    n_left_out: int

    @classmethod
    def zeros(cls, model: HMM) -> Expected:
        """Nothing seen yet."""
        sums = {name: Sums.zeros(mixtures) for name, mixtures in model.streams.items()}
        return cls(sums, np.zeros(model.n_states), np.zeros(model.n_states), 0.0, 0)


def expect(model: HMM, examples: Sequence[Example], weights: Weights) -> Expected:
    """The E-step. Examples without a path of their length, such as too many words for their frames, are left out, counted."""
    out = Expected.zeros(model)
    total = n_frames = 0.0
    by_length = sorted(examples, key=lambda one: len(next(iter(one.observed.values()))))
    for at in range(0, len(by_length), BATCH):
        batch = by_length[at:at + BATCH]
        log_b = [table[:, places] for table, places in (model.log_b(one.observed, weights, one.network) for one in batch)]
        found = forward_backward([one.network for one in batch], log_b, [model.log_moves(one.network) for one in batch])
        for example, posteriors in zip(batch, found, strict=True):
            if posteriors.log_likelihood == -np.inf:
                out.n_left_out += 1
                continue
            total += posteriors.log_likelihood
            n_frames += len(posteriors.gamma)
            states, places = np.unique(example.network.states, return_inverse=True)
            occupancy = np.zeros((len(posteriors.gamma), len(states)))
            np.add.at(occupancy.T, places, posteriors.gamma.T)
            np.add.at(out.stays, example.network.states, posteriors.stays)
            _add(out, model, example, states, occupancy)
    out.log_likelihood = total / max(1.0, n_frames)
    return out


def _add(out: Expected, model: HMM, example: Example, states: np.ndarray, occupancy: np.ndarray) -> None:
    """Add the sums of one utterance. occupancy: (T, K), the probability of each of `states` (K,) in each frame."""
    out.frames[states] += occupancy.sum(axis=0)
    for name, features in (*example.observed.items(), *example.variants):
        out.streams[name].add(model.streams[name].sums(features, states, occupancy), states)


def maximise(model: HMM, expected: Expected, floors: Mapping[str, np.ndarray]) -> HMM:
    """The M-step: mixtures and the probabilities to stay."""
    streams = {name: mixtures.updated(expected.streams[name], floors[name]) for name, mixtures in model.streams.items()}
    stay = np.where(expected.frames > 0, expected.stays / np.maximum(expected.frames, 1e-30), model.stay)
    return replace(model, streams=streams, stay=np.clip(stay, *STAY))


def train(units: Units, examples: Sequence[Example], weights: Weights, *, n_components: int, rounds: Sequence[int] = (8, 4),
          say: Callable[[str], None] = lambda line: None) -> HMM:
    """Train from a flat start up to n_components, a power of two. weights: of the streams that place the states in time.

    rounds: EM rounds with one Gaussian a state, and after each split.
    """
    model, floors = flat_start(units, examples)
    size = 1
    while True:
        for number in range(rounds[0] if size == 1 else rounds[1]):
            expected = expect(model, examples, weights)
            model = maximise(model, expected, floors)
            left_out = f", {expected.n_left_out} left out" if expected.n_left_out else ""
            say(f"{size} components, round {number + 1}: log likelihood {expected.log_likelihood:.3f} a frame{left_out}")
        if size >= n_components:
            return model
        size *= 2
        model = replace(model, streams={name: mixtures.split(expected.streams[name])
                                        for name, mixtures in model.streams.items()})
