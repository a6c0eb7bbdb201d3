"""Finds faces of any size in the frames of a video, by searching where they are likely to be."""

from __future__ import annotations

import numpy as np

from avsr import rates
from avsr.errors import AvsrError
from avsr.faces.detectors import BlazeFace, FaceMesh, shared_boxes, shared_finder
from avsr.faces.log_suppression import Square

SEARCH_EVERY = (12, 48)   # frames from a search in vain to the next, at first and at most: each costs up to 0.1 s
SMALLEST_SQUARE = 120     # pixels: mouths in faces that only show in smaller squares cannot be read
AROUND = 2.0              # times the size of a face: side of the square in which it is looked for where it is expected
SMALLEST_SHARE = 0.16     # of the longer side of the picture: faces of this size and more are found with certainty

MESH, BLAZEFACE = "mediapipe-mesh-478", "blazeface-full-range-4"
SOURCES: dict[str, type[FaceMesh] | type[BlazeFace]] = {MESH: FaceMesh, BLAZEFACE: BlazeFace}


def asset_of(landmarks: str) -> str:
    """The asset that is needed to find these landmarks."""
    return _source(landmarks).ASSET


def n_points(landmarks: str) -> int:
    """How many landmarks a face has."""
    return _source(landmarks).N_POINTS


def _source(landmarks: str) -> type[FaceMesh] | type[BlazeFace]:
    if landmarks not in SOURCES:
        raise AvsrError(f"landmarks {landmarks!r}: not known to this version, which has {', '.join(SOURCES)}.  Update avsr.")
    return SOURCES[landmarks]


def face_size(points: np.ndarray) -> np.ndarray:
    """The side in pixels of the square with the area of the box around `points` (..., N, 2) -> (...)."""
    width, height = np.moveaxis(points.max(axis=-2) - points.min(axis=-2), -1, 0)
    return np.sqrt(width * height)


class FaceFinder:
    """Finds the landmarks of the faces in the frames of a video.

    If there is no face in the whole frame, overlapping squares of it are searched, and from then on only the part around the
    faces found there. So the mesh finds faces from about a twenty-fifth of the width.

    landmarks: which ones. A face has its `n_points` landmarks first; any points after those only tell its size. mode: see
    detectors.FaceMesh.
    """

    def __init__(self, landmarks: str, max_faces: int, mode: str = "VIDEO") -> None:
        source = _source(landmarks)
        self.n_points, self._follows = source.N_POINTS, mode == "VIDEO"
        self.search = shared_finder(source, max_faces)
        self._task = source(max_faces, mode) if self._follows else self.search
        self._view: Square | None = None             # the part that is searched; None: the whole frame
        self._next_search, self._pause = 0, SEARCH_EVERY[0]     # frame number, frames

    def reset_view(self) -> None:
        """Search whole frames again."""
        self._view, self._next_search, self._pause = None, 0, SEARCH_EVERY[0]

    def close(self) -> None:
        """Free the task that follows faces. The other is shared."""
        if self._follows:
            self._task.close()

    def faces(self, frame: np.ndarray, number: int) -> list[np.ndarray]:
        """(H, W, 3) uint8 RGB or (H, W) grey, frame number (rising) -> for each face (n_points or more, 2) float32 pixels."""
        now = 1 + round(number * 1000 / rates.VIDEO_FPS)
        faces = self._detect(frame, self._view, now)
        if not faces and self._view is not None:
            self._view = None
            faces = self._detect(frame, None, now + 1)
        if not faces and number >= self._next_search:
            self._next_search, self._pause = number + self._pause, min(2 * self._pause, SEARCH_EVERY[1])
            self._view = self._find(frame)
            if self._view is not None:
                self._pause = SEARCH_EVERY[0]
                faces = self._detect(frame, self._view, now + 2)
        return faces

    def around(self, frame: np.ndarray, points: np.ndarray) -> list[np.ndarray]:
        """The faces in a square around one that is expected at `points`, where smaller ones and more turned ones are found."""
        low, extent = points.min(axis=0), np.ptp(points, axis=0)
        side = AROUND * float(extent.max())
        left, top = low + extent / 2 - side / 2
        if not np.isfinite(side) or left >= frame.shape[1] or top >= frame.shape[0] or min(left, top) + side < 1:
            return []
        return self.search.detect(frame, (round(left), round(top), max(1, round(side))))

    def sees_another(self, frame: np.ndarray, known: list[np.ndarray]) -> bool:
        """Whether there is a face in the part that is searched besides the known ones, each (N, 2) points. Costs 2 ms."""
        middles = shared_boxes().middles(frame, self._view)
        boxes = [(points.min(axis=0), points.max(axis=0)) for points in known]
        return any(not any((low <= middle).all() and (middle <= high).all() for low, high in boxes) for middle in middles)

    def _detect(self, frame: np.ndarray, square: Square | None, now: int) -> list[np.ndarray]:
        return self._task.detect(frame, square, now) if self._follows else self._task.detect(frame, square)

    def _find(self, frame: np.ndarray) -> Square | None:
        """The part of the frame around the faces that are found in squares as high as it, or else half as high."""
        short = min(frame.shape[:2])
        for side in (short, short // 2):
            if side >= SMALLEST_SQUARE:
                found = [face for square in squares(frame, side) for face in self.search.detect(frame, square)]
                if found:
                    return _view_of(found)
        return None


def squares(frame: np.ndarray, side: int) -> list[Square]:
    """Squares of `side` pixels that cover the frame and overlap by half; none where one square is the whole frame."""
    if frame.shape[0] == frame.shape[1] == side:
        return []
    tops, lefts = (np.linspace(0, n - side, -(-2 * (n - side) // side) + 1).round() for n in frame.shape[:2])
    return [(int(left), int(top), side) for top in tops for left in lefts]


def _view_of(faces: list[np.ndarray]) -> Square:
    """A square around the largest face, and around those others that leave each face large enough to be found in it."""
    faces = sorted(faces, key=lambda points: -float(face_size(points)))
    margin = 3 * float(face_size(faces[0]))
    kept: list[np.ndarray] = []
    for face in faces:
        points = np.concatenate([*kept, face])
        if not kept or float(face_size(face)) > SMALLEST_SHARE * (float(np.ptp(points, axis=0).max()) + margin):
            kept.append(face)
    points = np.concatenate(kept)
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    side = float(extent.max()) + margin
    left, top = low + extent / 2 - side / 2
    return round(left), round(top), round(side)
