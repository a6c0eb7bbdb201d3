"""How a recogniser would write given words: "bin blue at f two" is "Bin blue at F2." to Whisper.

    words of Candidates, Memory -> the most likely tokens among all spellings of these words, and their log-probability
The words are those of text.normalise. Spellings differ in capitals, digits, hyphens and punctuation. A beam search over the
tokens of all candidates at once finds the best; prefixes that candidates share go through the network once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from avsr import decode
from avsr.combine.candidates import Words
from avsr.memory import Memory
from avsr.models.decoder import Cache
from avsr.recogniser import Recogniser
from avsr.text import NUMBERS, normalise

COMMA, SENTENCE_ENDS = ",", (".", "?", "!")
MARKS = ".,?!:;\"()"
N_ROWS = 5                                                  # spellings of an utterance that go through the network at once
Tokens = tuple[int, ...]
VALUES = {word: str(value) for value, word in enumerate(NUMBERS)}


@dataclass(frozen=True)
class Candidate:
    """A text as words that are compared. bonus: what is added to its log-probability, in nats a letter, for its total score."""

    words: Words
    bonus: float = 0.0


@dataclass(frozen=True)
class Spelled:
    """A candidate as the recogniser would write it: tokens, and their log-probability, the end's included."""

    tokens: Tokens
    log_prob: float


@dataclass(frozen=True)
class Known:
    """What a search by the same model found before.

    texts: those of each utterance. Their words may be spelt as there, with a full stop after those that have one there;
    elsewhere a full stop stands only at the end, because a text that the model does not hear gets one after every word ("Bin.
    Blue. At."). totals: the best total score of each utterance; candidates that cannot exceed it, or are not among the most
    promising, are given up: their log-probability is -inf. cache: of the memory, so that it need not be made again.
    """

    texts: Sequence[Sequence[str]] | None = None
    totals: Sequence[float] | None = None
    cache: Cache | None = None


