"""Published Whisper weights of any size as an `AVSR`, from Hugging Face's safetensors or CTranslate2's model.bin.

    folder or file -> Dims, tensors under our names, and Whisper's generation settings
Weights that are left over or missing are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from torch import Tensor, nn

from avsr.errors import BadCheckpoint, quote
from avsr.importers.ctranslate2 import floats, is_setting, n_floats, read_ctranslate2
from avsr.models.avsr import AVSR, Dims, without_video
from avsr.models.blocks import TooLarge, outline
from avsr.schema import Between, InvalidValue, read_json, validate, validate_table
from avsr.tensorfiles import Stored, check_finite, check_memory, misfit, n_numbers, read_header, read_safetensors, stored

T = TypeVar("T")

SIZES = ("tiny.en", "tiny", "base.en", "base", "small.en", "small", "medium.en", "medium",
         "large-v1", "large-v2", "large-v3", "large-v3-turbo")

# (ours, Hugging Face's, CTranslate2's) within a block; both encoders' blocks and the decoder's use these.
_SHARED = [
    ("attention_norm", "self_attn_layer_norm", "self_attention/layer_norm"),
    ("feed_norm", "final_layer_norm", "ffn/layer_norm"),
    ("feed.0", "fc1", "ffn/linear_0"),
    ("feed.2", "fc2", "ffn/linear_1"),
    ("attention.out", "self_attn.out_proj", "self_attention/linear_1"),
]
_DECODER_ONLY = [
    ("audio_norm", "encoder_attn_layer_norm", "attention/layer_norm"),
    ("audio.query", "encoder_attn.q_proj", "attention/linear_0"),
    ("audio.out", "encoder_attn.out_proj", "attention/linear_2"),
]
_OUTSIDE = [
    ("audio.conv1", "encoder.conv1", "encoder/conv1"),
    ("audio.conv2", "encoder.conv2", "encoder/conv2"),
    ("audio.norm", "encoder.layer_norm", "encoder/layer_norm"),
    ("decoder.embedding", "decoder.embed_tokens", "decoder/embeddings"),
    ("decoder.norm", "decoder.layer_norm", "decoder/layer_norm"),
]
# The fields of Hugging Face's config.json that are needed, and our Dims for them.
_CONFIG = {"d_model": "width", "decoder_attention_heads": "n_heads", "num_mel_bins": "n_mels",
           "encoder_layers": "n_audio_layers", "decoder_layers": "n_decoder_layers", "vocab_size": "n_vocab",
           "max_target_positions": "n_context"}
# CTranslate2's config.json has at least one of these.
_CT2_CONFIG = ("suppress_ids", "suppress_ids_begin", "alignment_heads", "lang_ids")
WEIGHT_INDEX = "model.safetensors.index.json"               # which of the shards holds which tensor
_PROJECTIONS = {"q": "query", "k": "key", "v": "value"}

Place = Annotated[int, Between(0, 2**10)]                   # of a layer, or of a head
Tokens = tuple[Annotated[int, Between(0, 2**20)], ...]
AttentionHeads = tuple[tuple[Place, Place], ...]


@dataclass(frozen=True)
class WhisperSettings:
    """The settings of `generation_config.json` that decoding needs. suppress: tokens that are never written; suppress_begin:
    not as the first; alignment_heads: (layer, head) of the decoder whose attention to the audio follows the words."""

    suppress: Tokens = ()
    suppress_begin: Tokens = ()
    alignment_heads: AttentionHeads = ()

    def misfit(self, dims: Dims) -> str | None:
        """In words, why these settings do not fit a network of these sizes; None where they fit."""
        if beyond := [token for token in (*self.suppress, *self.suppress_begin) if token >= dims.n_vocab]:
            return f"token {beyond[0]} is suppressed, of {dims.n_vocab}"
        for layer, head in self.alignment_heads:
            if layer >= dims.n_decoder_layers or head >= dims.n_heads:
                return (f"alignment head ({layer}, {head}) is named, counted from 0, of {dims.n_decoder_layers} layers with "
                        f"{dims.n_heads} heads each")
        return None


def build(dims: Dims, weights: Mapping[str, Tensor], *, source: str) -> AVSR:
    """As `_build`, from weights in memory."""
    return _build(dims, stored(weights), lambda: weights, source)


def _build(dims: Dims, found: Mapping[str, Stored], read: Callable[[], Mapping[str, Tensor]], source: str) -> AVSR:
    """An `AVSR` with Whisper's audio parts, read once their header fits; its video encoder, if any, is new. Raises
    BadCheckpoint, which names weights that are missing, left over or of another shape."""
    remedy, sound = "Fetch the model again, or name another with --model.", without_video(dims)
    try:
        model = outline(AVSR, sound, most=n_numbers(found) + (sound.width + 1) * sound.n_ctc)     # Whisper has no CTC head
    except TooLarge as error:
        raise BadCheckpoint(f"{source}: its weights are fewer than its sizes need: they hold {n_numbers(found)} numbers.  "
                            f"{remedy}") from error
    wanted = {name: tensor for name, tensor in model.state_dict().items() if is_whisper_weight(name)}
    if wrong := misfit(wanted, found):
        raise BadCheckpoint(f"{source}: {wrong}.  {remedy}")
    check_memory(n_numbers(found), source)
    weights, bare = read(), dims == sound and not dims.n_local
    model = model if bare else AVSR(dims)
    model.load_state_dict(weights, strict=False, assign=True)            # the video encoder keeps its initial weights
    if bare and dims.n_ctc:
        model.ctc["audio"] = nn.Linear(dims.width, dims.n_ctc)
    return model.eval()


def is_whisper_weight(name: str) -> bool:
    """Whether Whisper has a weight too, so that it is not of the video encoder, fusion, CTC or the reliability estimator."""
    added = ("video.", "fusion_layers.", "ctc.", "reliability.", "audio.local.")
    return not (name.startswith(added) or re.match(r"decoder\.blocks\.\d+\.video\.", name))


def load_folder(folder: Path, *, video_frontend: str | None = None) -> tuple[AVSR, WhisperSettings]:
    """A folder in Hugging Face's layout (config.json with model_type, *.safetensors, generation_config.json) or in
    CTranslate2's, which is faster-whisper's (config.json without model_type, model.bin).

    config.json decides where there are weights of both. Raises BadCheckpoint where the folder holds no Whisper.
    """
    path, model = folder / "config.json", folder / "model.bin"
    config, files = read_json(path), weight_files(folder)
    if is_ctranslate2(config) or (config.get("model_type") == "whisper" and not files and model.exists()):
        if not model.exists():
            raise BadCheckpoint(f"{path}: names no model_type, so it is CTranslate2's, but there is no model.bin beside it.  "
                                "Fetch the model again.")
        other = folder / "generation_config.json"
        about = path if is_ctranslate2(config) or not other.exists() else other
        network, settings = load_ctranslate2(model, about, video_frontend=video_frontend)
        check_finite(network.state_dict(), model)
        return network, settings
    check_kind(config, folder)
    if not files:
        raise BadCheckpoint(_without_weights(folder))
    return _load_hugging_face(folder, config, files, video_frontend)


def is_ctranslate2(config: dict) -> bool:
    """Whether a config.json is of CTranslate2's layout: Hugging Face's names the model's type."""
    return "model_type" not in config


