"""When each word was said, and how sure the network is of it, read off its own attention.

    Memory + text tokens of B utterances  ->  Word per word (Whisper's method: openai/whisper `timing.py`)
The alignment heads' look at the audio is normalised, median-filtered over time and averaged; dynamic time warping
through it gives each token a stretch of memory positions, 20 ms each. Where a CTC head spells the same tokens, its likeliest
path does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from avsr.decode import teacher_forced_log_probs
from avsr.models.avsr import AVSR, Memory
from avsr.models.decoder import Cache
from avsr.models.hybrid import Hybrid
from avsr.rates import MEMORY_RATE
from avsr.text import SentencePieceTokenizer, Tokenizer
from avsr.transcript import Word

MEDIAN_WIDTH = 7                                            # positions: 140 ms
PEAK_REACH = 5                                              # frames after a token's peak in CTC that may still be its: 0.2 s
LONGEST_MEDIAN = 0.7                                        # s: a median word duration above this is not believed
# By how many seconds a Whisper's alignment heads look at a word after it began, those of base before: medians over 306 and 312
# words of GRID's train and valid. The others' are not measured, and are left as they are.
LATENESS = {
    ((1, 0), (2, 0), (2, 5), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4)): 0.08,            # tiny.en
    ((3, 1), (4, 2), (4, 3), (4, 7), (5, 1), (5, 2), (5, 4), (5, 6)): -0.04,           # base
}
SENTENCE_MARKS = ".。!！?？"


def align(model: AVSR | Hybrid, tokenizer: Tokenizer | SentencePieceTokenizer, memory: Memory, prompts: Sequence[Sequence[int]],
          texts: Sequence[Sequence[int]], durations: Sequence[float], *, language: str,
          heads: Sequence[tuple[int, int]]) -> list[list[Word]]:
    """The words of each utterance, one for each that `tokenizer.words` makes of its text, in seconds from its start.

    prompts and texts: token lists per utterance, prompts of one length; durations in seconds of what was really
    heard or seen (padding is not looked at). `heads` are (layer, head) pairs of the look at the audio; none means all
    heads of the upper half, and so does an utterance without sound, whose look at the video is taken instead. A
    word's confidence is the mean probability of its tokens. Where CTC spells the tokens its path gives the times.
    """
    if model.spells_tokens:
        return _align_ctc(model, tokenizer, memory, prompts, texts, language)
    by_sound = memory.audio is not None
    lateness = LATENESS.get(tuple(map(tuple, heads)), 0.0) if by_sound else 0.0
    heads = (list(heads) if by_sound else []) or default_heads(model)
    prompt_length = len(prompts[0])
    rows = [[*prompt, *text, tokenizer.end] for prompt, text in zip(prompts, texts, strict=True)]
    tokens = torch.full((len(rows), max(map(len, rows))), tokenizer.end)
    for i, row in enumerate(rows):
        tokens[i, :len(row)] = torch.tensor(row)
    positions = memory.audio if by_sound else memory.video
    device = positions.device
    cache, looks = model.start(memory), []
    hidden = model.decoder.hidden(tokens.to(device), cache, looks)
    out = []
    for i, (row, text, duration) in enumerate(zip(rows, texts, durations, strict=True)):
        if not len(text):
            out.append([])
            continue
        logprobs = model.decoder.logits(hidden[i, prompt_length - 1:len(row) - 2]).log_softmax(dim=-1)
        wanted = torch.tensor(list(text), device=device)[:, None]
        chances = logprobs.gather(1, wanted)[:, 0].exp().cpu().numpy()
        room = positions.shape[1] if not by_sound or memory.audio_mask is None else int(memory.audio_mask[i].sum())
        n_positions = max(1, min(room, round(duration * MEMORY_RATE)))
        attention = torch.stack([
            _look(model, layer, looks[layer][i:i + 1, :len(row)], cache, i)[head, :, :n_positions]
            for layer, head in heads])
        starts, ends = (np.maximum(0, t - lateness) for t in token_times(attention_path(attention, prompt_length)))
        out.append(_words(tokenizer, text, chances, starts, ends, language))
    return out


def _align_ctc(model: Hybrid, tokenizer: SentencePieceTokenizer, memory: Memory, prompts: Sequence[Sequence[int]],
               texts: Sequence[Sequence[int]], language: str) -> list[list[Word]]:
    """As `align`, from the likeliest path of CTC through each text; confidence is the decoder's as well."""
    (log_probs,), out = model.ctc_log_probs(memory).values(), []
    said = teacher_forced_log_probs(model, memory, prompts, texts, tokenizer.end)
    for i, text in enumerate(texts):
        if not len(text):
            out.append([])
            continue
        n_frames = log_probs.shape[1] if memory.audio_mask is None else int(memory.audio_mask[i].sum())
        chances = said[i][:len(text)].exp().numpy()
        first, last = ctc_path(log_probs[i, :n_frames].double().cpu().numpy(), list(text), tokenizer.blank)
        # A token's peak is shorter than its sound: what follows it counts up to the next one, or PEAK_REACH.
        ends = np.minimum(np.append(first[1:], n_frames), last + 1 + PEAK_REACH)
        out.append(_words(tokenizer, text, chances, first / model.memory_rate, ends / model.memory_rate, language))
    return out


