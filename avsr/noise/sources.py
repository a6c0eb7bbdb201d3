"""Sources of noise: recordings, babble, one talker, white to brown noise, speech-shaped noise.

    source.plan(n_samples, rng, without=speaker)  ->  NoisePlan: parts of recordings, or a seed
    source.draw(n_samples, rng, without=speaker)  ->  (n_samples,) float32, SAMPLE_RATE: that plan, rendered
Recordings are read when they are first needed. A draw depends on the generator alone, not on what was read before.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from avsr import media
from avsr.errors import AvsrError, BadMedia
from avsr.noise.mixing import MARGIN, active_level, fade_length
from avsr.noise.plans import Cut, Generated, NoisePlan, Recorded, Sound, render
from avsr.rates import HOP, N_FFT, SAMPLE_RATE

SPEECH_BLOCK = 5 * HOP                # samples: whether somebody speaks is decided for each 50 ms
PADDING_DB = 90.0                     # dB below its peak, a recording is padding: 5 of 128 ESC clips are padded with zeros
CACHE_SECONDS = 3600                  # of sound kept in memory by each source: 230 MB
SEEDS = 2 ** 48                       # of computed noise: integers that every JSON reader holds exactly
BABBLE_TALKERS = (3, 8)               # the fewest and the most of "all" talkers


class NoiseSource(ABC):
    """Anything that makes noise. `without` names a talker who must not be in it; most sources can ignore it."""

    _cache: RecordingCache                                   # of sources that cut from recordings

    @abstractmethod
    def plan(self, n_samples: int, rng: np.random.Generator, *, without: str | None = None) -> NoisePlan:
        """The plan of what `draw` returns with a generator in the same state."""

    def draw(self, n_samples: int, rng: np.random.Generator, *, without: str | None = None) -> np.ndarray:
        """(n_samples,) float32, at no particular level."""
        return render(self.plan(n_samples, rng, without=without), lambda sound: self._cache.audio(sound))

    def recordings(self) -> list[Sound]:
        """All recordings from which plans cut."""
        return []

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Kind, settings and recordings as JSON; equal for sources that make the same plans with the same generator."""


@dataclass(frozen=True)
class DrawableAudio:
    """A recording and the parts of it that may be drawn. audio: (S,) float32. spans: first sample of each part and the one
    after its last, in order. gain: the factor that normalises its level."""

    audio: np.ndarray
    spans: tuple[tuple[int, int], ...]
    gain: float = 1.0

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self.spans)

    def cuts(self, sound: Sound, first: int, n: int, fade: int) -> Iterable[Cut]:
        """Cuts with `n` samples from number `first` on, where only drawable samples count."""
        for start, stop in self.spans:
            length = min(stop - start - first, n)
            if length > 0:
                yield Cut(sound, start + first, length, self.gain, fade)
                n, fade = n - length, 0
            first = max(0, first - (stop - start))


