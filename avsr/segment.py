"""Where somebody speaks: sound in, stretches worth recognising out, cut at pauses.

    audio (S,) float32, in windows -> SpeechSegment per stretch of speech of at most SEGMENT_SECONDS
    segments, and blocks of what lies between them -> segments, widened by what may be speech hidden in noise
Probabilities by silero-vad's network (MIT, in its package); the cutting is ours, so that an hour needs no memory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

import numpy as np

from avsr import assets
from avsr.media.level import decibels, frame_powers
from avsr.rates import SAMPLE_RATE, SAMPLES_PER_FRAME, SEGMENT_FRAMES, frames_to_seconds

STEP = 512                                                  # samples to a probability: 32 ms, silero's own
CONTEXT = 64                                                # samples of the step before, which its network also sees
BLOCK = 512                                                 # steps to a call: 16 s


@dataclass(frozen=True)
class VadOptions:
    """How speech is told from pauses; the first four as silero-vad has them.

    threshold: probability from which speech begins; `release` that from which it ends (below).
    min_speech, min_silence, pad: seconds; pad is kept on both sides of speech.
    max_gap: seconds of pause over which one segment may reach.
    """

    threshold: float = 0.5
    release: float = 0.35
    min_speech: float = 0.1
    min_silence: float = 0.5
    pad: float = 0.3
    max_gap: float = 2.0


@dataclass(frozen=True)
class SpeechSegment:
    """A stretch of the recording, in video frames of 40 ms from its start, `end_frame` excluded.

    unextended: where it was widened by what may be speech, the segments in it that were taken as speech; None elsewhere.
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


def import_onnxruntime() -> ModuleType:
    """The package onnxruntime, with its telemetry off.

    Version 1.32 makes a device id and a database of what was loaded below the user's cache, to be sent to its makers.
    `disable_telemetry_events` alone comes too late: the files are made as the package is imported. Its variable
    ORT_DISABLE_TELEMETRY keeps it from making them; where the user has set the variable, it stays.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    onnxruntime = import_module("onnxruntime")
    if os.environ["ORT_DISABLE_TELEMETRY"] == "1":
        onnxruntime.disable_telemetry_events()
    return onnxruntime


class SpeechProbability:
    """Silero's network over consecutive windows: its state is carried along, so that windows equal the whole."""

    def __init__(self):
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(assets.find("silero_vad.onnx")), options, providers=["CPUExecutionProvider"])
        self._hidden = self._cell = np.zeros((1, 1, 128), dtype=np.float32)
        self._rest = np.zeros(CONTEXT, dtype=np.float32)     # the context of the next step, then what is left over

    def update(self, audio: np.ndarray) -> np.ndarray:
        """The next samples (S,) float32 -> probabilities (n,) float32, one for each whole STEP that is complete."""
        samples = np.concatenate([self._rest, audio.astype(np.float32, copy=False)])
        n_steps = (len(samples) - CONTEXT) // STEP
        self._rest = samples[n_steps * STEP:].copy()
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
        """The last, unfinished step, completed with silence: (0 or 1,) float32."""
        left = len(self._rest) - CONTEXT
        return self.update(np.zeros(STEP - left, dtype=np.float32)) if left else np.zeros(0, dtype=np.float32)


