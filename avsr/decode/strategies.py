"""Search strategies, which choose the unfinished texts to extend: the best (BeamSearch), or random ones (Sampling)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

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

    def step(self, logprobs: Tensor, ids: Tensor | None, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (N, C) of next tokens, which tokens they are (N, C) or None for all of them in order, and texts so far
        (N, L) without prompt -> rows (N,) to extend, their next tokens (N,), and which utterances are done (B,) bool."""
        ...

    def select(self, utterances: Tensor) -> None:
        """Keep these utterances."""
        ...

    def finish(self, tokens: Tensor, length_penalty: float) -> list[ScoredTokens]:
        """The best text of every utterance of the batch, given the texts so far (N, L) of those that are not done: by score
        over length ** length_penalty (Wu et al. 2016, as simplified by Whisper)."""
        ...


@dataclass
class _Finished:
    """The texts of one utterance that reached the end token, and those that were abandoned before it."""

    texts: list[ScoredTokens] = field(default_factory=list)
    abandoned: list[ScoredTokens] = field(default_factory=list)


class _FinishedBatch:
    """The finished texts of all utterances of a batch; `active` are those of the utterances that are still searched."""

    def __init__(self, n_utterances: int):
        self.all = [_Finished() for _ in range(n_utterances)]
        self.active = list(self.all)

    def select(self, utterances: Tensor) -> None:
        """Keep these active."""
        self.active = [self.active[i] for i in utterances.tolist()]

    def best(self, length_penalty: float) -> list[ScoredTokens]:
        """One text of each utterance. Raises BadCheckpoint where there is none, because every score was NaN."""
        if not all(one.texts for one in self.all):
            raise BadCheckpoint(NAN_SCORES)
        return [max(one.texts, key=lambda text: text[1] / max(1, len(text[0])) ** length_penalty) for one in self.all]


