"""Search for the best text: scorers, rules and a strategy, put together by `search`; guards against loops in `decode`.

    Memory of B utterances -> Hypothesis per utterance
A scorer says how likely each next token is (the decoder; later CTC and language models). A rule forbids tokens.
A strategy (Beam, Sample) keeps hypotheses. All utterances and their hypotheses go through the network as one batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from avsr.models.avsr import AVSR, Memory


@dataclass(frozen=True)
class DecodeOptions:
    """How to search. Names and defaults are Whisper's; None switches a guard off.

    temperatures: the first is tried on everything, the next on what failed a guard, and so on; 0 is beam search.
    compression_ratio_threshold: text that compresses better than this repeats itself.
    logprob_threshold: mean log-probability of a token below which the text is not believed.
    no_speech_threshold: probability of the no-speech token above which such a text is dropped.
    """

    beam_size: int = 5
    patience: float = 1.0
    length_penalty: float = 1.0
    best_of: int = 5
    max_tokens: int = 224
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    compression_ratio_threshold: float | None = 2.4
    logprob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6
    seed: int = 0


@dataclass(frozen=True)
class Hypothesis:
    """A finished text: `tokens` without prompt and end; `logprob` their sum, end included."""

    tokens: tuple[int, ...]
    logprob: float
    no_speech_prob: float = 0.0
    temperature: float = 0.0

    @property
    def avg_logprob(self) -> float:
        """Mean log-probability per token, the end counted, as Whisper has it."""
        return self.logprob / (len(self.tokens) + 1)


class Scorer(Protocol):
    """Says how likely each next token is; `weight` multiplies it when scorers are added up."""

    weight: float

    def score(self, tokens: Tensor) -> Tensor:
        """All tokens so far, prompt included, (N, L) int64 -> scores (N, V) float32 of the next. May be logits."""

    def select(self, rows: Tensor, utterances: Tensor | None) -> None:
        """Keep these rows (N',), in this order; `utterances` (B',) where some of them are finished, else None."""


class DecoderScorer:
    """The network's own opinion: log-probabilities after everything so far.

    `no_speech` (B,) holds the probability of that token right after the start token, once `score` was called.
    """

    weight = 1.0

    def __init__(self, model: AVSR, memory: Memory, *, no_speech_token: int | None, start_token: int):
        self.model = model
        self.cache = model.start(memory)
        self.n_utterances = memory.n_utterances
        self.no_speech_token, self.start_token = no_speech_token, start_token
        self.no_speech = torch.zeros(self.n_utterances)

    def score(self, tokens: Tensor) -> Tensor:
        """(N, L) -> (N, V). The prompt, alike in all hypotheses of an utterance, is taken in once for each."""
        if self.cache.n_tokens:
            return self.model.step(tokens[:, self.cache.n_tokens:], self.cache)
        n_hypotheses = tokens.shape[0] // self.n_utterances
        prompt = tokens[::n_hypotheses]
        hidden = self.model.decoder.hidden(prompt, self.cache)
        if self.no_speech_token is not None:
            at = (prompt[0] == self.start_token).nonzero()[0, 0]
            self.no_speech = self.model.decoder.logits(hidden[:, at]).softmax(dim=-1)[:, self.no_speech_token].cpu()
        logits = self.model.decoder.logits(hidden[:, -1])
        rows = torch.arange(self.n_utterances, device=tokens.device).repeat_interleave(n_hypotheses)
        self.cache.select_rows(rows)
        return logits[rows]

    def select(self, rows: Tensor, utterances: Tensor | None) -> None:
        """See Scorer."""
        self.cache.select_rows(rows)
        if utterances is not None:
            self.cache.select_utterances(utterances)


class Rule(Protocol):
    """Forbids tokens by writing -inf into the scores, in place."""

    def __call__(self, scores: Tensor, tokens: Tensor) -> None:
        """scores (N, V) float32; tokens (N, L) so far, prompt included."""


@dataclass(frozen=True)
class Suppress:
    """Tokens never written, and tokens not written first (after `n_prompt` tokens)."""

    always: tuple[int, ...]
    first: tuple[int, ...] = ()
    n_prompt: int = 0

    def __call__(self, scores: Tensor, tokens: Tensor) -> None:
        """See Rule."""
        scores.index_fill_(1, _indices(self.always, scores.device), -torch.inf)
        if tokens.shape[1] == self.n_prompt and self.first:
            scores.index_fill_(1, _indices(self.first, scores.device), -torch.inf)


@lru_cache(maxsize=16)
def _indices(ids: tuple[int, ...], device: torch.device) -> Tensor:
    """Made once: 1600 ids, Whisper's timestamps among them, take 3 ms to convert."""
    return torch.tensor(ids, dtype=torch.long, device=device)


@dataclass
class _Finished:
    """Texts of one utterance that reached the end token, with the sum of their scores."""

    texts: list[tuple[tuple[int, ...], float]] = field(default_factory=list)

    def best(self, length_penalty: float) -> tuple[tuple[int, ...], float]:
        """By score over length ** penalty (Wu et al. 2016, as simplified by Whisper)."""
        return max(self.texts, key=lambda text: text[1] / max(1, len(text[0])) ** length_penalty)


