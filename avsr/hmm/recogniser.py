"""The classical recogniser: words of a grammar from sound, lips or both, by a two-stream HMM and Viterbi's algorithm.

    audio, mouths -> features -> log b = (1 - lips) log b_sound + lips log b_lips -> best path through the grammar -> text

The model has mixtures of the sound for several levels of noise. The level under which the sound is most likely is taken; it is
the estimate of the SNR that sets the streams' weights, so that nobody has to tell the recogniser how loud the noise is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avsr.corrupt import Mouth
from avsr.errors import BadCheckpoint
from avsr.hmm.features import FeatureSettings, lip_features, sound_features
from avsr.hmm.inference import Path as BestPath
from avsr.hmm.inference import viterbi
from avsr.hmm.model import HMM
from avsr.hmm.networks import Arc, Network, compiled, slots

LIPS = "lips"


@dataclass(frozen=True)
class Level:
    """A level of noise. stream: its mixtures of the sound.  lips: the weight of the lips by both; the sound has 1 - lips."""

    stream: str
    lips: float


@dataclass(frozen=True)
class WordRecogniser:
    """model: its units are words.  arcs, network: the grammar.  levels: of noise, the clean one first."""

    model: HMM
    settings: FeatureSettings
    arcs: Sequence[Arc]
    network: Network
    levels: Sequence[Level]

    @classmethod
    def open(cls, folder: Path) -> WordRecogniser:
        """The recogniser that experiments/history/hmm/train.py wrote. Raises BadCheckpoint."""
        model = HMM.load(folder)
        try:
            return cls.of(model)
        except (KeyError, TypeError, ValueError) as error:
            raise BadCheckpoint(f"{folder}: this HMM is no recogniser of words ({error}).  Name a folder that "
                                "experiments/history/hmm/train.py wrote.") from error

    @classmethod
    def of(cls, model: HMM) -> WordRecogniser:
        """The recogniser whose grammar, features and levels are in `model.about`."""
        arcs = slots(model.about["grammar"])
        levels = [Level(stream, lips) for stream, lips in model.about["levels"]]
        return cls(model, FeatureSettings.from_dict(model.about["features"]), arcs, compiled(arcs, model.units), levels)

    def features(self, audio: np.ndarray, mouth: Mouth | None) -> dict[str, np.ndarray]:
        """What is observed of an utterance: "sound" (T, 39), and "lips" (T, D), which is NaN without a mouth."""
        sound = sound_features(audio, self.settings)
        images, missing = (np.zeros((0, 96, 96), np.uint8), np.zeros(0, bool)) if mouth is None else mouth
        return {"sound": sound, LIPS: lip_features(images, missing, len(sound), self.settings)}

    def recognise(self, audio: np.ndarray, mouth: Mouth | None, modality: str) -> str:
        """The text of sound (S,) float32, lips or both ("a", "v", "av"); "" where lips alone are asked for and none is seen."""
        observed = self.features(audio, mouth)
        seen = not np.isnan(observed[LIPS]).all()
        if modality == "v" and not seen:
            return ""
        tables = self.tables(observed)
        level = None if modality == "v" else self.level(tables)
        return self.decode(tables, level, self.weight(modality if seen else "a", level))

    def tables(self, observed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """log b (T, N) of each stream."""
        states = np.arange(self.model.n_states)
        streams = {level.stream: observed["sound"] for level in self.levels} | {LIPS: observed[LIPS]}
        return {name: self.model.streams[name].log_likelihoods(features, states) for name, features in streams.items()}

    def level(self, tables: Mapping[str, np.ndarray]) -> Level:
        """The level of noise under which the sound of the best path is most likely."""
        found = [self._best(tables[level.stream]).log_probability for level in self.levels]
        return self.levels[int(np.argmax(found))]

    def weight(self, modality: str, level: Level | None) -> float:
        """The weight of the lips by a modality."""
        return {"a": 0.0, "v": 1.0, "av": 0.0 if level is None else level.lips}[modality]

    def decode(self, tables: Mapping[str, np.ndarray], level: Level | None, lips: float) -> str:
        """The text of the best path, with a weight of the lips from 0 to 1."""
        sound = 0.0 if level is None or lips == 1 else (1 - lips) * tables[level.stream]
        log_b = sound + (lips * tables[LIPS] if lips else 0.0)
        arc = self.network.arc[self._best(log_b).positions]
        first = np.append(True, np.diff(arc) != 0) & (arc >= 0)
        return " ".join(self.arcs[one].word for one in arc[first])

    def _best(self, log_b: np.ndarray) -> BestPath:
        return viterbi(self.network, log_b, self.network.states, self.model.log_moves(self.network))
