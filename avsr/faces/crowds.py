"""Finds the faces that a search of the whole frame misses, as in a panel, a video call with many pictures, or an audience.

    frame (H, W, 3) or (H, W) uint8, faces that are known -> further faces, and how many are in sight
The detector in the mesh's file finds faces from an eighth of the width of what it is shown, and, in a whole frame, only the
largest of many. So overlapping squares of the frame are shown to it, and the mesh to those in which it sees a face that is not
known. On three rows of three people 1280 pixels wide the whole frame gives 4 of 9, on five in a row 1, on 5 rows of 8 people 1.
"""

from __future__ import annotations

import numpy as np

from avsr.faces.detectors import BlazeFace, FaceMesh, shared_boxes
from avsr.faces.search import face_size, squares

EVERY = 250                   # frames from one search to the next within a shot: at 1280x720 one takes 40 ms, 0.2 ms a frame
SMALLEST = 120, 240    # pixels: sides of squares as high as the frame, and half as high; in smaller ones mouths are too small
WIDE = 1.5                    # times as wide as high (or as high as wide): squares as high as less wide frames show little more
APART = 12                    # of two faces that are not known, the middles are at least a square's side divided by this apart


class CrowdFinder:
    """Searches the squares of a frame at the start of each shot, and every now and then.

    most: people who were in sight at once, so far.
    """

    def __init__(self, search: FaceMesh | BlazeFace) -> None:
        self._search, self._next, self.most = search, 0, 0

    def reset(self) -> None:
        """Search the next frame, as after a cut."""
        self._next = 0

    def others(self, frame: np.ndarray, number: int, known: list[np.ndarray], room: int) -> list[np.ndarray]:
        """Further faces (N, 2) in this frame, at most `room`, where it is time for a search; `known` are left out."""
        if number < self._next:
            return []
        self._next = number + EVERY
        found: list[np.ndarray] = []
        unknown = 0                                          # faces without room, or of which the mesh finds no points
        short, long = sorted(frame.shape[:2])
        for side, smallest in zip((short, short // 2), SMALLEST, strict=True):
            left_out: list[np.ndarray] = []                  # their middles
            large_enough = side >= smallest and (side < short or long >= WIDE * short)
            for square in squares(frame, side) if large_enough else []:
                new = [middle for middle in shared_boxes().middles(frame, square) if not _inside(middle, known + found)]
                if new and len(found) < room:
                    faces = self._search.detect(frame, square)
                    faces = [face for face in faces if not _inside(face.mean(axis=0), known + found)]
                    found += sorted(faces, key=lambda face: -float(face_size(face)))[: room - len(found)]
                left_out += [one for one in new if not _inside(one, found) and not _near(one, left_out, side / APART)]
            unknown = max(unknown, sum(not _inside(one, found) for one in left_out))
        self.most = max(self.most, len(known) + len(found) + unknown)
        return found


def _inside(middle: np.ndarray, faces: list[np.ndarray]) -> bool:
    """Whether a point (2,) lies in the box of one of the faces."""
    return any((face.min(axis=0) <= middle).all() and (middle <= face.max(axis=0)).all() for face in faces)


def _near(middle: np.ndarray, others: list[np.ndarray], distance: float) -> bool:
    return any(float(np.linalg.norm(middle - other)) < distance for other in others)
