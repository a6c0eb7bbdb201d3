"""What a search is told, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from avsr.lm import NGrams
from avsr.schema import Between

Weight = Annotated[float, Between(0, 100)]
Hypotheses = Annotated[int, Between(1, 1000)]


@dataclass(frozen=True)
class DecodeOptions:
    """How to search. Names and defaults are Whisper's; None switches a guard off. Bounds are for what a folder asks.

    ctc_weight, pre_beam: of models whose CTC head spells the decoder's tokens, see `decode`; the rest of the weight is the
    decoder's, and only the best pre_beam * beam_size tokens by its opinion are looked at more closely.
    lm: a language model of words, whose log-probabilities are added lm_weight times.
    temperatures: the first is tried on everything, the next on what failed a guard, and so on; 0 is beam search.
    compression_ratio_threshold: text that compresses better than this repeats itself.
    logprob_threshold: mean log-probability of a token below which the text is not believed.
    no_speech_threshold: probability of the no-speech token above which such a text is dropped.
    """

    beam_size: Hypotheses = 5
    patience: Annotated[float, Between(0.01, 100)] = 1.0
    length_penalty: Annotated[float, Between(-10, 10)] = 1.0
    best_of: Hypotheses = 5
    max_tokens: Annotated[int, Between(1, 2**16)] = 224
    ctc_weight: Annotated[float, Between(0, 0.999)] = 0.1
    pre_beam: Annotated[float, Between(1, 100)] = 1.5
    lm: NGrams | None = None
    lm_weight: Weight = 0.3
    temperatures: tuple[Weight, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    compression_ratio_threshold: Weight | None = 2.4
    logprob_threshold: Annotated[float, Between(-100, 0)] | None = -1.0
    no_speech_threshold: Annotated[float, Between(0, 1)] | None = 0.6
    seed: Annotated[int, Between(0, 2**63 - 1)] = 0


@dataclass(frozen=True)
class Hypothesis:
    """A finished text: `tokens` without prompt and end; `logprob` their sum, end included."""

    tokens: tuple[int, ...]
    logprob: float
    no_speech_prob: float = 0.0
    temperature: float = 0.0

    @property
    def avg_logprob(self) -> float:
        """Mean log-probability per token, the end counted, as Whisper has it."""
        return self.logprob / (len(self.tokens) + 1)
