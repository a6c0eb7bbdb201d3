"""How a recogniser would write given words: "bin blue at f two" is "Bin blue at F2." to Whisper.

    words of each candidate, Memory -> the most likely tokens among all spellings of these words, and their log-probability
The words are those of text.normalise. Spellings differ in capitals, digits, hyphens and punctuation. A beam search over the
tokens of all candidates at once finds the best; prefixes that candidates share go through the network once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from avsr import decode
from avsr.combine.candidates import Words
from avsr.models.decoder import Memory
from avsr.recogniser import Recogniser
from avsr.text import NUMBERS, normalise

COMMA, SENTENCE_ENDS = ",", (".", "?", "!")
MARKS = ".,?!:;\"()"
Tokens = tuple[int, ...]
VALUES = {word: str(value) for value, word in enumerate(NUMBERS)}


@dataclass(frozen=True)
class Spelled:
    """A candidate as the recogniser would write it: tokens, and their log-probability, the end's included."""

    tokens: Tokens
    log_prob: float


@dataclass
class _Partial:
    """An unfinished spelling. n_words: words that are written or begun; pending: tokens of the last word that are to come."""

    candidate: int
    n_words: int
    pending: Tokens
    written: Tokens
    log_prob: float
    after_mark: bool = True                                 # whether punctuation cannot follow


class SpellingSearch:
    """Finds how a recogniser writes given words. beam: spellings kept of each candidate."""

    def __init__(self, recogniser: Recogniser, *, beam: int = 4):
        self.recogniser, self.beam = recogniser, beam
        self._forms: dict[tuple[str, bool], tuple[Tokens, ...]] = {}
        tokenizer = recogniser.tokenizer
        self.comma = [tokens] if (tokens := tokenizer.encode(COMMA)) else []
        self.sentence_ends = [tokens for mark in SENTENCE_ENDS if (tokens := tokenizer.encode(mark))]

    def spell(self, memory: Memory, candidates: Sequence[Sequence[Words]], language: str = "en", *,
              written: Sequence[Sequence[str]] | None = None) -> list[list[Spelled]]:
        """The best spelling of each candidate of B utterances, whose words are given.

        written: texts that the recogniser wrote of each utterance: their words may be spelt as there, with a full stop after
        those that have one there. Elsewhere a full stop stands only at the end, because a text that the recogniser does not
        hear gets one after every word ("Bin. Blue. At.").
        """
        return _Run(self, memory, candidates, language, written or [()] * len(candidates)).run()

    def forms(self, words: Sequence[str], at: int, own: Iterable[str] = ()) -> Iterable[tuple[int, Tokens]]:
        """The spellings of the next word, or of several that make a number: how many words, and their tokens. own: more."""
        word = words[at]
        after_letter = at > 0 and len(words[at - 1]) == 1
        key = (word, after_letter)
        if key not in self._forms:
            self._forms[key] = tuple(dict.fromkeys(filter(None, map(self._tokens, _spellings(word, after_letter)))))
        yield from ((1, tokens) for tokens in self._forms[key])
        yield from ((1, tokens) for tokens in map(self._tokens, own) if tokens and tokens not in self._forms[key])
        if at + 1 < len(words) and (value := VALUES.get(f"{word} {words[at + 1]}")) is not None:
            for spelling in (f" {value}", f" {word}-{words[at + 1]}"):
                if tokens := self._tokens(spelling):
                    yield 2, tokens

    def _tokens(self, spelling: str) -> Tokens:
        """The tokens of a spelling; none where the model cannot write it."""
        tokens = self.recogniser.tokenizer.encode(spelling)
        written = self.recogniser.tokenizer.decode(tokens)
        return tuple(tokens) if normalise(written) == normalise(spelling) else ()


def _spellings(word: str, after_letter: bool) -> list[str]:
    """How a word may be written, with the space before it."""
    found = [word, word[:1].upper() + word[1:]]
    if (value := VALUES.get(word)) is not None:
        found.append(value)
    joined = [value, f"-{value}"] if after_letter and value is not None else []
    return [f" {one}" for one in found] + joined


@dataclass(frozen=True)
class _OwnSpellings:
    """How texts spell their words (with the space before each), and the words after which a sentence ends in them."""

    forms: dict[str, set[str]]
    sentence_ends: set[str]


def _own_spellings(texts: Sequence[str]) -> _OwnSpellings:
    found = _OwnSpellings({}, set())
    for one in (one for text in texts for one in text.split()):
        words = normalise(one).split()
        if len(words) == 1:
            found.forms.setdefault(words[0], set()).add(f" {one.strip(MARKS)}")
        if words and one.endswith(SENTENCE_ENDS):
            found.sentence_ends.add(words[-1])
    return found


