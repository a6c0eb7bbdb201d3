"""Where noise comes from: recordings, babble, one talker, white to brown noise, speech-shaped noise.

    source.plan(n_samples, rng, without=speaker)  ->  NoisePlan: which stretches of which recordings, or which seed
    source.draw(n_samples, rng, without=speaker)  ->  (n_samples,) float32, SAMPLE_RATE: that plan, rendered

Recordings are read when first asked for. What is drawn depends on the generator alone, not on what was read before.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from avsr import media
from avsr.errors import AvsrError, BadMedia
from avsr.noise.mixing import MARGIN, active_level, fade_length
from avsr.noise.plans import Cut, Generated, NoisePlan, Recorded, Sound, render
from avsr.rates import HOP, N_FFT, SAMPLE_RATE

SPEECH_BLOCK = 5 * HOP                # samples over which it is judged whether somebody speaks: 50 ms
PADDING_DB = 90.0                     # dB below its peak, a recording holds nothing: 5 of 128 ESC clips are padded with zeros
CACHE_SECONDS = 3600                  # of sound kept in memory by each source: 230 MB
SEEDS = 2 ** 48                       # of computed noise: whole numbers that every reader of JSON holds exactly
BABBLE_TALKERS = (3, 8)                        # "all" talkers: the fewest that are babble, and the most


class NoiseSource(Protocol):
    """Anything that gives noise. `without` names a talker who must not be heard in it; most sources need not care."""

    def plan(self, n_samples: int, rng: np.random.Generator, *, without: str | None = None) -> NoisePlan:
        """What `draw` with a generator in the same state would give, in words."""
        ...

    def draw(self, n_samples: int, rng: np.random.Generator, *, without: str | None = None) -> np.ndarray:
        """(n_samples,) float32, at no particular level."""
        ...

    def recordings(self) -> list[Sound]:
        """All that plans may cut from."""
        ...

    def describe(self) -> dict[str, Any]:
        """Kind, settings and recordings, as JSON: equal where the same generator would get the same plan."""
        ...


@dataclass(frozen=True)
class DrawableAudio:
    """A recording and what of it may be drawn. audio: (S,) float32, whole. spans: first sample and the one after the last
    of each part that may be drawn, in order. gain: what brings it to its level."""

    audio: np.ndarray
    spans: tuple[tuple[int, int], ...]
    gain: float = 1.0

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self.spans)

    def cuts(self, sound: Sound, first: int, n: int, fade: int) -> Iterable[Cut]:
        """`n` samples from number `first` on, counted without what may not be drawn."""
        for start, stop in self.spans:
            length = min(stop - start - first, n)
            if length > 0:
                yield Cut(sound, start + first, length, self.gain, fade)
                n, fade = n - length, 0
            first = max(0, first - (stop - start))


class RecordingCache:
    """Recordings made usable: read when first asked for, the least recently used put away beyond CACHE_SECONDS."""

    def __init__(self, prepare: Callable[[np.ndarray], DrawableAudio]):
        self._prepare = prepare
        self._sounds: OrderedDict[Hashable, DrawableAudio] = OrderedDict()
        self._n_samples = 0

    def get(self, sound: Sound) -> DrawableAudio:
        """Raises BadMedia where it is silent, or cannot be read."""
        if self.is_silent(sound):
            raise BadMedia(f"{recording_name(sound)}: it is silent, so it makes no noise.  Take it out of the noise folder.")
        return self._usable(sound)

    def is_silent(self, sound: Sound) -> bool:
        """Whether nothing of it may be drawn."""
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

    def draw(self, plan: NoisePlan) -> np.ndarray:
        """The plan, rendered."""
        return render(plan, lambda sound: self.get(sound).audio)

    def sequence(self, first: Sound, start: int, following: Callable[[], Sound], n_samples: int) -> tuple[Cut, ...]:
        """`first` from `start` on, then as many further recordings as it takes, each faded into the next."""
        usable, sound, fade, length, cuts = self.get(first), first, 0, 0, []
        last = len(usable) - start                           # samples of it that no fade has touched
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
    """What a message calls it."""
    return "waveform" if isinstance(sound, np.ndarray) else sound.name if isinstance(sound, Recorded) else str(sound)


def read(sound: Sound) -> np.ndarray:
    """(S,) float32 mono, SAMPLE_RATE; nothing where there is no sound. Raises BadMedia for a file that cannot be read."""
    if isinstance(sound, Recorded):
        audio = sound.read()
        return np.zeros(0, np.float32) if audio is None else np.asarray(audio, np.float32)
    if isinstance(sound, np.ndarray):
        return np.asarray(sound, np.float32)
    return media.read(sound, want_video=False).audio


class Recordings:
    """Files of noise: a random one from a random place on, and others after it where it is too short."""

    def __init__(self, sources: Sequence[Sound]):
        if not len(sources):
            raise AvsrError("noise: a list of 0 recordings.  Give at least one file.")
        self.sources = list(sources)
        self._cache = RecordingCache(_without_padding)

    def plan(self, n_samples: int, rng: np.random.Generator, *, without: str | None = None) -> NoisePlan:
        """A stretch of a recording, and others whole; never the padding within them."""
        sound = self._usable_recording(rng)
        start = int(rng.integers(max(1, len(self._cache.get(sound)) - n_samples + 1)))
        return NoisePlan(n_samples, (self._cache.sequence(sound, start, lambda: self._usable_recording(rng), n_samples),))

    def draw(self, n_samples: int, rng: np.random.Generator, *, without: str | None = None) -> np.ndarray:
        """(n_samples,) float32 as loud as recorded."""
        return self._cache.draw(self.plan(n_samples, rng))

    def recordings(self) -> list[Sound]:
        """The files, in order."""
        return list(self.sources)

    def describe(self) -> dict[str, Any]:
        """Their number and names."""
        return {"kind": "files", **_listed(self.sources)}

    def _usable_recording(self, rng: np.random.Generator) -> Sound:
        return self.sources[int(rng.integers(len(self.sources)))]


class Babble:
    """Several people at once, all different, each at the same active level, sentence after sentence without pauses.

    talkers: name -> recordings.  n_talkers: how many, or from how many to how many, are heard; "all": as many as there
    are beside `without`, 3 to 8.  wants_speaker: the talkers are those of the corpus that is disturbed, so that whoever
    is to be understood must be known, or he might be heard behind himself.
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
        """A stream of each talker."""
        heard = self.choose(rng, without=without)
        return NoisePlan(n_samples, tuple(self._stream(name, n_samples, rng) for name in heard), tuple(heard))

    def draw(self, n_samples: int, rng: np.random.Generator, *, without: str | None = None) -> np.ndarray:
        """(n_samples,) float32 in which `without` is not heard."""
        return self._cache.draw(self.plan(n_samples, rng, without=without))

    def choose(self, rng: np.random.Generator, *, without: str | None = None) -> list[str]:
        """Names of the talkers of one draw: all different, none of them `without`."""
        if self.wants_speaker and without is None:
            raise AvsrError("babble: its talkers are the corpus's own, and an utterance has no speaker, who might be in it.  "
                            "Put speakers into the manifest, or name a folder of babble (--noise NAME=FOLDER).")
        names = self._other_talkers(without)
        most = min(self.most, len(names))
        n = most if self.all_talkers else int(rng.integers(self.fewest, most + 1))
        return [names[i] for i in rng.permutation(len(names))[:n]]

    def recordings(self) -> list[Sound]:
        """Those of all talkers."""
        return [sound for sources in self.talkers.values() for sound in sources]

    def describe(self) -> dict[str, Any]:
        """The talkers, how many are heard, and their recordings."""
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
        """A recording of a talker. In place of a silent utterance of a corpus the next one; a silent file is an error."""
        sources = self.talkers[name]
        which = int(rng.integers(len(sources)))
        for sound in (*sources[which:], *sources[:which]):
            if not (isinstance(sound, Recorded) and self._cache.is_silent(sound)):
                return sound
        raise BadMedia(f"babble: all {len(sources)} recordings of {name} are silent.  Leave the talker out.")


