"""What a training step takes, counted operation by operation on tensors that have shapes and no contents.

    Config -> loss module without memory -> its forward and backward pass on a batch of zeros -> StepCount
Neither data nor a GPU is needed, and a network may be counted that this machine could not hold.
"""

from __future__ import annotations

import tempfile
import weakref
from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint as recomputing
from torch.utils.flop_counter import flop_registry

from avsr import checkpoint
from avsr.config import Config
from avsr.errors import BadConfig
from avsr.losses import LossModule
from avsr.models.avsr import AVSR, Dims
from avsr.models.blocks import WithDropout, outline
from avsr.rates import FEATURES_PER_FRAME, MEMORY_PER_FRAME, MOUTH_INPUT, SAMPLES_PER_FRAME, SEGMENT_FRAMES, VIDEO_FPS
from avsr.schema import InvalidValue, validate_table
from avsr.text import write_characters
from avsr.train.blocks import blocks
from avsr.train.initialise import model_path
from avsr.train.optimiser import freeze_batch_norms, freeze_weights

LETTERS_PER_S = 15                                          # of read and prepared English; a token of Whisper's has about 4
LETTERS_PER_TOKEN = 4
WITHOUT_WORK = ("prim.", "aten.empty", "aten.detach", "aten.alias", "aten.lift_fresh", "aten._unsafe_view", "aten.new_empty")


@dataclass(frozen=True)
class Network:
    """What a config trains. pad_frames: to which the sound of every clip is padded (Whisper: 750), None for no padding."""

    dims: Dims
    pad_frames: int | None
    letters: bool                                           # whether a token is a letter


@dataclass(frozen=True)
class BatchShape:
    """A batch as it is counted: clips of equal length, in video frames (25 a second). modality: a, v or av."""

    n_clips: int
    n_frames: int
    n_tokens: int
    modality: str

    @property
    def seconds(self) -> float:
        """Seconds of speech."""
        return self.n_clips * self.n_frames / VIDEO_FPS


@dataclass(frozen=True)
class Pass:
    """The operations of a forward or a backward pass: how often each pair (FLOPs, bytes read and written) occurs.

    Only matrix products, convolutions and attention have FLOPs, as in torch's counter; a multiply-add is two.
    """

    operations: dict[tuple[int, int], int]

    @property
    def flops(self) -> int:
        """FLOPs of all operations."""
        return sum(flops * n for (flops, _), n in self.operations.items())

    @property
    def n(self) -> int:
        """The number of operations, each of which is at least one kernel of a GPU."""
        return sum(self.operations.values())


@dataclass(frozen=True)
class StepCount:
    """One pass forward and backward over a batch. activations: bytes that are alive at the worst moment, beside the weights,
    their gradients and the optimiser's state; they include what the operation of that moment writes. flops: of both passes,
    without what is computed a second time to save memory."""

    shape: BatchShape
    forward: Pass
    backward: Pass
    activations: int
    flops: int


@dataclass(frozen=True)
class Weights:
    """Numbers of weights: all of them, those that are trained, the largest block (which FSDP gathers at once), and by part."""

    all: int
    trained: int
    largest_block: int
    parts: dict[str, int]


def network_of(config: Config) -> Network:
    """The network that `avsr train` would begin with. Raises BadConfig for dims that do not go together, or BadCheckpoint."""
    if config.model.start is None:
        with tempfile.TemporaryDirectory() as folder:
            n_vocab = write_characters(Path(folder) / "tokenizer.json").no_timestamps + 1
        start, pad_seconds, letters = Dims(n_vocab=n_vocab, n_context=256, video_frontend="compact"), None, True
    else:
        base = checkpoint.load(model_path(config.model.start, config), exports=False)
        if not isinstance(base.model, AVSR):
            raise BadConfig(f"{config.name}: model.start {config.model.start} is an imported network, which cannot be trained "
                            "further.  Take over its video encoder with model.video_encoder_from.")
        start, pad_seconds, letters = base.model.dims, base.pad_seconds, base.model.dims.n_vocab < 1000
        if not base.video_trained:                          # as avsr train gives a Whisper new lips
            start = replace(start, video_frontend="compact", video_width=256, n_ctc=29)
    known = {one.name for one in fields(Dims)}
    if unknown := sorted(config.model.dims.keys() - known):
        raise BadConfig(f"{config.name}: model.dims.{unknown[0]} is not a dimension.  Known are {', '.join(sorted(known))}.")
    try:
        dims = replace(start, **validate_table(Dims, config.model.dims, "model.dims."))
    except (InvalidValue, ValueError) as error:
        raise BadConfig(f"{config.name}: model.dims do not go together ({error}).  Change them; avsr/models/avsr.py lists "
                        "all.") from error
    return Network(dims, None if pad_seconds is None else round(pad_seconds * VIDEO_FPS), letters)


