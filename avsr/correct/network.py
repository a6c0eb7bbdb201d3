"""The network of a corrector: a Transformer encoder over the n-best lists, and the decoder of our speech models.

    pieces of lists (B, S) -> encode -> Memory -> decoder -> pieces of the corrected text
T5 (Raffel et al. 2020, arXiv 1910.10683) at a small size: p(y | x) = prod_i p(y_i | y_<i, x), every task as text to text.
Encoder and decoder share the embedding; positions are sinusoids in the encoder, and learnt in the decoder, as in Whisper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from avsr.memory import Memory
from avsr.models.blocks import Block, sinusoids, stack
from avsr.models.decoder import Decoder, Writer
from avsr.schema import Between

Size = Annotated[int, Between(1, 4096)]
IGNORED = -100                                              # a target that does not count, torch's default


@dataclass(frozen=True)
class TextDims:
    """The sizes of a corrector. n_input, n_context: the most pieces that it reads and writes. n_lists: how many texts it reads
    by `a`, by `v` and by `av`."""

    n_vocab: Annotated[int, Between(4, 2**20)] = 0
    width: Annotated[int, Between(8, 4096)] = 128
    n_heads: Annotated[int, Between(1, 64)] = 4
    n_encoder_layers: Size = 2
    n_decoder_layers: Size = 2
    n_input: Size = 320
    n_context: Size = 64
    n_lists: Annotated[tuple[Annotated[int, Between(0, 6)], ...], Between(3, 3)] = (4, 4, 2)


class TextToText(Writer):
    """An encoder-decoder over pieces of text."""

    def __init__(self, dims: TextDims):
        super().__init__()
        self.dims = dims
        self.decoder = Decoder(dims.n_vocab, dims.n_context, dims.width, dims.n_heads, dims.n_decoder_layers, video=False)
        self.encoder = stack(Block(dims.width, dims.n_heads) for _ in range(dims.n_encoder_layers))
        self.encoder_norm = nn.LayerNorm(dims.width)
        nn.init.normal_(self.decoder.embedding.weight, std=dims.width ** -0.5)        # it also makes the logits

    def encode(self, pieces: Tensor, mask: Tensor) -> Memory:
        """pieces (B, S) int64, mask (B, S) bool, False for padding -> the memory that the decoder attends to."""
        positions = sinusoids(pieces.shape[1], self.dims.width, device=pieces.device)
        x = self.decoder.embedding(pieces) * math.sqrt(self.dims.width) + positions
        for block in self.encoder:
            x = block(x, mask)
        return Memory(self.encoder_norm(x), None, mask)

    def forward(self, inputs: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], end: int) -> Tensor:
        """The mean cross-entropy of target pieces and of their end, in nats: L = - 1/n sum_i log p(y_i | y_<i, x)."""
        pieces, mask = padded(inputs, end)
        pieces, mask = pieces.to(self.encoder_norm.weight.device), mask.to(self.encoder_norm.weight.device)
        before, _ = padded([[end, *one] for one in targets], end)
        wanted = pad_sequence([torch.tensor([*one, end]) for one in targets], batch_first=True, padding_value=IGNORED)
        logits = self.decoder(before.to(pieces.device), self.start(self.encode(pieces, mask)))
        return F.cross_entropy(logits.flatten(0, 1), wanted.to(pieces.device).flatten(), ignore_index=IGNORED)


def padded(rows: Sequence[Sequence[int]], value: int) -> tuple[Tensor, Tensor]:
    """Rows of pieces -> (B, S) int64, padded with a value, and (B, S) bool, False for padding."""
    pieces = pad_sequence([torch.tensor(list(one)) for one in rows], batch_first=True, padding_value=value)
    lengths = torch.tensor([len(one) for one in rows])
    return pieces, torch.arange(pieces.shape[1]) < lengths[:, None]
