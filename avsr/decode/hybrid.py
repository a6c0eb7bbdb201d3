"""The beam search of hybrid CTC/attention models, as in ESPnet and auto_avsr, for a batch at a time and on its device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avsr.decode.strategies import NAN_SCORES, ScoredTokens
from avsr.errors import BadCheckpoint

END_MARGIN = 10.0                                           # nats below the best text at which a length is abandoned


@dataclass(frozen=True)
class _Step:
    """One step: (B, size) each. parents: the hypotheses that were extended; ended: score where one finished, else -inf."""

    active: Tensor
    parents: Tensor
    tokens: Tensor
    ended: Tensor


class HybridBeamSearch:
    """Takes the `size` best continuations of each utterance; those that end leave the beam, which the next step fills again.

    A text has at most as many tokens as its utterance has frames; what is unfinished then counts as it is. A search is over
    when nothing is left, or when of each of three lengths in a row, the last one two tokens ago, the best finished text is
    more than END_MARGIN below the best of all (ESPnet's `end_detect`).
    """

    def __init__(self, limits: Tensor, *, size: int, end: int):
        """limits: frames (B,) of each utterance."""
        self.size, self.end, self.limits = size, end, limits
        self.totals = torch.full((len(limits), size), -torch.inf, dtype=torch.float64, device=limits.device)
        self.totals[:, 0] = 0.0                             # all begin alike: only the first may branch
        self.best = self.totals.new_full((len(limits),), -torch.inf)
        self.active = torch.arange(len(limits))
        self.steps: list[_Step] = []
        self.recent: list[Tensor] = []                      # best finished of the last steps, (B,) each

    def step(self, logprobs: Tensor, ids: Tensor | None, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See SearchStrategy."""
        n_utterances, size = self.totals.shape
        sums = (self.totals[:, :, None] + logprobs.view(n_utterances, size, -1)).flatten(1)
        best, at = sums.topk(size, dim=1)
        parents = at // logprobs.shape[1]
        chosen = at % logprobs.shape[1] if ids is None else ids.view(n_utterances, -1).gather(1, at)
        last = len(self.steps) + 1 >= self.limits
        ended = best.masked_fill((chosen != self.end) & ~last[:, None], -torch.inf)
        self.steps.append(_Step(self.active, parents, chosen, ended))
        self.recent.append(ended.amax(dim=1))
        self.best = self.best.maximum(self.recent[-1])
        self.totals = best.masked_fill(ended > -torch.inf, -torch.inf)
        done = last | (self.totals.amax(dim=1) == -torch.inf) | self._end_detected()
        rows = torch.arange(n_utterances, device=best.device)[:, None] * size + parents
        return rows.flatten(), chosen.flatten(), done

    def _end_detected(self) -> Tensor:
        """(B,) whether better texts are no longer to be expected. A text that ended at step s counts s + 2 tokens."""
        if len(self.recent) < 5:
            return torch.zeros_like(self.best, dtype=torch.bool)
        lengths = torch.stack(self.recent[-5:-2])
        return ((lengths > -torch.inf) & (lengths < self.best - END_MARGIN)).all(dim=0)

    def select(self, utterances: np.ndarray) -> None:
        """See SearchStrategy."""
        kept = torch.as_tensor(utterances, device=self.totals.device)
        self.totals, self.best, self.limits = self.totals[kept], self.best[kept], self.limits[kept]
        self.active, self.recent = self.active[kept.cpu()], [best[kept] for best in self.recent[-4:]]

    def finish(self, tokens: Tensor, length_penalty: float) -> list[ScoredTokens]:
        """See SearchStrategy. Raises BadCheckpoint where an utterance has no text, because every score was NaN."""
        best = self.nbest(1, length_penalty=length_penalty)
        if not all(best):
            raise BadCheckpoint(NAN_SCORES)
        return [texts[0] for texts in best]

    def nbest(self, n: int | None = None, *, length_penalty: float = 0.0) -> list[list[ScoredTokens]]:
        """The n best finished texts of every utterance of the batch, the best first; fewer where fewer finished."""
        counts = [len(step.active) for step in self.steps]
        parents, chosen, ended = (torch.cat([getattr(step, name) for step in self.steps]).cpu().split(counts)
                                  for name in ("parents", "tokens", "ended"))   # in one transfer each
        found: list[list[tuple[float, int, int, int]]] = [[] for _ in range(int(self.steps[0].active[-1]) + 1)]
        for number, scores in enumerate(ended):
            for row, slot in (scores > -torch.inf).nonzero().tolist():
                utterance = int(self.steps[number].active[row])
                length = number + int(chosen[number][row, slot] != self.end)
                found[utterance].append((scores[row, slot].item() / max(1, length) ** length_penalty, number, row, slot))
        return [[self._backtrace(parents, chosen, ended, one) for one in sorted(texts, reverse=True)[:n]] for texts in found]

    def _backtrace(self, parents: tuple[Tensor, ...], chosen: tuple[Tensor, ...], ended: tuple[Tensor, ...],
                   found: tuple[float, int, int, int]) -> ScoredTokens:
        """The tokens of a text, back through the steps from where it finished."""
        _, number, row, slot = found
        utterance, score, text = int(self.steps[number].active[row]), ended[number][row, slot].item(), []
        for at in range(number, -1, -1):
            row = int((self.steps[at].active == utterance).nonzero())
            text.append(int(chosen[at][row, slot]))
            slot = int(parents[at][row, slot])
        text.reverse()
        return tuple(text[:-1] if text[-1] == self.end else text), score
