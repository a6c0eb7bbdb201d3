"""Which part of a recording that is being made is recognised: the segment that goes on, and those that have ended.

    Clips with sound -> voice activity detection -> segments that end at each pause of 0.5 s
    mouths without sound -> segments that end where the mouth rests
"""

from __future__ import annotations

from avsr import media
from avsr.rates import SEGMENT_FRAMES
from avsr.segment import SpeechSegment, VadOptions, cuts_at_rests
from avsr.segmenters import DetectedSpeech, KeptRecording


class LiveSegments:
    """The segments of a recording that is being made. by_sound: whether speech is heard; else a moving mouth is
    speech. pause_s: seconds of silence after which a segment has ended."""

    def __init__(self, reader: KeptRecording, *, by_sound: bool, pause_s: float):
        self.reader = reader
        self._speech = DetectedSpeech(VadOptions(min_silence=pause_s, max_gap=pause_s)) if by_sound else None
        self._taken = 0                                      # frame at which the last segment by sight ends

    @property
    def settled(self) -> int:
        """The frame before which no further segment begins."""
        return self._taken if self._speech is None else self._speech.settled

    @property
    def current(self) -> SpeechSegment | None:
        """The segment that goes on; None in silence, or before anything is seen."""
        if self._speech is not None:
            return self._speech.current
        end = self.reader.n_frames
        return SpeechSegment(self._taken, end) if end > self._taken else None

    def update(self, clip: media.Clip) -> list[SpeechSegment]:
        """The segments that ended, given the next Clip."""
        if self._speech is not None:
            return self._speech.update(clip)
        end = self.reader.n_frames
        mouths = self.reader.mouths(SpeechSegment(self._taken, end)) if end > self._taken else None
        cuts = [] if mouths is None else cuts_at_rests(mouths.images[: len(mouths.images) - _n_unseen(mouths.missing)])
        if not cuts and end - self._taken >= SEGMENT_FRAMES:
            cuts = [end - self._taken]
        return [self._close(self._taken + cuts[0])] if cuts else []

    def finish(self, n_frames: int) -> list[SpeechSegment]:
        """The last segments, at the end of the recording."""
        if self._speech is not None:
            return self._speech.finish(n_frames)
        return [self._close(n_frames)] if n_frames > self._taken else []

    def _close(self, end: int) -> SpeechSegment:
        closed = SpeechSegment(self._taken, end)
        self._taken = end
        return closed


def _n_unseen(missing) -> int:
    """How many frames at the end have no mouth: those whose faces are not known yet."""
    seen = (~missing).nonzero()[0]
    return len(missing) - (int(seen[-1]) + 1 if len(seen) else 0)
