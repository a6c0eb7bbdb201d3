"""Metrics: benchmark rows in, error counts, rates with intervals, comparisons and group differences out. Without torch.

    ResultRow  ->  Score(errors, words, ...);  Rate(percent, low, high, ...)
Inside: counting (errors by jiwer) -> intervals (bootstrap over speakers) -> error_rates (WER, CER, sentences) -> compare (two
systems) -> conditions (cells, no-harm criterion, SNR gain) -> contributions (Shapley values of sound and video) -> groups
(differences between speakers); phonemes (confusions); perplexity (of language models).
"""

from avsr.metrics.compare import Paired, difference, paired
from avsr.metrics.conditions import (
           NO_HARM_TOLERANCE,
           Cell,
           Gain,
           cells,
           gain,
           gain_db,
           no_harm,
           unimodal_cells,
           worst_and_best_ids,
)
from avsr.metrics.contributions import ModalityContributions, Shapley, condition_shapley, shapley
from avsr.metrics.counting import NOTHING, Score, check_normaliser, empty_references, scored, word_errors
from avsr.metrics.error_rates import Rate, cer, sentence_errors, wer
from avsr.metrics.groups import FaceEffect, Groups, by_group, columns, face_effect
from avsr.metrics.intervals import Estimate
from avsr.metrics.perplexity import Perplexity, perplexity, perplexity_ratio
from avsr.metrics.phonemes import PHONEMES, VISEMES, Confusions, confusions, pronunciations

__all__ = ["NOTHING", "NO_HARM_TOLERANCE", "PHONEMES", "VISEMES", "Cell", "Confusions", "Estimate", "FaceEffect", "Gain",
           "Groups", "ModalityContributions", "Paired", "Perplexity", "Rate", "Score", "Shapley", "by_group", "cells", "cer",
           "check_normaliser", "columns", "condition_shapley", "confusions", "difference", "empty_references", "face_effect",
           "gain", "gain_db", "no_harm", "paired", "perplexity", "perplexity_ratio", "pronunciations", "scored",
           "sentence_errors", "shapley", "unimodal_cells", "wer", "word_errors", "worst_and_best_ids"]
