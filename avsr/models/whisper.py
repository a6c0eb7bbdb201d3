"""Published Whisper weights of any size into an `AVSR`: Hugging Face's safetensors and CTranslate2's model.bin.

    folder or file -> Dims, tensors by our names, and what Whisper's generation settings say

Names on both sides are tables below; what is left over or missing is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from avsr.errors import BadCheckpoint
from avsr.models.avsr import AVSR, Dims
from avsr.models.blocks import outline
from avsr.models.ctranslate2 import floats, is_setting, read_ctranslate2

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
# What is needed of Hugging Face's config.json.
_CONFIG = ("d_model", "decoder_attention_heads", "num_mel_bins", "encoder_layers", "decoder_layers", "vocab_size",
           "max_target_positions")
# Of which CTranslate2's config.json holds at least one.
_CT2_CONFIG = ("suppress_ids", "suppress_ids_begin", "alignment_heads", "lang_ids")
WEIGHT_INDEX = "model.safetensors.index.json"               # which of the shards holds which tensor
_PROJECTIONS = {"q": "query", "k": "key", "v": "value"}


@dataclass(frozen=True)
class WhisperSettings:
    """What decoding needs to know beside the weights (`generation_config.json`).

    suppress: tokens never written; suppress_begin: not as the first; alignment_heads: (layer, head) of the decoder
    whose look at the audio follows the words.
    """

    suppress: tuple[int, ...] = ()
    suppress_begin: tuple[int, ...] = ()
    alignment_heads: tuple[tuple[int, int], ...] = ()


def build(dims: Dims, weights: dict[str, Tensor], *, source: str) -> AVSR:
    """An `AVSR` whose sound parts are Whisper's; its lips, if `dims` has any, are new and their gates closed.

    Raises BadCheckpoint naming weights that are missing, left over or of another shape.
    """
    bare = dims.lips is None and not dims.n_local
    model = outline(AVSR, dims) if bare else AVSR(dims)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items() if is_whispers(name)}
    missing, extra = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    wrong = [f"{n} {tuple(weights[n].shape)} for {tuple(wanted[n])}" for n in wanted.keys() & weights.keys()
             if weights[n].shape != wanted[n]]
    for what, names in (("lacks", missing), ("has unknown", extra), ("has wrong shapes:", wrong)):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise BadCheckpoint(f"{source}: {what} {shown}.  Fetch the model again, or name another with --model.")
    model.load_state_dict(weights, strict=False, assign=True)            # the lips' own weights stay as they were made
    if bare and dims.n_ctc:                                 # Whisper has no CTC head
        model.ctc["audio"] = nn.Linear(dims.width, dims.n_ctc)
    return model.eval()


def is_whispers(name: str) -> bool:
    """Whether a weight is one that Whisper has too: not of lips, exchanges, CTC heads or the judges."""
    added = ("video.", "exchanges.", "ctc.", "trust.", "heed.", "audio.local.")
    return not (name.startswith(added) or re.match(r"decoder\.blocks\.\d+\.video\.", name))


def load_folder(folder: Path, *, lips: str | None = None) -> tuple[AVSR, WhisperSettings]:
    """A folder in Hugging Face's layout (config.json with model_type, *.safetensors, generation_config.json) or in
    CTranslate2's, which is faster-whisper's (config.json without model_type, model.bin).

    A folder with weights of both is the one that its config.json is of; Hugging Face's config.json beside a model.bin alone
    gives that file's settings. Raises BadCheckpoint when it holds no Whisper.
    """
    path, model = folder / "config.json", folder / "model.bin"
    config, files = read_json(path), weight_files(folder)
    if is_ctranslate2(config) or (config.get("model_type") == "whisper" and not files and model.exists()):
        if not model.exists():
            raise BadCheckpoint(f"{path}: names no model_type, so it is CTranslate2's, but there is no model.bin beside it.  "
                                "Fetch the model again.")
        settings = folder / "generation_config.json"
        return load_ctranslate2(model, path if is_ctranslate2(config) or not settings.exists() else settings, lips=lips)
    check_kind(config, folder)
    if not files:
        raise BadCheckpoint(_without_weights(folder))
    if absent := [name for name in _CONFIG if name not in config]:
        raise BadCheckpoint(f"{path}: lacks {', '.join(absent)}.  Fetch the model again.")
    return _load_hugging_face(folder, config, files, lips)


def is_ctranslate2(config: dict) -> bool:
    """Whether a config.json is of CTranslate2's layout: Hugging Face's say what kind of model they are of."""
    return "model_type" not in config


def check_kind(config: dict, where: Path | str) -> None:
    """Raises BadCheckpoint where a config.json is of a model that is no Whisper. `where`: its folder, or name on the hub."""
    kind = config.get("model_type", "whisper")
    if kind != "whisper":
        raise BadCheckpoint(f"{where}: a model of type {kind!r}, not whisper.  Known: {', '.join(SIZES)}.")
    if is_ctranslate2(config) and not config.keys() & set(_CT2_CONFIG):
        raise BadCheckpoint(f"{where}: its config.json names neither a model_type, as Hugging Face's do, nor any of "
                            f"{', '.join(_CT2_CONFIG)}, as CTranslate2's do for Whisper.  Known: {', '.join(SIZES)}.")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder in Hugging Face's layout: one, or the shards that its index or their names tell.

    Others that lie there, such as another precision's, are left alone.
    """
    whole, index = folder / "model.safetensors", folder / WEIGHT_INDEX
    if whole.exists():
        return [whole]
    if index.exists():
        return [folder / name for name in shards(index)]
    return sorted(folder.glob("model-*-of-*.safetensors"))