class RecordingCache:
    """Recordings, read and prepared when first needed; the least recently used are dropped beyond CACHE_SECONDS."""

    def __init__(self, prepare: Callable[[np.ndarray], DrawableAudio]):
        self._prepare = prepare
        self._sounds: OrderedDict[Hashable, DrawableAudio] = OrderedDict()
        self._n_samples = 0

    def get(self, sound: Sound) -> DrawableAudio:
        """The prepared recording. Raises BadMedia where it is silent or cannot be read."""
        if self.is_silent(sound):
            raise BadMedia(f"{recording_name(sound)}: it is silent, so it makes no noise.  Take it out of the noise folder.")
        return self._usable(sound)

    def is_silent(self, sound: Sound) -> bool:
        """Whether no part of it may be drawn."""
        return not len(self._usable(sound))

    def _usable(self, sound: Sound) -> DrawableAudio:
        key = id(sound) if isinstance(sound, np.ndarray) else sound
        if key in self._sounds:
            self._sounds.move_to_end(key)
            return self._sounds[key]
        usable = self._sounds[key] = self._prepare(read(sound))
        self._n_samples += len(usable.audio)
        while self._n_samples > CACHE_SECONDS * SAMPLE_RATE and len(self._sounds) > 1:
            self._n_samples -= len(self._sounds.popitem(last=False)[1].audio)
        return usable

    def audio(self, sound: Sound) -> np.ndarray:
        """(S,) float32."""
        return self.get(sound).audio

    def sequence(self, first: Sound, start: int, following: Callable[[], Sound], n_samples: int) -> tuple[Cut, ...]:
        """`first` from `start` on, then as many further recordings as needed, each crossfaded into the next."""
        usable, sound, fade, length, cuts = self.get(first), first, 0, 0, []
        last = len(usable) - start                           # samples of it that are in no fade
        while True:
            n = min(last + fade, n_samples - length + fade)
            cuts += usable.cuts(sound, start, n, fade)
            length += n - fade
            if length == n_samples:
                return tuple(cuts)
            sound, start = following(), 0
            usable = self.get(sound)
            fade = fade_length(last, len(usable))
            last = len(usable) - fade


def recording_name(sound: Sound) -> str:
    """The name of a recording in messages."""
    return "waveform" if isinstance(sound, np.ndarray) else sound.name if isinstance(sound, Recorded) else str(sound)


def read(sound: Sound) -> np.ndarray:
    """(S,) float32 mono, SAMPLE_RATE; empty where the recording is silent. Raises BadMedia where a file cannot be read."""
    if isinstance(sound, np.ndarray):
        return np.asarray(sound, np.float32)
    audio = sound.read() if isinstance(sound, Recorded) else media.read(sound, want_video=False).audio
    return np.zeros(0, np.float32) if audio is None else np.asarray(audio, np.float32)


class Recordings(NoiseSource):
    """Noise recordings: a random one from a random place on, and further ones where it is too short."""

    def __init__(self, sources: Sequence[Sound]):
        if not len(sources):
            raise AvsrError("noise: a list of 0 recordings.  Give at least one file.")
        self.sources = list(sources)
        self._cache = RecordingCache(_without_padding)

    def plan(self, n_samples: int, rng: np.random.Generator, *, without: str | None = None) -> NoisePlan:
        sound = self._usable_recording(rng)
        start = int(rng.integers(max(1, len(self._cache.get(sound)) - n_samples + 1)))
        return NoisePlan(n_samples, (self._cache.sequence(sound, start, lambda: self._usable_recording(rng), n_samples),))

    def recordings(self) -> list[Sound]:
        return list(self.sources)

    def describe(self) -> dict[str, Any]:
        return {"kind": "files", **_listed(self.sources)}

    def _usable_recording(self, rng: np.random.Generator) -> Sound:
        return self.sources[int(rng.integers(len(self.sources)))]


