"""By how many frames the lips of a recording come after its sound, or whether they belong to it at all.

    blocks of everybody's mouths (T, 96, 96) uint8 and sound (S,) float32 -> scores of all lags, summed -> offset in frames
One block says little, so scores are summed over blocks until one lag is ahead of the others by a margin, as in a sequential
test (Wald 1945). Where no lag gets ahead within MAX_FRAMES, the recording is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from avsr import sync
from avsr.errors import counted
from avsr.lips import Mouths
from avsr.rates import VIDEO_FPS, frames_to_samples, frames_to_seconds
from avsr.segment import SpeechSegment
from avsr.speakers.detector import ActiveSpeakerDetector

BLOCK = 3 * VIDEO_FPS                 # frames whose scores are added at a time
MIN_FRAMES = 2 * VIDEO_FPS            # of a block with a mouth that is seen and a sound; others are passed over
MAX_FRAMES = 60 * VIDEO_FPS           # from the first block that counts to the last
MAX_OFFSET = 12                       # frames up to which lips are moved: 0.48 s
MAX_LAG = 25                          # frames up to which lags are compared
NEAR = 2                              # frames within which two lags say the same
IN_STEP = 1                           # frames by which lips may be early or late and stay as they are, see sync.MAX_LAG
MARGIN = 40.0                         # log-odds, summed over frames, by which the best lag is ahead of all that are not near
LEAST_DB = -60.0                      # of full scale: a block with less has no sound


@dataclass(frozen=True)
class Offset:
    """What is known of a recording's lips and sound.

    frames: by which the lips come after the sound and are to be moved; 0 where they are in step, and where nothing is known.
    apart: whether the lips are not to be used, because they come too early or late.
    """

    frames: int = 0
    apart: bool = False

    def problem(self, name: str) -> str | None:
        """A sentence for the user; None where lips are left as they are."""
        if not self.frames:
            return None
        when = f"lips come {frames_to_seconds(abs(self.frames)):.2f} s {'after' if self.frames > 0 else 'before'} the sound"
        if self.apart:
            return (f"{name}: {when} (limit {frames_to_seconds(MAX_OFFSET):.2f} s), so they were not used.  Move the sound "
                    "with another program, such as ffmpeg -itsoffset.")
        return f"{name}: {when}; they were moved by {counted(abs(self.frames), 'frame')}."


class OffsetFinder:
    """Sums the scores of blocks of a recording until the offset is known.

    found: None until it is known, or given up. next: the first frame that was not examined. first: the first frame of the
    first block that counted; None before that.
    """

    def __init__(self, detector: ActiveSpeakerDetector, start_frame: int = 0) -> None:
        self.found: Offset | None = None
        self.next, self.first = start_frame, None
        self.sums = np.zeros(2 * MAX_LAG + 1)
        self._detector = detector

    def add(self, people: Mapping[int, Mouths], audio: np.ndarray | None, block: SpeechSegment) -> None:
        """Examine the next block: everybody's mouths in it, each over all its frames, and its sound (S,) float32."""
        curves = [] if audio is None else [self._curve(mouths, audio) for mouths in people.values()]
        curves = [curve for curve in curves if curve is not None]
        if curves:
            self.first = self.next if self.first is None else self.first
            self.sums += max(curves, key=lambda curve: float(curve.max()))
            self.found = decided(self.sums)
        self.next = block.end_frame
        if self.found is None and self.first is not None and self.next - self.first >= MAX_FRAMES:
            self.found = Offset()

    def finish(self) -> None:
        """The recording has ended: what is not known now is given up."""
        self.found = self.found or Offset()

    def _curve(self, mouths: Mouths, audio: np.ndarray) -> np.ndarray | None:
        """(2 MAX_LAG + 1,) the scores of a mouth, summed over frames; None where there is too little to compare."""
        heard = audio[: frames_to_samples(len(mouths.images))]
        seen = ~mouths.missing
        if seen.sum() < MIN_FRAMES or np.square(heard, dtype=np.float64).mean() < 10 ** (LEAST_DB / 10):
            return None
        if sync.motionless(mouths.images, mouths.missing)[seen].all():
            return None
        curve = self._detector.lag_scores(mouths.images, heard, MAX_LAG, mouths.missing).astype(np.float64)
        return np.where(np.isfinite(curve), curve, curve[np.isfinite(curve)].min(initial=0.0)) * float(seen.sum())


def decided(sums: np.ndarray) -> Offset | None:
    """The offset that summed scores (2 MAX_LAG + 1,) tell; None where no lag is far enough ahead of the others."""
    lag, best = sync.peak(sums)
    lags = np.arange(len(sums)) - len(sums) // 2
    others = (abs(lags - lag) > NEAR) | ((abs(lags) <= IN_STEP) & (abs(lag) > IN_STEP))
    if best - sums[others].max() < MARGIN:
        return None
    if abs(lag) <= IN_STEP:
        return Offset()
    return Offset(lag, apart=abs(lag) > MAX_OFFSET)
