"""Weights of language models, rescoring, hotwords and correction, fitted on the validation split of a manifest."""
