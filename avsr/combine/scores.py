"""How likely texts are by lips: log-probabilities by CTC and by the decoder, for each letter.

    Memory of one utterance's lips, words of each candidate -> LipsScores of each
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from avsr.combine.candidates import Words
from avsr.memory import Memory
from avsr.recogniser import Recogniser
from avsr.text import ctc_classes, target_tokens


@dataclass(frozen=True)
class LipsScores:
    """Log-probabilities of a text in nats: by CTC (None where the model has none), and by the decoder."""

    ctc: float | None
    decoder: float


def n_letters(words: Words) -> int:
    """The letters of a text, by which log-probabilities are divided, a space for each word among them."""
    return sum(len(word) + 1 for word in words) + 1


def score_by_lips(recogniser: Recogniser, memory: Memory, texts: Sequence[Words]) -> list[LipsScores]:
    """The scores of several texts of the only utterance in `memory`, spelt as the video model spells them; -inf for a text for
    which it has no room."""
    tokens = [target_tokens(recogniser.tokenizer, " ".join(words)) for words in texts]
    if not all(fits := [has_room(recogniser, one) for one in tokens]):
        short = [words for words, fit in zip(texts, fits, strict=True) if fit]
        found = iter(score_by_lips(recogniser, memory, short) if short else [])
        return [next(found) if fit else LipsScores(-math.inf, -math.inf) for fit in fits]
    several = memory.select(torch.zeros(len(texts), dtype=torch.long, device=memory.device))
    decoder = [one.double().sum().item() for one in recogniser.score(several, tokens)]
    log_probs = frame_log_probs(recogniser, memory)
    if log_probs is None:
        return [LipsScores(None, one) for one in decoder]
    labels = tokens if recogniser.model.joint_ctc else [ctc_classes(" ".join(words)) for words in texts]
    return [LipsScores(*one) for one in zip(_ctc(log_probs, labels), decoder, strict=True)]


def has_room(recogniser: Recogniser, tokens: Sequence[int]) -> bool:
    """Whether the decoder can score so many tokens: `grid` has room for about 90 letters."""
    n_context = recogniser.model.dims.n_context
    return n_context is None or len(recogniser.tokenizer.prompt("en")) + len(tokens) < n_context


def frame_log_probs(recogniser: Recogniser, memory: Memory) -> Tensor | None:
    """CTC log-probabilities (T, V) float32 of the only utterance in `memory`, padding cut off; None without a CTC head."""
    if not recogniser.model.joint_ctc and not recogniser.model.ctc:
        return None
    log_probs = recogniser.model.ctc_log_probs(memory)["video"]
    mask = memory.audio_mask if recogniser.model.joint_ctc else memory.video_mask
    return log_probs[0] if mask is None else log_probs[0, :int(mask[0].nonzero()[-1]) + 1]


def _ctc(log_probs: Tensor, labels: Sequence[Sequence[int]]) -> list[float]:
    """Log-probabilities of labels by CTC (Graves et al. 2006); -inf where there are too few frames for them."""
    lengths = torch.tensor([len(one) for one in labels])
    frames = torch.full((len(labels),), len(log_probs))
    targets = torch.tensor([label for one in labels for label in one], device=log_probs.device)
    loss = F.ctc_loss(log_probs[:, None].expand(-1, len(labels), -1), targets, frames, lengths, reduction="none")
    return [-one for one in loss.tolist()]
