"""Initialises the network to be trained: at random, or with parts of other models.

    Config -> Checkpoint with a network to train, and its tokenizer
"""

from __future__ import annotations

import math
import os
import subprocess
from dataclasses import asdict, fields, replace
from fnmatch import fnmatch
from pathlib import Path

import torch

from avsr import cache, checkpoint
from avsr.checkpoint import Checkpoint
from avsr.checkpoint.old_names import current_tensor
from avsr.config import Config
from avsr.errors import BadCheckpoint, BadConfig
from avsr.importers.whisper import is_whisper_weight
from avsr.lips import MOUTH_CROPS
from avsr.lm.config import LMConfig
from avsr.models.avsr import AVSR, Dims
from avsr.models.blocks import TooLarge, outline
from avsr.output import whole_file
from avsr.runtime import Progress, memory_bytes, no_progress
from avsr.schema import InvalidValue, validate_table
from avsr.text import CTC_LETTERS, NORMALISER, Tokenizer, write_characters
from avsr.train.imagenet import image_weights, is_image_network, load_image_weights

TRAINING_BYTES = 16                                         # per weight: itself, its gradient, and two means of the optimiser
AUDIO_ENCODER = ("audio.",)
VIDEO_ENCODER = ("video.frontend.", "video.project.", "video.blocks.")      # the parts that do not depend on Dims.width


def initialise(config: Config, folder: Path, *, progress: Progress = no_progress) -> Checkpoint:
    """The network before the first step. Raises BadConfig or BadCheckpoint.

    With `model.start` all weights whose names and shapes fit are taken over, and no part of Whisper may be new. Without it the
    weights are random, and the tokens are letters.
    """
    torch.manual_seed(config.train.seed)
    if config.model.start is None:
        tokenizer = _letters(folder / "tokenizer.json")
        dims = _dims(config, Dims(n_vocab=tokenizer.no_timestamps + 1, n_context=256, video_frontend="compact"))
        model = AVSR(dims)
        start = Checkpoint(config.name, model, tokenizer, pad_seconds=None)
        torch.nn.init.normal_(model.decoder.embedding.weight, std=dims.width ** -0.5)           # logits share it: near 1
    else:
        model, start = _taken_over(config.model.start, config, progress)
    if config.model.audio_encoder_from is not None:
        source = config.model.audio_encoder_from
        _take(source, "audio encoder", AUDIO_ENCODER, model, config, progress)
        start = replace(start, base=source if _is_published(source, config) else None)
    if (source := config.model.video_encoder_from) is not None:
        if is_image_network(source):
            _start_from_images(source, model, config, progress)
        else:
            start = replace(start, mouth_crop=_take(source, "video encoder", VIDEO_ENCODER, model, config, progress).mouth_crop)
    if config.model.gates:
        for name, parameter in model.named_parameters():
            if name.endswith("_gate") and parameter.item() == 0:
                torch.nn.init.constant_(parameter, math.atanh(config.model.gates))
    model.float().requires_grad_(True)
    return start


def with_mouth_crop_of(prepared: Path, start: Checkpoint, config: Config) -> Checkpoint:
    """The model before the first step, with the mouth crop of the data where its video encoder is new: one of lips.MOUTH_CROPS.

    prepared: the first manifest. A video encoder that is taken over knows mouths only as they were cut out for it.
    """
    source = config.model.video_encoder_from
    if start.video_trained or not (source is None or is_image_network(source)):
        return start
    found = cache.read_mouth_crop(prepared.parent)
    return replace(start, mouth_crop=found) if found in MOUTH_CROPS.values() else start


def _letters(path: Path) -> Tokenizer:
    """The tokenizer of letters. Under torchrun every process writes it while others read it, so it is renamed into place."""
    with whole_file(path) as part:
        write_characters(part)
    return Tokenizer(path)


def model_path(name: str, config: Config | LMConfig) -> str | Path:
    """A model's folder, relative to the config's, or the name itself where there is no such folder."""
    folder = config.path(name)
    return folder if name and os.path.isdir(folder) else name    # isdir is False for a name that is too long for a path


def _taken_over(name: str, config: Config, progress: Progress) -> tuple[AVSR, Checkpoint]:
    base = checkpoint.load(model_path(name, config), progress=progress, exports=False)
    if not isinstance(base.model, AVSR):
        raise BadConfig(f"{config.name}: model.start {name} is an imported network, which cannot be trained "
                        "further.  Take over its video encoder with model.video_encoder_from.")
    given = asdict(base.model.dims)
    if not base.video_trained:                              # a Whisper: its video encoder is new, of the config's kind
        given |= {"video_frontend": "compact", "video_width": 256, "n_ctc": 29}
    dims = _dims(config, Dims(**given))
    model = AVSR(dims)
    known, wanted = base.model.state_dict(), model.state_dict()
    fitting = {name: tensor for name, tensor in known.items() if name in wanted and wanted[name].shape == tensor.shape}
    new = [name for name in wanted if name not in fitting and is_whisper_weight(name)]
    if new:
        raise BadCheckpoint(f"{name}: {len(new)} of its weights do not fit the config's dims, {new[0]} for one.  "
                            "Remove the dims that differ from [model.dims].")
    model.load_state_dict(fitting, strict=False)
    untouched = all(rate(config, name) == 0 for name, _ in model.named_parameters() if is_whisper_weight(name))
    # The model whose audio parts need not be stored again.
    origin = name if _is_published(name, config) else base.base
    return model, replace(base, name=config.name, model=model, base=origin if untouched else None)


