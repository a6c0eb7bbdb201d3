"""Word times and confidences, from the network's own attention or CTC.

    Memory + text tokens of B utterances -> a Word for each word (Whisper's method: openai/whisper `timing.py`)
The attention of the alignment heads to the audio is normalised, median-filtered over time and averaged; dynamic time warping
gives each token a range of memory positions, 20 ms each. If a CTC head writes the same tokens, its most likely path gives it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from avsr.arrays import softmax, to_numpy
from avsr.decode import token_log_probs
from avsr.memory import Memory
from avsr.models.protocol import SpeechModel
from avsr.rates import MEMORY_RATE
from avsr.text import SentencePieceTokenizer, Tokenizer
from avsr.transcript import Word

if TYPE_CHECKING:
    from torch import nn

    from avsr.decode.ctc_only import CTCFrames

MEDIAN_WIDTH = 7                                            # positions: 140 ms
MAX_TOKEN_TAIL = 5                                          # frames after a token's peak in CTC that may belong to it: 0.2 s
MAX_MEDIAN = 0.7                                            # s: a longer median word duration is replaced by this
# By how many seconds the attention of a Whisper's alignment heads is late; that of base is early. Medians over 306 and 312
# words of GRID's train and valid. Other models were not measured, and are not corrected.
ATTENTION_DELAY: dict[tuple[tuple[int, int], ...], float] = {
    ((1, 0), (2, 0), (2, 5), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4)): 0.08,            # tiny.en
    ((3, 1), (4, 2), (4, 3), (4, 7), (5, 1), (5, 2), (5, 4), (5, 6)): -0.04,           # base
}
SENTENCE_MARKS = ".。!！?？"


def align(model: SpeechModel, tokenizer: Tokenizer | SentencePieceTokenizer, memory: Memory, prompts: Sequence[Sequence[int]],
          texts: Sequence[Sequence[int]], durations: Sequence[float], *, language: str,
          heads: Sequence[tuple[int, int]]) -> list[list[Word]]:
    """The words of each utterance, one for each that `tokenizer.words` makes of its text, in seconds from its start.

    prompts and texts: token lists per utterance, prompts of one length; durations: seconds of each utterance without padding.
    heads: (layer, head) pairs whose attention to the audio is used. Without any, and for an utterance without audio, whose
    attention to the video is used, these are `default_heads`. A word's confidence is the mean probability of its tokens.
    """
    if model.joint_ctc or model.ctc_only:
        return _align_ctc(model, tokenizer, memory, prompts, texts, language)
    has_audio, positions = memory.audio is not None, memory.audio if memory.audio is not None else memory.video
    assert positions is not None, "a memory has audio or video"
    delay = ATTENTION_DELAY.get(tuple((layer, head) for layer, head in heads), 0.0) if has_audio else 0.0
    heads = (list(heads) if has_audio else []) or default_heads(model)
    n_prompt, n_before = len(prompts[0]), prompts[0].index(tokenizer.start)             # before: <|startofprev|> and its text
    rows = [[*prompt, *text, tokenizer.end] for prompt, text in zip(prompts, texts, strict=True)]
    out: list[list[Word]] = []
    for i, (found, text, duration) in enumerate(zip(model.follow(rows, memory, heads), texts, durations, strict=True)):
        if not len(text):
            out.append([])
            continue
        probabilities = np.exp(to_numpy(found.log_probs)[n_prompt - 1:-1])
        unpadded = positions.shape[1] if not has_audio or memory.audio_mask is None else int(memory.audio_mask[i].sum())
        n_positions = max(1, min(unpadded, round(duration * MEMORY_RATE)))
        cost = dtw_cost(found.attention[:, n_before:, :n_positions], n_prompt - n_before)
        starts, ends = (np.maximum(0, t - delay) for t in token_times(cost))
        out.append(_words(tokenizer, text, probabilities, starts, ends, language))
    return out


def _align_ctc(model: SpeechModel, tokenizer: Tokenizer | SentencePieceTokenizer, memory: Memory,
               prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], language: str) -> list[list[Word]]:
    """As `align`, with times from the most likely path of CTC through each text; confidence is the decoder's as well."""
    frames, out = _frames(model, tokenizer, memory), []
    scores = token_log_probs(model, tokenizer, memory, prompts, texts)
    for i, text in enumerate(texts):
        if not len(text):
            out.append([])
            continue
        n_frames = int(frames.lengths[i])
        probabilities = np.exp(to_numpy(scores[i][:len(text)]))
        first, last = ctc_path(to_numpy(frames.log_probs[i, :n_frames]).astype(np.float64), list(text), frames.blank)
        # A token's peak is shorter than its sound, so it gets the frames up to the next token, at most MAX_TOKEN_TAIL.
        ends = np.minimum(np.append(first[1:], n_frames), last + 1 + MAX_TOKEN_TAIL)
        out.append(_words(tokenizer, text, probabilities, first / model.memory_rate, ends / model.memory_rate, language))
    return out


