"""Sound and pictures that come in pieces of any length, at times of their own -> Clips on one clock."""

from __future__ import annotations

from collections import deque

import numpy as np

from avsr.errors import BadMedia
from avsr.media import Clip
from avsr.rates import SAMPLE_RATE, SAMPLES_PER_FRAME, VIDEO_FPS, frames_to_seconds, samples_to_frames

PATIENCE_S = 0.3                      # how long the sound waits for a picture: a camera's pictures come up to 0.2 s after it
STALE_S = 0.5                         # a picture is shown for so long at most; after that the camera shows nothing
LARGEST_SIDE = 1280                   # pixels of a side; larger pictures are scaled down, as in media.open_recording
HALF_FRAME = 0.5 / VIDEO_FPS          # a picture comes on so early at most, as in media.video
SAME = 1e-6                           # seconds


class ClipAssembler:
    """Makes consecutive Clips of 25 pictures a second and 16 kHz sound out of pieces as a microphone and a camera give them.

    has_audio, has_video: which of the two come. With sound, the sound is the clock: its samples are counted, and a picture
    belongs to the time at which it was taken. Without sound, the times of the pictures are the clock. Each frame shows the
    latest picture whose time has come, as in files, see media.video. Sound that is ahead of the pictures waits PATIENCE_S.
    """

    def __init__(self, *, has_audio: bool, has_video: bool):
        assert has_audio or has_video
        self.has_audio, self.has_video = has_audio, has_video
        self._sound: list[np.ndarray] = []
        self._n_samples = 0                                  # of all sound so far
        self._pictures: deque[tuple[float, np.ndarray]] = deque()       # onset in seconds, picture
        self._newest: float | None = None                    # time of the newest picture
        self._onset, self._shown = 0.0, None                 # of the picture that is shown now
        self._size: tuple[int, int] | None = None            # (H, W) of all pictures
        self._next = 0                                       # number of the next frame

    def add_sound(self, samples: np.ndarray) -> None:
        """The next samples (S,) float32, mono, SAMPLE_RATE. Raises BadMedia for another shape."""
        if samples.ndim != 1:
            raise BadMedia(f"sound: a piece of shape {samples.shape}, but sound must be (S,) float32, mono.  Mix its channels "
                           "down first.")
        finite = np.nan_to_num(samples.astype(np.float32, copy=False), posinf=0.0, neginf=0.0)
        self._sound.append(finite)
        self._n_samples += len(finite)

    def add_picture(self, picture: np.ndarray, time_s: float) -> None:
        """A picture (H, W, 3) uint8 RGB, taken `time_s` seconds after the start. One whose time does not rise is left out.

        Raises BadMedia for another shape.
        """
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
            raise BadMedia(f"picture: shape {picture.shape} and type {picture.dtype}, but it must be (H, W, 3) uint8 RGB.  "
                           "Convert it first.")
        gap = 1 / VIDEO_FPS if self._newest is None else time_s - self._newest
        if not gap > SAME:
            return
        self._newest = time_s
        self._pictures.append((time_s - min(HALF_FRAME, gap / 2), self._resized(picture)))

    def take(self) -> Clip | None:
        """All whole frames that are complete and were not taken yet; None where there is none."""
        return self._clip(self._n_complete())

    def finish(self) -> Clip | None:
        """The rest, at the end; None where there is none."""
        last_picture = 0 if self._newest is None else int(max(0.0, self._newest) * VIDEO_FPS + 0.5) + 1
        return self._clip(max(samples_to_frames(self._n_samples), last_picture))

    def _n_complete(self) -> int:
        """The number of frames, from the start on, to which nothing will be added."""
        heard = self._n_samples // SAMPLES_PER_FRAME
        if not self.has_video:
            return heard
        seen = 0 if not self._pictures else int(np.ceil((self._pictures[-1][0] - SAME) * VIDEO_FPS))
        if not self.has_audio:
            return seen
        waited = int((self._n_samples / SAMPLE_RATE - PATIENCE_S) * VIDEO_FPS)
        return min(heard, max(seen, waited))

    def _clip(self, end: int) -> Clip | None:
        n_frames, start = end - self._next, self._next
        if n_frames <= 0:
            return None
        self._next = end
        audio = self._samples(n_frames) if self.has_audio else None
        if self._size is None:                               # of a camera that has not begun there is no picture
            return Clip(audio=audio, start_frame=start)
        height, width = self._size
        video, shown = np.zeros((n_frames, height, width, 3), np.uint8), np.zeros(n_frames, bool)
        for i in range(n_frames):
            picture = self._at(frames_to_seconds(start + i))
            if picture is not None:
                video[i], shown[i] = picture, True
        return Clip(video, shown, audio, start)

    def _samples(self, n_frames: int) -> np.ndarray:
        """The sound of the next frames, filled up with silence at the end of the recording."""
        held = np.concatenate(self._sound) if self._sound else np.zeros(0, np.float32)
        n_samples = n_frames * SAMPLES_PER_FRAME
        self._sound = [held[n_samples:]]
        if len(held) < n_samples and self.has_video:
            return np.pad(held, (0, n_samples - len(held)))
        return held[:n_samples]

    def _at(self, time_s: float) -> np.ndarray | None:
        """The picture that is shown at a time; times rise."""
        while self._pictures and self._pictures[0][0] <= time_s + SAME:
            self._onset, self._shown = self._pictures.popleft()
        if self._shown is not None and time_s - self._onset > STALE_S:
            self._shown = None
        return self._shown

    def _resized(self, picture: np.ndarray) -> np.ndarray:
        """The picture in the size of the first one, of at most LARGEST_SIDE pixels a side."""
        import cv2

        height, width = picture.shape[:2]
        if self._size is None:
            scale = min(1.0, LARGEST_SIDE / max(height, width))
            self._size = max(1, round(height * scale)), max(1, round(width * scale))
        if self._size == (height, width):
            return picture
        return cv2.resize(picture, self._size[::-1], interpolation=cv2.INTER_AREA)
