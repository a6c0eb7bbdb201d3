"""Training: a Config in, a model folder out. It can be stopped and resumed, and runs on one core or on many GPUs.

    initialise.py (network, tokenizer)  ->  loop.py (steps)  <->  state.py (files);  valid.py (WER per modality), log.py
"""

from avsr.train.loop import Trained, TrainOptions, train

__all__ = ["TrainOptions", "Trained", "train"]
