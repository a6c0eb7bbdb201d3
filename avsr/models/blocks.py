"""The blocks of which every part of the network is built: Whisper's pre-norm attention, with masks.

Legend for all of `models/`: B utterances, K hypotheses per utterance, N = B * K rows, T video frames, S memory
positions (50 a second), L tokens, D model width, H heads. Masks are bool, True where there is something to attend to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

SLACK = 2**20                                               # numbers that a network may have beyond those of the weights
D = TypeVar("D")
M = TypeVar("M", bound=nn.Module)


def sinusoids(length: int, width: int, *, stride: int = 1, device: torch.device | None = None) -> Tensor:
    """Whisper's sinusoidal positions (length, width) float32; row t is position `t * stride`."""
    assert width % 2 == 0, f"width {width} is odd"
    step = math.log(10_000) / (width // 2 - 1)
    scales = torch.exp(-step * torch.arange(width // 2, device=device))
    angles = (torch.arange(length, device=device) * stride)[:, None] * scales[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def over_keys(mask: Tensor | None) -> Tensor | None:
    """(B, S) of valid keys -> (B, 1, 1, S), as attention takes it."""
    return None if mask is None else mask[:, None, None, :]


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """(B,) lengths -> (B, size) bool, True before each length."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


class TooLarge(Exception):
    """The network needs more numbers than the weights have."""


class _Undrawn(TorchFunctionMode):
    """The functions of torch.nn.init return weights as they are, instead of drawing them; and at most about twice as many
    numbers as `most` are made, None for any number."""

    def __init__(self, most: int | None):
        super().__init__()
        self.left = None if most is None else 2 * most + SLACK

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if self.left is not None and func in (torch.empty, torch.zeros, torch.ones):
            self.left -= math.prod(args[0] if args and not isinstance(args[0], int) else args)
            if self.left < 0:
                raise TooLarge
        return func(*args, **kwargs)


def outline(network: Callable[[D], M], dims: D, *, most: int | None = None) -> M:
    """A network whose weights are not set yet: `load_state_dict(weights, assign=True)` must set all of them.

    most: numbers in the weights that it will be given. Raises TooLarge as soon as more than twice as many are needed: dims from
    a file are not trusted beyond its weights, but a caller can still name the few weights that are missing.

    Drawing weights only to overwrite them takes seconds and 1 GB for 250 M parameters. Here their memory is never touched, so
    it is never allocated. On the meta device torch.randn and a product would import torch's compiler (8 s of a core).
    """
    with _Undrawn(most):
        return network(dims)


class Attention(nn.Module):
    """Multi-head attention from queries (N, L, D) to keys of B utterances, N = B * K.

    The K hypotheses of one utterance share its keys: they are folded into the query length, so that a beam search never
    copies the memory. Self-attention is the case K = 1.
    """

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        assert width % n_heads == 0, f"width {width} does not divide into {n_heads} heads"
        self.n_heads = n_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, D) -> keys and values, each (B, H, S, D / H)."""
        return self._heads(self.key(x)), self._heads(self.value(x))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (N, L, D); keys, values (B, H, S, D / H); mask broadcastable to (B, 1, K * L, S). Returns (N, L, D).

        A query whose keys are all masked gets zeros.
        """
        n_rows, length, width = x.shape
        n_utterances = keys.shape[0]
        query = self._heads(self.query(x).view(n_utterances, -1, width))         # (B, H, K * L, D / H)
        if mask is None:
            masked = None
        else:
            masked = ~mask.any(dim=-1, keepdim=True)                              # (B, 1, 1 or K * L, 1)
            mask = mask | masked                                                  # or softmax would compute 0 / 0
            if torch.compiler.is_exporting():                                     # ONNX Runtime does not broadcast over queries
                mask = mask.expand(-1, -1, query.shape[2], -1)
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        x = self.out(attended.transpose(1, 2).reshape(n_utterances, -1, width))
        if masked is not None:
            x = x.masked_fill(masked.squeeze(1), 0.0)
        return x.view(n_rows, length, width)

    def queries(self, x: Tensor) -> Tensor:
        """(N, L, D) -> queries (N, H, L, D / H)."""
        return self._heads(self.query(x))

    def weights(self, x: Tensor, keys: Tensor) -> Tensor:
        """The attention logits before softmax: (B, L, D), (B, H, S, D / H) -> (B, H, L, S)."""
        return attention_logits(self.queries(x), keys)

    def _heads(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        return x.view(batch, length, self.n_heads, width // self.n_heads).transpose(1, 2)


def attention_logits(queries: Tensor, keys: Tensor) -> Tensor:
    """Queries (..., L, E), keys (..., S, E) -> the logits (..., L, S) of an attention."""
    return queries @ keys.transpose(-2, -1) / math.sqrt(keys.shape[-1])


def stack(blocks: Iterable[M]) -> Sequence[M]:
    """A ModuleList that keeps the type of its blocks, which torch's annotations do not."""
    return cast("Sequence[M]", nn.ModuleList(blocks))


def feed_forward(width: int, times: int = 4) -> nn.Sequential:
    """Whisper's feed-forward: four times as wide inside, exact GELU."""
    return nn.Sequential(nn.Linear(width, times * width), nn.GELU(), nn.Linear(times * width, width))


def zero_padding(x: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, C, S) with zeros beyond each length (B,); None: all of S counts."""
    if lengths is None:
        return x
    return x.masked_fill(~length_mask(lengths, x.shape[2])[:, None], 0.0)


class WithDropout(nn.Module):
    """A block of parts. `dropout`: the share of each part's output that training drops; the trainer sets it."""

    dropout = 0.0

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training and self.dropout else x


class Block(WithDropout):
    """Pre-norm self-attention and feed-forward over an utterance: (B, S, D) -> (B, S, D)."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, n_heads)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = feed_forward(width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """mask (B, S): padded positions are not attended to."""
        normed = self.attention_norm(x)
        x = x + self._drop(self.attention(normed, *self.attention.keys_values(normed), over_keys(mask)))
        return x + self._drop(self.feed(self.feed_norm(x)))
