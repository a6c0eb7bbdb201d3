"""What the encoders of two models made of B utterances: the sound by one, the mouths by the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avsr.memory import Memory


@dataclass(frozen=True)
class CombinedMemory:
    """sound: by the audio model. lips: by the video model; what it holds of an utterance without mouths means nothing.

    reliability (B,): of the lips, 0 to 1, see weights.lips_reliability; 0 for an utterance without mouths, which is then
    recognised by sound alone.
    """

    sound: Memory
    lips: Memory
    reliability: Tensor
    in_distribution: None = None
    ood_distance: None = None

    def select(self, utterances: Tensor) -> CombinedMemory:
        """The memory of these utterances (B',) only. The models, and what selects, may be on several devices."""
        sound, lips = (one.select(utterances.to(one.device)) for one in (self.sound, self.lips))
        return CombinedMemory(sound, lips, self.reliability[utterances.to(self.reliability.device)])

    @property
    def with_lips(self) -> list[int]:
        """The utterances whose lips count."""
        return torch.nonzero(self.reliability > 0)[:, 0].tolist()

    @property
    def n_utterances(self) -> int:
        """The number of utterances, B."""
        return self.sound.n_utterances

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        return self.sound.device
