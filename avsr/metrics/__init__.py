"""Scores: benchmark rows in, errors counted, rates with intervals, comparisons, shares, groups out. Without torch.

    rows of {"reference", "hypothesis", "speaker", ...}  ->  Score(errors, words, ...);  Rate(percent, low, high, ...)

Inside: counting (errors by jiwer) -> intervals (bootstrap over speakers) -> error_rates (WER, CER, sentences) -> compare (two
systems) -> conditions (cells, the law, SNR gain) -> shares (Shapley); phonemes (confusions); groups (for whom it fails).
"""

from avsr.metrics.compare import Paired, difference, paired
from avsr.metrics.conditions import SLACK, Cell, Gain, alone, cells, extremes, gain, gain_db, no_harm
from avsr.metrics.counting import (
    NOTHING,
    Score,
    character_errors,
    check_normaliser,
    empty_references,
    scored,
    word_errors,
)
from avsr.metrics.error_rates import Rate, cer, rates, sentence_errors, wer
from avsr.metrics.groups import FaceEffect, Groups, by_group, columns, face_effect, gaps
from avsr.metrics.intervals import Estimate
from avsr.metrics.phonemes import PHONEMES, VISEMES, Confusions, confusions, pronunciations
from avsr.metrics.shares import Shapley, Shares, condition_shapley, shapley, utterance_shapley

__all__ = ["NOTHING", "PHONEMES", "SLACK", "VISEMES", "Cell", "Confusions", "Estimate", "FaceEffect", "Gain", "Groups",
           "Paired", "Rate", "Score", "Shapley", "Shares", "alone", "by_group", "cells", "cer", "character_errors",
           "check_normaliser", "columns", "condition_shapley", "confusions", "difference", "empty_references", "extremes",
           "face_effect", "gain", "gain_db", "gaps", "no_harm", "paired", "pronunciations", "rates", "scored",
           "sentence_errors", "shapley", "utterance_shapley", "wer", "word_errors"]
