"""Sight into hearing and back: cross-attention behind gates that start closed.

The gated block is that of Flamingo (Alayrac et al. 2022) and Whisper-Flamingo (Rouditchenko et al. 2024); using it in the
encoder as well as the decoder follows arXiv 2601.18396.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsr.models.blocks import Attention, feed_forward, over_keys


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

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor, trust: Tensor | None = None) -> Tensor:
        """x (N, L, D), keys and values (B, H, S, D / H) of the other modality, mask (B, S), trust (B,) in [0, 1] or None.

        An utterance of which the other modality holds nothing, or which is not trusted at all, passes unchanged.
        """
        n_hypotheses = x.shape[0] // mask.shape[0]
        there = mask.any(dim=1).to(x.dtype)
        if trust is not None:
            there = there * trust
        there = there.repeat_interleave(n_hypotheses)[:, None, None]                         # (N, 1, 1)
        attended = self.attention(self.attention_norm(x), keys, values, over_keys(mask))
        x = x + there * self.attention_gate.tanh() * attended
        return x + there * self.feed_gate.tanh() * self.feed(self.feed_norm(x))


class Exchange(nn.Module):
    """One layer in which the streams look at each other: (B, S, D) audio and (B, Sv, D) video, both from before."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.audio_norm = nn.LayerNorm(width)
        self.video_norm = nn.LayerNorm(width)
        self.into_audio = GatedCrossAttention(width, n_heads)
        self.into_video = GatedCrossAttention(width, n_heads)

    def forward(self, audio: Tensor, video: Tensor, audio_mask: Tensor, video_mask: Tensor,
                trust: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the audio that has seen and the video that has heard, shapes unchanged. `trust` (B,) in what is seen."""
        heard = self.into_video.attention.keys_values(self.audio_norm(audio))
        seen = self.into_audio.attention.keys_values(self.video_norm(video))
        return self.into_audio(audio, *seen, video_mask, trust), self.into_video(video, *heard, audio_mask)


class Trust(nn.Module):
    """How far an utterance's mouths are to be believed: 0 closes every gate through which they reach the words.

    Judged by what is seen, by what is heard, and by whether the two agree at each moment; trained with `losses.trust`.
    The sigmoid is stretched beyond [0, 1] and cut off (Louizos et al. 2018), so that a clear no is exactly 0, and
    the output then exactly what sound alone would give.
    """

    def __init__(self, width: int, n_hidden: int):
        super().__init__()
        self.audio = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_hidden))
        self.video = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_hidden))
        self.judge = nn.Sequential(nn.Linear(2 * n_hidden + 1, n_hidden), nn.GELU(), nn.Linear(n_hidden, 1))

    def forward(self, audio: Tensor, video: Tensor, audio_mask: Tensor | None, video_mask: Tensor) -> Tensor:
        """audio (B, S, D), video (B, Sv, D), their masks (B, S) or None, (B, Sv) -> logits (B,)."""
        length = min(audio.shape[1], video.shape[1])
        heard, seen = self.audio(audio[:, :length]), self.video(video[:, :length])
        both = video_mask[:, :length]
        if audio_mask is not None:
            both = both & audio_mask[:, :length]
        weight = both.to(heard.dtype)[:, :, None] / both.sum(dim=1).clamp_min(1)[:, None, None]
        agree = (F.cosine_similarity(heard, seen, dim=-1)[:, :, None] * weight).sum(dim=1)
        return self.judge(torch.cat([(heard * weight).sum(dim=1), (seen * weight).sum(dim=1), agree], dim=-1))[:, 0]

    @staticmethod
    def degree(logits: Tensor) -> Tensor:
        """Logits -> trust in [0, 1], both ends included."""
        return (1.2 * logits.sigmoid() - 0.1).clamp(0, 1)