def _frames(model: SpeechModel, tokenizer: Tokenizer | SentencePieceTokenizer, memory: Memory) -> CTCFrames:
    """CTC's log-probabilities of the tokenizer's tokens."""
    import torch

    from avsr.decode.ctc_only import CTCFrames, ctc_frames

    if model.ctc_only:
        return ctc_frames(model, tokenizer, memory)
    (log_probs,) = model.ctc_log_probs(memory).values()
    whole = torch.full((len(log_probs),), log_probs.shape[1])
    return CTCFrames(log_probs, whole if memory.audio_mask is None else memory.audio_mask.sum(dim=1), blank=0)


def ctc_path(log_probs: np.ndarray, text: Sequence[int], blank: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The most likely path of CTC (Graves 2006) through a text: log_probs (T, V) float64, L tokens -> first and last frame of
    each, (L,) int64 both.

    If there are too few frames for any path, the tokens are spread evenly.
    """
    n_frames, states = len(log_probs), np.full(2 * len(text) + 1, blank)
    states[1::2] = text
    skips = np.zeros(len(states), bool)                     # from token to token, without a blank between
    skips[3::2] = states[3::2] != states[1:-2:2]
    best = np.full(len(states), -np.inf)
    best[:2] = log_probs[0, states[:2]]
    steps = np.zeros((n_frames, len(states)), np.int8)
    for t in range(1, n_frames):
        moves = np.stack([best, np.append(-np.inf, best[:-1]), np.where(skips, np.append([-np.inf] * 2, best[:-2]), -np.inf)])
        steps[t] = moves.argmax(axis=0)
        best = moves.max(axis=0) + log_probs[t, states]
    at = len(states) - 1 - int(best[-2] > best[-1])
    if best[at] == -np.inf:
        edges = np.linspace(0, n_frames, len(text) + 1).astype(np.int64)
        return edges[:-1], np.maximum(edges[1:] - 1, edges[:-1])
    path = np.empty(n_frames, np.int64)
    for t in range(n_frames - 1, -1, -1):
        path[t] = at
        at -= int(steps[t, at])
    numbers = 2 * np.arange(len(text)) + 1
    return np.searchsorted(path, numbers, side="left"), np.searchsorted(path, numbers, side="right") - 1


def is_trained(head: nn.Linear) -> bool:
    """Whether a CTC head was trained. New ones lie within 1 / sqrt(inputs), where torch draws them; float16 rounds that by
    0.05 %. Of the shipped models' heads those that were trained reach 3.6 to 9.1 times as far, the others 0.9999."""
    return head.weight.abs().max().item() > 1.01 / math.sqrt(head.in_features)


def default_heads(model: SpeechModel) -> list[tuple[int, int]]:
    """All heads in the upper half of the decoder: Whisper's choice for models whose alignment heads are not known."""
    n_layers = model.dims.n_decoder_layers
    return [(layer, head) for layer in range(n_layers // 2, n_layers) for head in range(model.dims.n_heads)]


def dtw_cost(attention: np.ndarray, n_prompt: int) -> np.ndarray:
    """Attention logits (heads, P + L + 1, S) -> cost (L + 1, S) float32 for dynamic time warping.

    Row i belongs to the token that is written next: the attention of the last prompt token is for the first text token; that of
    the last text token, for the end, closes the path.
    """
    weights = softmax(attention)
    spread = np.maximum(weights.std(axis=1, keepdims=True), 1e-8)
    weights = median_filter((weights - weights.mean(axis=1, keepdims=True)) / spread, MEDIAN_WIDTH).mean(axis=0)
    return -weights[n_prompt - 1:-1]


def median_filter(x: np.ndarray, width: int) -> np.ndarray:
    """Median over `width` (odd) neighbours of the last dimension of (A, B, C), edges reflected; short inputs are left alone."""
    reach = width // 2
    if x.shape[-1] <= reach:
        return x
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(reach, reach)], mode="reflect")
    near = [padded[..., i:i + x.shape[-1]] for i in range(width)]
    for last in range(width - 1, reach - 1, -1):            # moves the largest of the first `last` + 1 there: 14 ms for a
        for i in range(last):                               # window of 30 s, where numpy.partition takes 85
            near[i], near[i + 1] = np.minimum(near[i], near[i + 1]), np.maximum(near[i], near[i + 1])
    return near[reach]


def token_times(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cost (L + 1, S) -> start and end in seconds of each of the L tokens, (L,) float64 both."""
    tokens, positions = dtw(cost)
    first = np.concatenate([[True], np.diff(tokens) > 0])
    begins = positions[first] / MEMORY_RATE
    return begins[:-1], begins[1:]


def dtw(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dynamic time warping: the cheapest monotonic path through cost (N, M) from corner to corner.

    Returns row and column numbers along it, (steps,) each. Anti-diagonals are independent, so each is one vector step.
    """
    n, m = cost.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0.0
    trace = np.zeros((n + 1, m + 1), dtype=np.int8)
    for diagonal in range(2, n + m + 1):
        i = np.arange(max(1, diagonal - m), min(n, diagonal - 1) + 1)
        j = diagonal - i
        steps = np.stack([total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]])
        best = steps.argmin(axis=0)
        total[i, j] = cost[i - 1, j - 1] + steps[best, np.arange(len(i))]
        trace[i, j] = best
    trace[0, :], trace[:, 0] = 2, 1
    i, j, path = n, m, []
    while i > 0 or j > 0:
        path.append((i - 1, j - 1))
        step = trace[i, j]
        i, j = i - (step != 2), j - (step != 1)
    rows, columns = np.array(path[::-1]).T
    inside = (rows >= 0) & (columns >= 0)
    return rows[inside], columns[inside]


def _words(tokenizer: Tokenizer | SentencePieceTokenizer, text: Sequence[int], probabilities: np.ndarray, starts: np.ndarray,
           ends: np.ndarray, language: str) -> list[Word]:
    """Words with the times of their letters and digits: the time of a comma is the pause after the word."""
    words, at = [], 0
    for word in tokenizer.words(list(text), language):
        upto = at + len(word.tokens)
        spoken = [at + i for i, token in enumerate(word.tokens) if _is_spoken(tokenizer.decode([token]))] or range(at, upto)
        words.append(Word(word.text, float(starts[spoken[0]]), float(ends[spoken[-1]]), float(probabilities[at:upto].mean())))
        at = upto
    durations = [word.end - word.start for word in words if word.end > word.start]
    if not durations:
        return words
    median = min(MAX_MEDIAN, float(np.median(durations)))
    return _lengthen(_shorten(words, 2 * median), median)


def _is_spoken(text: str) -> bool:
    """Whether there is more than punctuation; part of a character (U+FFFD) counts as spoken."""
    return any(character.isalnum() or character == "\ufffd" for character in text)


def _shorten(words: list[Word], longest: float) -> list[Word]:
    """Words beside a sentence end shortened to at most `longest`, as the rest is a pause (Whisper's rule)."""
    out = list(words)
    for i, word in enumerate(words):
        if word.end - word.start <= longest:
            continue
        if i == 0 or words[i - 1].text.rstrip()[-1:] in SENTENCE_MARKS:
            out[i] = replace(word, start=word.end - longest)
        elif word.text.rstrip()[-1:] in SENTENCE_MARKS:
            out[i] = replace(word, end=word.start + longest)
    return out


def _lengthen(words: list[Word], longest: float) -> list[Word]:
    """Words without any time take up to `longest` of the pause before them, or else half of a neighbour."""
    out = list(words)
    for i in reversed(range(len(out))):
        word = out[i]
        if word.end > word.start:
            continue
        pause = word.start - (out[i - 1].end if i else 0.0)
        if pause > 0:
            out[i] = replace(word, start=word.start - min(pause, longest))
        elif i + 1 < len(out):
            out[i] = replace(word, end=(word.end + out[i + 1].end) / 2)
            out[i + 1] = replace(out[i + 1], start=out[i].end)
        elif i:
            out[i] = replace(word, start=(out[i - 1].start + word.start) / 2)
            out[i - 1] = replace(out[i - 1], end=out[i].start)
    return out
