"""Language models: word n-grams in ARPA files, and the scorers that add a model to the beam search.

    path -> open_language_model -> LanguageModel -> scorer: in the search; score_texts: for n-best lists and perplexity
"""

from pathlib import Path

from avsr.lm.arpa import UNKNOWN_LOGPROB, NGrams
from avsr.lm.protocol import FusionScorer, LanguageModel, TextScore
from avsr.lm.words import WordScorer
from avsr.runtime import Progress, no_progress

__all__ = ["UNKNOWN_LOGPROB", "FusionScorer", "LanguageModel", "NGrams", "TextScore", "WordScorer", "open_language_model"]


def open_language_model(path: Path | str, progress: Progress = no_progress) -> LanguageModel:
    """The language model at a path: an ARPA file, plain or gzipped. Raises BadCheckpoint for anything else."""
    return NGrams.open(path, progress)
