"""Forward and backward probabilities, and the best path, over networks of states; in the log domain, for a batch at once.

    Network (P positions) + log b (T, P) + moves (A,)  ->  Posteriors: gamma (T, P), log likelihood   |   path (T,)

    alpha_t(j) = b_j(x_t) sum_i alpha_{t-1}(i) a_ij         beta_t(i) = sum_j a_ij b_j(x_{t+1}) beta_{t+1}(j)
    gamma_t(j) = alpha_t(j) beta_t(j) / p(x)                v_t(j) = b_j(x_t) max_i v_{t-1}(i) a_ij   (Viterbi)
Source: Rabiner 1989, equations 19 to 35. The utterances of a batch are one network of parts that do not touch, so that one
vector operation is a step of them all, and none needs padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avsr.hmm.mixtures import LOG_SMALL
from avsr.hmm.networks import Network, join

BLOCK = 512                                                 # frames


@dataclass(frozen=True)
class Posteriors:
    """gamma (T, P): probability of each position in each frame.  stays (P,): expected number of moves from it to itself.

    log_likelihood: log p(x) of the utterance; -inf where no path through the network has its length.
    """

    gamma: np.ndarray
    stays: np.ndarray
    log_likelihood: float


def forward_backward(networks: Sequence[Network], emissions: Sequence[np.ndarray],
                     moves: Sequence[np.ndarray]) -> list[Posteriors]:
    """The posteriors of utterances. emissions: log b (T_u, P_u) of each; moves: `Network.log_moves` of each."""
    network, firsts = join(networks)
    arcs, lengths = np.concatenate(moves), np.array([len(one) for one in emissions])
    log_b = _stacked(emissions, network.n_positions)
    owner = np.repeat(np.arange(len(networks)), [one.n_positions for one in networks])
    into = np.searchsorted(network.target, np.arange(network.n_positions))
    alpha = np.empty(log_b.shape)
    alpha[0] = network.entry + log_b[0]
    for t in range(1, len(log_b)):
        alpha[t] = _log_sum_groups(alpha[t - 1][network.source] + arcs, into) + log_b[t]
    totals = _log_sum_groups(alpha[lengths[owner] - 1, np.arange(len(owner))] + network.leave, firsts)
    beta = _backward(network, arcs, log_b, lengths[owner] - 1)
    with np.errstate(invalid="ignore"):
        gamma = _exp(alpha + beta - totals[owner])
        own = arcs[network.source == network.target]        # in the order of positions, as moves are sorted by target
        stays = _exp(alpha[:-1] + own + log_b[1:] + beta[1:] - totals[owner])
    out = []
    for i, (first, length) in enumerate(zip(firsts, lengths, strict=True)):
        part = slice(first, first + networks[i].n_positions)
        out.append(Posteriors(gamma[:length, part], stays[:length - 1, part].sum(axis=0), float(totals[i])))
    return out


def _exp(logs: np.ndarray) -> np.ndarray:
    """exp, where what is below SMALL, and what is no number, is 0."""
    return np.where(logs > LOG_SMALL, np.exp(np.maximum(logs, LOG_SMALL)), 0.0)


def _backward(network: Network, arcs: np.ndarray, log_b: np.ndarray, last: np.ndarray) -> np.ndarray:
    """beta (T, P); of utterances that have ended only what comes before their last frame (P,) means anything."""
    order = np.argsort(network.source, kind="stable")
    source, target, arcs = network.source[order], network.target[order], arcs[order]
    out_of = np.searchsorted(source, np.arange(network.n_positions))
    beta = np.empty(log_b.shape)
    beta[-1] = network.leave
    for t in range(len(log_b) - 2, -1, -1):
        beta[t] = _log_sum_groups(arcs + (log_b[t + 1] + beta[t + 1])[target], out_of)
        beta[t] = np.where(last == t, network.leave, beta[t])
    return beta


def _stacked(emissions: Sequence[np.ndarray], n_positions: int) -> np.ndarray:
    """log b of a batch as one (T, P) float64, where T is the longest; 0 after the end of an utterance."""
    out, at = np.zeros((max(map(len, emissions)), n_positions)), 0
    for one in emissions:
        out[:len(one), at:at + one.shape[1]] = one
        at += one.shape[1]
    return out


def _log_sum_groups(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """log sum exp of groups of consecutive values, each beginning at one of `starts`."""
    return np.logaddexp.reduceat(values, starts)


@dataclass(frozen=True)
class Path:
    """The best path: positions (T,), and its log probability; -inf where none has that length."""

    positions: np.ndarray
    log_probability: float


def viterbi(network: Network, log_b: np.ndarray, places: np.ndarray, moves: np.ndarray) -> Path:
    """The best path through a network. log_b: (T, K) of some states; places (P,): which of them each position has; moves:
    `Network.log_moves`.

    No move is stored: scores are kept of every BLOCK-th frame, and those between are computed again on the way back.
    """
    into = np.searchsorted(network.target, np.arange(network.n_positions))
    bounds = np.append(into, len(network.target))

    def scores(block: np.ndarray, before: np.ndarray) -> np.ndarray:
        out = np.empty((len(block), network.n_positions))
        for t, frame in enumerate(block):
            before = out[t] = np.maximum.reduceat(before[network.source] + moves, into) + frame[places]
        return out

    first = network.entry + log_b[0, places]
    kept, block = [first], first[None]
    for at in range(1, len(log_b), BLOCK):
        block = scores(log_b[at:at + BLOCK], kept[-1])
        kept.append(block[-1])
    final = kept[-1] + network.leave
    at = int(final.argmax())
    path = np.empty(len(log_b), np.int64)
    path[-1] = at
    for number in range(len(kept) - 2, -1, -1):
        begin = 1 + number * BLOCK
        if number < len(kept) - 2:                          # the last one is still there
            block = scores(log_b[begin:begin + BLOCK], kept[number])
        best = np.concatenate([kept[number][None], block])
        for t in range(len(best) - 2, -1, -1):
            group = slice(bounds[at], bounds[at + 1])
            sources = network.source[group]
            at = int(sources[(best[t][sources] + moves[group]).argmax()])
            path[begin - 1 + t] = at
    return Path(path, float(final.max()))
