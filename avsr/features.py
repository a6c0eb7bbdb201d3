"""Audio features: log-mel exactly as in Whisper, or the waveform with zero mean and unit variance.

    audio (S,) float32, SAMPLE_RATE  ->  log-mel (ceil(S / HOP), n_mels) float32, FEATURE_RATE a second
                                     ->  waveform (S, 1) float32
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from avsr.rates import HOP, N_FFT, SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np
    import torch

MEL_FILTERS = Path(__file__).parent / "weights" / "mel_filters.npz"     # written by experiments/speed/mel_filters.py
FLOOR = 1e-10                                               # power below this counts as silence: -100 dB
MIN_VARIANCE = 1e-8                                         # added to the variance of a waveform (auto_avsr)
RANGE = 8.0                                                 # log10 units kept below the loudest bin: 80 dB


@lru_cache(maxsize=4)
def mel_filters(n_mels: int) -> torch.Tensor:
    """Slaney-style mel filters as librosa makes them: (n_mels, N_FFT // 2 + 1) float32.

    The two sizes that Whisper uses, 80 and 128, are stored in the package; librosa makes any other size.
    """
    import numpy as np
    import torch

    with np.load(MEL_FILTERS) as stored:
        if str(n_mels) in stored:
            return torch.from_numpy(stored[str(n_mels)])
    from librosa.filters import mel

    return torch.from_numpy(mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=n_mels))


def log_mel(audio: np.ndarray | torch.Tensor, *, n_mels: int = 80, n_samples: int | None = None) -> torch.Tensor:
    """Whisper's log-mel spectrogram (Radford et al. 2022; openai/whisper `audio.py`).

    audio: (S,) float32 in [-1, 1], SAMPLE_RATE, or (B, S). n_samples: the audio is first padded with silence or cut to this
    length, as Whisper pads to 30 s; without it, only the last HOP is completed with silence.
    Returns (frames, n_mels) or (B, frames, n_mels) float32, roughly in [-1, 1.5]; on the device of `audio`.
    """
    import torch

    samples = torch.as_tensor(audio, dtype=torch.float32)
    target = n_samples if n_samples is not None else -(-max(samples.shape[-1], N_FFT) // HOP) * HOP
    samples = torch.nn.functional.pad(samples[..., :target], (0, max(0, target - samples.shape[-1])))
    log_power = mel_power(samples, n_mels).clamp_min(FLOOR).log10()
    loudest = log_power.amax(dim=(-2, -1), keepdim=True)    # of each utterance, so that a batch equals its members
    return (log_power.maximum(loudest - RANGE) + 4.0) / 4.0


def mel_power(samples: torch.Tensor, n_mels: int) -> torch.Tensor:
    """Power in each mel band (..., S // HOP, n_mels) float32 of sound (..., S) float32, S at least N_FFT, a frame each HOP."""
    import torch

    window = torch.hann_window(N_FFT, device=samples.device)
    spectrum = torch.stft(samples, N_FFT, HOP, window=window, return_complex=True)
    power = spectrum[..., :-1].abs().square()               # Whisper drops the last column
    return (mel_filters(n_mels).to(samples.device) @ power).transpose(-2, -1)


def features(audio: np.ndarray | torch.Tensor, n_mels: int) -> torch.Tensor:
    """The features (length, channels) float32 for a network with `n_mels` mels; 0 mels: the waveform, see `standardise`."""
    return log_mel(audio, n_mels=n_mels) if n_mels else standardise(audio)


def standardise(audio: np.ndarray | torch.Tensor) -> torch.Tensor:
    """The waveform (S,) of a whole utterance with zero mean and unit variance, (S, 1) float32, as in auto_avsr. Silence stays
    silence."""
    import torch

    samples = torch.as_tensor(audio, dtype=torch.float32)
    variance, mean = torch.var_mean(samples, correction=0)
    return ((samples - mean) * (variance + MIN_VARIANCE).rsqrt())[:, None]
