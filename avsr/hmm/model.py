"""A hidden Markov model: units of states from left to right, whose emissions are mixtures in one or more streams.

    streams {name: (T, D)} -> log b_n(o_t) = sum over streams of  weight_s log b_sn(o_st)  -> networks -> texts, times

The streams share states and moves: a state-synchronous multi-stream HMM. Sources: Young et al., "The HTK Book" (streams);
Dupont and Luettin, "Audio-visual speech modeling for continuous speech recognition" (IEEE Trans. Multimedia 2, 2000) and
Potamianos et al., "Recent advances in the automatic recognition of audiovisual speech" (Proc. IEEE 91, 2003) for the weights.
No library served: hmmlearn 0.3.3 (one chain for all sequences, one stream) and pomegranate 1.1 (no states that several places
of a sentence share, no streams) train no models of words or phones from sentences.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avsr.errors import BadCheckpoint
from avsr.hmm.inference import Path as BestPath
from avsr.hmm.inference import viterbi
from avsr.hmm.mixtures import Mixtures
from avsr.hmm.networks import Network, Units
from avsr.output import write_files
from avsr.tensorfiles import check_finite, read_safetensors

WEIGHTS, ABOUT = "hmm.safetensors", "hmm.json"
FORMAT = "avsr-hmm-1"
Streams = Mapping[str, np.ndarray]                          # (T, D) of each stream; rows of NaN were not observed
Weights = Mapping[str, float]                               # exponent of each stream; those not named count nothing


@dataclass(frozen=True)
class HMM:
    """units: their states, by name.  streams: mixtures of N states each.  stay: (N,) probability to stay in a state.

    about: what the JSON beside the weights says, such as the settings of the features.
    """

    units: Units
    streams: Mapping[str, Mixtures]
    stay: np.ndarray
    about: Mapping[str, Any]

    @property
    def n_states(self) -> int:
        """N."""
        return len(self.stay)

    def n_parameters(self, streams: Sequence[str] | None = None) -> int:
        """Numbers that were trained, of all streams or of some."""
        return self.n_states + sum(self.streams[name].n_parameters for name in streams or self.streams)

    def log_moves(self, network: Network) -> np.ndarray:
        """(A,) log probabilities of the moves of a network."""
        return network.log_moves(np.log(self.stay), np.log1p(-self.stay))

    def log_b(self, observed: Streams, weights: Weights, network: Network) -> tuple[np.ndarray, np.ndarray]:
        """(T, K) float64: sum of weight times log b over the streams, for each state of a network; and which of the K states
        each position has, (P,)."""
        states, places = np.unique(network.states, return_inverse=True)
        total = np.zeros((len(next(iter(observed.values()))), len(states)))
        for name, weight in weights.items():
            if weight:
                total += weight * self.streams[name].log_likelihoods(observed[name], states)
        return total, places

    def best_path(self, observed: Streams, weights: Weights, network: Network) -> BestPath:
        """The best path of the observed frames through a network."""
        return viterbi(network, *self.log_b(observed, weights, network), self.log_moves(network))

    def save(self, folder: Path) -> None:
        """Write hmm.safetensors (16-bit floats) and hmm.json. Raises BadOutput."""
        from safetensors.numpy import save

        tensors = {"stay": self.stay.astype(np.float32)}
        for name, mixtures in self.streams.items():
            used = mixtures.compact()
            tensors |= {f"{name}.weights": used.weights.astype(np.float32),
                        f"{name}.means": used.means.astype(np.float16),
                        f"{name}.log_variances": np.log(used.variances).astype(np.float16)}
        about = {"format": FORMAT, "units": self.units, "streams": list(self.streams), **self.about}
        write_files({folder / WEIGHTS: save(tensors), folder / ABOUT: json.dumps(about, indent=1) + "\n"},
                    lambda reason: f"{folder}: the model cannot be written ({reason}).  Make room, or choose another folder.")

    @classmethod
    def load(cls, folder: Path) -> HMM:
        """What `save` wrote. Raises BadCheckpoint."""
        try:
            about = json.loads((folder / ABOUT).read_bytes())
            if about["format"] != FORMAT:
                raise ValueError(f"format {about['format']!r}, and this version reads {FORMAT!r}")
            units = {name: tuple(map(int, states)) for name, states in about.pop("units").items()}
            names = list(about.pop("streams"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadCheckpoint(f"{folder / ABOUT}: this is no description of an HMM ({error}).  Name a folder with {WEIGHTS} "
                                f"and {ABOUT}, as experiments/history/hmm/train.py writes them.") from error
        tensors = read_safetensors(folder / WEIGHTS)
        check_finite(tensors, folder / WEIGHTS)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        wanted = {"stay", *(f"{name}.{part}" for name in names for part in ("weights", "means", "log_variances"))}
        n_states = len(arrays.get("stay", ()))
        if wanted - set(arrays) or any(len(arrays[one]) != n_states for one in wanted) or any(
                not 0 <= state < n_states for states in units.values() for state in states):
            raise BadCheckpoint(f"{folder / WEIGHTS}: its tensors do not fit {ABOUT}.  Copy both files again.")
        streams = {name: Mixtures(arrays[f"{name}.weights"], arrays[f"{name}.means"], np.exp(arrays[f"{name}.log_variances"]))
                   for name in names}
        return cls(units, streams, arrays["stay"].astype(np.float64), about)
