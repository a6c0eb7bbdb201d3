"""Training: a Config in, a model folder out; stops, resumes, and runs on one core or many GPUs.

    begin.py (network, tokenizer)  ->  loop.py (steps)  <->  state.py (files);  valid.py (WER per modality), diary.py (log)
"""

from avsr.train.loop import Trained, TrainOptions, train

__all__ = ["TrainOptions", "Trained", "train"]
