"""Who is who in one recording: a person who was lost, or cut away from, gets the same number again, by the look of the face.

    frames and the points of faces -> grey faces (64, 64) uint8 -> numbers of people
Looks are compared within one recording, while it is read: nothing is stored. Only an enrolment compares files, by `Looks`. The
method is OpenCV's (opencv_contrib, cv2.face): histograms of local binary patterns (Ahonen, Hadid and Pietikaeinen 2006), which
do not change with the light, of faces turned upright and scaled to the same size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from avsr.faces.geometry import similarity
from avsr.faces.search import BLAZEFACE, MESH
from avsr.media.colour import grey_of

SIZE = 64                     # pixels: side of the grey face. It goes from the eyebrows to below the mouth.
# The corners of the person's right eye, those of the left eye, and the base or tip of the nose; and where they are laid.
ANCHORS = {MESH: ((33, 133), (362, 263), (98, 97, 2, 326, 327)), BLAZEFACE: ((0,), (1,), (2,))}
REFERENCE = ((19.2, 23.0), (44.8, 23.0), (32.0, 42.7))
FINEST = 8                    # a face that is larger than this times SIZE is sampled, not averaged
RADIUS, NEIGHBOURS, GRID = 3, 8, 8                    # of the patterns, in pixels and points; parts of the face a side
BLUR = 1.0                    # pixels: standard deviation of the blur that makes small and large faces alike
# Chi-squared distance of two faces under which they are one person's. GRID's train and valid clips, three frames against three
# of another clip: at most 107 for the same speaker in 100 % of the pairs (under 101 in 95 %), at least 137 for two of the four;
# at a third of the size 112 and 135, under light from the side or noise 115 and 136. Within a recording a person is nearer:
# 36 to 94 for nine of ten in other recordings, and 122 for one who turned the head.
SAME = 105.0
OTHER = 130.0                 # distance over which a face where there may have been a cut is another's than before
LOOKS = 3                     # at a new face before it is compared with those seen before
APART = 3                     # frames from one of these looks to the next at least
DECIDE_FRAMES = 9             # frames after which it is compared at the latest
DOUBT_FRAMES = 50             # in which a newcomer may still prove to be known: many enter the picture half in view
LOOK_EVERY = 25               # frames from one look to the next at a face that has its number, at first
MAX_LOOKS = 12                # of a person; then every second one is dropped, and looks are taken half as often
MAX_PEOPLE = 64               # remembered; beyond, whoever has not been seen for longest is forgotten: 50 MB


@dataclass(eq=False)
class Sighting:
    """A face in sight, from `first` to `last_seen` (frames). person: its number, None until it is known.

    looks: those not yet given to a person. looked: frame of the last of them. over: True once the person was found
    elsewhere, or has been recognised as another, so that this track must end.
    """

    first: int
    last_seen: int
    person: int | None = None
    looks: list[np.ndarray] = field(default_factory=list)
    looked: int | None = None
    over: bool = False


@dataclass
class _Person:
    """What a person looks like, in looks of (SIZE, SIZE) uint8, and the comparison with them."""

    number: int
    last_seen: int
    last_look: int
    first: int
    looks: list[np.ndarray] = field(default_factory=list)
    look_every: int = LOOK_EVERY
    patterns: Any = None                                  # a cv2.face.LBPHFaceRecognizer that has learnt `looks`

    def add(self, looks: Sequence[np.ndarray]) -> None:
        self.looks += looks
        if len(self.looks) > MAX_LOOKS:
            self.looks, self.look_every = self.looks[::2], 2 * self.look_every
            self.patterns, looks = None, self.looks
        if self.patterns is None:
            import cv2

            self.patterns = cv2.face.LBPHFaceRecognizer.create(RADIUS, NEIGHBOURS, GRID, GRID)
        self.patterns.update(list(looks), np.zeros(len(looks), np.int32))

    def distance(self, looks: Sequence[np.ndarray]) -> float:
        """The mean distance of `looks` from the nearest of this person's."""
        return float(np.mean([self.patterns.predict(look)[1] for look in looks]))