def check_kind(config: dict, where: Path | str) -> None:
    """Raises BadCheckpoint where a config.json is not of a Whisper. `where`: its folder, or its name on the hub."""
    kind, remedy = config.get("model_type", "whisper"), f"Name a Whisper's folder, or one of {', '.join(SIZES)}."
    if kind != "whisper":
        raise BadCheckpoint(f"{where}: a model of type {quote(kind)}, not whisper.  {remedy}")
    if is_ctranslate2(config) and not config.keys() & set(_CT2_CONFIG):
        raise BadCheckpoint(f"{where}: its config.json names neither a model_type, as Hugging Face's do, nor any of "
                            f"{', '.join(_CT2_CONFIG)}, as CTranslate2's do for Whisper.  {remedy}")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder in Hugging Face's layout: one file, or the shards that an index or their names list."""
    whole, index = folder / "model.safetensors", folder / WEIGHT_INDEX
    if whole.exists():
        return [whole]
    if index.exists():
        return [folder / name for name in shards(index)]
    return sorted(folder.glob("model-*-of-*.safetensors"))


def shards(index: Path) -> list[str]:
    """The names of the files that a model.safetensors.index.json lists. Raises BadCheckpoint."""
    listed = read_json(index).get("weight_map")
    # Only names within the folder, with the ending: "" and ".." are folders.
    if not isinstance(listed, dict) or not all(isinstance(name, str) and name.isprintable() and Path(name).name == name
                                               and name.endswith(".safetensors") for name in listed.values()):
        raise BadCheckpoint(f"{index}: lists no files in its weight_map.  Fetch the model again.")
    return sorted(set(listed.values()))