class _Run:
    """One call of SpellingSearch.spell."""

    def __init__(self, search: SpellingSearch, memory: Memory, candidates: Sequence[Sequence[Words]], language: str,
                 written: Sequence[Sequence[str]]):
        self.own = [_own_spellings(texts) for texts in written]
        self.search, self.candidates, self.n_utterances = search, candidates, memory.n_utterances
        recogniser = search.recogniser
        self.model, self.end, self.device = recogniser.model, recogniser.tokenizer.end, recogniser.device
        self.prompt = recogniser.tokenizer.prompt(language)
        self.cache = self.model.start(memory)
        of = recogniser.checkpoint                          # as in the search, so that its scores can be compared
        self.filter = decode.text_filter(self.model, recogniser.tokenizer, len(self.prompt), of.suppress, of.suppress_begin)
        self.done: list[dict[int, Spelled]] = [{} for _ in candidates]

    def run(self) -> list[list[Spelled]]:
        """See SpellingSearch.spell."""
        alive = [[_Partial(i, 0, (), (), 0.0) for i in range(len(of_one))] for of_one in self.candidates]
        prefixes: list[list[Tokens]] = [[()] for _ in alive]
        scores = self._first()
        room = (self.model.dims.n_context or 10**6) - len(self.prompt) - 1
        while any(alive) and room > 0:
            alive = [self._extended(i, of_one, dict(zip(prefixes[i], scores[i], strict=True)))
                     for i, of_one in enumerate(alive)]
            if not any(alive):
                break
            prefixes, scores = self._step(prefixes, alive)
            room -= 1
        missing = Spelled((), -np.inf)
        return [[done.get(i, missing) for i in range(len(given))]
                for done, given in zip(self.done, self.candidates, strict=True)]

    def _first(self) -> np.ndarray:
        """(B, 1, V) log-probabilities of the first token."""
        prompt = torch.tensor([self.prompt] * self.n_utterances, device=self.device)
        return self._log_probs(prompt)

    def _log_probs(self, tokens: torch.Tensor) -> np.ndarray:
        scores = self.model.step(tokens, self.cache)
        self.filter(scores, tokens)
        scores = scores.log_softmax(dim=-1)
        return scores.view(self.n_utterances, -1, scores.shape[1]).float().cpu().numpy()

    def _step(self, before: list[list[Tokens]], alive: list[list[_Partial]]) -> tuple[list[list[Tokens]], np.ndarray]:
        """A step of the network for every prefix that is still needed: the prefixes, and the scores of what follows each."""
        prefixes = [list(dict.fromkeys(one.written for one in of_one)) for of_one in alive]
        n_rows, n_before = max(map(len, prefixes)), max(map(len, before))
        rows, tokens = [], []
        for i, of_one in enumerate(prefixes):
            number = {prefix: n for n, prefix in enumerate(before[i])}
            chosen = [(i * n_before + number[prefix[:-1]], prefix[-1]) for prefix in of_one]
            chosen += [chosen[-1] if chosen else (i * n_before, self.end)] * (n_rows - len(chosen))
            rows += [row for row, _ in chosen]
            tokens += [token for _, token in chosen]
        self.cache.select_rows(torch.tensor(rows, device=self.device))
        padded = [of_one + [()] * (n_rows - len(of_one)) for of_one in prefixes]
        return padded, self._log_probs(torch.tensor(tokens, device=self.device)[:, None])

    def _extended(self, utterance: int, alive: list[_Partial], scores: Mapping[Tokens, np.ndarray]) -> list[_Partial]:
        """The best continuations of the spellings of an utterance's candidates; those that end are kept in `done`."""
        longer: dict[int, dict[tuple[Tokens, int, Tokens], _Partial]] = {}
        for one in alive:
            words, values = self.candidates[utterance][one.candidate], scores[one.written]
            for token, n_words, pending, mark in self._continuations(one, words, self.own[utterance]):
                log_prob = one.log_prob + float(values[token])
                if token == self.end:
                    best = self.done[utterance].get(one.candidate)
                    if best is None or best.log_prob < log_prob:
                        self.done[utterance][one.candidate] = Spelled(one.written, log_prob)
                    continue
                following = _Partial(one.candidate, n_words, pending, (*one.written, token), log_prob, mark)
                key = (following.written, n_words, pending)
                found = longer.setdefault(one.candidate, {})
                if key not in found or found[key].log_prob < log_prob:
                    found[key] = following
        out = []
        for candidate, found in longer.items():
            best = self.done[utterance].get(candidate)
            kept = sorted(found.values(), key=lambda one: -one.log_prob / max(1, one.n_words))[:self.search.beam]
            out += [one for one in kept if best is None or one.log_prob > best.log_prob]
        return out

    def _continuations(self, one: _Partial, words: Words, own: _OwnSpellings) -> Iterable[tuple[int, int, Tokens, bool]]:
        """What may follow: token, words begun, tokens that must come next, whether no punctuation may follow."""
        if one.pending:
            yield one.pending[0], one.n_words, one.pending[1:], False
            return
        if one.n_words == len(words):
            yield self.end, one.n_words, (), True
        else:
            for n, tokens in self.search.forms(words, one.n_words, own.forms.get(words[one.n_words], ())):
                yield tokens[0], one.n_words + n, tokens[1:], False
        if not one.after_mark:
            marks = [] if one.n_words == len(words) else self.search.comma
            if one.n_words == len(words) or words[one.n_words - 1] in own.sentence_ends:
                marks = marks + self.search.sentence_ends
            for tokens in marks:
                yield tokens[0], one.n_words, tuple(tokens[1:]), True