def _is_published(name: str, config: Config) -> bool:
    """Whether a model is a published Whisper by its name, and no folder."""
    return not config.path(name).is_dir() and not checkpoint.may_use_video(name)


def rate(config: Config, name: str) -> float:
    """The factor on the learning rate of a weight; 0: frozen. Patterns may hold names of former versions."""
    return next((factor for pattern, factor in config.train.rates.items() if fnmatch(name, current_tensor(pattern))), 1.0)


def _take(name: str, what: str, parts: tuple[str, ...], model: AVSR, config: Config, progress: Progress) -> Checkpoint:
    """Take over the weights of another model whose names start with one of `parts`; returns that model."""
    source = checkpoint.load(model_path(name, config), progress=progress, exports=False)
    other = source.model.state_dict()
    wanted = {key: tensor for key, tensor in model.state_dict().items() if key.startswith(parts)}
    if misfit := [key for key, tensor in wanted.items() if key not in other or other[key].shape != tensor.shape]:
        raise BadCheckpoint(f"{name}: its {what} does not fit this model's in {misfit[0]} and {len(misfit) - 1} more.  Give "
                            f"both the same dims of the {what}.")
    model.load_state_dict({key: other[key] for key in wanted}, strict=False)
    return source


def _start_from_images(source: str, model: AVSR, config: Config, progress: Progress) -> None:
    """Initialise the frontend of `model` from a network for pictures. Raises BadConfig where it is of another kind."""
    if model.dims.video_frontend != "resnet18":
        raise BadConfig(f"{config.name}: model.video_encoder_from {source} is a ResNet-18, but the "
                        f"frontend is {model.dims.video_frontend}.  Set model.dims.video_frontend = \"resnet18\", or take out "
                        "model.video_encoder_from.")
    load_image_weights(*image_weights(source, config.folder, progress=progress), model.video.frontend)


def _dims(config: Config, default: Dims) -> Dims:
    known, given = {f.name for f in fields(Dims)}, config.model.dims
    if unknown := sorted(given.keys() - known):
        raise BadConfig(f"{config.name}: model.dims.{unknown[0]} is not a dimension.  Known are {', '.join(sorted(known))}.")
    memory = memory_bytes()
    try:
        dims = replace(default, **validate_table(Dims, given, "model.dims."))
        outline(AVSR, dims, most=2**60 if memory is None else memory // TRAINING_BYTES)
    except InvalidValue as error:
        raise BadConfig(f"{config.name}: {error}.  Remove it to use the default.") from error
    except ValueError as error:                             # the sizes do not go together
        raise BadConfig(f"{config.name}: {error}.  Change model.dims: heads must divide the widths, which "
                        "are even, and there are no more fusion layers than audio layers.") from error
    except TooLarge as error:
        raise BadConfig(f"{config.name}: a network of these model.dims takes more memory to train than this machine has "
                        f"({(memory or 0) / 1e9:.0f} GB).  Make model.dims smaller.") from error
    if dims.n_ctc not in (0, len(CTC_LETTERS) + 1):
        raise BadConfig(f"{config.name}: model.dims.n_ctc is {dims.n_ctc}, but CTC spells {len(CTC_LETTERS)} letters.  Set "
                        f"{len(CTC_LETTERS) + 1}, or 0 for none.")
    if dims.n_vocab < default.n_vocab:
        raise BadConfig(f"{config.name}: model.dims.n_vocab is {dims.n_vocab}, and the tokenizer has {default.n_vocab} "
                        "tokens.  Leave n_vocab out.")
    return dims


def training_facts(config: Config, step: int, scores: dict[str, float], hours_of_data: float) -> dict:
    """The facts of the training for readers of model.json."""
    return {"name": config.name, "start": config.model.start, "data": [Path(name).as_posix() for name in config.data.train],
            "hours_of_data": round(hours_of_data, 3), "step": step, "valid_wer": scores, "normaliser": NORMALISER,
            "commit": commit(), "torch": torch.__version__.partition("+")[0]}


def commit() -> str | None:
    """The commit of this code, where it is in a clone."""
    try:
        out = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True,
                             check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.strip()


def to_save(start: Checkpoint, config: Config, training: dict) -> Checkpoint:
    """The checkpoint to be saved, which says whether its video encoder was trained."""
    trained = "v" in start.model.modalities and (config.data.p_audio < 1 or start.video_trained)
    return replace(start, name=config.name, video_trained=trained, training=training)
