"""What a noise is made of: cuts from recordings and seeds of computed noise in, the samples of the noise out.

    NoisePlan(n_samples, streams)  ->  render(plan, sound_of)  ->  (n_samples,) float32, SAMPLE_RATE
Whoever has the same recordings makes the same noise from a plan. A noise manifest (manifest.py) is a file of plans.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from avsr.noise.mixing import fade_weights
from avsr.rates import N_FFT, SAMPLE_RATE

FLAT_HERTZ = 20.0                     # coloured noise is flat below it, or brown noise would be one slow wave
SPECTRUM_HERTZ = SAMPLE_RATE / N_FFT  # from one value of a long-term spectrum to the next: 40


@dataclass(frozen=True)
class Recorded:
    """A named sound that is no file, such as an utterance of a cache. read: returns (S,) float32 mono, SAMPLE_RATE, or
    None where the recording is silent."""

    name: str
    read: Callable[[], np.ndarray | None] = field(repr=False, compare=False)


Sound = Path | str | Recorded | np.ndarray
"""A recording: a file, a Recorded, or a waveform (S,) float32 at SAMPLE_RATE (which no manifest can name)."""


@dataclass(frozen=True)
class Cut:
    """A stretch of a recording.

    offset: its first sample in the recording, as decoded to SAMPLE_RATE mono.  length: in samples.  gain: a factor.
    fade: how many samples it overlaps the cut before it, in an equal-power crossfade.
    """

    sound: Sound
    offset: int
    length: int
    gain: float = 1.0
    fade: int = 0


@dataclass(frozen=True)
class Generated:
    """Gaussian noise with a given spectrum, RMS 1 on average.

    seed: of numpy's default generator.  n_fft: size of the transform, at least the wanted number of samples.
    exponent: power falls with frequency to this power: 0 white, 1 pink, 2 brown; flat below 20 Hz.  power: instead of the
    exponent, (N_FFT // 2 + 1,), the power at every 40 Hz, interpolated linearly; speech-shaped noise has it.
    """

    seed: int
    n_fft: int
    exponent: float | None = None
    power: tuple[float, ...] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class NoisePlan:
    """Streams of `n_samples` that are added up. talkers: who speaks in each stream, where that is known."""

    n_samples: int
    streams: tuple[tuple[Cut, ...] | Generated, ...]
    talkers: tuple[str, ...] = ()


def render(plan: NoisePlan, sound_of: Callable[[Sound], np.ndarray]) -> np.ndarray:
    """(n_samples,) float32: the sum of the streams. sound_of: returns a cut's recording as a waveform (S,) float32."""
    noise = np.zeros(plan.n_samples)
    for stream in plan.streams:
        noise += (_generated(stream, plan.n_samples) if isinstance(stream, Generated)
                  else _joined(stream, plan.n_samples, sound_of))
    return noise.astype(np.float32)


def _joined(cuts: Sequence[Cut], n_samples: int, sound_of: Callable[[Sound], np.ndarray]) -> np.ndarray:
    """(n_samples,) float64: cut after cut, each crossfaded with the one before it."""
    stream, end = np.zeros(n_samples), 0
    for cut in cuts:
        piece = sound_of(cut.sound)[cut.offset: cut.offset + cut.length].astype(np.float64) * cut.gain
        start, seam = end - cut.fade, end
        end = start + cut.length
        assert len(piece) == cut.length > 0, cut
        assert 0 <= start <= seam <= end <= n_samples, cut
        if cut.fade:
            out, into = fade_weights(cut.fade)
            stream[start:seam] = stream[start:seam] * out + piece[:cut.fade] * into
        stream[seam:end] = piece[cut.fade:]
    assert end == n_samples, (end, n_samples)
    return stream


def _generated(noise: Generated, n_samples: int) -> np.ndarray:
    """(n_samples,) float64: random phases and amplitudes under the square root of the spectrum, transformed back."""
    hertz = np.fft.rfftfreq(noise.n_fft, 1 / SAMPLE_RATE)
    if noise.power is None:
        assert noise.exponent is not None, noise
        amplitude = np.maximum(hertz, FLAT_HERTZ) ** (-noise.exponent / 2)
    else:
        amplitude = np.sqrt(np.interp(hertz, SPECTRUM_HERTZ * np.arange(len(noise.power)), noise.power))
    amplitude *= noise.n_fft / (2 * np.sqrt(np.sum(amplitude ** 2)))
    values = np.random.default_rng(noise.seed).standard_normal((len(hertz), 2))
    return np.fft.irfft((values[:, 0] + 1j * values[:, 1]) * amplitude, noise.n_fft)[:n_samples]
