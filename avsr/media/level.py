"""The level of a sound: silent, so quiet that it must be amplified, or as sound usually is.

    chunks of sound (n,) float32, one after the other -> Loudness -> dB of full scale -> the factor to amplify by
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from avsr.rates import SAMPLES_PER_FRAME

# The level is that of the fifth loudest video frame: a knock or a click, of four frames at most, does not make it.
N_LOUDEST = 5
# A sound below this is inaudible: a last bit of 16 that flips makes -90.3 dB, a usual dither -96 dB.
SILENT_DB = -90.0
# Of 21 recordings, 13 of them wild, the quietest is at -38.3 dB. Made quieter, to -50 dB, four of the wild ones lose more than
# a tenth of their speech before silero-vad's network, to -60 dB nearly all do, to -70 dB there is no speech in any.
QUIET_DB = -45.0
USUAL_DB = -18.0                                            # the middle one of those recordings: -15
FLOOR_DB = -150.0                                           # stands for a sound whose samples are all zero


def frame_powers(audio: np.ndarray) -> np.ndarray:
    """Sound (S,) -> mean power of each whole video frame, (S // SAMPLES_PER_FRAME,) float64."""
    n_frames = len(audio) // SAMPLES_PER_FRAME
    return np.square(audio[:n_frames * SAMPLES_PER_FRAME].reshape(-1, SAMPLES_PER_FRAME), dtype=np.float64).mean(axis=1)


def frame_levels(audio: np.ndarray, n_frames: int) -> np.ndarray:
    """Sound (S,) -> level of each of `n_frames` video frames, (n_frames,) float64, dB of full scale; -100 beyond its end."""
    whole = np.zeros(n_frames * SAMPLES_PER_FRAME, np.float32)
    whole[: len(audio)] = audio[: len(whole)]
    return 10 * np.log10(frame_powers(whole) + 1e-10)


def decibels(power: float) -> float:
    """Mean power -> dB of full scale, FLOOR_DB at least."""
    return 10 * math.log10(max(power, 10 ** (FLOOR_DB / 10)))


class Loudness:
    """Measures the level of a sound that comes in chunks."""

    def __init__(self):
        self._loudest = np.zeros(0)                         # powers of at most N_LOUDEST frames
        self._rest = np.zeros(0, np.float32)

    def update(self, audio: np.ndarray) -> None:
        """The next samples (n,) float32."""
        audio = np.concatenate([self._rest, audio])
        self._rest = audio[len(audio) - len(audio) % SAMPLES_PER_FRAME:]
        self._loudest = np.sort(np.concatenate([self._loudest, frame_powers(audio)]))[-N_LOUDEST:]

    @property
    def db(self) -> float:
        """The level of the N_LOUDEST-th loudest frame so far in dB of full scale; of a shorter sound that of its loudest."""
        if len(self._loudest):
            return decibels(self._loudest[0 if len(self._loudest) == N_LOUDEST else -1])
        return decibels(np.square(self._rest, dtype=np.float64).mean() if len(self._rest) else 0.0)


def level_unless_loud(chunks: Iterable[np.ndarray]) -> float:
    """The level of a sound in dB of full scale. Reading stops once the level has reached QUIET_DB."""
    loudness = Loudness()
    for chunk in chunks:
        loudness.update(chunk)
        if loudness.db >= QUIET_DB:
            break
    return loudness.db


def is_silent(audio: np.ndarray) -> bool:
    """Whether a sound (S,) is too quiet for anybody to hear."""
    loudness = Loudness()
    loudness.update(audio)
    return loudness.db < SILENT_DB


def gain_of(level_db: float) -> float:
    """The factor that makes a sound of this level as loud as sound usually is; 1 if it is loud enough, or silent."""
    return 10 ** ((USUAL_DB - level_db) / 20) if SILENT_DB <= level_db < QUIET_DB else 1.0


def amplified(audio: np.ndarray, gain: float) -> np.ndarray:
    """A sound (S,) times a factor. A click that would become louder than full scale is clipped."""
    return audio if gain == 1 else np.clip(audio * np.float32(gain), -1, 1)
