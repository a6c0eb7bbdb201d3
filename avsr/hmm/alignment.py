"""Forced alignment by phones: sound and its text in, the times of words and phones out.

    audio (S,) float32 + words -> pronunciations -> network of phones with optional silences -> Viterbi -> AlignedWord

The shipped model has 33 phones of three states, trained on GRID's sentences (experiments/history/hmm); phones that GRID lacks
borrow their states, see BORROWED.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avsr.errors import AvsrError, counted, quote
from avsr.hmm.features import FeatureSettings, sound_features
from avsr.hmm.inference import viterbi
from avsr.hmm.mixtures import log_sum
from avsr.hmm.model import HMM
from avsr.hmm.networks import Network, compiled, sentence
from avsr.hmm.pronunciation import Phones, pronounce
from avsr.rates import SAMPLE_RATE

SHIPPED = Path(__file__).parents[1] / "weights" / "hmm_phones"
SOUND = "sound"
# Phones that GRID's words lack, as states of the nearest ones: (phone, number of its state).
BORROWED: dict[str, tuple[tuple[str, int], ...]] = {
    "ER": (("AH", 0), ("AH", 1), ("R", 2)),                 # r-coloured
    "HH": (("F", 0), ("F", 1), ("F", 2)),                   # the weakest fricative
    "NG": (("N", 0), ("N", 1), ("N", 2)),
    "OY": (("AO", 0), ("AO", 1), ("IY", 2)),
    "SH": (("CH", 1), ("CH", 2), ("CH", 2)),                # the fricative of the affricate
    "UH": (("UW", 0), ("UW", 1), ("UW", 2)),
    "ZH": (("JH", 1), ("JH", 2), ("JH", 2)),
}


class TextDoesNotFit(AvsrError):
    """A text has more phones than its sound has time for."""


@dataclass(frozen=True)
class AlignedPhone:
    """A phone of ARPAbet without stress. start, end: seconds.

    logprob: mean over its frames of the log probability of its state, given the frame, if all states are as likely before (Witt
    and Young 2000): 0 where the sound is clearly this phone, -4.6 where it might be any, far less where it is clearly another;
    None where the phone has no frame of its own. On GRID the words of the right text have -1 to -3, of another text -10 to -30.
    """

    name: str
    start: float
    end: float
    logprob: float | None


@dataclass(frozen=True)
class AlignedWord:
    """A word as it was given. start, end: seconds from the start of the sound.  phones: none for a word without sound, such as
    a dash, which takes no time.  logprob: mean over its frames, see AlignedPhone; None without phones."""

    text: str
    start: float
    end: float
    phones: tuple[AlignedPhone, ...]
    logprob: float | None


@dataclass(frozen=True)
class PhoneAligner:
    """Finds the times of words and phones. model: an HMM whose units are phones, `sil` and `sp`."""

    model: HMM
    settings: FeatureSettings

    @classmethod
    def open(cls, folder: Path = SHIPPED) -> PhoneAligner:
        """The shipped model, or one of the same kind in a folder. Raises BadCheckpoint."""
        model = HMM.load(folder)
        units = {**model.units}
        for phone, states in BORROWED.items():
            units.setdefault(phone, tuple(model.units[other][number] for other, number in states))
        return cls(HMM(units, model.streams, model.stay, model.about), FeatureSettings.from_dict(model.about["features"]))

    def align(self, audio: np.ndarray, words: Sequence[str]) -> list[AlignedWord]:
        """The times of words in sound (S,) float32 at SAMPLE_RATE, in which they are said in this order and nothing else is,
        with or without silence before, between and after them.

        Time grows with the product of seconds and phones: 3 s of GRID take 0.1 s, a minute of 160 words takes 1.2 s. Raises
        TextDoesNotFit.
        """
        ways = [pronounce(word) for word in words]
        spoken = [i for i, one in enumerate(ways) if one]
        if not spoken:
            return [AlignedWord(word, 0.0, 0.0, (), None) for word in words]
        arcs = sentence([ways[i] for i in spoken], [words[i] for i in spoken])
        network = compiled(arcs, self.model.units)
        log_b, path = self._path(audio, network, [words[i] for i in spoken])
        found: dict[int, tuple[AlignedPhone, ...]] = {}
        for arc in dict.fromkeys(network.arc[path].tolist()):
            if arc >= 0:
                phones = self._phones(network, path, log_b, arc, arcs[arc].units)
                found[spoken[arcs[arc].source]] = self._shifted(phones, len(audio) / SAMPLE_RATE)
        return _placed(words, found)

    def within(self, audio: np.ndarray, word: str, start: float, end: float) -> tuple[AlignedPhone, ...]:
        """The phones of a word whose times another method found, in seconds of `audio` (S,) float32.

        Where the time is too short for three vectors a phone, the phones share it evenly, with logprob None.
        """
        ways = pronounce(word)
        if not ways:
            return ()
        features = self._features(audio)
        step = self.settings.hop / SAMPLE_RATE
        first, last = (min(len(features), max(0, round(time / step))) for time in (start, end))
        network = compiled(sentence([ways], [word]), self.model.units, silent=False)
        shortest = min(sum(len(self.model.units[phone]) for phone in way) for way in ways)
        if last - first < shortest:
            edges = np.linspace(start, end, len(ways[0]) + 1)
            return tuple(AlignedPhone(name, float(edges[i]), float(edges[i + 1]), None) for i, name in enumerate(ways[0]))
        log_b = self._log_b(features[first:last])
        path = viterbi(network, log_b, network.states, self.model.log_moves(network)).positions
        arc = int(network.arc[path[0]])
        phones = self._phones(network, path, log_b, arc, ways[arc])
        edges = [start, *(start + phone.end for phone in phones[:-1]), end]
        return tuple(AlignedPhone(phone.name, edges[i], edges[i + 1], phone.logprob) for i, phone in enumerate(phones))

    def _features(self, audio: np.ndarray) -> np.ndarray:
        assert (audio.ndim, audio.dtype) == (1, np.float32), (audio.shape, audio.dtype)
        return sound_features(audio, self.settings)

    def _log_b(self, features: np.ndarray) -> np.ndarray:
        """(T, N) log likelihoods of all states."""
        return self.model.streams[SOUND].log_likelihoods(features, np.arange(self.model.n_states))

    def _path(self, audio: np.ndarray, network: Network, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """log b (T, N) of all states, and the best path (T,). Raises TextDoesNotFit."""
        log_b = self._log_b(self._features(audio))
        needed = network.shortest()
        if needed > len(log_b):
            step = self.settings.hop / SAMPLE_RATE
            raise TextDoesNotFit(f"The text {quote(' '.join(words))} of {counted(len(words), 'word')} takes at least "
                                 f"{needed * step:.2f} s, and the sound has {len(audio) / SAMPLE_RATE:.2f} s.  Give the text "
                                 "that is said there, or more of the sound.")
        best = viterbi(network, log_b, network.states, self.model.log_moves(network))
        return log_b, best.positions

    def _phones(self, network: Network, path: np.ndarray, log_b: np.ndarray, arc: int,
                names: Phones) -> tuple[AlignedPhone, ...]:
        """The phones of one word on a path; times are the borders between vectors."""
        frames = np.flatnonzero(network.arc[path] == arc)
        step = self.settings.hop / SAMPLE_RATE
        # Witt and Young 2000: how likely the phone is given the sound, not the sound given the phone, which loudness changes.
        own = log_b[frames, network.states[path[frames]]] - log_sum(log_b[frames])
        unit = network.unit[path[frames]]
        out = []
        for number, name in enumerate(names):
            here = np.flatnonzero(unit == number)
            out.append(AlignedPhone(name, float((frames[here[0]] - 0.5) * step), float((frames[here[-1]] + 0.5) * step),
                             float(own[here].mean())))
        return tuple(out)

    def _shifted(self, phones: tuple[AlignedPhone, ...], duration: float) -> tuple[AlignedPhone, ...]:
        """Phones with the measured delay of the model's borders taken off, inside the sound."""
        delay = self.model.about.get("delay", 0.0)
        def moved(time: float) -> float:
            return min(max(0.0, time - delay), duration)
        return tuple(AlignedPhone(one.name, moved(one.start), moved(one.end), one.logprob) for one in phones)


def _placed(words: Sequence[str], found: dict[int, tuple[AlignedPhone, ...]]) -> list[AlignedWord]:
    """Every word with its phones; a word without phones is at the end of the one before."""
    out: list[AlignedWord] = []
    for i, word in enumerate(words):
        if phones := found.get(i, ()):
            lengths = [max(1e-6, phone.end - phone.start) for phone in phones]
            logprob = float(np.average([phone.logprob or 0.0 for phone in phones], weights=lengths))
            out.append(AlignedWord(word, phones[0].start, phones[-1].end, phones, logprob))
        else:
            at = out[-1].end if out else 0.0
            out.append(AlignedWord(word, at, at, (), None))
    return out
