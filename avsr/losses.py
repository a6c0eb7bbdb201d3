"""What training minimises: label-smoothed attention, CTC on each memory, frame labels, and the reliability of the video.

    Batch -> LossModule (network + label heads) -> Losses
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsr.batch import IGNORE, Batch
from avsr.config import LossConfig
from avsr.dataset import NO_LABEL
from avsr.memory import Memory
from avsr.models.avsr import AVSR
from avsr.rates import MEMORY_PER_FRAME

# Names of the parameters that no loss of a batch without sound, or without mouths, depends on.
NEEDS = {name: re.compile(rf"(model\.{name}|labels\.{name}|model\.ctc\.({name}|fused)|model\.fusion_layers|model\.reliability"
                          rf"|model\.decoder\.blocks\.\d+\.{name}(_norm)?)\.") for name in ("audio", "video")}


@dataclass(frozen=True)
class Losses:
    """The weighted sum to minimise, and its parts by name, unweighted. used: see LossModule.run_all; None without it."""

    total: Tensor
    parts: dict[str, Tensor]
    used: frozenset[str] | None = None


class LossModule(nn.Module):
    """The network and its losses, with the linear heads that only training needs: they name the word said at each frame.

    Frame labels let the video encoder learn from little data: on 800 clips of one speaker character CTC alone stays at 94 %
    WER where frame labels reach 9 % in the same time. They apply to the video before fusion.

    run_all: whether every block runs for every batch, also for one without sound or without mouths, which then get an empty
    one. Processes that share the weights of a block (train/parallel.py) must all run it, in one order, or they would wait for
    each other for ever. Losses and gradients are the same, but for gradients of 0 where there would be none; `Losses.used`
    names the parameters that do have one. parameter_names: by the id of each parameter, as `forward` sees it.
    """

    def __init__(self, model: AVSR, config: LossConfig, n_labels: int):
        super().__init__()
        self.run_all = False
        self.parameter_names: dict[int, str] = {}
        self._used: dict[tuple, frozenset[str]] = {}
        self.model, self.config = model, config
        names = ("audio", "video") if model.dims.video_frontend is not None else ("audio",)
        self.labels = nn.ModuleDict({name: nn.Linear(model.dims.width, n_labels) for name in names} if n_labels > 1 else {})

    def forward(self, batch: Batch) -> Losses:
        """All losses whose weight is above 0 and whose inputs the batch has."""
        config = self.config
        memory = self._encode(batch)
        parts = {}
        if config.frames and self.labels:
            parts |= self._frames(memory, batch)
        parts |= self._ctc(memory, batch)
        if config.reliability and memory.reliability_logits is not None and "fused" in _known(batch):
            parts["reliability"] = self._reliability(memory, batch)
        if config.attention and not self.model.ctc_only:
            parts["attention"] = self._attention(memory, batch)
        weights = {"frames_audio": config.frames, "frames_video": config.frames, "reliability": config.reliability,
                   "attention": config.attention, "ctc_audio": config.ctc_audio, "ctc_video": config.ctc_video,
                   "ctc_fused": config.ctc_fused}
        total = sum((weights[name] * value for name, value in parts.items()), batch.tokens.new_zeros((), dtype=torch.float32))
        if torch.is_grad_enabled() and not total.requires_grad and not self.run_all:    # only frozen parts: gradient 0
            total = total + 0 * next(parameter for parameter in self.parameters() if parameter.requires_grad).flatten()[0]
        if not self.run_all:
            return Losses(total, parts)
        used = self._parameters_used(total, parts, batch)
        return Losses(total + 0 * self._rest(memory, batch), parts, used)

    def _encode(self, batch: Batch) -> Memory:
        """The memory of a batch; with `run_all`, an empty one stands for the sound or the mouths that it lacks."""
        mel, mel_lengths, seen = batch.mel, batch.mel_lengths, batch.seen
        mouths = None if batch.mouths is None else batch.mouths.float() / 255
        if not self.run_all or self.model.dims.video_frontend is None:
            return self.model.encode(mel, mouths, mel_lengths=mel_lengths, seen=seen)
        n, device, resting = len(batch.ids), batch.tokens.device, []
        if mel is None:
            shape = (n, 4, self.model.dims.n_mels) if self.model.dims.n_mels else (n, 2 * self.model.audio.wave.samples, 1)
            mel, mel_lengths = torch.zeros(shape, device=device), torch.zeros(n, dtype=torch.long, device=device)
            resting = [module for module in self.model.audio.modules() if module.training]
        if mouths is None:
            mouths = torch.zeros(n, 2, 88, 88, device=device)
            seen = torch.zeros(n, 2, dtype=torch.bool, device=device)
            resting = [module for module in self.model.video.modules() if module.training]
        for module in resting:                              # no running mean follows what is not there, and no dropout draws
            module.training = False
        try:
            return self.model.encode(mel, mouths, mel_lengths=mel_lengths, seen=seen)
        finally:
            for module in resting:
                module.training = True

    def _rest(self, memory: Memory, batch: Batch) -> Tensor:
        """The sum of all that may be computed for a batch and not be part of its loss, so that it has a gradient."""
        states = (memory.audio, memory.video, memory.unfused_video, memory.reliability_logits)
        total = sum((x.float().sum() for x in states if x is not None), batch.tokens.new_zeros((), dtype=torch.float32))
        if self.config.attention and not self.model.ctc_only and not batch.reliable.any():
            total = total + self._attention(memory, replace(batch, reliable=torch.ones_like(batch.reliable)))
        heads = [self.labels, self.model.ctc, *([] if self.model.reliability is None else [self.model.reliability])]
        return total + sum(p.flatten()[0].float() for head in heads for p in head.parameters() if p.requires_grad)

    def _parameters_used(self, total: Tensor, parts: dict[str, Tensor], batch: Batch) -> frozenset[str]:
        """Names of the parameters of which the loss of a batch is a function."""
        if not total.requires_grad:                         # as where each batch runs only what it needs
            return frozenset([next(name for name, parameter in self.named_parameters() if parameter.requires_grad)])
        lacking = [name for name, x in (("audio", batch.mel), ("video", batch.mouths)) if x is None]
        key = (*lacking, *parts, bool(batch.reliable.any()))
        if key not in self._used:
            names = {self.parameter_names[id(leaf)] for leaf in _leaves(total)}
            self._used[key] = frozenset(name for name in names if not any(NEEDS[one].match(name) for one in lacking))
        return self._used[key]

    def _frames(self, memory: Memory, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy per frame. The labels of the sound do not apply to a mouth that does not belong to it."""
        out = {}
        for name, states in (("audio", memory.audio), ("video", memory.unfused_video)):
            if states is None or name not in self.labels or name not in _known(batch):
                continue
            labels = batch.labels if name == "audio" else batch.labels.masked_fill(~batch.reliable[:, None], NO_LABEL)
            if name == "video" and batch.seen is not None:
                labels = labels.masked_fill(~batch.seen, NO_LABEL)
            logits = self.labels[name](states[:, ::MEMORY_PER_FRAME])[:, :labels.shape[1]]
            labels = labels[:, :logits.shape[1]]
            if (labels != NO_LABEL).any():
                out[f"frames_{name}"] = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=NO_LABEL,
                                                        label_smoothing=self.config.smoothing)
        return out

    def _ctc(self, memory: Memory, batch: Batch) -> dict[str, Tensor]:
        wanted = {name for name in ("audio", "video", "fused") if getattr(self.config, f"ctc_{name}")}
        if not wanted or not self.model.dims.n_ctc:
            return {}
        out = {}
        for name, log_probs in self.model.ctc_log_probs(memory).items():
            if name in wanted & _known(batch):
                per_letter = ctc_per_letter(log_probs, memory_lengths(name, batch, log_probs.shape[1], self.model), batch)
                kept = batch.reliable if name != "audio" else torch.ones_like(batch.reliable)
                if kept.any():
                    out[f"ctc_{name}"] = per_letter[kept].mean()
        return out

    def _attention(self, memory: Memory, batch: Batch) -> Tensor:
        """Cross-entropy of the tokens of the clips whose video is reliable; other clips concern the estimator alone."""
        kept = batch.reliable.nonzero()[:, 0]
        if len(kept) < len(batch.ids):
            memory = memory.select(kept)
        tokens, targets = batch.tokens[kept], batch.targets[kept]
        if not len(kept):
            states = memory.audio if memory.video is None else memory.video
            assert states is not None
            return states.sum() * 0
        memory = replace(memory, reliability=None)          # the text is learnt independently of the estimate
        logits = self.model.decoder(tokens, self.model.start(memory))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE,
                               label_smoothing=self.config.smoothing)

    def _reliability(self, memory: Memory, batch: Batch) -> Tensor:
        """The video is reliable if it belongs to the sound and can be read, which its own CTC loss tells."""
        with torch.no_grad():
            log_probs = self.model.ctc["video"](memory.unfused_video).float().log_softmax(dim=-1)
            per_letter = ctc_per_letter(log_probs, memory_lengths("video", batch, log_probs.shape[1], self.model), batch,
                                        impossible=torch.inf)
            target = (batch.reliable & (per_letter < self.config.readable_loss)).float()
        assert memory.reliability_logits is not None
        return F.binary_cross_entropy_with_logits(memory.reliability_logits.float(), target)


