"""Import a published file (see importers/) as a model folder of ours."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from avsr.checkpoint import Checkpoint, save
from avsr.download import checksum_of
from avsr.importers import Family, Known, check_numbers, read_network
from avsr.importers.sentencepiece import convert_tokenizer, find_tokenizer
from avsr.lips import MOUTH_CROPS
from avsr.models.hybrid import HybridDims
from avsr.output import locked
from avsr.runtime import Progress, no_progress


@dataclass(frozen=True)
class Imported:
    """The result of an import. known: the published file that this is, None where its MD5 is not listed."""

    folder: Path
    family: Family
    dims: HybridDims
    modality: str
    n_parameters: int
    known: Known | None


def import_checkpoint(path: Path | str, output: Path | str, *, tokenizer: Path | str | None = None, half: bool = False,
                      progress: Progress = no_progress) -> Imported:
    """Write the model in a published file as a folder of ours, in place of what is there.

    tokenizer: the folder, or one of the files, of its SentencePiece model; None looks beside the weights. half: store float16.
    Raises BadCheckpoint, or BadOutput where it cannot be written.
    """
    path, output = Path(path), Path(output)
    family, network = read_network(path)
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


def _md5(path: Path, progress: Progress) -> str:
    """The MD5, by which the authors' lists tell files of one name apart."""
    total = path.stat().st_size
    found = checksum_of(path, "md5", report=lambda done: progress("reading the checkpoint", done, total, "bytes"))
    return found.removeprefix("md5:")
