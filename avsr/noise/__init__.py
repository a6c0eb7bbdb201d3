"""Noise: its sources, and mixing it with speech at an exact signal-to-noise ratio.

    speech (S,) float32  +  noise (N,) float32, both SAMPLE_RATE  ->  MixedSpeech.audio (S,) float32
Inside: mixing (levels, mix) -> plans (what a noise is made of, render) -> sources (recordings, babble, colours) -> families
(sources by name) -> mixer (random noise, for training) -> lines, manifest (noise manifests, for repeatable tests).
"""

from avsr.noise.families import open_families, open_sources, open_training_sources, why_unavailable
from avsr.noise.manifest import NoiseManifest, TargetSpeech
from avsr.noise.mixer import NoiseMixer, NoisySpeech
from avsr.noise.mixing import MixedSpeech, active_level, mix, rms_level
from avsr.noise.plans import Cut, Generated, NoisePlan, Recorded, render
from avsr.noise.sources import Babble, Coloured, NoiseSource, Recordings, SpeechShaped

__all__ = ["Babble", "Coloured", "Cut", "Generated", "MixedSpeech", "NoiseManifest", "NoiseMixer", "NoisePlan", "NoiseSource",
           "NoisySpeech", "Recorded", "Recordings", "SpeechShaped", "TargetSpeech", "active_level", "mix",
           "open_families", "open_sources", "open_training_sources", "render", "rms_level", "why_unavailable"]
