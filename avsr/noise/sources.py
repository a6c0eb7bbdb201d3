"""Where noise comes from: recordings, babble, one talker, white to brown noise, speech-shaped noise.

    source.draw(n_samples, rng, without=speaker)  ->  (n_samples,) float32, SAMPLE_RATE

Recordings are read when first asked for. What is drawn depends on the generator alone, not on what was read before.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from avsr import media
from avsr.errors import AvsrError, BadMedia
from avsr.noise.mixing import MARGIN, active_level, joined
from avsr.rates import HOP, N_FFT, SAMPLE_RATE

SPEECH_BLOCK = 5 * HOP                # samples over which it is judged whether somebody speaks: 50 ms
PADDING_DB = 90.0                     # dB below its peak, a recording holds nothing: 5 of 128 ESC clips are padded with zeros
CACHE_SECONDS = 3600                  # of sound kept in memory by each source: 230 MB


class NoiseSource(Protocol):
    """Anything that gives noise. `without` names a talker who must not be heard in it; most sources need not care."""

    def draw(self, n_samples: int, rng: np.random.Generator, *, without: str | None = None) -> np.ndarray:
        """(n_samples,) float32, at no particular level."""
        ...


class _Shelf:
    """Prepared sounds by key: read when first asked for, the least recently used put away beyond CACHE_SECONDS."""

    def __init__(self, prepare: Callable[[np.ndarray], np.ndarray]):
        self._prepare = prepare
        self._sounds: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._n_samples = 0

    def get(self, key: Hashable, source: Path | str | np.ndarray) -> np.ndarray:
        if key in self._sounds:
            self._sounds.move_to_end(key)
            return self._sounds[key]
        sound = self._sounds[key] = self._prepare(_read(source))
        if not len(sound):
            raise BadMedia(f"{_name(source)}: it is silent, so it makes no noise.  Take it out of the noise folder.")
        self._n_samples += len(sound)
        while self._n_samples > CACHE_SECONDS * SAMPLE_RATE and len(self._sounds) > 1:
            self._n_samples -= len(self._sounds.popitem(last=False)[1])
        return sound


def _name(source: Path | str | np.ndarray) -> str:
    return "waveform" if isinstance(source, np.ndarray) else str(source)


def _read(source: Path | str | np.ndarray) -> np.ndarray:
    if isinstance(source, np.ndarray):
        return np.asarray(source, np.float32)
    return media.read(source, want_video=False).audio


class Recordings:
    """Files of noise: a random one from a random place on, and others after it where it is too short."""

    def __init__(self, sources: Sequence[Path | str | np.ndarray]):
        if not len(sources):
            raise AvsrError("noise: a list of 0 recordings.  Give at least one file.")
        self.sources = list(sources)
        self._shelf = _Shelf(_without_padding)

    def draw(self, n_samples: int, rng: np.random.Generator, *, without: str | None = None) -> np.ndarray:
        """(n_samples,) float32 as loud as recorded."""
        sound = self._any(rng)
        start = int(rng.integers(max(1, len(sound) - n_samples + 1)))
        return joined(sound[start:], lambda: self._any(rng), n_samples)

    def _any(self, rng: np.random.Generator) -> np.ndarray:
        which = int(rng.integers(len(self.sources)))
        return self._shelf.get(which, self.sources[which])


class Babble:
    """Several people at once, all different, each at the same active level, sentence after sentence without pauses.

    talkers: name -> files or waveforms (S,) float32.  n_talkers: how many, or from how many to how many, are heard.
    """

    def __init__(self, talkers: Mapping[str, Sequence[Path | str | np.ndarray]],
                 n_talkers: int | tuple[int, int] = (4, 8)):
        self.talkers = {name: list(sources) for name, sources in sorted(talkers.items())}
        self.fewest, self.most = (n_talkers, n_talkers) if isinstance(n_talkers, int) else n_talkers
        assert 1 <= self.fewest <= self.most, n_talkers
        self._shelf = _Shelf(_speech_only)
        if silent := [name for name, sources in self.talkers.items() if not sources]:
            raise AvsrError(f"babble: talker {silent[0]} has 0 recordings.  Leave the talker out, or add a file.")
        self._others(None)

    def draw(self, n_samples: int, rng: np.random.Generator, *, without: str | None = None) -> np.ndarray:
        """(n_samples,) float32 in which `without` is not heard."""
        heard = self.choose(rng, without=without)
        return np.sum([self._stream(name, n_samples, rng) for name in heard], axis=0, dtype=np.float32)

    def choose(self, rng: np.random.Generator, *, without: str | None = None) -> list[str]:
        """Names of the talkers of one draw: all different, none of them `without`."""
        names = self._others(without)
        n = int(rng.integers(self.fewest, min(self.most, len(names)) + 1))
        return [names[i] for i in rng.permutation(len(names))[:n]]

    def _others(self, without: str | None) -> list[str]:
        names = [name for name in self.talkers if name != without]
        if len(names) < self.fewest:
            beside = f" beside {without}" if without in self.talkers else ""
            raise AvsrError(f"babble: {len(names)} talkers{beside}, but {self.fewest} are to be heard at once.  "
                            f"Add talkers, or set n_talkers to {max(len(names), 1)}.")
        return names

    def _stream(self, name: str, n_samples: int, rng: np.random.Generator) -> np.ndarray:
        def anything() -> np.ndarray:
            which = int(rng.integers(len(self.talkers[name])))
            return self._shelf.get((name, which), self.talkers[name][which])

        sound = anything()
        return joined(sound[int(rng.integers(len(sound))):], anything, n_samples)


class Talker(Babble):
    """One person who talks without pause, and is not the one to be understood."""

    def __init__(self, talkers: Mapping[str, Sequence[Path | str | np.ndarray]]):
        super().__init__(talkers, 1)


@dataclass(frozen=True)
class Coloured:
    """Gaussian noise whose power falls with frequency to this power: 0 white, 1 pink, 2 brown. RMS 1 on average."""

    exponent: float = 0.0

    def draw(self, n_samples: int, rng: np.random.Generator, *, without: str | None = None) -> np.ndarray:
        """(n_samples,) float32; flat below 20 Hz, or brown noise would be one slow wave."""
        return _shaped(n_samples, rng, lambda hertz: np.maximum(hertz, 20.0) ** -self.exponent)


class SpeechShaped:
    """Steady noise with the long-term spectrum of speech, from at most 200 of the files or waveforms, evenly picked."""

    def __init__(self, utterances: Sequence[Path | str | np.ndarray]):
        if not len(utterances):
            raise AvsrError("speech-shaped noise: a list of 0 recordings.  Give at least one file.")
        self.utterances = list(utterances)[:: math.ceil(len(utterances) / 200)]
        self._power: np.ndarray | None = None

    def draw(self, n_samples: int, rng: np.random.Generator, *, without: str | None = None) -> np.ndarray:
        """(n_samples,) float32 of RMS 1 on average."""
        if self._power is None:
            self._power = np.sum([_spectrum(_speech_only(_read(one))) for one in self.utterances], axis=0)
        hertz = np.fft.rfftfreq(N_FFT, 1 / SAMPLE_RATE)
        return _shaped(n_samples, rng, lambda wanted: np.interp(wanted, hertz, self._power))


def _shaped(n_samples: int, rng: np.random.Generator, power: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Gaussian noise of RMS 1 on average with `power` as a function of frequency in Hz."""
    from scipy.fft import irfft, next_fast_len

    n = next_fast_len(n_samples, real=True)
    amplitude = np.sqrt(power(np.fft.rfftfreq(n, 1 / SAMPLE_RATE))).astype(np.float32)
    amplitude *= n / np.sqrt(2 * np.sum(np.square(amplitude, dtype=np.float64)) * 2)
    values = rng.standard_normal((len(amplitude), 2), np.float32).view(np.complex64)[:, 0]
    return irfft(values * amplitude, n)[:n_samples]


