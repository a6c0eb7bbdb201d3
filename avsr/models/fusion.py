"""Fusion of audio and video: cross-attention behind gates that start closed, and the reliability of the video.

The gated block is that of Flamingo (Alayrac et al. 2022) and Whisper-Flamingo (Rouditchenko et al. 2024); using it in the
encoder as well as the decoder follows arXiv 2601.18396.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsr.models.blocks import Attention, feed_forward, over_keys
from avsr.rates import MEMORY_PER_FRAME

LONGEST_LAG = 10                                            # positions of the memory, 20 ms each: 200 ms
TEMPERATURE = 0.1                                           # by which agreement, a cosine, is divided


class GatedCrossAttention(nn.Module):
    """x += tanh(g1) * attention(x, other); x += tanh(g2) * feed(x). With g = 0, x comes out to the last bit as it went in."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, n_heads)
        self.attention_gate = nn.Parameter(torch.zeros(()))
        self.feed_norm = nn.LayerNorm(width)
        self.feed = feed_forward(width, times=1)            # Flamingo's 4 would double what is shipped
        self.feed_gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor, reliability: Tensor | None = None) -> Tensor:
        """x (N, L, D), keys and values (B, H, S, D / H) of the other modality, mask (B, S), reliability (B,) in [0, 1] or None.

        An utterance whose other modality is empty, or has reliability 0, comes out unchanged.
        """
        n_hypotheses = x.shape[0] // mask.shape[0]
        there = mask.any(dim=1).to(x.dtype)
        if reliability is not None:
            there = there * reliability
        # (N, 1, 1); torch's exporter turns repeat_interleave, of which this is the result, into a graph that fails.
        there = there[:, None].expand(-1, n_hypotheses).reshape(-1, 1, 1)
        attended = self.attention(self.attention_norm(x), keys, values, over_keys(mask))
        x = x + there * self.attention_gate.tanh() * attended
        return x + there * self.feed_gate.tanh() * self.feed(self.feed_norm(x))


class BidirectionalCrossAttention(nn.Module):
    """A fusion layer: audio (B, S, D) attends to video (B, Sv, D) and video to audio, both as they were before the layer."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.audio_norm = nn.LayerNorm(width)
        self.video_norm = nn.LayerNorm(width)
        self.into_audio = GatedCrossAttention(width, n_heads)
        self.into_video = GatedCrossAttention(width, n_heads)

    def forward(self, audio: Tensor, video: Tensor, audio_mask: Tensor, video_mask: Tensor,
                reliability: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the fused audio and the fused video, shapes unchanged. `reliability` (B,) scales what reaches the audio."""
        audio_keys = self.into_video.attention.keys_values(self.audio_norm(audio))
        video_keys = self.into_audio.attention.keys_values(self.video_norm(video))
        return self.into_audio(audio, *video_keys, video_mask, reliability), self.into_video(video, *audio_keys, audio_mask)


class OODDetector(nn.Module):
    """Out-of-distribution detector: how much an utterance's mouths look like those of the training clips, 1 alike, 0 unlike.

    It keeps the mean of the frontend's features over the training clips and their principal directions. An utterance's distance
    from that plane (PCA's residual, as in novelty detection; Hoffmann 2007) is measured in units of `radius`, within which 99 %
    of the training clips lie. Partly covered mouths are part of the plane, or half a mouth of a known speaker would be as far
    (4 to 38) as an unknown speaker's. Measured with a video encoder trained on GRID: 55 held-out clips of s1 0.2 to 1.0, and
    0.2 to 1.9 covered, blurred or with lost frames; 11 clips of other people 3.2 to 12.9.
    """

    near, far = 2.0, 3.0                                    # distances, in units of radius: 1 up to near, 0 from far on
    centre: Tensor
    directions: Tensor
    radius: Tensor

    def __init__(self, width: int, n_directions: int = 24):
        super().__init__()
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("directions", torch.zeros(n_directions, width))
        self.register_buffer("radius", torch.tensor(torch.inf))             # until `fit`, everything is in distribution

    def forward(self, distance: Tensor) -> Tensor:
        """Relative distances (B,), as `relative_distance` gives them -> degrees (B,) in [0, 1]."""
        return ((self.far - distance) / (self.far - self.near)).clamp(0, 1)

    def relative_distance(self, features: Tensor, seen: Tensor) -> Tensor:
        """Features (B, T, F) of the frontend, seen (B, T) bool -> distances (B,) float32 in units of `radius`."""
        return self._residual(self.pool(features, seen)) / self.radius

    @staticmethod
    def pool(features: Tensor, seen: Tensor) -> Tensor:
        """The mean over the frames that show a face: (B, T, F) -> (B, F) float32."""
        return (features.float() * seen[:, :, None]).sum(dim=1) / seen.sum(dim=1).clamp_min(1)[:, None]

    def fit(self, means: Tensor, covered: Tensor | None = None) -> None:
        """Fit the plane and the radius to the means (N, F) of training clips, N at least twice the number of directions.

        covered (M, F): means of the same mouths, partly covered; they are part of the plane, but the radius ignores them.
        """
        every = means if covered is None else torch.cat([means, covered])
        self.centre.copy_(every.mean(dim=0))
        _, _, directions = torch.linalg.svd(every - self.centre.float(), full_matrices=False)
        self.directions.copy_(directions[:len(self.directions)])
        self.radius.copy_(self._residual(means).quantile(0.99))

    def _residual(self, means: Tensor) -> Tensor:
        """The squared distance (N,) of means (N, F) from the plane."""
        away = means - self.centre.float()
        return (away.square().sum(dim=1) - (away @ self.directions.float().T).square().sum(dim=1)).clamp_min(0)


