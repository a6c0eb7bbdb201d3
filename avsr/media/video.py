"""Video frames on a grid of 25 a second, upright, square-pixelled, and RGB or grey, from the frames of a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Any, cast

import av
import numpy as np
from av.buffer import Buffer
from av.video.reformatter import VideoReformatter

from avsr.media.colour import GreyPicture, planar, split
from avsr.media.decoder import StreamDecoder
from avsr.media.timestamps import DECODE_ERRORS
from avsr.rates import VIDEO_FPS

HALF_FRAME = 0.5 / VIDEO_FPS          # seconds: a frame is shown on the grid at most this much early or late
SAME = 1e-6                           # seconds: closer than this is the same time


@dataclass
class VideoFrames:
    """Frames on the grid of 25 a second. `size` is (H, W).

    frames: called once, with True for frames in grey, each a GreyPicture, or False for (H, W, 3) uint8 RGB; gives None where
    nothing is shown. Grey frames are made without RGB, which takes as long as decoding. scale: pixels of a frame for each
    (square) pixel of the source, 1 unless the frames are scaled down.
    """

    size: tuple[int, int]
    frames: Callable[[bool], Iterator[Any]]
    scale: float = 1.0


class FrameConverter:
    """Turns decoded frames into upright arrays, RGB or grey, all of the size of the first."""

    def __init__(self, first: av.VideoFrame, aspect: Fraction | None, max_side: int):
        pixel = float(aspect) if aspect and 0.2 <= aspect <= 5 else 1.0
        width, height = first.width * pixel, first.height
        self.scale = scale = min(1.0, max_side / max(width, height))
        self.width, self.height = max(1, round(width * scale)), max(1, round(height * scale))
        self.matrix = _display_matrix(first)
        self.reformatter = VideoReformatter()
        self.interpolation = "FAST_BILINEAR" if scale > 0.5 else "AREA"

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the arrays."""
        height, width = _turned(np.empty((self.height, self.width), bool), self.matrix).shape
        return height, width

    def rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """(H, W, 3) uint8."""
        rgb = self.reformatter.reformat(frame, self.width, self.height, "rgb24", interpolation=self.interpolation)
        return _turned(rgb.to_ndarray(), self.matrix)

    def grey(self, frame: av.VideoFrame) -> GreyPicture:
        """The planes of the frame where its format has them in 8 bits, else by way of RGB."""
        picture = planar(frame, self.height, self.width, averaged=self.interpolation == "AREA")
        if picture is None:
            return split(self.rgb(frame))
        return GreyPicture(_turned(picture.grey, self.matrix), np.stack([_turned(one, self.matrix) for one in picture.chroma]))


Picture = np.ndarray | GreyPicture
_Convert = Callable[[av.VideoFrame], Picture]


def _display_matrix(frame: av.VideoFrame) -> np.ndarray:
    """(2, 2) signs of the display matrix: a row vector (x, y) of the stored frame times it gives the shown frame's."""
    try:
        side_data = cast(Mapping[str, Buffer], frame.side_data)       # typed as a dict of motion vectors alone
        matrix = np.frombuffer(bytes(side_data["DISPLAYMATRIX"]), np.int32).reshape(3, 3)[:2, :2]
    except KeyError:
        return np.eye(2)
    return matrix / 65536


def _turned(frame: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The frame turned and mirrored as a display matrix says, to the nearest quarter turn."""
    (a, b), (c, d) = matrix
    if abs(b) > abs(a):
        frame, a, d = frame.swapaxes(0, 1), c, b              # then x' = c y and y' = b x
    return frame[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def resample_video(decoder: StreamDecoder, max_side: int) -> VideoFrames:
    """The frames of a video stream, none of them with a side of more than `max_side` pixels."""
    convert = FrameConverter(cast(av.VideoFrame, decoder.first), _video(decoder).sample_aspect_ratio, max_side)
    return VideoFrames(convert.size, lambda grey: _on_grid(decoder, convert.grey if grey else convert.rgb), convert.scale)


def _video(decoder: StreamDecoder) -> av.VideoStream:
    return cast(av.VideoStream, decoder.stream)


def _on_grid(decoder: StreamDecoder, convert: _Convert) -> Iterator[Picture | None]:
    """The frame of each grid time: the latest frame whose onset has come.

    A frame comes on half a gap early, but at most half a grid step. For dense sources this is the nearest frame, for sparse
    ones the frame being shown, and its onset is never off by more than 20 ms.
    """
    tick, shown, waiting = 0, None, None
    for onset_s, frame in chain(_onsets(decoder), [(None, None)]):
        until = decoder.end - decoder.zero if onset_s is None else onset_s - decoder.zero
        while tick / VIDEO_FPS < until - SAME:
            if waiting is not None:
                shown, waiting = _converted(decoder, convert, waiting, shown), None
            yield shown
            tick += 1
        waiting = frame


def _converted(decoder: StreamDecoder, convert: _Convert, frame: av.VideoFrame,
               last: Picture | None) -> Picture | None:
    """The frame as a picture; `last` where it cannot be converted, which is counted."""
    try:
        return convert(frame)
    except DECODE_ERRORS:
        decoder.count_damage()
        return last


def _onsets(decoder: StreamDecoder) -> Iterator[tuple[float, av.VideoFrame]]:
    """(time at which the frame comes on, frame) in order; sets `decoder.end` to when the last goes off."""
    pts, last, stream = decoder.pts, None, _video(decoder)
    step = 1 / float(stream.average_rate or stream.guessed_rate or VIDEO_FPS)
    for frame, time in decoder.frames():
        if last is not None and time < last + SAME:
            continue                                         # out of order, or a second one for the same time
        gap = step if last is None else time - last
        yield time - min(HALF_FRAME, gap / 2), cast(av.VideoFrame, frame)
        length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else gap
        trusted = pts.trusted_length(time, length)
        last, pts.due = time, time + (length if trusted == length else min(length, 1 / VIDEO_FPS))
        decoder.end = time + trusted - min(HALF_FRAME, trusted / 2)
