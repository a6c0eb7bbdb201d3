"""Whole clips at once, for tests: the face tracks that a FaceTracker gives in parts, joined, and the mouths of a track."""

from collections import defaultdict
from itertools import pairwise

import numpy as np

from avsr.faces import FaceTrack, FaceTracker
from avsr.lips import MouthCropper, MouthCropSettings, Mouths
from avsr.media import Clip


def track_faces(clips, **options) -> list[FaceTrack]:
    """One track per person in a clip, or in consecutive windows, in order of appearance. options: those of FaceTracker."""
    people: dict[int, list[FaceTrack]] = defaultdict(list)
    with FaceTracker(**options) as tracker:
        parts = [part for clip in ([clips] if isinstance(clips, Clip) else clips) for part in tracker.update(clip)]
        for part in parts + tracker.finish():
            people[part.person].append(part)
    return [_joined(people[person]) for person in sorted(people)]


def _joined(parts: list[FaceTrack]) -> FaceTrack:
    for before, after in pairwise(parts):
        assert before.end_frame == after.start_frame, f"a part of person {after.person} is missing"
    arrays = [np.concatenate([getattr(part, name) for part in parts]) for name in ("points", "box", "score", "missing")]
    return FaceTrack(parts[0].person, parts[0].start_frame, *arrays, last=parts[-1].last)


def crop(clip: Clip, track: FaceTrack, mouth_crop: MouthCropSettings | None = None) -> Mouths:
    """The mouths (T, 96, 96) of a whole track within a whole clip."""
    assert track.last, "a part of a track: give it to a MouthCropper"
    return MouthCropper(mouth_crop).update(clip, [track])[0]
