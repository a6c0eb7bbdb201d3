"""Live recognition: sound and mouths come in pieces; text is committed when it will not change.

    pieces of sound and pictures -> ClipAssembler -> Clips -> LiveRecogniser -> LiveUpdate: committed and pending words
Inside: assembler (pieces -> Clips) -> agreement (which words will not change) -> recogniser.
"""

from avsr.live.assembler import ClipAssembler
from avsr.live.recogniser import LiveRecogniser, LiveSettings, LiveUpdate

__all__ = ["ClipAssembler", "LiveRecogniser", "LiveSettings", "LiveUpdate"]
