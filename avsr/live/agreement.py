"""Which words will not change: those on which two looks at the recording agree, and which end some time before its edge.

    words of each look at the current segment -> Agreement -> committed words, pending words
LocalAgreement-2 is that of Liu, Spanakis and Niehues 2020 (arXiv 2005.11185), as Machacek, Dabre and Bojar 2023 use it with
Whisper (arXiv 2307.14743): the longest common prefix of two hypotheses in a row is final. A word that the attention of the
decoder puts at the edge of the sound is not (AlignAtt, Papi, Turchi and Negri 2023, arXiv 2305.11408): what follows may change
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from avsr.text import normalise
from avsr.transcribe.windows import WrittenWord

SAME = 1e-6                           # seconds
# How many times longer a word waits of which the model is not sure at all. On 20 of GRID's valid clips one after another
# `default` has 0.0 % WER, and 4.2 with 0 and a stable_s that gives the same delay.
UNSURE = 2.0


class Agreement:
    """The words of the current segment.

    stable_s: a word is committed if all looks for so many seconds of the recording agree on it and on all words before it.
    committed: the words that are final, in order. pending: what followed them in the last look.
    """

    def __init__(self, stable_s: float) -> None:
        self.stable_s = stable_s
        self.committed: list[WrittenWord] = []
        self.pending: list[WrittenWord] = []
        self._since: list[float] = []                        # end of the recording at the first look that had each pending word

    def update(self, words: Sequence[WrittenWord], now_s: float, edge_s: float) -> list[WrittenWord]:
        """The words of another look at the segment, from its start on; the words that this commits.

        now_s: where the sound of the look ends, edge_s: a word that ends after this stays pending; seconds from the start of
        the recording.
        """
        tail = self._after_committed(words)
        since = [now_s] * len(tail)
        for i, (new, old) in enumerate(zip(tail, self.pending, strict=False)):
            if _bare(new) != _bare(old):
                break
            since[i] = self._since[i]
        n_final = next((i for i, (one, first) in enumerate(zip(tail, since, strict=True))
                        if now_s - first < self._needed(one) - SAME or one.word.end > edge_s), len(tail))
        self._since = since[n_final:]
        return self._commit(tail[:n_final], tail[n_final:])

    def _needed(self, one: WrittenWord) -> float:
        """For how many seconds looks must agree on a word: stable_s where the model is sure of it, longer where it is not."""
        confidence = 1.0 if one.word.confidence is None else one.word.confidence
        return self.stable_s * (1 + UNSURE * (1 - confidence))

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens of all words of the segment as they were last written."""
        return tuple(token for one in (*self.committed, *self.pending) for token in one.tokens)

    def finish(self, words: Sequence[WrittenWord]) -> list[WrittenWord]:
        """The words of the last look; all of them are committed that come after the committed ones."""
        self._since = []
        return self._commit(self._after_committed(words), [])

    def commit_before(self, time_s: float) -> list[WrittenWord]:
        """Commit the pending words that end before a time, though no two looks agree on them."""
        n_before = next((i for i, one in enumerate(self.pending) if one.word.end > time_s), len(self.pending))
        self._since = self._since[n_before:]
        return self._commit(self.pending[:n_before], self.pending[n_before:])

    def leave(self, before_s: float = float("inf")) -> list[WrittenWord]:
        """The committed words that end before a time, which later looks will not hear any more."""
        n_left = next((i for i, one in enumerate(self.committed) if one.word.end > before_s), len(self.committed))
        left, self.committed = self.committed[:n_left], self.committed[n_left:]
        return left

    def _commit(self, new: list[WrittenWord], rest: list[WrittenWord]) -> list[WrittenWord]:
        end = self.committed[-1].word.end if self.committed else 0.0
        out = []
        for one in new:                                      # times rise, whatever two looks thought of them
            start = max(one.word.start, end)
            end = max(one.word.end, start)
            out.append(replace(one, word=replace(one.word, start=start, end=end)))
        self.committed += out
        self.pending = rest
        return out

    def _after_committed(self, words: Sequence[WrittenWord]) -> list[WrittenWord]:
        """The words that follow the committed ones, though another look may have written those otherwise.

        Of all beginnings of `words` the one is left out that has the smallest edit distance to the committed words; of several,
        the one that ends nearest to where those end.
        """
        if not self.committed:
            return list(words)
        distances = _prefix_distances([_bare(one) for one in self.committed], [_bare(one) for one in words])
        end = self.committed[-1].word.end
        ends = [self.committed[0].word.start, *(one.word.end for one in words)]
        best = min(range(len(distances)), key=lambda n: (distances[n], abs(ends[n] - end)))
        return list(words[best:])


def _bare(one: WrittenWord) -> str:
    """The word without punctuation and capitals."""
    return normalise(one.word.text)


def _prefix_distances(known: Sequence[str], words: Sequence[str]) -> list[int]:
    """The edit distance of `known` to the first n of `words`, for n from 0 to all of them."""
    row = list(range(len(words) + 1))
    for i, one in enumerate(known, start=1):
        before, row = row, [i]
        for j, other in enumerate(words, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (one != other)))
    return row
