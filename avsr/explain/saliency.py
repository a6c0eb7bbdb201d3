"""Saliency: which pixels of the mouth make the text more likely, by integrated gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avsr.explain.attention import forward_hooks, record_calls
from avsr.memory import Memory
from avsr.models.fusion import OODDetector, ReliabilityEstimator
from avsr.recogniser import EncodedAudio, MouthCrops, Recogniser
from avsr.runtime import Progress, no_progress

# Between the still and the moving mouth. On a 3 s clip the sum is off by 1.0, 0.9, 0.7 and 0.02 % with 8, 16, 24 and 32 steps.
STEPS = 16
FRAMES_AT_ONCE = 300                                        # through the video encoder with gradients: about 0.5 GB


@dataclass(frozen=True)
class Saliency:
    """What each pixel of the mouth adds to the mean log-probability of a token, in nats.
    pixels: (T, 88, 88) float32.  modality: "av" or "v", the case that was explained.  moving, still: the value with the mouth
    as it moves and with one that stands still; `pixels` adds up to their difference but for the steps of the integral."""

    pixels: np.ndarray
    modality: str
    moving: float
    still: float


def integrated_gradients(recogniser: Recogniser, audio: EncodedAudio | None, mouths: MouthCrops, tokens: Sequence[int], *,
                         language: str = "en", steps: int = STEPS, progress: Progress = no_progress) -> Saliency:
    """Integrated gradients (Sundararajan et al. 2017) of the mean log-probability of a token, the end counted, along the way
    from a still picture of the mouth, the mean of its frames, to the mouth as it moves, by the midpoint rule.

    audio: of the utterance, None to explain the video alone. The estimates of the video's reliability are held at those for the
    mouth itself: what is asked is what the lips say. Frames without a face get 0. (From an even grey, the usual start, what
    differs most from grey lights up: nostrils and the sides of the face.)
    """
    model, (images, seen) = recogniser.model, recogniser.batch_video([mouths])

    def encode(pictures: Tensor) -> Memory:
        n = len(pictures)
        sound = None if audio is None else audio.expand(n)
        return model.encode(None, pictures, seen=seen.expand(n, -1), mel_lengths=None if sound is None else sound.lengths,
                            audio_states=None if sound is None else sound.states)

    def value(pictures: Tensor) -> Tensor:
        scores = recogniser.score(encode(pictures), [tokens] * len(pictures), language)
        return torch.stack([one.mean() for one in scores])

    estimators = {name: module for name, module in model.named_modules()
                  if isinstance(module, ReliabilityEstimator | OODDetector)}
    with torch.no_grad(), record_calls(estimators) as calls:
        encode(images)
    there = seen[:, :, None, None]
    still = (images * there).sum(dim=1, keepdim=True) / there.sum(dim=1, keepdim=True).clamp_min(1)
    way = (images - still) * there
    gradient = torch.zeros_like(images)
    called = {name: module for name, module in estimators.items() if name in calls}
    with forward_hooks(called, lambda name, _, output: calls[name][1].expand(len(output))):
        with torch.no_grad():
            moving, without = (value(one).item() for one in (images, images - way))
        at_once = max(1, FRAMES_AT_ONCE // images.shape[1])
        for start in range(0, steps, at_once):
            progress("computing the saliency of the mouth", start, steps, "steps")
            along = (torch.arange(start, min(steps, start + at_once), device=images.device) + 0.5) / steps
            pictures = (images - (1 - along[:, None, None, None]) * way).requires_grad_()
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(value(pictures).sum(), pictures)
            gradient += slope.sum(dim=0, keepdim=True)
    return Saliency((way * gradient / steps)[0].float().cpu().numpy(), "v" if audio is None else "av", moving, without)
