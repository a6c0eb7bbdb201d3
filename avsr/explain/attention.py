"""Attention, gates and CTC: read off the network as it runs; nothing in it is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from avsr.memory import Memory
from avsr.models.avsr import AVSR
from avsr.models.blocks import Attention
from avsr.models.decoder import DecoderBlock
from avsr.models.fusion import GatedCrossAttention
from avsr.recogniser import Recogniser
from avsr.text import ctc_text
from avsr.timing import default_heads, is_trained

CTC_MODALITY = {"audio": "a", "video": "v", "fused": "av"}  # what each CTC head is for
Calls = dict[str, tuple[tuple, Any]]                        # inputs and output of the last call of modules, by their names


@contextmanager
def forward_hooks(modules: Mapping[str, nn.Module], hook: Callable[[str, tuple, Any], Any]) -> Iterator[None]:
    """Call hook(name, inputs, output) whenever a module has run; what it returns, unless None, takes the output's place."""
    with ExitStack() as stack:
        for name, module in modules.items():
            handle = module.register_forward_hook(lambda _, inputs, output, name=name: hook(name, inputs, output))
            stack.callback(handle.remove)
        yield


@contextmanager
def record_calls(modules: Mapping[str, nn.Module]) -> Iterator[Calls]:
    """Yield the calls of these modules, which are filled in as they run."""
    calls: Calls = {}
    with forward_hooks(modules, lambda name, inputs, output: calls.update({name: (inputs, output)})):
        yield calls


@dataclass(frozen=True)
class Gate:
    """A gated path from one modality into a stream.
    where: "decoder", "into audio" or "into video".  layer: 1 is the lowest.  attention, feed: tanh(g) of its attention and
    of its feed-forward network, 0 closed, 1 open.  reliability: what both are multiplied with for this segment.
    change: length of what is added over the length of what it is added to, mean over the segment."""

    where: str
    layer: int
    attention: float
    feed: float
    reliability: float
    change: float


def gated_modules(model: nn.Module) -> dict[str, GatedCrossAttention]:
    """The gated paths of a network, by their names in it: fusion_layers.0.into_audio, then decoder.blocks.0.video."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, GatedCrossAttention)}
    return dict(sorted(found.items(), key=lambda item: item[0].startswith("decoder")))


def read_gates(model: AVSR, calls: Calls, reliability: float | None, n_positions: int) -> tuple[Gate, ...]:
    """The gates of one utterance, from its calls of `gated_modules`. n_positions: those that are not padding."""
    out = []
    for name, module in gated_modules(model).items():
        if name not in calls:
            continue
        stack, number, stream = name.rsplit(".", 2)
        where, layer = "decoder", int(number) + 1
        if stack == "fusion_layers":
            where, layer = stream.replace("_", " "), layer + model.dims.n_audio_layers - model.dims.n_fusion_layers
        (x, *_), y = calls[name]
        x, y = (one[0].float() if where == "decoder" else one[0, :n_positions].float() for one in (x, y))
        change = ((y - x).norm(dim=-1) / x.norm(dim=-1).clamp_min(1e-8)).mean().item()
        factor = 1.0 if reliability is None or where == "into video" else reliability
        out.append(Gate(where, layer, module.attention_gate.tanh().item(), module.feed_gate.tanh().item(), factor, change))
    return tuple(out)


@torch.no_grad()
def read_attention(recogniser: Recogniser, memory: Memory, tokens: Sequence[int], language: str,
                   n_positions: int) -> tuple[dict[str, np.ndarray], Calls]:
    """The decoder's attention to "audio" and "video", (words, positions) float32 each; and the calls of its gated modules.
    Mean over the alignment heads for audio, where the model has some, else over the heads of the upper half, as in `align`,
    and over the tokens of a word; the attention for a token is that of the token before it. A row adds up to the share of the
    attention that falls on the segment and not on the silence it is padded with."""
    model, tokenizer = recogniser.model, recogniser.tokenizer
    assert isinstance(model, AVSR)
    prompt, usual = tokenizer.prompt(language), default_heads(model)
    heads = {"audio": list(recogniser.checkpoint.alignment_heads) or usual, "video": usual}
    modules: dict[str, Attention] = {}
    for i, block in enumerate(model.decoder.blocks):
        assert isinstance(block, DecoderBlock)
        modules[f"audio {i}"] = block.audio
        if block.video is not None:
            modules[f"video {i}"] = block.video.attention
    gates = {name: module for name, module in gated_modules(model).items() if name.startswith("decoder")}
    with record_calls(modules | gates) as calls:
        model.decoder(torch.tensor([[*prompt, *tokens]], device=memory.device), model.start(memory))
    lengths = [len(word.tokens) for word in tokenizer.words(list(tokens), language)]
    out = {}
    for name in (name for name in heads if f"{name} 0" in calls):
        weights = [attention_weights(modules[f"{name} {layer}"], calls[f"{name} {layer}"][0])[head]
                   for layer, head in heads[name]]
        rows = torch.stack(weights).mean(dim=0)[len(prompt) - 1:-1]
        out[name] = torch.stack([part.mean(dim=0) for part in rows.split(lengths)]).cpu().numpy()[:, :n_positions]
    return out, {name: calls[name] for name in gates if name in calls}


def attention_weights(attention: Attention, inputs: tuple) -> Tensor:
    """The weights (H, L, S) float32 of a call of blocks.Attention, of one utterance; 0 where all is masked."""
    x, keys, _, *mask = inputs
    logits = attention.weights(x, keys)[0].float()
    if mask and mask[0] is not None:
        logits = logits.masked_fill(~mask[0][0], -torch.inf)
    return logits.softmax(dim=-1).nan_to_num()


@torch.no_grad()
def read_ctc(model: AVSR, memories: Mapping[str, Memory], n_positions: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """Log-probabilities (S, n_ctc) float32 of the trained CTC heads by name, of those the memories allow; and the names of the
    heads that were never trained, whose letters would mean nothing."""
    heads = {name: head for name, head in model.ctc.items() if isinstance(head, nn.Linear) and CTC_MODALITY[name] in memories}
    untrained = [name for name, head in heads.items() if not is_trained(head)]
    return {name: model.ctc_log_probs(memories[CTC_MODALITY[name]])[name][0, :n_positions].cpu().numpy()
            for name in heads if name not in untrained}, untrained


def greedy_letters(log_probs: np.ndarray) -> list[tuple[int, int]]:
    """The greedy reading of CTC log-probabilities (S, n_ctc): (position, class) of each letter, repeats and blanks left out,
    at the position where it is surest."""
    best = log_probs.argmax(axis=1)
    runs = [(first, end, int(best[first])) for first, end in pairwise(np.flatnonzero(np.diff(best, prepend=-1, append=-1)))]
    return [(int(first + log_probs[first:end, letter].argmax()), letter) for first, end, letter in runs if letter]


def greedy_text(log_probs: np.ndarray) -> str:
    """The text of `greedy_letters`."""
    return " ".join(ctc_text([letter for _, letter in greedy_letters(log_probs)]).split())
