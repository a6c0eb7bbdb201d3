"""A memory to the text of each utterance: the search a model wants, and Whisper's guards against what nobody said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from avsr.decode.ctc import CTCPrefixScorer
from avsr.decode.hybrid import HybridBeam
from avsr.decode.limits import TextLimits, compression_ratio, most_characters
from avsr.decode.options import DecodeOptions, Hypothesis
from avsr.decode.scorers import DecoderScorer, Suppress, given_log_probs
from avsr.decode.search import search
from avsr.decode.strategies import Beam, Sample
from avsr.lm import WordScorer
from avsr.models.avsr import AVSR
from avsr.models.decoder import Memory
from avsr.models.hybrid import HybridAVSR

USUAL = DecodeOptions()
UNKNOWN_BONUS = -10.0                                       # <unk> holds the chance of all unknown words: pyctcdecode's penalty


def decode(model: AVSR | HybridAVSR, tokenizer, memory: Memory, prompts: list[list[int]], *, suppress: tuple[int, ...] = (),
           suppress_begin: tuple[int, ...] = (), options: DecodeOptions = USUAL) -> list[Hypothesis]:
    """The text of each utterance.

    Where CTC spells the decoder's tokens both are asked (Watanabe et al. 2017): (1 - ctc_weight) and ctc_weight of their
    log-probabilities, over the sum of which there are no guards: CTC keeps it from looping. Elsewhere Whisper's: what loops or
    is not believed is tried again, warmer. A text that nobody can have said in the time, by `memory.seconds`, or that repeats
    itself beyond doubt is not gone on with, and not believed either: see limits.

    prompts: one list of tokens per utterance, all of the same length. `tokenizer` is a text.Tokenizer or text.Pieces.
    Returns a hypothesis per utterance; its tokens are empty where there is no speech.
    """
    if model.ctc_units == "tokens":
        return _decode_hybrid(model, tokenizer, memory, prompts, options)
    tried: list[list[Hypothesis]] = [[] for _ in range(memory.n_utterances)]
    seconds = [None] * memory.n_utterances if memory.seconds is None else memory.seconds.tolist()
    limits = TextLimits(tokenizer, [None if one is None else most_characters(one) for one in seconds],
                        options.compression_ratio_threshold)
    todo = list(range(memory.n_utterances))
    n_prompt = len(prompts[0])
    specials = range(tokenizer.end + 1, model.dims.n_vocab)  # languages, tasks, timestamps: none of them is text
    rules = [Suppress(tuple({*suppress, *specials}), suppress_begin, n_prompt)]
    device = memory.device
    for temperature in options.temperatures:
        part = memory if len(todo) == memory.n_utterances else memory.select(torch.tensor(todo, device=device))
        scorer = DecoderScorer(model, part, no_speech_token=tokenizer.no_speech, start_token=tokenizer.start)
        strategy = (Sample(len(todo), options, tokenizer.end, temperature, limits.select(todo)) if temperature > 0
                    else Beam(len(todo), options, tokenizer.end, limits.select(todo)))
        lm = [] if temperature > 0 else _lm(model, tokenizer, n_prompt, options)               # chance is the network's alone
        texts = search([scorer, *lm], torch.tensor([prompts[i] for i in todo], device=device), strategy, rules=rules,
                       max_tokens=min(options.max_tokens, model.dims.n_context - n_prompt - 1),   # the end has its place too
                       length_penalty=options.length_penalty)
        if lm:                                              # the guards ask what the network itself believes
            own = given_log_probs(model, part, [prompts[i] for i in todo], [tokens for tokens, _ in texts], tokenizer.end)
            texts = [(tokens, one.sum().item()) for (tokens, _), one in zip(texts, own, strict=True)]
        for i, (tokens, logprob), no_speech in zip(todo, texts, scorer.no_speech.tolist(), strict=True):
            tried[i].append(Hypothesis(tokens, logprob, no_speech, temperature))
        todo = [i for i in todo if limits.exceeded(tried[i][-1].tokens, i) or _fails(tried[i][-1], tokenizer, options)]
        if not todo:
            break
    best = [_last_possible(texts, limits, i) for i, texts in enumerate(tried)]
    return [replace(text, tokens=()) if _is_silence(text, options) else text for text in best]


def _last_possible(tried: Sequence[Hypothesis], limits: TextLimits, utterance: int) -> Hypothesis:
    """The last attempt, as Whisper has it, but none that nobody can have said while there is another."""
    return next((text for text in reversed(tried) if not limits.exceeded(text.tokens, utterance)),
                limits.mended(tried[-1], utterance))


def _decode_hybrid(model: HybridAVSR, tokenizer, memory: Memory, prompts: list[list[int]],
                   options: DecodeOptions) -> list[Hypothesis]:
    n_frames = torch.full((memory.n_utterances,), memory.audio.shape[1], device=memory.device)
    lengths = n_frames if memory.audio_mask is None else memory.audio_mask.sum(dim=1)
    scorer = DecoderScorer(model, memory, no_speech_token=None, start_token=tokenizer.start, weight=1 - options.ctc_weight)
    (log_probs,) = model.ctc_log_probs(memory).values()
    partial = [CTCPrefixScorer(log_probs, lengths, end=tokenizer.end, blank=tokenizer.blank, weight=options.ctc_weight),
               *_lm(model, tokenizer, len(prompts[0]), options)]
    strategy = HybridBeam(lengths, size=options.beam_size, end=tokenizer.end)
    texts = search([scorer], torch.tensor(prompts, device=memory.device), strategy, partial=partial,
                   pre_beam=int(options.pre_beam * options.beam_size), max_tokens=int(lengths.max()),
                   length_penalty=options.length_penalty)
    return [Hypothesis(tokens, logprob) for tokens, logprob in texts]


def _lm(model: AVSR | HybridAVSR, tokenizer, n_prompt: int, options: DecodeOptions) -> list[WordScorer]:
    """The language model as a scorer, if there is one."""
    if options.lm is None:
        return []
    texts = [*tokenizer.texts, *[""] * (model.dims.n_vocab - len(tokenizer.texts))]        # Whisper's tables are longer
    return [WordScorer(options.lm, texts, end=tokenizer.end, n_prompt=n_prompt, weight=options.lm_weight,
                       unknown_bonus=UNKNOWN_BONUS)]


def _is_silence(text: Hypothesis, options: DecodeOptions) -> bool:
    """The network says that nobody speaks, and does not believe its own words either."""
    return (options.no_speech_threshold is not None and text.no_speech_prob > options.no_speech_threshold
            and (options.logprob_threshold is None or text.avg_logprob < options.logprob_threshold))


def _fails(text: Hypothesis, tokenizer, options: DecodeOptions) -> bool:
    """Whether a warmer attempt is called for; silence is not tried again."""
    if _is_silence(text, options):
        return False
    loops = (options.compression_ratio_threshold is not None
             and compression_ratio(tokenizer.decode(text.tokens)) > options.compression_ratio_threshold)
    return loops or (options.logprob_threshold is not None and text.avg_logprob < options.logprob_threshold)
