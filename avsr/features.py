"""Audio features: log-mel exactly as in Whisper, or the waveform with zero mean and unit variance.

    audio (S,) float32, SAMPLE_RATE  ->  log-mel (ceil(S / HOP), n_mels) float32, FEATURE_RATE a second
                                     ->  waveform (S, 1) float32
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from avsr.rates import HOP, N_FFT, SAMPLE_RATE

MEL_FILTERS = Path(__file__).parent / "weights" / "mel_filters.npz"     # written by experiments/speed/mel_filters.py
FLOOR = 1e-10                                               # power below this counts as silence: -100 dB
MIN_VARIANCE = 1e-8                                         # added to the variance of a waveform (auto_avsr)
RANGE = 8.0                                                 # log10 units kept below the loudest bin: 80 dB
BLOCK = 128                                                 # frames transformed at once: 0.6 MB, which stays in the cache


@lru_cache(maxsize=4)
def mel_filters(n_mels: int) -> np.ndarray:
    """Slaney-style mel filters as librosa makes them: (n_mels, N_FFT // 2 + 1) float32.

    The two sizes that Whisper uses, 80 and 128, are stored in the package; librosa makes any other size.
    """
    with np.load(MEL_FILTERS) as stored:
        if str(n_mels) in stored:
            return stored[str(n_mels)]
    from librosa.filters import mel

    return mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=n_mels)


def log_mel(audio: np.ndarray, *, n_mels: int = 80, n_samples: int | None = None) -> np.ndarray:
    """Whisper's log-mel spectrogram (Radford et al. 2022; openai/whisper `audio.py`).

    audio: (S,) float32 in [-1, 1], SAMPLE_RATE, or (B, S). n_samples: the audio is first padded with silence or cut to this
    length, as Whisper pads to 30 s; without it, only the last HOP is completed with silence.
    Returns (frames, n_mels) or (B, frames, n_mels) float32, roughly in [-1, 1.5].
    """
    samples = np.asarray(audio, np.float32)
    target = n_samples if n_samples is not None else -(-max(samples.shape[-1], N_FFT) // HOP) * HOP
    whole = np.zeros((*samples.shape[:-1], target), np.float32)
    whole[..., : samples.shape[-1]] = samples[..., :target]
    log_power = np.maximum(mel_power(whole, n_mels), np.float32(FLOOR))
    np.log10(log_power, out=log_power)
    loudest = log_power.max(axis=(-2, -1), keepdims=True)   # of each utterance, so that a batch equals its members
    np.maximum(log_power, loudest - np.float32(RANGE), out=log_power)
    return (log_power + np.float32(4.0)) / np.float32(4.0)


def mel_power(samples: np.ndarray, n_mels: int) -> np.ndarray:
    """Power in each mel band (..., S // HOP, n_mels) float32 of sound (..., S) float32, S at least N_FFT, a frame each HOP."""
    n_frames, edge = samples.shape[-1] // HOP, N_FFT // 2   # Whisper drops the last frame
    bins, weights, starts = _products(n_mels)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32)
    out = np.empty((*samples.shape[:-1], n_frames, n_mels), np.float32)
    for place in np.ndindex(samples.shape[:-1]):
        padded = np.pad(samples[place], edge, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
        for start in range(0, n_frames, BLOCK):
            here = slice(start, min(start + BLOCK, n_frames))
            spectrum = np.fft.rfft(frames[here] * window)   # 32 bits; 64 before NumPy 2
            power = (np.square(spectrum.real) + np.square(spectrum.imag)).T
            out[place][here] = np.add.reduceat(power[bins] * weights, starts, axis=0).T
    return out


@lru_cache(maxsize=4)
def _products(n_mels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The products that the bands add up, band after band: bins (K,), weights (K, 1) float32, and where each band begins.

    A band has a few bins of 201. To multiply by all of them is as fast on one core, but OpenBLAS does it on all cores, which
    wait for each other: 25 ms of processor time and 58 ms in all for 30 s of sound, on two busy cores, instead of 11.
    """
    filters = mel_filters(n_mels)
    used = filters != 0
    used[~used.any(axis=1), 0] = True                       # a band between two bins adds up a product with 0
    bands, bins = np.nonzero(used)
    return bins, filters[bands, bins][:, None], np.searchsorted(bands, np.arange(n_mels))


def features(audio: np.ndarray, n_mels: int) -> np.ndarray:
    """The features (length, channels) float32 for a network with `n_mels` mels; 0 mels: the waveform, see `standardise`."""
    return log_mel(audio, n_mels=n_mels) if n_mels else standardise(audio)


def standardise(audio: np.ndarray) -> np.ndarray:
    """The waveform (S,) of a whole utterance with zero mean and unit variance, (S, 1) float32, as in auto_avsr. Silence stays
    silence."""
    samples = np.asarray(audio, np.float32)
    mean, variance = samples.mean(dtype=np.float64), samples.var(dtype=np.float64)
    return ((samples - np.float32(mean)) * np.float32((variance + MIN_VARIANCE) ** -0.5))[:, None]
