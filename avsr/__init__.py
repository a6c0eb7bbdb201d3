"""Speech recognition that reads lips: any talking video to text, `avsr.transcribe(path) -> Transcript`.

Nothing heavy is imported before it is used: `import avsr` takes milliseconds, the first `avsr.transcribe` seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from avsr.align import align
from avsr.errors import AvsrError
from avsr.fetch import fetch
from avsr.find_speakers import find_speakers
from avsr.transcribe import transcribe

if TYPE_CHECKING:
    from avsr.checkpoint import Checkpoint, load
    from avsr.find_speakers.timeline import SpeakerTimeline
    from avsr.transcript import Segment, Transcript, Word

__version__ = "0.1.0"                                       # the only place: pyproject.toml reads it from here
__all__ = ["AvsrError", "Checkpoint", "Segment", "SpeakerTimeline", "Transcript", "Word", "align", "fetch", "find_speakers",
           "load", "transcribe"]
_MODULES = {"Checkpoint": "avsr.checkpoint", "load": "avsr.checkpoint", "Segment": "avsr.transcript",
            "SpeakerTimeline": "avsr.find_speakers.timeline",
            "Transcript": "avsr.transcript", "Word": "avsr.transcript"}


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module 'avsr' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
