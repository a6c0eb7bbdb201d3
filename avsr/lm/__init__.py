"""Language models: word n-grams in ARPA files, LSTM and GPT over a recogniser's tokens, and what adds them to the beam search.

    path -> open_language_model -> LanguageModel -> scorer: in the search; score_texts: for n-best lists and perplexity
"""

from pathlib import Path

from avsr.lm.arpa import UNKNOWN_LOGPROB, NGrams
from avsr.lm.protocol import DESCRIPTION, FusionScorer, LanguageModel, TextScore
from avsr.lm.words import WordScorer
from avsr.runtime import Progress, no_progress

__all__ = ["UNKNOWN_LOGPROB", "FusionScorer", "LanguageModel", "NGrams", "TextScore", "WordScorer", "open_language_model"]


NGRAMS = "model.arpa.gz"                                    # in the folder of a run


def open_language_model(path: Path | str, progress: Progress = no_progress) -> LanguageModel:
    """The language model at a path: an ARPA file, plain or gzipped, or a folder that `avsr lm train` wrote, of a run or of its
    model. Raises BadCheckpoint for anything else."""
    for folder in (Path(path), Path(path) / "model"):
        if (folder / DESCRIPTION).is_file():
            from avsr.lm.neural import NeuralLM  # needs torch, unlike n-grams

            return NeuralLM.open(folder)
    if (Path(path) / NGRAMS).is_file():
        path = Path(path) / NGRAMS
    return NGrams.open(path, progress)