class Talker(Babble):
    """One person who talks without pause, and is not the one to be understood."""

    def __init__(self, talkers: Mapping[str, Sequence[Sound]], *, wants_speaker: bool = False):
        super().__init__(talkers, 1, wants_speaker=wants_speaker)


@dataclass(frozen=True)
class Coloured:
    """Gaussian noise whose power falls with frequency to this power: 0 white, 1 pink, 2 brown. RMS 1 on average."""

    exponent: float = 0.0

    def plan(self, n_samples: int, rng: np.random.Generator, *, without: str | None = None) -> NoisePlan:
        """A seed."""
        return NoisePlan(n_samples, (Generated(int(rng.integers(SEEDS)), _fft_size(n_samples), float(self.exponent)),))

    def draw(self, n_samples: int, rng: np.random.Generator, *, without: str | None = None) -> np.ndarray:
        """(n_samples,) float32; flat below 20 Hz."""
        return render(self.plan(n_samples, rng), read)

    def recordings(self) -> list[Sound]:
        """None."""
        return []

    def describe(self) -> dict[str, Any]:
        """The exponent."""
        return {"kind": "coloured", "exponent": float(self.exponent)}


class SpeechShaped:
    """Steady noise with the long-term spectrum of speech, from at most 200 of the recordings, evenly picked."""

    def __init__(self, utterances: Sequence[Sound]):
        if not len(utterances):
            raise AvsrError("speech-shaped noise: a list of 0 recordings.  Give at least one file.")
        self.utterances = list(utterances)[:: math.ceil(len(utterances) / 200)]

    @cached_property
    def power(self) -> tuple[float, ...]:
        """(N_FFT // 2 + 1,) of the largest, to six digits; the utterances are read when it is first asked for."""
        power = np.sum([_spectrum(_trimmed(sound)) for sound in self.utterances], axis=0)
        if not power.any():
            raise BadMedia(f"speech-shaped noise: {len(self.utterances)} recordings, all silent.  Name others.")
        return tuple(float(f"{value:.6g}") for value in power / power.max())

    def plan(self, n_samples: int, rng: np.random.Generator, *, without: str | None = None) -> NoisePlan:
        """A seed, under the spectrum."""
        return NoisePlan(n_samples, (Generated(int(rng.integers(SEEDS)), _fft_size(n_samples), power=self.power),))

    def draw(self, n_samples: int, rng: np.random.Generator, *, without: str | None = None) -> np.ndarray:
        """(n_samples,) float32 of RMS 1 on average."""
        return render(self.plan(n_samples, rng), read)

    def recordings(self) -> list[Sound]:
        """None: plans hold the spectrum."""
        return []

    def describe(self) -> dict[str, Any]:
        """The recordings that the spectrum is of."""
        return {"kind": "speech-shaped", **_listed(self.utterances)}


