"""What a benchmark is told; loads nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from avsr.corrupt import Corruption
from avsr.names import MODALITIES


@dataclass(frozen=True)
class Settings:
    """What `avsr benchmark --help` lists under the same names. snrs, corrupt_snrs: dB, None for clean. given: folders of
    noises by name. level: how speech is measured, `active` or `rms`."""

    split: str = "test"
    models: tuple[str, ...] = ("default",)
    against: tuple[str, ...] = ()
    noises: tuple[str, ...] | None = None                   # None: babble of the test's own speakers, or speech-shaped noise
    given: Mapping[str, str] = field(default_factory=dict)
    snrs: tuple[float | None, ...] = (None, 20.0, 10.0, 5.0, 0.0, -5.0, -10.0)
    corruptions: tuple[Corruption, ...] = ()
    corrupt_snrs: tuple[float | None, ...] = (None, 0.0)
    modalities: tuple[str, ...] = MODALITIES
    level: str = "active"
    noise_config: str | None = None
    noise_manifest: str | None = None
    beam_size: int | None = None                            # None: what each model wants
    batch_size: int = 16
    max_missing: float = 0.25
    limit: int | None = None
    device: str = "auto"
