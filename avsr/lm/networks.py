"""The networks of language models: LSTM and GPT, tokens so far -> the probability of the next.

    vocabulary: tokens (N, L) -> classes (N, L) -> network: hidden (N, L, D) -> logits (N, L, C)
Legend: N texts or hypotheses, L tokens, V tokens of the recogniser, C classes, D width of the embedding.
A Whisper has 51,864 tokens, of which 8,000 occur in a book: each token that occurs is a class of its own, and class 0 stands
for all others together, each of which has an equal share of its probability. So no text has the probability 0, and the largest
product of the network becomes six times smaller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsr.models.blocks import Attention, WithDropout, feed_forward, stack
from avsr.models.decoder import Cache
from avsr.schema import Between, OneOf

OTHER = 0                                                   # the class of all tokens that have none of their own
Size = Annotated[int, Between(1, 2**16)]


@dataclass(frozen=True)
class LMDims:
    """The sizes of a language model. n_tokens: V; n_classes: C. width: D. hidden: cells of each LSTM layer; n_heads,
    n_context: of a GPT, which attends to the last n_context tokens at most."""

    kind: Annotated[str, OneOf(("lstm", "gpt"))] = "lstm"
    n_tokens: Annotated[int, Between(2, 2**20)] = 0
    n_classes: Annotated[int, Between(2, 2**20)] = 0
    width: Size = 256
    n_layers: Annotated[int, Between(1, 256)] = 1
    hidden: Size = 512
    n_heads: Size = 4
    n_context: Annotated[int, Between(4, 2**20)] = 256


@dataclass
class LstmState:
    """h, c: (layers, N, H) each, after `n_tokens` tokens; None before the first."""

    h: Tensor | None = None
    c: Tensor | None = None
    n_tokens: int = 0

    def select_rows(self, rows: Tensor) -> None:
        """Keep these texts (N',) in this order."""
        if self.h is not None and self.c is not None:
            self.h, self.c = self.h.index_select(1, rows), self.c.index_select(1, rows)


@dataclass
class GptState(Cache):
    """The keys and values of the tokens so far, as the decoder of a recogniser keeps them; there is no memory to attend to."""

    own: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    audio: None = None
    video: None = None
    audio_mask: None = None
    video_mask: None = None


class LanguageNetwork(WithDropout):
    """What both networks share: the classes of tokens, the embedding, and the logits, whose weights are the embedding's."""

    def __init__(self, dims: LMDims):
        super().__init__()
        self.dims = dims
        self.register_buffer("known", torch.zeros(dims.n_classes - 1, dtype=torch.long))       # tokens of classes 1, 2, ...
        self.embedding = nn.Embedding(dims.n_classes, dims.width)
        self.bias = nn.Parameter(torch.zeros(dims.n_classes))
        nn.init.normal_(self.embedding.weight, std=0.02)

    known: Tensor

    @property
    def n_context(self) -> int | None:
        """The most tokens that it can read; None for any number."""
        return None

    def classes(self, tokens: Tensor) -> Tensor:
        """Tokens of any shape, int64 -> their classes."""
        table = torch.zeros(self.dims.n_tokens, dtype=torch.long, device=tokens.device)
        table[self.known.to(tokens.device)] = torch.arange(1, self.dims.n_classes, device=tokens.device)
        return table[tokens]

    def start(self) -> LstmState | GptState:
        """The state before any token."""
        raise NotImplementedError

    def forward(self, classes: Tensor, state: LstmState | GptState) -> Tensor:
        """The next classes (N, L) after those of the state, which is brought up to date -> (N, L, D)."""
        raise NotImplementedError

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., C)."""
        return F.linear(hidden, self.embedding.weight, self.bias)

    @property
    def other_share(self) -> float:
        """The logarithm of the share of class 0 that each of its tokens has."""
        return -math.log(max(1, self.dims.n_tokens - len(self.known)))

    def token_logprobs(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """hidden (M, D), the tokens that came next (M,) int64 -> their log-probabilities (M,) float32."""
        classes = self.classes(tokens)
        logprobs = self.logits(hidden).float().log_softmax(dim=-1).gather(1, classes[:, None])[:, 0]
        return torch.where(classes == OTHER, logprobs + self.other_share, logprobs)

    def all_logprobs(self, hidden: Tensor, n_vocab: int) -> Tensor:
        """hidden (N, D) -> log-probabilities (N, n_vocab) float32 of all tokens; those beyond the tokenizer's are others."""
        logprobs = self.logits(hidden).float().log_softmax(dim=-1)
        out = (logprobs[:, :1] + self.other_share).repeat(1, n_vocab)
        out[:, self.known] = logprobs[:, 1:]
        return out


