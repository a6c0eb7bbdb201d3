"""`Memory`: what the encoders of a network make of utterances, and what its decoder attends to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from avsr.arrays import Array, like

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Memory:
    """What the encoders made of B utterances, `memory_rate` positions a second; the decoder attends to it. Its arrays are
    torch's, or NumPy's where ONNX Runtime runs the network.

    audio (B, S, D) or None; audio_mask (B, S) bool, None when all S positions count.
    video (B, Sv, D) or None; video_mask (B, Sv) bool, False for padding and for frames without a face.
    unfused_video (B, Sv, D): the output of the video encoder before any fusion.
    reliability (B,) in [0, 1], from reliability_logits (B,): how reliable the video is; None unless there are audio and video.
    in_distribution (B,) in [0, 1], ood_distance (B,): see fusion.OODDetector. All of these are None without an estimator.
    seconds (B,): how long each utterance is, padding not counted; None where the caller does not say.
    """

    audio: Array | None
    video: Array | None
    audio_mask: Array | None = None
    video_mask: Array | None = None
    unfused_video: Array | None = None
    reliability: Array | None = None
    reliability_logits: Array | None = None
    in_distribution: Array | None = None
    ood_distance: Array | None = None
    seconds: Array | None = None

    def select(self, utterances: Array | Sequence[int]) -> Memory:
        """The memory of these utterances (B',) only."""
        rows = like(self.states, np.array(utterances, np.int64) if isinstance(utterances, list | tuple) else utterances)

        def keep(x: Array | None) -> Array | None:
            return None if x is None else x[rows]

        return Memory(**{field.name: keep(getattr(self, field.name)) for field in fields(self)})

    @property
    def states(self) -> Array:
        """The audio, or the video where there is no audio."""
        states = self.video if self.audio is None else self.audio
        assert states is not None, "neither audio nor video"
        return states

    @property
    def n_utterances(self) -> int:
        """The number of utterances, B."""
        return len(self.states)

    @property
    def device(self) -> torch.device:
        """The device of torch's tensors."""
        return self.states.device
