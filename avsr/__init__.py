"""Speech recognition that reads lips: any talking video to text, `avsr.transcribe(path) -> Transcript`.

Nothing heavy is imported until it is used: `import avsr` takes milliseconds, the first `avsr.transcribe` seconds.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avsr.checkpoint import Checkpoint as Checkpoint
    from avsr.checkpoint import load as load
    from avsr.errors import AvsrError as AvsrError
    from avsr.fetch import fetch as fetch
    from avsr.transcribe import transcribe as transcribe
    from avsr.transcript import Segment as Segment
    from avsr.transcript import Transcript as Transcript
    from avsr.transcript import Word as Word

__version__ = "0.1.0"
_HOMES = {"transcribe": "avsr.transcribe", "load": "avsr.checkpoint", "Checkpoint": "avsr.checkpoint",
          "Transcript": "avsr.transcript", "Segment": "avsr.transcript", "Word": "avsr.transcript",
          "AvsrError": "avsr.errors", "fetch": "avsr.fetch"}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'avsr' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        # Importing the file avsr/transcribe.py or the folder avsr/fetch would otherwise hide the function that has its name.
        is_home = name in ("transcribe", "fetch") and isinstance(value, ModuleType)
        super().__setattr__(name, getattr(value, name) if is_home else value)


sys.modules[__name__].__class__ = _Package
