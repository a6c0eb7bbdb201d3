"""From a memory to the text of each utterance: the search that the model needs, with Whisper's temperature fallback.

`decode` gives one text of each utterance, `nbest` all that one search finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from avsr.arrays import Array, like
from avsr.decode.external import joins_search, rescored, scorers
from avsr.decode.limits import TextLimits, compression_ratio, max_characters
from avsr.decode.options import DecodeOptions, Hypothesis
from avsr.decode.scorers import DecoderScorer, SuppressTokens, teacher_forced_log_probs
from avsr.decode.search import search
from avsr.decode.strategies import BeamSearch, Sampling, ScoredTokens
from avsr.memory import Memory
from avsr.models.protocol import SearchCache, SpeechModel
from avsr.text import SentencePieceTokenizer, Tokenizer

DEFAULT = DecodeOptions()


def decode(model: SpeechModel, tokenizer: Tokenizer | SentencePieceTokenizer, memory: Memory, prompts: list[list[int]], *,
           suppress: tuple[int, ...] = (), suppress_begin: tuple[int, ...] = (),
           options: DecodeOptions = DEFAULT) -> list[Hypothesis]:
    """The text of each utterance; its tokens are empty where there is no speech.

    If CTC writes the decoder's tokens, both score them (Watanabe et al. 2017): with weights 1 - ctc_weight and ctc_weight. Such
    a search needs no guards, as CTC keeps it from looping. Otherwise Whisper's guards apply: a text that loops, or that the
    model finds unlikely, is decoded again at the next temperature. A text that is too long for the time in `memory.seconds`,
    or that certainly repeats itself, is abandoned, and counts as failed: see limits.

    prompts: one list of tokens per utterance, all of the same length.
    """
    if model.joint_ctc:
        return [texts[0] for texts in _nbest_hybrid(model, tokenizer, memory, prompts, options, n=1)]
    attempts: list[list[Hypothesis]] = [[] for _ in range(memory.n_utterances)]
    limits, todo = _limits(tokenizer, memory, options), list(range(memory.n_utterances))
    filters = [text_filter(model, tokenizer, len(prompts[0]), suppress, suppress_begin)]
    for temperature in options.temperatures:
        part = memory if len(todo) == memory.n_utterances else memory.select(todo)
        strategy = (Sampling(len(todo), options, tokenizer.end, temperature, limits.select(todo)) if temperature > 0
                    else BeamSearch(len(todo), options, tokenizer.end, limits.select(todo)))
        found = _attempt(model, tokenizer, part, [prompts[i] for i in todo], filters, strategy, options)
        for i, hypothesis in zip(todo, found, strict=True):
            attempts[i].append(replace(hypothesis, temperature=temperature))
        todo = [i for i in todo
                if limits.exceeded(attempts[i][-1].tokens, i) or fails(attempts[i][-1], tokenizer, options)]
        if not todo:
            break
    best = [_last_possible(hypotheses, limits, i) for i, hypotheses in enumerate(attempts)]
    return [replace(one, tokens=()) if is_silence(one, options) else one for one in best]


def nbest(model: SpeechModel, tokenizer: Tokenizer | SentencePieceTokenizer, memory: Memory, prompts: list[list[int]], *,
          suppress: tuple[int, ...] = (), suppress_begin: tuple[int, ...] = (), options: DecodeOptions = DEFAULT,
          cache: SearchCache | None = None) -> list[list[Hypothesis]]:
    """The texts that one beam search finds for each utterance, the best first: up to beam_size of them, or more.

    As `decode` by its first attempt at temperature 0, without guards; at least one text. A model that joins the search or
    rescores decides the order; `logprob` is the network's own. prompts: see `decode`. cache: that of
    the memory before any token, where it is there already and the model's CTC does not write tokens.
    """
    if model.joint_ctc:
        return _nbest_hybrid(model, tokenizer, memory, prompts, options, n=options.beam_size)
    strategy = BeamSearch(memory.n_utterances, options, tokenizer.end, _limits(tokenizer, memory, options))
    filters = [text_filter(model, tokenizer, len(prompts[0]), suppress, suppress_begin)]
    best = _attempt(model, tokenizer, memory, prompts, filters, strategy, options, cache)
    found = [_rescored(tokenizer, texts, options) for texts in strategy.nbest(length_penalty=options.length_penalty)]
    if joins_search(options):
        found = _own_scores(model, tokenizer, memory, prompts, found)
    return [[replace(one, tokens=tokens, logprob=logprob) for tokens, logprob in texts]
            for one, texts in zip(best, found, strict=True)]


def _rescored(tokenizer: Tokenizer | SentencePieceTokenizer, texts: list[ScoredTokens],
              options: DecodeOptions) -> list[ScoredTokens]:
    """The texts of an n-best list in the order that the model for rescoring gives them, with their scores as they were."""
    if options.rescore is None:
        return texts
    added = rescored(options, [tokenizer.decode(tokens).strip() for tokens, _ in texts])
    totals = [(logprob + more) / max(1, len(tokens)) ** options.length_penalty
              for (tokens, logprob), more in zip(texts, added, strict=True)]
    return [texts[i] for i in sorted(range(len(texts)), key=lambda i: -totals[i])]


def _own_scores(model: SpeechModel, tokenizer: Tokenizer | SentencePieceTokenizer, memory: Memory,
                prompts: list[list[int]], found: list[list[ScoredTokens]]) -> list[list[ScoredTokens]]:
    """The texts with the network's own scores in place of those of a search that others joined."""
    rows = [i for i, texts in enumerate(found) for _ in texts]
    flat = [tokens for texts in found for tokens, _ in texts]
    own = iter(token_log_probs(model, tokenizer, memory.select(rows), [prompts[i] for i in rows], flat))
    return [[(tokens, float(next(own).sum())) for tokens, _ in texts] for texts in found]


