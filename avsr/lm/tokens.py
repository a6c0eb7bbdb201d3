"""`TokenScorer`, which adds a language model of the recogniser's own tokens to its beam search.

    LanguageNetwork -> TokenScorer: tokens (N, L) -> (N, V)
Shallow fusion (Gulcehre et al. 2015): the weighted log-probability of each next token is added to the recogniser's. The state
of each hypothesis is kept between steps: the cells of an LSTM, the keys and values of a GPT. All hypotheses are one batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avsr.arrays import Array, gather, like
from avsr.lm.networks import GptState, LanguageNetwork, LstmState


class TokenScorer:
    """Scores every next token: a decode.Scorer and PartialScorer, made for one search."""

    def __init__(self, network: LanguageNetwork, *, end: int, n_prompt: int, n_vocab: int, weight: float):
        """end: the token that ends a text, which to the language model also begins it, in place of the `n_prompt` tokens of the
        recogniser's prompt. n_vocab: tokens of the recogniser's network, which may be more than its tokenizer's."""
        self.network, self.end, self.n_prompt, self.n_vocab, self.weight = network, end, n_prompt, n_vocab, weight
        self.state: LstmState | GptState | None = None
        self.n_read = n_prompt

    @torch.no_grad()
    def score(self, tokens: Array) -> Array:
        """(N, L) int64 -> (N, V) float32, of the library and on the device of `tokens`."""
        read = torch.as_tensor(tokens, device=self.network.known.device)
        return like(tokens, self.network.all_logprobs(self._advance(read), self.n_vocab))

    def score_partial(self, tokens: Array, candidates: Array) -> Array:
        """As `score`, but only the columns `candidates` (N, C) int64 -> (N, C) float32."""
        return gather(self.score(tokens), candidates)

    def select(self, rows: Array, utterances: Array | None) -> None:
        """See decode.Scorer."""
        if self.state is not None:
            self.state.select_rows(torch.as_tensor(rows, device=self.network.known.device))

    def _advance(self, tokens: Tensor) -> Tensor:
        """Read the new tokens of (N, L). Returns the hidden state (N, D) after the last."""
        assert tokens.shape[1] >= self.n_read, "a scorer is made for one search"
        written = tokens[:, self.n_prompt:].clamp(max=self.network.dims.n_tokens - 1)
        most = self.network.n_context
        new = tokens.shape[1] - self.n_read
        if self.state is None or (most is not None and self.state.n_tokens + new > most):
            self.state, new = self.network.start(), written.shape[1]
            if most is not None and new + 1 > most:         # the text is longer than what the network can read: its second half
                new = most // 2
        read = written[:, written.shape[1] - new:]
        if self.state.n_tokens == 0:
            read = torch.cat([read.new_full((len(read), 1), self.end), read], dim=1)
        self.n_read = tokens.shape[1]
        return self.network(self.network.classes(read), self.state)[:, -1]
