"""Bidirectional LSTM blocks, which an encoder may have in place of Transformer or Conformer blocks.

    (B, S, D) -> (B, S, D)        Hochreiter and Schmidhuber 1997; both directions as in Graves, Mohamed and Hinton 2013
A cell reads one position x_t after the other and keeps a memory c_t, with sigmoid gates i, f, o in (0, 1):

    i_t = sigmoid(W_i x_t + U_i h_(t-1) + b_i)              what is written into the memory
    f_t = sigmoid(W_f x_t + U_f h_(t-1) + b_f)              what the memory keeps
    g_t = tanh(W_g x_t + U_g h_(t-1) + b_g)
    o_t = sigmoid(W_o x_t + U_o h_(t-1) + b_o)              what is shown of the memory
    c_t = f_t * c_(t-1) + i_t * g_t
    h_t = o_t * tanh(c_t)

torch.nn.LSTM computes them, by cuDNN on a GPU. One half of the width reads forwards, the other half backwards.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from avsr.models.blocks import WithDropout


class LSTMBlock(WithDropout):
    """Layer norm, a bidirectional LSTM, and the input added: (B, S, D) -> (B, S, D). It needs no positions."""

    def __init__(self, width: int, n_heads: int):
        """n_heads is not used; every kind of block is made alike."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.lstm = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """mask (B, S): an utterance ends with its last position that counts; those before it that do not count are 0."""
        normed = self.norm(x)
        if mask is None:
            return x + self._drop(self.lstm(normed)[0])
        lengths = sequence_lengths(mask)
        packed = pack_padded_sequence(normed * mask[:, :, None], lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])
        return x + self._drop(states)


def sequence_lengths(mask: Tensor) -> Tensor:
    """(B, S) bool -> (B,) int64: the positions up to the last one that counts, at least 1."""
    size = mask.shape[1]
    last_first = mask.flip(1).int().argmax(dim=1)           # 0 also where nothing counts
    return (size - last_first).masked_fill(~mask.any(dim=1), 1)
