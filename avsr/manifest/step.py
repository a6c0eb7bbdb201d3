"""Are lips and sound in step? The mouth's motion and opening against the sound's loudness, by cross-correlation.

    mouths (T, 96, 96) uint8 -> opening (T,);  sound (S,) float32 -> energy (T,);  both -> correlation at each lag
Said of single clips it is weak evidence, of twenty clips of one speaker strong: see checks.py for the figures.
"""

from __future__ import annotations

import numpy as np

from avsr.rates import MOUTH_SIZE, SAMPLES_PER_FRAME

# Rows and columns of the crop, as shares of its side: the mouth with chin and cheeks, which move; the lips, which part.
MOVES = (slice(30 * MOUTH_SIZE // 96, 76 * MOUTH_SIZE // 96), slice(MOUTH_SIZE // 4, 3 * MOUTH_SIZE // 4))
PARTS = (slice(36 * MOUTH_SIZE // 96, 64 * MOUTH_SIZE // 96), slice(MOUTH_SIZE // 4, 3 * MOUTH_SIZE // 4))


def mouth_opening(images: np.ndarray) -> np.ndarray:
    """(T, 96, 96) uint8 -> (T,) float32: how much the mouth moves plus how dark its middle is, each as a z-score.

    Motion alone puts GRID's s4 6 frames early (he moves his lips before he speaks), darkness alone s1 5 frames late and
    s31 10 early; their sum has its peak at 0 for each of the four speakers looked at (s1, s4, s26, s31).
    """
    if len(images) < 2:
        return np.zeros(len(images), np.float32)
    face = images[:, *MOVES].astype(np.float32)
    face -= face.mean(axis=(1, 2), keepdims=True)            # flicker is no motion
    change = np.abs(np.diff(face, axis=0)).mean(axis=(1, 2))
    motion = (np.r_[change[:1], change] + np.r_[change, change[-1:]]) / 2
    dark = -np.percentile(images[:, *PARTS].reshape(len(images), -1), 10, axis=1)
    return (_standard(motion) + _standard(dark)).astype(np.float32)


def energy(audio: np.ndarray, n_frames: int) -> np.ndarray:
    """(S,) -> (n_frames,) float32: square root of each video frame's RMS; 0 beyond the sound's end."""
    whole = np.zeros(n_frames * SAMPLES_PER_FRAME, np.float32)
    whole[: len(audio)] = audio[: len(whole)]
    return np.square(whole.reshape(n_frames, SAMPLES_PER_FRAME)).mean(axis=1) ** 0.25


def correlations(opening: np.ndarray, energy: np.ndarray, max_lag: int) -> np.ndarray:
    """(T,), (T,) -> (2 max_lag + 1,) float64 in -1..1: of lips `k` frames after the sound, for k from -max_lag on.

    Zeros where either does not change, or the two are too short for that lag.
    """
    n = min(len(opening), len(energy))
    out = np.zeros(2 * max_lag + 1)
    for i, k in enumerate(range(-max_lag, max_lag + 1)):
        if n - abs(k) < 3:
            continue
        lips = np.asarray(opening[max(0, k): n + min(0, k)], np.float64)
        sound = np.asarray(energy[max(0, -k): n + min(0, -k)], np.float64)
        lips, sound = lips - lips.mean(), sound - sound.mean()
        spread = np.sqrt((lips @ lips) * (sound @ sound))
        out[i] = lips @ sound / spread if spread > 1e-9 else 0.0
    return out


def lag(opening: np.ndarray, energy: np.ndarray, max_lag: int) -> tuple[int, float]:
    """(T,), (T,) -> frames by which the lips come after the sound (below 0: before it), and the correlation there."""
    return peak(correlations(opening, energy, max_lag))


def peak(curve: np.ndarray) -> tuple[int, float]:
    """Lag in frames and height of the highest point of what `correlations` gives; of equals that nearest to 0."""
    middle = len(curve) // 2
    best = max(range(len(curve)), key=lambda i: (curve[i], -abs(i - middle)))
    return best - middle, float(curve[best])


def _standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / (values.std() + 1e-6)
