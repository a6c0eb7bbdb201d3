"""Scorers, which say how likely each next token is, and logit filters, which forbid tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from avsr.models.decoder import Cache, Memory
from avsr.models.protocol import SpeechModel


class Scorer(Protocol):
    """Says how likely each next token is; `weight` multiplies it when scorers are added up."""

    weight: float

    def score(self, tokens: Tensor) -> Tensor:
        """All tokens so far, prompt included, (N, L) int64 -> scores (N, V) float32 of the next. May be logits."""
        ...

    def select(self, rows: Tensor, utterances: Tensor | None) -> None:
        """Keep these rows (N',), in this order; `utterances` (B',) where some of them are finished, else None."""
        ...


class PartialScorer(Protocol):
    """A scorer that is too slow for every token, and only scores the most likely ones. `weight`, `select`: as in Scorer."""

    weight: float

    def score_partial(self, tokens: Tensor, candidates: Tensor) -> Tensor:
        """All tokens so far (N, L), tokens that may come next (N, C) int64 -> scores (N, C), normalised."""
        ...

    def select(self, rows: Tensor, utterances: Tensor | None) -> None: ...


class DecoderScorer:
    """The network's decoder as a scorer: log-probabilities given everything so far.

    `no_speech` (B,) holds the probability of that token right after the start token, once `score` was called.
    """

    def __init__(self, model: SpeechModel, memory: Memory, *, no_speech_token: int | None, start_token: int,
                 weight: float = 1.0, cache: Cache | None = None, draft: Sequence[int] = ()):
        """cache: that of `memory` before any token, where it is there already. draft: see DecodeOptions; it counts where there
        is one hypothesis of one utterance."""
        self.model, self.weight, self.n_utterances = model, weight, memory.n_utterances
        self.cache = model.start(memory) if cache is None else cache
        self.no_speech_token, self.start_token = no_speech_token, start_token
        self.no_speech = torch.zeros(self.n_utterances)
        self.draft = list(draft)
        self._ahead: Tensor | None = None                    # (L + 1, V) logits before and after each token of the draft

    def score(self, tokens: Tensor) -> Tensor:
        """(N, L) -> (N, V). The prompt, which is the same in all hypotheses of an utterance, is read once for each."""
        if self._ahead is not None:
            n_written = tokens.shape[1] - (self.cache.n_tokens - len(self.draft))
            if n_written <= len(self.draft) and tokens[0, tokens.shape[1] - n_written:].tolist() == self.draft[:n_written]:
                return self._ahead[n_written][None].clone()  # filters write into it
            self.cache.truncate(tokens.shape[1] - 1)         # the text goes another way
            self._ahead = None
        if self.cache.n_tokens:
            return self.model.step(tokens[:, self.cache.n_tokens:], self.cache)
        n_hypotheses = tokens.shape[0] // self.n_utterances
        prompt = tokens[::n_hypotheses]
        if self.draft and len(tokens) == 1:
            return self._read_draft(tokens)
        hidden = self.model.decoder.hidden(prompt, self.cache)
        if self.no_speech_token is not None:
            self.no_speech = self._no_speech(prompt, hidden)
        rows = torch.arange(self.n_utterances, device=tokens.device).repeat_interleave(n_hypotheses)
        self.cache.select_rows(rows)
        return self.model.decoder.logits(hidden[:, -1])[rows]

    def _read_draft(self, prompt: Tensor) -> Tensor:
        """Read the prompt and the draft in one step: (1, V), the logits of the first token."""
        draft = torch.tensor([self.draft], dtype=prompt.dtype, device=prompt.device)
        hidden = self.model.decoder.hidden(torch.cat([prompt, draft], dim=1), self.cache)
        if self.no_speech_token is not None:
            self.no_speech = self._no_speech(prompt, hidden)
        self._ahead = self.model.decoder.logits(hidden[0, prompt.shape[1] - 1:])
        return self._ahead[0][None].clone()

    def _no_speech(self, prompt: Tensor, hidden: Tensor) -> Tensor:
        """(B,) the probability of that token right after the start token, given the decoder's states (B, L, D)."""
        at = (prompt[0] == self.start_token).nonzero()[0, 0]
        return self.model.decoder.logits(hidden[:, at]).softmax(dim=-1)[:, self.no_speech_token].cpu()

    def select(self, rows: Tensor, utterances: Tensor | None) -> None:
        """See Scorer."""
        self.cache.select_rows(rows)
        if utterances is not None:
            self.cache.select_utterances(utterances)


class LogitFilter(Protocol):
    """Forbids tokens by writing -inf into the scores, in place."""

    def __call__(self, scores: Tensor, tokens: Tensor) -> None:
        """scores (N, V) float32; tokens (N, L) so far, prompt included."""
        ...


@dataclass(frozen=True)
class SuppressTokens:
    """Tokens that are never written, and tokens that are not written first, which is after `n_prompt` tokens."""

    always: tuple[int, ...]
    at_begin: tuple[int, ...] = ()
    n_prompt: int = 0

    def __call__(self, scores: Tensor, tokens: Tensor) -> None:
        """See LogitFilter."""
        scores.index_fill_(1, _indices(self.always, scores.device), -torch.inf)
        if tokens.shape[1] == self.n_prompt and self.at_begin:
            scores.index_fill_(1, _indices(self.at_begin, scores.device), -torch.inf)


@lru_cache(maxsize=16)
def _indices(ids: tuple[int, ...], device: torch.device) -> Tensor:
    """Cached: 1600 ids, Whisper's timestamps among them, take 3 ms to convert."""
    return torch.tensor(ids, dtype=torch.long, device=device)


def teacher_forced_log_probs(model: SpeechModel, memory: Memory, prompts: Sequence[Sequence[int]],
                             texts: Sequence[Sequence[int]], end: int) -> list[Tensor]:
    """The decoder's log-probability of each token of given texts and of their end, the tokens before it given.

    prompts, texts: tokens of each of B utterances, texts without prompt and end. Returns (L + 1,) float32 each, on the CPU.
    """
    written = [[*prompt, *text, end] for prompt, text in zip(prompts, texts, strict=True)]
    longest = max(map(len, written))
    tokens = torch.tensor([one + [end] * (longest - len(one)) for one in written], device=memory.device)
    logits = model.decoder(tokens[:, :-1], model.start(memory))
    log_probs = logits.log_softmax(dim=-1).gather(2, tokens[:, 1:, None])[:, :, 0].cpu()
    return [log_probs[i, len(prompt) - 1:len(one) - 1] for i, (prompt, one) in enumerate(zip(prompts, written, strict=True))]
