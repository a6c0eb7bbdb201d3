"""Search strategies, which choose the unfinished texts to extend: the best (BeamSearch), or random ones (Sampling)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from avsr.arrays import Array, gather, largest, softmax, to_numpy
from avsr.decode.limits import TextLimits
from avsr.decode.options import DecodeOptions
from avsr.errors import BadCheckpoint

NAN_SCORES = ("The model's network gives scores that are no numbers (NaN), so its weights are damaged or out of range.  Fetch "
              "the model again, or use another.")
ScoredTokens = tuple[tuple[int, ...], float]
"""Tokens without prompt and end, and the sum of their scores, the end's included."""


class SearchStrategy(Protocol):
    """Keeps `size` texts of each of B utterances, N = B * size; `end` is the token that finishes one."""

    size: int
    end: int

    def step(self, logprobs: Array, ids: Array | None, tokens: Array) -> tuple[Array, Array, Array]:
        """Scores (N, C) of next tokens, which tokens they are (N, C) or None for all of them in order, and texts so far
        (N, L) without prompt -> rows (N,) to extend, their next tokens (N,), and which utterances are done (B,) bool."""
        ...

    def select(self, utterances: np.ndarray) -> None:
        """Keep these utterances."""
        ...

    def finish(self, tokens: Array, length_penalty: float) -> list[ScoredTokens]:
        """The best text of every utterance of the batch, given the texts so far (N, L) of those that are not done: by score
        over length ** length_penalty (Wu et al. 2016, as simplified by Whisper)."""
        ...

    def nbest(self, n: int | None = None, *, length_penalty: float) -> list[list[ScoredTokens]]:
        """After `finish`: the n best texts of every utterance of the batch, the best first; fewer where fewer finished."""
        ...


class _BatchSearch:
    """What BeamSearch and Sampling share, for B utterances of which those numbered `searched` are not done.

    totals: (len(searched), size) scores of the unfinished texts.  finished: the texts of each utterance that are complete.
    """

    def __init__(self, n_utterances: int, size: int, end: int, limits: TextLimits | None):
        self.size, self.end, self.limits = size, end, limits
        self.totals = np.zeros((n_utterances, size), np.float32)
        self.searched = list(range(n_utterances))
        self.finished: list[list[ScoredTokens]] = [[] for _ in range(n_utterances)]

    def select(self, utterances: np.ndarray) -> None:
        """See SearchStrategy."""
        self.totals = self.totals[utterances]
        self.searched = [self.searched[i] for i in utterances.tolist()]
        self.limits = None if self.limits is None else self.limits.select(utterances)

    def _text(self, tokens: Array, place: int, number: int) -> ScoredTokens:
        """An unfinished text of the utterance at this place in `searched`."""
        return tuple(tokens[place * self.size + number].tolist()), self.totals[place, number].item()

    def _limited(self, tokens: Array) -> Iterator[tuple[int, int]]:
        """Place and number of each text that has reached a limit."""
        for row in [] if self.limits is None else self.limits.reached(tokens):
            yield divmod(row, self.size)

    def _best(self, length_penalty: float) -> list[ScoredTokens]:
        """One text of each utterance. Raises BadCheckpoint where there is none, because every score was NaN."""
        if not all(self.finished):
            raise BadCheckpoint(NAN_SCORES)
        return [texts[0] for texts in self.nbest(length_penalty=length_penalty)]

    def nbest(self, n: int | None = None, *, length_penalty: float) -> list[list[ScoredTokens]]:
        """The n best texts of every utterance of the batch, the best first, or all that the search finished."""
        def score(text: ScoredTokens) -> float:
            return text[1] / max(1, len(text[0])) ** length_penalty

        return [sorted(texts, key=score, reverse=True)[:n] for texts in self.finished]


