"""Follows faces: frames in, one track of landmarks per person out.

    Clip.video (T, H, W, 3) uint8 RGB or (T, H, W) grey  ->  FaceTrack, by way of search.FaceFinder, which finds the faces of
    one frame, and following.FollowedFace, which goes from one frame to the next

The tracks do not depend on where the windows of a long recording end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from avsr.faces.crowds import CrowdFinder
from avsr.faces.following import FollowedFace, FollowerNetwork, apart, carry_weights, shared_network
from avsr.faces.identity import DECIDE_FRAMES, People, Sighting
from avsr.faces.quality import turned_away
from avsr.faces.scenes import THUMBNAIL, CutFinder, ShotFrame, thumbnail
from avsr.faces.search import MESH, FaceFinder, face_size
from avsr.media.colour import grey_of, joined, own_copy

if TYPE_CHECKING:
    from avsr.media import Clip

MAX_FACES = 12            # people who are followed at once, unless asked otherwise
MAX_SHIFT = 0.5           # mean landmark shift between searched frames, in face sizes, that one person can make
MAX_GROWTH = 1.6          # change of face size between searched frames that one person can make
FOLLOW_EVERY = 2          # frames from one in which faces are followed to the next while they agree with the mesh; the points
                          # of the others are interpolated
GLANCE_EVERY = 6          # frames from one look for further faces to the next; at least CHANGED of the THUMBNAIL squared parts
CHANGE, CHANGED = 12, 8   # of the picture must change by CHANGE grey levels; a face that can be found covers twice as many
AGREEMENT = 0.011         # of the size of a face: how far the mesh may be from where it was expected, see following.apart. In
                          # GRID's train clips it is at most 0.0106, which is 1.3 pixels of the mouth's crop. Beyond, earlier
                          # frames are searched, see FaceTracker._go_back
HELD_FRAMES = DECIDE_FRAMES + CutFinder.LATE + 2            # the last frames, from which tracks may begin that are not released


@dataclass(frozen=True)
class FaceTrack:
    """One person's face over consecutive frames.

    person: number of the person, from 0. A person who was lost for long, or cut away from, begins another track on return, of
        the same number where the face looks the same; see identity. At no frame do two tracks have the same number.
    start_frame: number of the first frame, from the start of the recording
    points: (T, n_points, 2) float32 x, y in pixels (whole numbers are pixel centres); between searched frames followed, or
        linear where that is not done, or failed
    box: (T, 4) float32 x0, y0, x1, y1 in pixels, around the mesh, or a box of that size where the mesh is not searched;
        may reach outside the picture
    score: (T,) float32 in 0..1: steadiness, how little the shape differs from what is expected from the last search; 0 where
        missing, and where the face is turned away so far that its mouth cannot be read, see quality
    missing: (T,) bool: True where a face was not found, or there was no picture
    last: False for a part of a track that goes on; the last part may be empty (T = 0)
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

    @property
    def size(self) -> np.ndarray:
        """(T,) float32: side in pixels of the square as large as the box."""
        return face_size(self.box.reshape(-1, 2, 2))


