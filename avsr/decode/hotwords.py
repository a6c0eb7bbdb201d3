"""Hotwords: words that the user expects, such as names, made more likely in the search.

    names -> Hotwords: a trie of their letters -> HotwordScorer: tokens (N, L) -> (N, V)
Every letter of a hotword that is written from the beginning of a word gains one unit; a hypothesis that leaves the word before
its end pays it all back (contextual biasing by shallow fusion with a prefix tree: Zhao et al. 2019, Interspeech). The trie is
of letters, not of tokens, so that every way to split a name into tokens is helped alike, for Whisper's tokens, SentencePiece's
and letters. Capitals and small letters count as the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from avsr.errors import AvsrError
from avsr.textfiles import NotText, read_text

MOST_WORDS, MOST_LETTERS = 5000, 100                        # of a list of names and terms; a book has more words than that
WITHIN_WORDS = "'’\ufffd"                                   # beside letters and digits; U+FFFD is part of a character
ROOT, DEAD = 0, -1                                          # at the beginning of a word; within a word that is no hotword


@dataclass
class _Node:
    """A prefix of hotwords. depth: its letters; kept: those of the longest hotword within it that ended at a word's end."""

    depth: int
    kept: int = 0
    children: dict[str, int] = field(default_factory=dict)
    is_end: bool = False

    @property
    def pending(self) -> int:
        """Letters whose units are paid back if no hotword follows from here."""
        return self.depth - self.kept


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
        self._keep(ROOT, 0)

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

    def _keep(self, at: int, kept: int) -> None:
        """Set `kept` of a node and of all that follow it; at most MOST_LETTERS deep."""
        self.nodes[at].kept = kept
        for letter, child in self.nodes[at].children.items():
            ended = self.nodes[at].is_end and not (letter.isalnum() or letter in WITHIN_WORDS)
            self._keep(child, self.nodes[at].depth if ended else kept)

    def step(self, at: int, letter: str) -> tuple[int, int]:
        """The node after one more letter, and the units gained or paid back."""
        node = self.nodes[at] if at != DEAD else None
        if node is not None and (after := node.children.get(letter.casefold())) is not None:
            return after, 1
        if letter.isalnum() or letter in WITHIN_WORDS:
            return DEAD, -node.pending if node is not None else 0
        return ROOT, self.left(at)

    def left(self, at: int) -> int:
        """The units paid back where a word ends at a node."""
        return 0 if at == DEAD or self.nodes[at].is_end else -self.nodes[at].pending

    def walk(self, at: int, text: str) -> tuple[int, int]:
        """As `step`, for each letter of a text."""
        total = 0
        for letter in text:
            at, units = self.step(at, letter)
            total += units
        return at, total

    def units(self, text: str) -> int:
        """The units that a whole text gains: the letters of the hotwords in it."""
        at, total = self.walk(ROOT, text)
        return total + self.left(at)


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
        """The few tokens that hold the end of one word and the beginning of another, such as `c-a`."""
        return [token for token, text in enumerate(self.texts) if re.search(r"\w[^\w'’\ufffd]+\w", text)]

    @cached_property
    def ends_word(self) -> Tensor:
        """(V,) float32: 1 for a token whose first letter cannot be within a word."""
        return torch.tensor([float(bool(text) and not (text[0].isalnum() or text[0] in WITHIN_WORDS)) for text in self.texts])


class HotwordScorer:
    """A decode.Scorer and PartialScorer, made for one search: units of each next token, `weight` nats each.

    Of most tokens it is enough to know whether they end the word or go on with another; those that go on with a hotword are
    found by walking both tries together, once for each node of the hotwords' trie.
    """

    def __init__(self, hotwords: Hotwords, vocabulary: Vocabulary, *, end: int, n_prompt: int, weight: float):
        self.hotwords, self.vocabulary, self.end, self.weight, self.n_read = hotwords, vocabulary, end, weight, n_prompt
        self.ends_word = vocabulary.ends_word
        self.states: list[int] = []
        self.found: dict[int, tuple[Tensor, Tensor]] = {}

    def score(self, tokens: Tensor) -> Tensor:
        """(N, L) int64 -> (N, V) float32, on the device of `tokens`."""
        self._advance(tokens)
        trie, device = self.hotwords, tokens.device
        self.ends_word = self.ends_word.to(device)
        ended = torch.tensor([trie.left(at) for at in self.states], dtype=torch.float32, device=device)
        going_on = torch.tensor([0 if at == DEAD else -trie.nodes[at].pending for at in self.states], dtype=torch.float32,
                                device=device)
        scores = going_on[:, None] + (ended - going_on)[:, None] * self.ends_word
        for row, at in enumerate(self.states):
            ids, units = self._going_on(at)
            scores[row, ids.to(device)] = units.to(device)
        scores[:, self.end] = ended
        return scores

    def score_partial(self, tokens: Tensor, candidates: Tensor) -> Tensor:
        """As `score`, but only the columns `candidates` (N, C) int64 -> (N, C) float32."""
        return self.score(tokens).gather(1, candidates)

    def select(self, rows: Tensor, utterances: Tensor | None) -> None:
        """See Scorer."""
        self.states = [self.states[row] for row in rows.tolist()]

    def _advance(self, tokens: Tensor) -> None:
        if not self.states:
            self.states = [ROOT] * len(tokens)
        assert len(self.states) == len(tokens), "select was not called"
        for column in tokens[:, self.n_read:].T.tolist():
            self.states = [self.hotwords.walk(at, self.vocabulary.texts[int(token)])[0]
                           for at, token in zip(self.states, column, strict=True)]
        self.n_read = tokens.shape[1]

    def _going_on(self, at: int) -> tuple[Tensor, Tensor]:
        """The tokens that lead from a node to another one of a hotword, and their units: (n,) int64, (n,) float32."""
        if at not in self.found:
            pairs: list[tuple[int, int]] = []
            todo = [(0, at, 0)]
            while todo:
                place, node, total = todo.pop()
                for letter, child in self.vocabulary.children[place].items():
                    after, units = self.hotwords.step(node, letter)
                    if after != DEAD:
                        pairs += [(token, total + units) for token in self.vocabulary.tokens[child]]
                        todo.append((child, after, total + units))
            pairs += [(token, self.hotwords.walk(at, self.vocabulary.texts[token])[1]) for token in self.vocabulary.of_several]
            self.found[at] = (torch.tensor([token for token, _ in pairs], dtype=torch.long),
                              torch.tensor([units for _, units in pairs], dtype=torch.float32))
        return self.found[at]