class People:
    """Gives people their numbers, from 0 in order of appearance, and known ones the number they had.

    A number is only given again if its owner was last seen before the new face was first seen: two faces that are in sight at
    the same time are always two people.
    """

    def __init__(self, landmarks: str) -> None:
        self._anchors = [list(group) for group in ANCHORS[landmarks]]
        self._known: dict[int, _Person] = {}
        self._sightings: list[Sighting] = []
        self._n_people = 0

    def appear(self, number: int) -> Sighting:
        """A new face, seen first in this frame."""
        self._sightings.append(Sighting(number, number))
        return self._sightings[-1]

    def keep_in_sight(self, sighting: Sighting, number: int) -> _Person | None:
        """The face is in this frame, whatever it looks like; whose it is, if that is known."""
        sighting.last_seen = number
        person = self._known.get(-1 if sighting.person is None else sighting.person)
        if person is not None:
            person.last_seen = number
        return person

    def is_other(self, sighting: Sighting, picture: np.ndarray, points: np.ndarray) -> bool:
        """Whether a face at the place of `sighting` is certainly another person's, to be asked where there may be a cut: of the
        same person, a head that turns quickly can be as unlike."""
        person = self._known.get(-1 if sighting.person is None else sighting.person)
        return person is not None and person.distance([self._look(picture, points)]) > OTHER

    def see(self, sighting: Sighting, number: int, picture: np.ndarray, points: np.ndarray) -> None:
        """The face was found in this frame: (H, W) or (H, W, 3) uint8, points (N, 2) in pixels."""
        person = self.keep_in_sight(sighting, number)
        if sighting.person is None:
            if len(sighting.looks) < LOOKS and (sighting.looked is None or number - sighting.looked >= APART):
                sighting.looks.append(self._look(picture, points))
                sighting.looked = number
            return
        if person is None:
            return
        doubtful = person.first == sighting.first and number < person.first + DOUBT_FRAMES
        if number - person.last_look >= (DECIDE_FRAMES if doubtful else person.look_every):
            person.last_look = number
            person.add([look := self._look(picture, points)])
            others = [other for other in self._known.values() if other.last_seen < person.first]
            if doubtful and any(other.distance([look]) < SAME for other in others):
                del self._known[person.number]
                sighting.over = True

    def decide(self, number: int, leaving: Sequence[Sighting] = ()) -> None:
        """Give those their numbers who were seen often or long enough by this frame, or are `leaving`, the nearest first."""
        due = [one for one in self._sightings if one.person is None
               and (len(one.looks) >= LOOKS or number - one.first >= DECIDE_FRAMES or one in leaving)]
        distances = [(len(person.looks) < LOOKS, person.distance(one.looks), i, person.number) for i, one in enumerate(due)
                     for person in self._known.values() if person.last_seen < one.first]
        for _, distance, i, name in sorted(distances):             # those of whom little was seen come last
            if distance < SAME and due[i].person is None and self._known[name].last_seen < due[i].first:
                self._name(due[i], self._known[name])
        for one in due:
            if one.person is None:
                self._name(one, self._newcomer(one))
        for one in leaving:
            person = self._known.get(-1 if one.person is None else one.person)
            if person is not None and len(person.looks) < LOOKS:       # too little to know them again by, but enough to mislead
                del self._known[person.number]
        self._sightings = [one for one in self._sightings if one not in leaving]

    def _name(self, sighting: Sighting, person: _Person) -> None:
        for other in self._sightings:
            other.over |= other.person == person.number
        sighting.person, person.last_seen, person.last_look = person.number, sighting.last_seen, sighting.last_seen
        person.add(sighting.looks)
        sighting.looks = []

    def _newcomer(self, sighting: Sighting) -> _Person:
        if len(self._known) >= MAX_PEOPLE:
            in_sight = {one.person for one in self._sightings}
            forgettable = [one for one in self._known.values() if one.number not in in_sight]
            if forgettable:
                del self._known[min(forgettable, key=lambda one: one.last_seen).number]
        person = _Person(self._n_people, sighting.last_seen, sighting.last_seen, sighting.first)
        self._known[person.number] = person
        self._n_people += 1
        return person

    def _look(self, picture: np.ndarray, points: np.ndarray) -> np.ndarray:
        return look(picture, points, self._anchors)


class Looks:
    """The face of one recording, to be compared with those of others. landmarks: which points its faces have."""

    def __init__(self, landmarks: str) -> None:
        self._anchors = [list(group) for group in ANCHORS[landmarks]]
        self.faces: list[np.ndarray] = []

    def add(self, picture: np.ndarray, points: np.ndarray) -> None:
        """The face at `points` (N, 2) pixels in a picture (H, W) or (H, W, 3) uint8."""
        self.faces.append(look(picture, points, self._anchors))

    def distance(self, other: Looks) -> float:
        """The mean distance of the other's faces from the nearest of these, as SAME and OTHER mean it."""
        person = _Person(0, 0, 0, 0)
        person.add(list(self.faces))
        return person.distance(other.faces)


def look(picture: np.ndarray, points: np.ndarray, anchors: Sequence[Sequence[int]]) -> np.ndarray:
    """The grey face (SIZE, SIZE) uint8, upright; averaged over the pixels of a larger one, and a little blurred."""
    import cv2

    here = np.stack([points[list(group)].mean(axis=0) for group in anchors])
    matrix = similarity(here, np.array(REFERENCE))
    finer = int(np.clip(np.ceil(1 / max(float(np.hypot(*matrix[:, 0])), 1e-6)), 1, FINEST))
    face = cv2.warpAffine(picture, matrix * finer, (SIZE * finer, SIZE * finer), borderMode=cv2.BORDER_REPLICATE)
    return cv2.GaussianBlur(cv2.resize(grey_of(face), (SIZE, SIZE), interpolation=cv2.INTER_AREA), (0, 0), BLUR)