def shapes(config: Config, network: Network, clip_seconds: float) -> dict[str, tuple[BatchShape, float]]:
    """By modality: the batch that the config makes of clips of this length, and the share of batches that are of it."""
    data = config.data
    n_frames = min(max(1, round(clip_seconds * VIDEO_FPS)), SEGMENT_FRAMES)
    n_letters = round(clip_seconds * LETTERS_PER_S)
    n_tokens = min(network.dims.n_context, (n_letters if network.letters else n_letters // LETTERS_PER_TOKEN) + 4)
    shares = {"a": data.p_audio, "v": 1 - data.p_audio_visual - data.p_audio, "av": data.p_audio_visual}
    return {name: (BatchShape(max(1, data.frames // n_frames), n_frames, n_tokens, name), share)
            for name, share in shares.items() if share > 1e-9}


def without_contents(config: Config, network: Network, n_labels: int) -> LossModule:
    """The loss module of a training, whose tensors have shapes and no contents. n_labels: as LossModule's."""
    module = LossModule(outline(AVSR, network.dims), config.loss, n_labels).to("meta")
    for part in module.modules():
        if isinstance(part, WithDropout):
            part.dropout = config.train.dropout
    freeze_weights(module, config)
    return module


def count_weights(module: LossModule) -> Weights:
    """The weights of a loss module, heads that only training needs included."""
    parts: Tally[str] = Tally()
    for name, parameter in module.named_parameters():
        parts[name.removeprefix("model.").partition(".")[0]] += parameter.numel()
    sizes = [sum(p.numel() for p in block.parameters()) for _, block in blocks(module.model)]
    return Weights(sum(parts.values()), sum(p.numel() for p in module.parameters() if p.requires_grad), max(sizes, default=0),
                   dict(parts.most_common()))


def count_step(module: LossModule, network: Network, shape: BatchShape, *, autocast: bool,
               recompute: bool = False) -> StepCount:
    """Count a pass forward and backward. module: of `without_contents`; its dtype is changed. autocast: in bfloat16, as on a
    GPU; else in float32. recompute: whether the blocks' activations are computed again when the gradient needs them."""
    module.train()
    freeze_batch_norms(module)
    plain = _count(module, network, shape, autocast)
    if not recompute:
        return plain
    with _recomputed(module.model):
        return replace(_count(module, network, shape, autocast), flops=plain.flops)


def _count(module: LossModule, network: Network, shape: BatchShape, autocast: bool) -> StepCount:
    counter, dtype = OperationCounter(), torch.bfloat16 if autocast else torch.float32
    module.to(dtype)
    hooks = [parameter.register_post_accumulate_grad_hook(_drop_gradient) for parameter in module.parameters()
             if parameter.requires_grad]
    if autocast:                                            # which computes norms in float32
        hooks += [hook for norm in module.modules() if isinstance(norm, nn.LayerNorm)
                  for hook in (norm.float().register_forward_pre_hook(_to_float32), norm.register_forward_hook(_to_bfloat16))]
    with counter, FusedAttention():
        total = _forward(module, network, shape, dtype)
        forward = counter.take()
        if total.requires_grad:
            total.backward()
        backward = counter.take()
    for hook in hooks:
        hook.remove()
    # autocast keeps a copy of the weights in bfloat16 for the length of a step.
    copies = 2 * sum(p.numel() for p in module.parameters()) if autocast else 0
    return StepCount(shape, forward, backward, counter.most + copies, forward.flops + backward.flops)


@contextmanager
def _recomputed(model: AVSR) -> Iterator[None]:
    """Within the block, the repeated blocks of the network keep their inputs alone, as with train.recompute."""
    changed = [block for _, block in blocks(model)]
    for block in changed:
        block.forward = partial(recomputing, block.forward, use_reentrant=False, preserve_rng_state=False,
                                context_fn=lambda: (nullcontext(), FusedAttention()))
    try:
        yield
    finally:
        for block in changed:
            del block.forward


def _drop_gradient(parameter: Tensor) -> None:
    """Gradients are counted by their number, so that here they take nothing."""
    parameter.grad = None


def _forward(module: LossModule, network: Network, shape: BatchShape, dtype: torch.dtype) -> Tensor:
    """What LossModule.forward computes where weights take part, on zeros. The losses themselves have no FLOPs."""
    model, config, (n, frames) = module.model, module.config, (shape.n_clips, shape.n_frames)
    zeros = partial(torch.zeros, dtype=dtype, device="meta")
    mel = mel_lengths = mouths = seen = None
    if "a" in shape.modality:
        columns, width = FEATURES_PER_FRAME, model.dims.n_mels
        if not model.dims.n_mels:
            columns, width = SAMPLES_PER_FRAME, 1
        mel = zeros(n, columns * (network.pad_frames or frames), width)
        mel_lengths = None if network.pad_frames else torch.full((n,), columns * frames, device="meta")
    if "v" in shape.modality:
        mouths, seen = zeros(n, frames, MOUTH_INPUT, MOUTH_INPUT), zeros(n, frames, dtype=torch.bool)
    memory = model.encode(mel, mouths, mel_lengths=mel_lengths, seen=seen)
    logits: list[Tensor] = []
    if config.frames:
        logits += [module.labels[name](states[:, ::MEMORY_PER_FRAME])
                   for name, states in (("audio", memory.audio), ("video", memory.unfused_video))
                   if states is not None and name in module.labels]
    if model.dims.n_ctc and any(getattr(config, f"ctc_{name}") for name in ("audio", "video", "fused")):
        logits += [log_probs for name, log_probs in model.ctc_log_probs(memory).items() if getattr(config, f"ctc_{name}")]
    if config.attention and not model.ctc_only:
        logits.append(model.decoder(zeros(n, shape.n_tokens, dtype=torch.long),
                                    model.start(replace(memory, reliability=None))))
    return sum((one.float().log_softmax(dim=-1).mean() for one in logits), zeros((), dtype=torch.float32))


def _to_float32(norm: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
    return (arguments[0].float(),)


def _to_bfloat16(norm: nn.Module, arguments: tuple[Tensor], out: Tensor) -> Tensor:
    return out.bfloat16()


class FusedAttention(TorchFunctionMode):
    """Attention by the kernel that never holds all its weights, which devices choose and tensors without contents do not."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            query, keys, values = args
            mask = (kwargs or {}).get("attn_mask")
            if mask is not None:
                mask = torch.zeros(mask.shape, dtype=query.dtype, device=query.device)
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, keys, values, attn_mask=mask)[0]
        return func(*args, **(kwargs or {}))


class OperationCounter(TorchDispatchMode):
    """Counts the operations, and the bytes of tensors that were made within it and are still alive."""

    def __init__(self):
        super().__init__()
        self.operations: Tally[tuple[int, int]] = Tally()
        self.alive = self.most = 0
        self._known: dict[int, Any] = {}

    def take(self) -> Pass:
        """The operations since the last call."""
        taken, self.operations = Pass(dict(self.operations)), Tally()
        return taken

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = [one for one in tree_leaves(out) if isinstance(one, Tensor)]
        for tensor in made:
            self._follow(tensor)
        if not (func.is_view or str(func).startswith(WITHOUT_WORK)):
            read = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
            counted = flop_registry.get(func._overloadpacket)
            flops = int(counted(*args, **kwargs, out_val=out)) if counted else 0
            self.operations[flops, sum(_bytes(one) for one in (*read, *made))] += 1
        return out

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._known:
            return
        size = storage.nbytes()
        self.alive += size
        self.most = max(self.most, self.alive)
        self._known[key] = weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self.alive -= size


def _bytes(tensor: Tensor) -> int:
    return prod(tensor.shape) * tensor.element_size()
