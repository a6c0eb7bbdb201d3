"""Augmentation, in training only: mouths and sound in, slightly other mouths and sound out.

    images (T, 96, 96) uint8, missing (T,) bool, audio (S,) float32  ->  the same; crop_flip gives (T, 88, 88)

Every function takes the generator it draws from; the same generator gives the same result. One draw holds for all
frames of a clip, so that nothing moves that did not move before.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from avsr.rates import MOUTH_INPUT, SAMPLE_RATE, VIDEO_FPS, samples_to_frames


@dataclass(frozen=True)
class Augment:
    """How much is changed. Each amount is the most to either side; 0 switches its part off."""

    flip: float = 0.5                 # chance of a mirror image
    scale: float = 0.1                # of the size
    degrees: float = 8.0              # of rotation
    brightness: float = 20.0          # of 255
    contrast: float = 0.2             # of the contrast
    gamma: float = 0.2                # of the exponent
    erase: float = 0.25               # chance that a rectangle of the mouth is covered
    mask_frames: int = 10             # longest stretch of frames hidden, once a second
    mask_seconds: float = 0.4         # longest stretch of sound hidden, once a second
    speed: float = 0.1                # of the speed
    gain_db: float = 6.0              # of the loudness


def augment_mouths(images: np.ndarray, settings: Augment, rng: np.random.Generator) -> np.ndarray:
    """(T, 96, 96) uint8 -> (T, 88, 88) uint8: jittered, cropped, perhaps mirrored, in parts covered and hidden."""
    images = jitter(images, rng, scale=settings.scale, degrees=settings.degrees, brightness=settings.brightness,
                    contrast=settings.contrast, gamma=settings.gamma)
    images = crop_flip(images, rng, p_flip=settings.flip)
    if rng.random() < settings.erase:
        images = erase(images, rng)
    return time_mask(images, rng, longest=settings.mask_frames, every=VIDEO_FPS)


def augment_sound(audio: np.ndarray, settings: Augment, rng: np.random.Generator) -> np.ndarray:
    """(S,) float32 -> (S,) float32: louder or softer, and in parts hidden. Noise is added before, by noise.py."""
    gain = 10 ** (rng.uniform(-settings.gain_db, settings.gain_db) / 20)
    return time_mask(audio * np.float32(gain), rng, longest=round(settings.mask_seconds * SAMPLE_RATE), every=SAMPLE_RATE)


# --- pictures ---

def crop_flip(images: np.ndarray, rng: np.random.Generator, size: int = MOUTH_INPUT, p_flip: float = 0.5) -> np.ndarray:
    """(T, H, W) uint8 -> (T, size, size) uint8 from a random place, mirrored with chance `p_flip`."""
    top, left = (int(rng.integers(side - size + 1)) for side in images.shape[1:])
    images = images[:, top: top + size, left: left + size]
    return np.ascontiguousarray(images[:, :, ::-1] if rng.random() < p_flip else images)


def centre(images: np.ndarray, size: int = MOUTH_INPUT) -> np.ndarray:
    """(T, H, W) uint8 -> (T, size, size) uint8 from the middle: what is used outside training."""
    top, left = ((side - size) // 2 for side in images.shape[1:])
    return np.ascontiguousarray(images[:, top: top + size, left: left + size])


def jitter(images: np.ndarray, rng: np.random.Generator, *, scale: float = 0.1, degrees: float = 8.0,
           brightness: float = 20.0, contrast: float = 0.2, gamma: float = 0.2) -> np.ndarray:
    """(T, H, W) uint8 of the same size: scaled and turned about the middle, in another light. Amounts as in Augment."""
    import cv2

    size, turn, light, range_, curve = rng.uniform(-1, 1, 5) * (scale, degrees, brightness, contrast, gamma)
    table = (np.arange(256) / 255) ** (1 + curve)
    table = (table - 0.5) * (1 + range_) + 0.5 + light / 255
    table = np.clip(table * 255, 0, 255).round().astype(np.uint8)
    height, width = images.shape[1:]
    lit = cv2.LUT(images.reshape(-1, width), table).reshape(images.shape) if len(images) else images
    if not (scale or degrees):
        return lit
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), turn, 1 + size)
    turned = np.empty_like(lit)
    for before, after in zip(lit, turned, strict=True):
        cv2.warpAffine(before, matrix, (width, height), dst=after, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return turned


def erase(images: np.ndarray, rng: np.random.Generator, *, smallest: float = 0.1, largest: float = 0.4) -> np.ndarray:
    """(T, H, W) uint8 in which one rectangle, the same in all frames, has the clip's mean grey.

    Its sides are from `smallest` to `largest` of the picture's: a hand, a microphone, a caption.
    """
    images = images.copy()
    (height, width), sides = images.shape[1:], rng.uniform(smallest, largest, 2)
    tall, wide = max(1, round(sides[0] * height)), max(1, round(sides[1] * width))
    top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
    images[:, top: top + tall, left: left + wide] = round(float(images.mean()))
    return images


def ruin(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(T, H, W) uint8 of which nothing can be read: one frame standing still, frames out of order, upside down, blurred or
    in snow. They teach a network when not to believe its eyes."""
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
    snow = rng.normal(0, rng.uniform(60, 150), images.shape)
    return np.clip(images + snow, 0, 255).astype(np.uint8)


# --- time ---

def time_mask(values: np.ndarray, rng: np.random.Generator, *, longest: int = 10, every: int = VIDEO_FPS) -> np.ndarray:
    """(T, ...) with up to `longest` steps hidden by the mean, as often as `every` goes into T, rounded up.

    Of mouths 10 in 25 (auto_avsr's recipe), of a waveform 6,400 in 16,000, of log-mel 40 in 100. No stretch is longer
    than 0.4 of a shorter clip.
    """
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
    """(images, missing, audio, times) of somebody who talks `factor` times as fast; what is None stays None.

    The new number of frames is rounded, and the sound resampled by exactly the same ratio, so that both end together.
    images (T, ...) and missing (T,) take the frame shown at each new frame's middle; audio (S,) float32 keeps its first
    sample first, and its pitch rises with the speed; times (...) are in seconds from the start of the clip.
    """
    assert factor > 0, factor
    n = len(images) if images is not None else samples_to_frames(len(audio))
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
