"""Scorers, which say how likely each next token is, and logit filters, which forbid tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

from avsr.arrays import Array, append, copy, fill, like, repeat, softmax, to_numpy
from avsr.memory import Memory

if TYPE_CHECKING:
    from avsr.models.protocol import SearchCache, SpeechModel


class Scorer(Protocol):
    """Says how likely each next token is; `weight` multiplies it when scorers are added up."""

    weight: float

    def score(self, tokens: Array) -> Array:
        """All tokens so far, prompt included, (N, L) int64 -> scores (N, V) float32 of the next. May be logits."""
        ...

    def select(self, rows: Array, utterances: Array | None) -> None:
        """Keep these rows (N',), in this order; `utterances` (B',) where some of them are finished, else None."""
        ...


class PartialScorer(Protocol):
    """A scorer that is too slow for every token, and only scores the most likely ones. `weight`, `select`: as in Scorer."""

    weight: float

    def score_partial(self, tokens: Array, candidates: Array) -> Array:
        """All tokens so far (N, L), tokens that may come next (N, C) int64 -> scores (N, C), normalised."""
        ...

    def select(self, rows: Array, utterances: Array | None) -> None: ...


class DecoderScorer:
    """The network's decoder as a scorer: log-probabilities given everything so far.

    `no_speech` (B,) holds the probability of that token right after the start token, once `score` was called.
    """

    def __init__(self, model: SpeechModel, memory: Memory, *, no_speech_token: int | None, start_token: int,
                 weight: float = 1.0, cache: SearchCache | None = None, draft: Sequence[int] = ()):
        """cache: that of `memory` before any token, where it is there already. draft: see DecodeOptions; it counts where there
        is one hypothesis of one utterance."""
        self.model, self.weight, self.n_utterances = model, weight, memory.n_utterances
        self.cache = model.start(memory) if cache is None else cache
        self.no_speech_token, self.start_token = no_speech_token, start_token
        self.no_speech = np.zeros(self.n_utterances, np.float32)
        self.draft = list(draft)
        self._ahead: Array | None = None                    # (L + 1, V) logits before and after each token of the draft

    def score(self, tokens: Array) -> Array:
        """(N, L) -> (N, V). The prompt, which is the same in all hypotheses of an utterance, is read once for each."""
        if self._ahead is not None:
            n_written = tokens.shape[1] - (self.cache.n_tokens - len(self.draft))
            if n_written <= len(self.draft) and tokens[0, tokens.shape[1] - n_written:].tolist() == self.draft[:n_written]:
                return copy(self._ahead[n_written][None])    # filters write into it
            self.cache.truncate(tokens.shape[1] - 1)         # the text goes another way
            self._ahead = None
        if self.cache.n_tokens:
            return self.model.step(tokens[:, self.cache.n_tokens:], self.cache)
        n_hypotheses = tokens.shape[0] // self.n_utterances
        prompt = tokens[::n_hypotheses]
        if self.draft and len(tokens) == 1:
            return self._read_draft(tokens)
        logits = self._read_prompt(prompt, [prompt.shape[1] - 1])
        self.cache.select_rows(like(tokens, np.repeat(np.arange(self.n_utterances), n_hypotheses)))
        return repeat(logits[:, -1], n_hypotheses)

    def _read_draft(self, prompt: Array) -> Array:
        """Read the prompt and the draft in one step: (1, V), the logits of the first token."""
        n_prompt = prompt.shape[1]
        written = append(prompt, like(prompt, np.array([self.draft])))
        ahead = self._read_prompt(written, range(n_prompt - 1, n_prompt + len(self.draft)))[0]
        self._ahead = ahead
        return copy(ahead[0][None])

    def _read_prompt(self, tokens: Array, positions: Sequence[int]) -> Array:
        """Read the first tokens (B, L) of each utterance, and find `no_speech`: (B, K, V), the logits after K positions."""
        if self.no_speech_token is None:
            return self.model.read(tokens, self.cache, positions)
        start = tokens[0].tolist().index(self.start_token)
        logits = self.model.read(tokens, self.cache, [start, *positions])
        self.no_speech = to_numpy(softmax(logits[:, 0])[:, self.no_speech_token])
        return logits[:, 1:]

    def select(self, rows: Array, utterances: Array | None) -> None:
        """See Scorer."""
        self.cache.select_rows(rows)
        if utterances is not None:
            self.cache.select_utterances(utterances)


class LogitFilter(Protocol):
    """Forbids tokens by writing -inf into the scores, in place."""

    def __call__(self, scores: Array, tokens: Array) -> None:
        """scores (N, V) float32; tokens (N, L) so far, prompt included."""
        ...


@dataclass(frozen=True)
class SuppressTokens:
    """Tokens that are never written, and tokens that are not written first, which is after `n_prompt` tokens."""

    always: tuple[int, ...]
    at_begin: tuple[int, ...] = ()
    n_prompt: int = 0

    def __call__(self, scores: Array, tokens: Array) -> None:
        """See LogitFilter."""
        fill(scores, like(tokens, _indices(self.always)), -np.inf)
        if tokens.shape[1] == self.n_prompt and self.at_begin:
            fill(scores, like(tokens, _indices(self.at_begin)), -np.inf)


@lru_cache(maxsize=16)
def _indices(ids: tuple[int, ...]) -> np.ndarray:
    """Cached: 1600 ids, Whisper's timestamps among them, take 3 ms to convert."""
    return np.array(ids, np.int64)


def teacher_forced_log_probs(model: SpeechModel, memory: Memory, prompts: Sequence[Sequence[int]],
                             texts: Sequence[Sequence[int]], end: int) -> list[Array]:
    """The decoder's log-probability of each token of given texts and of their end, the tokens before it given.

    prompts, texts: tokens of each of B utterances, texts without prompt and end. Returns (L + 1,) float32 each, on the CPU.
    """
    written = [[*prompt, *text, end] for prompt, text in zip(prompts, texts, strict=True)]
    found = model.follow(written, memory)
    return [one.log_probs[len(prompt) - 1:] for one, prompt in zip(found, prompts, strict=True)]
