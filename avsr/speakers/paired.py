"""Two crops of the same faces: the mouth that is read, and the face that the network wants which tells who speaks.

    Clip, FaceTracks -> Mouths with `images` by the one settings and `compared` by the other
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from avsr.errors import AvsrError
from avsr.faces import FaceTrack
from avsr.lips import MouthCropper, MouthCropSettings, Mouths
from avsr.media import Clip


class PairedCropper:
    """Takes the place of lips.MouthCropper. Raises AvsrError if the two crops are of different landmarks."""

    def __init__(self, mouth_crop: MouthCropSettings, compared: MouthCropSettings) -> None:
        if (mouth_crop.landmarks, mouth_crop.smooth) != (compared.landmarks, compared.smooth):
            raise AvsrError(f"speaker model: its faces are cut out by {compared.landmarks}, and the mouths that are read by "
                            f"{mouth_crop.landmarks}.  Leave out --speaker-model, or use another --model.")
        self._mouths, self._compared = MouthCropper(mouth_crop), MouthCropper(compared)

    def update(self, clip: Clip, tracks: Iterable[FaceTrack]) -> list[Mouths]:
        """See MouthCropper.update."""
        tracks = list(tracks)
        return _paired(self._mouths.update(clip, tracks), self._compared.update(clip, tracks))

    def finish(self, tracks: Iterable[FaceTrack] = ()) -> list[Mouths]:
        """See MouthCropper.finish."""
        tracks = list(tracks)
        return _paired(self._mouths.finish(tracks), self._compared.finish(tracks))


def _paired(mouths: list[Mouths], faces: list[Mouths]) -> list[Mouths]:
    return [replace(one, compared=other.images) for one, other in zip(mouths, faces, strict=True)]
