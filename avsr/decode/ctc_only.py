"""CTC alone as the writer of a text, for networks without a decoder.

    Memory -> CTCFrames (B, T, V + 1), the blank last, in the tokenizer's letters -> CTCScorer, the first scorer of a search
A text's probability is the sum over all its alignments (Graves et al. 2006); the search extends prefixes letter by letter by

    p(letter | prefix) = p(prefix and letter ...) / p(prefix ...)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avsr.decode.ctc import MIN_LOG_PROB, CTCPrefixScorer
from avsr.memory import Memory
from avsr.models.protocol import SpeechModel
from avsr.models.recurrent import sequence_lengths
from avsr.text import CTC_LETTERS, SentencePieceTokenizer, Tokenizer


@dataclass(frozen=True)
class CTCFrames:
    """CTC log-probabilities (B, T, C) float32 of a tokenizer's tokens, one column of which is the blank, and lengths (B,)."""

    log_probs: Tensor
    lengths: Tensor
    blank: int


def ctc_frames(model: SpeechModel, tokenizer: Tokenizer | SentencePieceTokenizer, memory: Memory) -> CTCFrames:
    """What the CTC head of all that the memory holds says: `fused` where it holds both modalities. Letters become tokens."""
    found = model.ctc_log_probs(memory)
    name = "fused" if "fused" in found else next(iter(found))
    log_probs = found[name]
    tokens = [token for token, text in enumerate(tokenizer.texts) if text and text in CTC_LETTERS]
    classes = [CTC_LETTERS.index(tokenizer.texts[token]) + 1 for token in tokens]
    table = log_probs.new_full((*log_probs.shape[:2], model.dims.n_vocab + 1), MIN_LOG_PROB)
    table[:, :, tokens], table[:, :, -1] = log_probs[:, :, classes], log_probs[:, :, 0]
    lengths = torch.full((len(table),), table.shape[1], device=table.device)
    if name != "video" and memory.audio_mask is not None:
        lengths = torch.minimum(lengths, memory.audio_mask.sum(dim=1))
    if name != "audio" and memory.video_mask is not None:
        lengths = torch.minimum(lengths, sequence_lengths(memory.video_mask))
    return CTCFrames(table, lengths, blank=model.dims.n_vocab)


class CTCScorer:
    """A decode.Scorer: the log-probability of every next token by CTC. It sums to 1 over the tokens and the end."""

    def __init__(self, frames: CTCFrames, *, end: int, weight: float = 1.0):
        self.prefixes = CTCPrefixScorer(frames.log_probs, frames.lengths, end=end, blank=frames.blank)
        self.weight, self.n_vocab = weight, frames.blank
        self.no_speech = np.zeros(len(frames.lengths), np.float32)

    def score(self, tokens: Tensor) -> Tensor:
        """See Scorer: (N, L) -> (N, V) float32."""
        every = torch.arange(self.n_vocab, device=tokens.device).expand(len(tokens), -1)
        return self.prefixes.score_partial(tokens, every).float()

    def select(self, rows: Tensor, utterances: Tensor | None) -> None:
        """See Scorer."""
        self.prefixes.select(rows, utterances)


def ctc_token_log_probs(frames: CTCFrames, texts: Sequence[Sequence[int]], end: int) -> list[Tensor]:
    """The log-probability of each token of given texts and of their end, the tokens before it given: (L + 1,) float32 each."""
    longest = max(map(len, texts)) + 1
    tokens = torch.tensor([[*text, *[end] * (longest - len(text))] for text in texts], device=frames.log_probs.device)
    scorer, out = CTCScorer(frames, end=end), []
    for n in range(longest):
        out.append(scorer.score(tokens[:, :n]).gather(1, tokens[:, n:n + 1])[:, 0])
    scores = torch.stack(out, dim=1).cpu()
    return [scores[i, :len(text) + 1] for i, text in enumerate(texts)]
