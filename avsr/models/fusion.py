"""Sight into hearing and back: cross-attention behind gates that start closed.

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
TEMPERATURE = 0.1                                           # of agreement, a cosine: so much of it is worth 1


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


class Familiar(nn.Module):
    """How much an utterance's mouths look like those the lips learnt from: 1 alike, 0 nothing like them.

    A network cannot be asked to doubt what it never saw. So the mean of what the lip network made of each training
    clip is kept as a centre and the main directions around it; the distance from that plane (PCA's residual, as in novelty
    detection; Hoffmann 2007) is told in units of `reach`, which 99 % of the training clips stay within. Covered mouths belong
    to the plane: without them half a mouth of s1's is as far (4 to 38) as a stranger's. Measured with lips of GRID: 55 held-out
    clips of s1 0.2 to 1.0, and 0.2 to 1.9 covered, blurred or with lost frames; other people's video 3.2 to 12.9 (11 clips).
    """

    near, far = 2.0, 3.0                                    # fully known up to, unknown from: in units of reach

    def __init__(self, width: int, n_directions: int = 24):
        super().__init__()
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("directions", torch.zeros(n_directions, width))
        self.register_buffer("reach", torch.tensor(torch.inf))              # until `learn`, all is familiar

    def forward(self, distance: Tensor) -> Tensor:
        """Relative distances (B,), as `relative_distance` gives them -> degrees (B,) in [0, 1]."""
        return ((self.far - distance) / (self.far - self.near)).clamp(0, 1)

    def relative_distance(self, looks: Tensor, seen: Tensor) -> Tensor:
        """looks (B, T, F) of the lip network, seen (B, T) bool -> distances (B,) float32 in units of `reach`."""
        return self.distance(looks, seen) / self.reach

    def distance(self, looks: Tensor, seen: Tensor) -> Tensor:
        """Squared distance (B,) of each utterance's mean from the plane."""
        away = self.pool(looks, seen) - self.centre.float()
        return (away.square().sum(dim=1) - (away @ self.directions.float().T).square().sum(dim=1)).clamp_min(0)

    @staticmethod
    def pool(looks: Tensor, seen: Tensor) -> Tensor:
        """The mean over what is seen: (B, T, F) -> (B, F) float32."""
        return (looks.float() * seen[:, :, None]).sum(dim=1) / seen.sum(dim=1).clamp_min(1)[:, None]

    def learn(self, means: Tensor, damaged: Tensor | None = None) -> None:
        """Take the means (N, F) of training clips, N at least twice the number of directions, as what is known.

        damaged (M, F): of the same mouths partly covered and the like, which lie on the plane too but set no measure of it.
        """
        every = means if damaged is None else torch.cat([means, damaged])
        self.centre.copy_(every.mean(dim=0))
        _, _, directions = torch.linalg.svd(every - self.centre.float(), full_matrices=False)
        self.directions.copy_(directions[:len(self.directions)])
        away = means - self.centre.float()
        distances = away.square().sum(dim=1) - (away @ self.directions.float().T).square().sum(dim=1)
        self.reach.copy_(distances.quantile(0.99))