class BeamSearch(_BatchSearch):
    """Keeps the `size` best unfinished texts of each utterance until `size * patience` have finished.

    A text finishes only if its end is among the `size` best continuations (as in fairseq and CTranslate2; Whisper also
    takes worse ones, so that many finished texts stop early). A text that reaches one of the `limits` is abandoned, and another
    takes its place in the beam.
    """

    def __init__(self, n_utterances: int, options: DecodeOptions, end: int, limits: TextLimits | None = None):
        super().__init__(n_utterances, options.beam_size, end, limits)
        self.n_wanted = max(1, round(options.beam_size * options.patience))
        self.totals[:, 1:] = -np.inf                     # all begin alike: only the first may branch
        self.abandoned: list[list[ScoredTokens]] = [[] for _ in range(n_utterances)]

    def step(self, logprobs: Array, ids: Array | None, tokens: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See SearchStrategy."""
        for place, number in self._limited(tokens):
            if self.totals[place, number] > -np.inf:
                self.abandoned[self.searched[place]].append(self._text(tokens, place, number))
                self.totals[place, number] = -np.inf
        n_utterances, size = self.totals.shape
        per_row, finished = min(2 * size, logprobs.shape[1]), [self.finished[i] for i in self.searched]
        values, at = largest(logprobs, per_row)                                  # of each row: enough even if all end
        values, ids = to_numpy(values), to_numpy(at if ids is None else gather(ids, at))
        sums = (self.totals[:, :, None] + values.reshape(n_utterances, size, per_row)).reshape(n_utterances, -1)
        best, at = largest(sums, min(2 * size, sums.shape[1]))
        parents, next_ids = at // per_row, gather(ids.reshape(n_utterances, -1), at)
        rows, chosen = [], []
        candidates_of = zip(best.tolist(), parents.tolist(), next_ids.tolist(), strict=True)
        for utterance, (scores, beams, candidates) in enumerate(candidates_of):
            live = []
            for rank, (score, beam, token) in enumerate(zip(scores, beams, candidates, strict=True)):
                row = utterance * size + beam
                if token == self.end:
                    if rank < size and score > -np.inf:
                        finished[utterance].append((tuple(tokens[row].tolist()), score))
                elif len(live) < size:
                    live.append((score, row, token))
                if len(live) == size:
                    break
            live += [(-np.inf, utterance * size, self.end)] * (size - len(live))
            self.totals[utterance] = [score for score, _, _ in live]
            rows += [row for _, row, _ in live]
            chosen += [token for _, _, token in live]
        done = np.array([len(texts) >= self.n_wanted or total == -np.inf
                         for texts, total in zip(finished, self.totals.max(axis=1).tolist(), strict=True)])
        return np.array(rows), np.array(chosen), done

    def finish(self, tokens: Array, length_penalty: float) -> list[ScoredTokens]:
        """See SearchStrategy. Where too few texts have finished, unfinished and abandoned ones are added."""
        for place, number in np.argwhere(self.totals > -np.inf).tolist():
            self.abandoned[self.searched[place]].append(self._text(tokens, place, number))
        for texts, abandoned in zip(self.finished, self.abandoned, strict=True):
            missing = max(0, self.n_wanted - len(texts))
            texts += sorted(abandoned, key=lambda text: (text[1], text[0]), reverse=True)[:missing]
        return self._best(length_penalty)


class Sampling(_BatchSearch):
    """Draws `best_of` texts for each utterance at a temperature; a seed always gives the same texts.

    A text that reaches one of the `limits` counts as finished.
    """

    def __init__(self, n_utterances: int, options: DecodeOptions, end: int, temperature: float,
                 limits: TextLimits | None = None):
        super().__init__(n_utterances, options.best_of, end, limits)
        self.temperature = temperature
        # One for each utterance, so that its text does not depend on the others of the batch.
        self.rngs = [np.random.default_rng(options.seed) for _ in range(n_utterances)]
        self.ended = np.zeros((n_utterances, self.size), bool)

    def step(self, logprobs: Array, ids: Array | None, tokens: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See SearchStrategy; rows stay where they are."""
        assert ids is None, "sampling needs the scores of all tokens"
        for place, number in self._limited(tokens):
            if not self.ended[place, number]:
                self._end(tokens, place, number)
        logprobs = to_numpy(logprobs)
        # A random number in the cumulative probabilities of each row, in float64, so that no token but the drawn one is near.
        cumulative = softmax(logprobs.astype(np.float64) / self.temperature).cumsum(axis=1)
        drawn = np.concatenate([rng.random(self.size) for rng in self.rngs]) * cumulative[:, -1]
        drawn = np.minimum(drawn, np.nextafter(cumulative[:, -1], 0))     # or rounding up would give a token beyond the last
        chosen = np.array([np.searchsorted(row, at, side="right") for row, at in zip(cumulative, drawn, strict=True)])
        gained = gather(logprobs, chosen[:, None])[:, 0].reshape(self.totals.shape)
        self.totals += np.where(self.ended, 0.0, gained).astype(np.float32)
        ends = (chosen == self.end).reshape(self.ended.shape) & ~self.ended
        for place, number in np.argwhere(ends).tolist():
            self._end(tokens, place, number)
        return np.arange(len(chosen)), chosen, np.all(self.ended, axis=1)

    def _end(self, tokens: Array, place: int, number: int) -> None:
        """Count a text as finished."""
        self.finished[self.searched[place]].append(self._text(tokens, place, number))
        self.ended[place, number] = True

    def select(self, utterances: np.ndarray) -> None:
        """See SearchStrategy."""
        super().select(utterances)
        self.ended, self.rngs = self.ended[utterances], [self.rngs[i] for i in utterances.tolist()]

    def finish(self, tokens: Array, length_penalty: float) -> list[ScoredTokens]:
        """See SearchStrategy. Texts that did not end count as they are."""
        for place, number in np.argwhere(~self.ended).tolist():
            self._end(tokens, place, number)
        return self._best(length_penalty)
