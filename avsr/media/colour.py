"""Grey pictures and their colour, apart: faces are followed and mouths cropped in grey, and few pictures are wanted in RGB.

    (H, W, 3) uint8 RGB  <->  grey (H, W) uint8 and chroma (2, H/2, W/2) uint8, rounded up
Chroma is Cb and Cr of BT.601 in limited range (16 to 240, 128 is no colour), of blocks of two by two pixels, as in most videos.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import av
import numpy as np

# Formats of 8 bits with planes of luma and, smaller or not, Cb and Cr. In those that begin with yuvj they have the full range.
PLANAR = {"yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p",
          "yuvj420p", "yuvj422p", "yuvj444p", "yuvj440p", "yuvj411p"}
JPEG_RANGE = 2                        # FFmpeg's number for the full range, from 0 to 255
NO_COLOUR = 128
DARKER = 1.3                          # grey levels by which FFmpeg's rounding on the way to RGB makes pictures darker (14
                                      # clips), as those were on which the shipped models were trained
_LEVELS = np.arange(256)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


GREY_OF_LUMA = _bytes((_LEVELS - 16) * (255 / 219) - DARKER)
LUMA_OF_GREY = _bytes((_LEVELS + DARKER) * (219 / 255) + 16)
LIMITED_CHROMA = _bytes((_LEVELS - NO_COLOUR) * (224 / 255) + NO_COLOUR)


class GreyPicture(NamedTuple):
    """A picture in grey (H, W) uint8, and its chroma (2, H/2, W/2) uint8."""

    grey: np.ndarray
    chroma: np.ndarray


def chroma_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the chroma of a picture."""
    return (height + 1) // 2, (width + 1) // 2


def grey_of(picture: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 RGB -> (H, W) uint8, by OpenCV."""
    import cv2

    return picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def own_copy(array: np.ndarray) -> np.ndarray:
    """The array, in memory of its own."""
    return array if array.base is None else array.copy()


def no_colour(grey: np.ndarray) -> GreyPicture:
    """A picture that was grey before."""
    return GreyPicture(grey, np.full((2, *chroma_size(*grey.shape)), NO_COLOUR, np.uint8))


def split(rgb: np.ndarray) -> GreyPicture:
    """(H, W, 3) uint8 RGB -> the grey that OpenCV makes of it, and its chroma."""
    import cv2

    height, width = chroma_size(*rgb.shape[:2])
    even = cv2.copyMakeBorder(np.ascontiguousarray(rgb), 0, 2 * height - rgb.shape[0], 0, 2 * width - rgb.shape[1],
                              cv2.BORDER_REPLICATE)
    planes = cv2.cvtColor(even, cv2.COLOR_RGB2YUV_I420)
    grey = cv2.cvtColor(even, cv2.COLOR_RGB2GRAY)[: rgb.shape[0], : rgb.shape[1]]
    return GreyPicture(grey, planes[2 * height :].reshape(2, height, width))


def joined(grey: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) uint8 RGB; within about a level of what FFmpeg makes of the same video."""
    import cv2

    (height, width), (rows, columns) = grey.shape, chroma.shape[1:]
    planes = np.empty((3 * rows, 2 * columns), np.uint8)
    luma = cv2.LUT(grey, LUMA_OF_GREY)
    planes[: 2 * rows] = cv2.copyMakeBorder(luma, 0, 2 * rows - height, 0, 2 * columns - width, cv2.BORDER_REPLICATE)
    planes[2 * rows :] = chroma.reshape(rows, 2 * columns)
    return cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420)[:height, :width]


def planar(frame: av.VideoFrame, height: int, width: int, *, averaged: bool) -> GreyPicture | None:
    """A decoded frame at this size, not turned; None where its format is not PLANAR. averaged: see OpenCV's INTER_AREA."""
    import cv2

    if frame.format.name not in PLANAR:
        return None
    full = frame.color_range == JPEG_RANGE or frame.format.name.startswith("yuvj")
    luma, *chroma = (np.frombuffer(cast(Any, plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
                     for plane in frame.planes)
    method = cv2.INTER_AREA if averaged else cv2.INTER_LINEAR
    if luma.shape != (height, width):
        luma = cv2.resize(luma, (width, height), interpolation=method)
    rows, columns = chroma_size(height, width)
    chroma = np.stack([plane if plane.shape == (rows, columns) else cv2.resize(plane, (columns, rows), interpolation=method)
                       for plane in chroma]).astype(np.uint8, copy=False)
    return (GreyPicture(luma.copy(), LIMITED_CHROMA[chroma]) if full else
            GreyPicture(cv2.LUT(luma, GREY_OF_LUMA), chroma))
