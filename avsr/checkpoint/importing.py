"""Import a published file (see importers/) as a model folder of ours."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from avsr.checkpoint import Checkpoint, save
from avsr.download import checksum_of
from avsr.errors import AvsrError
from avsr.importers import Family, Known, check_numbers, lr_asd, network_of
from avsr.importers.reading import read_weights
from avsr.importers.sentencepiece import convert_tokenizer, find_tokenizer
from avsr.lips import MOUTH_CROPS
from avsr.models.hybrid import HybridDims
from avsr.output import locked, write_files
from avsr.runtime import Progress, no_progress
from avsr.speakers.lr_asd import DESCRIPTION, FACE_CROP, WEIGHTS


@dataclass(frozen=True)
class Imported:
    """The result of an import. known: the published file that this is, None where its MD5 is not listed."""

    folder: Path
    family: Family
    dims: HybridDims
    modality: str
    n_parameters: int
    known: Known | None


@dataclass(frozen=True)
class ImportedDetector:
    """The result of importing a network that tells who speaks. published: whether it is LR-ASD's own file, by its sha256."""

    folder: Path
    licence: str
    n_parameters: int
    published: bool


def import_checkpoint(path: Path | str, output: Path | str, *, tokenizer: Path | str | None = None, half: bool = False,
                      progress: Progress = no_progress) -> Imported | ImportedDetector:
    """Write the model in a published file as a folder of ours, in place of what is there.

    tokenizer: the folder, or one of the files, of its SentencePiece model; None looks beside the weights. half: store float16.
    Neither has a meaning for LR-ASD, which tells who speaks. Raises AvsrError, BadCheckpoint, or BadOutput where it cannot be
    written.
    """
    path, output = Path(path), Path(output)
    weights = read_weights(path)
    if lr_asd.recognises(weights.keys()):
        if half or tokenizer is not None:
            raise AvsrError(f"{path}: LR-ASD, which writes no text and is 3 MB.  Leave out --tokenizer and --half.")
        return _import_detector(path, weights, output)
    family, network = network_of(weights, path)
    units, model = find_tokenizer(None if tokenizer is None else Path(tokenizer), path, family.tokenizer)
    (modality,) = network.modalities
    with tempfile.TemporaryDirectory() as folder:
        pieces = convert_tokenizer(units, model, network.dims.n_vocab, Path(folder) / "tokenizer.json")
        check_numbers(network, path, half=half)
        md5 = _md5(path, progress)
        known = next((one for one in family.known if md5.startswith(one.md5)), None)
        about = {"family": family.name, "file": path.name, "md5": md5, "published": known and asdict(known),
                 "licence": family.licence}
        progress("writing the model", 0, None, None)
        checkpoint = Checkpoint(output.resolve().name, network, pieces, mouth_crop=MOUTH_CROPS[family.mouth_crop],
                                video_trained="v" in modality, pad_seconds=None, search=family.search, training=about)
        with locked(output, "avsr import"):
            made = save(checkpoint, output, half=half)
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    return Imported(made, family, network.dims, modality, n_parameters, known)


def _import_detector(path: Path, weights: dict[str, Tensor], output: Path) -> ImportedDetector:
    from safetensors.torch import save

    network = lr_asd.convert(weights, path)
    sha256 = checksum_of(path, "sha256").removeprefix("sha256:")
    stored = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    about = {"network": lr_asd.NAME, "mouth_crop": FACE_CROP.to_dict(), "sha256": {WEIGHTS: hashlib.sha256(stored).hexdigest()},
             "training": {"family": lr_asd.NAME, "file": path.name, "sha256": sha256, "published": sha256 == lr_asd.SHA256,
                          "licence": lr_asd.LICENCE}}
    with locked(output, "avsr import"):
        write_files({output / DESCRIPTION: json.dumps(about, indent=1) + "\n", output / WEIGHTS: stored},
                    lambda reason: f"{output}: the model cannot be written ({reason}).  Choose another folder.")
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    return ImportedDetector(output, lr_asd.LICENCE, n_parameters, sha256 == lr_asd.SHA256)


def _md5(path: Path, progress: Progress) -> str:
    """The MD5, by which the authors' lists tell files of one name apart."""
    total = path.stat().st_size
    found = checksum_of(path, "md5", report=lambda done: progress("reading the checkpoint", done, total, "bytes"))
    return found.removeprefix("md5:")