class Beam:
    """Keeps the `size` best unfinished texts of each utterance until `size * patience` have finished.

    A text finishes only if its end is among the `size` best continuations (as in fairseq and CTranslate2; Whisper also
    takes worse ones, which fill up the finished with texts that stop early).
    """

    def __init__(self, n_utterances: int, options: DecodeOptions, end: int):
        self.size, self.end = options.beam_size, end
        self.enough = max(1, round(options.beam_size * options.patience))
        self.totals = torch.full((n_utterances, self.size), -torch.inf)
        self.totals[:, 0] = 0.0                             # all begin alike: only the first may branch

    def step(self, logprobs: Tensor, tokens: Tensor, finished: list[_Finished]) -> tuple[Tensor, Tensor, Tensor]:
        """logprobs (N, V), texts so far (N, L) without prompt -> rows (N,) to go on with, their next tokens, done (B,)."""
        n_utterances, size = self.totals.shape
        per_row, n_vocab = min(2 * size, logprobs.shape[1]), logprobs.shape[1]
        values, ids = logprobs.topk(per_row, dim=1)                              # of each row: enough even if all end
        sums = (self.totals.to(values.device)[:, :, None] + values.view(n_utterances, size, per_row)).flatten(1)
        best, at = sums.topk(min(2 * size, sums.shape[1]), dim=1)
        parents, next_ids = at // per_row, ids.view(n_utterances, -1).gather(1, at)
        assert n_vocab > self.end
        rows, chosen = [], []
        candidates_of = zip(best.tolist(), parents.tolist(), next_ids.tolist(), strict=True)
        for utterance, (scores, beams, candidates) in enumerate(candidates_of):
            live = []
            for rank, (score, beam, token) in enumerate(zip(scores, beams, candidates, strict=True)):
                row = utterance * size + beam
                if token == self.end:
                    if rank < size and score > -torch.inf:
                        finished[utterance].texts.append((tuple(tokens[row].tolist()), score))
                elif len(live) < size:
                    live.append((score, row, token))
                if len(live) == size:
                    break
            live += [(-torch.inf, utterance * size, self.end)] * (size - len(live))
            self.totals[utterance] = torch.tensor([score for score, _, _ in live])
            rows += [row for _, row, _ in live]
            chosen += [token for _, _, token in live]
        done = torch.tensor([len(texts.texts) >= self.enough or total == -torch.inf
                             for texts, total in zip(finished, self.totals.amax(dim=1).tolist(), strict=True)])
        return torch.tensor(rows), torch.tensor(chosen), done

    def give_up(self, utterance: int, tokens: Tensor, finished: _Finished) -> None:
        """Out of room: the unfinished texts (size, L) fill up what is wanting."""
        for score, text in sorted(zip(self.totals[utterance].tolist(), tokens.tolist(), strict=True), reverse=True):
            if len(finished.texts) < self.enough and score > -torch.inf:
                finished.texts.append((tuple(text), score))

    def select(self, utterances: Tensor) -> None:
        """Keep these utterances."""
        self.totals = self.totals[utterances]


class Sample:
    """Draws `best_of` texts for each utterance at a temperature; one seed gives one set of texts."""

    def __init__(self, n_utterances: int, options: DecodeOptions, end: int, temperature: float):
        self.size, self.end, self.temperature = options.best_of, end, temperature
        # One for each, so that the company an utterance keeps in a batch does not change its text.
        self.rngs = [torch.Generator().manual_seed(options.seed) for _ in range(n_utterances)]
        self.totals = torch.zeros(n_utterances, self.size)
        self.ended = torch.zeros(n_utterances, self.size, dtype=torch.bool)

    def step(self, logprobs: Tensor, tokens: Tensor, finished: list[_Finished]) -> tuple[Tensor, Tensor, Tensor]:
        """As Beam.step; rows stay where they are."""
        logprobs = logprobs.cpu()
        # One number per row through the running sum of the chances: 2 ms where torch.multinomial takes 15.
        summed = (logprobs / self.temperature).softmax(dim=-1).cumsum(dim=-1)
        drawn = torch.cat([torch.rand(self.size, 1, generator=rng) for rng in self.rngs]) * summed[:, -1:]
        drawn = drawn.minimum(summed[:, -1:] * (1 - 1e-6))  # rounding up to the whole sum would pick the last token
        chosen = torch.searchsorted(summed, drawn, right=True)[:, 0]
        gained = logprobs.gather(1, chosen[:, None])[:, 0].view_as(self.totals)
        self.totals += gained.masked_fill(self.ended, 0.0)
        ends = (chosen == self.end).view_as(self.ended) & ~self.ended
        for utterance, draw in ends.nonzero().tolist():
            text = tuple(tokens[utterance * self.size + draw].tolist())
            finished[utterance].texts.append((text, self.totals[utterance, draw].item()))
        self.ended |= ends
        return torch.arange(len(chosen)), chosen, self.ended.all(dim=1)

    def give_up(self, utterance: int, tokens: Tensor, finished: _Finished) -> None:
        """As Beam.give_up."""
        for draw in (~self.ended[utterance]).nonzero()[:, 0].tolist():
            finished.texts.append((tuple(tokens[draw].tolist()), self.totals[utterance, draw].item()))

    def select(self, utterances: Tensor) -> None:
        """Keep these utterances."""
        self.totals, self.ended = self.totals[utterances], self.ended[utterances]
        self.rngs = [self.rngs[i] for i in utterances.tolist()]


