"""Who is where in a recording and when, and who speaks when: any video -> SpeakerTimeline, JSON, a video with boxes and names.

The files: timeline (what was found, and its JSON), drawing (boxes and names), run (the work). This file imports nothing heavy,
so that `import avsr` is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avsr.runtime import Progress, no_progress

if TYPE_CHECKING:
    from pathlib import Path

    from avsr import media
    from avsr.find_speakers.timeline import SpeakerTimeline


def find_speakers(source: media.Source, *, video: str | Path | None = None, speaker_model: str | Path | None = None,
                  audio_track: int | None = None, video_track: int | None = None,
                  progress: Progress = no_progress) -> SpeakerTimeline:
    """The people who are seen in a recording, and who of them speaks when.

    source: as in `transcribe`. video: a file (.mp4, .mkv or .mov) for the recording with boxes and names, 25 pictures a second,
    no side longer than 1280 pixels; None writes none. speaker_model: the network that tells who speaks: "lr-asd", or a
    folder; None for the program's own. audio_track, video_track: which of several, counted from 1; None for one
    with speech, and one with a face. progress: called with seconds of the recording, see runtime.Progress.

    Memory does not grow with the pictures: an hour needs a few megabytes more than a minute. Raises BadMedia where nothing can
    be read or there is no picture, MissingAsset, and BadOutput where the video cannot be written.
    """
    from avsr.find_speakers import run

    return run.find_speakers(source, video=video, speaker_model=speaker_model, audio_track=audio_track,
                             video_track=video_track, progress=progress)
