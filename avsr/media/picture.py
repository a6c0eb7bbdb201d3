"""Pictures on a grid of 25 a second, upright, square-pixelled and RGB, from the frames of a track."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from avsr.media.gaps import DAMAGE
from avsr.media.streams import Track
from avsr.rates import VIDEO_FPS

HALF_FRAME = 0.5 / VIDEO_FPS          # seconds: a picture is shown on the grid at most this much early or late
SAME = 1e-6                           # seconds: closer than this is the same time


@dataclass
class Pictures:
    """Frames on the grid of 25 a second: (H, W, 3) uint8, or None where nothing is shown; `size` is (H, W)."""

    size: tuple[int, int]
    frames: Iterator[np.ndarray | None]


class _Painter:
    """Turns decoded frames into upright RGB arrays, all of the size of the first."""

    def __init__(self, first: av.VideoFrame, aspect: Fraction | None, max_side: int):
        pixel = float(aspect) if aspect and 0.2 <= aspect <= 5 else 1.0
        width, height = first.width * pixel, first.height
        scale = min(1.0, max_side / max(width, height))
        self.width, self.height = max(1, round(width * scale)), max(1, round(height * scale))
        self.matrix = _display_matrix(first)
        self.reformatter = VideoReformatter()
        self.interpolation = "FAST_BILINEAR" if scale > 0.5 else "AREA"

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of what it paints."""
        return _turned(np.empty((self.height, self.width), bool), self.matrix).shape

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        rgb = self.reformatter.reformat(frame, self.width, self.height, "rgb24", interpolation=self.interpolation)
        return _turned(rgb.to_ndarray(), self.matrix)


def _display_matrix(frame: av.VideoFrame) -> np.ndarray:
    """(2, 2) signs of the display matrix: a row vector (x, y) of the stored picture times it gives the shown one's."""
    try:
        matrix = np.frombuffer(bytes(frame.side_data["DISPLAYMATRIX"]), np.int32).reshape(3, 3)[:2, :2]
    except KeyError:
        return np.eye(2)
    return matrix / 65536


def _turned(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The picture turned and mirrored as a display matrix says, to the nearest quarter turn."""
    (a, b), (c, d) = matrix
    if abs(b) > abs(a):
        picture, a, d = picture.swapaxes(0, 1), c, b          # then x' = c y and y' = b x
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def show(track: Track, max_side: int) -> Pictures:
    """The pictures of a track, none of them with a side of more than `max_side` pixels."""
    painter = _Painter(track.first, track.stream.sample_aspect_ratio, max_side)
    return Pictures(painter.size, _on_grid(track, painter))


def _on_grid(track: Track, painter: _Painter) -> Iterator[np.ndarray | None]:
    """The picture of each grid time: the latest frame whose switch-on time has come.

    A frame comes on half a gap early, but at most half a grid step: for dense sources this is the nearest frame, for
    sparse ones the frame being shown, and its onset is never off by more than 20 ms.
    """
    tick, picture, waiting = 0, None, None
    for switch_s, frame in chain(_switches(track), [(None, None)]):
        until = track.end - track.zero if switch_s is None else switch_s - track.zero
        while tick / VIDEO_FPS < until - SAME:
            if waiting is not None:
                picture, waiting = _paint(track, painter, waiting, picture), None
            yield picture
            tick += 1
        waiting = frame


def _paint(track: Track, painter: _Painter, frame: av.VideoFrame, last: np.ndarray | None) -> np.ndarray | None:
    """The frame as an array; `last` where it cannot be converted, which is counted."""
    try:
        return painter(frame)
    except DAMAGE:
        track.damaged()
        return last


def _switches(track: Track) -> Iterator[tuple[float, av.VideoFrame]]:
    """(time at which the frame comes on, frame) in order; sets `track.end` to when the last goes off."""
    clock, last = track.clock, None
    step = 1 / float(track.stream.average_rate or track.stream.guessed_rate or VIDEO_FPS)
    for frame, time in track.frames():
        if last is not None and time < last + SAME:
            continue                                         # out of order, or a second one for the same time
        gap = step if last is None else time - last
        yield time - min(HALF_FRAME, gap / 2), frame
        length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else gap
        borne = clock.borne(time, length)
        last, clock.due = time, time + (length if borne == length else min(length, 1 / VIDEO_FPS))
        track.end = time + borne - min(HALF_FRAME, borne / 2)
