"""Who said what: windows with speaker turns in, pieces to be recognised, persons of words, and names of speakers out.

    Window with turns -> pieces, cut where the speaker changes -> words -> persons of each -> SPEAKER_00, SPEAKER_01, ...
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise

import numpy as np

from avsr.rates import VIDEO_FPS
from avsr.speakers import SpeakerTurn
from avsr.stream import Window
from avsr.transcribe.windows import WrittenWord
from avsr.transcript import Segment, Word

SHORTEST_PIECE = 25                                         # frames; a shorter turn is recognised with its neighbours


def pieces(window: Window, shortest: int = SHORTEST_PIECE) -> list[Window]:
    """The window in pieces of at least `shortest` frames, cut where the speaker changes; itself if it has no turns."""
    if window.turns is None:
        return [window]
    edges = [window.turns[0].start_frame, *(turn.end_frame for turn in window.turns)]
    while len(edges) > 2:
        lengths = np.diff(edges)
        least = int(lengths.argmin())
        if lengths[least] >= shortest:
            break
        before, after = (lengths[i] if 0 <= i < len(lengths) else np.inf for i in (least - 1, least + 1))
        del edges[least if before <= after else least + 1]
    first = window.segment.start_frame
    return [window.part(start - first, end - first) for start, end in pairwise(edges)]


def by_speaker(words: Sequence[WrittenWord],
               turns: Sequence[SpeakerTurn] | None) -> Iterator[tuple[tuple[int, ...] | None, list[WrittenWord]]]:
    """Runs of words that the same persons say; None if there are no turns."""
    if turns is None:
        yield None, list(words)
        return
    for persons, run in groupby(words, key=lambda one: _persons(one.word, turns)):
        yield persons, list(run)


def _persons(word: Word, turns: Sequence[SpeakerTurn]) -> tuple[int, ...]:
    """Those whose turn it is in the middle of a word."""
    middle = (word.start + word.end) / 2 * VIDEO_FPS
    return next((turn.persons for turn in turns if middle < turn.end_frame), turns[-1].persons)


class SpeakerNames:
    """Names the persons of a recording SPEAKER_00, SPEAKER_01 and so on, in the order in which they are first heard."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._seen = self._apart = False                    # is anybody seen; do lips and sound come too far apart?
        self._named = self._unnamed = False                 # has some text a speaker; has some none?

    def count(self, window: Window) -> None:
        """A window before it is recognised."""
        self._seen |= window.seen is not None and bool(window.seen.any())
        self._apart |= window.apart

    def name(self, segment: Segment, persons: tuple[int, ...] | None) -> Segment:
        """The segment and its words with the names of the persons who say it; call it in the order of time."""
        if persons is None:
            return segment
        names = self.names(persons)
        return replace(segment, speakers=names, words=tuple(replace(word, speakers=names) for word in segment.words))

    def names(self, persons: tuple[int, ...]) -> tuple[str, ...]:
        """The names of the persons who say a word; call it in the order of time."""
        self._named, self._unnamed = self._named or bool(persons), self._unnamed or not persons
        return tuple(f"SPEAKER_{self._numbers.setdefault(person, len(self._numbers)):02d}" for person in persons)

    def problems(self, recording: str) -> list[str]:
        """A sentence if there is text and none of it has a speaker."""
        if self._named or not self._unnamed:
            return []
        why = "nobody in sight speaks, as far as lips and sound tell" if self._seen else "nobody is seen while somebody speaks"
        why = "lips and sound are too far apart to tell who speaks" if self._apart else why
        return [f"{recording}: {why}, so no text has the name of a speaker."]
