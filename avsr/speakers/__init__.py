"""Active speakers: mouths and sound in, who speaks when out.

    Mouths.images (T, 96, 96) uint8  +  sound (S,) float32  ->  score per frame (T,)  ->  SpeakerTurn: which persons speak when

The files: network, lr_asd (two networks), detector (is a mouth in step with the sound?), models (which network tells it) ->
turns (whose turn is it?), choose (the one speaker of a segment), split (the turns of a segment, and whose lips are read in
each).
"""

from avsr.speakers.choose import choose_speaker, everybody
from avsr.speakers.detector import ActiveSpeakerDetector
from avsr.speakers.models import SpeakerDetector, open_detector
from avsr.speakers.paired import PairedCropper
from avsr.speakers.split import CONTEXT, Conversation, find_turns, one_turn
from avsr.speakers.turns import SpeakerTurn, speaker_turns

__all__ = ["CONTEXT", "ActiveSpeakerDetector", "Conversation", "PairedCropper", "SpeakerDetector", "SpeakerTurn",
           "choose_speaker", "everybody", "find_turns", "one_turn", "open_detector", "speaker_turns"]
