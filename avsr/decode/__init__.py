"""The search for the best text: `search` combines scorers, logit filters and a strategy; `decode` does what a model needs.

    Memory of B utterances -> Hypothesis per utterance
A scorer says how likely each next token is: the decoder, CTC, a language model. A logit filter forbids tokens. A search
strategy (BeamSearch, HybridBeamSearch, Sampling) chooses which hypotheses to keep. All hypotheses of all utterances go through
the network as one batch. `decode` is in fallback.py, which tries the temperatures in turn. The searches by CTC (ctc.py,
ctc_only.py, hybrid.py) need torch and are imported by those who use them; the others also work on NumPy arrays, see arrays.
"""

from avsr.decode.external import HELPS, check_weights, helps_of, open_external, text_scores
from avsr.decode.fallback import decode, fails, is_silence, nbest, text_filter, token_log_probs
from avsr.decode.hotwords import Hotwords
from avsr.decode.limits import TextLimits, compression_ratio
from avsr.decode.options import DecodeOptions, Hypothesis
from avsr.decode.scorers import (
    DecoderScorer,
    LogitFilter,
    PartialScorer,
    Scorer,
    SuppressTokens,
    teacher_forced_log_probs,
)
from avsr.decode.search import search
from avsr.decode.strategies import BeamSearch, Sampling, SearchStrategy

__all__ = ["HELPS", "BeamSearch", "DecodeOptions", "DecoderScorer", "Hotwords", "Hypothesis", "LogitFilter", "PartialScorer",
           "Sampling", "Scorer", "SearchStrategy", "SuppressTokens", "TextLimits", "check_weights", "compression_ratio",
           "decode", "fails", "helps_of", "is_silence", "nbest", "open_external", "search", "teacher_forced_log_probs",
           "text_filter", "text_scores", "token_log_probs"]