@dataclass
class _OpenTrack:
    """A track that goes on. detections: frame, face and score, from which the frames not yet released are interpolated.

    sighting: what is known of whose face it is; nothing is released before it has a number. face: where it is followed.
    seen: the last frame in which it was found or followed.
    """

    sighting: Sighting
    first: int                                                    # first frame not yet released
    detections: list[tuple[int, np.ndarray, float]] = field(default_factory=list)
    face: FollowedFace | None = None
    seen: int = -1

    @property
    def expected(self) -> np.ndarray:
        """Where the points are now, as far as is known."""
        last, points, _ = self.detections[-1]
        return points if self.face is None else self.face.expected(last, points)

    def add(self, frame: int, points: np.ndarray) -> None:
        score = _steadiness(self.expected, points) if self.detections else 0.5
        self.detections.append((frame, points, score))
        self.seen = frame

    def insert(self, frame: int, points: np.ndarray, expected: np.ndarray) -> None:
        """Add what was found in a frame before the last."""
        self.detections.append((frame, points, _steadiness(expected, points)))
        self.detections.sort(key=lambda detection: detection[0])

    def at(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points (T, N, 2) and scores (T,) in these frames, and (T,) frames between those around each where it was seen."""
        numbers = np.array([number for number, _, _ in self.detections])
        left, right = _neighbours(frames, numbers)
        span = numbers[right] - numbers[left]
        weight = np.where(span > 0, (frames - numbers[left]) / np.maximum(span, 1), 0).astype(np.float32)
        found = np.stack([points for _, points, _ in self.detections])
        points = found[left] + (found[right] - found[left]) * weight[:, None, None]
        scores = np.array([score for _, _, score in self.detections], np.float32)
        score = scores[left] + (scores[right] - scores[left]) * weight
        if self.face is not None:
            points, known = self.face.moved(frames, numbers, points)
            left, right = _neighbours(frames, known)
            span = known[right] - known[left]
        return points, score, span


class FaceTracker:
    """Follows up to `max_faces` people through a recording given in consecutive windows.

        with FaceTracker() as tracker:
            for clip in media.windows(path):
                tracks += tracker.update(clip)
            tracks += tracker.finish()

    landmarks: which ones, as mouth-crop settings name them. The mesh is followed from frame to frame, the detector's are not.
    stride: every `stride`-th frame is searched where faces are not followed: where one was lost, or nobody is in sight. With a
    stride of 1 every frame is searched, and nothing is followed: this is the reference. key_interval: frames from one search to
    the next at most while all faces are followed; two thirds as many at first, and fewer where the two do not agree.
    max_gap: a face that is lost for more frames than this ends its track.

    lag: frames of a track that may be held back at most. With a smaller key_interval it is smaller.
    """

    def __init__(self, *, landmarks: str = MESH, max_faces: int = MAX_FACES, stride: int = 3, key_interval: int = 36,
                 max_gap: int = 12) -> None:
        follow = landmarks == MESH and stride > 1
        self.stride, self.max_gap, self.key_interval = stride, max_gap, max(stride, key_interval if follow else 0)
        self.lag = self.key_interval + max_gap + 3 * stride + HELD_FRAMES
        self._network = shared_network() if follow else None
        self._interval, self._next_search = stride, 0
        self._recent: dict[int, np.ndarray] = {}  # frames since the last search in which faces were followed, (H, W) grey
        self._chroma: dict[int, np.ndarray] = {}  # of those and of the current window: number -> see media.colour
        self._max_faces, self._thumb = max_faces, np.zeros((THUMBNAIL, THUMBNAIL))    # of the frame searched last
        self._finder = FaceFinder(landmarks, max_faces, "IMAGE" if follow else "VIDEO")
        self._crowd = CrowdFinder(self._finder.search) if follow else None
        self._tracks: list[_OpenTrack] = []
        self._ended: list[FaceTrack] = []
        self._next: int | None = None             # number of the next frame
        self._people, self._cuts = People(landmarks), CutFinder()
        self._hidden: set[int] = set()            # frames without a picture that are not yet released

    def __enter__(self) -> FaceTracker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the face finder. Called by `with`, and at the latest when the tracker is deleted or the program ends."""
        self._finder.close()

    def update(self, clip: Clip) -> list[FaceTrack]:
        """The parts of tracks that are final once `clip`, which follows the clip before it, has been searched.

        The parts of a track follow one another without a hole.
        """
        if clip.video is None:
            return []
        assert clip.shown is not None
        assert self._next in (None, clip.start_frame), "windows must follow one another"
        self._next = clip.start_frame + len(clip.video)
        if clip.chroma is not None:
            self._chroma.update(enumerate(clip.chroma, clip.start_frame))
        for frame in self._cuts.update(range(clip.start_frame, self._next), clip.video, clip.shown):
            self._step(frame)
        parts = [self._release(track) for track in self._tracks if track.sighting.person is not None]
        self._recent = {number: own_copy(frame) for number, frame in self._recent.items()}
        self._chroma = {number: own_copy(self._chroma[number]) for number in (*self._recent, self._next - 1)
                        if number in self._chroma}
        done, self._ended = self._ended, []
        self._forget_hidden(self._next)
        return done + [part for part in parts if len(part.points)]

    def finish(self) -> list[FaceTrack]:
        """The rest of all tracks, at the end of the recording."""
        for frame in self._cuts.finish():
            self._step(frame)
        self._end(self._tracks, self._next)
        done, self._ended = self._ended, []
        self._hidden.clear()
        return done

    def problems(self, name: str) -> list[str]:
        """What the user should know of the recording `name`: that more people were in sight than are followed."""
        if self._crowd is None or self._crowd.most <= self._max_faces:
            return []
        return [f"{name}: up to {self._crowd.most} faces are in sight at once, of which {self._max_faces} were followed; the "
                "lips of the others were not read."]

    def _step(self, frame: ShotFrame) -> None:
        number = frame.number
        if not frame.shown:
            self._hidden.add(number)
        elif frame.cut:
            self._end(self._tracks, number)
            self._finder.reset_view()
            if self._crowd is not None:
                self._crowd.reset()
            self._search(number, frame.picture)
        elif frame.perhaps:
            self._search(number, frame.picture, doubted=True)
        else:
            self._follow(number, frame.picture)
        self._people.decide(number)
        self._end([track for track in self._tracks if track.sighting.over or number - track.seen > self.max_gap], None)

    def _follow(self, number: int, frame: np.ndarray) -> None:
        """Follow all faces into this frame, and search it where one was lost just now, or it is time for a search."""
        before = [(track, track.face) for track in self._tracks if track.face is not None and track.face.now is not None]
        all_followed = bool(self._tracks) and len(before) == len(self._tracks)
        due = number >= self._next_search if all_followed else number % self.stride == 0
        due |= number - 1 in self._hidden
        calm = self._interval >= self.key_interval // 2
        if all_followed and not due and calm and number % FOLLOW_EVERY:
            return
        self._recent[number] = grey_of(frame)
        for track, face in before:
            if self._network is not None and face.move(self._network, number, frame):
                track.seen = number
                if number - track.sighting.last_seen >= self.stride:
                    self._people.see(track.sighting, number, frame, track.expected)
        lost = any(face.now is None for _, face in before)
        if due or lost or (all_followed and self._newcomer(number, frame)):
            self._search(number, frame)

    def _newcomer(self, number: int, frame: np.ndarray) -> bool:
        """Whether there is a face that is not followed. A detector is asked where the picture changed beside the faces."""
        if number % GLANCE_EVERY or len(self._tracks) >= self._max_faces:
            return False
        known, thumb = [track.expected for track in self._tracks], grey_thumbnail(frame)
        change = np.abs(thumb - self._thumb) > CHANGE
        scale = np.array([THUMBNAIL / side for side in frame.shape[1::-1]])
        for points in known:
            left, top, right, bottom = np.concatenate([points.min(axis=0) * scale, points.max(axis=0) * scale]).astype(int)
            change[max(0, top - 1) : bottom + 2, max(0, left - 1) : right + 2] = False
        if change.sum() < CHANGED:
            return False
        self._thumb = thumb
        return self._finder.sees_another(frame, known)

    def _search(self, number: int, frame: np.ndarray, *, doubted: bool = False) -> None:
        """Find the faces of one frame, add each to the track it belongs to or to a new one, and look whose they are. doubted:
        whether a face may be another person's than the one that was in its place."""
        grey, frame = frame, self._coloured(number, frame)
        faces = self._finder.faces(frame, number)
        pairs = dict(_match([track.expected for track in self._tracks], faces))
        for place, track in enumerate(self._tracks):
            if track.seen == number and place not in pairs:      # followed into this frame, so it is looked for more closely
                near = [face for face in self._finder.around(frame, track.expected) if not _match([face], faces)]
                for _, face in _match([track.expected], near):
                    pairs[place], faces = len(faces), [*faces, near[face]]
        if self._crowd is not None:
            known = faces + [track.expected for place, track in enumerate(self._tracks) if place not in pairs]
            faces = faces + self._crowd.others(frame, number, known, self._max_faces - len(known))
        new, wrong = dict(enumerate(faces)), []
        for place, face in pairs.items():
            track, points = self._tracks[place], faces[face]
            if track.face is not None and apart(track.expected, points) > AGREEMENT:
                wrong.append((track, track.detections[-1][0]))
            if not doubted or not self._people.is_other(track.sighting, frame, points):
                track.add(number, new.pop(face))
        for points in new.values():
            self._tracks.append(_OpenTrack(self._people.appear(number), number))
            self._tracks[-1].add(number, points)
        for track in self._tracks:
            if track.detections[-1][0] == number:
                self._people.see(track.sighting, number, frame, track.detections[-1][1])
            elif track.seen == number:
                self._people.keep_in_sight(track.sighting, number)
        if self._network is not None:
            self._hold(self._network, number, grey, agree=not wrong)
        for track, last in wrong:
            if track.detections[-1][0] == number:
                self._go_back(track, last, number)
        self._recent.clear()

    def _coloured(self, number: int, frame: np.ndarray) -> np.ndarray:
        """The frame in RGB if its colour is known: in grey the mesh puts the upper lip 0.6 pixels of the crop elsewhere."""
        return joined(frame, self._chroma[number]) if number in self._chroma and frame.ndim == 2 else frame

    def _go_back(self, track: _OpenTrack, before: int, after: int) -> None:
        """Search a face half-way between two searches, and again in both halves if it was not where it was expected there."""
        middle = None if track.face is None else track.face.halfway(before, after)
        if middle not in self._recent or after - before < 2 * self.stride:
            return
        expected = track.at(np.array([middle]))[0][0]
        for face in self._finder.around(self._coloured(middle, self._recent[middle]), expected):
            if _match([expected], [face]):
                track.insert(middle, face, expected)
                if apart(expected, face) > AGREEMENT / 2:
                    self._go_back(track, before, middle)
                    self._go_back(track, middle, after)
                return

    def _hold(self, network: FollowerNetwork, number: int, frame: np.ndarray, *, agree: bool) -> None:
        """Follow what was found in this frame from here on, and decide when to search again."""
        new = False
        for track in self._tracks:
            last, points, _ = track.detections[-1]
            if last == number:
                new |= track.face is None
                track.face = track.face or FollowedFace(carry_weights(points))
                track.face.search_found(network, number, frame, points)
            elif track.face is not None:
                track.seen = max(last, track.face.lose(number))
        interval = 2 * self.key_interval // 3 if new else 3 * self._interval // 2 if agree else self.stride
        self._interval = min(max(self.stride, interval), self.key_interval)
        self._next_search = number + self._interval
        self._thumb = grey_thumbnail(frame)

    def _end(self, tracks: list[_OpenTrack], stop: int | None) -> None:
        """End tracks before frame `stop` if the picture or the recording ends there, else where the face was last found."""
        if tracks:
            self._people.decide(tracks[0].detections[-1][0], [track.sighting for track in tracks])
        for track in list(tracks):
            self._tracks.remove(track)
            end = track.seen + 1
            if stop is not None and stop - end < self.stride and not track.sighting.over:
                end = stop
            self._ended.append(self._part(track, end, last=True))

    def _release(self, track: _OpenTrack) -> FaceTrack:
        """The final part of a track that goes on: up to its last detection."""
        part = self._part(track, track.detections[-1][0] + 1, last=False)
        track.first, track.detections = part.end_frame, track.detections[-1:]
        if track.face is not None:
            track.face.forget(track.detections[0][0])
        return part

    def _part(self, track: _OpenTrack, stop: int, last: bool) -> FaceTrack:
        frames = np.arange(track.first, stop)
        points, score, span = track.at(frames)
        missing = (span > self.stride) | np.isin(frames, list(self._hidden))
        box = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
        points, score = points[:, : self._finder.n_points], np.where(missing | turned_away(points), np.float32(0), score)
        assert track.sighting.person is not None
        return FaceTrack(track.sighting.person, track.first, points, box, score, missing, last)

    def _forget_hidden(self, following: int) -> None:
        """Drop hidden frames that no part will cover. following: number of the next frame."""
        oldest = min((track.first for track in self._tracks), default=following)
        self._hidden = {number for number in self._hidden if number >= min(oldest, following - 1)}


def _neighbours(frames: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T,) places in `numbers` of the last that is not after each frame, and of the first not before it, or the last."""
    left = np.searchsorted(numbers, frames, side="right") - 1
    return left, np.minimum(left + (frames > numbers[left]), len(numbers) - 1)


def grey_thumbnail(frame: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 -> (32, 32) float32."""
    return thumbnail(frame).mean(axis=-1, dtype=np.float32)


def _steadiness(before: np.ndarray, after: np.ndarray) -> float:
    """1 for a face that only moved or came nearer, towards 0 the more its shape changed; 0.5 at 3 % of its size."""
    a, b = ((points - points.mean(axis=0)) / max(float(face_size(points)), 1e-6) for points in (before, after))
    return float(1 / (1 + np.linalg.norm(a - b, axis=1).mean() / 0.03))


def _match(people: list[np.ndarray], faces: list[np.ndarray]) -> list[tuple[int, int]]:
    """Pairs (track, face), the nearest first; faces that moved or grew too much stay alone."""
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
