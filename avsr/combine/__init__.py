"""The sound by one model and the lips by another, which never met (`--lips`).

    Checkpoint + Checkpoint -> CombinedCheckpoint (checkpoint.py) -> CombinedRecogniser (recogniser.py)
Inside: candidates (texts of both searches) -> spelling (as the audio model writes them), scores (by lips) -> weights -> times.
"""

from avsr.checkpoint import Checkpoint
from avsr.combine.checkpoint import JOINED_BY, CombinedCheckpoint, combine
from avsr.errors import BadCheckpoint
from avsr.recogniser import Recogniser

__all__ = ["JOINED_BY", "CombinedCheckpoint", "combine", "open_recogniser"]


def open_recogniser(checkpoint: Checkpoint, modality: str) -> Recogniser:
    """The recogniser of a checkpoint for a modality, `a`, `v` or `av`. Raises BadCheckpoint where it has learnt no text yet."""
    if "valid_frame_errors" in checkpoint.training:         # of avsr pretrain
        raise BadCheckpoint(f"{checkpoint.name}: pre-trained without text, so it writes none yet.  Train it with texts first:  "
                            "avsr train CONFIG --set model.start=FOLDER")
    if not isinstance(checkpoint, CombinedCheckpoint):
        return Recogniser(checkpoint)
    if modality == "av":
        from avsr.combine.recogniser import CombinedRecogniser  # needs torch

        return CombinedRecogniser(checkpoint)
    return Recogniser(checkpoint.lips if modality == "v" else checkpoint)
