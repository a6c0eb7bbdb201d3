"""The ear: log-mel (B, 100/s, n_mels) or the waveform -> convolutions -> (B, 50/s, D) -> Whisper's audio blocks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from avsr.models.blocks import Block, blank, sinusoids
from avsr.models.resnet import WIDTH, stages


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
        near = self.conv(blank(self.norm(x).transpose(1, 2), lengths))
        return x + self.out(F.gelu(near).transpose(1, 2))


class WaveFront(nn.Module):
    """The waveform itself: (B, samples, 1), zero mean and unit variance, -> (B, S, 512). 3.9 M parameters.

    A ResNet-18 over time (Petridis et al. 2018; auto_avsr): its stem and stages leave one of 32 samples, the last average
    `pool` of those: 20 for 25 positions a second, 10 for 50. Padding reaches nothing, unlike in the originals.
    """

    width = WIDTH
    stem = 4                                                # samples to a column of the first convolution

    def __init__(self, pool: int = 20):
        super().__init__()
        self.pool = pool
        self.conv1 = nn.Conv1d(1, 64, kernel_size=80, stride=self.stem, padding=38, bias=False)
        self.bn1 = nn.BatchNorm1d(64)
        self.stages = nn.ModuleList(stages(1, nn.SiLU))

    @property
    def samples(self) -> int:
        """To a position."""
        return self.stem * 2 ** (len(self.stages) - 1) * self.pool

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """lengths (B,) in samples; what is less than a position at the end of an utterance is left out."""
        n = max(1, x.shape[1] // self.samples)
        x = F.pad(x[:, :n * self.samples, 0], (0, max(0, n * self.samples - x.shape[1])))[:, None]
        if lengths is not None:
            lengths = self.positions(lengths) * self.samples
            x, lengths = blank(x, lengths), lengths // self.stem
        x = blank(F.silu(self.bn1(self.conv1(x))), lengths)
        for i, stage in enumerate(self.stages):
            inside = None if lengths is None else lengths // 2 ** i
            for block in stage:
                x = block(x, inside)
        return F.avg_pool1d(x, self.pool).transpose(1, 2)

    def positions(self, lengths: Tensor) -> Tensor:
        """Samples (B,) -> positions (B,)."""
        return lengths // self.samples


class AudioEncoder(nn.Module):
    """Whisper's audio encoder (Radford et al. 2022), in two halves so that the top blocks can be fused with video; and, for
    networks that start from nothing, `n_local` convolutions between its front and its blocks. n_mels 0: it hears the
    waveform, by a WaveFront in place of Whisper's convolutions."""

    def __init__(self, n_mels: int, width: int, n_heads: int, n_layers: int, n_local: int = 0):
        super().__init__()
        self.hears_waves = not n_mels
        if n_mels:
            self.conv1 = nn.Conv1d(n_mels, width, kernel_size=3, padding=1)
            self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        else:
            self.wave = WaveFront(pool=10)
            self.project = nn.Linear(WaveFront.width, width)
        self.local = nn.ModuleList(LocalBlock(width) for _ in range(n_local))
        self.blocks = nn.ModuleList(Block(width, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width)

    def front(self, mel: Tensor, lengths: Tensor | None) -> Tensor:
        """log-mel (B, 2S, n_mels), its lengths (B,) in columns, or waveform (B, 320 S, 1) -> (B, S, D) with positions.

        What lies beyond an utterance's length is zeroed before each convolution, as if nothing followed there.
        """
        if self.hears_waves:
            x = self.project(self.wave(mel, lengths))
        else:
            x = F.gelu(self.conv1(blank(mel.transpose(1, 2), lengths)))
            x = F.gelu(self.conv2(blank(x, lengths))).transpose(1, 2)
        for block in self.local:
            x = block(x, None if lengths is None else self.positions(lengths))
        return x + sinusoids(x.shape[1], x.shape[2], device=x.device).to(x.dtype)

    def positions(self, lengths: Tensor) -> Tensor:
        """Lengths (B,) of what `front` takes, columns or samples, -> of what it gives."""
        return self.wave.positions(lengths) if self.hears_waves else (lengths + 1) // 2
