"""The noise benchmark: a test set and models in, a row for each utterance, condition and modality out.

    manifest + models -> noise.jsonl, results.jsonl, timings.jsonl, run.json, media/
Inside: conditions (what is measured) -> subjects (our models, by every sense) and against (other recognisers) -> run.
outside reads what other systems wrote.
"""