class ReliabilityEstimator(nn.Module):
    """Estimates how reliable an utterance's video is: 0 closes every gate through which video reaches the words.

    The evidence is the mean projection of the audio, that of the video, and the cosine of the two over time, at the best of the
    lags up to 200 ms. The classifier is fitted after training (train/reliability.py) to tell where the video helps. The sigmoid
    is stretched beyond [0, 1] and cut off (Louizos et al. 2018), so that a clear no is exactly 0, by which the output is that
    of the audio alone, and a clear yes is exactly 1. `detector` lowers the estimate for unknown mouths.
    """

    def __init__(self, width: int, n_hidden: int, feature_width: int):
        super().__init__()
        self.audio = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_hidden))
        self.video = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_hidden))
        self.classifier = nn.Sequential(nn.Linear(2 * n_hidden + 1, n_hidden), nn.GELU(), nn.Linear(n_hidden, 1))
        self.detector = OODDetector(feature_width)

    def forward(self, audio: Tensor, video: Tensor, audio_mask: Tensor | None, video_mask: Tensor) -> Tensor:
        """audio (B, S, D), video (B, Sv, D), their masks (B, S) or None, (B, Sv) -> logits (B,)."""
        length = min(audio.shape[1], video.shape[1])
        video_mask = video_mask[:, :length]
        within = video_mask.flip(1).cumsum(dim=1).flip(1) > 0                   # else the padding would give the answer away
        audio_mask = within if audio_mask is None else within & audio_mask[:, :length]
        evidence = self.evidence(self.audio(audio[:, :length]), self.video(video[:, :length]), audio_mask, video_mask)
        return self.classifier(evidence)[:, 0]

    def evidence(self, audio: Tensor, video: Tensor, audio_mask: Tensor | None, video_mask: Tensor) -> Tensor:
        """Projections (B, S, H) of audio and video -> (B, 2H + 1): the means of both and how well they agree."""
        both = video_mask if audio_mask is None else video_mask & audio_mask
        weight = both.to(audio.dtype)[:, :, None] / both.sum(dim=1).clamp_min(1)[:, None, None]
        agree = agreement(audio, video, audio_mask, video_mask, self.lags())[:, None] / TEMPERATURE
        return torch.cat([(audio * weight).sum(dim=1), (video * weight).sum(dim=1), agree], dim=-1)

    @staticmethod
    def lags(every: int = 1) -> range:
        """Delays of the video behind the audio that are tried, in positions of which one in `every` was kept."""
        longest = LONGEST_LAG // every
        return range(-longest, longest + 1, max(1, MEMORY_PER_FRAME // every))

    @staticmethod
    def degree(logits: Tensor) -> Tensor:
        """Logits -> degrees in [0, 1], both ends included: 0 up to odds of 1 to 3, 1 from odds of 3 to 1."""
        return (2 * logits.sigmoid() - 0.5).clamp(0, 1)


def agreement(audio: Tensor, video: Tensor, audio_mask: Tensor | None, video_mask: Tensor, lags: range) -> Tensor:
    """Mean cosine (...) of (..., S, H) and (..., S, H) over the moments within both masks (..., S), at the best lag.

    The result is -1 where no lag leaves a moment."""
    audio, video, n = F.normalize(audio, dim=-1), F.normalize(video, dim=-1), video_mask.shape[-1]
    found = []
    for lag in (lag for lag in lags if abs(lag) < n):
        early, late = max(lag, 0), max(-lag, 0)             # positions left out at the start of the audio, of the video
        cosine = (audio[..., early:n - late, :] * video[..., late:n - early, :]).sum(dim=-1)
        there = video_mask[..., late:n - early]
        if audio_mask is not None:
            there = there & audio_mask[..., early:n - late]
        mean = (cosine * there).sum(dim=-1) / there.sum(dim=-1).clamp_min(1)
        found.append(mean.masked_fill(~there.any(dim=-1), -1.0))
    return torch.stack(found).amax(dim=0)
