"""Follows a face from frame to frame by a small network, between the frames in which MediaPipe's mesh is searched.

    a frame, and the key points (17, 2) of a face in the frame before  ->  those in this frame, and whether they are a face's

The network was taught by the mesh, see experiments/lips. It costs a fiftieth of a search. What it says is corrected so
that it agrees with the mesh wherever that was searched, before and after, and the other points of the mesh move with the key
points.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from avsr.faces.search import face_size
from avsr.media.colour import grey_of
from avsr.runtime import import_onnxruntime

NETWORK = Path(__file__).parents[1] / "weights" / "face_follower.onnx"
INPUT = 64                # pixels: side of the network's picture
COVERED = 112.0           # pixels of the mean face that it shows
# The points of the mesh whose means are the key points: corners of the eyes, base of the nose, inner upper lip, tip and bridge
# of the nose, brows, corners of the mouth, inner lower lip, chin, sides of the face, forehead.
GROUPS = ((33,), (133,), (362,), (263,), (98, 97, 2, 326, 327), (81, 82, 13, 312, 311), (1,), (168,), (105,), (334,), (61,),
          (291,), (87, 14, 317), (152,), (234,), (454,), (10,))
MEANS = np.zeros((len(GROUPS), 478))
for _row, _group in zip(MEANS, GROUPS, strict=True):
    _row[list(_group)] = 1 / len(_group)
# The picture is cut out by the middles of the right and the left eye, the base of the nose and the upper lip, which are laid on
# these pixels of the mean face from the middle of the picture (as x + iy).
FRAME = np.zeros((4, len(GROUPS)))
FRAME[[0, 0, 1, 1, 2, 3], [0, 1, 2, 3, 4, 5]] = 0.5, 0.5, 0.5, 0.5, 1, 1
REFERENCE = np.array([-27.1 - 26.6j, 27.1 - 27.3j, -0.2 + 15.0j, 0.1 + 30.0j])
CONTRAST = 6.0            # grey levels added to the standard deviation of a picture, by which it is divided
SMOOTHNESS = 5e-2         # of the spline that moves the other points, see carry_weights


def key_points(points: np.ndarray) -> np.ndarray:
    """Points of the mesh (..., 478, 2) -> (..., 17, 2) float64."""
    return MEANS @ points


def carry_weights(points: np.ndarray) -> np.ndarray:
    """(478, 17) float32: how much each point of a mesh (478, 2) moves with each key point.

    The points of a group move with its key point, and the others with those, by a thin-plate spline.
    """
    members = [point for group in GROUPS for point in group]
    owners = np.repeat(np.eye(len(GROUPS)), [len(group) for group in GROUPS], axis=0)
    points = (points - points.mean(axis=0)) / float(points.std())
    nodes, n = points[members].astype(np.float64), len(members)
    system = np.zeros((n + 3, n + 3))
    system[:n, :n] = _plate(nodes, nodes) + SMOOTHNESS * np.eye(n)
    system[:n, n:] = np.column_stack([np.ones(n), nodes])
    system[n:, :n] = system[:n, n:].T
    basis = np.column_stack([_plate(points, nodes), np.ones(len(points)), points])
    weights = basis @ np.linalg.inv(system)[:, :n] @ owners
    for group, own in zip(GROUPS, np.eye(len(GROUPS)), strict=True):
        weights[list(group)] = own
    return weights.astype(np.float32)


def _plate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = np.square(a[:, None] - b[None]).sum(axis=-1)
    return squares * np.log(squares + 1e-9)


class FollowerNetwork:
    """Our network, which finds the key points of a face near where they were."""

    def __init__(self) -> None:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(NETWORK), options, providers=["CPUExecutionProvider"])

    def __call__(self, frame: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, float]:
        """(H, W) or (H, W, 3) uint8, key points nearby (17, 2) -> key points (17, 2) float64, and the log-odds of a face."""
        turn, shift = _picture_place(before)
        (found,) = self._session.run(None, {"picture": _picture(frame, turn, shift)[None, None]})
        inside = (found[0, :-1].astype(np.float64) + 1) * (INPUT / 2)
        places = (inside.view(np.complex128) - shift) / turn
        return places.view(np.float64).reshape(-1, 2), float(found[0, -1])


def _picture_place(key: np.ndarray) -> tuple[complex, complex]:
    """From the frame to the network's picture, upright around a face: x + iy -> turn * (x + iy) + shift; see geometry."""
    here = FRAME @ (key[:, 0] + 1j * key[:, 1])
    middle = here.mean()
    here = here - middle
    turn = INPUT / COVERED * (here.conj() @ REFERENCE) / max(float((here.conj() @ here).real), 1e-12)
    return complex(turn), complex(INPUT / 2 * (1 + 1j) + INPUT / COVERED * REFERENCE.mean() - turn * middle)