class VadSegmenter:
    """Probabilities in, segments out as soon as nothing that follows can change them.

    `settled` is the frame before which everything is decided: sound and mouths from before it need not be kept.
    """

    def __init__(self, options: VadOptions = VadOptions()):
        self.options = options
        self._probabilities = np.zeros(0, dtype=np.float32)  # from step `_first` on
        self._first = 0
        self._n_steps = 0
        self._speech: int | None = None                      # step at which the speech now heard began
        self._silence: int | None = None                     # step at which it may have ended
        self._open: list[int] | None = None                  # the segment being gathered: first and last step
        self._taken = 0                                      # frame up to which segments were given out

    @property
    def settled(self) -> int:
        """See the class; in frames."""
        first = min(step for step in (self._n_steps, self._speech, self._open and self._open[0]) if step is not None)
        return max(self._taken, self._frame(first - self._steps(self.options.pad)))

    def update(self, probabilities: np.ndarray) -> list[SpeechSegment]:
        """The next probabilities (n,), one per STEP."""
        self._probabilities = np.concatenate([self._probabilities, probabilities])
        segments = []
        for probability in probabilities.tolist():
            segments += self._one(probability)
            self._n_steps += 1
        self._forget()
        return segments

    def finish(self) -> list[SpeechSegment]:
        """Nothing follows."""
        segments = self._end_speech(self._n_steps) if self._speech is not None else []
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
            return self._end_speech(self._silence)
        if step - self._speech >= self._longest:             # nobody paused: cut where it is quietest
            latest = step - max(self._steps(options.min_silence), self._steps(options.min_speech))
            return self._end_speech(self._quietest(self._speech + self._longest // 2, latest), go_on=True)
        return []

    def _end_speech(self, end: int, *, go_on: bool = False) -> list[SpeechSegment]:
        """Speech from `_speech` to `end` joins the open segment, or closes it and opens the next."""
        start, segments = self._speech, []
        self._speech, self._silence = (end, None) if go_on else (None, None)
        if end - start < self._steps(self.options.min_speech):
            return []
        if self._open is not None and end - self._open[0] > self._longest:
            segments.append(self._close((self._open[1] + start) // 2))
        self._open = [start, end] if self._open is None else [self._open[0], end]
        if go_on:
            segments.append(self._close(end))
        return segments

    def _close(self, limit: int | None = None) -> SpeechSegment:
        """The open segment, padded, but not into the segment before it nor beyond step `limit` (default: what was heard)."""
        (first, last), pad = self._open, self._steps(self.options.pad)
        self._open = None
        start = max(self._taken, self._frame(first - pad))
        end = min(last + pad, max(self._n_steps, last) if limit is None else limit)
        self._taken = min(-(-end * STEP // SAMPLES_PER_FRAME), start + SEGMENT_FRAMES)
        return SpeechSegment(start, self._taken)

    def _quietest(self, first: int, last: int) -> int:
        """The step with the least speech in [first, last)."""
        return first + int(self._probabilities[first - self._first:last - self._first].argmin())

    def _forget(self) -> None:
        keep = min(step for step in (self._n_steps, self._speech) if step is not None)
        self._probabilities = self._probabilities[keep - self._first:]
        self._first = keep

    @property
    def _longest(self) -> int:
        """Steps that fit into a segment beside its padding."""
        return SEGMENT_FRAMES * SAMPLES_PER_FRAME // STEP - 2 * self._steps(self.options.pad) - 1

    @staticmethod
    def _steps(seconds: float) -> int:
        return round(seconds * SAMPLE_RATE / STEP)

    @staticmethod
    def _frame(step: int) -> int:
        return step * STEP // SAMPLES_PER_FRAME


@dataclass(frozen=True)
class ExtensionOptions:
    """What may be speech though it was not found: as loud as what was found, and a face is there to be read.

    The middle level of what is left out of GRID's valid clips is 1 dB below that of the segments with white or natural noise
    at -5 or -10 dB, 3 dB below with noise at 0 dB, 21 dB in clean sound. Of 108 words 98 are left out in white noise at -10 dB
    and 14 at -5 dB; with a margin of 3 dB or more none is. In pauses of wild clips the level is -31 dB full scale or less.

    margin: dB below the level of the segment before. floor: dB full scale that are quiet in any case.
    unheard: dB full scale, taken for the level of speech until some has been found. missing: share of frames without a face.
    block: frames that are judged at once. shortest: fewer frames than this are no word.
    """

    margin: float = 4.0
    floor: float = -35.0
    unheard: float = -20.0
    missing: float = 0.5
    block: int = 25
    shortest: int = 5


class SegmentExtension:
    """Pieces that are surely speech and blocks of what lies between them in, in order; segments to be recognised out.

    Doubtful blocks join what they touch, up to SEGMENT_FRAMES, or stand alone. What touches none comes out as it went in.
    """

    def __init__(self, options: ExtensionOptions = ExtensionOptions()):
        self.options = options
        self.open: SpeechSegment | None = None                       # being gathered
        self._doubtful = False                               # is its end?
        self._speech = options.unheard                       # dB full scale

    def speech(self, segment: SpeechSegment, audio: np.ndarray | None) -> list[SpeechSegment]:
        """A segment that is surely speech, and its sound (S,)."""
        if audio is not None and len(audio) >= SAMPLES_PER_FRAME:
            self._speech = decibels(frame_powers(audio).mean())
        if self._doubtful and self._fits(segment):
            self._doubtful = False
            self.open = SpeechSegment(self.open.start_frame, segment.end_frame, (*self.open.unextended, segment))
            return []
        closed, self.open, self._doubtful = self.finish(), segment, False
        return closed

    def between(self, block: SpeechSegment, audio: np.ndarray | None, missing: np.ndarray | None) -> list[SpeechSegment]:
        """What follows and was not found to be speech: its sound (S,), and (T,) bool, True for frames without a face."""
        if not self._may_be_speech(audio, missing):
            return self.finish()
        fits, closed = self._fits(block), []
        if not fits:
            closed, self.open = self.finish(), SpeechSegment(block.start_frame, block.start_frame, ())
        unextended = (self.open,) if self.open.unextended is None else self.open.unextended
        self.open, self._doubtful = SpeechSegment(self.open.start_frame, block.end_frame, unextended), True
        return closed

    def finish(self) -> list[SpeechSegment]:
        """The segment being gathered: nothing follows that could join it."""
        closed = [] if self.open is None else [self.open]
        self.open, self._doubtful = None, False
        return closed

    def _fits(self, segment: SpeechSegment) -> bool:
        return (self.open is not None and self.open.end_frame == segment.start_frame
                and segment.end_frame - self.open.start_frame <= SEGMENT_FRAMES)

    def _may_be_speech(self, audio: np.ndarray | None, missing: np.ndarray | None) -> bool:
        if audio is None or len(audio) < SAMPLES_PER_FRAME or missing is None or missing.mean() > self.options.missing:
            return False
        return decibels(np.median(frame_powers(audio))) >= max(self.options.floor, self._speech - self.options.margin)
