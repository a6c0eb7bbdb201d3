"""Recordings: any file, bytes or array in; Clips of 25 pictures a second and 16 kHz sound out. Writes small videos too.

    path | address | pipe | bytes | binary file | (S,) float32 | Clip  ->  Clip, whole or in windows, on one clock

Time zero is the earliest start of the picture and the sound, as players show it. Each stream has a demuxer of its own, so
neither waits for the other however they are interleaved, and both are placed by presentation time alone.
The files, in the order in which data flows: source (copies what can be read only once), timestamps (corrects wrong times),
decoder (container -> frames with times), colour (grey pictures and their colour, apart), video and audio (-> 25 frames a
second, 16 kHz mono), contents (the tracks of a file), recording (-> Clips); level (how loud a sound is), write (small videos
and sound files).
"""

from avsr.media.contents import Contents, TrackInfo
from avsr.media.recording import Clip, Recording, Source, join, open_recording, read, windows
from avsr.media.source import reopenable, source_name
from avsr.media.write import write, write_clips

__all__ = ["Clip", "Contents", "Recording", "Source", "TrackInfo", "join", "open_recording", "read", "reopenable",
           "source_name", "windows", "write", "write_clips"]
