"""`WordScorer`, which adds an n-gram model of words to a beam search over tokens.

    NGrams -> WordScorer: tokens (N, L) -> (N, V)
The model joins the search by shallow fusion (Gulcehre et al. 2015): its weighted log-probabilities are added to the network's.
The network writes parts of words; a word is scored when it is complete, as in pyctcdecode and flashlight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from avsr.arrays import Array, like, to_numpy

if TYPE_CHECKING:
    from avsr.lm.arpa import NGrams


class _State(NamedTuple):
    """A hypothesis: the last words that are complete, and the text since."""

    context: tuple[int, ...]
    pending: str
    next_context: tuple[int, ...]                           # the context once `pending` is complete
    word_score: float                                       # of completing `pending`
    end_score: float                                        # of ending the sentence after it


class WordScorer:
    """Scores words where they are complete: a decode.Scorer and PartialScorer, made for one search.

    The column of a token that begins a word (its text begins with a space) holds the log-probability of the word before
    it, that of the end token also the end of the sentence; the others hold 0. So a whole text gets the log-probability
    of its words, whichever tokens they are made of, and spaces alone complete nothing.
    """

    def __init__(self, ngrams: NGrams, texts: Sequence[str], *, end: int, n_prompt: int, weight: float,
                 word_bonus: float = 0.0, unknown_bonus: float = 0.0):
        """texts: the text of each of the V tokens, '' for special ones; the first `n_prompt` tokens are not text.

        word_bonus: added for each complete word, because language models favour short texts.
        unknown_bonus: added for a word the model does not have; below 0, as <unk> stands for all such words together.
        Both are natural logarithms and, like the rest, multiplied by `weight` in the search.
        """
        self.ngrams, self.texts, self.end, self.weight = ngrams, texts, end, weight
        self.word_bonus, self.unknown_bonus = word_bonus, unknown_bonus
        self.begins_word = np.array([text[:1].isspace() for text in texts], np.float32)    # (V,)
        self.states: list[_State] = []
        self.n_read = n_prompt

    def score(self, tokens: Array) -> Array:
        """(N, L) int64 -> (N, V) float32, of the library and on the device of `tokens`."""
        word_scores, end_scores = self._advance(tokens)
        scores = np.outer(word_scores, self.begins_word)
        scores[:, self.end] = end_scores
        return like(tokens, scores)

    def score_partial(self, tokens: Array, candidates: Array) -> Array:
        """As `score`, but only the columns `candidates` (N, C) int64 -> (N, C) float32."""
        word_scores, end_scores = self._advance(tokens)
        columns = to_numpy(candidates)
        return like(tokens, np.where(columns == self.end, end_scores[:, None],
                                     self.begins_word[columns] * word_scores[:, None]))

    def select(self, rows: Array, utterances: Array | None) -> None:
        """See Scorer: `rows` are among the last scored; which utterances they belong to does not matter here."""
        self.states = [self.states[row] for row in rows.tolist()]

    def _advance(self, tokens: Array) -> tuple[np.ndarray, np.ndarray]:
        """Read the new tokens of (N, L). Returns (N,) float32 twice: of completing a word, and of ending there."""
        if not self.states:
            self.states = [self._state((self.ngrams.start,), "")] * len(tokens)
        assert len(self.states) == len(tokens), "select was not called"
        assert tokens.shape[1] >= self.n_read, "a scorer is made for one search"
        for column in tokens[:, self.n_read:].T.tolist():
            self.states = [self._append(state, self.texts[int(token)])
                           for state, token in zip(self.states, column, strict=True)]
        self.n_read = tokens.shape[1]
        return (np.array([state.word_score for state in self.states], np.float32),
                np.array([state.end_score for state in self.states], np.float32))

    def _append(self, state: _State, text: str) -> _State:
        if text[:1].isspace():
            return self._state(state.next_context, text)
        return self._state(state.context, state.pending + text) if text else state

    def _state(self, context: tuple[int, ...], pending: str) -> _State:
        after, score = context, 0.0
        for word in self.ngrams.word_ids(pending):
            score += self.ngrams.logprob(after, word) + self.word_bonus
            score += self.unknown_bonus if word == self.ngrams.unknown else 0.0
            after = self.ngrams.next_context(after, word)
        return _State(context, pending, after, score, score + self.ngrams.logprob(after, self.ngrams.end))
