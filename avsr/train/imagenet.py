"""Initialises the `resnet18` frontend from ImageNet: from the ResNet-18 that torchvision publishes.

    resnet18-f37072fd.pth, or a file of the same names -> stages 1 to 4 as they are, the stem inflated -> video.frontend
The kernels of torchvision's stem span 7 x 7 pixels in three colours, ours 7 x 7 pixels in 5 grey frames. They are summed over
the colours and put into the middle frame; the other frames start at 0, as I3D (Carreira and Zisserman 2017) inflates a single
frame. The frontend thus starts as torchvision's network on single frames, without its last layer, of 1000 classes.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from avsr import assets
from avsr.checkpoint.folder import sha256_of
from avsr.errors import BadCheckpoint
from avsr.importers.reading import read_weights
from avsr.models.video import GREY_MEAN, GREY_STD, ResNet18Frontend
from avsr.runtime import Progress, no_progress
from avsr.tensorfiles import misfit, stored

IMAGENET = "imagenet"                                       # in place of a model's name
ASSET = "resnet18-f37072fd.pth"
# Of red, green and blue from 0 to 1, by which torchvision's networks normalise pictures.
COLOUR_MEAN, COLOUR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HASHED = re.compile(r"-([0-9a-f]{8,64})\.pth$")             # of torch.hub: a name ends in the first digits of the sha256
UNUSED = ("fc.weight", "fc.bias")


def is_image_network(name: str | None) -> bool:
    """Whether `model.video_encoder_from` names a network for pictures: `imagenet`, or a .pth file."""
    return name is not None and (name == IMAGENET or name.endswith(".pth"))


def image_weights(name: str, folder: Path, *, progress: Progress = no_progress) -> tuple[Path, dict[str, Tensor]]:
    """The file and the weights of `imagenet`, or of a .pth file whose path is relative to `folder`.

    A file whose name holds the first digits of its sha256 is checked against them. Raises MissingAsset or BadCheckpoint.
    """
    path = assets.find(ASSET, progress=progress) if name == IMAGENET else folder / name
    weights = read_weights(path)
    if name != IMAGENET and (wanted := HASHED.search(path.name)):
        found = sha256_of(path)
        if not found.startswith(wanted[1]):
            raise BadCheckpoint(f"{path}: its sha256 begins {found[:len(wanted[1])]}, but its name says {wanted[1]}.  Download "
                                "it again.")
    return path, weights


def load_image_weights(path: Path, weights: dict[str, Tensor], frontend: ResNet18Frontend) -> None:
    """Load torchvision's weights into the frontend. Raises BadCheckpoint where they are not those of its resnet18."""
    state = frontend.state_dict()
    # A batch norm's count of batches is not needed after training; files of old torch versions have none.
    ours = {_theirs(name): name for name in state if not name.endswith(".num_batches_tracked")}
    given = {name: tensor.float() for name, tensor in weights.items()
             if name not in UNUSED and not name.endswith(".num_batches_tracked")}
    wanted = {theirs: state[name] for theirs, name in ours.items()} | {"conv1.weight": torch.empty(64, 3, 7, 7)}
    if problem := misfit(wanted, stored(given)):
        raise BadCheckpoint(f"{path}: it is not a ResNet-18's: it {problem}.  Name the file of torchvision's resnet18.")
    kernel, shift = inflated(given["conv1.weight"], state["conv.0.weight"].shape[2])
    given |= {"conv1.weight": kernel, "bn1.running_mean": given["bn1.running_mean"] - shift}
    frontend.load_state_dict(state | {ours[name]: tensor for name, tensor in given.items()})


def inflated(kernel: Tensor, n_frames: int) -> tuple[Tensor, Tensor]:
    """A stem's kernel (C, 3, H, W) over colours -> (C, 1, n_frames, H, W) over grey frames, and a shift of its output (C,).

    Both give the same output for a grey picture, each in its own normalisation, up to the constant shift, which the mean of
    the batch norm after the stem absorbs.
    """
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (COLOUR_MEAN, COLOUR_STD))
    out = kernel.new_zeros(kernel.shape[0], 1, n_frames, *kernel.shape[2:])
    out[:, 0, n_frames // 2] = (kernel * GREY_STD / std).sum(dim=1)
    return out, (kernel * (GREY_MEAN - mean) / std).sum(dim=(1, 2, 3))


def _theirs(name: str) -> str:
    """Torchvision's name of a weight of our frontend."""
    part, number, rest = name.split(".", 2)
    if part == "conv":
        return {"0": "conv1", "1": "bn1"}[number] + f".{rest}"
    return f"layer{int(number) + 1}.{rest}"
