"""Miniature networks of published systems, with what their authors' own code answers (../shared/oracles, see its README).

Random weights under the published names. Absent on a user's machine: `need_oracles()` skips there.
"""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from places import SHARED
from safetensors.torch import load_file

from avsr.importers import auto_avsr
from avsr.models.blocks import outline
from avsr.models.hybrid import HybridAVSR

FOLDER = SHARED / "oracles"
NAMES = ("vsr", "asr", "av")


def oracles_folder() -> Path | None:
    """The folder, or None on a machine that does not have it."""
    return FOLDER if FOLDER.is_dir() else None


def need_oracles() -> Path:
    """The folder; skips the test, or with it the fixture's, where it is absent."""
    if (folder := oracles_folder()) is None:
        pytest.skip("the published systems' answers (../shared/oracles) are not on this machine")
    return folder


def state_dict(name: str) -> dict[str, torch.Tensor]:
    """What torch.load gives for the published file of `vsr`, `asr` or `av`: a new dict each time, for converters empty it."""
    folder, whole = need_oracles() / f"auto_avsr_{name}", {}
    for part in json.loads((folder / "dims.json").read_text())["state_dict_parts"]:
        for key, tensor in _tensors(folder / part["file"]).items():
            if not key.startswith(part["take_prefix"]) or tensor.ndim <= part.get("only_ndim_above", -1):
                continue
            tensor = tensor.float() if tensor.dtype == torch.float16 else tensor
            whole[part["put_prefix"] + key.removeprefix(part["take_prefix"])] = tensor
    return whole


@cache
def network(name: str) -> HybridAVSR:
    """The same as our network, ready to answer. Shared between tests: leave its weights alone."""
    converted = auto_avsr.convert(state_dict(name))
    model = outline(HybridAVSR, converted.dims)
    model.load_state_dict({key: tensor.clone() for key, tensor in converted.weights.items()}, assign=True)
    return model.eval().requires_grad_(False)


@cache
def answers(name: str) -> dict[str, torch.Tensor]:
    """Inputs, and all that their code made of them, by the names of the oracle's README. Shared: not to be written to."""
    return load_file(need_oracles() / f"auto_avsr_{name}" / "io.safetensors")


@cache
def _tensors(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path)