def _without_weights(folder: Path) -> str:
    pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if pickled:
        return (f"{folder}: its weights are in {pickled[0]}, a pickle, which may run any code when it is opened.  "
                "If you trust it, load it with transformers and save it again with save_pretrained, which writes safetensors.")
    return f"{folder}: holds neither model.safetensors nor model.bin, so no weights.  Fetch the model again."


def _load_hugging_face(folder: Path, config: dict, files: list[Path],
                       video_frontend: str | None) -> tuple[AVSR, WhisperSettings]:
    found: dict[str, Stored] = {}
    for path in files:
        found |= rename_hugging_face(read_header(path))
    dims = _read_dims(config, folder / "config.json", video_frontend)

    def read() -> dict[str, Tensor]:
        weights: dict[str, Tensor] = {}
        for path in files:
            weights |= rename_hugging_face(read_safetensors(path))
        check_finite(weights, folder)
        return weights

    path = folder / "generation_config.json"
    settings = _settings(path if path.exists() else folder / "config.json")
    return _build(dims, found, read, str(folder)), settings


def _read_dims(config: dict[str, Any], path: Path, video_frontend: str | None) -> Dims:
    """The sizes in a config.json. Raises BadCheckpoint."""
    if absent := [name for name in _CONFIG if name not in config]:
        raise BadCheckpoint(f"{path}: lacks {', '.join(absent)}.  Fetch the model again.")
    theirs = {ours: name for name, ours in _CONFIG.items()}
    try:
        sizes = validate_table(Dims, {ours: config[name] for name, ours in _CONFIG.items()})
        return Dims(**sizes, n_fusion_layers=min(2, sizes["n_audio_layers"]), video_frontend=video_frontend)
    except InvalidValue as error:
        name, _, problem = str(error).partition(" ")
        raise BadCheckpoint(f"{path}: {theirs[name]} {problem}.  Fetch the model again.") from error
    except ValueError as error:
        raise BadCheckpoint(f"{path}: {error}, which no Whisper has.  Fetch the model again.") from error


def load_ctranslate2(model: Path, config: Path, *, video_frontend: str | None = None) -> tuple[AVSR, WhisperSettings]:
    """CTranslate2's `model.bin` (version 6, of any of its types) with the `config.json` that holds its settings.

    Raises BadCheckpoint for another version, variables that are no Whisper's, or a damaged file.
    """
    raw = read_ctranslate2(model)
    dims = _dims_of_variables(raw, model, video_frontend)
    settings = _settings(config)
    check_memory(n_floats(raw), model)
    return build(dims, rename_ctranslate2(raw), source=str(model)), settings


def _dims_of_variables(raw: dict[str, np.ndarray], path: Path, video_frontend: str | None) -> Dims:
    """The sizes, from the shapes of CTranslate2's variables. Raises BadCheckpoint."""
    needed = {"decoder/embeddings/weight": 2, "decoder/num_heads": 0, "encoder/conv1/weight": 3,
              "decoder/position_encodings/encodings": 2}
    if absent := [name for name in needed if name not in raw]:
        raise BadCheckpoint(f"{path}: lacks {', '.join(absent)}.  Install or fetch it again.")
    if odd := [name for name, n_dims in needed.items() if raw[name].ndim != n_dims]:
        raise BadCheckpoint(f"{path}: {odd[0]} has {raw[odd[0]].ndim} dimensions, but must have {needed[odd[0]]}.  Install or "
                            "fetch it again.")

    def count(part: str) -> int:
        return len({name.split("/")[1] for name in raw if name.startswith(f"{part}/layer_") and name.count("/") > 2})

    n_vocab, width = raw["decoder/embeddings/weight"].shape
    sizes = {"width": width, "n_heads": int(raw["decoder/num_heads"]), "n_mels": raw["encoder/conv1/weight"].shape[1],
             "n_audio_layers": count("encoder"), "n_decoder_layers": count("decoder"), "n_vocab": n_vocab,
             "n_context": len(raw["decoder/position_encodings/encodings"])}
    try:
        return Dims(**validate_table(Dims, sizes), n_fusion_layers=min(2, sizes["n_audio_layers"]),
                    video_frontend=video_frontend)
    except (InvalidValue, ValueError) as error:
        raise BadCheckpoint(f"{path}: {error}, so it is no Whisper.  Install or fetch it again.") from error


