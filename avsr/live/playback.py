"""Recordings played as if they were being made: when is each word committed, with and without the time of computing?

    Clips of a recording -> pieces at the times at which they would have come -> LiveRecogniser -> Played: words with times
The times are those of a simulated clock, to which the seconds that each step really took are added, so that a recording
that leaves time to spare is played faster than it was made. A recording of 30 minutes shows in 10 whether recognition keeps up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from avsr import media
from avsr.live.recogniser import LiveRecogniser, LiveUpdate
from avsr.rates import frames_to_seconds
from avsr.transcript import Transcript, Word

PIECE_FRAMES = 2                      # 80 ms: a sound card's buffer, two pictures of a camera


@dataclass(frozen=True)
class EmittedWord:
    """A word and when it was committed, in seconds from the start of the recording.

    unaware_s: how much of the recording had come (computation-unaware). aware_s: the clock at that time, where the computation
    takes time as well (computation-aware); both as in SimulEval (Ma et al. 2020).
    """

    word: Word
    unaware_s: float
    aware_s: float


@dataclass
class Played:
    """What came of a recording that was played.

    behind_s: at each update, by how many seconds the clock was ahead of what had been taken in. busy_s: seconds of
    computation. duration_s: of the recording.
    """

    words: list[EmittedWord] = field(default_factory=list)
    behind_s: list[float] = field(default_factory=list)
    busy_s: float = 0.0
    duration_s: float = 0.0
    transcript: Transcript | None = None


def play(clips: Iterable[media.Clip], live: LiveRecogniser, *,
         on_update: Callable[[LiveUpdate, float], None] | None = None) -> Played:
    """Play a recording, given in consecutive Clips of a few frames, to a live recogniser; each comes when its last frame ends.

    on_update: called with each update and the clock in seconds.
    """
    played, now = Played(), 0.0

    def taken(update: LiveUpdate, clock: float) -> None:
        played.words += [EmittedWord(word, update.end_s, clock) for word in update.committed]
        played.behind_s.append(clock - update.end_s)
        if on_update is not None:
            on_update(update, clock)

    for clip, following in _with_next(iter(clips)):
        now = max(now, frames_to_seconds(clip.start_frame + clip.n_frames))
        began = time.perf_counter()
        live.add(clip)
        next_comes = None if following is None else frames_to_seconds(following.start_frame + following.n_frames)
        spent = time.perf_counter() - began
        waits = next_comes is None or now + spent < next_comes      # else the next piece has come already: take it in first
        if waits and live.due:
            update = live.update()
            spent = time.perf_counter() - began
            taken(update, now + spent)
        now, played.busy_s = now + spent, played.busy_s + spent
    began = time.perf_counter()
    update = live.finish()
    spent = time.perf_counter() - began
    played.busy_s += spent
    taken(update, now + spent)
    played.duration_s, played.transcript = update.end_s, live.transcript()
    return played


def _with_next(clips: Iterator[media.Clip]) -> Iterator[tuple[media.Clip, media.Clip | None]]:
    """Each clip with the one after it."""
    before = next(clips, None)
    while before is not None:
        following = next(clips, None)
        yield before, following
        before = following
