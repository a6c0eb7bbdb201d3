"""The data of a run, as its config names it: manifests, validation utterances, and noise.

    Config -> paths of manifests, rows of split valid, NoiseMixer; absent optional data is reported
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from avsr import manifest
from avsr.config import Config
from avsr.dataset import ManifestRow, read_prepared, recordings_by_speaker
from avsr.noise import NoiseMixer, open_training_sources

Say = Callable[[str], None]


def training_manifests(config: Config, say: Say) -> list[Path]:
    """Paths of the manifests of `data.train`, and of those of `data.optional` that have training utterances.

    `say` is called with a sentence for each of the others. Raises BadManifest for a file that is no manifest.
    """
    found = [manifest.manifest_path(config.path(name)) for name in config.data.train]
    for one in filter(None, config.data.optional.values()):
        path = manifest.manifest_path(config.path(one["manifest"]))
        if not path.exists():
            say(f"{os.path.relpath(path)} does not exist, so the model does not learn from {one['teaches']}.")
        elif any(row.split == "train" and row.cache is not None for row in manifest.read(path)):
            found.append(path)
        else:
            say(f"{os.path.relpath(path)} holds no prepared utterance of split 'train', so the model does not learn from "
                f"{one['teaches']}.")
    return found


def validation_rows(config: Config) -> list[ManifestRow]:
    """The utterances of split `valid`, or `data.max_valid` of them, evenly spaced. Raises BadManifest where there is none."""
    data = config.data
    rows, _ = read_prepared([config.path(name) for name in data.valid], "valid", data.max_seconds)
    n = min(data.max_valid or len(rows), len(rows))
    return [rows[i * len(rows) // n] for i in range(n)]


def noise_mixer(config: Config, rows: Sequence[ManifestRow], say: Say) -> NoiseMixer | None:
    """The noise of training, some of it made from the training utterances `rows`; None where no family of noise is left.

    `say` is called with a sentence for each family that is left out. Raises AvsrError.
    """
    data = config.data
    own, n_unnamed = recordings_by_speaker(rows)
    sources, left_out = open_training_sources(data.noise, own, n_unnamed=n_unnamed, base=config.folder)
    for sentence in left_out:
        say(sentence)
    return NoiseMixer(sources, snr_range=data.snr, p_clean=data.p_clean) if sources else None
