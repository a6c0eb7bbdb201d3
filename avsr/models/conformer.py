"""Conformer blocks: self-attention over relative positions beside a convolution, between two half feed-forwards.

    (B, S, D) -> (B, S, D)        Gulati et al. 2020, as ESPnet and auto_avsr build them: pre-norm, ReLU in the feed-forwards
Positions enter the attention alone, as distances (Transformer-XL; Dai et al. 2019), so the length is not limited.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsr.models.blocks import Attention, WithDropout

EPS = 1e-12                                                 # of every layer norm in ESPnet's networks
KERNEL = 31                                                 # frames that a block's convolution spans: 1.24 s at 25 a second


def interleaved_sinusoids(positions: Tensor, width: int) -> Tensor:
    """Sines at even and cosines at odd columns (len(positions), width) float32 (Vaswani et al. 2017); see blocks.sinusoids."""
    scales = torch.exp(torch.arange(0, width, 2, device=positions.device) * (-math.log(10_000) / width))
    angles = positions[:, None] * scales[None]
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


@lru_cache(maxsize=16)
def distances(n: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Sinusoids of the distances n - 1, n - 2 ... -n from a query to its keys, the past positive: (2n, width)."""
    with torch.inference_mode(False):                       # the cached table may later be used in training
        return interleaved_sinusoids(torch.arange(n - 1, -n - 1, -1, device=device), width).to(dtype)


def by_key(by_distance: Tensor) -> Tensor:
    """Scores of each query by distance (..., S, 2S), as `distances` lists them, -> by key (..., S, S), as a view.

    Row i needs the distances i - j, which start at column S - 1 - i. In memory each row's part starts 2S - 1 numbers after
    the one before, so a view with rows of 2S - 1 lines them up (Transformer-XL's shift).
    """
    n = by_distance.shape[-2]
    return by_distance.flatten(-2)[..., n - 1:-1].unflatten(-1, (n, 2 * n - 1))[..., :n]


class RelativeAttention(Attention):
    """Self-attention whose scores also depend on the distance from the query to the key.

    ((q_i + u) . k_j + (q_i + v) . P r_(i - j)) / sqrt(D / H), with u, v per head, and P shared by the heads.
    """

    def __init__(self, width: int, n_heads: int):
        super().__init__(width, n_heads)
        self.distance = nn.Linear(width, width, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(n_heads, 1, width // n_heads))
        self.distance_bias = nn.Parameter(torch.zeros(n_heads, 1, width // n_heads))

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, S, D), mask (B, S) of the positions that count -> (B, S, D); zeros where none of an utterance's do."""
        batch, n, width = x.shape
        query, (keys, values) = self._heads(self.query(x)), self.keys_values(x)
        far = self._heads(self.distance(distances(n, width, x.device, x.dtype))[None])              # (1, H, 2S, D / H)
        bias = by_key((query + self.distance_bias) @ far.transpose(-2, -1)) / math.sqrt(far.shape[-1])
        alone = None
        if mask is not None:
            bias = bias.masked_fill(~mask[:, None, None, :], -torch.inf)
            alone = ~mask.any(dim=1)[:, None, None, None]   # else softmax would be 0 / 0 there
            bias = bias.masked_fill(alone, 0.0)
        attended = F.scaled_dot_product_attention(query + self.content_bias, keys, values, attn_mask=bias)
        out = self.out(attended.transpose(1, 2).reshape(batch, n, width))
        return out if alone is None else out.masked_fill(alone[:, 0], 0.0)


class ConvolutionModule(nn.Module):
    """A gated depthwise convolution over time with a norm: (B, S, D) -> (B, S, D). Padding does not influence its neighbours;
    in the originals it does, so that their output for an utterance depends on the others in its batch."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.into = nn.Linear(width, 2 * width)             # the originals' 1x1 convolutions
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.BatchNorm1d(width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """mask (B, S) of the positions that count."""
        x = F.glu(self.into(x))
        if mask is not None:
            x = x * mask[:, :, None]
        x = F.silu(self.norm(self.depthwise(x.transpose(1, 2))))
        return self.out(x.transpose(1, 2))


def relu_feed_forward(width: int, inside: int) -> nn.Sequential:
    """The feed-forward of ESPnet's networks: (..., D) -> (..., D), `inside` wide within."""
    return nn.Sequential(nn.Linear(width, inside), nn.ReLU(), nn.Linear(inside, width))


class ConformerBlock(WithDropout):
    """Half a feed-forward, attention, convolution, half a feed-forward, norm."""

    def __init__(self, width: int, n_heads: int, inside: int | None = None, kernel: int = KERNEL):
        super().__init__()
        self.first_norm = nn.LayerNorm(width, EPS)
        self.first_feed = relu_feed_forward(width, inside or 4 * width)
        self.attention_norm = nn.LayerNorm(width, EPS)
        self.attention = RelativeAttention(width, n_heads)
        self.convolution_norm = nn.LayerNorm(width, EPS)
        self.convolution = ConvolutionModule(width, kernel)
        self.feed_norm = nn.LayerNorm(width, EPS)
        self.feed = relu_feed_forward(width, inside or 4 * width)
        self.norm = nn.LayerNorm(width, EPS)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """mask (B, S): padded positions are not attended to."""
        x = x + 0.5 * self._drop(self.first_feed(self.first_norm(x)))
        x = x + self._drop(self.attention.attend(self.attention_norm(x), mask))
        x = x + self._drop(self.convolution(self.convolution_norm(x), mask))
        x = x + 0.5 * self._drop(self.feed(self.feed_norm(x)))
        return self.norm(x)
