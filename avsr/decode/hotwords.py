"""Hotwords: words that the user expects, such as names, made more likely in the search.

    names -> Hotwords: a trie of their letters -> HotwordScorer: tokens (N, L) -> (N, V)
Every letter of a hotword that is written from the beginning of a word gains one unit; a hypothesis that leaves the word before
its end pays it all back (contextual biasing by shallow fusion with a prefix tree: Zhao et al. 2019, Interspeech). The trie is
of letters, not of tokens, so that every way to split a name into tokens is helped alike, for Whisper's tokens, SentencePiece's
and letters. Capitals and small letters count as the same. A hotword gains once in a text: after that the network has read it,
and repeated gains made Whisper write one word over and over. Where a phrase is left, words within it gain nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avsr.arrays import Array, gather, like
from avsr.errors import AvsrError
from avsr.textfiles import NotText, read_text

MOST_WORDS, MOST_LETTERS = 5000, 100                        # of a list of names and terms; a book has more words than that
WITHIN_WORDS = "'’\ufffd"                                   # beside letters and digits; U+FFFD is part of a character
ROOT, DEAD = 0, -1                                          # at the beginning of a word; within a word that is no hotword


@dataclass
class _Node:
    """A prefix of hotwords. depth: its letters, whose units are paid back if no hotword follows from here."""

    depth: int
    children: dict[str, int] = field(default_factory=dict)
    is_end: bool = False


class _State(NamedTuple):
    """Where a text stands. at: the number of a node; used: the nodes of hotwords that it holds already."""

    at: int = ROOT
    used: frozenset[int] = frozenset()


def is_boundary(letter: str) -> bool:
    """Whether a letter cannot be within a word; False for no letter."""
    return bool(letter) and not letter.isalnum() and letter not in WITHIN_WORDS


class Hotwords:
    """A trie of hotwords and phrases. words: as the user wrote them."""

    def __init__(self, words: Iterable[str]):
        """Raises AvsrError for no word, too many, and words that are too long or have no letter."""
        self.words = tuple(dict.fromkeys(" ".join(word.split()) for word in words if word.strip()))
        if not self.words:
            raise AvsrError("hotwords: no word in the list.  Write them separated by commas, or one a line in a file.")
        if len(self.words) > MOST_WORDS:
            raise AvsrError(f"hotwords: {len(self.words)} words, at most {MOST_WORDS} can be used: a list that holds every "
                            "word helps none.  Give names and terms alone, or train a language model on the text.")
        if long := next((word for word in self.words if len(word) > MOST_LETTERS), None):
            raise AvsrError(f"hotwords: {long[:40]!r}... has {len(long)} letters, at most {MOST_LETTERS} are one word or "
                            "phrase.  Separate words by commas, or write one a line.")
        if bad := next((word for word in self.words if not any(map(str.isalnum, word))), None):
            raise AvsrError(f"hotwords: {bad!r} has no letter or digit.  Take it out of the list.")
        self.nodes = [_Node(0)]
        for word in self.words:
            self._add(word.casefold())

    @classmethod
    def parse(cls, text: str | Path | Sequence[str]) -> Hotwords:
        """From a list, from words with commas, or from a file with one a line; a text that names a file is one. Raises
        AvsrError."""
        if not isinstance(text, str | Path):
            return cls(text)
        path = Path(text)
        try:
            if not (isinstance(text, Path) or path.is_file()):
                return cls(str(text).split(","))
            return cls(read_text(path).splitlines())
        except NotText as error:
            raise AvsrError(f"{path}: {error}.  Save the list of hotwords as UTF-8.") from error
        except OSError as error:
            raise AvsrError(f"hotwords {str(text)[:60]!r}: cannot be read ({error.strerror}).  Name a file with one word a "
                            "line, or write the words separated by commas.") from error

    def _add(self, word: str) -> None:
        at = ROOT
        for letter in word:
            children = self.nodes[at].children
            if letter not in children:
                children[letter] = len(self.nodes)
                self.nodes.append(_Node(self.nodes[at].depth + 1))
            at = children[letter]
        self.nodes[at].is_end = True

    def step(self, at: int, letter: str) -> int:
        """The node after one more letter."""
        after = None if at == DEAD else self.nodes[at].children.get(letter.casefold())
        if after is not None:
            return after
        return ROOT if is_boundary(letter) else DEAD

    def kept(self, state: _State) -> bool:
        """Whether a word that ends here is a hotword that the text does not hold yet."""
        return state.at > ROOT and self.nodes[state.at].is_end and state.at not in state.used

    def depth(self, at: int) -> int:
        """The units that may still be paid back at a node."""
        return 0 if at == DEAD else self.nodes[at].depth

    def left(self, state: _State) -> int:
        """The units paid back, as a negative number, where a word ends here."""
        return 0 if self.kept(state) else -self.depth(state.at)

    def walk(self, state: _State, text: str) -> tuple[_State, int]:
        """The state after some more text, and the units that it gained or paid back."""
        total = 0
        for letter in text:
            after = self.step(state.at, letter)
            if after > ROOT:
                total += 1
            else:
                total += self.left(state) if after == ROOT else -self.depth(state.at)
            ended = after == ROOT and self.kept(state)
            state = _State(after, state.used | {state.at} if ended else state.used)
        return state, total

    def units(self, text: str) -> int:
        """The units that a whole text gains: the letters of the hotwords in it."""
        state, total = self.walk(_State(), text)
        return total + self.left(state)


class Vocabulary:
    """The texts of a tokenizer's tokens as a trie, to find quickly which tokens go on with a hotword."""

    def __init__(self, texts: Sequence[str]):
        self.texts = texts
        self.tokens: list[list[int]] = [[]]
        self.children: list[dict[str, int]] = [{}]
        for token, text in enumerate(texts):
            at = 0
            for letter in text:
                if letter not in self.children[at]:
                    self.children[at][letter] = len(self.tokens)
                    self.tokens.append([])
                    self.children.append({})
                at = self.children[at][letter]
            if text:
                self.tokens[at].append(token)

    @cached_property
    def of_several(self) -> list[int]:
        """The few tokens that hold the end of a word after its beginning, such as `c-a` and `c,`."""
        inside = f"[\\w{WITHIN_WORDS}]"
        return [token for token, text in enumerate(self.texts) if re.search(f"{inside}[^\\w{WITHIN_WORDS}]", text)]

    @cached_property
    def ends_word(self) -> np.ndarray:
        """(V,) float32: 1 for a token whose first letter cannot be within a word."""
        return np.array([is_boundary(text[:1]) for text in self.texts], np.float32)

    def starting(self, letters: Sequence[str]) -> list[int]:
        """The tokens that begin with one of these letters."""
        return [token for token, text in enumerate(self.texts) if text[:1] in letters] if letters else []