def _limits(tokenizer: Tokenizer | SentencePieceTokenizer, memory: Memory, options: DecodeOptions) -> TextLimits:
    seconds = [None] * memory.n_utterances if memory.seconds is None else memory.seconds.tolist()
    return TextLimits(tokenizer.decode, [None if one is None else max_characters(one) for one in seconds],
                      options.compression_ratio_threshold)


def text_filter(model: SpeechModel, tokenizer: Tokenizer | SentencePieceTokenizer, n_prompt: int, suppress: tuple[int, ...],
                suppress_begin: tuple[int, ...]) -> SuppressTokens:
    """Forbids what the model must not write: also languages, tasks and timestamps, none of which is text."""
    special = range(tokenizer.end + 1, model.dims.n_vocab)
    return SuppressTokens(tuple({*suppress, *special}), suppress_begin, n_prompt)


def _attempt(model: SpeechModel, tokenizer: Tokenizer | SentencePieceTokenizer, memory: Memory, prompts: list[list[int]],
             filters: list[SuppressTokens], strategy: BeamSearch | Sampling, options: DecodeOptions,
             cache: SearchCache | None = None) -> list[Hypothesis]:
    """One hypothesis of each utterance."""
    n_prompt, n_context = len(prompts[0]), model.dims.n_context
    max_tokens = options.max_tokens if n_context is None else min(options.max_tokens, n_context - n_prompt - 1)    # and the end
    if model.ctc_only:
        from avsr.decode.ctc_only import CTCScorer, ctc_frames

        scorer = CTCScorer(ctc_frames(model, tokenizer, memory), end=tokenizer.end)
    else:
        scorer = DecoderScorer(model, memory, no_speech_token=tokenizer.no_speech, start_token=tokenizer.start, cache=cache,
                               draft=() if isinstance(strategy, Sampling) else options.draft)
    helped = not isinstance(strategy, Sampling)             # which draws from the network alone
    helps = scorers(options, tokenizer, n_prompt=n_prompt, n_vocab=model.dims.n_vocab) if helped else []
    texts = search([scorer, *helps], like(memory.states, np.array(prompts)), strategy, filters=filters,
                   max_tokens=max_tokens, length_penalty=options.length_penalty)
    if helped and options.rescore is not None:
        found = strategy.nbest(options.beam_size, length_penalty=options.length_penalty)
        texts = [_rescored(tokenizer, one, options)[0] for one in found]
    if joins_search(options):                               # the guards judge the scores of the network itself
        own = token_log_probs(model, tokenizer, memory, prompts, [tokens for tokens, _ in texts])
        texts = [(tokens, float(one.sum())) for (tokens, _), one in zip(texts, own, strict=True)]
    return [Hypothesis(tokens, logprob, no_speech)
            for (tokens, logprob), no_speech in zip(texts, scorer.no_speech.tolist(), strict=True)]


