"""What decoding, alignment and the recogniser need of a network: `AVSR` and the imported `HybridAVSR` both have it."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from avsr.models.decoder import Cache, Decoder, Memory
from avsr.models.fusion import ReliabilityEstimator


class ModelDims(Protocol):
    """The sizes that all networks have. n_mels 0: the network takes the waveform, see features.features. n_context: the most
    tokens that it can write, None for no limit."""

    @property
    def width(self) -> int: ...
    @property
    def n_mels(self) -> int: ...
    @property
    def n_vocab(self) -> int: ...
    @property
    def n_decoder_layers(self) -> int: ...
    @property
    def n_heads(self) -> int: ...
    @property
    def n_context(self) -> int | None: ...


class SpeechModel(Protocol):
    """A network that writes the text of an utterance from its audio, its mouths, or both.

    memory_rate: positions of its Memory a second. ctc_units: what its CTC heads write, the letters of text.CTC_LETTERS or the
    decoder's own tokens, in which case both are searched together. reliability: the estimator of how reliable the video is.
    """

    @property
    def memory_rate(self) -> int: ...
    @property
    def ctc_units(self) -> Literal["letters", "tokens"]: ...
    @property
    def decoder(self) -> Decoder: ...
    @property
    def reliability(self) -> ReliabilityEstimator | None: ...

    @property
    def dims(self) -> ModelDims:
        """Its sizes."""
        ...

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that it can use, of `a` (audio), `v` (video) and `av` (both)."""
        ...

    def encode_audio(self, mel: Tensor, mel_lengths: Tensor | None = None) -> Tensor:
        """The part of `encode` that depends on the audio alone; `encode` takes it as `audio_states`."""
        ...

    def encode(self, mel: Tensor | None, mouths: Tensor | None = None, *, mel_lengths: Tensor | None = None,
               seen: Tensor | None = None, audio_states: Tensor | None = None) -> Memory:
        """The Memory of B utterances."""
        ...

    def start(self, memory: Memory) -> Cache:
        """An empty cache for decoding."""
        ...

    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """The next tokens (N, L) -> logits (N, V) of what follows the last; the cache grows."""
        ...

    def ctc_log_probs(self, memory: Memory) -> dict[str, Tensor]:
        """CTC log-probabilities (B, S, C) float32 by the name of the memory they were made from."""
        ...
