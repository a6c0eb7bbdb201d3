"""Faces: frames in, one track of landmarks per person out.

    Clip.video (T, H, W, 3) uint8 RGB  ->  Track.points (T, 478, 2) float32 pixels, MediaPipe's face mesh

The landmarker is the slowest step before the network (18 ms a face on one core), so it sees every `stride`-th frame
and what lies between is interpolated: at stride 3 the mouth is on average 0.5 pixels of its 96x96 crop from where
looking at every frame puts it (GRID), 1.3 to 2 where people move much (at stride 2: 0.3, 1.0 to 1.2).
What comes out does not depend on where the windows of a long recording end.
"""

from __future__ import annotations

import os
import sys
import tempfile
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from avsr import assets, rates

if TYPE_CHECKING:
    from mediapipe.tasks.python.vision import FaceLandmarker

    from avsr.media import Clip

N_POINTS = 478            # landmarks of the mesh with irises
THUMB = 32                # pixels: frames are compared at this size to find scene cuts
CUT = 20.0                # grey levels between thumbnails of two frames that make a cut: 26 and more at cuts,
                          # 14 at most where people move (13 clips)
MAX_SHIFT = 0.5           # mean landmark shift between looks, in face sizes, that one person can make
MAX_GROWTH = 1.6          # change of face size between looks that one person can make
SEARCH_EVERY = (12, 48)   # frames from the first search in vain to the next, and at most: each costs up to 0.1 s
SMALLEST_SQUARE = 120     # pixels: mouths in faces that only show in smaller squares cannot be read
SMALLEST_SHARE = 0.16     # of the picture given, in its longer side: faces from here on are found with certainty

NOISE = (b"WARNING: Logging before InitGoogle", b"I0000 ", b"W0000 ", b"INFO: Created TensorFlow Lite")


Square = tuple[int, int, int]
"""Left, top, side in pixels; may reach outside the frame."""


@dataclass(frozen=True)
class Track:
    """One person's face over consecutive frames.

    person: number of the person, from 0; one who is lost for long, or cut away from, comes back under a new number
    start_frame: number of the first frame, from the start of the recording
    points: (T, 478, 2) float32 x, y in pixels (whole numbers are pixel centres); linear between found frames
    box: (T, 4) float32 x0, y0, x1, y1 in pixels, around the points; may reach outside the picture
    score: (T,) float32 in 0..1: steadiness, how little the shape changed since the last look; 0 where missing
    missing: (T,) bool: True where the landmarker looked and found no face, or there was no picture
    last: False for a piece of a track that goes on; the last piece may be empty (T = 0)
    """

    person: int
    start_frame: int
    points: np.ndarray
    box: np.ndarray
    score: np.ndarray
    missing: np.ndarray
    last: bool = True

    @property
    def end_frame(self) -> int:
        """One past the number of the last frame."""
        return self.start_frame + len(self.points)


@dataclass
class _Person:
    """A track in the making; `found` keeps what the frames not yet released are interpolated from."""

    person: int
    first: int                                                    # first frame not yet released
    found: list[tuple[int, np.ndarray, float]] = field(default_factory=list)    # frame, points, score

    def add(self, frame: int, points: np.ndarray) -> None:
        score = _steadiness(self.found[-1][1], points) if self.found else 0.5
        self.found.append((frame, points, score))


