"""The names that former versions gave to tensors, dims and fields of model.json, as this version calls them.

Weights, model.json and training states are read under either name; only the new names are written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

FIELDS = {"lips_trained": "video_trained", "recipe": "mouth_crop"}
DIMS = {"lips": "video_frontend", "n_trust": "n_reliability"}
# Applied one after another. Patterns of names, as in train.rates of a config, are renamed by the same table.
TENSORS = (
    (r"^exchanges\.", "fusion_layers."),
    (r"^(audio|video)\.front\.", r"\1.frontend."),
    (r"^trust\.judge\.", "reliability.classifier."),
    (r"^trust\.familiar\.reach\b", "reliability.detector.radius"),
    (r"^trust\.familiar\.", "reliability.detector."),
    (r"^trust\.", "reliability."),
    (r"^labels\.lips\.", "labels.video."),
)


class AudioGate(ValueError):
    """A network has an audio gate, which no longer exists; `str(error)` says so."""


def current_tensor(name: str) -> str:
    """The name that this version gives to a tensor."""
    for old, new in TENSORS:
        name = re.sub(old, new, name)
    return name


def current_fields(values: Mapping[str, Any], names: Mapping[str, str] = FIELDS) -> dict[str, Any]:
    """A table whose keys have this version's names."""
    return {name if names.get(name, name) in values else names.get(name, name): value for name, value in values.items()}


def current_dims(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dims under this version's names. Raises AudioGate where n_heed, the audio gate's size, is anything but 0."""
    dims = current_fields(values, DIMS)
    if (n_heed := dims.pop("n_heed", 0)) != 0 or isinstance(n_heed, bool):
        raise AudioGate(f"n_heed is {n_heed!r}, but the audio gate was removed, because it gained nothing")
    return dims
