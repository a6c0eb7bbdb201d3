"""`export`: a model as a folder of graphs, which every command runs without torch."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from avsr.checkpoint import Checkpoint
from avsr.checkpoint.description import describe
from avsr.checkpoint.exported import GRAPH, KIND, WEIGHTS_FILE
from avsr.checkpoint.folder import TOKENIZER, sha256_of
from avsr.errors import AvsrError, BadCheckpoint, BadOutput, listed
from avsr.models.hybrid import HybridAVSR
from avsr.models.onnx import OnnxDims, OnnxModel
from avsr.output import reason_of
from avsr.rates import MEMORY_RATE, SAMPLE_RATE
from avsr.runtime import Progress, no_progress
from avsr.schema import read_json

PACKAGES = ("onnx", "onnxscript")


@dataclass(frozen=True)
class Exported:
    """What was written. folder: the model's; n_bytes: of all its files; graphs: their names."""

    folder: Path
    n_bytes: int
    graphs: tuple[str, ...]


def export(checkpoint: Checkpoint, folder: str | Path, *, int8: bool = False, source: dict | None = None,
           progress: Progress = no_progress) -> Exported:
    """Write a model of torch as graphs of ONNX into `folder`, which is then a model for `--model`.

    int8: store the weights of most matrix products in 8 bits, which makes the files a third smaller and is faster on a
    processor. source: what the model was made from, see checkpoint.exported.identity. It takes about three minutes of one
    core. An export that is interrupted leaves what the folder held. Raises AvsrError where a package is missing,
    BadCheckpoint with the part of the network that cannot be exported, BadOutput where the folder cannot be written or
    holds anything but an export.
    """
    check(checkpoint)
    folder = Path(folder)
    made, old = (folder.with_name(f".{folder.name}-{secrets.token_hex(6)}") for _ in range(2))
    try:
        _check_replaceable(folder)
        made.mkdir(parents=True)
        graphs = _write(checkpoint, made, int8, source or {}, progress)
        if folder.exists():
            os.replace(folder, old)
        os.replace(made, folder)
    except OSError as error:
        raise BadOutput(f"{folder}: the export cannot be written ({reason_of(error)}).  Make room, or choose another folder "
                        "with --output-dir.") from error
    finally:
        if old.exists() and not folder.exists():             # interrupted between the two renames
            os.replace(old, folder)
        for unneeded in (made, old):
            shutil.rmtree(unneeded, ignore_errors=True)
    return Exported(folder, sum(path.stat().st_size for path in folder.iterdir()), graphs)


def _check_replaceable(folder: Path) -> None:
    """Raises BadOutput where a folder, which will be replaced, holds anything but an export."""
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    try:
        about = read_json(folder / "model.json") if "model.json" in there else {}
    except BadCheckpoint:                                    # then it is nobody's export, and stays
        about = {}
    files = about.get("sha256") if about.get("network") == KIND else None
    ours = {"model.json", *files} if isinstance(files, dict) else set()
    if others := sorted(there - ours):
        raise BadOutput(f"{folder}: holds {listed(others)}, which is no part of an export, and the folder would be replaced.  "
                        "Choose another with --output-dir.")


def check(checkpoint: Checkpoint) -> None:
    """Raises AvsrError where a package is missing, BadCheckpoint for a model that cannot be exported."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise AvsrError(f"avsr export: the package {' and '.join(missing)} is not installed.  Run pip install 'avsr[export]'; "
                        "the exported model needs it no more.")
    model, name = checkpoint.model, checkpoint.name
    if isinstance(model, OnnxModel):
        raise BadCheckpoint(f"{name}: is exported already.  Export the model that it was made from.")
    if model.joint_ctc:
        raise BadCheckpoint(f"{name}: its search adds CTC's scores of the decoder's tokens, which only torch computes here, so "
                            "it cannot be exported.  Use it by its own folder.")
    if model.ctc_only:
        raise BadCheckpoint(f"{name}: it has no decoder, and the search by CTC alone needs torch, so it cannot be exported.  "
                            "Use it by its own folder.")


def _write(checkpoint: Checkpoint, folder: Path, int8: bool, source: dict, progress: Progress) -> tuple[str, ...]:
    from avsr.export.files import SharedWeights, quantised, traced
    from avsr.export.graphs import GraphMaker

    model = checkpoint.model
    assert not isinstance(model, HybridAVSR), "see check"
    maker = GraphMaker(model, pads=checkpoint.pad_seconds is not None)
    names = []
    with (folder / WEIGHTS_FILE).open("wb") as file:
        weights = SharedWeights(file, WEIGHTS_FILE)
        graphs = list(maker.graphs())
        for done, graph in enumerate(graphs):
            progress("exporting", done, len(graphs), "files")
            proto = traced(graph, checkpoint.name)
            if int8:
                proto = quantised(proto)
            weights.move(proto)
            (folder / GRAPH.format(graph.name)).write_bytes(proto.SerializeToString())
            names.append(graph.name)
        progress("exporting", len(graphs), len(graphs), "files")
    (folder / TOKENIZER).write_bytes(checkpoint.tokenizer.path.read_bytes())
    sha256 = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    (folder / "model.json").write_text(_describe(checkpoint, sha256, int8, source), encoding="utf-8")
    return tuple(names)


def _describe(checkpoint: Checkpoint, sha256: dict[str, str], int8: bool, source: dict) -> str:
    dims = checkpoint.model.dims
    assert dims.n_context is not None, "only hybrid networks have no limit, see check"
    samples = 2 if dims.n_mels else SAMPLE_RATE // MEMORY_RATE
    sizes = OnnxDims(dims.width, dims.n_heads, dims.n_mels, dims.n_decoder_layers, dims.n_vocab, dims.n_context, samples)
    about = describe(checkpoint, sha256) | {"network": KIND, "dims": asdict(sizes), "base": None, "onnx": {
        "modalities": list(checkpoint.model.modalities), "estimates_reliability": checkpoint.model.reliability is not None,
        "int8": int8, "source": source}}
    return json.dumps(about, indent=1, ensure_ascii=False) + "\n"

