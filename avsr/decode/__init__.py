"""Search for the best text: scorers, rules and a strategy, put together by `search`; what a model wants of it in `decode`.

    Memory of B utterances -> Hypothesis per utterance
A scorer says how likely each next token is (the decoder, CTC, a language model). A rule forbids tokens. A strategy (Beam,
HybridBeam, Sample) keeps hypotheses. All utterances and their hypotheses go through the network as one batch.
"""

from avsr.decode.ctc import CTCPrefixScorer
from avsr.decode.guards import decode
from avsr.decode.hybrid import HybridBeam
from avsr.decode.limits import TextLimits, compression_ratio
from avsr.decode.options import DecodeOptions, Hypothesis
from avsr.decode.scorers import DecoderScorer, PartialScorer, Rule, Scorer, Suppress, given_log_probs
from avsr.decode.search import search
from avsr.decode.strategies import Beam, Sample, Strategy

__all__ = ["Beam", "CTCPrefixScorer", "DecodeOptions", "DecoderScorer", "HybridBeam", "Hypothesis", "PartialScorer", "Rule",
           "Sample", "Scorer", "Strategy", "Suppress", "TextLimits", "compression_ratio", "decode", "given_log_probs", "search"]
