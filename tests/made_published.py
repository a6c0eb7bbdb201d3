"""Files that look as their authors publish them: weights under their names, and SentencePiece's pair beside them.

Weights are a miniature network's of ours, renamed by tables written the other way round than the importer's; where the
oracles are at hand, see tests/oracles.py, theirs are better.
"""

import io
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import sentencepiece
import torch
from sentencepiece import sentencepiece_model_pb2

from avsr.models.hybrid import HybridAVSR, HybridDims

N_VOCAB = 40                                                # of the oracles too
TINY = dict(width=16, n_heads=2, n_inside=24, n_decoder_layers=2, n_vocab=N_VOCAB, kernel=31, n_fusion=20)
LAYERS = {"a": dict(n_audio_layers=2), "v": dict(n_video_layers=2), "av": dict(n_audio_layers=2, n_video_layers=2)}
NORMAL = 1

# Ours, then theirs in v1.0.0: the first that fits is taken.
_BLOCK = [
    ("first_norm", "norm_ff_macaron"),
    ("first_feed.0", "feed_forward_macaron.w_1"), ("first_feed.2", "feed_forward_macaron.w_2"),
    ("attention_norm", "norm_mha"), ("attention.query", "self_attn.linear_q"), ("attention.key", "self_attn.linear_k"),
    ("attention.value", "self_attn.linear_v"), ("attention.out", "self_attn.linear_out"),
    ("attention.distance_bias", "self_attn.pos_bias_v"), ("attention.content_bias", "self_attn.pos_bias_u"),
    ("attention.distance", "self_attn.linear_pos"), ("convolution_norm", "norm_conv"),
    ("convolution.into", "conv_module.pointwise_cov1"), ("convolution.depthwise", "conv_module.depthwise_conv"),
    ("convolution.norm", "conv_module.norm"), ("convolution.out", "conv_module.pointwise_cov2"),
    ("feed_norm", "norm_ff"), ("feed.0", "feed_forward.w_1"), ("feed.2", "feed_forward.w_2"), ("norm", "norm_final"),
]
_DECODER_BLOCK = [
    ("attention_norm", "norm1"), ("attention.query", "self_attn.linear_q"), ("attention.key", "self_attn.linear_k"),
    ("attention.value", "self_attn.linear_v"), ("attention.out", "self_attn.linear_out"), ("audio_norm", "norm2"),
    ("audio.query", "src_attn.linear_q"), ("audio.key", "src_attn.linear_k"), ("audio.value", "src_attn.linear_v"),
    ("audio.out", "src_attn.linear_out"), ("feed_norm", "norm3"),
    ("feed.0", "feed_forward.w_1"), ("feed.2", "feed_forward.w_2"),
]
_STREAM = [("norm", "after_norm"), ("project", "embed.0"), ("frontend.conv.", "frontend.frontend3D."),
           ("frontend.conv1", "frontend.trunk.conv1"), ("frontend.bn1", "frontend.trunk.bn1")]
_REST = [("ctc", "ctc.ctc_lo"), ("fusion.into", "fusion.fc1"), ("fusion.out", "fusion.fc2"),
         ("decoder.embedding", "decoder.embed.0"), ("decoder.norm", "decoder.after_norm"),
         ("decoder.out", "decoder.output_layer")]


@cache
def network(modality: str, fusion_norm: str = "batch") -> HybridAVSR:
    """A miniature network, every weight of it drawn. Shared between tests: leave its weights alone."""
    torch.manual_seed(5)
    model = HybridAVSR(HybridDims(**TINY, **LAYERS[modality], fusion_norm=fusion_norm))
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim < 2:  # scales, shifts and running statistics
            tensor.copy_(torch.rand(tensor.shape) + (0.5 if "var" in name or "weight" in name else 0.0))
        elif name.endswith("_bias"):
            tensor.normal_(std=0.3)
    return model.eval().requires_grad_(False)


def published(model: HybridAVSR) -> dict[str, torch.Tensor]:
    """Its weights as its authors would save them, in the layout of v1.0.0."""
    main = "video" if model.video is not None else "audio"
    out = {}
    for name, tensor in model.state_dict().items():
        theirs = _theirs(name, main, model.dims.fusion_norm)
        if "pointwise_cov" in theirs and theirs.endswith("weight"):
            tensor = tensor[:, :, None]
        elif "pos_bias" in theirs:
            tensor = tensor[:, 0]
        elif re.search(r"encoder\.embed\.0\.|decoder\.embed\.0\.", theirs):
            tensor = tensor / model.dims.width ** 0.5
        out[theirs] = tensor.clone()
        if theirs.endswith("linear_k.weight"):
            out[theirs.removesuffix("weight") + "bias"] = torch.randn(len(tensor))
    return out


