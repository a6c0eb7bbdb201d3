"""Where the model looks while it writes, and how far its gates are open: read off the network as it runs, nothing is changed.

    Checkpoint + Memory + tokens  ->  Looks (words, positions);  Gate per layer;  CTC log-probabilities of trained heads
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from avsr.align import default_heads
from avsr.checkpoint import Checkpoint
from avsr.models.avsr import AVSR
from avsr.models.decoder import Memory
from avsr.text import ctc_text

CTC_MEMORY = {"audio": "a", "video": "v", "fused": "av"}    # the case in which each head hears or sees only what it is for


@contextmanager
def watching(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple]]:
    """Inputs and output of the last call of each module, by its name, once they have run."""
    calls: dict[str, tuple] = {}

    def note(name: str, module: nn.Module, inputs: tuple, output: object) -> None:
        calls[name] = inputs, output

    hooks = [module.register_forward_hook(partial(note, name)) for name, module in modules.items()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class Looks:
    """Where each word was looked for: (W, S) float32, a row per word, 1/MEMORY_RATE s per column, each row adding up to
    `inside`, the share (W,) of the look that falls on the piece and not on the silence it is filled up with."""

    weights: np.ndarray
    inside: np.ndarray


@dataclass(frozen=True)
class Gate:
    """One gated way from one sense into a stream.

    layer: 1 is the lowest. where: "decoder", "into sound" or "into lips". opening, feed: tanh(g) of its attention and of
    its feed-forward, 0 closed, 1 open. trust: what both are multiplied with for this piece. change: length of what is added
    over the length of what it is added to, mean over the piece.
    """

    where: str
    layer: int
    opening: float
    feed: float
    trust: float
    change: float


def gated(model: AVSR) -> dict[str, nn.Module]:
    """The gated ways of a network by a name that `read_gates` understands."""
    if model.dims.video_frontend is None:
        return {}
    ways = {}
    for i, exchange in enumerate(model.fusion_layers, model.dims.n_audio_layers - model.dims.n_fusion_layers + 1):
        ways |= {f"into sound {i}": exchange.into_audio, f"into lips {i}": exchange.into_video}
    return ways | {f"decoder {i}": block.video for i, block in enumerate(model.decoder.blocks, 1)}


def read_gates(model: AVSR, calls: Mapping[str, tuple], trust: float | None, n_positions: int) -> tuple[Gate, ...]:
    """The gates of one utterance, from what `watching(gated(model))` saw. n_positions: those that are not padding."""
    out = []
    for name, way in gated(model).items():
        if name not in calls:
            continue
        where, _, layer = name.rpartition(" ")
        (x, *_), y = calls[name]
        x, y = (one[0].float() if where == "decoder" else one[0, :n_positions].float() for one in (x, y))
        change = ((y - x).norm(dim=-1) / x.norm(dim=-1).clamp_min(1e-8)).mean().item()
        believed = 1.0 if trust is None or where == "into lips" else trust
        out.append(Gate(where, int(layer), way.attention_gate.tanh().item(), way.feed_gate.tanh().item(), believed, change))
    return tuple(out)


@torch.no_grad()
def look(checkpoint: Checkpoint, memory: Memory, tokens: Sequence[int], language: str,
         n_positions: int) -> tuple[dict[str, Looks], dict[str, tuple]]:
    """Where the decoder looks at the sound ("audio") and at the lips ("video") for each word; and the calls of its gates.

    Means over the alignment heads for sound, where the model has some, else over the heads of the upper half, as
    `align` has it; over the tokens of a word; the look for a token is made at the token before it.
    """
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    prompt = tokenizer.prompt(language)
    chosen = {"audio": list(checkpoint.alignment_heads) or default_heads(model), "video": default_heads(model)}
    senses = {name: [block.audio if name == "audio" else block.video.attention for block in model.decoder.blocks]
              for name in chosen if getattr(memory, name) is not None}
    watched = {f"{name} {i}": module for name, modules in senses.items() for i, module in enumerate(modules)}
    gates = {name: way for name, way in gated(model).items() if name.startswith("decoder")}
    with watching(watched | gates) as calls:
        model.decoder(torch.tensor([[*prompt, *tokens]], device=memory.device), model.start(memory))
    out = {}
    for name, modules in senses.items():
        heads = [attended(modules[layer], calls[f"{name} {layer}"][0])[head] for layer, head in chosen[name]]
        rows = torch.stack(heads).mean(dim=0)[len(prompt) - 1:-1]
        parts = [len(word.tokens) for word in tokenizer.words(list(tokens), language)]
        means = torch.stack([part.mean(dim=0) for part in rows.split(parts)]).cpu().numpy()
        out[name] = Looks(means[:, :n_positions], means[:, :n_positions].sum(axis=1))
    return out, {name: calls[name] for name in gates if name in calls}


def attended(attention: nn.Module, inputs: tuple) -> Tensor:
    """The weights (H, L, S) float32 with which a call of blocks.Attention, of one utterance, looked; 0 where all is masked."""
    x, keys, _, mask = (*inputs, None)[:4]
    logits = attention.weights(x, keys)[0].float()
    if mask is not None:
        logits = logits.masked_fill(~mask[0], -torch.inf)
    return logits.softmax(dim=-1).nan_to_num()


def is_trained(head: nn.Linear) -> bool:
    """Whether a head has learnt anything. New ones lie within 1 / sqrt(inputs), where torch draws them; float16 rounds that
    by 0.05 %. Of the shipped models' heads those that were trained reach 3.6 to 9.1 times as far, the others 0.9999."""
    return head.weight.abs().max().item() > 1.01 / math.sqrt(head.in_features)


@torch.no_grad()
def read_ctc(checkpoint: Checkpoint, memories: Mapping[str, Memory],
             n_positions: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """Log-probabilities (S, n_ctc) float32 of the trained CTC heads by name, of those the memories allow; and the names of the
    heads that were never trained, whose letters would mean nothing."""
    heads = {name: head for name, head in checkpoint.model.ctc.items() if CTC_MEMORY[name] in memories}
    untrained = [name for name, head in heads.items() if not is_trained(head)]
    return {name: checkpoint.model.ctc_log_probs(memories[CTC_MEMORY[name]])[name][0, :n_positions].cpu().numpy()
            for name in heads if name not in untrained}, untrained


def letters(log_probs: np.ndarray) -> list[tuple[int, int]]:
    """The greedy reading of CTC log-probabilities (S, n_ctc): (position, class) of each letter, repeats and blanks left out,
    at the position where it is surest."""
    best, out = log_probs.argmax(axis=1), []
    edges = np.flatnonzero(np.diff(best, prepend=-1, append=-1))
    for first, end in pairwise(edges):
        if best[first] != 0:
            out.append((int(first + log_probs[first:end, best[first]].argmax()), int(best[first])))
    return out


def reading(log_probs: np.ndarray) -> str:
    """The text of `letters`."""
    return " ".join(ctc_text([one for _, one in letters(log_probs)]).split())
