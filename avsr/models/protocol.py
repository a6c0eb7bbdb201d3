"""What decoding, alignment and the recogniser need of a network: `AVSR` and the imported `HybridAVSR` both have it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from avsr.arrays import Array
from avsr.memory import Memory
from avsr.runtime import Processor

if TYPE_CHECKING:
    import torch


class Sizes(Protocol):
    """The sizes of a network that its users ask for; see avsr.Dims. n_context: tokens at most, None for any number."""

    @property
    def width(self) -> int: ...

    @property
    def n_heads(self) -> int: ...

    @property
    def n_mels(self) -> int: ...

    @property
    def n_decoder_layers(self) -> int: ...

    @property
    def n_vocab(self) -> int: ...

    @property
    def n_context(self) -> int | None: ...


class SearchCache(Protocol):
    """What a decoder keeps between the steps of a search; see decoder.Cache."""

    @property
    def n_tokens(self) -> int: ...

    def truncate(self, n_tokens: int) -> None: ...

    def select_rows(self, rows: Array) -> None: ...

    def select_utterances(self, utterances: Array) -> None: ...


@dataclass(frozen=True)
class Followed:
    """What a decoder makes of a given text of L tokens (teacher forcing).

    log_probs: of each token but the first, given those before it, (L - 1,) float32, on the CPU.
    attention: of the heads that were asked for, the logits (heads, L, S) float32 of each token's attention to the audio, or to
    the video where there is no audio, before their softmax.
    """

    log_probs: Array
    attention: np.ndarray


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
    def device(self) -> torch.device | Processor:
        """Where it runs."""
        ...

    @property
    def reliability(self) -> object | None: ...

    @property
    def dims(self) -> Sizes: ...

    @property
    def ctc_only(self) -> bool: ...

    @property
    def modalities(self) -> tuple[str, ...]: ...

    def array(self, x: np.ndarray) -> Array:
        """An array as the network takes it: on its device, and real numbers in the precision of its weights."""
        ...

    def no_gradients(self) -> AbstractContextManager:
        """A context in which no gradients are kept."""
        ...

    def encode_audio(self, mel: Array, mel_lengths: Array | None = None) -> Array: ...

    def encode(self, mel: Array | None, mouths: Array | None = None, *, mel_lengths: Array | None = None,
               seen: Array | None = None, audio_states: Array | None = None) -> Memory: ...

    def start(self, memory: Memory) -> SearchCache:
        """A cache for decoding from a Memory, without any tokens."""
        ...

    def step(self, tokens: Array, cache: Any) -> Array:
        """The next tokens (N, L) of all hypotheses -> logits (N, V) float32 of what follows the last; the cache grows."""
        ...

    def read(self, tokens: Array, cache: Any, positions: Sequence[int]) -> Array:
        """As `step`, with the logits (N, K, V) of what follows the tokens at K positions."""
        ...

    def follow(self, texts: Sequence[Sequence[int]], memory: Memory,
               heads: Sequence[tuple[int, int]] = ()) -> list[Followed]:
        """Read given texts of B utterances, prompt and end included. heads: (layer, head) whose attention is wanted."""
        ...

    def ctc_log_probs(self, memory: Memory) -> dict[str, Array]: ...
