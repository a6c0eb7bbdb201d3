"""Noise: where it comes from, and mixing it with speech at an exact signal-to-noise ratio.

    speech (S,) float32  +  noise (N,) float32, both SAMPLE_RATE  ->  Mixed.audio (S,) float32

Inside: mixing (levels, mix) -> sources (recordings, babble, colours) -> mixer (sources from a description, for training).
"""

from avsr.noise.mixer import NoiseMixer, Noisy, open_sources
from avsr.noise.mixing import Mixed, active_level, mix, rms_level
from avsr.noise.sources import Babble, Coloured, NoiseSource, Recordings, SpeechShaped, Talker

__all__ = ["Babble", "Coloured", "Mixed", "NoiseMixer", "NoiseSource", "Noisy", "Recordings", "SpeechShaped", "Talker",
           "active_level", "mix", "open_sources", "rms_level"]