class Judge(nn.Module):
    """Judges an utterance by what is seen, by what is heard, and by whether the two agree: one logit each.

    They agree as far as their projections point the same way at each moment, at the best of the lags up to 200 ms: sight that
    is somewhat late or early still belongs to its sound.
    """

    def __init__(self, width: int, n_hidden: int):
        super().__init__()
        self.audio = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_hidden))
        self.video = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_hidden))
        self.judge = nn.Sequential(nn.Linear(2 * n_hidden + 1, n_hidden), nn.GELU(), nn.Linear(n_hidden, 1))

    def forward(self, audio: Tensor, video: Tensor, audio_mask: Tensor | None, video_mask: Tensor) -> Tensor:
        """audio (B, S, D), video (B, Sv, D), their masks (B, S) or None, (B, Sv) -> logits (B,)."""
        length = min(audio.shape[1], video.shape[1])
        video_mask = video_mask[:, :length]
        within = video_mask.flip(1).cumsum(dim=1).flip(1) > 0                   # else padding would tell
        audio_mask = within if audio_mask is None else within & audio_mask[:, :length]
        return self.decide(self.audio(audio[:, :length]), self.video(video[:, :length]), audio_mask, video_mask)

    def decide(self, heard: Tensor, seen: Tensor, audio_mask: Tensor | None, video_mask: Tensor, *, every: int = 1) -> Tensor:
        """Projections (B, S, H) of what is heard and seen, of which every so many moments were kept -> logits (B,)."""
        return self.judge(self.evidence(heard, seen, audio_mask, video_mask, every=every))[:, 0]

    def evidence(self, heard: Tensor, seen: Tensor, audio_mask: Tensor | None, video_mask: Tensor, *, every: int = 1) -> Tensor:
        """As `decide`, before the verdict: the means of both and how far they agree, (B, 2H + 1)."""
        both = video_mask if audio_mask is None else video_mask & audio_mask
        weight = both.to(heard.dtype)[:, :, None] / both.sum(dim=1).clamp_min(1)[:, None, None]
        agree = agreement(heard, seen, audio_mask, video_mask, self.lags(every))[:, None] / TEMPERATURE
        return torch.cat([(heard * weight).sum(dim=1), (seen * weight).sum(dim=1), agree], dim=-1)

    @staticmethod
    def lags(every: int = 1) -> range:
        """How much later than the sound the sight may be, in positions of which every so many were kept."""
        longest = LONGEST_LAG // every
        return range(-longest, longest + 1, max(1, MEMORY_PER_FRAME // every))

    @staticmethod
    def degree(logits: Tensor) -> Tensor:
        """Logits -> a degree in [0, 1], both ends included: 0 up to odds of 1 to 3, 1 from odds of 3 to 1."""
        return (2 * logits.sigmoid() - 0.5).clamp(0, 1)


class Trust(Judge):
    """How far an utterance's mouths are to be believed: 0 closes every gate through which they reach the words.

    Judged by what `train.judges` teaches, that looking helps; and by whether the mouths are `familiar`, which is measured
    after training. The sigmoid is stretched beyond [0, 1] and cut off (Louizos et al. 2018), so that a clear no is exactly 0,
    and the output then exactly what sound alone would give; and a clear yes is 1, with which the words were learnt.
    """

    def __init__(self, width: int, n_hidden: int, look_width: int):
        super().__init__(width, n_hidden)
        self.familiar = Familiar(look_width)


class Heed(Judge):
    """How far the sound is still listened to once the lips are believed: 0 leaves exactly what sight alone would give.

    Without it wrecked sound misleads who sees well: at -10 dB lips alone had 9.6 % WER, both together 13.3.
    """


def agreement(heard: Tensor, seen: Tensor, audio_mask: Tensor | None, video_mask: Tensor, lags: range) -> Tensor:
    """Mean cosine (...) of (..., S, H) and (..., S, H) over the moments that both masks (..., S) leave, at the best lag.

    -1 where no lag leaves a moment."""
    heard, seen, n = F.normalize(heard, dim=-1), F.normalize(seen, dim=-1), video_mask.shape[-1]
    found = []
    for lag in (lag for lag in lags if abs(lag) < n):
        early, late = max(lag, 0), max(-lag, 0)             # so much is passed over at the start of the sound, of the sight
        cosine = (heard[..., early:n - late, :] * seen[..., late:n - early, :]).sum(dim=-1)
        there = video_mask[..., late:n - early]
        if audio_mask is not None:
            there = there & audio_mask[..., early:n - late]
        mean = (cosine * there).sum(dim=-1) / there.sum(dim=-1).clamp_min(1)
        found.append(mean.masked_fill(~there.any(dim=-1), -1.0))
    return torch.stack(found).amax(dim=0)
