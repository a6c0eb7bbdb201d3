"""Reads the weights of a published file, by name. None of its code is run, and its claims are checked before use.

    .pth, .pt, .ckpt (pickled, opened with weights_only and nothing looser), .safetensors  ->  {name: tensor}
The first bytes of a file decide its layout, because names are chosen by hand.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from avsr.errors import BadCheckpoint, listed

WRAPPED = ("state_dict", "model_state_dict", "model")       # keys under which trainers keep the weights
PREFIXES = ("module.", "model.")                            # of all names, by data parallel training and by Lightning
PLAIN = (torch.float32, torch.float16, torch.bfloat16, torch.float64,
         torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
MAX_SIZE_RATIO = 2  # times the file's size that its tensors may claim: they may share


def read_weights(path: Path) -> dict[str, Tensor]:
    """All weights in the file, each in memory of its own, mapped where the layout allows it. Raises BadCheckpoint."""
    try:
        n_bytes, held = path.stat().st_size, _read(path)
    except OSError as error:
        reason = error.strerror or error
        raise BadCheckpoint(f"{path}: cannot be read ({reason}).  Name the file that you downloaded.") from error
    weights = _unwrapped(held, path)
    for name, tensor in weights.items():
        if unsupported := _unsupported_kind(tensor):
            raise BadCheckpoint(f"{path}: {listed([name])} is {unsupported}, not plain numbers.  Name the file as published.")
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    if claimed > MAX_SIZE_RATIO * n_bytes:
        raise BadCheckpoint(f"{path}: its weights claim {_size(claimed)}, but it holds {_size(n_bytes)}.  It is not what it "
                            "says it is: get it from its authors.")
    return _apart(weights)


def _read(path: Path) -> object:
    """The content of a file in any of the layouts. Raises BadCheckpoint or OSError."""
    if path.is_dir():
        raise BadCheckpoint(f"{path}: a folder.  Name the file of weights in it.")
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise BadCheckpoint(f"{path}: an empty file.  Download it again.")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return _read_safetensors(path)
    if head.startswith(b"PK"):
        _check_archive(path)
        return _read_pickle(path, mapped=True)
    if head.startswith(pickle.PROTO):                       # torch's layout of before 2020
        return _read_pickle(path, mapped=False)
    if head.lstrip().startswith(b"<"):                      # Google Drive sends one in place of a large file
        raise BadCheckpoint(f"{path}: a web page, not a checkpoint.  Download the file itself, with a browser.")
    raise _damaged(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise BadCheckpoint(f"{path}: damaged, or not safetensors ({error}).  Download it again.") from error


def _check_archive(path: Path) -> None:
    """Raises BadCheckpoint for a zip archive that torch did not write. torch maps parts, so compressed ones would be noise."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _damaged(path) from error
    names = [part.filename for part in parts]
    if any(name.endswith("/constants.pkl") for name in names):
        raise BadCheckpoint(f"{path}: a TorchScript program, which is code and not weights.  Name the file of weights.")
    if not any(name.endswith("/data.pkl") for name in names):
        raise BadCheckpoint(f"{path}: a zip archive of {listed(names) or 'nothing'}, and no checkpoint of torch.  Unpack it, "
                            "and name the file of weights.")
    if packed := [part.filename for part in parts if part.compress_type != zipfile.ZIP_STORED]:
        raise BadCheckpoint(f"{path}: {listed(packed)} compressed, which torch never does.  Name the file as published.")


def _read_pickle(path: Path, *, mapped: bool) -> object:
    """The pickled content. Only tensors and plain containers are allowed; anything else is refused before it is created."""
    try:
        with warnings.catch_warnings(action="ignore"):      # about files that are refused below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError:
        raise
    except Exception as error:                              # damaged files raise almost anything
        asked_for = re.search(r"\bGLOBAL ([\w.]+)", str(error))
        if asked_for is None:
            raise _damaged(path) from error
        raise BadCheckpoint(f"{path}: holds {listed([asked_for[1]])}, which is code and not weights; none of it was run.  Get "
                            "the file from its authors, or save its state_dict alone with what made it.") from error


def _damaged(path: Path) -> BadCheckpoint:
    return BadCheckpoint(f"{path}: {_size(path.stat().st_size)} that are no checkpoint of torch, or only part of one.  "
                         "Download it again and compare its size.")


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e5 else f"{n_bytes} bytes"


def _unwrapped(held: object, path: Path) -> dict[str, Tensor]:
    """The weights without the dictionaries and prefixes that trainers add."""
    for name in WRAPPED:
        if isinstance(held, dict) and isinstance(held.get(name), dict):
            held = held[name]
    if not isinstance(held, dict) or not any(isinstance(value, Tensor) for value in held.values()):
        what = f"a {type(held).__name__}" if not isinstance(held, dict) else f"{len(held)} entries, none of them a weight"
        raise BadCheckpoint(f"{path}: holds {what}.  Name a file of weights, as published.")
    if others := [str(name) for name, value in held.items() if not (isinstance(name, str) and isinstance(value, Tensor))]:
        raise BadCheckpoint(f"{path}: {listed(others)} beside {len(held) - len(others)} weights, and no weight itself.  Name "
                            "a file of weights alone.")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in held):
            held = {name.removeprefix(prefix): value for name, value in held.items()}
    return held


def _unsupported_kind(tensor: Tensor) -> str | None:
    """In a word, how a tensor is not plain numbers; None where it is."""
    if type(tensor) not in (Tensor, nn.Parameter):
        return f"a {type(tensor).__name__}"
    if tensor.is_nested or tensor.layout != torch.strided:
        return "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
    if tensor.device.type != "cpu":
        return "empty (on the meta device)"
    return None if tensor.dtype in PLAIN else str(tensor.dtype).removeprefix("torch.")


def _apart(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights, with copies of those that share memory, which our files cannot hold."""
    apart, taken = {}, set()
    for name, tensor in weights.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.detach().clone() if place in taken else tensor.detach()
        taken.add(place)
    return apart
