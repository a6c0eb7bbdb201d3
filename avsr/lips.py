"""Mouth crops: frames and face tracks in, aligned grey mouths out.

    Clip.video (T, H, W, 3) uint8 RGB  +  FaceTrack.points (T, N, 2) float32 pixels  ->  Mouths.images (T, 96, 96) uint8

The mouth-crop settings are part of a model: a checkpoint with other settings refuses a cache. The default settings make crops
like auto_avsr's: the face is turned and scaled to a mean face, with the mouth in the middle. MOUTH_CROPS lists them by name.
Everybody's mouth is cropped as the frames pass; the speaker is chosen afterwards, see speakers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from avsr import faces, rates
from avsr.errors import BadCheckpoint, quote
from avsr.faces.geometry import similarity
from avsr.media.colour import grey_of, own_copy
from avsr.schema import Between, InvalidValue, OneOf, validate_table

if TYPE_CHECKING:
    from avsr.faces import FaceTrack
    from avsr.media import Clip


UNCROPPED = "none"                                     # of landmarks: each picture of a recording is a mouth already
YOUNGER = frozenset({"whole_pixels", "averaged"})      # fields of MouthCropSettings that older files lack
Point = Annotated[int, Between(0, 2**10)]                   # the number of a landmark of the face
Pixel = Annotated[float, Between(-1000, 1000)]              # of the mean face


@dataclass(frozen=True)
class MouthCropSettings:
    """How a mouth is cut out of a frame (its region of interest, ROI); stored with every model and every cache.

    landmarks: which ones, see faces.FaceTracker; `anchors` and `mouth` are numbers of such points. UNCROPPED: none, because
    each picture is a mouth already, see cropped.py; nothing is known of how it was cut out, and only `size` has a meaning.
    anchors: groups of points that do not move in speech (of the mesh: corners of the person's right eye, of the left eye, and
    the base of the nose). Their means are laid on `reference`, the same points of auto_avsr's mean face of 256x256 pixels.
    mouth: the points whose mean is the centre of the crop. The default is the inner edge of the upper lip, which does not drop
    with the jaw, and is on average 3.8 pixels of the crop from where auto_avsr's detector puts the centre (GRID).
    If `reference` has one point more than there are anchors, the mouth is laid on that one as well.
    smooth: frames over which the points are averaged, half before and half after. whole_pixels: the crop is cut out at whole
    pixels of the mean face, which leaves the mouth up to half a pixel from the middle. averaged: in a close-up, blocks of
    pixels are averaged before they are warped.
    """

    landmarks: Annotated[str, OneOf((faces.MESH, faces.BLAZEFACE, UNCROPPED))] = faces.MESH
    size: Annotated[int, Between(rates.MOUTH_INPUT, 512)] = rates.MOUTH_SIZE     # pixels of the mean face, square
    anchors: tuple[tuple[Point, ...], ...] = ((33, 133), (362, 263), (98, 97, 2, 326, 327))
    reference: tuple[tuple[Pixel, Pixel], ...] = ((102.07, 94.27), (156.36, 93.58), (129.00, 135.90))
    mouth: tuple[Point, ...] = (81, 82, 13, 312, 311)
    smooth: Annotated[int, Between(0, 250)] = 12
    whole_pixels: bool = False
    averaged: bool = True

    def __post_init__(self):
        """Raises ValueError if the points do not go together."""
        if self.landmarks == UNCROPPED:
            if self.anchors or self.reference or self.mouth:
                raise ValueError("points, though each picture is taken as a mouth")
            return
        if len(self.anchors) < 2 or len(self.reference) not in (len(self.anchors), len(self.anchors) + 1):
            raise ValueError(f"{len(self.anchors)} anchors, at least 2, are laid on {len(self.reference)} points of reference")
        points = [point for group in (*self.anchors, self.mouth) for point in group]
        if not all((*self.anchors, self.mouth)) or max(points) >= faces.n_points(self.landmarks):
            raise ValueError(f"anchors and mouth are groups of points, numbered from 0, of {faces.n_points(self.landmarks)}")

    @property
    def face_landmarks(self) -> str | None:
        """The landmarks that are to be found in faces; None where each picture is a mouth already."""
        return None if self.landmarks == UNCROPPED else self.landmarks

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON can hold them; `from_dict` takes them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MouthCropSettings:
        """The settings that `to_dict` stored as `values`, where tuples may have become lists; YOUNGER fields may be absent.

        Raises BadCheckpoint for any other difference in the fields.
        """
        if not isinstance(values, Mapping):
            raise BadCheckpoint(f"mouth crop: {quote(values)} is no table.  Prepare or train again with this version.")
        names = {field.name for field in fields(cls)}
        if wrong := sorted((names ^ set(values)) - (YOUNGER - set(values))):
            known = "is not there" if wrong[0] in names else "is not known to this version"
            raise BadCheckpoint(f"mouth crop: field {quote(wrong[0])} {known}.  Prepare or train again with this version.")
        try:
            return cls(**validate_table(cls, values))
        except (InvalidValue, ValueError) as error:
            raise BadCheckpoint(f"mouth crop: {error}.  Prepare or train again with this version.") from error

    def differences(self, other: MouthCropSettings) -> list[str]:
        """One line, `field: mine against theirs`, for each field that differs; empty where mouths are comparable."""
        mine, theirs = asdict(self), asdict(other)
        if UNCROPPED in (self.landmarks, other.landmarks) and self.landmarks != other.landmarks:
            return [f"landmarks: {self.landmarks} against {other.landmarks}"]              # nothing else can be compared
        return [f"{name}: {mine[name]} against {theirs[name]}" for name in mine if mine[name] != theirs[name]]


MOUTH_CROPS: dict[str, MouthCropSettings] = {
    "avsr": MouthCropSettings(),
    "auto-avsr": MouthCropSettings(
        landmarks=faces.BLAZEFACE,
        anchors=((0,), (1,), (2,)),
        reference=((102.07394306, 94.27230352), (156.36130542, 93.57815605), (129.00373787, 135.90343029),
                   (129.31337323, 157.82299635)),
        mouth=(3,),
        whole_pixels=True,
        averaged=False,
    ),
    "none": MouthCropSettings(landmarks=UNCROPPED, anchors=(), reference=(), mouth=(), smooth=0),
}
"""Mouth-crop settings by name. "auto-avsr" are those of mpc001/auto_avsr with MediaPipe, and of mpc001's Visual Speech
Recognition for Multiple Languages. Given their four points, the crops are theirs: their robust fit, LMEDS over four points, is
least squares in 55 of 58 clips. As only every third frame is searched here, the mouth is 0.6 pixels of the crop from theirs
and a crop differs by 1.8 grey levels, means of 47 GRID clips (1.1 and 3.5 in the worst clip). If several people are in sight,
each is followed here, and auto_avsr takes the last that the detector names; if nobody is found, parts of the frame are
searched here, and auto_avsr uses another detector. With points of the mesh instead, the mouth would be 3 pixels off or more.
"none" is for videos that are mouths already.
"""


@dataclass(frozen=True)
class Mouths:
    """One person's mouth over consecutive frames.

    images: (T, 96, 96) uint8 grey; black where nobody is seen, and outside the picture
    missing: (T,) bool: True where no face was found; the images there come from interpolated landmarks, or are black
    size: (T,) float32: side of the face in pixels of the source; 0 where nobody is seen
    score: (T,) float32 in 0..1: steadiness of the face, 0 where missing or turned away
    start_frame: number of the first frame, from the start of the recording
    person: number of the person; of the one mostly seen where several cameras were joined
    compared: (T, N, N) uint8 grey: the same frames as the network wants them that tells who speaks; None if it takes `images`
    """

    images: np.ndarray
    missing: np.ndarray
    size: np.ndarray
    score: np.ndarray
    start_frame: int
    person: int
    compared: np.ndarray | None = None

    @property
    def end_frame(self) -> int:
        """One past the number of the last frame."""
        return self.start_frame + len(self.images)

    @property
    def turned_away(self) -> np.ndarray:
        """(T,) bool: frames with a face that is turned so far that its mouth cannot be read."""
        return ~self.missing & (self.score == 0)

    def part(self, first: int, last: int) -> Mouths | None:
        """The frames from `first` to before `last`, counted from its start; None where the mouth is missing in all of them."""
        if self.missing[first:last].all():
            return None
        return replace(self, start_frame=self.start_frame + first,
                       compared=None if self.compared is None else self.compared[first:last],
                       **{name: getattr(self, name)[first:last] for name in ("images", "missing", "size", "score")})


@dataclass
class _OpenCrop:
    """A face track that goes on: its points from frame `first` on; those before `next` only serve smoothing."""

    first: int               # frame of points[0]
    start: int               # first frame of the track
    next: int                # frame to be cropped next
    points: np.ndarray       # (N, anchors + 1, 2) float64, see _group_means
    size: np.ndarray         # (N,) float32
    score: np.ndarray        # (N,) float32
    missing: np.ndarray      # (N,) bool


class MouthCropper:
    """Crops everybody's mouth in a recording given in consecutive windows, as the face tracks become final.

        with FaceTracker(landmarks=mouth_crop.landmarks) as tracker:
            cropper = MouthCropper(mouth_crop)
            for clip in media.windows(path):
                mouths += cropper.update(clip, tracker.update(clip))
            mouths += cropper.finish(tracker.finish())

    Grey frames are kept only while a track may still need them: those of the tracker's `lag` and half of `smooth`.
    """

    def __init__(self, mouth_crop: MouthCropSettings | None = None) -> None:
        self.mouth_crop = mouth_crop or MouthCropSettings()
        self._frames: dict[int, np.ndarray] = {}           # number -> (H, W) uint8 grey, or RGB of the current clip
        self._people: dict[int, _OpenCrop] = {}

    def update(self, clip: Clip, tracks: Iterable[FaceTrack]) -> list[Mouths]:
        """The mouths that are final, given the next window and the parts of face tracks that it completed."""
        if clip.video is not None:
            self._frames.update(enumerate(clip.video, clip.start_frame))
        mouths = self._crop(tracks)
        self._forget()
        return mouths

    def finish(self, tracks: Iterable[FaceTrack] = ()) -> list[Mouths]:
        """The last mouths, given the parts of face tracks that the tracker's `finish` returned."""
        mouths = self._crop(tracks)
        assert not self._people, "the tracker must be finished first"
        self._frames.clear()
        return mouths

    def _crop(self, tracks: Iterable[FaceTrack]) -> list[Mouths]:
        made = [self._extend(track) for track in tracks]
        return [mouths for mouths in made if mouths is not None]

    def _extend(self, track: FaceTrack) -> Mouths | None:
        """Add a part of a track to its person, and crop the frames that have all their neighbours for smoothing."""
        person = self._people.pop(track.person, None)
        assert track.points.shape[1] == faces.n_points(self.mouth_crop.landmarks), "points of another kind than the settings'"
        person = _continue(person, track, _group_means(track.points, self.mouth_crop))
        stop = track.end_frame if track.last else track.end_frame - self.mouth_crop.smooth // 2
        mouths = None
        if stop > person.next:
            mouths = self._cut(person, stop, track.person)
            person.next = stop
        if not track.last:
            self._people[track.person] = _trim(person, self.mouth_crop.smooth // 2)
        return mouths

    def _cut(self, person: _OpenCrop, stop: int, number: int) -> Mouths:
        here = slice(person.next - person.first, stop - person.first)
        matrices = _matrices(_smooth(person, here, self.mouth_crop.smooth // 2), self.mouth_crop)
        greys = (grey_of(self._frames[frame]) for frame in range(person.next, stop))
        images = np.stack([_warp(grey, matrix, self.mouth_crop) for grey, matrix in zip(greys, matrices, strict=True)])
        return Mouths(images, person.missing[here], person.size[here], person.score[here], person.next, number)

    def _forget(self) -> None:
        """Drop the frames that no track needs, nor one that is not released yet; keep the others as grey copies, so that the
        clip can be freed."""
        following = max(self._frames, default=-1) + 1
        oldest = min([following - faces.HELD_FRAMES] + [person.next for person in self._people.values()])
        self._frames = {number: own_copy(grey_of(frame)) for number, frame in self._frames.items() if number >= oldest}


def _group_means(points: np.ndarray, mouth_crop: MouthCropSettings) -> np.ndarray:
    """(T, N, 2) -> (T, anchors + 1, 2) float64: the means of the groups of anchors, and last of the mouth."""
    groups = (*mouth_crop.anchors, mouth_crop.mouth)
    return np.stack([points[:, group].astype(np.float64).mean(axis=1) for group in groups], axis=1)


def _continue(person: _OpenCrop | None, track: FaceTrack, points: np.ndarray) -> _OpenCrop:
    if person is None:
        start = track.start_frame
        return _OpenCrop(start, start, start, points, track.size, track.score, track.missing)
    assert track.start_frame == person.first + len(person.points), f"a part of person {track.person} is missing"
    person.points = np.concatenate([person.points, points])
    person.size = np.concatenate([person.size, track.size])
    person.score = np.concatenate([person.score, track.score])
    person.missing = np.concatenate([person.missing, track.missing])
    return person


def _trim(person: _OpenCrop, reach: int) -> _OpenCrop:
    """Drop the points with which no later frame is smoothed."""
    old = max(0, person.next - reach - person.first)
    person.first += old
    for name in ("points", "size", "score", "missing"):
        setattr(person, name, getattr(person, name)[old:])
    return person


def _smooth(person: _OpenCrop, here: slice, reach: int) -> np.ndarray:
    """The mean points of up to `reach` frames on either side, fewer towards the ends of a track, moved to where the frame's own
    points have their centre. So shape and scale are steady, and the position does not lag."""
    smoothed = []
    for now in range(here.start, here.stop):
        near = min(reach, now + person.first - person.start, len(person.points) - 1 - now)
        mean = person.points[now - near : now + near + 1].mean(axis=0)
        smoothed.append(mean + (person.points[now].mean(axis=0) - mean.mean(axis=0)))
    return np.stack(smoothed)


def _matrices(points: np.ndarray, mouth_crop: MouthCropSettings) -> np.ndarray:
    """(T, anchors + 1, 2) -> (T, 2, 3) float64: from pixels of the frame to pixels of the crop."""
    matrices = similarity(points[:, : len(mouth_crop.reference)], np.array(mouth_crop.reference))
    mouth = np.einsum("tij,tj->ti", matrices[:, :, :2], points[:, -1])
    if mouth_crop.whole_pixels:
        matrices[:, :, 2] -= np.round(matrices[:, :, 2] + mouth - mouth_crop.size / 2)
    else:
        matrices[:, :, 2] = mouth_crop.size / 2 - mouth
    return matrices


def _warp(grey: np.ndarray, matrix: np.ndarray, mouth_crop: MouthCropSettings) -> np.ndarray:
    """(H, W) uint8 -> (size, size) uint8. In a close-up, blocks of pixels are averaged first to prevent aliasing."""
    import cv2

    size = mouth_crop.size
    block = max(1, int(1 / max(float(np.hypot(*matrix[:, 0])), 1e-6)))
    if block > 1 and mouth_crop.averaged:
        grey, matrix = _shrunk(grey, matrix, size, block)
    return cv2.warpAffine(grey, matrix, (size, size), flags=cv2.INTER_LINEAR)


def _shrunk(grey: np.ndarray, matrix: np.ndarray, size: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of the frame that the crop shows, `block` times smaller, and the matrix for it."""
    import cv2

    corners = np.array([[-1, -1], [size, -1], [-1, size], [size, size]], np.float64)
    there = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    limits = np.array(grey.shape[::-1])
    low = np.clip(np.floor(there.min(axis=0)).astype(int) - block, 0, limits - 1)
    count = np.maximum((np.clip(np.ceil(there.max(axis=0)).astype(int) + block, 1, limits) - low) // block, 1)
    part = grey[low[1] : low[1] + count[1] * block, low[0] : low[0] + count[0] * block]
    small = cv2.resize(part, tuple(int(n) for n in count), interpolation=cv2.INTER_AREA)
    shift = matrix[:, :2] @ (low + (block - 1) / 2) + matrix[:, 2]       # centre of the first block
    return small, np.column_stack([matrix[:, :2] * block, shift])


def centre(images: np.ndarray) -> np.ndarray:
    """Mouths (..., 96, 96) -> (..., 88, 88), the centre: the crop used outside training."""
    edge, size = (images.shape[-1] - rates.MOUTH_INPUT) // 2, rates.MOUTH_INPUT
    return np.ascontiguousarray(images[..., edge : edge + size, edge : edge + size])