class Babble(NoiseSource):
    """One or several different people at once, all at the same active level, sentence after sentence without pauses.

    talkers: name -> recordings.  n_talkers: how many talk, or the least and the largest number; "all": everybody but
    `without`, 3 to 8.  wants_speaker: `without` must be given, because the talkers are those of the corpus that gets the noise.
    """

    def __init__(self, talkers: Mapping[str, Sequence[Sound]], n_talkers: int | tuple[int, int] | Literal["all"] = (4, 8), *,
                 wants_speaker: bool = False):
        self.talkers = {name: list(sources) for name, sources in sorted(talkers.items())}
        self.all_talkers, self.wants_speaker = n_talkers == "all", wants_speaker
        n_talkers = BABBLE_TALKERS if n_talkers == "all" else n_talkers
        self.fewest, self.most = (n_talkers, n_talkers) if isinstance(n_talkers, int) else n_talkers
        assert 1 <= self.fewest <= self.most, n_talkers
        self._cache = RecordingCache(_speech_only)
        if silent := [name for name, sources in self.talkers.items() if not sources]:
            raise AvsrError(f"babble: talker {silent[0]} has 0 recordings.  Leave the talker out, or add a file.")
        self._other_talkers(None)

    def plan(self, n_samples: int, rng: np.random.Generator, *, without: str | None = None) -> NoisePlan:
        chosen = self.choose(rng, without=without)
        return NoisePlan(n_samples, tuple(self._stream(name, n_samples, rng) for name in chosen), tuple(chosen))

    def choose(self, rng: np.random.Generator, *, without: str | None = None) -> list[str]:
        """Names of the talkers of one draw, all different and none of them `without`."""
        if self.wants_speaker and without is None:
            raise AvsrError("babble: its talkers are the corpus's own, and an utterance has no speaker, who might be in it.  "
                            "Put speakers into the manifest, or name a folder of babble (--noise NAME=FOLDER).")
        names = self._other_talkers(without)
        most = min(self.most, len(names))
        n = most if self.all_talkers else int(rng.integers(self.fewest, most + 1))
        return [names[i] for i in rng.permutation(len(names))[:n]]

    def recordings(self) -> list[Sound]:
        return [sound for sources in self.talkers.values() for sound in sources]

    def describe(self) -> dict[str, Any]:
        return {"kind": "talkers", "n_talkers": "all" if self.all_talkers else [self.fewest, self.most],
                "talkers": {name: _listed(sources) for name, sources in self.talkers.items()}}

    def _other_talkers(self, without: str | None) -> list[str]:
        names = [name for name in self.talkers if name != without]
        if len(names) < self.fewest:
            beside = f" beside {without}" if without in self.talkers else ""
            remedy = ("name a folder of babble (--noise NAME=FOLDER)" if self.all_talkers or not names
                      else f"set n_talkers to {len(names)}")
            raise AvsrError(f"babble: {len(names)} talkers{beside}, but {self.fewest} are to be heard at once.  "
                            f"Add talkers, or {remedy}.")
        return names

    def _stream(self, name: str, n_samples: int, rng: np.random.Generator) -> tuple[Cut, ...]:
        sound = self._usable_recording(name, rng)
        start = int(rng.integers(len(self._cache.get(sound))))
        return self._cache.sequence(sound, start, lambda: self._usable_recording(name, rng), n_samples)

    def _usable_recording(self, name: str, rng: np.random.Generator) -> Sound:
        """A random recording of a talker; the next one if it is a silent utterance of a corpus. A silent file is an error."""
        sources = self.talkers[name]
        which = int(rng.integers(len(sources)))
        for sound in (*sources[which:], *sources[:which]):
            if not (isinstance(sound, Recorded) and self._cache.is_silent(sound)):
                return sound
        raise BadMedia(f"babble: all {len(sources)} recordings of {name} are silent.  Leave the talker out.")


@dataclass(frozen=True)
class Coloured(NoiseSource):
    """Gaussian noise with power proportional to frequency ** -exponent: 0 white, 1 pink, 2 brown. RMS 1 on average."""

    exponent: float = 0.0

    def plan(self, n_samples: int, rng: np.random.Generator, *, without: str | None = None) -> NoisePlan:
        return NoisePlan(n_samples, (Generated(int(rng.integers(SEEDS)), _fft_size(n_samples), float(self.exponent)),))

    def describe(self) -> dict[str, Any]:
        return {"kind": "coloured", "exponent": float(self.exponent)}


