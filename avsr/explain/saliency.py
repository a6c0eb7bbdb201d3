"""Which pixels of the mouth speak for the text: integrated gradients.

    encoded audio + mouths + tokens  ->  Saliency: nats per pixel and frame, which add up to what the mouth's movement is worth
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from avsr.explain.looks import watching
from avsr.models.decoder import Memory
from avsr.models.fusion import OODDetector, ReliabilityEstimator
from avsr.recogniser import EncodedAudio, MouthCrops, Recogniser
from avsr.runtime import Progress, no_progress

# Between the still and the moving mouth. On a 3 s clip the sum is off by 1.0, 0.9, 0.7 and 0.02 % with 8, 16, 24 and 32 steps.
STEPS = 16
FRAMES_AT_ONCE = 300                                        # through the lip network with gradients: about 0.5 GB


@dataclass(frozen=True)
class Saliency:
    """What each pixel of the mouth adds to the mean log-probability of a token, in nats.

    pixels: (T, 88, 88) float32. modality: "av" or "v", the case that was looked into. moving, still: the value with the mouth
    as it moves and with one that stands still; `pixels` adds up to their difference but for the steps of the integral.
    """

    pixels: np.ndarray
    modality: str
    moving: float
    still: float

    @property
    def frames(self) -> np.ndarray:
        """The sum over each frame, (T,) float64."""
        return self.pixels.sum(axis=(1, 2), dtype=np.float64)


def integrated_gradients(recogniser: Recogniser, audio: EncodedAudio | None, mouths: MouthCrops, tokens: Sequence[int], *,
                         language: str = "en", steps: int = STEPS, progress: Progress = no_progress) -> Saliency:
    """Integrated gradients (Sundararajan et al. 2017) of the mean log-probability of a token, the end counted, over the way
    from a still picture of the mouth, the mean of its frames, to the mouth as it moves, by the midpoint rule.

    audio: of the utterance, None to look into the lips alone. How far the lips are believed, how
    familiar they are and how far the sound is heeded are held at what they are for the mouth itself: what is asked is what
    the lips say. Frames without a face get 0. (From an even grey, the usual start, what differs most from grey lights up:
    nostrils and the sides of the face.)
    """
    model, (images, seen) = recogniser.model, recogniser.batch_video([mouths])

    def encode(pictures: Tensor) -> Memory:
        n = len(pictures)
        sound = None if audio is None else audio.expand(n)
        ears = {} if sound is None else {"heard": sound.states, "mel_lengths": sound.lengths}
        return model.encode(None, pictures, seen=seen.expand(n, -1), **ears)

    judges = {name: module for name, module in model.named_modules() if isinstance(module, (ReliabilityEstimator, OODDetector))}
    with torch.no_grad(), watching(judges) as verdicts:
        memory = encode(images)
    value = _Value(recogniser, memory, tokens, language)
    there = seen[:, :, None, None]
    still = (images * there).sum(dim=1, keepdim=True) / there.sum(dim=1, keepdim=True).clamp_min(1)
    way = (images - still) * there
    gradient = torch.zeros_like(images)
    with holding(judges, verdicts):
        with torch.no_grad():
            moving, without = (value(encode(one)).item() for one in (images, images - way))
        at_once = max(1, FRAMES_AT_ONCE // images.shape[1])
        for start in range(0, steps, at_once):
            progress("weighing the mouth's pixels", start, steps, "steps")
            along = (torch.arange(start, min(steps, start + at_once), device=images.device) + 0.5) / steps
            pictures = (images - (1 - along[:, None, None, None]) * way).requires_grad_()
            with torch.enable_grad():
                value(encode(pictures)).sum().backward()
            gradient += pictures.grad.sum(dim=0, keepdim=True)
    return Saliency((way * gradient / steps)[0].float().cpu().numpy(), "v" if audio is None else "av", moving, without)


class _Value:
    """Mean log-probability of the tokens and of the end after them: Memory of B utterances -> (B,)."""

    def __init__(self, recogniser: Recogniser, memory: Memory, tokens: Sequence[int], language: str):
        """memory: of the mouth itself. Where no exchange lets the lips into the sound, the sound's keys are made here, once."""
        prompt, self.model = recogniser.tokenizer.prompt(language), recogniser.model
        self.row = torch.tensor([*prompt, *tokens, recogniser.tokenizer.end], device=memory.device)
        self.n_prompt = len(prompt)
        shared = memory.audio is not None and not self.model.dims.n_fusion_layers
        with torch.no_grad():
            self.ears = self.model.start(memory).audio if shared else None

    def __call__(self, memory: Memory) -> Tensor:
        n = memory.n_utterances
        cache = self.model.start(memory if self.ears is None else replace(memory, audio=None))
        if self.ears is not None:
            cache.audio = [(keys.expand(n, -1, -1, -1), values.expand(n, -1, -1, -1)) for keys, values in self.ears]
        hidden = self.model.decoder.hidden(self.row[:-1].expand(n, -1), cache)[:, self.n_prompt - 1:]
        # In one row: with 50,000 tokens a product of a batch takes five times as long, for each gets a copy of the embedding.
        log_probs = self.model.decoder.logits(hidden.flatten(0, 1)).log_softmax(dim=-1)
        return log_probs.gather(1, self.row[self.n_prompt:].repeat(n)[:, None]).view(n, -1).mean(dim=1)


@contextmanager
def holding(judges: Mapping[str, nn.Module], verdicts: Mapping[str, tuple]) -> Iterator[None]:
    """Judges that give the verdicts (1,) seen by `looks.watching`, whatever is put before them."""
    def again(name: str, module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return verdicts[name][1].expand(len(output))

    hooks = [judge.register_forward_hook(partial(again, name)) for name, judge in judges.items() if name in verdicts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
