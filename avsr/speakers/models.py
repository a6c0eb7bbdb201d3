"""Which network tells who speaks: the program's own, LR-ASD, or one in a folder.

    None | "lr-asd" | folder -> SpeakerDetector
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from avsr.assets import cache_folder
from avsr.errors import BadCheckpoint, quote
from avsr.lips import MouthCropSettings
from avsr.schema import read_json
from avsr.speakers.detector import ActiveSpeakerDetector

LR_ASD = "lr-asd"
OURS = "network.json"                                       # of a network of ours, see network.py


class SpeakerDetector(Protocol):
    """What tells whether a mouth makes a sound: see ActiveSpeakerDetector. mouth_crop: the crops of mouths that it takes."""

    mouth_crop: MouthCropSettings

    def scores(self, images: np.ndarray, audio: np.ndarray, missing: np.ndarray | None = None) -> np.ndarray:
        """Log-odds (T,) that the mouth makes the sound in each frame."""
        ...

    def lag_scores(self, images: np.ndarray, audio: np.ndarray, max_lag: int, missing: np.ndarray | None = None) -> np.ndarray:
        """Mean score (2 max_lag + 1,) with the lips k frames after the sound."""
        ...


def open_detector(model: str | Path | None = None) -> SpeakerDetector:
    """The detector of a network.

    model: None for the program's own; "lr-asd" for LR-ASD as `avsr fetch` keeps it in the cache; else the folder of LR-ASD that
    `avsr fetch` or `avsr import` wrote, or of a network of our own training. Raises BadCheckpoint.
    """
    if model is None:
        return ActiveSpeakerDetector()
    named = str(model) == LR_ASD and not Path(LR_ASD).is_dir()
    folder = cache_folder() / LR_ASD if named else Path(model)
    if (folder / OURS).is_file():
        return ActiveSpeakerDetector(folder)
    if (folder / "model.json").is_file() and read_json(folder / "model.json").get("network") == "lr_asd":
        from avsr.speakers import lr_asd  # which loads torch

        return lr_asd.load(folder)
    if named:
        raise BadCheckpoint(f"{LR_ASD}: not fetched yet.  Run avsr fetch lr-asd --accept-licence.")
    raise BadCheckpoint(f"{quote(str(model))[1:-1]}: no folder of a network that tells who speaks.  Name one that avsr fetch "
                        f"or avsr import wrote, or {LR_ASD}.")
