"""What is minimised: label-smoothed attention, CTC on each memory, frame labels, and the judge of the lips.

    Batch -> Learner (network + label heads) -> Losses
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsr.batch import IGNORE, Batch
from avsr.config import LossConfig
from avsr.dataset import NO_LABEL
from avsr.models.avsr import AVSR, Memory
from avsr.output import whole_file
from avsr.rates import MEMORY_PER_FRAME


@dataclass(frozen=True)
class Losses:
    """The weighted sum to minimise, and each part by its name, unweighted."""

    total: Tensor
    parts: dict[str, Tensor]


class Learner(nn.Module):
    """A network with what only training needs: linear heads that name the word said at each frame.

    Frame labels are what lets lips learn from little data: on 800 clips of one speaker character CTC alone stays at 94 %
    WER where frame labels reach 9 % in the same time. The lips get them before they have heard anything.
    """

    def __init__(self, model: AVSR, config: LossConfig, n_labels: int, remembered: Path | None = None):
        """remembered: a folder in which encoded sounds are kept, for networks whose ears do not learn."""
        super().__init__()
        self.model, self.config = model, config
        self.remembered = remembered
        names = ("audio", "lips") if model.dims.lips is not None else ("audio",)
        self.labels = nn.ModuleDict({name: nn.Linear(model.dims.width, n_labels) for name in names} if n_labels > 1 else {})

    def forward(self, batch: Batch) -> Losses:
        """All losses whose weight is above 0 and whose inputs are there."""
        config = self.config
        mouths = None if batch.mouths is None else batch.mouths.float() / 255
        heard = None if batch.mel is None or batch.sounds is None else remembered(self.model, batch, self.remembered)
        memory = self.model.encode(batch.mel, mouths, mel_lengths=batch.mel_lengths, seen=batch.seen, heard=heard)
        parts = {}
        if config.frames and self.labels:
            parts |= self._frames(memory, batch)
        parts |= self._ctc(memory, batch)
        if config.trust and memory.trust_logits is not None:
            parts["trust"] = self._trust(memory, batch)
        if config.attention:
            parts["attention"] = self._attention(memory, batch)
        weights = {"frames_audio": config.frames, "frames_lips": config.frames, "trust": config.trust,
                   "attention": config.attention, "ctc_audio": config.ctc_audio, "ctc_video": config.ctc_video,
                   "ctc_fused": config.ctc_fused}
        total = sum((weights[name] * value for name, value in parts.items()), batch.tokens.new_zeros((), dtype=torch.float32))
        if torch.is_grad_enabled() and not total.requires_grad:         # only frozen parts had a say: still a gradient, of 0
            total = total + 0 * next(parameter for parameter in self.parameters() if parameter.requires_grad).flatten()[0]
        return Losses(total, parts)

    def _frames(self, memory: Memory, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy per frame. Labels of somebody else's sound say nothing about the lips."""
        out = {}
        for name, states in (("audio", memory.audio), ("lips", memory.lips)):
            if states is None or name not in self.labels:
                continue
            labels = batch.labels if name == "audio" else batch.labels.masked_fill(~batch.matched[:, None], NO_LABEL)
            if name == "lips":
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
            if name in wanted:
                per_letter = ctc_per_letter(log_probs, memory_lengths(name, batch, log_probs.shape[1], self.model), batch)
                kept = batch.matched if name != "audio" else torch.ones_like(batch.matched)
                if kept.any():
                    out[f"ctc_{name}"] = per_letter[kept].mean()
        return out

    def _attention(self, memory: Memory, batch: Batch) -> Tensor:
        """Of matched pairs only: of others the judge must see to it that the lips are not believed."""
        kept = batch.matched.nonzero()[:, 0]
        if len(kept) < len(batch.ids):
            memory = memory.select(kept)
        tokens, targets = batch.tokens[kept], batch.targets[kept]
        if not len(kept):
            return (memory.audio if memory.video is None else memory.video).sum() * 0
        if memory.trust is not None:                        # what is said is learnt apart from whether it is believed
            memory = replace(memory, trust=None, heed=None)
        logits = self.model.decoder(tokens, self.model.start(memory))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE,
                               label_smoothing=self.config.smoothing)

    def _trust(self, memory: Memory, batch: Batch) -> Tensor:
        """Lips are to be believed as far as they belong to the sound and can be read: by their own CTC loss."""
        with torch.no_grad():
            log_probs = self.model.ctc["video"](memory.lips).float().log_softmax(dim=-1)
            per_letter = ctc_per_letter(log_probs, memory_lengths("video", batch, log_probs.shape[1], self.model), batch,
                                        impossible=torch.inf)
            target = (batch.matched & (per_letter < self.config.trusted_loss)).float()
        return F.binary_cross_entropy_with_logits(memory.trust_logits.float(), target)


def remembered(model: AVSR, batch: Batch, folder: Path | None) -> Tensor | None:
    """What the ears make of a batch's sounds (B, S, D), from the folder where it has been made before; None without one.
    Whisper takes 0.8 s of a core for it (it hears 30 s each time), the disk 2 ms."""
    if folder is None:
        return None
    paths = [folder / f"{quote(name, safe='')}.npy" for name in batch.sounds]
    fresh = [i for i, path in enumerate(paths) if not path.exists()]
    if fresh:
        lengths = None if batch.mel_lengths is None else batch.mel_lengths[fresh]
        with torch.no_grad():
            made = model.listen(batch.mel[fresh], lengths)
        for i, sound in zip(fresh, made, strict=True):
            n = len(sound) if batch.mel_lengths is None else int(model.audio.positions(batch.mel_lengths[i]))
            with whole_file(paths[i]) as part, part.open("wb") as file:
                np.save(file, sound[:n].half().cpu().numpy())           # the next batch may be longer or shorter
    sounds = [torch.from_numpy(np.load(path)) for path in paths]
    return nn.utils.rnn.pad_sequence(sounds, batch_first=True).to(batch.mel.device, batch.mel.dtype)


def memory_lengths(name: str, batch: Batch, size: int, model: AVSR) -> Tensor:
    """(B,) positions of the audio, video or fused memory that belong to each utterance, at most `size`."""
    lengths = batch.lengths * MEMORY_PER_FRAME
    if batch.mel_lengths is not None and name != "video":
        heard = model.audio.positions(batch.mel_lengths)
        lengths = heard if name == "audio" else torch.minimum(lengths, heard)
    return lengths.clamp(1, size)


def ctc_per_letter(log_probs: Tensor, lengths: Tensor, batch: Batch, *, impossible: float = 0.0) -> Tensor:
    """CTC loss (B,) of log-probabilities (B, S, n_ctc), divided by each text's number of letters; `impossible` where there
    are more letters than positions."""
    loss = F.ctc_loss(log_probs.transpose(0, 1), batch.classes, lengths, batch.class_lengths, reduction="none",
                      zero_infinity=impossible == 0)
    return loss / batch.class_lengths.clamp_min(1)
