"""The options of a search, and the hypotheses it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from avsr.decode.hotwords import Hotwords
from avsr.lm import LanguageModel
from avsr.schema import Between
from avsr.transcript import LipsUse

Weight = Annotated[float, Between(0, 100)]
HypothesisCount = Annotated[int, Between(1, 1000)]


@dataclass(frozen=True)
class DecodeOptions:
    """How to search. Names and defaults are Whisper's; None switches a guard off. The bounds hold for what a model folder asks.

    ctc_weight, pre_beam: for models whose CTC head writes the decoder's tokens, see `decode`. The decoder has the rest of the
    weight, and CTC scores only the pre_beam * beam_size tokens that the decoder finds most likely.
    lm: a language model, whose log-probabilities are added lm_weight times in the search (shallow fusion).
    rescore: a language model, whose log-probabilities of the whole texts of the n-best list are added rescore_weight times.
    hotwords: words that are made more likely by hotword_weight nats a letter.
    temperatures: the first is used for everything, the next for what failed a guard, and so on; 0 is beam search.
    compression_ratio_threshold: a text that compresses better than this repeats itself.
    draft: tokens with which the only utterance's text may begin, for a beam of 1 without CTC: they are read in one step, and
    kept as far as the search would have written them, so that the same text is found sooner (speculative decoding, Leviathan,
    Kalman and Matias 2023, with an earlier text as the draft).
    logprob_threshold: a text whose mean log-probability per token is below this is not trusted.
    no_speech_threshold: such a text is dropped if the no-speech token is more probable than this.
    """

    beam_size: HypothesisCount = 5
    patience: Annotated[float, Between(0.01, 100)] = 1.0
    length_penalty: Annotated[float, Between(-10, 10)] = 1.0
    best_of: HypothesisCount = 5
    max_tokens: Annotated[int, Between(1, 2**16)] = 224
    ctc_weight: Annotated[float, Between(0, 0.999)] = 0.1
    pre_beam: Annotated[float, Between(1, 100)] = 1.5
    lm: LanguageModel | None = None
    lm_weight: Weight = 0.3
    rescore: LanguageModel | None = None
    rescore_weight: Weight = 0.3
    hotwords: Hotwords | None = None
    hotword_weight: Weight = 1.0
    temperatures: Annotated[tuple[Weight, ...], Between(1, 100)] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    compression_ratio_threshold: Weight | None = 2.4
    logprob_threshold: Annotated[float, Between(-100, 0)] | None = -1.0
    no_speech_threshold: Annotated[float, Between(0, 1)] | None = 0.6
    seed: Annotated[int, Between(0, 2**63 - 1)] = 0
    draft: tuple[int, ...] = ()


@dataclass(frozen=True)
class Hypothesis:
    """A finished text: `tokens` without prompt and end; `logprob` their sum, end included.

    lips: what the lips of another model had to do with it, None where they were not asked. corrected_from: the text before
    `--correct` changed it, None where it did not.
    """

    tokens: tuple[int, ...]
    logprob: float
    no_speech_prob: float = 0.0
    temperature: float = 0.0
    lips: LipsUse | None = None
    corrected_from: str | None = None

    @property
    def avg_logprob(self) -> float:
        """Mean log-probability per token, the end counted, as in Whisper."""
        return self.logprob / (len(self.tokens) + 1)