def shards(index: Path) -> list[str]:
    """The names of the files that a model.safetensors.index.json lists. Raises BadCheckpoint."""
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) and Path(name).name == name for name in listed.values()):
        raise BadCheckpoint(f"{index}: lists no files in its weight_map.  Fetch the model again.")
    return sorted(set(listed.values()))


def _without_weights(folder: Path) -> str:
    pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if pickled:
        return (f"{folder}: its weights are in {pickled[0]}, a pickle, which may run any code when it is opened.  "
                "If you trust it, load it with transformers and save it again with save_pretrained, which writes safetensors.")
    return f"{folder}: holds neither model.safetensors nor model.bin, so no weights.  Fetch the model again."


def _load_hugging_face(folder: Path, config: dict, files: list[Path], lips: str | None) -> tuple[AVSR, WhisperSettings]:
    weights = {}
    for path in files:
        weights |= rename_hugging_face(read_safetensors(path))
    dims = Dims(
        width=config["d_model"], n_heads=config["decoder_attention_heads"], n_mels=config["num_mel_bins"],
        n_audio_layers=config["encoder_layers"], n_decoder_layers=config["decoder_layers"],
        n_fusion_layers=min(2, config["encoder_layers"]), n_vocab=config["vocab_size"],
        n_context=config["max_target_positions"], lips=lips,
    )
    path = folder / "generation_config.json"
    return build(dims, weights, source=str(folder)), _settings(read_json(path) if path.exists() else config)


def load_ctranslate2(model: Path, config: Path, *, lips: str | None = None) -> tuple[AVSR, WhisperSettings]:
    """CTranslate2's `model.bin` (version 6, of any of its types) with the `config.json` that holds its settings.

    Raises BadCheckpoint for another version, variables that are no Whisper's, or a damaged file.
    """
    raw = read_ctranslate2(model)
    needed = ("decoder/embeddings/weight", "decoder/num_heads", "encoder/conv1/weight", "decoder/position_encodings/encodings")
    if absent := [name for name in needed if name not in raw]:
        raise BadCheckpoint(f"{model}: lacks {', '.join(absent)}.  Install or fetch it again.")

    def count(part: str) -> int:
        return len({name.split("/")[1] for name in raw if name.startswith(f"{part}/layer_") and name.count("/") > 2})

    n_vocab, width = raw["decoder/embeddings/weight"].shape
    dims = Dims(
        width=width, n_heads=int(raw["decoder/num_heads"]), n_mels=raw["encoder/conv1/weight"].shape[1],
        n_audio_layers=count("encoder"), n_decoder_layers=count("decoder"), n_fusion_layers=min(2, count("encoder")),
        n_vocab=n_vocab, n_context=raw["decoder/position_encodings/encodings"].shape[0], lips=lips,
    )
    return build(dims, rename_ctranslate2(raw), source=str(model)), _settings(read_json(config))


def _settings(config: dict) -> WhisperSettings:
    """From a generation_config.json, or CTranslate2's config.json, which names the same things otherwise."""
    return WhisperSettings(
        suppress=tuple(config.get("suppress_tokens") or config.get("suppress_ids") or ()),
        suppress_begin=tuple(config.get("begin_suppress_tokens") or config.get("suppress_ids_begin") or ()),
        alignment_heads=tuple((layer, head) for layer, head in config.get("alignment_heads") or ()),
    )


def rename_hugging_face(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's names to ours. The tied output projection and the fixed sinusoids are not kept."""
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
    """CTranslate2's variables as float32 by our names; its fused projections are taken apart, settings among them left out."""
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
    """Whether a variable is the output projection that Whisper shares with its embeddings."""
    return name == "decoder/projection/weight" and (
        raw[name] is raw["decoder/embeddings/weight"] or np.array_equal(raw[name], raw["decoder/embeddings/weight"]))


def read_safetensors(path: Path, names: Container[str] | None = None) -> dict[str, Tensor]:
    """The tensors of one file that have these names, None for all of them; floating-point ones as float32.

    The file is mapped: what is not asked for is not read. Raises BadCheckpoint when it is cut short or no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys() if names is None or name in names}  # noqa: SIM118
        return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    except (SafetensorError, OSError) as error:
        raise BadCheckpoint(f"{path}: cannot be read as weights ({error}).  Fetch the model again.") from error


def read_json(path: Path) -> dict:
    """One JSON object. Raises BadCheckpoint."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{path}: cannot be read as JSON ({error}).  Fetch the model again.") from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path}: holds a JSON {type(value).__name__}, not an object.  Fetch the model again.")
    return value
