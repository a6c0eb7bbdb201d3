"""Language models: word n-grams in ARPA files, and the scorers that add a model to the beam search."""

from avsr.lm.arpa import UNKNOWN_LOGPROB, NGrams
from avsr.lm.words import WordScorer

__all__ = ["UNKNOWN_LOGPROB", "NGrams", "WordScorer"]
