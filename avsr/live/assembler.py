"""Sound and pictures that come in pieces of any length, at times of their own -> Clips on one clock."""

from __future__ import annotations

import numpy as np

from avsr.media import Clip


class ClipAssembler:
    """Makes consecutive Clips of 25 pictures a second and 16 kHz sound out of pieces as a microphone and a camera give them.

    has_audio, has_video: which of the two come. With sound, the sound is the clock: its samples are counted, and a picture
    belongs to the time at which it was taken. Without sound, the times of the pictures are the clock.
    """

    def __init__(self, *, has_audio: bool, has_video: bool):
        self.has_audio, self.has_video = has_audio, has_video

    def add_sound(self, samples: np.ndarray) -> None:
        """The next samples (S,) float32, mono, SAMPLE_RATE."""
        raise NotImplementedError

    def add_picture(self, picture: np.ndarray, time_s: float) -> None:
        """A picture (H, W, 3) uint8 RGB, taken `time_s` seconds after the start; times rise."""
        raise NotImplementedError

    def take(self) -> Clip | None:
        """All whole frames that are complete and were not taken yet; None where there is none."""
        raise NotImplementedError

    def finish(self) -> Clip | None:
        """The rest, at the end."""
        raise NotImplementedError