def token_log_probs(model: SpeechModel, tokenizer: Tokenizer | SentencePieceTokenizer, memory: Memory,
                    prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]) -> list[Array]:
    """The log-probability of each token of given texts and of their end, the tokens before it given, by the decoder, or by CTC
    where there is none: (L + 1,) float32 each, on the CPU."""
    if model.ctc_only:
        from avsr.decode.ctc_only import ctc_frames, ctc_token_log_probs

        return ctc_token_log_probs(ctc_frames(model, tokenizer, memory), texts, tokenizer.end)
    return teacher_forced_log_probs(model, memory, prompts, texts, tokenizer.end)


def _last_possible(attempts: Sequence[Hypothesis], limits: TextLimits, utterance: int) -> Hypothesis:
    """The last attempt, as in Whisper, but one that keeps the limits if there is any."""
    return next((text for text in reversed(attempts) if not limits.exceeded(text.tokens, utterance)),
                limits.truncated(attempts[-1], utterance))


def _nbest_hybrid(model: SpeechModel, tokenizer: Tokenizer | SentencePieceTokenizer, memory: Memory, prompts: list[list[int]],
                  options: DecodeOptions, *, n: int) -> list[list[Hypothesis]]:
    """The n best texts of each utterance, the best first."""
    import torch

    from avsr.decode.ctc import CTCPrefixScorer
    from avsr.decode.hybrid import HybridBeamSearch

    assert memory.audio is not None, "what a hybrid network encodes is its audio, see Hybrid.encode"
    n_frames = torch.full((memory.n_utterances,), memory.audio.shape[1], device=memory.device)
    lengths = n_frames if memory.audio_mask is None else memory.audio_mask.sum(dim=1)
    scorer = DecoderScorer(model, memory, no_speech_token=None, start_token=tokenizer.start, weight=1 - options.ctc_weight)
    (log_probs,) = model.ctc_log_probs(memory).values()
    ctc = CTCPrefixScorer(log_probs, lengths, end=tokenizer.end, weight=options.ctc_weight)
    strategy = HybridBeamSearch(lengths, size=options.beam_size, end=tokenizer.end)
    search([scorer], torch.tensor(prompts, device=memory.device), strategy,
           partial_scorers=[ctc, *scorers(options, tokenizer, n_prompt=len(prompts[0]), n_vocab=model.dims.n_vocab)],
           pre_beam=int(options.pre_beam * options.beam_size), max_tokens=int(lengths.max()),
           length_penalty=options.length_penalty)
    several = max(n, options.beam_size) if options.rescore is not None else n
    found = [_rescored(tokenizer, texts, options)[:n]
             for texts in strategy.nbest(several, length_penalty=options.length_penalty)]
    return [[Hypothesis(tokens, logprob) for tokens, logprob in texts] for texts in found]


def is_silence(text: Hypothesis, options: DecodeOptions) -> bool:
    """Whether the network says that nobody speaks, and finds its own words unlikely too."""
    return (options.no_speech_threshold is not None and text.no_speech_prob > options.no_speech_threshold
            and (options.logprob_threshold is None or text.avg_logprob < options.logprob_threshold))


def fails(text: Hypothesis, tokenizer: Tokenizer | SentencePieceTokenizer, options: DecodeOptions) -> bool:
    """Whether to decode again at the next temperature; silence is not decoded again."""
    if is_silence(text, options):
        return False
    loops = (options.compression_ratio_threshold is not None
             and compression_ratio(tokenizer.decode(text.tokens)) > options.compression_ratio_threshold)
    return loops or (options.logprob_threshold is not None and text.avg_logprob < options.logprob_threshold)
