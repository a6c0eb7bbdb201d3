"""The search loop, which combines scorers, logit filters and a strategy for all hypotheses of all utterances as one batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from avsr.arrays import Array, append, gather, largest, like, log_softmax, repeat, to_numpy
from avsr.decode.scorers import LogitFilter, PartialScorer, Scorer
from avsr.decode.strategies import NAN_SCORES, ScoredTokens, SearchStrategy
from avsr.errors import BadCheckpoint


def search(scorers: Sequence[Scorer], prompt: Array, strategy: SearchStrategy, *, filters: Sequence[LogitFilter] = (),
           partial_scorers: Sequence[PartialScorer] = (), pre_beam: int = 0, max_tokens: int = 224,
           length_penalty: float = 1.0) -> list[ScoredTokens]:
    """The best text of each utterance with its score, as (tokens, sum of weighted log-probabilities).

    prompt: (B, P) int64, of the library and on the device of the scores. The first scorer's logits are normalised after the
    filters; those of further ones are added as they are. partial_scorers: score only the `pre_beam` tokens that the first
    scorer finds most likely, and the end; then no other token can be written. Utterances that are done leave the batch. Raises
    BadCheckpoint where scores are NaN.
    """
    size, n_prompt = strategy.size, prompt.shape[1]
    tokens = repeat(prompt, size)
    for n_written in range(max_tokens):
        first = scorers[0].score(tokens)
        for logit_filter in filters:
            logit_filter(first, tokens)
        first = log_softmax(first)
        logprobs, ids = scorers[0].weight * first, None
        for scorer in scorers[1:]:
            logprobs = logprobs + scorer.weight * scorer.score(tokens)
        if partial_scorers:
            logprobs, ids = _candidates(first, logprobs, pre_beam, strategy.end)
            for scorer in partial_scorers:
                logprobs = logprobs + scorer.weight * scorer.score_partial(tokens, ids)
        if n_written == 0 and (logprobs != logprobs).any():  # only NaN is not equal to itself
            raise BadCheckpoint(NAN_SCORES)
        rows, chosen, done = strategy.step(logprobs, ids, tokens[:, n_prompt:])
        rows, chosen = like(tokens, rows), like(tokens, chosen)
        tokens = append(tokens[rows], chosen[:, None])
        if n_written + 1 == max_tokens or done.all():
            break
        utterances = None
        if done.any():
            keep = np.flatnonzero(~to_numpy(done))
            kept_rows = like(tokens, (keep[:, None] * size + np.arange(size)).reshape(-1))
            rows, tokens = rows[kept_rows], tokens[kept_rows]
            strategy.select(keep)
            utterances = like(tokens, keep)
        for scorer in (*scorers, *partial_scorers):
            scorer.select(rows, utterances)
    return strategy.finish(tokens[:, n_prompt:], length_penalty)


def _candidates(first: Array, logprobs: Array, n: int, end: int) -> tuple[Array, Array]:
    """The n best tokens by `first` (N, V), and the end, with their `logprobs`: (N, n + 1) both. The end counts once."""
    _, best = largest(first, min(n, first.shape[1]))
    ids = append(best, like(best, np.full((len(best), 1), end)))
    values = gather(logprobs, ids)
    values[:, :-1][best == end] = -np.inf
    return values, ids
