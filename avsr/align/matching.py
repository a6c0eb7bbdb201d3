"""Where in a recording a given text lies: what a recogniser heard there is laid beside it.

    given words + heard words with times -> Matching: Sections, which are aligned one by one, and Misfits, which are not
Words that both have in common hold the text to the recording, as in SailAlign (Katsamanis et al. 2011) and gentle. Between
two sections the text was not said, or what is said is not in the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from avsr.align.given import GivenWord
from avsr.text import normalise
from avsr.transcript import Word

LONG_RUN = 4                                                # words that differ in a row: fewer are the recogniser's mistakes
LONG_EDGE = 6                                               # the same at the start and the end of the recording
SHORTEST_WORD = 0.1                                         # s: words that have less time each were not said
MOST_UNLIKE = 0.75                                          # character errors for each given character: it is another text
LEAD = 1.0                                                  # s before the first heard word, and after the last
UNHEARD = 0.5                                               # s for each given word before the first that was heard
SHORTEST_SECTION = 3.0                                      # s
CONTEXT = 0.05                                              # s around the words beside a section


@dataclass(frozen=True)
class Section:
    """Given words `first` to before `last`, said from start_s to end_s. Of them the words from `kept_first` to before
    `kept_last` belong to this section; those around them are said on its edges, and belong to its neighbours."""

    first: int
    last: int
    start_s: float
    end_s: float
    kept_first: int
    kept_last: int


@dataclass(frozen=True)
class Misfit:
    """Given words `first` to before `last` are not what is heard from start_s to end_s; `heard` is. Either may be nothing."""

    first: int
    last: int
    start_s: float
    end_s: float
    heard: str


@dataclass(frozen=True)
class Matching:
    """sections and misfits: in order; every given word is in one of them. n_pieces, n_found: spoken words of the text, and
    how many of them were heard. letter_errors: of what was heard, for each letter of the text. heard_at: the middle of given
    words that were heard, in seconds, by their numbers.
    """

    sections: tuple[Section, ...]
    misfits: tuple[Misfit, ...]
    n_pieces: int
    n_found: int
    letter_errors: float
    heard_at: Mapping[int, float]

    @property
    def unlike(self) -> float:
        """The share of the spoken words of the text that were not heard, 0 to 1."""
        return 1 - self.n_found / self.n_pieces


@dataclass(frozen=True)
class _Run:
    """Spoken words a to b of the text beside c to d of what was heard. same: whether they are the same words."""

    a: int
    b: int
    c: int
    d: int
    same: bool

    @property
    def size(self) -> int:
        return max(self.b - self.a, self.d - self.c)


class _Matcher:
    """One text beside what was heard. said, heard: spoken words; of_said, of_heard: the numbers of their words."""

    def __init__(self, given: Sequence[GivenWord], words: Sequence[Word], duration_s: float):
        self.given, self.duration_s = given, duration_s
        self.said = [one for word in given for one in word.spoken]
        self.of_said = [i for i, word in enumerate(given) for _ in word.spoken]
        pieces = [(piece, word) for word in words for piece in normalise(word.text).split()]
        self.heard, self.times = [piece for piece, _ in pieces], [(word.start, word.end) for _, word in pieces]

    def runs(self) -> list[_Run]:
        """The text and what was heard as runs of the same words and of others, with as many of the same as there can be.

        The least number of word errors would not do: it takes words for mistaken that are only moved, as when the text lacks
        five words and has five others.
        """
        from rapidfuzz.distance import Indel

        if not self.heard:
            return [_Run(0, len(self.said), 0, 0, False)]
        merged = _merged([_Run(one.src_start, one.src_end, one.dest_start, one.dest_end, one.tag == "equal")
                          for one in Indel.opcodes(self.said, self.heard)])
        # One word in common among many others is there by chance, as `the` is in any two texts.
        chance = [0 < i < len(merged) - 1 and run.same and run.b - run.a == 1
                  and merged[i - 1].size + merged[i + 1].size >= LONG_RUN for i, run in enumerate(merged)]
        return _merged([replace(run, same=False) if by_chance else run for run, by_chance in zip(merged, chance, strict=True)])

    def misfit(self, run: _Run) -> Misfit | None:
        """The misfit that a run of other words is; None where the recogniser may just be mistaken."""
        n_said, n_heard = run.b - run.a, run.d - run.c
        before = self.times[run.c - 1][1] if run.c else 0.0
        after = self.times[run.d][0] if run.d < len(self.times) else self.duration_s
        at_edge = run.c == 0 or run.d == len(self.times)
        if n_heard:
            start, end = self.times[run.c][0], self.times[run.d - 1][1]
        else:
            start, end = before, max(before, after) if not at_edge else before
        if not n_said:
            wrong = n_heard >= LONG_RUN
        elif not n_heard:
            wrong = n_said >= LONG_EDGE if at_edge else n_said >= LONG_RUN and after - before < SHORTEST_WORD * n_said
        else:
            wrong = n_said >= LONG_RUN and _unlike(self.said[run.a:run.b], self.heard[run.c:run.d])
        if not wrong:
            return None
        # A word of the text that is partly the same stays with what fits.
        first = self.of_said[run.a] + (0 < run.a < len(self.said) and self.of_said[run.a] == self.of_said[run.a - 1]) \
            if run.a < len(self.said) else len(self.given)
        last = self.of_said[run.b - 1] + 1 if n_said else first
        if n_said and run.b < len(self.said) and self.of_said[run.b] == last - 1:
            last -= 1
        return Misfit(first, max(first, last), start, end, " ".join(self.heard[run.c:run.d]))

    def cuts(self, runs: Sequence[_Run]) -> list[tuple[int, float, float]]:
        """Where a section may be cut, inside runs of the same words: (number of the word after it, time s, pause s)."""
        out = []
        for run in runs:
            for k in range(1, run.b - run.a) if run.same else ():
                (_, end), (start, _) = self.times[run.c + k - 1], self.times[run.c + k]
                if self.of_said[run.a + k] != self.of_said[run.a + k - 1] and start >= end:
                    out.append((self.of_said[run.a + k], (start + end) / 2, start - end))
        return out


def match(given: Sequence[GivenWord], heard: Sequence[Word], duration_s: float, *, longest_s: float) -> Matching:
    """Lay a text beside what a recogniser heard in a recording of `duration_s` seconds. longest_s: of a section, where there is
    a place to cut it."""
    matcher = _Matcher(given, heard, duration_s)
    runs = matcher.runs()
    misfits = [misfit for run in runs if not run.same and (misfit := matcher.misfit(run)) is not None]
    cuts = matcher.cuts(runs)
    sections = []
    edges = [Misfit(0, 0, 0.0, 0.0, ""), *misfits, Misfit(len(given), len(given), duration_s, duration_s, "")]
    for before, after in pairwise(edges):
        if after.first > before.last:
            start, end = before.end_s, max(before.end_s, after.start_s)
            start, end = _around_speech(matcher, runs, before.last, after.first, start, end)
            sections += _divided(before.last, after.first, start, end, cuts, longest_s, heard)
    found = sum(run.b - run.a for run in runs if run.same)
    heard_at = {matcher.of_said[run.a + k]: sum(matcher.times[run.c + k]) / 2
                for run in runs if run.same for k in range(run.b - run.a)}
    return Matching(tuple(sections), tuple(misfits), len(matcher.said), found, _letter_errors(matcher.said, matcher.heard),
                    heard_at)


def _merged(runs: Sequence[_Run]) -> list[_Run]:
    """Neighbours of one kind made one run."""
    out: list[_Run] = []
    for run in runs:
        if out and out[-1].same == run.same:
            out[-1] = replace(out[-1], b=run.b, d=run.d)
        else:
            out.append(run)
    return out


def _unlike(said: Sequence[str], heard: Sequence[str]) -> bool:
    """Whether two runs of words are so unlike that the recogniser did not just misspell."""
    return _letter_errors(said, heard) > MOST_UNLIKE


def _letter_errors(said: Sequence[str], heard: Sequence[str]) -> float:
    """Errors for each letter of the text, spaces left out; 1 where nothing was heard."""
    import jiwer

    return jiwer.cer("".join(said), "".join(heard)) if heard else 1.0


def _around_speech(matcher: _Matcher, runs: Sequence[_Run], first: int, last: int, start: float,
                   end: float) -> tuple[float, float]:
    """The time of given words `first` to before `last`, without the silence far from what was heard of them."""
    found = [(run.a + k, run.c + k) for run in runs if run.same for k in range(run.b - run.a)
             if first <= matcher.of_said[run.a + k] < last]
    if not found:
        return start, end
    n_before = sum(first <= word < last for word in matcher.of_said[:found[0][0]])
    n_after = sum(first <= word < last for word in matcher.of_said[found[-1][0] + 1:])
    return (max(start, matcher.times[found[0][1]][0] - LEAD - UNHEARD * n_before),
            min(end, matcher.times[found[-1][1]][1] + LEAD + UNHEARD * n_after))


def _divided(first: int, last: int, start: float, end: float, cuts: Sequence[tuple[int, float, float]], longest_s: float,
             heard: Sequence[Word]) -> list[Section]:
    """Sections of about `longest_s` seconds at most, cut at the longest pauses between words that were heard as given."""
    places = [(word, time, pause) for word, time, pause in cuts if first < word < last and start < time < end]
    chosen: list[tuple[int, float]] = [(first, start)]
    while end - chosen[-1][1] > longest_s:
        at = chosen[-1][1]
        later = [one for one in places if one[0] > chosen[-1][0] and one[1] >= at + SHORTEST_SECTION]
        near = [one for one in later if one[1] <= at + longest_s] or later[:1]
        if not near:
            break
        word, time, _ = max(near, key=lambda one: one[2])
        chosen.append((word, time))
    chosen.append((last, end))
    out = []
    for (a, begins), (b, ends) in pairwise(chosen):
        # The word on the other side of a cut is aligned as well: a cut between words said without a pause may be late.
        inner_a, inner_b = a > first, b < last
        lead = next((word.start for word in reversed(heard) if word.end <= begins), begins) if inner_a else begins
        tail = next((word.end for word in heard if word.start >= ends), ends) if inner_b else ends
        out.append(Section(a - inner_a, b + inner_b, max(start, min(begins, lead - CONTEXT)),
                           min(end, max(ends, tail + CONTEXT)), a, b))
    return out
