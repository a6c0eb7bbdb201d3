"""Sight into hearing and back: cross-attention behind gates that start closed.

The gated block is that of Flamingo (Alayrac et al. 2022) and Whisper-Flamingo (Rouditchenko et al. 2024); using it in the
encoder as well as the decoder follows arXiv 2601.18396.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avsr.models.blocks import Attention, feed_forward, over_keys


class GatedCrossAttention(nn.Module):
    """x += tanh(g1) * attention(x, other); x += tanh(g2) * feed(x). With g = 0, x comes out to the last bit as it went in."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, n_heads)
        self.attention_gate = nn.Parameter(torch.zeros(()))
        self.feed_norm = nn.LayerNorm(width)
        self.feed = feed_forward(width)
        self.feed_gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """x (N, L, D), keys and values (B, H, S, D / H) of the other modality, mask (B, S).

        An utterance of which the other modality holds nothing passes unchanged.
        """
        n_hypotheses = x.shape[0] // mask.shape[0]
        there = mask.any(dim=1).repeat_interleave(n_hypotheses)[:, None, None].to(x.dtype)   # (N, 1, 1)
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

    def forward(self, audio: Tensor, video: Tensor, audio_mask: Tensor, video_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the audio that has seen and the video that has heard, shapes unchanged."""
        heard = self.into_video.attention.keys_values(self.audio_norm(audio))
        seen = self.into_audio.attention.keys_values(self.video_norm(video))
        return self.into_audio(audio, *seen, video_mask), self.into_video(video, *heard, audio_mask)
