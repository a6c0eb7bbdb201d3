"""Models that `avsr export` wrote: a folder of graphs, read without torch; and the exports that a processor uses by itself.

    folder: model.json, NAME.onnx, weights.bin, tokenizer.json -> Checkpoint with an OnnxModel
    model's name -> exported_folder -> a folder in the cache, if it was made from the very model that has that name now
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from avsr.assets import cache_folder
from avsr.checkpoint.description import COPY, Checkpoint, Description, read_mouth_crop
from avsr.checkpoint.folder import TOKENIZER, sha256_of
from avsr.errors import AvsrError, BadCheckpoint
from avsr.models.onnx import OnnxDims, OnnxModel
from avsr.names import file_name
from avsr.schema import InvalidValue, OneOf, read_json, validate_table
from avsr.text import open_tokenizer

if TYPE_CHECKING:
    from avsr.models.avsr import AVSR

KIND = "onnx"                                               # of the network, in model.json
WEIGHTS_FILE, GRAPH = "weights.bin", "{}.onnx"
AGAIN = "Run avsr export again."


@dataclass(frozen=True)
class OnnxFacts:
    """What model.json says of an export beyond what it says of every model."""

    modalities: tuple[Annotated[str, OneOf(("a", "v", "av"))], ...]
    estimates_reliability: bool
    int8: bool
    source: dict[str, Any]


def load_exported(folder: Path, about: Description, *, with_video: bool) -> Checkpoint:
    """The model in a folder that `avsr export` wrote. Every file is compared with its sha256 when it is first used. Raises
    BadCheckpoint."""
    try:
        dims = OnnxDims(**validate_table(OnnxDims, about.dims, "dims."))
        facts = OnnxFacts(**validate_table(OnnxFacts, about.onnx, "onnx."))
    except (InvalidValue, TypeError) as error:
        raise BadCheckpoint(f"{folder / 'model.json'}: {error}.  {COPY}") from error
    checked = _Checked(folder, about.sha256)
    tokenizer = open_tokenizer(checked.path(TOKENIZER))
    if tokenizer.n_tokens > dims.n_vocab:
        raise BadCheckpoint(f"{folder}: its tokenizer has {tokenizer.n_tokens} tokens, and its network {dims.n_vocab}.  {COPY}")
    if any(layer >= dims.n_decoder_layers or head >= dims.n_heads for layer, head in about.alignment_heads):
        raise BadCheckpoint(f"{folder}: its alignment heads are not all among the {dims.n_decoder_layers} layers of "
                            f"{dims.n_heads} heads of its network.  {COPY}")
    model = OnnxModel(dims, facts.modalities, checked.graph, pads=about.pad_seconds is not None,
                      estimates_reliability=facts.estimates_reliability)
    values: dict[str, Any] = about.facts() | {"video_trained": about.video_trained and with_video}
    network = cast("AVSR", model if with_video else model.without_video())
    return Checkpoint(model=network, tokenizer=tokenizer, mouth_crop=read_mouth_crop(about, folder), **values)


class _Checked:
    """The files of an export, each compared with its sha256 once."""

    def __init__(self, folder: Path, sha256: dict[str, str]):
        self.folder, self.sha256, self._good = folder, sha256, set[str]()

    def path(self, name: str) -> Path:
        """A file that is as model.json says. Raises BadCheckpoint."""
        path = self.folder / name
        if name not in self._good:
            if not path.is_file():
                raise BadCheckpoint(f"{path}: this file of the export is missing.  {AGAIN}")
            if sha256_of(path) != self.sha256.get(name):
                raise BadCheckpoint(f"{path}: this file of the export was altered, its sha256 is not the one that model.json "
                                    f"names.  {AGAIN}")
            self._good.add(name)
        return path

    def graph(self, name: str) -> Path:
        """The file of a graph, whose weights are checked as well."""
        self.path(WEIGHTS_FILE)
        return self.path(GRAPH.format(name))


def kept_export(name: str) -> Path:
    """Where `avsr export NAME` keeps the export of a model with a name, for the commands to find."""
    return cache_folder() / "onnx" / file_name(name)


def identity(folder: Path | None) -> dict[str, Any]:
    """By what an export knows the model that it was made from: the sha256 that its model.json names; for a published Whisper,
    which has no folder of ours, nothing, as those never change."""
    return {} if folder is None else {"sha256": read_json(folder / "model.json").get("sha256")}


def find_export(name: str, source: Path | None) -> Path | None:
    """The kept export of a model, if there is one that was made from what the name stands for now. source: the folder that it
    stands for, None for a published Whisper."""
    folder = kept_export(name)
    try:
        about = read_json(folder / "model.json")
        facts = about.get("onnx")
        same = isinstance(facts, dict) and facts.get("source") == identity(source)
    except (AvsrError, OSError):
        return None
    return folder if same else None


def has_gpu() -> bool:
    """Whether this machine has a CUDA device, asked of its driver: to ask torch would load torch."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
        count = ctypes.c_int()
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return False
