"""Augmentation of mouths and sound in training.

    one example, in the loader:   sound (S,) float32 and mouths (T, 96, 96) uint8  ->  the same, partly hidden
    a whole batch, on its device: mouths (B, T, 96, 96) uint8  ->  (B, T, 88, 88) uint8 in other light, shape and position
Every function draws from the generator or seed that it is given, never from a global one; the same seed gives the same result.
A clip is changed in the same way in all its frames, so that no motion is added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from avsr.rates import MOUTH_INPUT, SAMPLE_RATE, VIDEO_FPS, samples_to_frames

if TYPE_CHECKING:
    from torch import Tensor

MID_GREY = 127.5
BEND_POINTS, BEND_PIXELS = 5, 2.0                           # of an elastic deformation: points a side, the most that each moves
BLUR_SIDE, BLUR_WIDTHS = 7, (0.4, 1.5)                      # pixels: the blur's kernel, its standard deviations
COVERED = (0.1, 0.4)                                        # of the picture's side: sides of a rectangle that covers part of it


@dataclass(frozen=True)
class Augment:
    """How much is changed. Amounts are the largest to either side, chances are shares of the clips; 0 disables a part."""

    flip: float = 0.5                 # chance of a mirror image
    scale: float = 0.1                # of the size
    degrees: float = 8.0              # of rotation
    perspective: float = 0.03         # of the side, by which each corner moves independently
    stretch: float = 0.0              # of the ratio of width to height
    elastic: float = 0.1              # chance of an elastic deformation by up to 2 pixels
    brightness: float = 20.0          # of 255, at mid grey
    contrast: float = 0.2             # of the contrast
    gamma: float = 0.2                # of the exponent
    shade: float = 0.0                # of the light, by which one edge is brighter and the opposite one darker
    blur: float = 0.1                 # chance of a Gaussian blur, of up to 1.5 pixels
    erase: float = 0.25               # chance that a rectangle of the mouth is covered
    mask_frames: int = 10             # longest stretch of frames hidden, once a second
    mask_seconds: float = 0.4         # longest stretch of sound hidden, once a second
    speed: float = 0.1                # of the speed
    gain_db: float = 6.0              # of the loudness


# The largest value of each setting: 1 for a chance, and for an amount one that leaves something to see or hear.
MAX_VALUES = {"flip": 1, "scale": 0.9, "degrees": 180, "perspective": 0.4, "stretch": 0.9, "elastic": 1, "brightness": MID_GREY,
        "contrast": 1, "gamma": 1, "shade": 1, "blur": 1, "erase": 1, "mask_frames": 1000, "mask_seconds": 40, "speed": 0.9,
        "gain_db": 60}


# --- a batch of mouths ---

def augment_mouths(mouths: Tensor, lengths: Sequence[int], seeds: Sequence[int], settings: Augment) -> Tensor:
    """Mouths (B, T, 96, 96) uint8 on any device -> (B, T, 88, 88) uint8 on the same one.

    lengths: how many frames of each clip are not padding; padding stays 0. seeds: one per clip, which alone decides the draws.
    """
    out = mouths.new_zeros(*mouths.shape[:2], MOUTH_INPUT, MOUTH_INPUT)
    some = mouths[:, :, ::4, ::4]                           # enough pixels for a mean; all of them would take as long as a warp
    totals = some.flatten(1).sum(dim=1).tolist()            # of all clips at once, so that a GPU is waited for once per batch
    for i, (n_frames, seed, total) in enumerate(zip(lengths, seeds, totals, strict=True)):
        grey = total / max(1, n_frames * math.prod(some.shape[2:]))
        out[i, :n_frames] = augment_clip(mouths[i, :n_frames], grey, settings, np.random.default_rng(seed))
    return out


def augment_clip(clip: Tensor, grey: float, settings: Augment, rng: np.random.Generator) -> Tensor:
    """(T, H, W) uint8 of mean grey level `grey` -> (T, 88, 88) uint8.

    The frames are passed to torchvision as channels of one picture, by which a warp of 75 frames is 2 times and a blur 15 times
    as fast as in a batch of pictures. The mean grey level is subtracted first, so that zeros beyond a picture's edge are grey.
    """
    import torch
    from torchvision.transforms import v2

    table = light_table(settings, rng)
    grey = float(table[round(grey)])
    clip = (table - grey).to(clip.device).index_select(0, clip.flatten().int()).view_as(clip)
    clip = warp(clip, settings, rng)
    if settings.shade:
        clip = shaded(clip + grey, settings, rng) - grey
    if rng.random() < settings.elastic:
        clip = bend(clip, rng)
    top, left = (int(rng.integers(side - MOUTH_INPUT + 1)) for side in clip.shape[1:])
    clip = v2.functional.crop(clip, top, left, MOUTH_INPUT, MOUTH_INPUT)
    if rng.random() < settings.flip:
        clip = v2.functional.horizontal_flip(clip)
    if rng.random() < settings.blur:
        clip = v2.functional.gaussian_blur(clip, [BLUR_SIDE, BLUR_SIDE], [rng.uniform(*BLUR_WIDTHS)])
    if rng.random() < settings.erase:
        clip = cover(clip, rng)
    return clip.add_(grey).round_().clamp_(0, 255).to(torch.uint8)


def light_table(settings: Augment, rng: np.random.Generator) -> Tensor:
    """The new value of each of the 256 grey levels, (256,) float32 from 0 to 255, in another contrast, gamma and brightness."""
    import torch
    from torchvision.transforms import v2

    curve, range_, light = rng.uniform(-1, 1, 3) * (settings.gamma, settings.contrast, settings.brightness / MID_GREY)
    levels = torch.arange(256).view(1, 1, -1) / 255         # as a picture one pixel high, its mean is mid grey
    levels = v2.functional.adjust_contrast(levels, 1 + range_)
    levels = v2.functional.adjust_gamma(levels, 1 + curve)
    levels = v2.functional.adjust_brightness(levels, 1 + light)
    return (levels * 255).flatten()


def warp(clip: Tensor, settings: Augment, rng: np.random.Generator) -> Tensor:
    """(T, H, W) float scaled, stretched, rotated about its centre and in another perspective; 0 beyond its edges."""
    from torchvision.transforms import v2

    if not (settings.scale or settings.degrees or settings.perspective or settings.stretch):
        return clip
    height, width = clip.shape[1:]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=float)
    size, turn = rng.uniform(-1, 1, 2) * (settings.scale, math.radians(settings.degrees))
    turned = (1 + size) * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    if settings.stretch:
        turned = turned * np.exp(np.array([0.5, -0.5]) * rng.uniform(-1, 1) * settings.stretch)
    middle = corners.mean(axis=0)
    moved = middle + (corners - middle) @ turned.T + rng.uniform(-1, 1, (4, 2)) * settings.perspective * (width, height)
    return v2.functional.perspective(clip, corners.tolist(), moved.tolist())


def shaded(clip: Tensor, settings: Augment, rng: np.random.Generator) -> Tensor:
    """(T, H, W) float under a light from one side, which falls off evenly across the picture."""
    import torch

    angle, amount = rng.uniform(-math.pi, math.pi), rng.uniform(0, settings.shade)
    down, across = (torch.linspace(-1, 1, side, device=clip.device) for side in clip.shape[1:])
    return clip * (1 + amount * (math.sin(angle) * down[:, None] + math.cos(angle) * across) / math.sqrt(2))


def bend(clip: Tensor, rng: np.random.Generator) -> Tensor:
    """(T, H, W) float deformed elastically by moving a few points; 0 beyond its edges.

    Drawing a few points and interpolating takes 1 ms; blurring a draw per pixel, as v2.ElasticTransform does, 11 ms.
    """
    import torch
    from torchvision.transforms import v2

    height, width = clip.shape[1:]
    half_sides = np.array([width, height]).reshape(2, 1, 1) / 2             # the unit of v2.functional.elastic
    points = torch.from_numpy(rng.uniform(-BEND_PIXELS, BEND_PIXELS, (2, BEND_POINTS, BEND_POINTS)) / half_sides)
    moved = v2.functional.resize(points.float(), [height, width], interpolation=v2.InterpolationMode.BICUBIC)
    return v2.functional.elastic(clip, moved.permute(1, 2, 0)[None])


def cover(clip: Tensor, rng: np.random.Generator) -> Tensor:
    """(T, H, W) float in which one rectangle, the same in all frames, is 0: a hand, a microphone, a caption."""
    from torchvision.transforms import v2

    tall, wide = (max(1, round(share * side)) for share, side in zip(rng.uniform(*COVERED, 2), clip.shape[1:], strict=True))
    top, left = int(rng.integers(clip.shape[1] - tall + 1)), int(rng.integers(clip.shape[2] - wide + 1))
    return v2.functional.erase(clip, top, left, tall, wide, clip.new_zeros(1))


# --- an example ---

def hide_frames(images: np.ndarray, settings: Augment, rng: np.random.Generator) -> np.ndarray:
    """(T, H, W) uint8 with some runs of frames hidden."""
    return time_mask(images, rng, longest=settings.mask_frames, every=VIDEO_FPS)


def augment_sound(audio: np.ndarray, settings: Augment, rng: np.random.Generator) -> np.ndarray:
    """(S,) float32 -> (S,) float32: louder or softer, and partly hidden. Noise is added before, by noise/."""
    gain = 10 ** (rng.uniform(-settings.gain_db, settings.gain_db) / 20)
    return time_mask(audio * np.float32(gain), rng, longest=round(settings.mask_seconds * SAMPLE_RATE), every=SAMPLE_RATE)


def make_unreadable(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(T, H, W) uint8 made unreadable: one frame repeated, frames out of order, upside down, blurred or noisy."""
    import cv2

    way = int(rng.integers(5))
    if way == 0:
        return np.repeat(images[rng.integers(len(images))][None], len(images), axis=0)
    if way == 1:
        return images[rng.permutation(len(images))]
    if way == 2:
        return np.ascontiguousarray(images[:, ::-1])
    if way == 3:
        width = float(rng.uniform(6, 16))
        return np.stack([cv2.GaussianBlur(image, (0, 0), width) for image in images])
    noise = rng.normal(0, rng.uniform(60, 150), images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


# --- time ---

def time_mask(values: np.ndarray, rng: np.random.Generator, *, longest: int = 10, every: int = VIDEO_FPS) -> np.ndarray:
    """(T, ...) with a run of up to `longest` steps replaced by the mean for every `every` steps, rounded up; auto_avsr hides
    10 of 25 frames. In a shorter clip no run is a larger share of it."""
    values = values.copy()
    n = len(values)
    mean = values.mean(dtype=np.float64) if n else 0
    fill = values.dtype.type(round(mean) if values.dtype.kind == "u" else mean)
    for _ in range(-(-n // every)):
        length = int(rng.integers(min(longest, n * longest // every) + 1))
        start = int(rng.integers(n - length + 1))
        values[start: start + length] = fill
    return values


def speed(images: np.ndarray | None, missing: np.ndarray | None, audio: np.ndarray | None, factor: float,
          times: np.ndarray | None = None) -> tuple[np.ndarray | None, ...]:
    """(images, missing, audio, times) played `factor` times as fast; None stays None.

    The new number of frames is rounded, and the sound resampled by exactly the same ratio, so that both end together.
    images (T, ...) and missing (T,) take the frame shown at each new frame's middle; the pitch of audio (S,) float32
    rises with the speed; times (...) are in seconds from the start of the clip.
    """
    assert factor > 0, factor
    if images is not None:
        n = len(images)
    else:
        assert audio is not None
        n = samples_to_frames(len(audio))
    new = max(1, round(n / factor))
    if new == n:
        return images, missing, audio, times
    shown = (2 * np.arange(new) + 1) * n // (2 * new)
    ratio = Fraction(new, n)
    return (None if images is None else images[shown],
            None if missing is None else missing[shown],
            None if audio is None else _resampled(audio, ratio),
            None if times is None else np.asarray(times) * float(ratio))


def _resampled(audio: np.ndarray, ratio: Fraction) -> np.ndarray:
    """(S,) -> (round(S * ratio),) float32, linear phase."""
    from scipy.signal import resample_poly

    made = resample_poly(audio, ratio.numerator, ratio.denominator).astype(np.float32)
    return made[: round(len(audio) * ratio)]
