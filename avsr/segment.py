"""Voice activity detection (VAD): sound in, segments of speech out, cut at pauses.

    audio (S,) float32, in windows -> SpeechProbability -> VadSegmenter -> SpeechSegments of at most SEGMENT_SECONDS
    SpeechSegments, and blocks of the gaps between them -> SegmentExtension -> SpeechSegments with what noise may hide
    mouth of a recording whose sound is not used -> cuts_at_rests -> frames at which it is cut
The probabilities come from silero-vad's network (MIT, in its package). The segmentation is ours, so that an hour of sound
needs no more memory than a minute.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avsr import assets, sync
from avsr.media.level import decibels, frame_powers
from avsr.rates import SAMPLE_RATE, SAMPLES_PER_FRAME, SEGMENT_FRAMES, frames_to_seconds
from avsr.runtime import import_onnxruntime

STEP = 512                                                  # samples for each probability: 32 ms, as silero has it
CONTEXT = 64                                                # samples of the step before, which the network also takes
BLOCK = 512                                                 # steps in a call of the network: 16 s
QUIET_STEPS = 3                                             # steps over which the level at a cut is averaged: 96 ms


@dataclass(frozen=True)
class VadOptions:
    """The settings of voice activity detection; the first four are silero-vad's.

    threshold: speech begins at this probability. release: speech ends below this probability.
    min_speech, min_silence: the shortest speech and the shortest pause, seconds. pad: seconds kept on both sides of speech.
    max_gap: the longest pause within one segment, seconds.
    """

    threshold: float = 0.5
    release: float = 0.35
    min_speech: float = 0.1
    min_silence: float = 0.5
    pad: float = 0.3
    max_gap: float = 2.0


@dataclass(frozen=True)
class SpeechSegment:
    """A stretch of a recording, in video frames of 40 ms from the recording's start; `end_frame` is excluded.

    unextended: for an extended segment, the speech segments that it was made from; None for any other. See SegmentExtension.
    """

    start_frame: int
    end_frame: int
    unextended: tuple[SpeechSegment, ...] | None = None

    @property
    def start_s(self) -> float:
        """Seconds from the recording's start."""
        return frames_to_seconds(self.start_frame)

    @property
    def duration_s(self) -> float:
        """Seconds."""
        return frames_to_seconds(self.end_frame - self.start_frame)


class SpeechProbability:
    """Silero's network over consecutive windows. Its state is carried along, so that windows give the same as the whole.

    levels: (n,) float32, the level in dB full scale of each step of the last update.
    """

    def __init__(self):
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(assets.find("silero_vad.onnx")), options, providers=["CPUExecutionProvider"])
        self._hidden = self._cell = np.zeros((1, 1, 128), dtype=np.float32)
        self._rest = np.zeros(CONTEXT, dtype=np.float32)     # the context of the next step, then what is left over
        self.levels = np.zeros(0, dtype=np.float32)

    def update(self, audio: np.ndarray) -> np.ndarray:
        """The next samples (S,) float32 -> probabilities of speech (n,) float32, one for each STEP that is complete."""
        samples = np.concatenate([self._rest, audio.astype(np.float32, copy=False)])
        n_steps = (len(samples) - CONTEXT) // STEP
        self._rest = samples[n_steps * STEP:].copy()
        steps = samples[CONTEXT:CONTEXT + n_steps * STEP].reshape(n_steps, STEP)
        self.levels = 10 * np.log10(np.square(steps).mean(axis=1) + 1e-10)
        out = [np.zeros(0, dtype=np.float32)]
        for first in range(0, n_steps, BLOCK):
            n = min(BLOCK, n_steps - first)
            rows = np.lib.stride_tricks.sliding_window_view(samples[first * STEP:], CONTEXT + STEP)[:n * STEP:STEP]
            probabilities, self._hidden, self._cell = self._session.run(
                ["speech_probs", "hn", "cn"],
                {"input": np.ascontiguousarray(rows), "h": self._hidden, "c": self._cell})
            out.append(probabilities.reshape(-1))
        return np.concatenate(out)

    def finish(self) -> np.ndarray:
        """The probability of the last, unfinished step, completed with silence: (0 or 1,) float32."""
        left = len(self._rest) - CONTEXT
        return self.update(np.zeros(STEP - left if left else 0, dtype=np.float32))


