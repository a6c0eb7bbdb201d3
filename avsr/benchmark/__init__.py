"""The noise benchmark: a test set and models in, a row for each utterance, condition and modality out.

    manifest + models -> noise.jsonl, results.jsonl, timings.jsonl, run.json, media/
Inside: conditions (settings, and what is measured) -> systems (our checkpoints) and baselines (other recognisers) -> run.
predictions reads the texts of systems that ran elsewhere; recordings writes mixtures and samples as files.
"""
