"""Our active-speaker network: one mouth and a sound in, an embedding of each per frame, and whether the two belong together.

    mouths (B, T, 88, 88), seen (B, T)  ->  VideoEncoder ->  video (B, E, T) ─┐
    mel power (B, 4T, 80)               ->  AudioEncoder ->  sound (B, E, T) ─┴->  head -> log-odds (B, T) that this mouth
                                                                                  makes this sound in this frame
The embeddings do not know of one another, so one pass serves all lags between lips and sound, as in SyncNet (Chung and
Zisserman 2016). The network was trained by experiments/active_speaker/train.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POWER_FLOOR = 1e-8                                          # of a mel band: digital silence and the quietest rooms
EVEN_CONTRAST = 0.02                                        # of grey levels in [0, 1]; a flat picture stays flat


@dataclass(frozen=True)
class Dims:
    """Sizes of the network. channels: of the three convolutions over pixels; width: of both encoders; embedding: E;
    video_dilations, audio_dilations, head_dilations: frames between the 5 taps of each convolution over time."""

    n_mels: int = 80
    channels: tuple[int, ...] = (24, 48, 64)
    width: int = 96
    embedding: int = 64
    head_width: int = 64
    video_dilations: tuple[int, ...] = (1, 1, 2)
    audio_dilations: tuple[int, ...] = (1, 1, 2)
    head_dilations: tuple[int, ...] = (1, 2, 3)

    @property
    def reach(self) -> int:
        """The number of frames before and after a frame that can influence its log-odds."""
        edge = 2                                            # differences of frames, and the first convolutions over sound
        return edge + 2 * max(sum(self.video_dilations), sum(self.audio_dilations)) + 2 * sum(self.head_dilations)


class TimeBlock(nn.Module):
    """(B, C, T) -> (B, C, T): a convolution over time with 5 taps, added to its input."""

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.conv = nn.Conv1d(width, width, 5, padding=2 * dilation, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Frames beyond the ends count as 0."""
        return x + F.gelu(self.norm(self.conv(x)))


class VideoEncoder(nn.Module):
    """Mouths (B, T, 88, 88) float in [0, 1], seen (B, T) bool -> (B, E, T). 1.1 MMAC a frame."""

    def __init__(self, dims: Dims):
        super().__init__()
        stages, n_in = [], 3
        for n_out, size, stride in zip(dims.channels, (6, 3, 3), (4, 2, 2), strict=True):      # 44 -> 11 -> 6 -> 3 pixels
            conv = nn.Conv2d(n_in, n_out, size, stride, padding=(size - 1) // 2, bias=False)
            stages += [conv, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]
            n_in = n_out
        self.stages = nn.Sequential(*stages, nn.Flatten(), nn.Linear(9 * n_in, dims.width), nn.GELU())
        self.blocks = nn.Sequential(*(TimeBlock(dims.width, dilation) for dilation in dims.video_dilations))
        self.project = nn.Conv1d(dims.width, dims.embedding, 1)

    def forward(self, mouths: Tensor, seen: Tensor) -> Tensor:
        """Each frame is brought to mean 0 and contrast 1; what is not seen is 0, and so is the change from and to it."""
        small = F.avg_pool2d(mouths, 2)                                          # (B, T, 44, 44)
        variance, mean = torch.var_mean(small, dim=(2, 3), keepdim=True, correction=0)
        small = (small - mean) * (variance + EVEN_CONTRAST**2).rsqrt() * seen[:, :, None, None]
        both = seen[:, 1:] & seen[:, :-1]
        steps = F.pad(small.diff(dim=1) * both[:, :, None, None], (0, 0, 0, 0, 1, 1))      # (B, T + 1, 44, 44)
        frames = torch.stack([small, steps[:, :-1], steps[:, 1:]], dim=2).flatten(0, 1)
        x = self.stages(frames.contiguous(memory_format=torch.channels_last))
        x = x.view(*mouths.shape[:2], -1) * seen[:, :, None]
        return F.normalize(self.project(self.blocks(x.transpose(1, 2))), dim=1)


class AudioEncoder(nn.Module):
    """Power in mel bands (B, 4T, n_mels), a frame each 10 ms -> (B, E, T)."""

    def __init__(self, dims: Dims):
        super().__init__()
        self.first = nn.Conv1d(dims.n_mels, dims.width, 4, stride=2, padding=1)
        self.norm = nn.BatchNorm1d(dims.width)
        self.second = nn.Conv1d(dims.width, dims.width, 4, stride=2, padding=1)
        self.blocks = nn.Sequential(*(TimeBlock(dims.width, dilation) for dilation in dims.audio_dilations))
        self.project = nn.Conv1d(dims.width, dims.embedding, 1)

    def forward(self, power: Tensor) -> Tensor:
        """No frame is measured by the loudness of others, so that pieces give what the whole gives."""
        x = (power.clamp_min(POWER_FLOOR).log10() + 4.0) / 4.0
        x = F.gelu(self.norm(self.first(x.transpose(1, 2))))
        return F.normalize(self.project(self.blocks(F.gelu(self.second(x)))), dim=1)


class ActiveSpeakerNetwork(nn.Module):
    """Both encoders and the head. `similarity` compares the embeddings, `forward` also judges by what each shows alone."""

    def __init__(self, dims: Dims):
        super().__init__()
        self.dims = dims
        self.video, self.audio = VideoEncoder(dims), AudioEncoder(dims)
        self.scale = nn.Parameter(torch.tensor(2.5))        # log of what a mean cosine is multiplied by in training
        self.join = nn.Conv1d(3 * dims.embedding, dims.head_width, 1)
        self.blocks = nn.Sequential(*(TimeBlock(dims.head_width, dilation) for dilation in dims.head_dilations))
        self.out = nn.Conv1d(dims.head_width, 1, 1)

    def forward(self, video: Tensor, sound: Tensor) -> Tensor:
        """Embeddings (B, E, T) of mouths and of sound -> log-odds (B, T) that the mouth makes the sound in each frame."""
        size = self.dims.embedding**0.5                     # brings the entries of unit vectors to about 1
        together = torch.cat([video * sound * size**2, video * size, sound * size], dim=1)
        return self.out(self.blocks(F.gelu(self.join(together))))[:, 0]

    def lag_similarity(self, video: Tensor, sound: Tensor, max_lag: int) -> Tensor:
        """Mean cosine (B, 2 max_lag + 1) with the lips k frames after the sound, for k from -max_lag to max_lag."""
        n_frames = video.shape[2]
        cosines = video.transpose(1, 2) @ sound                                  # (B, T of video, T of sound)
        return torch.stack([cosines.diagonal(-k, 1, 2).mean(dim=1) if abs(k) < n_frames else cosines.new_zeros(len(cosines))
                            for k in range(-max_lag, max_lag + 1)], dim=1)
