"""Windows of a recording to words: what a model leaves out is recognised again, and overlapping windows are joined.

    Windows, Memory -> recognise -> WrittenWindow: words with times and tokens -> joined -> each word once
A Whisper sometimes stops after a few words of a long window, or its text is refused because it resembles a loop: of 44 s with
20 sentences of the Lombard corpus tiny.en wrote the first two and the last six, and its scores were good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from avsr.decode import DecodeOptions, Hypothesis, fails
from avsr.media.level import frame_levels
from avsr.memory import Memory
from avsr.rates import VIDEO_FPS, frames_to_seconds
from avsr.recogniser import Recogniser
from avsr.segment import SpeechSegment, VadOptions, cuts_at_rests, quietest, speech_of_frames
from avsr.speakers import SpeakerTurn
from avsr.stream import Window
from avsr.text import normalise
from avsr.transcript import Word

LONG = 10 * VIDEO_FPS                                       # frames: a shorter window is written at once or not at all
SHORTEST_PART = VIDEO_FPS                                   # frames of a part
MARGIN = 5                                                  # frames before and after a word that may still be that word
MIN_SPEECH = 20                                             # frames of speech in a part that is recognised again: 0.8 s
SMOOTHED = 5                                                # frames over which the level at a cut is averaged


@dataclass(frozen=True)
class WrittenWord:
    """A word with times from the start of the recording, its tokens, and the text that it belongs to.

    start_s: start of what was recognised at once, seconds from the start of the recording.
    """

    word: Word
    tokens: tuple[int, ...]
    text: Hypothesis
    start_s: float


@dataclass(frozen=True)
class WrittenWindow:
    """A window's segment, its words in order, and who speaks when in it, see stream.Window.

    reliability: of the lips, 0 to 1; None without mouths, and where the model does not estimate it.
    """

    segment: SpeechSegment
    words: tuple[WrittenWord, ...]
    turns: tuple[SpeakerTurn, ...] | None = None
    reliability: float | None = None


@dataclass(frozen=True)
class _Task:
    """A window to be recognised. number: of the window that it is a part of. is_hole: whether that one has words around it."""

    number: int
    window: Window
    is_hole: bool = False

    @property
    def is_long(self) -> bool:
        """Whether the window may be longer than what the model writes at once."""
        return self.window.audio is not None and _n_frames(self.window) > LONG


def recognise(recogniser: Recogniser, windows: Sequence[Window], memory: Memory, search: DecodeOptions, language: str, *,
              encode: Callable[[Sequence[Window]], Memory]) -> list[WrittenWindow]:
    """The words of windows, given their memory. encode: makes the memory of the parts that are recognised again.

    A long window whose text fails Whisper's guards is cut in two, instead of being decoded at higher temperatures. Where a long
    window has speech without words, that part is recognised once more, and its text is kept if no guard objects.
    """
    found: list[list[WrittenWord]] = [[] for _ in windows]
    tasks = [_Task(number, window) for number, window in enumerate(windows)]
    while tasks:
        texts, following = _texts(recogniser, tasks, memory, search, language), []
        for task, text in zip(tasks, texts, strict=True):
            if text is None or (not text.tokens and not task.is_hole and not recogniser.model.joint_ctc):
                following += [_Task(task.number, half) for half in halves(task.window)]
        timed = recogniser.align(memory, [() if text is None else text.tokens for text in texts],
                                 [task.window.segment.duration_s for task in tasks], language)
        for task, text, words in zip(tasks, texts, timed, strict=True):
            if text is None:
                continue
            found[task.number] += _absolute(recogniser, task.window.segment, text, words, language)
            if not recogniser.model.joint_ctc:
                following += [_Task(task.number, one, True) for one in unwritten(task.window, words)]
        tasks = following
        memory = encode([task.window for task in tasks]) if tasks else memory
    return [WrittenWindow(window.segment, tuple(sorted(words, key=lambda one: one.word.start)), window.turns)
            for window, words in zip(windows, found, strict=True)]


def sentences(window: Window, reliability: float | None, *, takes_30_s: bool) -> list[Window]:
    """The window; cut where the mouth rests if a model that learnt from single sentences would write only one of them.

    reliability: of the video, None if the model does not estimate it. takes_30_s: whether the model by sound alone takes 30 s.
    With video that is 0 reliable it does what it does by sound alone. Of 24 of GRID's valid clips one after another `default`
    wrote one sentence for each 22 s of sound and lips.
    """
    if window.mouths is None or (takes_30_s and (reliability is None or reliability == 0)):
        return [window]
    return [window.part(a, b) for a, b in pairwise([0, *cuts_at_rests(window.mouths.images), _n_frames(window)])]


def _texts(recogniser: Recogniser, tasks: Sequence[_Task], memory: Memory, search: DecodeOptions,
           language: str) -> list[Hypothesis | None]:
    """The text of each task's window; None for one that is to be cut in two."""
    def decode(rows: Sequence[int], options: DecodeOptions) -> None:
        if rows:
            part = memory if len(rows) == len(tasks) else memory.select(rows)
            for row, text in zip(rows, recogniser.decode(part, options, language), strict=True):
                texts[row] = text

    texts: list[Hypothesis | None] = [None] * len(tasks)
    once = [row for row, task in enumerate(tasks) if (task.is_hole or task.is_long) and not recogniser.model.joint_ctc]
    decode([row for row in range(len(tasks)) if row not in once], search)
    decode(once, replace(search, temperatures=search.temperatures[:1]))
    again = []
    for row in once:
        text = texts[row]
        assert text is not None
        if not fails(text, recogniser.tokenizer, search):
            continue
        if tasks[row].is_hole:
            texts[row] = replace(text, tokens=())
        elif halves(tasks[row].window):
            texts[row] = None
        else:
            again.append(row)
    decode(again, search)
    return texts


