"""Corruption of the video: mouths and a kind of corruption in, corrupted mouths out.

    images (T, 96, 96) uint8, missing (T,) bool  ->  the same shapes
The crop is corrupted, after the face was found; the effect on face detection is not measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from avsr.errors import AvsrError
from avsr.rates import VIDEO_FPS

FRAME_MS = 1000 // VIDEO_FPS


class Mouth(NamedTuple):
    """The mouth of an utterance: images (T, 96, 96) uint8 grey, and missing (T,) bool, True where no face was found."""

    images: np.ndarray
    missing: np.ndarray


@dataclass(frozen=True)
class Kind:
    """A kind of corruption. amounts: those used where none is given; empty where there are no degrees of it."""

    about: str
    unit: str = ""
    amounts: tuple[float, ...] = ()
    least: float = 0.0
    most: float = math.inf


CORRUPTIONS = {
    "occlusion": Kind("a grey square over the mouth, near its middle", "of the crop's area", (0.25, 0.5), 0, 1),
    "blur": Kind("Gaussian blur, its standard deviation", "pixels of 96", (2, 4), 0, 96),
    "lowres": Kind("as if the mouth had been filmed with so few pixels", "pixels a side", (24, 12), 1, 96),
    "dropped": Kind("frames lost at random, the one before stays", "of the frames", (0.3, 0.6), 0, 1),
    "shift": Kind("the video comes late; early below 0", "ms", (-200, -80, 80, 200), -2000, 2000),
    "noface": Kind("no face in any frame"),
    "face": Kind("the mouth of somebody else, who says something else"),
}


@dataclass(frozen=True)
class Corruption:
    """A kind of corruption and its amount; see CORRUPTIONS. Raises AvsrError where it is not one of them."""

    name: str
    amount: float | None = None

    def __post_init__(self) -> None:
        if self.name not in CORRUPTIONS:
            raise AvsrError(f"corruption {self.name!r}: not known.  Use {', '.join(CORRUPTIONS)}.")
        kind = CORRUPTIONS[self.name]
        if (self.amount is None) != (not kind.amounts):
            takes = f"an amount, {kind.unit}, as {self.name}:{kind.amounts[0]:g}" if kind.amounts else "no amount"
            raise AvsrError(f"corruption {self}: {self.name} takes {takes}.  Correct it.")
        if self.amount is not None and not kind.least <= self.amount <= kind.most:
            raise AvsrError(f"corruption {self}: the amount is {self.amount:g}, and goes from {kind.least:g} to {kind.most:g} "
                            f"{kind.unit}.  Correct it.")
        if self.name == "shift" and self.amount is not None and self.amount % FRAME_MS:
            near = round(self.amount / FRAME_MS) * FRAME_MS
            raise AvsrError(f"corruption {self}: frames last {FRAME_MS} ms, so a shift is a multiple of that.  "
                            f"Use shift:{near}.")

    def __str__(self) -> str:
        return self.name if self.amount is None else f"{self.name}:{self.amount:g}"


def parse_corruptions(text: str) -> tuple[Corruption, ...]:
    """`blur,occlusion:0.5` -> each kind with its usual amounts, or with the one given. Raises AvsrError."""
    out = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, colon, amount = word.partition(":")
        if colon:
            try:
                out.append(Corruption(name, float(amount)))
            except ValueError:
                raise AvsrError(f"corruption {word}: {amount!r} is no number.  Write it as blur:4.") from None
        else:
            amounts = CORRUPTIONS[name].amounts if name in CORRUPTIONS else ()
            out += [Corruption(name, one) for one in amounts or (None,)]
    return tuple(dict.fromkeys(out))


def corrupt(images: np.ndarray, missing: np.ndarray, corruption: Corruption, rng: np.random.Generator,
            other: Mouth | None = None) -> Mouth:
    """A corrupted mouth of the same length. other: the mouth that `face` shows; no face is seen after its end."""
    name, amount = corruption.name, corruption.amount
    if name == "noface":
        return Mouth(np.zeros_like(images), np.ones_like(missing))
    if name == "face":
        assert other is not None, "whose face?"
        return fitted(other, len(images))
    assert amount is not None, name
    if name == "occlusion":
        return Mouth(occlude(images, amount, rng), missing)
    if name == "blur":
        return Mouth(blur(images, amount), missing)
    if name == "lowres":
        return Mouth(lower(images, round(amount)), missing)
    if name == "dropped":
        shown = frames_after_loss(len(images), amount, rng)
    else:
        assert name == "shift", name
        shown = np.clip(np.arange(len(images)) - round(amount / FRAME_MS), 0, max(len(images) - 1, 0))
    return Mouth(images[shown], missing[shown])


def occlude(images: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """(T, H, W) uint8 with a square of the clip's mean grey over `share` of the area, in one place in all frames: in the
    middle, give or take a tenth of the side at random."""
    images = images.copy()
    size = np.array(images.shape[1:])
    sides = np.round(size * math.sqrt(share)).astype(int)
    corner = np.round((size - sides) / 2 + rng.uniform(-0.1, 0.1, 2) * size).astype(int)
    top, left = np.clip(corner, 0, size - sides)
    images[:, top:top + sides[0], left:left + sides[1]] = round(float(images.mean())) if images.size else 0
    return images


def blur(images: np.ndarray, sigma: float) -> np.ndarray:
    """(T, H, W) uint8, each frame through a Gaussian of this standard deviation in pixels."""
    import cv2

    return _each(images, lambda image: cv2.GaussianBlur(image, (0, 0), sigma)) if sigma else images


def lower(images: np.ndarray, side: int) -> np.ndarray:
    """(T, H, W) uint8 of the same size, with the detail of `side` by `side` pixels."""
    import cv2

    size = images.shape[:0:-1]
    return _each(images, lambda image: cv2.resize(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), size,
                                                  interpolation=cv2.INTER_CUBIC))


def frames_after_loss(n_frames: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """(T,) the number of the frame shown at each time, when this share of the frames, but not the first, is lost."""
    shown = np.arange(n_frames)
    n_lost = min(round(share * n_frames), max(n_frames - 1, 0))
    shown[1 + rng.permutation(max(n_frames - 1, 0))[:n_lost]] = 0
    return np.maximum.accumulate(shown)


def fitted(mouth: Mouth, n_frames: int) -> Mouth:
    """A mouth cut to n_frames, or filled up with frames without a face."""
    images, missing = np.zeros((n_frames, *mouth.images.shape[1:]), np.uint8), np.ones(n_frames, bool)
    n = min(n_frames, len(mouth.images))
    images[:n], missing[:n] = mouth.images[:n], mouth.missing[:n]
    return Mouth(images, missing)


def _each(images: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    made: Sequence[np.ndarray] = [change(image) for image in images]
    return np.stack(made) if len(made) else images