class FaceTracker:
    """Follows up to `max_faces` people through a recording given in consecutive windows.

        with FaceTracker() as tracker:
            for clip in media.windows(path):
                tracks += tracker.update(clip)
            tracks += tracker.finish()

    `stride`: the landmarker looks at every `stride`-th frame. `max_gap`: a face lost for more frames than this ends its
    track.
    """

    def __init__(self, *, max_faces: int = 4, stride: int = 3, max_gap: int = 12) -> None:
        self.stride, self.max_gap = stride, max_gap
        self._landmarker = _Landmarker(max_faces)
        self._people: list[_Person] = []
        self._ended: list[Track] = []
        self._next: int | None = None             # number of the next frame
        self._n_people = 0
        self._thumb: np.ndarray | None = None     # of the frame before, where it was shown
        self._change = 0.0                        # grey levels from the frame before that one to it
        self._hidden: set[int] = set()            # frames without a picture that are not yet released

    def __enter__(self) -> FaceTracker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the landmarker. Called by `with`, and at the latest when the tracker or the program goes."""
        self._landmarker.close()

    def update(self, clip: Clip) -> list[Track]:
        """The pieces of tracks that are final once `clip`, which follows the clip before it, has been seen.

        The pieces of a person follow one another without a hole; at most `max_gap + stride` frames are held back.
        """
        if clip.video is None:
            return []
        assert self._next in (None, clip.start_frame), "windows must follow one another"
        for number, (frame, shown) in enumerate(zip(clip.video, clip.shown, strict=True), clip.start_frame):
            self._step(number, frame, bool(shown))
        self._next = clip.start_frame + len(clip.video)
        pieces = [self._release(person) for person in self._people]
        done, self._ended = self._ended, []
        self._forget_hidden()
        return done + [piece for piece in pieces if len(piece.points)]

    def finish(self) -> list[Track]:
        """The rest of all tracks, at the end of the recording."""
        self._end(self._people, self._next)
        done, self._ended = self._ended, []
        self._hidden.clear()
        return done

    def _step(self, number: int, frame: np.ndarray, shown: bool) -> None:
        if not shown:
            self._hidden.add(number)
            self._thumb = None
        elif self._is_cut(frame):
            self._end(self._people, number)
            self._landmarker.see_all()
            self._look(number, frame)
        elif number % self.stride == 0 or number - 1 in self._hidden:
            self._look(number, frame)
        lost = [person for person in self._people if number - person.found[-1][0] > self.max_gap]
        self._end(lost, None)

    def _is_cut(self, frame: np.ndarray) -> bool:
        before, self._thumb = self._thumb, _thumbnail(frame)
        usual, self._change = self._change, 0.0 if before is None else float(np.abs(self._thumb - before).mean())
        return self._change > max(CUT, 2 * usual)

    def _look(self, number: int, frame: np.ndarray) -> None:
        """Landmarks of one frame, given to the people they belong to or to new ones."""
        faces = dict(enumerate(self._landmarker.landmarks(frame, number)))
        for person, face in _match([person.found[-1][1] for person in self._people], list(faces.values())):
            self._people[person].add(number, faces.pop(face))
        for points in faces.values():
            self._people.append(_Person(self._n_people, number))
            self._people[-1].add(number, points)
            self._n_people += 1

    def _end(self, people: list[_Person], stop: int | None) -> None:
        """End tracks: before frame `stop` where the picture or the recording ends there, else where last found."""
        for person in list(people):
            self._people.remove(person)
            end = person.found[-1][0] + 1
            if stop is not None and stop - end < self.stride:
                end = stop
            self._ended.append(self._piece(person, end, last=True))

    def _release(self, person: _Person) -> Track:
        """What is final of a track that goes on: up to its last look."""
        piece = self._piece(person, person.found[-1][0] + 1, last=False)
        person.first, person.found = piece.end_frame, person.found[-1:]
        return piece

    def _piece(self, person: _Person, stop: int, last: bool) -> Track:
        numbers = np.array([number for number, _, _ in person.found])
        frames = np.arange(person.first, stop)
        left = np.searchsorted(numbers, frames, side="right") - 1
        right = np.minimum(left + (frames > numbers[left]), len(numbers) - 1)
        span = numbers[right] - numbers[left]
        weight = np.where(span > 0, (frames - numbers[left]) / np.maximum(span, 1), 0).astype(np.float32)
        found = np.stack([points for _, points, _ in person.found])
        points = found[left] + (found[right] - found[left]) * weight[:, None, None]
        scores = np.array([score for _, _, score in person.found], np.float32)
        score = scores[left] + (scores[right] - scores[left]) * weight
        missing = (span > self.stride) | np.isin(frames, list(self._hidden))
        box = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
        return Track(person.person, person.first, points, box, np.where(missing, np.float32(0), score), missing, last)

    def _forget_hidden(self) -> None:
        oldest = min((person.first for person in self._people), default=self._next)
        self._hidden = {number for number in self._hidden if number >= min(oldest, self._next - 1)}


def track(clips: Clip | Iterable[Clip], *, max_faces: int = 4, stride: int = 3, max_gap: int = 12) -> list[Track]:
    """All tracks of a whole clip, or of the consecutive windows of a recording, in order of appearance."""
    pieces: list[Track] = []
    with FaceTracker(max_faces=max_faces, stride=stride, max_gap=max_gap) as tracker:
        for clip in [clips] if hasattr(clips, "video") else clips:
            pieces += tracker.update(clip)
        pieces += tracker.finish()
    return join(pieces)


def join(pieces: Iterable[Track]) -> list[Track]:
    """One Track per person from the pieces a FaceTracker gave, in order of appearance."""
    people: dict[int, list[Track]] = defaultdict(list)
    for piece in pieces:
        people[piece.person].append(piece)
    return [_concatenate(people[person]) for person in sorted(people)]


def _concatenate(pieces: list[Track]) -> Track:
    for before, after in pairwise(pieces):
        assert before.end_frame == after.start_frame, f"a piece of person {after.person} is not there"
    names = ("points", "box", "score", "missing")
    arrays = [np.concatenate([getattr(piece, name) for piece in pieces]) for name in names]
    return Track(pieces[0].person, pieces[0].start_frame, *arrays, last=pieces[-1].last)


def face_size(points: np.ndarray) -> np.ndarray:
    """Side in pixels of the square as large as the box around `points` (..., N, 2) -> (...)."""
    width, height = np.moveaxis(points.max(axis=-2) - points.min(axis=-2), -1, 0)
    return np.sqrt(width * height)


def _steadiness(before: np.ndarray, after: np.ndarray) -> float:
    """1 for a face that only moved or came nearer, towards 0 the more its shape changed; 0.5 at 3 % of its size."""
    a, b = ((points - points.mean(axis=0)) / max(float(face_size(points)), 1e-6) for points in (before, after))
    return float(1 / (1 + np.linalg.norm(a - b, axis=1).mean() / 0.03))


def _match(people: list[np.ndarray], faces: list[np.ndarray]) -> list[tuple[int, int]]:
    """Pairs (person, face), the nearest first; faces that jumped or grew too much stay alone."""
    shifts = []
    for i, before in enumerate(people):
        for j, after in enumerate(faces):
            sizes = sorted((float(face_size(before)), float(face_size(after))))
            shift = float(np.linalg.norm(before - after, axis=1).mean()) / max(sizes[0], 1e-6)
            if shift < MAX_SHIFT and sizes[1] < MAX_GROWTH * sizes[0]:
                shifts.append((shift, i, j))
    pairs: list[tuple[int, int]] = []
    for _, i, j in sorted(shifts):
        if all(i != person and j != face for person, face in pairs):
            pairs.append((i, j))
    return pairs


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (32, 32) float32 grey; a sparse grid of pixels is read, as only cuts must show."""
    import cv2

    steps = [max(1, side // (4 * THUMB)) for side in frame.shape[:2]]
    sparse = np.ascontiguousarray(frame[:: steps[0], :: steps[1]])
    grey = cv2.cvtColor(sparse, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (THUMB, THUMB), interpolation=cv2.INTER_AREA).astype(np.float32)


class _Landmarker:
    """MediaPipe's FaceLandmarker over a video: frames in, pixels out. Quiet, and closed before the interpreter goes.

    Its detector finds faces from an eighth of the picture's width. Where it finds none in the whole frame, that is
    searched in overlapping squares, and from then on the landmarker is shown the part round the faces found there:
    so faces count from about a twenty-fifth of the width.
    """

    def __init__(self, max_faces: int) -> None:
        self._task = _Task(max_faces, "VIDEO")
        self._search = _Task(max_faces, "IMAGE")
        self._view: Square | None = None             # the part that is looked at; None: the whole frame
        self._next_search, self._pause = 0, SEARCH_EVERY[0]     # frame number, frames

    def see_all(self) -> None:
        """Look at whole frames again."""
        self._view, self._next_search, self._pause = None, 0, SEARCH_EVERY[0]

    def close(self) -> None:
        """Free both tasks."""
        self._task.close()
        self._search.close()

    def landmarks(self, frame: np.ndarray, number: int) -> list[np.ndarray]:
        """(H, W, 3) uint8 RGB, frame number (rising) -> for each face (478, 2) float32 pixels."""
        now = 1 + round(number * 1000 / rates.VIDEO_FPS)
        faces = self._task.look(frame, self._view, now)
        if not faces and self._view is not None:
            self._view = None
            faces = self._task.look(frame, None, now + 1)
        if not faces and number >= self._next_search:
            self._next_search, self._pause = number + self._pause, min(2 * self._pause, SEARCH_EVERY[1])
            self._view = self._find(frame)
            if self._view is not None:
                self._pause = SEARCH_EVERY[0]
                faces = self._task.look(frame, self._view, now + 2)
        return faces

    def _find(self, frame: np.ndarray) -> Square | None:
        """The part of the frame round the faces found in squares as high as it, or else half as high."""
        short = min(frame.shape[:2])
        for side in (short, short // 2):
            if side >= SMALLEST_SQUARE:
                found = [face for square in _squares(frame, side) for face in self._search.look(frame, square)]
                if found:
                    return _view_of(found)
        return None


def _squares(frame: np.ndarray, side: int) -> list[Square]:
    """Squares of `side` pixels that cover the frame and overlap by half; none where one square is the whole frame."""
    if frame.shape[0] == frame.shape[1] == side:
        return []
    tops, lefts = (np.linspace(0, n - side, -(-2 * (n - side) // side) + 1).round() for n in frame.shape[:2])
    return [(int(left), int(top), side) for top in tops for left in lefts]


def _view_of(faces: list[np.ndarray]) -> Square:
    """A square round the largest face, and those of the others that leave each large enough to be found in it."""
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


class _Task:
    """One MediaPipe FaceLandmarker. Quiet, and closed at the latest before the interpreter goes."""

    def __init__(self, max_faces: int, mode: str) -> None:
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(assets.find("face_landmarker.task"))),
            running_mode=vision.RunningMode[mode],
            num_faces=max_faces,
        )
        with _quiet():
            self._landmarker = vision.FaceLandmarker.create_from_options(options)
            blank = np.zeros((64, 64, 3), np.uint8)
            self.look(blank, None, 0 if mode == "VIDEO" else None)       # the last of the noise comes with a picture
        self.close = weakref.finalize(self, _close, self._landmarker)

    def look(self, frame: np.ndarray, square: Square | None, time_ms: int | None = None) -> list[np.ndarray]:
        """Faces (478, 2) float32, in pixels of the frame, in the part of it inside `square`. Times must rise."""
        import mediapipe as mp

        left, top, side = square or (0, 0, max(frame.shape))
        low = np.maximum((left, top), 0)
        part = np.ascontiguousarray(frame[low[1] : top + side, low[0] : left + side])
        image = mp.Image(image_format=mp.ImageFormat.SRGB, data=part)
        task = self._landmarker
        result = task.detect(image) if time_ms is None else task.detect_for_video(image, time_ms)
        size = np.array([part.shape[1], part.shape[0]])
        faces = [np.array([(p.x, p.y) for p in face]) * size + low - 0.5 for face in result.face_landmarks]
        return [face.astype(np.float32) for face in faces]


def _close(landmarker: FaceLandmarker) -> None:
    with suppress(RuntimeError):        # at the end of the program, its thread has been stopped before we are called
        landmarker.close()
    landmarker._handle = None           # or its __del__ closes again, after the modules it needs are gone


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MediaPipe's C++ log lines, which no setting silences, off stderr; anything else written comes out after."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            log.seek(0)
            for line in log:
                if not line.startswith(NOISE):
                    os.write(2, line)
