"""Writes an active-speaker network as `avsr` runs it: two ONNX graphs and a description (avsr/speakers/network.py).

    uv run --extra export experiments/active_speaker/export.py OLD -o avsr/weights/active_speaker

OLD: a folder of network.json and model.safetensors, as train.py wrote it before it wrote graphs. train.py calls `export`.
The weights lie in the graphs under their names in torch, those of a convolution times those of the norm after it, so
`read_network` takes them back, to train on or to compare.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from network import TorchNetwork
from onnx import helper, numpy_helper
from torch import Tensor, nn

from avsr.lips import MouthCropSettings
from avsr.rates import FEATURES_PER_FRAME, MOUTH_INPUT
from avsr.schema import read_json
from avsr.speakers.network import DESCRIPTION, DIMS, ENCODER, SCORER, Dims

OPSET = 20                                                  # the first that has Gelu
PACKED, SCALE = ".int8", ".scale"                           # follow the name of weights in the names of what is stored of them
NORM = "_bias"                                              # follows the name of weights in the name of what the norm adds
FRAMES = 50                                                 # of the example that is exported; any number runs


class Encode(nn.Module):
    """Both encoders of a network, without the dimension of a batch."""

    def __init__(self, network: TorchNetwork):
        super().__init__()
        self.video, self.audio = network.video, network.audio

    def forward(self, mouths: Tensor, seen: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
        """(T, 44, 44), (T,) bool, (4T, n_mels) -> (E + 3, T), (E + 2, T)."""
        return self.video(mouths[None], seen[None])[0], self.audio(power[None])[0]


class Score(nn.Module):
    """The head of a network, without the dimension of a batch."""

    def __init__(self, network: TorchNetwork):
        super().__init__()
        self.dims, self.join, self.blocks, self.out = network.dims, network.join, network.blocks, network.out

    def forward(self, video: Tensor, sound: Tensor) -> Tensor:
        """(E + 3, T), (E + 2, T) -> (T,)."""
        return TorchNetwork.forward(self, video[None], sound[None])[0]

    _parts = TorchNetwork._parts


def export(network: TorchNetwork, folder: Path, training: Mapping[str, Any]) -> None:
    """Write the folder that avsr.speakers.network reads, with weights in 8 bits. training: what is said of how it was made."""
    network.eval()
    dims = network.dims
    mouths = torch.zeros(FRAMES, MOUTH_INPUT // 2, MOUTH_INPUT // 2)
    seen, power = torch.ones(FRAMES, dtype=torch.bool), torch.zeros(FRAMES * FEATURES_PER_FRAME, dims.n_mels)
    with torch.inference_mode():
        video, sound = Encode(network)(mouths, seen, power)
    folder.mkdir(parents=True, exist_ok=True)
    for name, module, given, inputs, outputs in (
            (ENCODER, Encode(network), (mouths, seen, power), ("mouths", "seen", "power"), ("video", "sound")),
            (SCORER, Score(network), (video.clone(), sound.clone()), ("video", "sound"), ("scores",))):
        onnx.save(graph(module.eval(), given, inputs, outputs, dims), str(folder / name))
    about = {DIMS: json.loads(dims.written()), "scale": float(network.scale.detach().exp()),
             "mouth_crop": MouthCropSettings().to_dict(), "training": training}
    (folder / DESCRIPTION).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def graph(module: nn.Module, given: tuple[Tensor, ...], inputs: tuple[str, ...], outputs: tuple[str, ...],
          dims: Dims) -> onnx.ModelProto:
    """A module as an ONNX graph of any number of frames, which is the last dimension of what is encoded, else the first."""
    axes = {name: {1 if name in ("video", "sound") else 0: torch.export.Dim.DYNAMIC} for name in inputs}
    made = torch.onnx.export(module, given, input_names=list(inputs), output_names=list(outputs), opset_version=OPSET,
                             dynamic_shapes=tuple(axes.values()), dynamo=True, verbose=False)
    assert made is not None
    model = made.model_proto
    pack(model.graph)
    del model.graph.value_info[:]
    for described in (*model.graph.node, *model.graph.input, *model.graph.output):     # where each comes from: half of the file
        described.ClearField("metadata_props")
        described.ClearField("doc_string")
    helper.set_model_props(model, {DIMS: dims.written()})
    onnx.checker.check_model(model, full_check=True)
    return model


def pack(there: onnx.GraphProto) -> None:
    """Store the weights of convolutions and linear layers in 8 bits with a scale for each channel that comes out."""
    for tensor in list(there.initializer):
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32 and value.ndim > 1 and tensor.name.endswith(".weight"):
            scale = np.maximum(np.abs(value.reshape(len(value), -1)).max(axis=1), 1e-12) / np.float32(127)
            whole = np.round(value / scale.reshape(-1, *[1] * (value.ndim - 1))).astype(np.int8)
            there.initializer.remove(tensor)
            there.initializer.extend([numpy_helper.from_array(whole, tensor.name + PACKED),
                                      numpy_helper.from_array(scale.astype(np.float32), tensor.name + SCALE)])
            there.node.insert(0, helper.make_node("DequantizeLinear", [tensor.name + PACKED, tensor.name + SCALE],
                                                  [tensor.name], axis=0))


def read_network(folder: Path) -> TorchNetwork:
    """The network of a folder in torch, to train on or to compare. Its norms only add: what they multiply by is in the weights
    before them."""
    about = read_json(folder / DESCRIPTION)
    network = TorchNetwork(Dims(**{name: tuple(value) if isinstance(value, list) else value
                                   for name, value in about[DIMS].items()}))
    weights = {"scale": torch.tensor(about["scale"]).log()}
    for file in (ENCODER, SCORER):
        stored = {one.name: numpy_helper.to_array(one) for one in onnx.load(str(folder / file)).graph.initializer}
        for name, value in stored.items():
            if name.endswith(PACKED):
                scale = stored[name.removesuffix(PACKED) + SCALE].reshape(-1, *[1] * (value.ndim - 1))
                weights[name.removesuffix(PACKED)] = torch.from_numpy(value * scale)
            elif name.endswith((".bias", NORM)):
                weights[name] = torch.from_numpy(value.copy())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_var.fill_(1 - module.eps)        # so that it multiplies by 1
    for name in [name for name in weights if name.endswith(NORM)]:
        conv = name.removesuffix(".weight" + NORM)          # stages.0 is followed by the norm stages.1, x.conv by x.norm
        place, _, last = conv.rpartition(".")
        weights[f"{place}.{int(last) + 1 if last.isdigit() else 'norm'}.bias"] = weights.pop(name)
    network.load_state_dict({**network.state_dict(), **weights})
    return network.eval()


def read_old(folder: Path) -> TorchNetwork:
    """The network of a folder of network.json and model.safetensors."""
    from safetensors.torch import load_file

    dims = read_json(folder / DESCRIPTION)[DIMS]
    network = TorchNetwork(Dims(**{name: tuple(value) if isinstance(value, list) else value for name, value in dims.items()}))
    stored = load_file(folder / "model.safetensors")
    network.load_state_dict({
        name: value.float() * stored[name + SCALE].view(-1, *[1] * (value.ndim - 1)) if name + SCALE in stored else value
        for name, value in stored.items() if not name.endswith(SCALE)})
    return network.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    export(read_old(args.old), args.output, read_json(args.old / DESCRIPTION)["training"])
