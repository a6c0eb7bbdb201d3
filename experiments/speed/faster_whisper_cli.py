"""faster-whisper as a command, to be timed beside ours:  faster_whisper_cli.py FILE COMPUTE_TYPE"""

import os
import sys

from faster_whisper import WhisperModel

from avsr import assets

model = WhisperModel(str(assets.find("whisper-tiny.en.ct2").parent), device="cpu", compute_type=sys.argv[2],
                     cpu_threads=len(os.sched_getaffinity(0)))
for segment in model.transcribe(sys.argv[1], beam_size=5, language="en")[0]:
    print(segment.text.strip())
