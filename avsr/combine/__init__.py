"""The sound by one model and the lips by another, which never met (`--lips`).

    Checkpoint + Checkpoint -> CombinedCheckpoint (checkpoint.py) -> CombinedRecogniser (recogniser.py)
Inside: candidates (texts of both searches) -> spelling (as the audio model writes them), scores (by lips) -> weights -> times.
"""

from avsr.checkpoint import Checkpoint
from avsr.combine.checkpoint import JOINED_BY, CombinedCheckpoint, combine
from avsr.combine.recogniser import CombinedRecogniser
from avsr.combine.weights import Evidence
from avsr.recogniser import Recogniser

__all__ = ["JOINED_BY", "CombinedCheckpoint", "CombinedRecogniser", "Evidence", "combine", "open_recogniser"]


def open_recogniser(checkpoint: Checkpoint, modality: str) -> Recogniser:
    """The recogniser of a checkpoint for a modality, `a`, `v` or `av`."""
    if not isinstance(checkpoint, CombinedCheckpoint):
        return Recogniser(checkpoint)
    if modality == "av":
        return CombinedRecogniser(checkpoint)
    return Recogniser(checkpoint.lips if modality == "v" else checkpoint)