def _picture(frame: np.ndarray, turn: complex, shift: complex) -> np.ndarray:
    """The network's picture (64, 64) float32, of mean 0 and about the same contrast; pixels of a large face are averaged."""
    import cv2

    finer = min(max(round(0.5 / max(abs(turn), 1e-6)), 1), 4)
    matrix = finer * np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
    side = INPUT * finer
    picture = cv2.warpAffine(frame, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    picture = grey_of(picture)
    if finer > 1:
        picture = cv2.resize(picture, (INPUT, INPUT), interpolation=cv2.INTER_AREA)
    mean, std = cv2.meanStdDev(picture)
    scale = 1 / (float(std[0, 0]) + CONTRAST)
    return picture.astype(np.float32) * np.float32(scale) - np.float32(float(mean[0, 0]) * scale)


@lru_cache(maxsize=1)
def shared_network() -> FollowerNetwork:
    """The network of the whole process; it remembers nothing."""
    return FollowerNetwork()


@dataclass
class FollowedFace:
    """A face that is followed.

    seen: frame -> what the network said of it, (17, 2), from the last search that is not yet released. now: its key points in
    the latest frame; None where it was lost. weights: see carry_weights.
    """

    weights: np.ndarray
    now: np.ndarray | None = None
    seen: dict[int, np.ndarray] = field(default_factory=dict)

    def move(self, network: FollowerNetwork, number: int, frame: np.ndarray) -> bool:
        """Follow the face into the next frame. False where it is not there, or was lost before."""
        if self.now is None:
            return False
        found, sure = network(frame, self.now)
        self.now = found if sure > 0 and np.isfinite(found).all() else None
        if self.now is not None:
            self.seen[number] = found
        return self.now is not None

    def search_found(self, network: FollowerNetwork, number: int, frame: np.ndarray, points: np.ndarray) -> None:
        """The mesh was found in this frame: points (478 or more, 2). The face is followed from there."""
        self.now = key_points(points)
        if number not in self.seen:
            self.seen[number] = network(frame, self.now)[0]

    def lose(self, number: int) -> int:
        """It is not there in this frame. Returns the last frame before in which it was."""
        self.now = None
        self.seen.pop(number, None)
        return max(self.seen, default=-1)

    def halfway(self, before: int, after: int) -> int | None:
        """The frame in which it was seen that is nearest to the middle between two others; None where there is none."""
        between = [number for number in self.seen if before < number < after]
        return min(between, key=lambda number: abs(2 * number - before - after), default=None)

    def forget(self, before: int) -> None:
        """Drop what was said of frames before this one."""
        self.seen = {number: found for number, found in self.seen.items() if number >= before}

    def expected(self, last: int, points: np.ndarray) -> np.ndarray:
        """Where all points are in the latest frame; `points` (478, 2) are those found in frame `last`."""
        if self.now is None or last not in self.seen:
            return points
        return points + self.weights @ (self.now - self.seen[last]).astype(np.float32)

    def moved(self, frames: np.ndarray, searched: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move interpolated points to where the face was followed, and those of frames between by as much as their neighbours.

        frames: (T,) numbers. searched: (S,) numbers of the frames in which the mesh was found. points: (T, 478, 2) of the mesh,
        interpolated between those, changed in place. Returns the points, and (K,) numbers of the frames where it was followed.
        """
        known = np.array(sorted(self.seen))
        said = np.stack([self.seen[number] for number in known]).reshape(len(known), -1)
        there = np.stack([self.seen[number] for number in searched]).reshape(len(searched), -1)
        shift = said - _interpolated(known, searched, there)
        points += self.weights @ _interpolated(frames, known, shift).reshape(len(frames), len(GROUPS), 2).astype(np.float32)
        return points, known


def apart(before: np.ndarray, after: np.ndarray) -> float:
    """How far the eyes, the nose and the upper lip of two meshes (478, 2) are apart on average, in sizes of the face."""
    away = FRAME @ (key_points(after) - key_points(before))
    return float(np.linalg.norm(away, axis=1).mean()) / max(float(face_size(after)), 1e-6)


def _interpolated(at: np.ndarray, where: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(T,), (S,) rising, (S, N) -> (T, N): linear between, and constant outside."""
    return np.stack([np.interp(at, where, column) for column in values.T], axis=1)
