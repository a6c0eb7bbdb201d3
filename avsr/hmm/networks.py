"""Networks of HMM states: a sentence, with optional silences, or a grammar, as positions and the moves between them.

    Arcs between numbered nodes, each a word with its units  ->  Network of positions  ->  join: one network for a batch
A position is one state at one place of a sentence: "seven" with states 40 to 47 has eight positions wherever it stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

SILENCE, PAUSE = "sil", "sp"                                # units: before and after a sentence; between its words
Units = Mapping[str, tuple[int, ...]]                       # the states of each unit, from left to right


@dataclass(frozen=True)
class Arc:
    """A word from one node to another. units: names of what it is spoken as, such as phones."""

    source: int
    target: int
    word: str
    units: tuple[str, ...]


@dataclass(frozen=True)
class Network:
    """P positions and A moves between them, sorted by target.

    states (P,): the HMM state of each position.  arc, unit (P,): which arc of the graph the position is in, and which of its
    units; -1 in silences.  entry, leave (P,): log probability to begin and to end there, -inf where that cannot be.
    source, target (A,) and log_choice (A,): moves, and the log probability of this one among those that leave the state.
    Each position has a move to itself; its log_choice is 0.
    """

    states: np.ndarray
    arc: np.ndarray
    unit: np.ndarray
    entry: np.ndarray
    leave: np.ndarray
    source: np.ndarray
    target: np.ndarray
    log_choice: np.ndarray

    @property
    def n_positions(self) -> int:
        """P."""
        return len(self.states)

    def log_moves(self, log_stay: np.ndarray, log_go: np.ndarray) -> np.ndarray:
        """(A,) log probability of each move. log_stay, log_go: (N,), of the states to stay and to leave."""
        own = self.source == self.target
        return np.where(own, log_stay[self.states[self.source]], log_go[self.states[self.source]]) + self.log_choice

    def shortest(self) -> int:
        """The fewest frames of a path through it."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import dijkstra

        moves = csr_array((np.ones(len(self.source)), (self.source, self.target)), (self.n_positions, self.n_positions))
        starts = np.flatnonzero(np.isfinite(self.entry))
        steps = dijkstra(moves, indices=starts, unweighted=True, min_only=True)
        return 1 + int(steps[np.isfinite(self.leave)].min())


def sentence(words: Sequence[Sequence[tuple[str, ...]]], names: Sequence[str]) -> list[Arc]:
    """The graph of a text. words: for each word its pronunciations, each a tuple of units."""
    return [Arc(i, i + 1, name, units) for i, (name, ways) in enumerate(zip(names, words, strict=True)) for units in ways]


def slots(grammar: Sequence[Sequence[str]]) -> list[Arc]:
    """The graph of sentences with one word of each slot in turn, each word a unit of its own, as GRID's are."""
    return [Arc(i, i + 1, word, (word,)) for i, words in enumerate(grammar) for word in words]


def compiled(arcs: Sequence[Arc], units: Units, *, silent: bool = True) -> Network:
    """The network of a graph, from node 0 to its last one. silent: with an optional silence at every node: SILENCE before the
    first and after the last word, PAUSE between words."""
    builder = _Builder(units)
    final = max(arc.target for arc in arcs)
    begins: dict[int, list[int]] = {node: [] for node in range(final + 1)}
    ends: dict[int, list[int]] = {node: [] for node in range(final + 1)}
    for number, arc in enumerate(arcs):
        first, last = builder.add(arc.units, number)
        begins[arc.source].append(first)
        ends[arc.target].append(last)
    entries, exits = {}, {}
    for node in range(final + 1):
        choice = -np.log(max(1, len(begins[node])))         # of this word among those that may follow
        moves = [(last, first, choice) for last in ends[node] for first in begins[node]]
        quiet = builder.add((SILENCE if node in (0, final) else PAUSE,), -1) if silent else None
        if quiet is not None:
            moves = [(last, first, value - np.log(2)) for last, first, value in moves]
            moves += [(last, quiet[0], -np.log(2)) for last in ends[node]]
            moves += [(quiet[1], first, choice) for first in begins[node]]
        builder.moves += moves
        share = 0.0 if quiet is None else -np.log(2)
        if node == 0:
            entries = {first: choice + share for first in begins[0]} | ({} if quiet is None else {quiet[0]: share})
        if node == final:
            exits = {last: share for last in ends[node]} | ({} if quiet is None else {quiet[1]: 0.0})
    return builder.network(entries, exits)


class _Builder:
    """Collects positions and moves."""

    def __init__(self, units: Units):
        self.units = units
        self.states: list[int] = []
        self.arc: list[int] = []
        self.unit: list[int] = []
        self.moves: list[tuple[int, int, float]] = []

    def add(self, names: Sequence[str], arc: int) -> tuple[int, int]:
        """Add a chain of units; its first and last position."""
        first = len(self.states)
        for number, name in enumerate(names):
            for state in self.units[name]:
                self.states.append(state)
                self.arc.append(arc)
                self.unit.append(number if arc >= 0 else -1)
        self.moves += [(one, one, 0.0) for one in range(first, len(self.states))]
        self.moves += [(one, two, 0.0) for one, two in pairwise(range(first, len(self.states)))]
        return first, len(self.states) - 1

    def network(self, entries: Mapping[int, float], exits: Mapping[int, float]) -> Network:
        """All of it as arrays."""
        source, target, choice = (np.array(column) for column in zip(*self.moves, strict=True))
        order = np.argsort(target, kind="stable")
        entry, leave = (np.full(len(self.states), -np.inf) for _ in range(2))
        entry[list(entries)], leave[list(exits)] = list(entries.values()), list(exits.values())
        return Network(np.array(self.states), np.array(self.arc), np.array(self.unit), entry, leave, source[order],
                       target[order], choice[order])


def join(networks: Sequence[Network]) -> tuple[Network, np.ndarray]:
    """One network of several that do not touch, and the first position of each (U,)."""
    firsts = np.cumsum([0, *(one.n_positions for one in networks[:-1])])
    def of(name: str) -> np.ndarray:
        return np.concatenate([getattr(one, name) for one in networks])
    def shifted(name: str) -> np.ndarray:
        return np.concatenate([getattr(one, name) + first for one, first in zip(networks, firsts, strict=True)])
    return Network(of("states"), of("arc"), of("unit"), of("entry"), of("leave"), shifted("source"), shifted("target"),
                   of("log_choice")), firsts
