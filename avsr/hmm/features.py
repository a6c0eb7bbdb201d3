"""What an HMM observes: cepstra of the sound and low frequencies of the mouths, a vector every 10 ms.

    audio (S,) float32  ->  sound (ceil(S / hop), 39)       MFCC 0 to 12, their deltas and delta-deltas, normalised
    mouths (T, 96, 96)  ->  lips (frames, D)                2-D DCT, lowest frequencies, with deltas; NaN where no face is
Sources: Davis and Mermelstein 1980 (MFCC), computed by librosa; Potamianos et al. 2003 (DCT of the mouth, interpolated to the
rate of the sound, mean removed for each utterance).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from avsr.rates import MOUTH_INPUT, N_FFT, SAMPLE_RATE, VIDEO_FPS

N_WINDOW = 512                                              # samples of the FFT
PRE_EMPHASIS = 0.97
MIN_SPREAD = 1e-3                                           # of a coefficient that hardly changes, as in silence


@dataclass(frozen=True)
class FeatureSettings:
    """hop: samples from one vector to the next.  n_mels, n_cepstra, lifter: of the MFCC.  n_dct: of the mouth.

    variance: whether each coefficient of an utterance is divided by its standard deviation, besides removing its mean.
    """

    hop: int = 160
    n_mels: int = 26
    n_cepstra: int = 13
    lifter: int = 22
    variance: bool = True
    n_dct: int = 30
    mouth_size: int = 32

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FeatureSettings:
        """What `to_dict` gave."""
        return cls(**values)

    def n_frames(self, n_samples: int) -> int:
        """Vectors of so many samples."""
        return max(1, -(-n_samples // self.hop))


def sound_features(audio: np.ndarray, settings: FeatureSettings = FeatureSettings()) -> np.ndarray:
    """Audio (S,) float32 at SAMPLE_RATE -> (n_frames(S), 3 n_cepstra) float32. Vector t is of 25 ms around t * hop samples."""
    import librosa

    n_frames = settings.n_frames(len(audio))
    sound = np.pad(audio, (0, max(N_WINDOW, n_frames * settings.hop) - len(audio)))
    sound = np.append(sound[:1], sound[1:] - PRE_EMPHASIS * sound[:-1]).astype(np.float32)
    cepstra = librosa.feature.mfcc(y=sound, sr=SAMPLE_RATE, n_mfcc=settings.n_cepstra, lifter=settings.lifter, n_fft=N_WINDOW,
                                   win_length=N_FFT, hop_length=settings.hop, n_mels=settings.n_mels, htk=True,
                                   pad_mode="constant").T[:n_frames]
    return normalised(with_deltas(cepstra, 5 if settings.hop == 160 else 9), spread=settings.variance).astype(np.float32)


def lip_features(mouths: np.ndarray, missing: np.ndarray, n_frames: int,
                 settings: FeatureSettings = FeatureSettings()) -> np.ndarray:
    """Mouths (T, 96, 96) or (T, 88, 88) uint8, missing (T,) bool -> (n_frames, 3 n_dct) float32.

    The lowest frequencies of the DCT in zigzag order, as in JPEG, interpolated from 25 a second; NaN where no face was found.
    """
    if not len(mouths) or missing.all():
        return np.full((n_frames, 3 * settings.n_dct), np.nan, np.float32)
    images = _small(mouths, settings.mouth_size)
    basis = _dct(settings.mouth_size)
    rows, columns = zigzag(settings.n_dct)
    low = (basis @ images @ basis.T)[:, rows, columns]
    here = np.flatnonzero(~missing)
    times = np.arange(n_frames) * settings.hop / SAMPLE_RATE
    smooth = np.stack([np.interp(times, (here + 0.5) / VIDEO_FPS, low[here, i]) for i in range(low.shape[1])], axis=1)
    out = normalised(with_deltas(smooth, 2 * round(6 * 160 / settings.hop) + 1), spread=settings.variance).astype(np.float32)
    frame = np.minimum((times * VIDEO_FPS).astype(int), len(missing) - 1)
    out[missing[frame]] = np.nan
    return out


def with_deltas(features: np.ndarray, width: int) -> np.ndarray:
    """(T, D) -> (T, 3 D): with the slopes over `width` vectors (odd), and the slopes of these."""
    import librosa

    width = min(width, len(features) - 1 + len(features) % 2)
    if width < 3:                                           # too short to have a slope
        return np.concatenate([features, np.zeros_like(features), np.zeros_like(features)], axis=1)
    first = librosa.feature.delta(features.T, width=width, mode="nearest")
    return np.concatenate([features, first.T, librosa.feature.delta(first, width=width, mode="nearest").T], axis=1)


def normalised(features: np.ndarray, *, spread: bool) -> np.ndarray:
    """Without the mean of each column, and with `spread` divided by its standard deviation: cepstral mean and variance
    normalisation of an utterance."""
    features = features - features.mean(axis=0)
    return features / np.maximum(features.std(axis=0), MIN_SPREAD) if spread else features


def zigzag(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the n lowest frequencies after the mean, (n,) each, in JPEG's order."""
    side = int(np.ceil(np.sqrt(2 * (n + 1)))) + 1
    cells = sorted(((i, j) for i in range(side) for j in range(side)),
                   key=lambda cell: (sum(cell), cell[0] if sum(cell) % 2 else cell[1]))
    rows, columns = zip(*cells[1:n + 1], strict=True)
    return np.array(rows), np.array(columns)


def _dct(size: int) -> np.ndarray:
    """The orthonormal DCT-II as a matrix (size, size)."""
    place, frequency = np.arange(size), np.arange(size)[:, None]
    out = np.sqrt(2 / size) * np.cos(np.pi * (2 * place + 1) * frequency / (2 * size))
    out[0] /= np.sqrt(2)
    return out


def _small(mouths: np.ndarray, size: int) -> np.ndarray:
    """The middle 88x88 of mouths (T, H, H), averaged down to (T, size, size) float64 in 0 to 1."""
    import cv2

    edge = (mouths.shape[1] - MOUTH_INPUT) // 2
    middle = mouths[:, edge:edge + MOUTH_INPUT, edge:edge + MOUTH_INPUT]
    return np.stack([cv2.resize(one, (size, size), interpolation=cv2.INTER_AREA) for one in middle]) / 255.0
