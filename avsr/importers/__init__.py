"""Published checkpoints into our own: whose file it is, every size from its shapes, its weights under our names.

    file + tokenizer -> Family (one file of this folder each) -> HybridAVSR -> checkpoint folder, ready for --model
What is left over, missing or of another shape is refused by name. The next family is one more file, listed in FAMILIES.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Set
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from avsr.checkpoint import Checkpoint, save
from avsr.errors import BadCheckpoint
from avsr.importers import auto_avsr
from avsr.importers.family import Converted, Family, Known
from avsr.importers.reading import listed, read_weights
from avsr.importers.sentencepiece import convert_tokenizer, find_tokenizer
from avsr.lips import MOUTH_CROPS
from avsr.models.blocks import TooLarge, outline
from avsr.models.hybrid import HybridAVSR, HybridDims
from avsr.output import locked
from avsr.rates import MOUTH_INPUT, SAMPLES_PER_FRAME
from avsr.runtime import Progress, no_progress

__all__ = ["FAMILIES", "Family", "Imported", "Known", "import_checkpoint"]

FAMILIES: tuple[Family, ...] = (auto_avsr.FAMILY,)
BLOCK = 1 << 24                                             # bytes hashed between two signs of progress
LARGEST_HALF = torch.finfo(torch.float16).max
NEWER = "data/README.md lists the files that this version knows: name one of them, or install a newer avsr."


@dataclass(frozen=True)
class Imported:
    """What an import has made. known: the published file that this is, None where its MD5 is none of those listed."""

    folder: Path
    family: Family
    dims: HybridDims
    modality: str
    n_parameters: int
    known: Known | None


def import_checkpoint(path: Path | str, output: Path | str, *, tokenizer: Path | str | None = None, half: bool = False,
                      progress: Progress = no_progress) -> Imported:
    """Write the model in a published file as a folder of ours; a model that is there already is replaced.

    tokenizer: the folder, or one of the files, of its SentencePiece model; None looks beside the weights. half: store
    float16, half the size. Raises BadCheckpoint, or BadOutput where it cannot be written.
    """
    path, output = Path(path), Path(output)
    weights = read_weights(path)
    family = _family(weights.keys(), path)
    network = _build(family, weights, path)
    units, model = find_tokenizer(None if tokenizer is None else Path(tokenizer), path, family.tokenizer)
    (modality,) = network.modalities
    with tempfile.TemporaryDirectory() as folder:
        pieces = convert_tokenizer(units, model, network.dims.n_vocab, Path(folder) / "tokenizer.json")
        _check_numbers(network, path, half=half)
        md5 = _md5(path, progress)
        known = next((one for one in family.known if md5.startswith(one.md5)), None)
        about = {"family": family.name, "file": path.name, "md5": md5, "published": known and asdict(known),
                 "licence": family.licence}
        progress("writing the model", 0, None, None)
        model = Checkpoint(output.resolve().name, network, pieces, mouth_crop=MOUTH_CROPS[family.mouth_crop],
                           video_trained="v" in modality, pad_seconds=None, search=family.search, training=about)
        with locked(output, "avsr import"):
            made = save(model, output, half=half)
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    return Imported(made, family, network.dims, modality, n_parameters, known)


def _family(names: Set[str], path: Path) -> Family:
    for family in FAMILIES:
        if family.recognises(names):
            return family
    for family in FAMILIES:
        if part := family.part(names):
            raise BadCheckpoint(f"{path}: {part} (of {family.name}).  Name a whole model's file.")
    raise BadCheckpoint(f"{path}: {len(names)} weights of no family that is known, such as {listed(sorted(names))}.  Known: "
                        f"{', '.join(family.name for family in FAMILIES)}; data/README.md lists their files.")


def _build(family: Family, weights: dict[str, Tensor], path: Path) -> HybridAVSR:
    """The network with the file's own tensors in it. Raises BadCheckpoint for whatever does not fit."""
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
    found.weights.clear()                                   # or half precision would stay beside what it becomes
    return network.float().eval().requires_grad_(False)


def _check_fit(found: Converted, network: HybridAVSR, what: str) -> None:
    """Every weight has its place, and every place its weight. Raises BadCheckpoint."""
    wanted = network.state_dict()
    # A batch norm's count of batches says nothing once it has learnt; files of old torch versions have none.
    for name in [name for name in wanted if name.endswith(".num_batches_tracked")]:
        found.weights[name] = torch.zeros((), dtype=torch.long)
    if odd := found.left_over + [found.theirs[name] for name in found.weights if name not in wanted]:
        raise BadCheckpoint(f"{what} {len(odd)} of its weights have no place in our network: {listed(odd)}.  {NEWER}")
    if missing := [name for name in wanted if name not in found.weights]:
        raise BadCheckpoint(f"{what} {len(missing)} weights are not there, which ours calls {listed(missing)}.  {NEWER}")
    misfits = [f"{theirs} ({_looks(found.weights[name])} where {_looks(wanted[name])} is due)"
               for name, theirs in found.theirs.items() if _looks(found.weights[name]) != _looks(wanted[name])]
    if misfits:
        raise BadCheckpoint(f"{what} {len(misfits)} of its weights do not fit the others: {listed(misfits)}.  {NEWER}")


def _looks(tensor: Tensor) -> str:
    """What must agree: the shape, and whether the numbers have fractions."""
    shape = " x ".join(str(size) for size in tensor.shape)
    return shape if tensor.is_floating_point() else f"{shape} whole numbers"


@torch.inference_mode()
def _check_numbers(network: HybridAVSR, path: Path, *, half: bool) -> None:
    """All of them are numbers that can be stored, and numbers come out of it. Raises BadCheckpoint."""
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


def _md5(path: Path, progress: Progress) -> str:
    """By which the authors' lists tell files of one name apart."""
    digest, total = hashlib.md5(usedforsecurity=False), path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            progress("reading the checkpoint", file.tell(), total, "bytes")
    return digest.hexdigest()