def search(scorers: Sequence[Scorer], prompt: Tensor, strategy: Beam | Sample, *, rules: Sequence[Rule] = (),
           max_tokens: int = 224, length_penalty: float = 1.0) -> list[tuple[tuple[int, ...], float]]:
    """The best text of each utterance with its score, as (tokens, sum of weighted log-probabilities).

    prompt: (B, P) int64. The first scorer's logits are normalised after the rules; further ones are added as they
    come. Utterances that are done leave the batch.
    """
    size, n_prompt = strategy.size, prompt.shape[1]
    tokens = prompt.repeat_interleave(size, dim=0)
    everyone = [_Finished() for _ in range(len(prompt))]
    active = list(range(len(prompt)))
    for n_written in range(max_tokens):
        scores = scorers[0].score(tokens)
        for rule in rules:
            rule(scores, tokens)
        logprobs = scorers[0].weight * scores.log_softmax(dim=-1)
        for scorer in scorers[1:]:
            logprobs = logprobs + scorer.weight * scorer.score(tokens)
        finished = [everyone[i] for i in active]
        rows, chosen, done = strategy.step(logprobs, tokens[:, n_prompt:], finished)
        rows, chosen = rows.to(tokens.device), chosen.to(tokens.device)
        tokens = torch.cat([tokens[rows], chosen[:, None]], dim=1)
        if n_written + 1 == max_tokens:
            break
        utterances = None
        if done.any():
            if done.all():
                break
            keep = (~done).nonzero()[:, 0]
            kept_rows = (keep[:, None] * size + torch.arange(size)).flatten().to(tokens.device)
            rows, tokens = rows[kept_rows], tokens[kept_rows]
            strategy.select(keep)
            active = [active[i] for i in keep.tolist()]
            utterances = keep.to(tokens.device)
        for scorer in scorers:
            scorer.select(rows, utterances)
    for place, utterance in enumerate(active):
        texts = tokens[place * size:(place + 1) * size, n_prompt:]
        strategy.give_up(place, texts, everyone[utterance])
    return [texts.best(length_penalty) for texts in everyone]


def compression_ratio(text: str) -> float:
    """Bytes over zlib-compressed bytes: about 1 to 2 for speech, above 2.4 for loops (Whisper's measure)."""
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))


def decode(model: AVSR, tokenizer, memory: Memory, prompts: list[list[int]], *, suppress: tuple[int, ...] = (),
           suppress_begin: tuple[int, ...] = (), options: DecodeOptions = DecodeOptions()) -> list[Hypothesis]:
    """The text of each utterance, with Whisper's guards: what loops or is not believed is tried again, warmer.

    prompts: one list of tokens per utterance, all of the same length. `tokenizer` is a text.Tokenizer.
    Returns a hypothesis per utterance; its tokens are empty where there is no speech.
    """
    best: list[Hypothesis] = [None] * memory.n_utterances   # type: ignore[list-item]
    todo = list(range(memory.n_utterances))
    n_prompt = len(prompts[0])
    specials = range(tokenizer.end + 1, model.dims.n_vocab)  # languages, tasks, timestamps: none of them is text
    rules = [Suppress(tuple({*suppress, *specials}), suppress_begin, n_prompt)]
    device = memory.device
    for temperature in options.temperatures:
        part = memory if len(todo) == memory.n_utterances else memory.select(torch.tensor(todo, device=device))
        scorer = DecoderScorer(model, part, no_speech_token=tokenizer.no_speech, start_token=tokenizer.start)
        strategy = (Sample(len(todo), options, tokenizer.end, temperature) if temperature > 0
                    else Beam(len(todo), options, tokenizer.end))
        texts = search([scorer], torch.tensor([prompts[i] for i in todo], device=device), strategy, rules=rules,
                       max_tokens=min(options.max_tokens, model.dims.n_context - n_prompt - 1),   # the end has its place too
                       length_penalty=options.length_penalty)
        for i, (tokens, logprob), no_speech in zip(todo, texts, scorer.no_speech.tolist(), strict=True):
            best[i] = Hypothesis(tokens, logprob, no_speech, temperature)
        todo = [i for i in todo if _fails(best[i], tokenizer, options)]
        if not todo:
            break
    return [replace(text, tokens=()) if _is_silence(text, options) else text for text in best]


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
