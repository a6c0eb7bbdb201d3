"""Which segments a stream reader gives: clips of a recording in, SpeechSegments out.

    Clips -> DetectedSpeech, speech by voice activity detection -> SpeechSegments
          -> CoveringParts, without it -> SpeechSegments that cover the recording
    SpeechSegments -> Gaps, which extends them by what may be speech between them -> SpeechSegments
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from avsr import media
from avsr.lips import Mouths
from avsr.media.level import frame_levels
from avsr.rates import SEGMENT_FRAMES, frames_to_samples
from avsr.segment import (
    SegmentExtension,
    SpeechProbability,
    SpeechSegment,
    VadOptions,
    VadSegmenter,
    cuts_at_rests,
    quietest,
)

OVERLAP_FRAMES = 8                    # on each side of a cut through sound: 0.32 s, so that a word at the cut is whole in one


class KeptRecording(Protocol):
    """What a stream reader keeps of its recording; see stream.StreamReader."""

    recording: media.Recording
    n_frames: int

    @property
    def settled(self) -> int: ...

    def audio(self, segment: SpeechSegment) -> np.ndarray | None: ...

    def mouths(self, segment: SpeechSegment) -> Mouths | None: ...


class DetectedSpeech:
    """Speech segments by voice activity detection."""

    def __init__(self, options: VadOptions):
        self._probability, self._segmenter = SpeechProbability(), VadSegmenter(options)

    @property
    def settled(self) -> int:
        """The frame before which no further segment begins."""
        return self._segmenter.settled

    @property
    def current(self) -> SpeechSegment | None:
        """The segment that goes on, see VadSegmenter."""
        return self._segmenter.current

    def update(self, clip: media.Clip) -> list[SpeechSegment]:
        assert clip.audio is not None, "speech cannot be detected without sound"
        return self._segmenter.update(self._probability.update(clip.audio), self._probability.levels)

    def finish(self, n_frames: int) -> list[SpeechSegment]:
        segments = self._segmenter.update(self._probability.finish(), self._probability.levels) + self._segmenter.finish()
        return [replace(segment, end_frame=min(segment.end_frame, n_frames)) for segment in segments]


class CoveringParts:
    """Segments that cover the recording, as DetectedSpeech gives them: each SEGMENT_FRAMES are cut where the mouth rests, or,
    with sound, once where it is quietest; then the two segments have OVERLAP_FRAMES in common on each side of the cut.

    Where they are cut does not depend on the windows in which the recording is read.
    """

    def __init__(self, reader: KeptRecording):
        self.reader, self.settled = reader, 0
        self.by_sound = reader.recording.has_audio and not reader.recording.is_silent

    def update(self, clip: media.Clip) -> list[SpeechSegment]:
        return self._cut_before(self.reader.settled)

    def finish(self, n_frames: int) -> list[SpeechSegment]:
        segments = self._cut_before(n_frames)
        if not self.by_sound:
            segments += self._at(self._rests(n_frames))
        return segments + ([SpeechSegment(self.settled, n_frames)] if n_frames > self.settled else [])

    def _cut_before(self, upto: int) -> list[SpeechSegment]:
        """The segments that the next whole SEGMENT_FRAMES complete, as often as there are more than these before `upto`."""
        segments = []
        while upto - self.settled > SEGMENT_FRAMES:
            if self.by_sound:
                cut = self._quietest()
                segments.append(SpeechSegment(self.settled, cut + OVERLAP_FRAMES))
                self.settled = cut - OVERLAP_FRAMES
            else:
                stretch_end = self.settled + SEGMENT_FRAMES
                segments += self._at(self._rests(stretch_end) or [stretch_end])
        return segments

    def _at(self, cuts: list[int]) -> list[SpeechSegment]:
        """The segments up to the last of some cuts."""
        edges = [self.settled, *cuts]
        self.settled = edges[-1]
        return [SpeechSegment(first, last) for first, last in pairwise(edges)]

    def _quietest(self) -> int:
        """The frame in the second half of the next SEGMENT_FRAMES at which the sound is quietest."""
        first, last = self.settled + SEGMENT_FRAMES // 2, self.settled + SEGMENT_FRAMES - OVERLAP_FRAMES
        audio = self.reader.audio(SpeechSegment(first, last))
        if audio is None or len(audio) < frames_to_samples(last - first):       # the sound ends before the picture
            return last
        return first + quietest(frame_levels(audio, last - first), 3)

    def _rests(self, end: int) -> list[int]:
        """The frames before `end` at which the mouth rests."""
        mouths = self.reader.mouths(SpeechSegment(self.settled, end)) if end > self.settled else None
        return [] if mouths is None else [self.settled + cut for cut in cuts_at_rests(mouths.images)]


class Gaps:
    """The gaps between speech segments, cut into blocks, with which the segments are extended where they may be speech."""

    def __init__(self, reader: KeptRecording):
        self.reader, self.extension, self.reached = reader, SegmentExtension(), 0

    @property
    def oldest(self) -> int:
        """The first frame that is still needed."""
        return self.reached if self.extension.open is None else self.extension.open.start_frame

    def update(self, segments: list[SpeechSegment], upto: int) -> list[SpeechSegment]:
        """The segments to be recognised, given the next speech segments before frame `upto`, where another may begin."""
        out = []
        for segment in segments:
            out += self._between(segment.start_frame, over=True)
            out += self.extension.speech(segment, self.reader.audio(segment))
            self.reached = segment.end_frame
        return out + self._between(upto)

    def finish(self, segments: list[SpeechSegment]) -> list[SpeechSegment]:
        """The last segments to be recognised, given the last speech segments of the recording."""
        out = self.update(segments, self.reached) + self._between(self.reader.n_frames, over=True)
        return out + self.extension.finish()

    def _between(self, end: int, *, over: bool = False) -> list[SpeechSegment]:
        """Blocks up to `end`. If the gap is `over` there, a rest that is too short for a block joins the last block."""
        out, n_block, shortest = [], self.extension.options.block, self.extension.options.shortest
        while (left := end - self.reached) >= (shortest if over else n_block + shortest):
            block = SpeechSegment(self.reached, end if left < n_block + shortest else self.reached + n_block)
            mouths, self.reached = self.reader.mouths(block), block.end_frame
            out += self.extension.between(block, self.reader.audio(block), None if mouths is None else mouths.missing)
        return out