class SpeechShaped(NoiseSource):
    """Stationary noise with the long-term spectrum of at most 200 of the recordings, evenly picked."""

    def __init__(self, utterances: Sequence[Sound]):
        if not len(utterances):
            raise AvsrError("speech-shaped noise: a list of 0 recordings.  Give at least one file.")
        self.utterances = list(utterances)[:: math.ceil(len(utterances) / 200)]

    @cached_property
    def power(self) -> tuple[float, ...]:
        """(N_FFT // 2 + 1,): the power spectrum relative to its maximum, to six digits; computed when first used."""
        power = np.sum([_spectrum(_trimmed(sound)) for sound in self.utterances], axis=0)
        if not power.any():
            raise BadMedia(f"speech-shaped noise: {len(self.utterances)} recordings, all silent.  Name others.")
        return tuple(float(f"{value:.6g}") for value in power / power.max())

    def plan(self, n_samples: int, rng: np.random.Generator, *, without: str | None = None) -> NoisePlan:
        return NoisePlan(n_samples, (Generated(int(rng.integers(SEEDS)), _fft_size(n_samples), power=self.power),))

    def describe(self) -> dict[str, Any]:
        return {"kind": "speech-shaped", **_listed(self.utterances)}


def _listed(sounds: Sequence[Sound]) -> dict[str, Any]:
    """How many recordings there are, and a fingerprint of their names without folders."""
    names = [Path(recording_name(sound)).name if isinstance(sound, Path | str) else recording_name(sound) for sound in sounds]
    return {"recordings": len(names), "names_sha256": hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]}


def _fft_size(n_samples: int) -> int:
    from scipy.fft import next_fast_len

    return cast(int, next_fast_len(n_samples, real=True))   # scipy's stub says None


def _trimmed(sound: Sound) -> np.ndarray:
    """The speech of a recording at a normalised level."""
    usable = _speech_only(read(sound))
    return np.concatenate([usable.audio[start:stop] for start, stop in usable.spans] or [usable.audio[:0]]) * usable.gain


def _spectrum(audio: np.ndarray) -> np.ndarray:
    """(N_FFT // 2 + 1,): the power in Hann windows with half overlap, added up."""
    padded = np.pad(audio, (0, max(0, N_FFT - len(audio))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[:: N_FFT // 2]
    return np.square(np.abs(np.fft.rfft(frames * np.hanning(N_FFT)))).sum(axis=0)


def _without_padding(audio: np.ndarray) -> DrawableAudio:
    """Leave out padding, in blocks of 10 ms, so that no cut is silent from end to end."""
    peaks = np.abs(_blocks(audio, HOP)).max(axis=1, initial=0)
    loud = peaks > peaks.max(initial=0) * 10 ** (-PADDING_DB / 20)
    edges = np.flatnonzero(np.diff(loud, prepend=False, append=False)) * HOP
    return DrawableAudio(audio, tuple((int(start), min(int(stop), len(audio))) for start, stop in edges.reshape(-1, 2)))


def _speech_only(audio: np.ndarray) -> DrawableAudio:
    """Leave out what precedes and follows the speech, and normalise to an active level of 0 dB; empty where all is silent.

    Speech is where blocks of 50 ms have an RMS above P.56's threshold of activity. On 72 GRID sentences with word times and
    their background noise, it starts 0.03 s late and ends 0.12 s late (medians); with 20 dB it keeps 0.9 s of noise.
    """
    level = active_level(audio)
    if not math.isfinite(level):
        return DrawableAudio(audio, ())
    power = np.square(_blocks(audio, SPEECH_BLOCK), dtype=np.float64).mean(axis=1)
    loud = np.flatnonzero(power > 10 ** ((level - MARGIN) / 10))
    if not len(loud):
        return DrawableAudio(audio, ())
    gain = float(f"{10 ** (-level / 20):.9g}")               # so that the last bit on another machine changes no plan
    return DrawableAudio(audio, ((int(loud[0]) * SPEECH_BLOCK, min((int(loud[-1]) + 1) * SPEECH_BLOCK, len(audio))),), gain)


def _blocks(audio: np.ndarray, size: int) -> np.ndarray:
    """(S,) -> (ceil(S / size), size), the last block padded with zeros."""
    return np.pad(audio, (0, -len(audio) % size)).reshape(-1, size)
