"""LR-ASD, a network that tells who speaks: its published file in, the same weights under our names out.

    finetuning_TalkSet.model, opened with weights_only -> {our name: tensor} -> speakers.lr_asd.LrAsd
Junhua-Liao/LR-ASD (MIT) at commit 1b6dcd2d; the names were read from the file.
"""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path

from torch import Tensor

from avsr.errors import BadCheckpoint, listed
from avsr.speakers.lr_asd import LrAsd
from avsr.tensorfiles import check_finite, misfit, stored

NAME = "lr_asd"
LICENCE = ("LR-ASD's code and weights are published under the MIT licence, but the weights were trained on VoxCeleb2 and LRS3, "
           "whose terms may bind what is made with them (LRS3's forbid commercial use).  Read those before you use the model.")
FILE = "finetuning_TalkSet.model"
SHA256 = "6b4ef53694e874e96cf630198dc479c78aebb3993bbf166aee3d926dfe7d9342"
_OUTSIDE = {
    "model.fusion.attention": "fusion.attention", "model.fusion.bn": "fusion.norm", "model.detector.gru_forward": "forwards",
    "model.detector.gru_backward": "backwards", "model.detector.attention.attention": "gate.attention",
    "model.detector.attention.bn": "gate.norm", "lossAV.FC": "out", "lossV.FC": "visual_out",
}
# A block's four convolutions, first two within a frame or over coefficients, then two over time: their places in our block.
_LAYERS = {"s_1": 0, "m_1": 0, "s_2": 3, "m_2": 3, "t_1": 6, "t_2": 9}


def recognises(names: Set[str]) -> bool:
    """Whether weights of these names are LR-ASD's, or an older network's of the same authors."""
    return {"lossAV.FC.weight", "model.visualEncoder.block1.s_1.weight"} <= names


def convert(weights: dict[str, Tensor], path: Path) -> LrAsd:
    """The network with the weights of the file at `path`. Raises BadCheckpoint where they do not fit."""
    ours = {name: _our_name(name) for name in weights}
    if unknown := sorted(name for name, own in ours.items() if own is None):
        raise BadCheckpoint(f"{path}: of LR-ASD's kind, but {len(unknown)} of its weights have no place in our network: "
                            f"{listed(unknown)}.  Name {FILE} as published, which `avsr fetch lr-asd` gets.")
    named = {own: weights[name] for name, own in ours.items() if own is not None}
    network = LrAsd()
    if wrong := misfit(network.state_dict(), stored(named)):
        raise BadCheckpoint(f"{path}: of LR-ASD's kind, but it {wrong}.  Name {FILE} as published, which `avsr fetch lr-asd` "
                            "gets.")
    check_finite(named, path)
    network.load_state_dict(named)
    return network.eval().requires_grad_(False)


def _our_name(name: str) -> str | None:
    stem, _, kind = name.rpartition(".")
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.{kind}"
    found = re.fullmatch(r"model\.(visual|audio)Encoder\.block([1-3])\.([smt])_(norm_)?([12])", stem)
    if found is None:
        return None
    layer = _LAYERS[f"{found[3]}_{found[5]}"] + (found[4] is not None)
    return f"{found[1]}.{int(found[2]) - 1}.{layer}.{kind}"