def _theirs(name: str, main: str, fusion_norm: str) -> str:
    head, _, rest = name.partition(".")
    if found := re.match(r"decoder\.blocks\.(\d+)\.(.+)", name):
        return f"decoder.decoders.{found[1]}." + _put(found[2], _DECODER_BLOCK)
    if head not in ("audio", "video"):
        fused = "bn1" if fusion_norm == "batch" else "norm1"
        return _put(name, [*_REST, ("fusion.norm", f"fusion.{fused}")])
    prefix = "encoder." if head == main else "aux_encoder."
    if found := re.match(r"blocks\.(\d+)\.(.+)", rest):
        return f"{prefix}encoders.{found[1]}." + _put(found[2], _BLOCK)
    if found := re.match(r"frontend\.(?:trunk|stages)\.(\d)\.(.+)", rest):
        return f"{prefix}frontend.trunk.layer{int(found[1]) + 1}.{found[2]}"
    return prefix + _put(rest, _STREAM)


def _put(name: str, table: list[tuple[str, str]]) -> str:
    return next(theirs + name.removeprefix(ours) for ours, theirs in table if name.startswith(ours))


def renamed(weights: dict, *changes: tuple[str, str]) -> dict:
    """The same weights under names in which each pattern (a regular expression) has been replaced."""
    out = {}
    for name, tensor in weights.items():
        for old, new in changes:
            name = re.sub(old, new, name)
        out[name] = tensor
    return out


def without(weights: dict, drop: Callable[[str], bool]) -> dict:
    """The weights but for those whose name is dropped."""
    return {name: tensor for name, tensor in weights.items() if not drop(name)}


V1 = ((r"^frontend\.", "encoder.frontend."), (r"^proj_encoder\.", "encoder.embed.0."))
MAIN = ((r"^encoder\.frontend\.", "frontend."), (r"^encoder\.embed\.0\.", "proj_encoder."))
OLD = ((r"^((?:aux_)?encoder)\.embed\.", r"\1.input_layer."), (r"^((?:aux_)?encoder)\.after_norm\.", r"\1.norm."),
       (r"^decoder\.after_norm\.", "decoder.output_norm."))

TEXTS = """THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG
PLACE RED BY J TWO AGAIN AND THEN SET WHITE IN Q FIVE NOW
IT ISN'T WHAT THEY SAID BUT HOW THEY SAID IT
WE'VE SEEN THE LIPS MOVE BEFORE THE SOUND WAS THERE
BIN BLUE AT F NINE SOON LAY GREEN WITH X EIGHT PLEASE""".splitlines()


@cache
def _model(kind: str) -> bytes:
    """A SentencePiece model of those lines."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 4), model_writer=written, vocab_size=60, model_type=kind, character_coverage=1.0,
        hard_vocab_limit=False, minloglevel=2)
    return written.getvalue()


def make_tokenizer(folder: Path, *, n_pieces: int = N_VOCAB - 2, stem: str = "unigram38",
                   kind: str = "unigram") -> tuple[Path, Path]:
    """NAME_units.txt, in ESPnet's order (by character, after <unk>), and NAME.model."""
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(_model(kind))
    normal = [piece for piece in model.pieces if piece.type == NORMAL]
    best = sorted(normal, key=lambda piece: (len(piece.piece) > 1, -piece.score))
    pieces = ["<unk>", *sorted(piece.piece for piece in best[:n_pieces - 1])]
    pieces += [f"Q{i}Q" for i in range(n_pieces - len(pieces))]
    folder.mkdir(parents=True, exist_ok=True)
    units, path = folder / f"{stem}_units.txt", folder / f"{stem}.model"
    units.write_text("".join(f"{piece} {i}\n" for i, piece in enumerate(pieces, 1)), encoding="utf-8")
    path.write_bytes(model.SerializeToString())
    return units, path


def published_shapes(folder: Path) -> dict[str, torch.Tensor]:
    """Every weight of a full-size published network, on torch's meta device: names, shapes and dtypes alone."""
    listed = json.loads((folder / "published_shapes.json").read_text())
    return {name: torch.empty(shape, dtype=getattr(torch, dtype), device="meta") for name, (shape, dtype) in listed.items()}