class VadSegmenter:
    """Turns probabilities of speech into segments, each given as soon as nothing that follows can change it.

    Speech without a pause is cut where it is quietest, and both segments then have the `pad` beyond the cut in common. The
    probability says little about where words end: in 110 s of GRID's train sentences without pauses the step of lowest
    probability lies within a word for 32 of 55 cuts, the quietest 96 ms for 5; in babble and music at 5 dB for 47 and 43 of
    55, and for 20 and 30.
    """

    def __init__(self, options: VadOptions = VadOptions()):
        self.options = options
        self._levels = np.zeros(0, dtype=np.float32)         # dB of each step from step `_first` on
        self._first = 0
        self._n_steps = 0
        self._speech: int | None = None                      # step at which the current speech began
        self._silence: int | None = None                     # step at which it may have ended
        self._open: tuple[int, int] | None = None            # the current segment: first and last step
        self._taken = 0                                      # frame at which the last segment given ends

    @property
    def settled(self) -> int:
        """The frame before which no further segment begins: sound and mouths from before it need not be kept."""
        begun = (self._n_steps, self._speech, None if self._open is None else self._open[0])
        first = min(step for step in begun if step is not None)
        return max(self._taken, self._frame(first - self._steps(self.options.pad)))

    @property
    def current(self) -> SpeechSegment | None:
        """The segment that is not given yet, as far as it is known: from its padded start to the last step; None in silence."""
        begun = self._speech if self._open is None else self._open[0]
        if begun is None:
            return None
        return SpeechSegment(max(self._taken, self._frame(begun - self._steps(self.options.pad))), self._frame(self._n_steps))

    def update(self, probabilities: np.ndarray, levels: np.ndarray | None = None) -> list[SpeechSegment]:
        """The segments that the next probabilities (n,), one per STEP, complete. levels: (n,) dB; without them, speech without
        a pause is cut where it is least probable."""
        self._levels = np.concatenate([self._levels, probabilities if levels is None else levels])
        segments = []
        for probability in probabilities.tolist():
            segments += self._one(probability)
            self._n_steps += 1
        self._forget()
        return segments

    def finish(self) -> list[SpeechSegment]:
        """The last segments, at the end of the sound."""
        segments = [] if self._speech is None else self._end_speech(self._speech, self._n_steps)
        if self._open is not None:
            segments.append(self._close())
        return segments

    def _one(self, probability: float) -> list[SpeechSegment]:
        step, options = self._n_steps, self.options
        if self._speech is None:
            if probability >= options.threshold:
                self._speech, self._silence = step, None
            elif self._open is not None and step - self._open[1] > self._steps(options.max_gap):
                return [self._close()]
            return []
        if probability >= options.threshold:
            self._silence = None
        elif probability < options.release and self._silence is None:
            self._silence = step
        if self._silence is not None and step - self._silence >= self._steps(options.min_silence):
            return self._end_speech(self._speech, self._silence)
        if step - self._speech >= self._longest:             # nobody paused: cut where it is quietest
            latest = step - max(self._steps(options.min_silence), self._steps(options.min_speech))
            quietest = self._quietest(self._speech + self._longest // 2, latest)
            return self._end_speech(self._speech, quietest, go_on=True)
        return []

    def _end_speech(self, start: int, end: int, *, go_on: bool = False) -> list[SpeechSegment]:
        """Join the speech from step `start` to `end` to the current segment, or close that and begin the next."""
        segments = []
        self._speech, self._silence = (end, None) if go_on else (None, None)
        if end - start < self._steps(self.options.min_speech):
            return []
        if self._open is not None and end - self._open[0] > self._longest:
            segments.append(self._close((self._open[1] + start) // 2))
        self._open = (start, end) if self._open is None else (self._open[0], end)
        if go_on:                                           # both segments hold what is beside the cut
            segments.append(self._close())
            self._taken = self._frame(end - self._steps(self.options.pad))
        return segments

    def _close(self, limit: int | None = None) -> SpeechSegment:
        """The current segment, padded, but not into the one before it nor beyond step `limit` (default: the last step)."""
        assert self._open is not None
        (first, last), pad = self._open, self._steps(self.options.pad)
        self._open = None
        start = max(self._taken, self._frame(first - pad))
        end = min(last + pad, max(self._n_steps, last) if limit is None else limit)
        self._taken = min(-(-end * STEP // SAMPLES_PER_FRAME), start + SEGMENT_FRAMES)
        return SpeechSegment(start, self._taken)

    def _quietest(self, first: int, last: int) -> int:
        """The step in the middle of the quietest QUIET_STEPS in [first, last)."""
        return first + quietest(self._levels[first - self._first:last - self._first], QUIET_STEPS)

    def _forget(self) -> None:
        keep = min(step for step in (self._n_steps, self._speech) if step is not None)
        self._levels = self._levels[keep - self._first:]
        self._first = keep

    @property
    def _longest(self) -> int:
        """The largest number of steps in a segment, without its padding."""
        return SEGMENT_FRAMES * SAMPLES_PER_FRAME // STEP - 2 * self._steps(self.options.pad) - 1

    @staticmethod
    def _steps(seconds: float) -> int:
        return round(seconds * SAMPLE_RATE / STEP)

    @staticmethod
    def _frame(step: int) -> int:
        return step * STEP // SAMPLES_PER_FRAME


def speech_of_frames(audio: np.ndarray, n_frames: int) -> np.ndarray:
    """Sound (S,) float32 -> the probability of speech in each of `n_frames` video frames, (n_frames,) float64."""
    whole = np.zeros(n_frames * SAMPLES_PER_FRAME, np.float32)
    whole[: len(audio)] = audio[: len(whole)]
    network = SpeechProbability()
    steps = np.concatenate([network.update(whole), network.finish()])
    middles = ((np.arange(n_frames) + 0.5) * SAMPLES_PER_FRAME / STEP).astype(int)
    return steps[np.minimum(middles, len(steps) - 1)].astype(np.float64)


def quietest(levels: np.ndarray, n: int) -> int:
    """The place in levels (T,) around which the mean of `n` is lowest; of a shorter array, the lowest."""
    if len(levels) < n:
        return int(levels.argmin())
    return n // 2 + int(np.convolve(levels, np.full(n, 1 / n), "valid").argmin())


@dataclass(frozen=True)
class RestOptions:
    """When a mouth rests. All but the shares are in frames.

    A mouth rests where its change, averaged over `width` frames, stays for at least `rest` frames below `share` of the level
    that three quarters of the frames do not exceed. In 60 of GRID's train clips one after another this finds all 59 pauses, and
    51 of 52 in valid ones, and no place within a sentence; `share` from 0.5 to 0.7 and `width` from 7 to 11 give nearly the
    same. The blank of the video CTC is as good for the model `grid` and useless for `default`.
    moving: frames that do not rest, of which a segment has at least so many. longest: a longer stretch is cut where the mouth
    moves least. uncut: so few frames are left whole.
    """

    width: int = 9
    share: float = 0.6
    rest: int = 12
    moving: int = 15
    longest: int = 125
    uncut: int = 100


def cuts_at_rests(images: np.ndarray, options: RestOptions = RestOptions()) -> list[int]:
    """The frames at which a recording of a mouth (T, 96, 96) uint8 is cut, in order: the middle of each rest, and more where
    it is never at rest for long."""
    n_frames = len(images)
    if n_frames <= options.uncut:
        return []
    half = options.width // 2
    padded = np.pad(sync.lip_change(images), (half, half), mode="edge")
    change = np.convolve(padded, np.full(options.width, 1 / options.width), "valid")
    rests = change < options.share * np.percentile(change, 75)
    edges = np.flatnonzero(np.diff(np.r_[0, rests, 0].astype(int))).reshape(-1, 2).tolist()
    middles = [(a + b) // 2 for a, b in edges if b - a >= options.rest and a > 0 and b < n_frames]
    cuts = [0]
    for place in (*middles, n_frames):
        while place - cuts[-1] > options.longest:
            first, last = cuts[-1] + options.longest // 3, min(cuts[-1] + options.longest, place - options.longest // 6)
            cuts.append(first + int(change[first:last].argmin()))
        if min((~rests[cuts[-1]:place]).sum(), (~rests[place:]).sum()) >= options.moving:
            cuts.append(place)
    return cuts[1:]


@dataclass(frozen=True)
class ExtensionOptions:
    """What may be speech though VAD missed it: sound as loud as detected speech, with a face in sight to be lip-read.

    In GRID's valid clips the median level of the missed parts is 1 dB below that of the segments in white or natural noise at
    -5 or -10 dB, 3 dB below in noise at 0 dB, and 21 dB below in clean sound. VAD misses 98 of 108 words in white noise at
    -10 dB and 14 at -5 dB; with a margin of 3 dB or more none is missed. In pauses of wild clips the level is -31 dB full
    scale or less.

    margin: how far below the level of the last speech segment, dB. floor: below this level all is quiet, dB full scale.
    unheard: the assumed level of speech until some was detected, dB full scale. missing: largest share of frames without a
    face. block: frames that are judged at once. shortest: fewer frames than this are no word.
    """

    margin: float = 4.0
    floor: float = -35.0
    unheard: float = -20.0
    missing: float = 0.5
    block: int = 25
    shortest: int = 5


class SegmentExtension:
    """Extends speech segments by blocks of the gaps between them that may be speech, and gives the segments to be recognised.

    Segments and blocks come in order. A block that may be speech joins the segments that it touches, up to SEGMENT_FRAMES, or
    becomes a segment of its own. A segment that touches no such block is given unchanged.
    """

    def __init__(self, options: ExtensionOptions = ExtensionOptions()):
        self.options = options
        self.open: SpeechSegment | None = None               # the current segment
        self._ends_in_block = False                          # does it end in a block that may be speech?
        self._speech_db = options.unheard                    # dB full scale

    def speech(self, segment: SpeechSegment, audio: np.ndarray | None) -> list[SpeechSegment]:
        """The segments that a detected speech segment with sound (S,) completes."""
        if audio is not None and len(audio) >= SAMPLES_PER_FRAME:
            self._speech_db = decibels(frame_powers(audio).mean())
        if self.open is not None and self._ends_in_block and self._fits(self.open, segment):
            self._ends_in_block = False
            unextended = (*(self.open.unextended or ()), segment)
            self.open = SpeechSegment(self.open.start_frame, segment.end_frame, unextended)
            return []
        closed, self.open = self.finish(), segment
        return closed

    def between(self, block: SpeechSegment, audio: np.ndarray | None, missing: np.ndarray | None) -> list[SpeechSegment]:
        """The segments that a block of a gap completes: its sound (S,), and (T,) bool, True for frames without a face."""
        if not self._may_be_speech(audio, missing):
            return self.finish()
        before, closed = self.open, []
        if before is None or not self._fits(before, block):
            closed, before = self.finish(), SpeechSegment(block.start_frame, block.start_frame, ())
        unextended = (before,) if before.unextended is None else before.unextended
        self.open, self._ends_in_block = SpeechSegment(before.start_frame, block.end_frame, unextended), True
        return closed

    def finish(self) -> list[SpeechSegment]:
        """The current segment, if there is one, as nothing follows that could join it."""
        closed = [] if self.open is None else [self.open]
        self.open, self._ends_in_block = None, False
        return closed

    @staticmethod
    def _fits(before: SpeechSegment, after: SpeechSegment) -> bool:
        return before.end_frame == after.start_frame and after.end_frame - before.start_frame <= SEGMENT_FRAMES

    def _may_be_speech(self, audio: np.ndarray | None, missing: np.ndarray | None) -> bool:
        if audio is None or len(audio) < SAMPLES_PER_FRAME or missing is None or missing.mean() > self.options.missing:
            return False
        return decibels(np.median(frame_powers(audio))) >= max(self.options.floor, self._speech_db - self.options.margin)