def _absolute(recogniser: Recogniser, speech: SpeechSegment, text: Hypothesis, words: Sequence[Word],
              language: str) -> Iterator[WrittenWord]:
    """The words of a text, whose times are from the start of a segment, with times from the start of the recording."""
    for word, tokens in zip(words, recogniser.words(text.tokens, language), strict=True):
        end = min(word.end, speech.duration_s)
        start = round(speech.start_s + min(word.start, end), 3)
        yield WrittenWord(replace(word, start=start, end=round(speech.start_s + end, 3)), tuple(tokens.tokens), text,
                          speech.start_s)


def joined(windows: Iterable[WrittenWindow]) -> Iterator[WrittenWindow]:
    """Windows in order with each word once, where one overlaps the next as speech without a pause was cut."""
    before: WrittenWindow | None = None
    for window in windows:
        if before is not None:
            overlap = before.segment.end_frame - window.segment.start_frame
            if overlap > 0:
                cut_s, reach_s = frames_to_seconds(window.segment.start_frame) + frames_to_seconds(overlap) / 2, overlap / 2
                n_kept, first = n_before_cut([one.word for one in before.words], [one.word for one in window.words], cut_s,
                                             reach_s / VIDEO_FPS)
                before = replace(before, words=before.words[:n_kept])
                window = replace(window, words=window.words[first:])
            yield before
        before = window
    if before is not None:
        yield before


def unwritten(window: Window, words: Sequence[Word]) -> list[Window]:
    """The parts of a long window with at least MIN_SPEECH of speech and no words. words: with times from the window's start."""
    n_frames = _n_frames(window)
    if window.audio is None or n_frames <= LONG or not words:
        return []
    edges = [0, *(round(time * VIDEO_FPS) for word in words for time in (word.start, word.end)), n_frames]
    holes = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= SHORTEST_PART + 2 * MARGIN]
    speech = speech_frames(window) if holes else np.zeros(0, bool)
    return [window.part(_quiet_edge(window, a), b if b == n_frames else _quiet_edge(window, b))
            for a, b in holes if speech[a + MARGIN:b if b == n_frames else b - MARGIN].sum() >= MIN_SPEECH]


def halves(window: Window) -> list[Window]:
    """Two parts of a long window with speech, cut where the middle half is quietest; none of any other window."""
    n_frames = _n_frames(window)
    if window.audio is None or n_frames <= LONG or speech_frames(window).sum() < MIN_SPEECH:
        return []
    first, last = n_frames // 4, 3 * n_frames // 4
    cut = first + quietest(_levels(window)[first:last], SMOOTHED)
    return [window.part(0, cut), window.part(cut, n_frames)]


def speech_frames(window: Window) -> np.ndarray:
    """(T,) bool: the frames of a window with sound in which somebody speaks, by voice activity detection."""
    assert window.audio is not None
    return speech_of_frames(window.audio, _n_frames(window)) >= VadOptions().threshold


def n_before_cut(before: Sequence[Word], after: Sequence[Word], cut_s: float, reach_s: float) -> tuple[int, int]:
    """How many words of a window count, and from which word on those of the next, where the two overlap: times from the start
    of the recording, `reach_s` seconds on each side of `cut_s` in common.

    If both windows have the same word at about the same time, the texts are joined there; else each word counts in the window
    on whose side of the cut its middle lies.
    """
    pairs = [(abs(_middle(one) + _middle(other) - 2 * cut_s), i + 1, j + 1)
             for i, one in enumerate(before) if one.end > cut_s - reach_s
             for j, other in enumerate(after) if other.start < cut_s + reach_s
             if abs(_middle(one) - _middle(other)) < reach_s and normalise(one.text) == normalise(other.text)]
    if pairs:
        return min(pairs)[1:]
    return sum(_middle(one) <= cut_s for one in before), sum(_middle(one) <= cut_s for one in after)


def _middle(word: Word) -> float:
    return (word.start + word.end) / 2


def _quiet_edge(window: Window, edge: int) -> int:
    """The quietest frame near the edge of a word, which the times of words tell to about 0.1 s."""
    first = max(0, edge - MARGIN)
    return edge if edge == 0 else first + quietest(_levels(window)[first:edge + MARGIN], 3)


def _levels(window: Window) -> np.ndarray:
    """(T,) the level of each frame of the sound, dB."""
    assert window.audio is not None
    return frame_levels(window.audio, _n_frames(window))


def _n_frames(window: Window) -> int:
    return window.segment.end_frame - window.segment.start_frame