def _listed(sounds: Sequence[Sound]) -> dict[str, Any]:
    """How many recordings, and a fingerprint of their names, which does not say where they lie."""
    names = [Path(recording_name(sound)).name if isinstance(sound, Path | str) else recording_name(sound) for sound in sounds]
    return {"recordings": len(names), "names_sha256": hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]}


def _fft_size(n_samples: int) -> int:
    from scipy.fft import next_fast_len

    return next_fast_len(n_samples, real=True)


def _trimmed(sound: Sound) -> np.ndarray:
    """The speech of a recording at its level."""
    usable = _speech_only(read(sound))
    return np.concatenate([usable.audio[start:stop] for start, stop in usable.spans] or [usable.audio[:0]]) * usable.gain


def _spectrum(audio: np.ndarray) -> np.ndarray:
    """(N_FFT // 2 + 1,) summed power of half-overlapping Hann windows."""
    padded = np.pad(audio, (0, max(0, N_FFT - len(audio))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[:: N_FFT // 2]
    return np.square(np.abs(np.fft.rfft(frames * np.hanning(N_FFT)))).sum(axis=0)


def _without_padding(audio: np.ndarray) -> DrawableAudio:
    """Without the stretches of 10 ms in which nothing was recorded, so that no cut is silent from end to end."""
    peaks = np.abs(_blocks(audio, HOP)).max(axis=1, initial=0)
    loud = peaks > peaks.max(initial=0) * 10 ** (-PADDING_DB / 20)
    edges = np.flatnonzero(np.diff(loud, prepend=False, append=False)) * HOP
    return DrawableAudio(audio, tuple((int(start), min(int(stop), len(audio))) for start, stop in edges.reshape(-1, 2)))


def _speech_only(audio: np.ndarray) -> DrawableAudio:
    """Without what comes before and after the speech, and at an active level of 0 dB; empty where all is silent.

    Speech is where 50 ms have an RMS above P.56's threshold of activity. On 72 GRID sentences with word times, in their
    background noise, that begins 0.03 s late and ends 0.12 s late (medians); with 20 dB it keeps 0.9 s of noise.
    """
    level = active_level(audio)
    if not math.isfinite(level):
        return DrawableAudio(audio, ())
    power = np.square(_blocks(audio, SPEECH_BLOCK), dtype=np.float64).mean(axis=1)
    loud = np.flatnonzero(power > 10 ** ((level - MARGIN) / 10))
    if not len(loud):
        return DrawableAudio(audio, ())
    gain = float(f"{10 ** (-level / 20):.9g}")               # so that the last bit of another machine changes no plan
    return DrawableAudio(audio, ((int(loud[0]) * SPEECH_BLOCK, min((int(loud[-1]) + 1) * SPEECH_BLOCK, len(audio))),), gain)


def _blocks(audio: np.ndarray, size: int) -> np.ndarray:
    """(S,) -> (ceil(S / size), size), the last one filled up with zeros."""
    return np.pad(audio, (0, -len(audio) % size)).reshape(-1, size)