def _spectrum(audio: np.ndarray) -> np.ndarray:
    """(N_FFT // 2 + 1,) summed power of half-overlapping Hann windows."""
    padded = np.pad(audio, (0, max(0, N_FFT - len(audio))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[:: N_FFT // 2]
    return np.square(np.abs(np.fft.rfft(frames * np.hanning(N_FFT)))).sum(axis=0)


def _without_padding(audio: np.ndarray) -> np.ndarray:
    """Without the stretches of 10 ms in which nothing was recorded, so that no cut is silent from end to end."""
    peaks = np.abs(_blocks(audio, HOP)).max(axis=1, initial=0)
    loud = peaks > peaks.max(initial=0) * 10 ** (-PADDING_DB / 20)
    return audio if loud.all() else audio[np.repeat(loud, HOP)[: len(audio)]]


def _speech_only(audio: np.ndarray) -> np.ndarray:
    """Without what comes before and after the speech, and at an active level of 0 dB; empty where all is silent.

    Speech is where 50 ms have an RMS above P.56's threshold of activity. On 72 GRID sentences with word times, in their
    background noise, that begins 0.03 s late and ends 0.12 s late (medians); with 20 dB it keeps 0.9 s of noise.
    """
    level = active_level(audio)
    if not math.isfinite(level):
        return audio[:0]
    power = np.square(_blocks(audio, SPEECH_BLOCK), dtype=np.float64).mean(axis=1)
    loud = np.flatnonzero(power > 10 ** ((level - MARGIN) / 10))
    speech = audio[loud[0] * SPEECH_BLOCK: (loud[-1] + 1) * SPEECH_BLOCK] if len(loud) else audio[:0]
    return (speech / 10 ** (level / 20)).astype(np.float32)


def _blocks(audio: np.ndarray, size: int) -> np.ndarray:
    """(S,) -> (ceil(S / size), size), the last one filled up with zeros."""
    return np.pad(audio, (0, -len(audio) % size)).reshape(-1, size)