def _known(batch: Batch) -> set[str]:
    """The memories that a batch has: `audio`, `video`, and `fused` where it has both."""
    names = {name for name, x in (("audio", batch.mel), ("video", batch.mouths)) if x is not None}
    return names | {"fused"} if len(names) == 2 else names


def _leaves(total: Tensor) -> list[Tensor]:
    """The parameters in the graph of a tensor."""
    leaves, seen, waiting = [], set(), [total.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            leaves.append(leaf)
        waiting += [next_one for next_one, _ in node.next_functions]
    return leaves


def memory_lengths(name: str, batch: Batch, size: int, model: AVSR) -> Tensor:
    """(B,) positions of the audio, video or fused memory that belong to each utterance, at most `size`."""
    lengths = batch.lengths * MEMORY_PER_FRAME
    if batch.mel_lengths is not None and name != "video":
        audio = model.audio.positions(batch.mel_lengths)
        lengths = audio if name == "audio" else torch.minimum(lengths, audio)
    return lengths.clamp(1, size)


def ctc_per_letter(log_probs: Tensor, lengths: Tensor, batch: Batch, *, impossible: float = 0.0) -> Tensor:
    """CTC loss (B,) of log-probabilities (B, S, n_ctc), divided by each text's number of letters; `impossible` where there
    are more letters than positions."""
    loss = F.ctc_loss(log_probs.transpose(0, 1), batch.classes, lengths, batch.class_lengths, reduction="none",
                      zero_infinity=impossible == 0)
    return loss / batch.class_lengths.clamp_min(1)
