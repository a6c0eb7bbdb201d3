"""How the blocks of a network compute in training: their activations kept or computed again, by torch's kernels or compiled.

    network, TrainConfig -> the same network, whose blocks compute otherwise as long as they learn
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from avsr.config import TrainConfig
from avsr.errors import BadConfig

BatchNorm = nn.modules.batchnorm._BatchNorm


def blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The repeated blocks of a network with their names, in which nearly all weights and activations of a large one are."""
    names = ("audio.blocks", "video.blocks", "fusion_layers", "decoder.blocks")
    parts = dict(model.named_modules())
    return [(f"{name}.{i}", block) for name in names if name in parts for i, block in enumerate(parts[name].children())]


def prepare_blocks(model: nn.Module, config: TrainConfig, device: torch.device) -> None:
    """Compile the blocks (train.compile) and keep no activations within them (train.recompute). Evaluation stays as it was.

    Shapes are dynamic, as hardly two batches have one length. Raises BadConfig where torch cannot compile on this machine.
    """
    compiled = config.compile == "yes"
    if compiled:
        _check_compiler(device)
    if compiled or config.recompute:
        for _, block in blocks(model):
            _prepare(block, compiled=compiled, recompute=config.recompute)


def _prepare(block: nn.Module, *, compiled: bool, recompute: bool) -> None:
    usual = block.forward
    learning = torch.compile(usual, dynamic=True) if compiled else usual
    norms = [one for one in block.modules() if isinstance(one, BatchNorm)]

    def forward(*inputs: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return usual(*inputs)
        if not recompute:
            return learning(*inputs)
        return checkpoint(learning, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _resting(norms)))

    block.forward = forward


@contextmanager
def _resting(norms: Sequence[BatchNorm]) -> Iterator[None]:
    """Within the block, copies of the running means move in their place: they have moved when the activations were first
    computed. Norms without any would save other tensors than at first, which torch.utils.checkpoint refuses."""
    buffers = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers(recurse=False)]
    for norm, name, buffer in buffers:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in buffers:
            setattr(norm, name, buffer)


def _check_compiler(device: torch.device) -> None:
    """Raises BadConfig where torch.compile fails with a function of one line."""
    try:
        torch.compile(lambda x: (2 * x).sin())(torch.ones(8, device=device))
    except Exception as error:                              # torch has dozens, of its own and of the compilers that it calls
        reason = " ".join(str(error).split())[:160]
        raise BadConfig("train.compile is \"yes\", but torch.compile fails on this machine "
                        f"({type(error).__name__}: {reason}).  Install a C++ compiler (CPU) or Triton (CUDA), or write "
                        "train.compile = \"no\".") from error