def ctc_path(log_probs: np.ndarray, text: Sequence[int], blank: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest path of CTC (Graves 2006) through a text: log_probs (T, V) float64, L tokens -> first and last frame of
    each, (L,) int64 both.

    Of a text that has no path, for want of frames, the tokens are spread evenly.
    """
    n_frames, states = len(log_probs), np.full(2 * len(text) + 1, blank)
    states[1::2] = text
    skips = np.zeros(len(states), bool)                     # from token to token, without a blank between
    skips[3::2] = states[3::2] != states[1:-2:2]
    best = np.full(len(states), -np.inf)
    best[:2] = log_probs[0, states[:2]]
    steps = np.zeros((n_frames, len(states)), np.int8)
    for t in range(1, n_frames):
        ways = np.stack([best, np.append(-np.inf, best[:-1]), np.where(skips, np.append([-np.inf] * 2, best[:-2]), -np.inf)])
        steps[t] = ways.argmax(axis=0)
        best = ways.max(axis=0) + log_probs[t, states]
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


def _look(model: AVSR, layer: int, queries: Tensor, cache: Cache, i: int) -> Tensor:
    """Attention logits (H, L, S) float32 of one layer's look from queries (1, L, D) at utterance i."""
    block = model.decoder.blocks[layer]
    attention, memory = (block.video.attention, cache.video) if cache.audio is None else (block.audio, cache.audio)
    return attention.weights(queries, memory[layer][0][i:i + 1])[0].float()


def default_heads(model: AVSR) -> list[tuple[int, int]]:
    """All heads in the upper half of the decoder: Whisper's choice where nobody has picked alignment heads."""
    n_layers = model.dims.n_decoder_layers
    return [(layer, head) for layer in range(n_layers // 2, n_layers) for head in range(model.dims.n_heads)]


def attention_path(attention: Tensor, prompt_length: int) -> np.ndarray:
    """Attention logits (heads, P + L + 1, S) -> cost (L + 1, S) float32 for the warping path.

    Row i belongs to the token written *after* looking: the last prompt token's look is for the first text token; the
    last text token's look, for the end, closes the path.
    """
    weights = attention.softmax(dim=-1)
    std, mean = torch.std_mean(weights, dim=-2, keepdim=True, correction=0)
    weights = median_filter((weights - mean) / std.clamp_min(1e-8), MEDIAN_WIDTH).mean(dim=0)
    return -weights[prompt_length - 1:-1].cpu().numpy()


def median_filter(x: Tensor, width: int) -> Tensor:
    """Median over `width` (odd) neighbours of the last dimension of (A, B, C), edges reflected; short inputs are left alone."""
    reach = width // 2
    if x.shape[-1] <= reach:
        return x
    padded = torch.nn.functional.pad(x, (reach, reach), mode="reflect")
    return padded.unfold(-1, width, 1).median(dim=-1).values


def token_times(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cost (L + 1, S) -> start and end in seconds of each of the L tokens, (L,) float64 both."""
    tokens, positions = warp(cost)
    first = np.concatenate([[True], np.diff(tokens) > 0])
    begins = positions[first] / MEMORY_RATE
    return begins[:-1], begins[1:]


def warp(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def _words(tokenizer: Tokenizer | SentencePieceTokenizer, text: Sequence[int], chances: np.ndarray, starts: np.ndarray,
           ends: np.ndarray, language: str) -> list[Word]:
    """Words with the times of what is spoken of them: a comma's stretch is the pause after the word, not the word."""
    words, at = [], 0
    for word in tokenizer.words(list(text), language):
        upto = at + len(word.tokens)
        said = [at + i for i, token in enumerate(word.tokens) if _is_spoken(tokenizer.decode([token]))] or range(at, upto)
        words.append(Word(word.text, float(starts[said[0]]), float(ends[said[-1]]), float(chances[at:upto].mean())))
        at = upto
    durations = [word.end - word.start for word in words if word.end > word.start]
    if not durations:
        return words
    usual = min(LONGEST_MEDIAN, float(np.median(durations)))
    return _widen(_shorten(words, 2 * usual), usual)


def _is_spoken(text: str) -> bool:
    """Not mere punctuation; half a character (U+FFFD) counts as spoken."""
    return any(character.isalnum() or character == "\ufffd" for character in text)


def _shorten(words: list[Word], longest: float) -> list[Word]:
    """A pause is not part of a word: beside a sentence end no word lasts longer than `longest` (Whisper's rule)."""
    out = list(words)
    for i, word in enumerate(words):
        if word.end - word.start <= longest:
            continue
        if i == 0 or words[i - 1].text.rstrip()[-1:] in SENTENCE_MARKS:
            out[i] = replace(word, start=word.end - longest)
        elif word.text.rstrip()[-1:] in SENTENCE_MARKS:
            out[i] = replace(word, end=word.start + longest)
    return out


def _widen(words: list[Word], usual: float) -> list[Word]:
    """Words to which the path gave no time take up to `usual` of the pause before them, or else half of a neighbour."""
    out = list(words)
    for i in reversed(range(len(out))):
        word = out[i]
        if word.end > word.start:
            continue
        pause = word.start - (out[i - 1].end if i else 0.0)
        if pause > 0:
            out[i] = replace(word, start=word.start - min(pause, usual))
        elif i + 1 < len(out):
            out[i] = replace(word, end=(word.end + out[i + 1].end) / 2)
            out[i + 1] = replace(out[i + 1], start=out[i].end)
        elif i:
            out[i] = replace(word, start=(out[i - 1].start + word.start) / 2)
            out[i - 1] = replace(out[i - 1], end=out[i].start)
    return out
