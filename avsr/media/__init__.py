"""Recordings: any file, bytes or array in; Clips of 25 pictures a second and 16 kHz sound out. Writes small videos too.

    path | bytes | binary file | (S,) float32 | Clip  ->  Clip, whole or in windows, on one clock

Zero is the earliest start of the picture and the sound, as players show it. Each stream has a demuxer of its own, so
neither waits for the other however they are interleaved, and both are placed by presentation time alone.
Inside: streams (container -> frames with times) -> picture, sound (-> 25 a second, 16 kHz) -> recording (-> Clips);
mixdown (channels to one), level (how loud a sound is).
"""

from avsr.media.recording import Clip, Recording, open_recording, read, windows
from avsr.media.write import write

__all__ = ["Clip", "Recording", "open_recording", "read", "windows", "write"]
