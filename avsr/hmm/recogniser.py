"""The classical recogniser: words of a grammar from sound, lips or both, by a two-stream HMM and Viterbi's algorithm.

    audio, mouths -> features -> log b = (1 - lips) log b_sound + lips log b_lips -> best path through the grammar -> text

The model has mixtures of the sound for clean speech and for speech in noise; those under which the sound is more likely are
taken. The weight of the lips follows an estimate of the SNR from the sound alone, so that nobody has to tell the recogniser how
loud the noise is.
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
from avsr.lips import MouthCropSettings
from avsr.rates import N_FFT

LIPS = "lips"
MOST_SNR = 100.0                                            # dB


@dataclass(frozen=True)
class WordRecogniser:
    """model: its units are words.  arcs, network: the grammar.  streams: mixtures of the sound, the clean ones first.

    lip_weights: dB and weight; below that estimate of the SNR, and above the one before, the lips have that weight by both.

    mouth_crop: how the mouths that taught it were cut out."""

    model: HMM
    settings: FeatureSettings
    arcs: Sequence[Arc]
    network: Network
    streams: Sequence[str]
    lip_weights: Sequence[tuple[float, float]]
    mouth_crop: MouthCropSettings

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
        weights = [(float(border), float(lips)) for border, lips in model.about["lip_weights"]]
        return cls(model, FeatureSettings.from_dict(model.about["features"]), arcs, compiled(arcs, model.units),
                   list(model.about["levels"]), weights, MouthCropSettings.from_dict(model.about["mouth_crop"]))

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
        if modality == "v":
            return self.decode(tables, None, 1.0)
        lips = self.lip_weight(estimated_snr(audio)) if modality == "av" and seen else 0.0
        return self.decode(tables, self.stream(tables), lips)

    def tables(self, observed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """log b (T, N) of each stream."""
        states = np.arange(self.model.n_states)
        observed = dict.fromkeys(self.streams, observed["sound"]) | {LIPS: observed[LIPS]}
        return {name: self.model.streams[name].log_likelihoods(features, states) for name, features in observed.items()}

    def stream(self, tables: Mapping[str, np.ndarray]) -> str:
        """The mixtures under which the sound of the best path is most likely."""
        return max(self.streams, key=lambda name: self._best(tables[name]).log_probability)

    def lip_weight(self, snr_db: float) -> float:
        """The weight of the lips at an estimated SNR."""
        return next((lips for border, lips in self.lip_weights if snr_db < border), self.lip_weights[-1][1])

    def decode(self, tables: Mapping[str, np.ndarray], stream: str | None, lips: float) -> str:
        """The text of the best path. stream: of the sound, or None.  lips: their weight, 0 to 1; the sound has the rest."""
        log_b = lips * tables[LIPS]
        if stream is not None:
            log_b = log_b + (1 - lips) * tables[stream]
        arc = self.network.arc[self._best(log_b).positions]
        first = np.append(True, np.diff(arc) != 0) & (arc >= 0)
        return " ".join(self.arcs[one].word for one in arc[first])

    def _best(self, log_b: np.ndarray) -> BestPath:
        return viterbi(self.network, log_b, self.network.states, self.model.log_moves(self.network))


def estimated_snr(audio: np.ndarray) -> float:
    """dB by which the loud moments of a sound, its 95th percentile of power in 25 ms, are above the quiet ones, its 10th.

    No SNR as a benchmark knows it: babble has quiet moments too, so it is compressed; but it rises with the SNR, which suffices
    to choose a weight. Digital silence is clean: 100 dB.
    """
    n_windows = len(audio) // N_FFT
    if not n_windows:
        return MOST_SNR
    power = (audio[:n_windows * N_FFT].astype(np.float64).reshape(n_windows, N_FFT)**2).mean(axis=1)
    quiet, loud = np.quantile(power, [0.1, 0.95])
    return float(min(MOST_SNR, 10 * np.log10(loud / quiet))) if quiet > 0 else MOST_SNR
