"""Videos that are mouths already: each picture of a recording is taken as the mouth, made grey and scaled to the right size.

    Clip.video (T, H, W, 3) uint8 RGB, square  ->  Mouths.images (T, 96, 96) uint8
Sets like LRW and the preparation of other toolkits leave such videos. How the mouths were cut out, and in which frames no face
was found, cannot be known: the settings `none` of lips.MOUTH_CROPS say so, and are stored with caches and models.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from avsr.errors import BadMedia
from avsr.faces import FaceTrack, FaceTracker
from avsr.lips import MOUTH_CROPS, MouthCropper, MouthCropSettings, Mouths
from avsr.media import Clip, Recording
from avsr.media.colour import grey_of
from avsr.rates import VIDEO_FPS

SMALLEST, LARGEST = 64, 512           # pixels: sides of pictures that are taken as mouths
USUAL = 128                           # crops have 88 to 128; LRS's and LRW's own videos have 160 to 256 and show the whole face
EVEN = 0.02                           # largest difference of the sides of a square, as a share
SAME_RATE = 0.01                      # pictures a second


def as_they_are(mouth_crop: MouthCropSettings) -> MouthCropSettings:
    """The settings by which each picture is a mouth, of the size that these settings have."""
    return replace(MOUTH_CROPS["none"], size=mouth_crop.size)


def of_unknown_kind(recording: str, model: str) -> str:
    """What the user should know where a model that cuts mouths out itself gets pictures that are mouths already."""
    return (f"{recording}: its pictures were taken as mouths, and {model} knows mouths that it cuts out of faces itself. If "
            "these were cut out in another way, what it reads may mean little.")


class NoTracker:
    """Takes the place of faces.FaceTracker where no face is searched."""

    lag = 0

    def update(self, clip: Clip) -> list[FaceTrack]:
        """No track."""
        return []

    def finish(self) -> list[FaceTrack]:
        """No track."""
        return []

    def problems(self, name: str) -> list[str]:
        """Nothing is left out."""
        return []

    def close(self) -> None:
        """Nothing is open."""


class PictureCropper:
    """Takes the place of lips.MouthCropper: each picture is the mouth of person 0. What the user should know is added to the
    `problems` of the recording.

    `update` raises BadMedia for pictures that cannot be mouths: not square, or of fewer than 64 or more than 512 pixels.
    """

    def __init__(self, mouth_crop: MouthCropSettings, recording: Recording):
        self.size, self.recording, self.checked = mouth_crop.size, recording, False

    def update(self, clip: Clip, tracks: Iterable[FaceTrack]) -> list[Mouths]:
        """The mouths of the next window; frames in which the recording shows nothing are black and missing."""
        if clip.video is None or not clip.n_frames:
            return []
        height, width = clip.video.shape[1:3]
        if not self.checked:
            self._check(height, width)
        shown = np.ones(clip.n_frames, bool) if clip.shown is None else clip.shown
        images = np.stack([self._mouth(frame) for frame in clip.video])
        images[~shown] = 0
        side = np.float32(min(height, width))
        sizes, scores = np.where(shown, side, np.float32(0)), shown.astype(np.float32)
        return [Mouths(images, ~shown, sizes, scores, clip.start_frame, 0)]

    def finish(self, tracks: Iterable[FaceTrack] = ()) -> list[Mouths]:
        """Nothing is left."""
        return []

    def _mouth(self, frame: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> (size, size) uint8 grey."""
        import cv2

        grey = grey_of(frame)
        if grey.shape == (self.size, self.size):
            return grey
        smooth = cv2.INTER_AREA if grey.shape[0] > self.size else cv2.INTER_LINEAR
        return cv2.resize(grey, (self.size, self.size), interpolation=smooth)

    def _check(self, height: int, width: int) -> None:
        name, self.checked = self.recording.name, True
        if abs(height - width) > EVEN * max(height, width) or not SMALLEST <= min(height, width) <= LARGEST:
            raise BadMedia(f"{name}: its pictures are {width}x{height} pixels, and a mouth that is cropped already is a square "
                           f"of {SMALLEST} to {LARGEST}.  To have the mouth found in them, leave out --mouth-crop none, or use "
                           "a model that finds it.")
        problems = self.recording.problems
        if (height, width) != (self.size, self.size):
            problems.append(f"{name}: its pictures of {width}x{height} pixels were scaled to {self.size}x{self.size}.")
        if min(height, width) > USUAL:
            problems.append(f"{name}: pictures of {width}x{height} pixels are larger than mouth crops are (88 to {USUAL}), so "
                            "they may show whole faces.  Look at them; for faces, leave out --mouth-crop none.")
        track = self.recording.picture_track
        if track is not None and track.fps is not None and abs(track.fps - VIDEO_FPS) > SAME_RATE:
            problems.append(f"{name}: its pictures come {track.fps:.5g} a second and were brought to {VIDEO_FPS}, by leaving "
                            "out or repeating some.")


def open_cropping(mouth_crop: MouthCropSettings, recording: Recording, key_interval: int | None = None) -> tuple[
        FaceTracker, MouthCropper] | tuple[NoTracker, PictureCropper]:
    """What finds faces in a recording and what cuts out their mouths; nothing is searched where the pictures are mouths.

    key_interval: see FaceTracker; None for the usual one.
    """
    if mouth_crop.face_landmarks is None:
        return NoTracker(), PictureCropper(mouth_crop, recording)
    often = {} if key_interval is None else {"key_interval": key_interval}
    return FaceTracker(landmarks=mouth_crop.face_landmarks, **often), MouthCropper(mouth_crop)