class BeamSearch:
    """Keeps the `size` best unfinished texts of each utterance until `size * patience` have finished.

    A text finishes only if its end is among the `size` best continuations (as in fairseq and CTranslate2; Whisper also
    takes worse ones, so that many finished texts stop early). A text that reaches one of the `limits` is abandoned, and another
    takes its place in the beam.
    """

    def __init__(self, n_utterances: int, options: DecodeOptions, end: int, limits: TextLimits | None = None):
        self.size, self.end, self.limits = options.beam_size, end, limits
        self.finished = _FinishedBatch(n_utterances)
        self.n_wanted = max(1, round(options.beam_size * options.patience))
        self.totals = torch.full((n_utterances, self.size), -torch.inf)
        self.totals[:, 0] = 0.0                             # all begin alike: only the first may branch

    def step(self, logprobs: Tensor, ids: Tensor | None, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See SearchStrategy."""
        self._abandon(tokens)
        n_utterances, size = self.totals.shape
        per_row, finished = min(2 * size, logprobs.shape[1]), self.finished.active
        values, at = logprobs.topk(per_row, dim=1)                               # of each row: enough even if all end
        ids = at if ids is None else ids.gather(1, at)
        sums = (self.totals.to(values.device)[:, :, None] + values.view(n_utterances, size, per_row)).flatten(1)
        best, at = sums.topk(min(2 * size, sums.shape[1]), dim=1)
        parents, next_ids = at // per_row, ids.view(n_utterances, -1).gather(1, at)
        rows, chosen = [], []
        candidates_of = zip(best.tolist(), parents.tolist(), next_ids.tolist(), strict=True)
        for utterance, (scores, beams, candidates) in enumerate(candidates_of):
            live = []
            for rank, (score, beam, token) in enumerate(zip(scores, beams, candidates, strict=True)):
                row = utterance * size + beam
                if token == self.end:
                    if rank < size and score > -torch.inf:
                        finished[utterance].texts.append((tuple(tokens[row].tolist()), score))
                elif len(live) < size:
                    live.append((score, row, token))
                if len(live) == size:
                    break
            live += [(-torch.inf, utterance * size, self.end)] * (size - len(live))
            self.totals[utterance] = torch.tensor([score for score, _, _ in live])
            rows += [row for _, row, _ in live]
            chosen += [token for _, _, token in live]
        done = torch.tensor([len(texts.texts) >= self.n_wanted or total == -torch.inf
                             for texts, total in zip(finished, self.totals.amax(dim=1).tolist(), strict=True)])
        return torch.tensor(rows), torch.tensor(chosen), done

    def _abandon(self, tokens: Tensor) -> None:
        for row in [] if self.limits is None else self.limits.reached(tokens):
            utterance, place = divmod(row, self.size)
            if (score := self.totals[utterance, place].item()) > -torch.inf:
                self.finished.active[utterance].abandoned.append((tuple(tokens[row].tolist()), score))
                self.totals[utterance, place] = -torch.inf

    def select(self, utterances: Tensor) -> None:
        """See SearchStrategy."""
        self.totals = self.totals[utterances]
        self.finished.select(utterances)
        self.limits = None if self.limits is None else self.limits.select(utterances)

    def finish(self, tokens: Tensor, length_penalty: float) -> list[ScoredTokens]:
        """See SearchStrategy. Where too few texts have finished, unfinished and abandoned ones are added."""
        for finished, totals, written in zip(self.finished.active, self.totals.tolist(), tokens.split(self.size), strict=True):
            finished.abandoned += [(tuple(text), score) for score, text in zip(totals, written.tolist(), strict=True)
                                  if score > -torch.inf]
        for one in self.finished.all:
            missing = max(0, self.n_wanted - len(one.texts))
            one.texts += sorted(one.abandoned, key=lambda text: (text[1], text[0]), reverse=True)[:missing]
        return self.finished.best(length_penalty)


class Sampling:
    """Draws `best_of` texts for each utterance at a temperature; a seed always gives the same texts.

    A text that reaches one of the `limits` counts as finished.
    """

    def __init__(self, n_utterances: int, options: DecodeOptions, end: int, temperature: float,
                 limits: TextLimits | None = None):
        self.size, self.end, self.temperature, self.limits = options.best_of, end, temperature, limits
        self.finished = _FinishedBatch(n_utterances)
        # One for each utterance, so that its text does not depend on the others of the batch.
        self.rngs = [torch.Generator().manual_seed(options.seed) for _ in range(n_utterances)]
        self.totals = torch.zeros(n_utterances, self.size)
        self.ended = torch.zeros(n_utterances, self.size, dtype=torch.bool)

    def step(self, logprobs: Tensor, ids: Tensor | None, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See SearchStrategy; rows stay where they are."""
        assert ids is None, "sampling needs the scores of all tokens"
        self._abandon(tokens)
        logprobs = logprobs.cpu()
        # A random number in the cumulative probabilities of each row: 2 ms, where torch.multinomial takes 15.
        cumulative = (logprobs / self.temperature).softmax(dim=-1).cumsum(dim=-1)
        drawn = torch.cat([torch.rand(self.size, 1, generator=rng) for rng in self.rngs]) * cumulative[:, -1:]
        drawn = drawn.minimum(cumulative[:, -1:] * (1 - 1e-6))  # rounding up to the whole sum would pick the last token
        chosen = torch.searchsorted(cumulative, drawn, right=True)[:, 0]
        gained = logprobs.gather(1, chosen[:, None])[:, 0].view_as(self.totals)
        self.totals += gained.masked_fill(self.ended, 0.0)
        ends = (chosen == self.end).view_as(self.ended) & ~self.ended
        for utterance, draw in ends.nonzero().tolist():
            text = tuple(tokens[utterance * self.size + draw].tolist())
            self.finished.active[utterance].texts.append((text, self.totals[utterance, draw].item()))
        self.ended |= ends
        return torch.arange(len(chosen)), chosen, self.ended.all(dim=1)

    def _abandon(self, tokens: Tensor) -> None:
        for row in [] if self.limits is None else self.limits.reached(tokens):
            utterance, draw = divmod(row, self.size)
            if not self.ended[utterance, draw]:
                self.finished.active[utterance].texts.append((tuple(tokens[row].tolist()), self.totals[utterance, draw].item()))
                self.ended[utterance, draw] = True

    def select(self, utterances: Tensor) -> None:
        """See SearchStrategy."""
        self.limits = None if self.limits is None else self.limits.select(utterances)
        self.totals, self.ended = self.totals[utterances], self.ended[utterances]
        self.rngs = [self.rngs[i] for i in utterances.tolist()]
        self.finished.select(utterances)

    def finish(self, tokens: Tensor, length_penalty: float) -> list[ScoredTokens]:
        """See SearchStrategy. Texts that did not end count as they are."""
        for place, draw in (~self.ended).nonzero().tolist():
            text = tuple(tokens[place * self.size + draw].tolist())
            self.finished.active[place].texts.append((text, self.totals[place, draw].item()))
        return self.finished.best(length_penalty)
