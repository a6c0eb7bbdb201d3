"""What is wrong with a microphone or a camera while it records, in one sentence each, said once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from avsr.live import LiveUpdate
from avsr.live.container import PicturePiece, SoundPiece
from avsr.rates import SAMPLE_RATE, VIDEO_FPS

AFTER_S = 3.0                         # seconds before anything is said
SILENT = 1e-4                         # -80 dB of full scale: a microphone that is on gives more noise of its own
SLOW_FPS = 12.0                       # pictures a second, below which many sounds of 60 to 80 ms fall between two of them
NO_FACE_S = 4.0


class InputWatch:
    """Follows the pieces of a recording and says what is wrong with them. has_audio, has_video: what is to come."""

    def __init__(self, *, has_audio: bool, has_video: bool):
        self.has_audio, self.has_video = has_audio, has_video
        self._heard_s, self._silent_s, self._faceless_since = 0.0, 0.0, None
        self._times: list[float] = []                        # of the pictures of the last AFTER_S seconds
        self._said: set[str] = set()

    def add(self, piece: SoundPiece | PicturePiece) -> Iterator[str]:
        """What the next piece makes worth saying."""
        if isinstance(piece, SoundPiece):
            length_s = len(piece.samples) / SAMPLE_RATE
            self._heard_s += length_s
            loud = len(piece.samples) and float(np.abs(piece.samples).max()) > SILENT
            self._silent_s = 0.0 if loud else self._silent_s + length_s
            if self._silent_s > AFTER_S:
                yield from self._once("silent", f"The microphone has given only silence for {AFTER_S:.0f} s: it may be muted.  "
                                                "Unmute it, or choose another.")
        else:
            self._times = [one for one in self._times if one > piece.time_s - AFTER_S] + [piece.time_s]
            lasted = self._times[-1] - self._times[0]
            if lasted > AFTER_S * 0.9 and (fps := (len(self._times) - 1) / lasted) < SLOW_FPS:
                yield from self._once("slow", f"The camera gives {fps:.0f} pictures a second, and lips are read from "
                                              f"{VIDEO_FPS}.  Give it more light, or close what else uses it.")

    def look(self, update: LiveUpdate) -> Iterator[str]:
        """What the state of recognition makes worth saying."""
        if not self.has_video or update.mouth is not None:
            self._faceless_since = None
            return
        if self._faceless_since is None:
            self._faceless_since = update.end_s
        if update.end_s - self._faceless_since > NO_FACE_S:
            yield from self._once("faceless", "No face is in sight, so only the sound counts." if self.has_audio else
                                  "No face is in sight, so there is nothing to read.  Come nearer, or turn on a light.")

    def _once(self, what: str, sentence: str) -> Iterator[str]:
        if what not in self._said:
            self._said.add(what)
            yield sentence
