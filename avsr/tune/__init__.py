"""Weights of language models, rescoring and hotwords, fitted on the validation split of a manifest."""

from avsr.tune.run import WEIGHTS, Measured, Tuned, tune

__all__ = ["WEIGHTS", "Measured", "Tuned", "tune"]
