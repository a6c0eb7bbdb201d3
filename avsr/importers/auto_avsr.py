"""auto_avsr and Visual Speech Recognition for Multiple Languages: video, audio, or both, in either of their layouts.

    names and tensors of the published file -> HybridDims, and the same weights under our names
Read from mpc001/auto_avsr (the main branch and v1.0.0; Apache-2.0) and mpc001/Visual_Speech_Recognition_for_Multiple_Languages.
Two files of the same name may have different layouts: the weights' names decide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set

from torch import Tensor

from avsr.importers.family import Converted, Family, Known
from avsr.models.hybrid import HybridDims

SOURCE = "auto_avsr's model zoo"
OLDER = "auto_avsr v1.0.0's model zoo"
LICENCE = ("auto_avsr's code is Apache-2.0, but its authors say that the weights may be under the terms of what they were "
           "trained on (LRS2, LRS3, VoxCeleb2, AVSpeech: most forbid commercial use).  Read those before you use the model.")
KNOWN = (
    Known("vsr_trlrs3_23h_base.pth", "v", SOURCE, "fc8db", 93.0),
    Known("vsr_trlrs3_base.pth", "v", SOURCE, "c00a7", 36.0),
    Known("vsr_trlrs3vox2_base.pth", "v", SOURCE, "774a6", 24.6),
    Known("vsr_trlrs2lrs3vox2avsp_base.pth", "v", SOURCE, "49f77", 20.3),
    Known("asr_trlrs3_base.pth", "a", SOURCE, "8af72", 2.0),
    Known("asr_trlrs3vox2_base.pth", "a", SOURCE, "f0c5c", 1.0),
    Known("vsr_trlrs3_23h_base.pth", "v", OLDER, "50c88", None),
    Known("vsr_trlrs3_base.pth", "v", OLDER, "ea3ec", None),
    Known("vsr_trlrs3vox2_base.pth", "v", OLDER, "0a126", None),
    Known("vsr_trlrwlrs2lrs3vox2avsp_base.pth", "v", OLDER, "a896f", 20.3),
    Known("asr_trlrs3_23h_base.pth", "a", OLDER, "87d45", None),
    Known("asr_trlrs3_base.pth", "a", OLDER, "4fa87", None),
    Known("asr_trlrs3vox2_base.pth", "a", OLDER, "7beab", None),
    Known("asr_trlrwlrs2lrs3vox2avsp_base.pth", "a", OLDER, "dc759", 0.99),
    Known("avsr_trlrwlrs2lrs3vox2avsp_base.pth", "av", OLDER, "6b3c5", 0.93),
)

# Within a block of the encoder, and of the decoder: theirs, ours. The keys' biases are dropped: no softmax sees them.
_ENCODER_BLOCK = {
    "norm_ff_macaron": "first_norm", "feed_forward_macaron.w_1": "first_feed.0", "feed_forward_macaron.w_2": "first_feed.2",
    "norm_mha": "attention_norm", "self_attn.linear_q": "attention.query", "self_attn.linear_k": "attention.key",
    "self_attn.linear_v": "attention.value", "self_attn.linear_out": "attention.out",
    "self_attn.linear_pos": "attention.distance", "self_attn.pos_bias_u": "attention.content_bias",
    "self_attn.pos_bias_v": "attention.distance_bias", "norm_conv": "convolution_norm",
    "conv_module.pointwise_cov1": "convolution.into", "conv_module.depthwise_conv": "convolution.depthwise",
    "conv_module.norm": "convolution.norm", "conv_module.pointwise_cov2": "convolution.out",
    "norm_ff": "feed_norm", "feed_forward.w_1": "feed.0", "feed_forward.w_2": "feed.2", "norm_final": "norm",
}
_DECODER_BLOCK = {
    "norm1": "attention_norm", "self_attn.linear_q": "attention.query", "self_attn.linear_k": "attention.key",
    "self_attn.linear_v": "attention.value", "self_attn.linear_out": "attention.out",
    "norm2": "audio_norm", "src_attn.linear_q": "audio.query", "src_attn.linear_k": "audio.key",
    "src_attn.linear_v": "audio.value", "src_attn.linear_out": "audio.out",
    "norm3": "feed_norm", "feed_forward.w_1": "feed.0", "feed_forward.w_2": "feed.2",
}
_OUTSIDE = {
    "decoder.embed.0": "decoder.embedding", "decoder.after_norm": "decoder.norm",
    "decoder.output_layer": "decoder.out", "ctc.ctc_lo": "ctc",
    # Of the streams, after "audio." or "video.":
    "after_norm": "norm", "embed.0": "project",
    "frontend.frontend3D.0": "frontend.conv.0", "frontend.frontend3D.1": "frontend.conv.1",
    "frontend.trunk.conv1": "frontend.conv1", "frontend.trunk.bn1": "frontend.bn1",
    "fusion.fc1": "fusion.into", "fusion.bn1": "fusion.norm", "fusion.norm1": "fusion.norm", "fusion.fc2": "fusion.out",
}
# Names of very old files and of the main branch, and their names in v1.0.0.
_RENEWED = (
    (r"^frontend\.", "encoder.frontend."), (r"^proj_encoder\.", "encoder.embed.0."),
    (r"\.input_layer\.", ".embed."), (r"^((?:aux_)?encoder)\.norm\.", r"\1.after_norm."),
    (r"^decoder\.output_norm\.", "decoder.after_norm."),
)


def recognises(names: Set[str]) -> bool:
    """Whether these are the weights of such a network, whole or not."""
    return any(re.match(r"encoder\.encoders\.\d+\.conv_module\.pointwise_cov1\.", name) for name in names)


def part(names: Set[str]) -> str | None:
    """Recognises a frontend that was trained on single words (LRW)."""
    lone = all(name.startswith(("trunk.", "frontend3D.", "frontend.")) for name in names)
    return "a frontend without a decoder" if names and lone else None


def convert(weights: dict[str, Tensor]) -> Converted:
    """See Family. Raises KeyError with the name of a weight that no size can be read without."""
    renewed = {name: _renewed(name) for name in weights}
    has_video = any("frontend3D" in name for name in weights)
    streams = {"encoder": "video" if has_video else "audio", "aux_encoder": "audio"}
    dims = _dims({renewed[name]: tensor for name, tensor in weights.items()}, streams)
    out, theirs, left_over = {}, {}, []
    for name in list(weights):
        tensor, old = weights.pop(name), renewed[name]
        if old.endswith((".pe", ".linear_k.bias")):         # tables of positions; the keys' biases
            continue
        ours = _ours(old, streams)
        if ours is None or ours in out:                     # two names of one weight, of two networks or layouts
            left_over.append(name)
        else:
            out[ours], theirs[ours] = _fitted(ours, tensor, dims), name
    return Converted(dims, out, theirs, left_over)


def _renewed(name: str) -> str:
    for old, new in _RENEWED:
        name = re.sub(old, new, name)
    return name


def _dims(weights: Mapping[str, Tensor], streams: Mapping[str, str]) -> HybridDims:
    """All dimensions, from the shapes of the weights under v1.0.0's names."""
    def size(name: str, axis: int = 0) -> int:
        shape = weights[name].shape
        if axis >= len(shape):
            raise KeyError(f"{name} of {axis + 1} dimensions")
        return shape[axis]

    def count(prefix: str) -> int:
        numbers = {found[1] for name in weights if (found := re.match(rf"{prefix}\.(\d+)\.", name))}
        if gaps := [str(i) for i in range(max(1, len(numbers))) if str(i) not in numbers]:
            raise KeyError(f"{prefix}.{gaps[0]}")
        return len(numbers)

    block = "encoder.encoders.0"
    n_layers = {streams[prefix]: count(f"{prefix}.encoders") for prefix in ("aux_encoder", "encoder")
                if any(name.startswith(f"{prefix}.") for name in weights)}
    return HybridDims(
        width=size(f"{block}.norm_ff.weight"), n_heads=size(f"{block}.self_attn.pos_bias_u"),
        n_inside=size(f"{block}.feed_forward.w_1.weight"), n_audio_layers=n_layers.get("audio", 0),
        n_video_layers=n_layers.get("video", 0), n_decoder_layers=count("decoder.decoders"), n_vocab=size("ctc.ctc_lo.weight"),
        kernel=size(f"{block}.conv_module.depthwise_conv.weight", 2),
        n_fusion=size("fusion.fc1.weight") if len(n_layers) == 2 else HybridDims.n_fusion,
        fusion_norm="layer" if "fusion.norm1.weight" in weights else "batch")


