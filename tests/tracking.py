"""Whole clips at once, for tests: the face tracks that a FaceTracker gives in parts, joined, and the mouths of a track."""

from itertools import pairwise

import numpy as np

from avsr.faces import FaceTrack, FaceTracker
from avsr.lips import MouthCropper, MouthCropSettings, Mouths
from avsr.media import Clip


def track_faces(clips, **options) -> list[FaceTrack]:
    """The tracks in a clip, or in consecutive windows, in order of appearance; a person may have several. options: those of
    FaceTracker."""
    tracks: list[list[FaceTrack]] = []
    going_on: dict[int, list[FaceTrack]] = {}
    with FaceTracker(**options) as tracker:
        parts = [part for clip in ([clips] if isinstance(clips, Clip) else clips) for part in tracker.update(clip)]
        for part in parts + tracker.finish():
            if part.person not in going_on:
                tracks.append(going_on.setdefault(part.person, []))
            going_on[part.person].append(part)
            if part.last:
                del going_on[part.person]
    assert not going_on, "tracks without an end"
    return sorted(map(_joined, tracks), key=lambda track: (track.start_frame, track.person))


def _joined(parts: list[FaceTrack]) -> FaceTrack:
    for before, after in pairwise(parts):
        assert before.end_frame == after.start_frame, f"a part of person {after.person} is missing"
    arrays = [np.concatenate([getattr(part, name) for part in parts]) for name in ("points", "box", "score", "missing")]
    return FaceTrack(parts[0].person, parts[0].start_frame, *arrays, last=parts[-1].last)


def crop(clip: Clip, track: FaceTrack, mouth_crop: MouthCropSettings | None = None) -> Mouths:
    """The mouths (T, 96, 96) of a whole track within a whole clip."""
    assert track.last, "a part of a track: give it to a MouthCropper"
    return MouthCropper(mouth_crop).update(clip, [track])[0]
