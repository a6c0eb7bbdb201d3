"""A mixer for training, which draws one of several noises at a random level.

    NoiseMixer(sources)(speech, speaker, rng)  ->  NoisySpeech: the mixture, the name of the noise, the SNR achieved
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from avsr.noise.mixing import mix
from avsr.noise.sources import NoiseSource


class NoisySpeech(NamedTuple):
    """audio: (S,) float32. source, snr_db: the name of the noise and the SNR achieved; both None where the speech is clean."""

    audio: np.ndarray
    source: str | None
    snr_db: float | None


@dataclass(frozen=True)
class NoiseMixer:
    """Adds noise from a random source at a random level.

    sources: by name, drawn equally often.  snrs: dB to choose from, None for clean.  snr_range: lowest and highest dB of a
    uniform distribution, instead of snrs.  p_clean: probability of no noise.
    """

    sources: Mapping[str, NoiseSource]
    snrs: tuple[float | None, ...] = (-5.0, 0.0, 5.0, 10.0, 15.0, 20.0, None)
    snr_range: tuple[float, float] | None = None
    p_clean: float = 0.0

    def __call__(self, speech: np.ndarray, speaker: str | None, rng: np.random.Generator) -> NoisySpeech:
        """Speech (S,) float32 in noise without the voice of `speaker`. Silent speech, which has no SNR, stays as it is."""
        snr_db = self._snr(rng)
        if snr_db is None or not self.sources or not np.any(speech):
            return NoisySpeech(np.array(speech, np.float32), None, None)
        names = sorted(self.sources)
        # Without p numpy would draw in another way, and training runs would not repeat those of former versions.
        name = names[int(rng.choice(len(names), p=np.full(len(names), 1 / len(names))))]
        noise = self.sources[name].draw(len(speech), rng, without=speaker)
        mixed = mix(speech, noise, snr_db, rng=rng)
        return NoisySpeech(mixed.audio, name, mixed.snr_db)

    def _snr(self, rng: np.random.Generator) -> float | None:
        if rng.random() < self.p_clean:
            return None
        if self.snr_range is not None:
            return float(rng.uniform(*self.snr_range))
        return self.snrs[int(rng.integers(len(self.snrs)))]