def _ours(name: str, streams: Mapping[str, str]) -> str | None:
    """Our name of a weight of theirs; None for one that is not known."""
    prefix, _, rest = name.partition(".")
    stream = streams[prefix] + "." if prefix in streams else ""
    if stream and (found := re.fullmatch(r"encoders\.(\d+)\.(.+)", rest)):
        return _joined(f"{stream}blocks.{found[1]}.", found[2], _ENCODER_BLOCK)
    if stream and (found := re.fullmatch(r"frontend\.trunk\.layer([1-4])\.(.+)", rest)):
        return f"{stream}frontend.{'trunk' if stream == 'video.' else 'stages'}.{int(found[1]) - 1}.{found[2]}"
    if found := re.fullmatch(r"decoder\.decoders\.(\d+)\.(.+)", name):
        return _joined(f"decoder.blocks.{found[1]}.", found[2], _DECODER_BLOCK)
    return _joined(stream, rest if stream else name, _OUTSIDE)


def _joined(before: str, name: str, table: Mapping[str, str]) -> str | None:
    if name in table:                                       # a parameter that belongs to no submodule
        return before + table[name]
    stem, _, kind = name.rpartition(".")
    return f"{before}{table[stem]}.{kind}" if stem in table else None


def _fitted(name: str, tensor: Tensor, dims: HybridDims) -> Tensor:
    """The tensor as our network has it: 1x1 convolutions are linear, biases per head broadcast, and the factor sqrt(D) of the
    input of encoder and decoder is part of the weights."""
    if name.endswith((".convolution.into.weight", ".convolution.out.weight")) and tensor.shape[2:] == (1,):
        return tensor[:, :, 0]
    if name.endswith((".content_bias", ".distance_bias")) and tensor.ndim == 2:
        return tensor[:, None]
    scaled = name.endswith((".project.weight", ".project.bias")) or name == "decoder.embedding.weight"
    return tensor.float() * dims.width ** 0.5 if scaled and tensor.is_floating_point() else tensor


FAMILY = Family("auto_avsr", recognises, part, convert, KNOWN, LICENCE, mouth_crop="auto-avsr",
                search={"beam_size": 40, "ctc_weight": 0.1, "length_penalty": 0.0},
                tokenizer="unigram5000_units.txt and unigram5000.model, in its authors' repository under spm/unigram")
