"""What decoding, alignment and the recogniser need of a network: `AVSR` and the imported `HybridAVSR` both have it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from avsr.models.avsr import Dims
from avsr.models.decoder import Cache, Decoder, Memory
from avsr.models.fusion import ReliabilityEstimator
from avsr.models.hybrid import HybridDims


class SpeechModel(Protocol):
    """A network that writes the text of an utterance from its audio, its mouths, or both; see AVSR for its methods.

    memory_rate: positions of its Memory a second. joint_ctc: whether its CTC head scores the decoder's own tokens, so that both
    are searched together, and CTC gives the times of words; other CTC heads score the letters of text.CTC_LETTERS.
    ctc_only: whether it has no decoder, so that CTC alone writes the text.
    modalities: those it can use, of `a`, `v` and `av`. reliability: the estimator of how reliable the video is.
    """

    memory_rate: int
    joint_ctc: bool

    @property
    def decoder(self) -> Decoder: ...

    @property
    def reliability(self) -> ReliabilityEstimator | None: ...

    @property
    def dims(self) -> Dims | HybridDims: ...

    @property
    def ctc_only(self) -> bool: ...

    @property
    def modalities(self) -> tuple[str, ...]: ...

    def encode_audio(self, mel: Tensor, mel_lengths: Tensor | None = None) -> Tensor: ...

    def encode(self, mel: Tensor | None, mouths: Tensor | None = None, *, mel_lengths: Tensor | None = None,
               seen: Tensor | None = None, audio_states: Tensor | None = None) -> Memory: ...

    def start(self, memory: Memory) -> Cache: ...

    def step(self, tokens: Tensor, cache: Cache) -> Tensor: ...

    def ctc_log_probs(self, memory: Memory) -> dict[str, Tensor]: ...
