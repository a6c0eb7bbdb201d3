"""The videos of an enrolment: which files are read, and whether they show the face of one person.

    files and folders -> Recordings by name;  Recordings -> faces of each, compared
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from avsr import media
from avsr.errors import AvsrError
from avsr.faces.identity import LOOKS, OTHER, Looks
from avsr.faces.search import MESH, FaceFinder
from avsr.label import Recording, find_recordings
from avsr.runtime import Progress, no_progress

LOOK_EVERY = 12                       # frames from one look at a face to the next
SEARCHED = 250                        # frames in which a face is looked for


def find_videos(paths: Sequence[str | Path]) -> list[Recording]:
    """The recordings that are named, those of a folder included, each with a name of its own. Raises AvsrError, BadManifest."""
    found: list[Recording] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += find_recordings(path)[0]
        elif path.is_file():
            found.append(Recording(str(path.resolve()), path.stem))
        else:
            raise AvsrError(f"{path}: no such file.  Name videos of the person, or a folder of them.")
    if not found:
        raise AvsrError("No video is given.  Name videos of the person, or a folder of them.")
    unique = list({one.media: one for one in found}.values())
    taken: set[str] = set()
    for number, one in enumerate(unique):
        if one.name in taken:
            unique[number] = one = Recording(one.media, f"{one.name}-{number + 1}")
        taken.add(one.name)
    return unique


def check_one_face(recordings: Sequence[Recording], progress: Progress = no_progress) -> None:
    """Raises AvsrError where the largest face of a recording is clearly another person's than that of the first with a face.

    Recordings without a face, or that cannot be read, are passed over: they are reported where they are labelled.
    """
    first: tuple[str, Looks] | None = None
    for number, recording in enumerate(recordings):
        progress("comparing faces", number, len(recordings), "files")
        looks = Looks(MESH)
        for picture, points in _faces(recording.media):
            looks.add(picture, points)
        if not looks.faces:
            continue
        if first is None:
            first = recording.media, looks
            continue
        distance = first[1].distance(looks)
        if distance > OTHER:
            raise AvsrError(f"{recording.media}: its face is another person's than that of {first[0]} (distance "
                            f"{distance:.0f}, limit {OTHER:.0f}).  Give videos of one person.")


def _faces(path: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Up to LOOKS pictures with the points of their largest face."""
    finder, n_found = FaceFinder(MESH, 1), 0
    try:
        with media.open_recording(path, want_audio=False) as recording:
            if not recording.has_video:
                return
            for clip in recording.windows(LOOK_EVERY):
                if clip.start_frame >= SEARCHED or n_found >= LOOKS or clip.video is None:
                    return
                if faces := finder.faces(clip.video[0], clip.start_frame):
                    n_found += 1
                    yield clip.video[0], faces[0]
    except AvsrError:
        return
    finally:
        finder.close()
