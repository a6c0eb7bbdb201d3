"""The ear: log-mel (B, 100/s, n_mels) -> convolutions -> (B, 50/s, D) -> Whisper's audio blocks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from avsr.models.blocks import Block, length_mask, sinusoids


class LocalBlock(nn.Module):
    """What is near in time, by convolution over 100 ms: (B, S, D) -> (B, S, D). Starts as the identity.

    Attention alone has to find out that neighbours matter, which takes more hours of speech than a small corpus has:
    Conformer (Gulati et al. 2020) puts a convolution beside it for that reason.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width, kernel_size=5, padding=2)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """lengths (B,) of x in positions."""
        near = self.conv(_blank(self.norm(x).transpose(1, 2), lengths))
        return x + self.out(F.gelu(near).transpose(1, 2))


class AudioEncoder(nn.Module):
    """Whisper's audio encoder (Radford et al. 2022), in two halves so that the top blocks can be fused with video; and, for
    networks that start from nothing, `n_local` convolutions between its front and its blocks."""

    def __init__(self, n_mels: int, width: int, n_heads: int, n_layers: int, n_local: int = 0):
        super().__init__()
        self.conv1 = nn.Conv1d(n_mels, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        self.local = nn.ModuleList(LocalBlock(width) for _ in range(n_local))
        self.blocks = nn.ModuleList(Block(width, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width)

    def front(self, mel: Tensor, lengths: Tensor | None) -> Tensor:
        """log-mel (B, 2S, n_mels), its lengths (B,) in columns -> (B, S, D) with positions.

        What lies beyond an utterance's length is zeroed before each convolution, as if nothing followed there.
        """
        x = F.gelu(self.conv1(_blank(mel.transpose(1, 2), lengths)))
        x = F.gelu(self.conv2(_blank(x, lengths))).transpose(1, 2)
        for block in self.local:
            x = block(x, None if lengths is None else (lengths + 1) // 2)
        return x + sinusoids(x.shape[1], x.shape[2], device=x.device).to(x.dtype)


def _blank(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Zeros beyond each length of (B, C, columns)."""
    if lengths is None:
        return x
    return x.masked_fill(~length_mask(lengths, x.shape[2])[:, None], 0.0)
