"""The audio encoder: log-mel (B, 100/s, n_mels) or waveform -> convolutions -> (B, 50/s, D) -> Whisper's audio blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from avsr.models.blocks import Block, sinusoids, stack, zero_padding
from avsr.models.recurrent import LSTMBlock
from avsr.models.resnet import WIDTH, stages

AUDIO_BLOCKS: dict[str, type[Block | LSTMBlock]] = {"transformer": Block, "lstm": LSTMBlock}


class LocalBlock(nn.Module):
    """A convolution over 100 ms: (B, S, D) -> (B, S, D). Initialised as the identity.

    Attention alone must learn that neighbouring positions matter, which takes more hours of speech than a small corpus has.
    Conformer (Gulati et al. 2020) puts a convolution beside it for the same reason.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width, kernel_size=5, padding=2)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """lengths (B,): positions of x that count."""
        near = self.conv(zero_padding(self.norm(x).transpose(1, 2), lengths))
        return x + self.out(F.gelu(near).transpose(1, 2))


class WaveformFrontend(nn.Module):
    """Waveform (B, samples, 1), of zero mean and unit variance, -> (B, S, 512). 3.9 M parameters.

    A ResNet-18 over time (Petridis et al. 2018; auto_avsr): the stem and the stages keep one of 32 samples, and the last layer
    averages `pool` of those: 20 for 25 positions a second, 10 for 50. Padding does not change the output, unlike in theirs.
    """

    width = WIDTH
    stem = 4                                                # samples to a column of the first convolution

    def __init__(self, pool: int = 20):
        super().__init__()
        self.pool = pool
        self.conv1 = nn.Conv1d(1, 64, kernel_size=80, stride=self.stem, padding=38, bias=False)
        self.bn1 = nn.BatchNorm1d(64)
        self.stages = stack(stages(1, nn.SiLU))

    @property
    def samples(self) -> int:
        """Samples per position."""
        return self.stem * 2 ** (len(self.stages) - 1) * self.pool

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """lengths (B,) in samples; a rest at the end that is shorter than a position is left out."""
        n = max(1, x.shape[1] // self.samples)
        x = F.pad(x[:, :n * self.samples, 0], (0, max(0, n * self.samples - x.shape[1])))[:, None]
        if lengths is not None:
            lengths = self.positions(lengths) * self.samples
            x, lengths = zero_padding(x, lengths), lengths // self.stem
        x = zero_padding(F.silu(self.bn1(self.conv1(x))), lengths)
        for i, stage in enumerate(self.stages):
            inside = None if lengths is None else lengths // 2 ** i
            for block in stage:
                x = block(x, inside)
        return F.avg_pool1d(x, self.pool).transpose(1, 2)

    def positions(self, lengths: Tensor) -> Tensor:
        """Samples (B,) -> positions (B,)."""
        return lengths // self.samples


class AudioEncoder(nn.Module):
    """Whisper's audio encoder (Radford et al. 2022). Its caller runs the blocks, so that the top ones can be fused with video.
    n_local: convolutions below the blocks. n_mels 0: a WaveformFrontend replaces Whisper's convolutions. blocks: "transformer",
    or "lstm" for recurrent ones, which need no positions."""

    def __init__(self, n_mels: int, width: int, n_heads: int, n_layers: int, n_local: int = 0, blocks: str = "transformer"):
        super().__init__()
        self.takes_waveform = not n_mels
        if n_mels:
            self.conv1 = nn.Conv1d(n_mels, width, kernel_size=3, padding=1)
            self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        else:
            self.wave = WaveformFrontend(pool=10)
            self.project = nn.Linear(WaveformFrontend.width, width)
        self.local = stack(LocalBlock(width) for _ in range(n_local))
        self.blocks: Sequence[Block | LSTMBlock] = stack(AUDIO_BLOCKS[blocks](width, n_heads) for _ in range(n_layers))
        self.has_positions = blocks == "transformer"
        self.norm = nn.LayerNorm(width)

    def frontend(self, mel: Tensor, lengths: Tensor | None) -> Tensor:
        """log-mel (B, 2S, n_mels), its lengths (B,) in columns, or waveform (B, 320 S, 1) -> (B, S, D) with positions."""
        if self.takes_waveform:
            x = self.project(self.wave(mel, lengths))
        else:
            x = F.gelu(self.conv1(zero_padding(mel.transpose(1, 2), lengths)))
            x = F.gelu(self.conv2(zero_padding(x, lengths))).transpose(1, 2)
        for block in self.local:
            x = block(x, None if lengths is None else self.positions(lengths))
        return x + sinusoids(x.shape[1], x.shape[2], device=x.device).to(x.dtype) if self.has_positions else x

    def positions(self, lengths: Tensor) -> Tensor:
        """Input lengths (B,) of `frontend`, in columns or samples, -> its output lengths."""
        return self.wave.positions(lengths) if self.takes_waveform else (lengths + 1) // 2
