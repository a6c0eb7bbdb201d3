"""Models on disk, as tensors and readable JSON, never pickle; and the names by which models are found.

    shipped name | folder | kept name | Whisper size | owner/model  ->  Checkpoint: network, tokenizer, settings of decoding
A folder holds model.safetensors, tokenizer.json, and model.json, which names the sha256 of both. A model with a `base` holds
only the weights that differ from it. Folders are not trusted: description.py checks model.json, folder.py the files beside it.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from avsr import assets
from avsr.checkpoint.description import Checkpoint, describe, read_description
from avsr.checkpoint.exported import KIND, find_export, has_gpu, load_exported
from avsr.checkpoint.folder import PARTS, TOKENIZER, WEIGHTS, finish_save, load_ours, sha256_of, temporary
from avsr.checkpoint.kept import kept_folder
from avsr.checkpoint.whisper import PACKAGED, fetch_whisper, load_packaged, load_whisper
from avsr.errors import AvsrError, BadCheckpoint, BadOutput, quote
from avsr.models.onnx import OnnxModel
from avsr.output import reason_of
from avsr.runtime import Progress, no_progress
from avsr.schema import read_json

if TYPE_CHECKING:
    import torch

__all__ = ["SHIPPED", "Checkpoint", "export_for", "folder_of", "load", "may_use_video", "save", "shipped"]

SHIPPED = Path(__file__).parents[1] / "weights"             # models that come with the program, a folder each
MOST_BASES = 3                                              # of a model, its base, the base's base


def load(name: str | Path, *, lips: bool = True, device: torch.device | str = "cpu", dtype: torch.dtype | None = None,
         progress: Progress = no_progress, exports: bool = True) -> Checkpoint:
    """A model by folder (ours, or a Whisper in Hugging Face's or faster-whisper's layout), by name (`default`, `grid`; what was
    fetched or enrolled, see kept.py; Whisper's `tiny.en`, `large-v3`), or by its name on the hub. The folder of an export is a
    model too, for whose use torch is not loaded.

    lips: False leaves out the video encoder of a model that can do without it, which saves memory. A Whisper gets a
    new video encoder behind closed gates. exports: False refuses an export, which has nothing to train. Raises BadCheckpoint or
    MissingAsset.
    """
    checkpoint = _load(str(name), lips, progress, ())
    if isinstance(checkpoint.model, OnnxModel):
        if not exports:
            raise BadCheckpoint(f"{name}: an export, whose weights cannot be trained.  Use the model that it was made from.")
        if str(device) != "cpu":
            raise BadCheckpoint(f"{name}: an export, which runs on the processor alone, and {device} was asked for.  Use "
                                "--device cpu, or the model that it was made from.")
        return checkpoint
    if checkpoint.model.joint_ctc:                          # its search compares sums of log-probabilities over a whole text
        dtype = None
    checkpoint.model.to(device=device, dtype=dtype).eval().requires_grad_(False)
    return checkpoint


def _load(name: str, with_video: bool, progress: Progress, above: tuple[Path, ...]) -> Checkpoint:
    """The model on the CPU. above: the folders of the models of which it is the base."""
    if not name:
        raise BadCheckpoint(f"The model's name is empty.  Name a model: {', '.join(shipped())}, a Whisper size, or a folder.")
    folder = SHIPPED / name if name in shipped() else Path(name)
    try:
        if folder.is_dir():
            if (folder / "model.json").exists():
                return _load_ours(folder, with_video, progress, above)
            return load_whisper(folder, name, with_video)
        found = folder.exists()
    except OSError as error:                                # a name that is too long for a path, or a folder without permission
        raise BadCheckpoint(f"{quote(name)[1:-1]}: cannot be read ({error.strerror}).  Name a model's folder that you may "
                            f"read, or one of {', '.join(shipped())}.") from error
    if found:
        raise BadCheckpoint(f"{name}: a file, but a model is a folder with model.json and model.safetensors.  "
                            "Name the folder.")
    if (kept := kept_folder(name)) is not None:
        return replace(_load_ours(kept, with_video, progress, above), name=name)
    return _load_by_name(name, with_video, progress)


def _load_ours(folder: Path, with_video: bool, progress: Progress, above: tuple[Path, ...]) -> Checkpoint:
    about, here = read_description(folder), folder.resolve()
    if about.network == KIND:
        return load_exported(folder, about, with_video=with_video)
    if here in above:
        others = ", by way of others" if len(above) > 1 else ""
        raise BadCheckpoint(f"{folder}: it only adds to itself{others}.  Copy the whole folder again.")
    if len(above) >= MOST_BASES:
        raise BadCheckpoint(f"{folder}: more than {MOST_BASES} models would add to one another.  Use a model whose base has no "
                            "base itself.")
    try:
        base = None if about.base is None else _load(about.base, with_video and may_use_video(about.base), progress,
                                                     (*above, here))
    except AvsrError as error:
        raise type(error)(f"{folder}: it only adds to {about.base}, which is needed too: {error}") from error
    return load_ours(folder, about, base, with_video)


def folder_of(name: str | Path) -> Path | None:
    """The folder of ours that a model's name stands for: shipped, named by its path, or kept; None for a published Whisper."""
    name = str(name)
    for folder in (SHIPPED / name if name in shipped() else Path(name), kept_folder(name)):
        if folder is not None and name and (folder / "model.json").is_file():
            return folder
    return None


def export_for(name: str | Path, device: str) -> Path | None:
    """The folder of graphs by which a model runs without torch on a device as a user names it: the model itself, where it is an
    export, or on a processor the one that `avsr export` keeps of it. None where there is none."""
    folder = folder_of(name)
    if folder is not None and read_json(folder / "model.json").get("network") == KIND:
        return folder
    kept = find_export(str(name), folder) if device in ("auto", "cpu") else None
    return None if kept is None or (device == "auto" and has_gpu()) else kept


def shipped() -> list[str]:
    """The names of the models that come with the program."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/model.json"))


def may_use_video(name: str | Path) -> bool:
    """Whether a model may have a trained video encoder: one that is shipped or kept, a folder of ours; no published Whisper."""
    name = str(name)
    return name in shipped() or (name != "" and (os.path.exists(Path(name) / "model.json") or kept_folder(name) is not None))


def _load_by_name(name: str, with_video: bool, progress: Progress) -> Checkpoint:
    from avsr.fetch.hub import hub_source
    from avsr.fetch.models import MODELS
    from avsr.importers.whisper import SIZES

    size = "large-v3-turbo" if name == "turbo" else "large-v3" if name == "large" else name
    missing = None
    if size in PACKAGED:
        try:
            return load_packaged(size, with_video, progress)
        except assets.MissingAsset as error:
            missing = error
    if name in MODELS or (name.count("/") >= 1 and ":" in name and hub_source(name) is not None):
        raise BadCheckpoint(f"{name}: not fetched yet.  Run avsr fetch {name} --accept-licence.")
    if size not in SIZES and size.count("/") != 1:
        names = (*shipped(), *SIZES)
        nearest = get_close_matches(name, names, 1)
        hint = f"Did you mean {nearest[0]}?" if nearest else f"Known: {', '.join(names)}, a folder, or owner/model of the hub."
        raise BadCheckpoint(f"{name if name.isprintable() else quote(name)}: no such model or folder.  {hint}")
    try:
        folder = fetch_whisper(f"openai/whisper-{size}" if size in SIZES else size, progress)
    except AvsrError as error:
        if missing is not None:
            raise missing from error
        raise
    return load_whisper(folder, name, with_video)


def save(checkpoint: Checkpoint, folder: str | Path, *, half: bool = True, remedy: str = "Choose another folder.") -> Path:
    """Write a model folder; `half` stores the weights as float16. If it is interrupted, the folder holds the whole older or
    the whole new model: model.json is renamed into place first, and its sha256 identify the other files.

    Raises BadOutput, whose message ends with `remedy`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = Path(folder)
    tensors, parts = checkpoint.model.state_dict(), PARTS
    if checkpoint.base is not None:
        base = load(checkpoint.base, lips=may_use_video(checkpoint.base))      # a Whisper has no video encoder to share
        theirs = base.model.state_dict()
        tensors = {name: tensor for name, tensor in tensors.items()
                   if name not in theirs or tensor.shape != theirs[name].shape or not tensor.cpu().float().equal(theirs[name])}
        parts = PARTS[:1] if base.tokenizer.sha256 == checkpoint.tokenizer.sha256 else PARTS
    state = {name: (tensor.half() if half and tensor.is_floating_point() else tensor).contiguous().cpu()
             for name, tensor in tensors.items()}
    new = {name: temporary(folder, name) for name in (*parts, "model.json")}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = checkpoint.tokenizer.path.read_bytes()
        finish_save(folder)
        save_file(state, new[WEIGHTS])
        if TOKENIZER in parts:
            new[TOKENIZER].write_bytes(tokenizer)
        description = describe(checkpoint, {name: sha256_of(new[name]) for name in parts})
        new["model.json"].write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        shutil.copymode(new["model.json"], new[WEIGHTS])         # safetensors makes it readable for its owner alone
        os.replace(new["model.json"], folder / "model.json")
    except (OSError, SafetensorError) as error:
        for path in new.values():
            with suppress(OSError):
                path.unlink()
        raise BadOutput(f"{folder}: the model cannot be written ({reason_of(error)}).  {remedy}") from error
    with suppress(OSError):                                 # `load` finds them under both names
        for name in parts:
            os.replace(new[name], folder / name)
    return folder