NOTHING = Known()


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

    def __init__(self, recogniser: Recogniser, *, beam: int = 2):
        self.recogniser, self.beam = recogniser, beam
        self._forms: dict[tuple[str, bool], tuple[Tokens, ...]] = {}
        tokenizer = recogniser.tokenizer
        self.comma = [tokens] if (tokens := tokenizer.encode(COMMA)) else []
        self.sentence_ends = [tokens for mark in SENTENCE_ENDS if (tokens := tokenizer.encode(mark))]

    def spell(self, memory: Memory, candidates: Sequence[Sequence[Candidate]], language: str = "en", *,
              known: Known = NOTHING) -> list[list[Spelled]]:
        """The best spelling of each candidate of B utterances."""
        return _Run(self, memory, candidates, language, known).run()

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

    def __init__(self, search: SpellingSearch, memory: Memory, candidates: Sequence[Sequence[Candidate]], language: str,
                 known: Known):
        self.own = [_own_spellings(texts) for texts in known.texts or [()] * len(candidates)]
        self.search, self.candidates, self.prunes = search, candidates, known.totals is not None
        self.best = [-np.inf] * len(candidates) if known.totals is None else list(known.totals)
        self.letters = [[list(accumulate((len(word) + 1 for word in one.words), initial=1)) for one in of_one]
                        for of_one in candidates]
        recogniser = search.recogniser
        self.model, self.end, self.device = recogniser.model, recogniser.tokenizer.end, recogniser.device
        self.prompt = recogniser.tokenizer.prompt(language)
        self.cache = self.model.start(memory) if known.cache is None else known.cache.again()
        of = recogniser.checkpoint                          # as in the search, so that its scores can be compared
        self.filter = decode.text_filter(self.model, recogniser.tokenizer, len(self.prompt), of.suppress, of.suppress_begin)
        self.done: list[dict[int, Spelled]] = [{} for _ in candidates]

    def run(self) -> list[list[Spelled]]:
        """See SpellingSearch.spell."""
        alive = {i: [_Partial(n, 0, (), (), 0.0) for n in range(len(of_one))] for i, of_one in enumerate(self.candidates)}
        scores = self._log_probs(torch.tensor([self.prompt] * len(alive), device=self.device), {i: [()] for i in alive})
        room = (self.model.dims.n_context or 10**6) - len(self.prompt) - 1
        for _ in range(room):
            before = {i: list(of_one) for i, of_one in scores.items()}
            alive = {i: longer for i, of_one in alive.items() if (longer := self._extended(i, of_one, scores[i]))}
            if not alive:
                break
            scores = self._step(before, alive)
        missing = Spelled((), -np.inf)
        return [[done.get(i, missing) for i in range(len(given))]
                for done, given in zip(self.done, self.candidates, strict=True)]

    def _log_probs(self, tokens: torch.Tensor, prefixes: Mapping[int, list[Tokens]]) -> dict[int, dict[Tokens, np.ndarray]]:
        """The log-probabilities (V,) of what follows each prefix of each utterance, whose last tokens are given."""
        scores = self.model.step(tokens, self.cache)
        self.filter(scores, tokens)
        by_row = scores.log_softmax(dim=-1).view(len(prefixes), -1, scores.shape[1]).float().cpu().numpy()
        return {i: dict(zip(of_one, rows, strict=False)) for (i, of_one), rows in zip(prefixes.items(), by_row, strict=True)}

    def _step(self, before: Mapping[int, list[Tokens]],
              alive: Mapping[int, list[_Partial]]) -> dict[int, dict[Tokens, np.ndarray]]:
        """A step of the network for every prefix that is still needed. Utterances that are done leave the batch."""
        prefixes = {i: list(dict.fromkeys(one.written for one in of_one)) for i, of_one in alive.items()}
        n_rows, n_before, place = max(map(len, prefixes.values())), max(map(len, before.values())), list(before)
        rows, tokens = [], []
        for i, of_one in prefixes.items():
            first, number = place.index(i) * n_before, {prefix: n for n, prefix in enumerate(before[i])}
            chosen = [(first + number[prefix[:-1]], prefix[-1]) for prefix in of_one]
            chosen += [chosen[-1]] * (n_rows - len(chosen))
            rows += [row for row, _ in chosen]
            tokens += [token for _, token in chosen]
        self.cache.select_rows(torch.tensor(rows, device=self.device))
        if len(prefixes) < len(before):
            self.cache.select_utterances(torch.tensor([place.index(i) for i in prefixes], device=self.device))
        return self._log_probs(torch.tensor(tokens, device=self.device)[:, None], prefixes)

    def _extended(self, utterance: int, alive: list[_Partial], scores: Mapping[Tokens, np.ndarray]) -> list[_Partial]:
        """The best continuations of the spellings of an utterance's candidates; those that end are kept in `done`."""
        longer: dict[int, dict[tuple[Tokens, int, Tokens], _Partial]] = {}
        for one in alive:
            words, values = self.candidates[utterance][one.candidate].words, scores[one.written]
            for token, n_words, pending, mark in self._continuations(one, words, self.own[utterance]):
                log_prob = one.log_prob + float(values[token])
                if token == self.end:
                    self._finish(utterance, one.candidate, Spelled(one.written, log_prob))
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
        return self._pruned(utterance, out) if self.prunes else out

    def _finish(self, utterance: int, candidate: int, spelled: Spelled) -> None:
        """Keep a spelling that ended, if it is the best of its candidate."""
        best = self.done[utterance].get(candidate)
        if best is None or best.log_prob < spelled.log_prob:
            self.done[utterance][candidate] = spelled
            total = spelled.log_prob / self.letters[utterance][candidate][-1] + self.candidates[utterance][candidate].bonus
            self.best[utterance] = max(self.best[utterance], total)

    def _pruned(self, utterance: int, partials: list[_Partial]) -> list[_Partial]:
        """Without those that can no longer win, and of the others the N_ROWS most promising."""
        def promise(one: _Partial) -> tuple[float, float]:
            """The most that the total score can be, and what it will be if the rest is as likely, letter by letter."""
            letters, bonus = self.letters[utterance][one.candidate], self.candidates[utterance][one.candidate].bonus
            return one.log_prob / letters[-1] + bonus, one.log_prob / letters[one.n_words] + bonus

        rated = [(*promise(one), one) for one in partials]
        possible = sorted((one for one in rated if one[0] > self.best[utterance]), key=lambda one: -one[1])
        kept: dict[Tokens, None] = {}
        out = []
        for _, _, one in possible:
            if one.written in kept or len(kept) < N_ROWS:
                kept[one.written] = None
                out.append(one)
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
