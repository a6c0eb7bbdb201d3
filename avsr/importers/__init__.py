"""Published checkpoints: which family a file is of, every size from its shapes, its weights under our names.

    file -> Family (one file of this folder each) -> HybridAVSR;  Whisper's two layouts -> AVSR (whisper.py);  a network that
    tells who speaks -> speakers.lr_asd.LrAsd (lr_asd.py)
Weights that are left over, missing or of another shape are refused by name. A new family is one more file, listed in FAMILIES.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

import torch
from torch import Tensor

from avsr.errors import BadCheckpoint, listed
from avsr.importers import auto_avsr
from avsr.importers.family import Converted, Family, Known
from avsr.models.blocks import TooLarge, outline
from avsr.models.hybrid import HybridAVSR
from avsr.rates import MOUTH_INPUT, SAMPLES_PER_FRAME

__all__ = ["FAMILIES", "Family", "Known", "check_numbers", "network_of"]

FAMILIES: tuple[Family, ...] = (auto_avsr.FAMILY,)
LARGEST_HALF = torch.finfo(torch.float16).max
NEWER = "data/README.md lists the files that this version knows: name one of them, or install a newer avsr."


def network_of(weights: dict[str, Tensor], path: Path) -> tuple[Family, HybridAVSR]:
    """The family of the weights read from a published file, and its network. Empties the dict. Raises BadCheckpoint."""
    family = _family(weights.keys(), path)
    return family, _build(family, weights, path)


def _family(names: Set[str], path: Path) -> Family:
    for family in FAMILIES:
        if family.recognises(names):
            return family
    for family in FAMILIES:
        if part := family.part(names):
            raise BadCheckpoint(f"{path}: {part} (of {family.name}).  Name a whole model's file.")
    raise BadCheckpoint(f"{path}: {len(names)} weights of no family that is known, such as {listed(sorted(names))}.  Known: "
                        f"{', '.join(family.name for family in FAMILIES)}, lr_asd; data/README.md lists their files.")


def _build(family: Family, weights: dict[str, Tensor], path: Path) -> HybridAVSR:
    """The network with the file's own tensors. Raises BadCheckpoint where they do not fit."""
    what = f"{path}: of {family.name}, but"
    n_numbers = sum(tensor.numel() for tensor in weights.values())
    try:
        found = family.convert(weights)
        network = outline(HybridAVSR, found.dims, most=n_numbers)
    except KeyError as error:
        raise BadCheckpoint(f"{what} without {error.args[0]}: half a model, or a newer layout.  {NEWER}") from error
    except ValueError as error:
        raise BadCheckpoint(f"{what} of {error}, which no network has.  {NEWER}") from error
    except TooLarge as error:
        raise BadCheckpoint(f"{what} its {n_numbers} numbers are fewer than a network of its sizes has: half a model, or a "
                            f"newer layout.  {NEWER}") from error
    _check_fit(found, network, what)
    network.load_state_dict(found.weights, assign=True)
    found.weights.clear()                                   # or the float16 tensors would stay beside the float32 ones
    return network.float().eval().requires_grad_(False)


def _check_fit(found: Converted, network: HybridAVSR, what: str) -> None:
    """Raises BadCheckpoint where a weight has no place in the network, or the network lacks one."""
    wanted = network.state_dict()
    # A batch norm's count of batches is not needed after training; files of old torch versions have none.
    for name in [name for name in wanted if name.endswith(".num_batches_tracked")]:
        found.weights[name] = torch.zeros((), dtype=torch.long)
    if odd := found.left_over + [found.theirs[name] for name in found.weights if name not in wanted]:
        raise BadCheckpoint(f"{what} {len(odd)} of its weights have no place in our network: {listed(odd)}.  {NEWER}")
    if missing := [name for name in wanted if name not in found.weights]:
        raise BadCheckpoint(f"{what} {len(missing)} weights are not there, which ours calls {listed(missing)}.  {NEWER}")
    misfits = [f"{theirs} ({_kind(found.weights[name])} where {_kind(wanted[name])} is due)"
               for name, theirs in found.theirs.items() if _kind(found.weights[name]) != _kind(wanted[name])]
    if misfits:
        raise BadCheckpoint(f"{what} {len(misfits)} of its weights do not fit the others: {listed(misfits)}.  {NEWER}")


def _kind(tensor: Tensor) -> str:
    """The shape, and whether the numbers are whole, in words."""
    shape = " x ".join(str(size) for size in tensor.shape)
    return shape if tensor.is_floating_point() else f"{shape} whole numbers"


@torch.inference_mode()
def check_numbers(network: HybridAVSR, path: Path, *, half: bool) -> None:
    """Raises BadCheckpoint where a weight, or an output of the network, is not a finite number that can be stored."""
    for name, tensor in network.state_dict().items():
        low, high = torch.aminmax(tensor)                   # one is NaN where any is; a tenth of the time of isfinite
        if not (low.isfinite() and high.isfinite()):
            raise BadCheckpoint(f"{path}: what we call {name} has values that are no numbers.  Download it again.")
        if half and max(-low, high) > LARGEST_HALF:
            raise BadCheckpoint(f"{path}: what we call {name} goes up to {max(-low, high):.0f}, and half precision to "
                                f"{LARGEST_HALF:.0f}.  Import it without --half.")
    (modality,), n_frames = network.modalities, 2
    sound = torch.zeros(1, n_frames * SAMPLES_PER_FRAME, 1) if "a" in modality else None
    memory = network.encode(sound, torch.zeros(1, n_frames, MOUTH_INPUT, MOUTH_INPUT) if "v" in modality else None)
    end = torch.tensor([[network.dims.n_vocab - 1]])
    if not network.step(end, network.start(memory)).isfinite().all():
        raise BadCheckpoint(f"{path}: its network gives values that are no numbers.  Download it again.")
