"""The active-speaker network in torch, in which it is trained; `avsr` runs what export.py writes (avsr/speakers/network.py).

    mouths (B, T, 44, 44), seen (B, T)  ->  VideoEncoder ->  video (B, E + 3, T) ─┐
    mel power (B, 4T, 80)               ->  AudioEncoder ->  sound (B, E + 2, T) ─┴->  head -> log-odds (B, T) that this mouth
                                                                                      makes this sound in this frame
The embeddings do not know of one another, so one pass serves all lags between lips and sound, as in SyncNet (Chung and
Zisserman 2016). Beside the embeddings, E numbers a frame, are plain signals.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsr.rates import FEATURES_PER_FRAME
from avsr.speakers.network import Dims

POWER_FLOOR = 1e-8                                          # of a mel band: digital silence and the quietest rooms
LIPS = (slice(14, 31), slice(9, 35))                        # rows and columns of the 44 of a crop
EVEN_CONTRAST = 0.02                                        # of grey levels in [0, 1]; a flat picture stays flat


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
    """Mouths (B, T, 44, 44) in [0, 1], see `halved`, seen (B, T) bool -> (B, E + 3, T). 1.1 MMAC a frame."""

    def __init__(self, dims: Dims):
        super().__init__()
        self.around, self.window = dims.around, dims.window
        stages, n_in = [], 3
        for n_out, size, stride in zip(dims.channels, (6, 3, 3), (4, 2, 2), strict=True):      # 44 -> 11 -> 6 -> 3 pixels
            conv = nn.Conv2d(n_in, n_out, size, stride, padding=(size - 1) // 2, bias=False)
            stages += [conv, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]
            n_in = n_out
        self.stages = nn.Sequential(*stages, nn.Flatten(), nn.Linear(9 * n_in, dims.width), nn.GELU())
        self.blocks = nn.Sequential(*(TimeBlock(dims.width, dilation) for dilation in dims.video_dilations))
        self.project = nn.Conv1d(dims.width, dims.embedding, 1)

    def forward(self, small: Tensor, seen: Tensor) -> Tensor:
        """Each frame is brought to mean 0 and contrast 1; what is not seen is 0, and so is the change from and to it."""
        variance, mean = torch.var_mean(small, dim=(2, 3), keepdim=True, correction=0)
        small = (small - mean) * ((variance + EVEN_CONTRAST**2).rsqrt() * seen[:, :, None, None])
        padded, there = F.pad(small, (0, 0, 0, 0, 1, 1)), F.pad(seen.float(), (1, 1))
        steps = (padded[:, 1:] - padded[:, :-1]) * (there[:, 1:] * there[:, :-1])[:, :, None, None]        # (B, T + 1, 44, 44)
        small = small - self._usual(small, seen) if self.around else small
        frames = torch.stack([small, steps[:, :-1], steps[:, 1:]], dim=2).flatten(0, 1)
        x = self.stages(frames.contiguous(memory_format=torch.channels_last))
        x = x.view(*small.shape[:2], -1) * seen[:, :, None]
        embedding = F.normalize(self.project(self.blocks(x.transpose(1, 2))), dim=1)
        lips, change = small[:, :, *LIPS], steps[:, :, *LIPS].abs()
        moved = (change[:, :-1] + change[:, 1:]) / 2
        signals = [lips.clamp_max(0).mean(dim=(2, 3)), lips.clamp_min(0).mean(dim=(2, 3)), moved.mean(dim=(2, 3)).sqrt()]
        return torch.cat([embedding, standard(torch.stack(signals, dim=1), self.window)], dim=1)

    def _usual(self, small: Tensor, seen: Tensor) -> Tensor:
        """The mean picture of the frames around each that are seen (B, T, 44, 44): how this person looks, apart from speech.

        It is the difference of two cumulative sums. The same as F.avg_pool1d takes ONNX Runtime half of its time."""
        n, edge = small.shape[1], (self.around + 1, self.around)
        total = F.pad(small, (0, 0, 0, 0, *edge)).cumsum(dim=1)             # of 0 where nothing is seen
        count = F.pad(seen.float(), edge).cumsum(dim=1)
        window = 2 * self.around + 1
        share = (count[:, window:] - count[:, :n]).clamp_min(0.5)
        return (total[:, window:] - total[:, :n]) * (seen / share)[:, :, None, None]


class AudioEncoder(nn.Module):
    """Power in mel bands (B, 4T, n_mels), a frame each 10 ms -> (B, E + 2, T)."""

    def __init__(self, dims: Dims):
        super().__init__()
        self.first = nn.Conv1d(dims.n_mels, dims.width, 4, stride=2, padding=1)
        self.norm = nn.BatchNorm1d(dims.width)
        self.second = nn.Conv1d(dims.width, dims.width, 4, stride=2, padding=1)
        self.window = dims.window
        self.blocks = nn.Sequential(*(TimeBlock(dims.width, dilation) for dilation in dims.audio_dilations))
        self.project = nn.Conv1d(dims.width, dims.embedding, 1)

    def forward(self, power: Tensor) -> Tensor:
        """No frame is measured by the loudness of others, so that pieces give what the whole gives."""
        x = (power.clamp_min(POWER_FLOOR).log10() + 4.0) / 4.0
        low, high = (F.avg_pool1d(half.mean(dim=2)[:, None], FEATURES_PER_FRAME) for half in x.chunk(2, dim=2))
        x = F.gelu(self.norm(self.first(x.transpose(1, 2))))
        embedding = F.normalize(self.project(self.blocks(F.gelu(self.second(x)))), dim=1)
        return torch.cat([embedding, standard(torch.cat([low, high], dim=1), self.window)], dim=1)


def standard(signals: Tensor, window: int) -> Tensor:
    """Signals (B, N, T) less the mean of the `window` frames before and after each, over their standard deviation."""
    def mean(x: Tensor) -> Tensor:
        return F.avg_pool1d(x, 2 * window + 1, 1, window, count_include_pad=False)

    usual = mean(signals)
    return (signals - usual) * (mean(signals.square()) - usual.square()).clamp_min(0).add(1e-4).rsqrt()


class TorchNetwork(nn.Module):
    """Both encoders and the head, which sees the sound, and how alike the embeddings are: in each number, and at each lag.

    It does not see the embedding of the mouth alone. Without it 87 % of the frames of two mouths of a person who was left out
    of training went to the right one, with it 84 % (200 steps).
    """

    def __init__(self, dims: Dims):
        super().__init__()
        self.dims = dims
        self.video, self.audio = VideoEncoder(dims), AudioEncoder(dims)
        self.scale = nn.Parameter(torch.tensor(2.5))        # log of what a mean cosine is multiplied by in training
        self.join = nn.Conv1d(2 * dims.lags + 1 + 2 * dims.embedding + 3 + 2 + 3 * 2, dims.head_width, 1)
        self.blocks = nn.Sequential(*(TimeBlock(dims.head_width, dilation) for dilation in dims.head_dilations))
        self.out = nn.Conv1d(dims.head_width, 1, 1)

    def forward(self, video: Tensor, sound: Tensor) -> Tensor:
        """Mouths (B, E + 3, T) and sound (B, E + 2, T), encoded -> log-odds (B, T) that each frame's mouth makes its sound."""
        (video, seen), (sound, heard) = self._parts(video), self._parts(sound)
        lags, n_frames = self.dims.lags, video.shape[2]
        frames, shifts = (torch.arange(n, device=sound.device) for n in (n_frames, 2 * lags + 1))
        shifted = F.pad(sound, (lags, lags))[:, :, shifts[:, None] + frames]                # (B, E, 2 lags + 1, T)
        curve = (video[:, :, None] * shifted).sum(dim=1)
        size = self.dims.embedding**0.5                     # brings the entries of unit vectors to about 1
        both = (seen[:, :, None] * heard[:, None]).flatten(1, 2)           # their mean over time is a correlation
        together = torch.cat([curve * 4, video * sound * size**2, sound * size, seen, heard, both], dim=1)
        return self.out(self.blocks(F.gelu(self.join(together))))[:, 0]

    def _parts(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """The embedding of what was encoded, and the signals beside it."""
        return encoded[:, : self.dims.embedding], encoded[:, self.dims.embedding :]

    def cosines(self, video: Tensor, sound: Tensor) -> Tensor:
        """How alike mouth and sound are in each frame, (B, T) in -1..1."""
        (video, _), (sound, _) = self._parts(video), self._parts(sound)
        return (video * sound).sum(dim=1)

    def lag_similarity(self, video: Tensor, sound: Tensor, max_lag: int) -> Tensor:
        """Mean cosine (B, 2 max_lag + 1) with the lips k frames after the sound, for k from -max_lag to max_lag, below T."""
        n_frames = video.shape[2]
        spans = [(slice(max(0, k), n_frames + min(0, k)), slice(max(0, -k), n_frames + min(0, -k)))
                 for k in range(-max_lag, max_lag + 1)]
        return torch.stack([self.cosines(video[..., mouth], sound[..., heard]).mean(dim=1) for mouth, heard in spans], dim=1)
