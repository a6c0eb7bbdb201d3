"""By how many frames the lips of a recording come after its sound, or whether they belong to it at all.

    blocks of everybody's mouths (T, 96, 96) uint8 and sound (S,) float32 -> scores of all lags, summed -> offset in frames
The lag is that at which an audio-visual network's scores are highest, as in SyncNet (Chung and Zisserman 2016). One block says
little, so scores are summed over blocks until one lag is far enough ahead, as in a sequential test (Wald 1945).
"""

from __future__ import annotations

from collections.abc import Iterable
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
IN_STEP = 1                           # frames by which lips may be early or late and stay as they are
# The margin is that of the best lag over all that are not near, in log-odds summed over the frames of a block; the height is
# the mean log-odds of the best lag. Chosen with a network that had never seen s4, on 35 clips of s4 (GRID train and valid),
# sums of 4 blocks: in step at least 230 (5th percentile; 61 in babble at -10 dB) and -2.07 (-2.48); with another's voice at
# most 120 (95th percentile) and -2.24. Of 10 blocks: 139 in babble at -10 dB; with another's voice 27 in every other draw.
FEW_BLOCKS = 3                        # fewer decide only where the recording ends, and move lips only if SURE and of one person
MARGIN, HEIGHT = 60.0, -2.0
SURE_MARGIN, SURE_HEIGHT = 200.0, -1.1
# The sound is another voice's where no lag is ahead by more than NO_MARGIN and the height is below NO_HEIGHT after MANY_BLOCKS,
# or after ALL_BLOCKS that are all there are: a film may begin with people who listen.
MANY_BLOCKS, ALL_BLOCKS, NO_MARGIN, NO_HEIGHT = 16, 5, 40.0, -2.4
LEAST_DB = -60.0                      # of full scale: a block with less has no sound


@dataclass(frozen=True)
class Offset:
    """What is known of a recording's lips and sound.

    frames: by which the lips come after the sound; 0 where they are in step, and where nothing is known.
    apart: whether the lips are not to be used: they come too early or late to be moved, or, with `frames` 0, at no lag do they
        make the sound, as in a dubbed film.
    """

    frames: int = 0
    apart: bool = False

    def problem(self, name: str) -> str | None:
        """A sentence for the user; None where lips are used as they are."""
        if not self.frames:
            return (f"{name}: the lips in its picture do not make its sound, as in a dubbed film or under another's voice, so "
                    "they were not used.  Use --modality v to have them read without the sound.") if self.apart else None
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

    def __init__(self, detector: ActiveSpeakerDetector) -> None:
        self.found: Offset | None = None
        self.next, self.first = 0, None
        self.sums, self.n_frames, self.n_blocks, self.several = np.zeros(2 * MAX_LAG + 1), 0, 0, False
        self._detector = detector

    def add(self, people: Iterable[Mouths], audio: np.ndarray | None, block: SpeechSegment) -> None:
        """Examine the next block: everybody's mouths in it, each over all its frames, and its sound (S,) float32."""
        found = [] if audio is None else [one for one in map(lambda mouths: self._scores(mouths, audio), people) if one]
        if found:
            self.first = self.next if self.first is None else self.first
            curve, n_frames = max(found, key=lambda one: float(one[0].max()))
            self.sums += curve * n_frames
            self.n_frames, self.n_blocks = self.n_frames + n_frames, self.n_blocks + 1
            self.several |= len(found) > 1
            if self.n_blocks >= FEW_BLOCKS:
                self.found = self._decide()
        self.next = block.end_frame
        if self.found is None and self.first is not None and self.next - self.first >= MAX_FRAMES:
            self.finish()

    def finish(self) -> Offset:
        """What is known at the end of the recording; what is not known then is given up."""
        self.found = self.found or (self._decide(ended=True) if self.n_blocks else None) or Offset()
        return self.found

    def _scores(self, mouths: Mouths, audio: np.ndarray) -> tuple[np.ndarray, int] | None:
        """The mean score (2 MAX_LAG + 1,) of a mouth at each lag and over how many frames; None with too little to compare."""
        heard, seen = audio[: frames_to_samples(len(mouths.images))], ~mouths.missing
        if seen.sum() < MIN_FRAMES or np.square(heard, dtype=np.float64).mean() < 10 ** (LEAST_DB / 10):
            return None
        if sync.motionless(mouths.images, mouths.missing)[seen].all():
            return None
        curve = self._detector.lag_scores(mouths.images, heard, MAX_LAG, mouths.missing).astype(np.float64)
        finite = np.isfinite(curve)
        return (np.where(finite, curve, curve[finite].min()), int(seen.sum())) if finite.any() else None

    def _decide(self, *, ended: bool = False) -> Offset | None:
        """The offset that the sums tell; None where no lag is far enough ahead of the others."""
        lag, best = sync.peak(self.sums)
        lags = np.arange(len(self.sums)) - MAX_LAG
        others = (abs(lags - lag) > NEAR) | ((abs(lags) <= IN_STEP) & (abs(lag) > IN_STEP))
        margin, height = (best - self.sums[others].max()) * BLOCK / self.n_frames, best / self.n_frames
        if abs(lag) <= IN_STEP and margin >= MARGIN:
            return Offset()
        few = self.n_blocks < FEW_BLOCKS
        if few and self.several:                            # one who is not in sight may speak, and one of many seems to fit
            return None
        if margin >= (SURE_MARGIN if few else MARGIN) and height >= (SURE_HEIGHT if few else HEIGHT):
            return Offset(lag, apart=abs(lag) > MAX_OFFSET)
        enough = self.n_blocks >= (ALL_BLOCKS if ended else MANY_BLOCKS)
        return Offset(apart=True) if enough and margin < NO_MARGIN and height < NO_HEIGHT else None