class HotwordScorer:
    """A decode.Scorer and PartialScorer, made for one search: units of each next token, `weight` nats each.

    Of most tokens it is enough to know whether they end the word or go on with another; those that go on with a hotword are
    found by walking both tries together, once for each node of the hotwords' trie.
    """

    def __init__(self, hotwords: Hotwords, vocabulary: Vocabulary, *, end: int, n_prompt: int, weight: float):
        self.hotwords, self.vocabulary, self.end, self.weight, self.n_read = hotwords, vocabulary, end, weight, n_prompt
        self.ends_word = vocabulary.ends_word
        self.states: list[_State] = []
        self.found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def score(self, tokens: Array) -> Array:
        """(N, L) int64 -> (N, V) float32, of the library and on the device of `tokens`."""
        self._advance(tokens)
        states = self.states
        ended = np.array([self.hotwords.left(one) for one in states], np.float32)
        going_on = np.array([-self.hotwords.depth(one.at) for one in states], np.float32)
        scores = going_on[:, None] + (ended - going_on)[:, None] * self.ends_word
        for row, one in enumerate(states):
            ids, units, after_end = self._going_on(one.at)
            scores[row, ids] = units + ended[row] * after_end
            for token in self.vocabulary.of_several:
                scores[row, token] = self.hotwords.walk(one, self.vocabulary.texts[token])[1]
        scores[:, self.end] = ended
        return like(tokens, scores)

    def score_partial(self, tokens: Array, candidates: Array) -> Array:
        """As `score`, but only the columns `candidates` (N, C) int64 -> (N, C) float32."""
        return gather(self.score(tokens), candidates)

    def select(self, rows: Array, utterances: Array | None) -> None:
        """See Scorer."""
        self.states = [self.states[row] for row in rows.tolist()]

    def _advance(self, tokens: Array) -> None:
        if not self.states:
            self.states = [_State()] * len(tokens)
        assert len(self.states) == len(tokens), "select was not called"
        for column in tokens[:, self.n_read:].T.tolist():
            self.states = [self.hotwords.walk(state, self.vocabulary.texts[int(token)])[0]
                           for state, token in zip(self.states, column, strict=True)]
        self.n_read = tokens.shape[1]

    def _going_on(self, at: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The tokens that lead from a node to another one of a hotword, (n,) int64, their units, without those paid back where
        a word ended, (n,) float32, and whether a word ended, (n,) float32."""
        if at not in self.found:
            # A space that goes on with a phrase does not end the word: what leaves the phrase after it pays everything back.
            phrase = [letter for letter in self.hotwords.nodes[at].children if is_boundary(letter)] if at != DEAD else []
            rows = {token: (-self.hotwords.depth(at), False) for token in self.vocabulary.starting(phrase)}
            todo = [(0, at, 0, False)]
            while todo:
                place, node, units, ended = todo.pop()
                for letter, child in self.vocabulary.children[place].items():
                    after = self.hotwords.step(node, letter)
                    if after > ROOT or (after == ROOT and not place):
                        gained, now_ended = (units + 1, ended) if after > ROOT else (0, True)
                        rows |= {token: (gained, now_ended) for token in self.vocabulary.tokens[child] if after > ROOT}
                        todo.append((child, after, gained, now_ended))
            values = np.array(list(rows.values()), np.float32).reshape(-1, 2)
            self.found[at] = np.array(list(rows), np.int64), values[:, 0], values[:, 1]
        return self.found[at]
