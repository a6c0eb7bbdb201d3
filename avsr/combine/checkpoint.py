"""Two models as one: the sound by an audio model, and the lips by a video model that never met it.

    Checkpoint of any Whisper (or another that hears), Checkpoint of any lip reader -> CombinedCheckpoint
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from avsr.checkpoint import Checkpoint
from avsr.errors import BadCheckpoint

JOINED_BY = "+"                                             # in names: base+grid


@dataclass(frozen=True)
class CombinedCheckpoint(Checkpoint):
    """The audio model's checkpoint, with the mouth crop of the video model. lips: the video model."""

    lips: Checkpoint = field(kw_only=True)

    @property
    def modalities(self) -> tuple[str, ...]:
        """See Checkpoint: the sound by one model, the lips by the other, or both."""
        return ("a", "v", "av")


def combine(sound: Checkpoint, lips: Checkpoint) -> CombinedCheckpoint:
    """The two as one. Raises BadCheckpoint where one of them cannot do its part."""
    if "v" not in lips.modalities:
        can = "uses sound and lips together" if lips.modalities == ("av",) else "has no trained video encoder"
        raise BadCheckpoint(f"{lips.name}: this model {can}, so it cannot read lips for another.  Name one with --lips that "
                            "reads lips alone, such as grid.")
    if "a" not in sound.modalities:
        does = "reads lips alone" if sound.modalities == ("v",) else "uses sound and lips together"
        raise BadCheckpoint(f"{sound.name}: this model {does}, so it cannot hear for other lips.  Name one with --model that "
                            "uses sound alone, such as base, and name this one with --lips.")
    ours = {one.name: getattr(sound, one.name) for one in fields(Checkpoint)}
    ours |= {"name": f"{sound.name}{JOINED_BY}{lips.name}", "mouth_crop": lips.mouth_crop, "video_trained": True}
    return CombinedCheckpoint(**ours, lips=lips)