def _settings(path: Path) -> WhisperSettings:
    """The settings in a generation_config.json, or in CTranslate2's config.json under other names. Raises BadCheckpoint."""
    config = read_json(path)

    def read(hint: Any, *names: str) -> Any:
        name = next((name for name in names if config.get(name)), names[0])
        return validate(config.get(name) or (), hint, name)

    try:
        return WhisperSettings(read(Tokens, "suppress_tokens", "suppress_ids"),
                               read(Tokens, "begin_suppress_tokens", "suppress_ids_begin"),
                               read(AttentionHeads, "alignment_heads"))
    except InvalidValue as error:
        raise BadCheckpoint(f"{path}: {error}.  Take that out of the file, or fetch the model again.") from error


def rename_hugging_face(weights: Mapping[str, T]) -> dict[str, T]:
    """A table by Hugging Face's names under our names, without the tied output projection and the fixed sinusoids."""
    out = {}
    for name, tensor in weights.items():
        name = name.removeprefix("model.")
        if name in ("proj_out.weight", "encoder.embed_positions.weight"):
            continue
        out[_from_hugging_face(name)] = tensor
    return out


def _from_hugging_face(name: str) -> str:
    if name == "decoder.embed_positions.weight":
        return "decoder.positions"
    stem, _, kind = name.rpartition(".")
    if (match := re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(.+)", stem)) is None:
        return next((f"{ours}.{kind}" for ours, theirs, _ in _OUTSIDE if theirs == stem), name)
    part, layer, inner = match.groups()
    prefix = f"{'audio' if part == 'encoder' else 'decoder'}.blocks.{layer}"
    if projection := re.fullmatch(r"self_attn\.([qkv])_proj", inner):
        return f"{prefix}.attention.{_PROJECTIONS[projection[1]]}.{kind}"
    if projection := re.fullmatch(r"encoder_attn\.([kv])_proj", inner):
        return f"{prefix}.audio.{_PROJECTIONS[projection[1]]}.{kind}"
    return next((f"{prefix}.{ours}.{kind}" for ours, theirs, _ in _SHARED + _DECODER_ONLY if theirs == inner), name)


def rename_ctranslate2(raw: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """CTranslate2's variables as float32 under our names: fused projections are split, and settings are left out."""
    out: dict[str, Tensor] = {"decoder.positions": floats(raw, "decoder/position_encodings/encodings")}
    for name in raw:
        if is_setting(raw, name) or name.endswith("position_encodings/encodings") or _is_tied(raw, name):
            continue
        stem, _, kind = name.rpartition("/")
        kind = {"gamma": "weight", "beta": "bias"}.get(kind, kind)
        match = re.fullmatch(r"(encoder|decoder)/layer_(\d+)/(.+)", stem)
        if match is None:
            out[next((f"{ours}.{kind}" for ours, _, theirs in _OUTSIDE if theirs == stem), name)] = floats(raw, name)
            continue
        part, layer, inner = match.groups()
        prefix = f"{'audio' if part == 'encoder' else 'decoder'}.blocks.{layer}"
        fused = {"self_attention/linear_0": ("attention", "qkv"), "attention/linear_1": ("audio", "kv")}.get(inner)
        if fused is None:
            ours = next((ours for ours, _, theirs in _SHARED + _DECODER_ONLY if theirs == inner), inner)
            out[f"{prefix}.{ours}.{kind}"] = floats(raw, name)
            continue
        where, letters = fused
        size = len(raw[name]) // len(letters)
        for i, letter in enumerate(letters):
            if (letter, kind) != ("k", "bias"):             # Whisper's keys have no bias: zeros in this layout
                out[f"{prefix}.{where}.{_PROJECTIONS[letter]}.{kind}"] = floats(raw, name, slice(i * size, (i + 1) * size))
    return out


def _is_tied(raw: dict[str, np.ndarray], name: str) -> bool:
    """Whether a variable is the output projection, which Whisper shares with its embeddings."""
    return name == "decoder/projection/weight" and (
        raw[name] is raw["decoder/embeddings/weight"] or np.array_equal(raw[name], raw["decoder/embeddings/weight"]))