class LstmNetwork(LanguageNetwork):
    r"""Long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000), by torch's cells,
    which are cuDNN's on a GPU. With the embedding x of a token, and the state h, c after the one before:

        i = σ(W_i x + U_i h + b_i)        which part of the new content is let in
        f = σ(W_f x + U_f h + b_f)        which part of the old content stays
        g = tanh(W_g x + U_g h + b_g)     the new content
        o = σ(W_o x + U_o h + b_o)        which part is shown
        c' = f ⊙ c + i ⊙ g
        h' = o ⊙ tanh(c')

    The content c passes from token to token by a sum, so that gradients neither vanish nor explode along it. h' is brought to
    the width of the embedding, whose weights then score the next token (Press and Wolf 2017).
    """

    def __init__(self, dims: LMDims):
        super().__init__(dims)
        self.lstm = nn.LSTM(dims.width, dims.hidden, dims.n_layers, batch_first=True)
        self.project = nn.Linear(dims.hidden, dims.width)
        with torch.no_grad():                               # forget gates begin open (Jozefowicz et al. 2015)
            for name, bias in self.lstm.named_parameters():
                if name.startswith("bias_ih"):
                    bias[dims.hidden:2 * dims.hidden] = 1.0

    def start(self) -> LstmState:
        """See LanguageNetwork."""
        return LstmState()

    def forward(self, classes: Tensor, state: LstmState | GptState) -> Tensor:
        """See LanguageNetwork."""
        assert isinstance(state, LstmState)
        before = None if state.h is None or state.c is None else (state.h, state.c)
        self.lstm.dropout = self.dropout if self.training else 0.0
        x, (state.h, state.c) = self.lstm(self._drop(self.embedding(classes)), before)
        state.n_tokens += classes.shape[1]
        return self._drop(self.project(self._drop(x)))


class GptBlock(WithDropout):
    """Pre-norm causal self-attention and feed-forward: x + A(N(x)), then x + F(N(x)) (Radford et al. 2019)."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, n_heads)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = feed_forward(width)

    def forward(self, x: Tensor, layer: int, state: GptState, causal: Tensor | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (N, L, D), causal (1, 1, L, S) bool -> (N, L, D), and the keys and values of all S tokens so far."""
        normed = self.attention_norm(x)
        keys, values = state.extended(layer, *self.attention.keys_values(normed))
        x = x + self._drop(self.attention(normed, keys, values, causal))
        return x + self._drop(self.feed(self.feed_norm(x))), (keys, values)


class GptNetwork(LanguageNetwork):
    """A decoder-only Transformer (Vaswani et al. 2017; Radford et al. 2018): each token attends to those before it,

        A(x) = softmax(Q Kᵀ / √d + M) V,    M = 0 for the token itself and those before it, -∞ for those after it,

    with Q, K, V linear in x, in n_heads heads of d = D / n_heads; positions are learnt.
    """

    def __init__(self, dims: LMDims):
        super().__init__(dims)
        self.positions = nn.Parameter(torch.randn(dims.n_context, dims.width) * 0.01)
        self.blocks = stack(GptBlock(dims.width, dims.n_heads) for _ in range(dims.n_layers))
        self.norm = nn.LayerNorm(dims.width)

    @property
    def n_context(self) -> int | None:
        """See LanguageNetwork."""
        return self.dims.n_context

    def start(self) -> GptState:
        """See LanguageNetwork."""
        return GptState()

    def forward(self, classes: Tensor, state: LstmState | GptState) -> Tensor:
        """See LanguageNetwork."""
        assert isinstance(state, GptState)
        past, length = state.n_tokens, classes.shape[1]
        assert past + length <= self.dims.n_context, f"{past + length} tokens, room for {self.dims.n_context}"
        x = self._drop(self.embedding(classes) + self.positions[past:past + length])
        causal = None
        if length > 1:
            causal = torch.ones(length, past + length, dtype=torch.bool, device=x.device).tril(past)[None, None]
        own = []
        for layer, block in enumerate(self.blocks):
            x, pair = block(x, layer, state, causal)
            own.append(pair)
        state.own = own
        return self.norm(x)


NETWORKS = {"lstm": LstmNetwork, "gpt": GptNetwork}


def make_network(dims: LMDims) -> LanguageNetwork:
    """The network of these sizes, its weights drawn from torch's generator."""
    return NETWORKS[dims.kind](dims)
