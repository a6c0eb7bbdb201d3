"""Any recording with people in it -> who is seen where and when, and who speaks when.

    path | bytes | arrays -> Recording -> StreamReader -> parts of FaceTracks, and Windows -> scores, turns -> SpeakerTimeline
The recording is read in windows by the same reader as in `transcribe`. For the video with boxes it is read a second time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from avsr import media, selection
from avsr.errors import BadMedia
from avsr.faces import FaceTrack
from avsr.find_speakers.drawing import annotated
from avsr.find_speakers.timeline import Person, SpeakerTimeline, Stretch, joined_stretches, joined_turns, labels_of
from avsr.lips import MouthCropSettings
from avsr.rates import frames_to_seconds
from avsr.runtime import Progress, no_progress
from avsr.speakers import SpeakerTurn
from avsr.stream import VIDEO_WINDOW_FRAMES, StreamReader, StreamSettings

VIDEO_CRF = 20                        # quality of the annotated video: about 1 MB for 10 s of 1280x720


def find_speakers(source: media.Source, *, video: str | Path | None = None, speaker_model: str | Path | None = None,
                  audio_track: int | None = None, video_track: int | None = None,
                  progress: Progress = no_progress) -> SpeakerTimeline:
    """See avsr.find_speakers.find_speakers."""
    mouth_crop = MouthCropSettings()
    with media.reopenable(source, progress) as source:       # it is read twice
        with selection.open_recording(source, audio_track=audio_track, video_track=video_track,
                                      landmarks=mouth_crop.landmarks) as recording:
            if not recording.has_video:
                raise BadMedia(f"{recording.name}: there is no picture in it, so nobody can be seen.  Give a video, or use "
                               "avsr transcribe for its sound.")
            found = {"audio_track": recording.sound_track, "video_track": recording.picture_track}
            tracks: dict[str, Any] = {option: track.number for option, track in found.items() if track is not None}
            timeline = _analyse(recording, mouth_crop, speaker_model, progress)
        if video is not None:
            with media.open_recording(source, **tracks) as recording:
                _draw(recording, timeline, Path(video), progress)
    return timeline


def _analyse(recording: media.Recording, mouth_crop: MouthCropSettings, speaker_model: str | Path | None,
             progress: Progress) -> SpeakerTimeline:
    people = _People(mouth_crop, recording.scale)
    settings = StreamSettings(speakers=True, speaker_model=speaker_model, stage="finding faces in")
    reader = StreamReader(recording, mouth_crop, settings, on_tracks=people.add, progress=progress)
    turns: list[SpeakerTurn] = []
    for window in reader:
        offset = 0 if window.apart else reader.offset.frames
        if window.audio is not None and window.turns is not None and not recording.is_silent:
            turns += window.turns
            for person, scores in (window.scores or {}).items():
                people.scores[person][window.segment.start_frame + offset] = scores
    timeline_turns = joined_turns(turns)
    notices = [*recording.problems, *_notices(recording, people, timeline_turns)]
    return SpeakerTimeline(recording.name, reader.duration_s, recording.full_size, people.persons(timeline_turns),
                           timeline_turns, 0 if reader.offset.apart else reader.offset.frames, tuple(notices))


def _notices(recording: media.Recording, people: _People, turns: Iterable[SpeakerTurn]) -> list[str]:
    """What the user should know where something could not be told."""
    out = []
    if not people.parts:
        out.append(f"{recording.name}: no face was found in any frame.")
    if not recording.has_audio:
        out.append(f"{recording.name}: there is no sound in it, so nobody can be told to speak.")
    elif recording.is_silent:
        out.append(f"{recording.name}: there is only silence in its sound, so nobody can be told to speak.")
    elif not list(turns):
        out.append(f"{recording.name}: nobody speaks in its sound.")
    return out


class _People:
    """The people seen so far. parts: those of their face tracks, by person. scores: by person and first frame."""

    def __init__(self, mouth_crop: MouthCropSettings, scale: float):
        self.mouth, self.scale = list(mouth_crop.mouth), scale
        self.parts: dict[int, list[Stretch]] = defaultdict(list)
        self.scores: dict[int, dict[int, np.ndarray]] = defaultdict(dict)

    def add(self, tracks: Iterable[FaceTrack]) -> None:
        """Keep what is needed of parts of tracks; their landmarks would be 4 kB a frame."""
        for track in tracks:
            if len(track.points):
                box = np.concatenate([track.box[:, :2], track.box[:, 2:] - track.box[:, :2]], axis=1)
                mouth = track.points[:, self.mouth].mean(axis=1)
                self.parts[track.person].append(Stretch(
                    track.start_frame, box / self.scale, mouth / self.scale, track.size / self.scale, track.missing,
                    track.score, np.full(len(box), np.nan, np.float32)))

    def persons(self, turns: Iterable[SpeakerTurn]) -> tuple[Person, ...]:
        """Everybody, in order of number, with labels and the time for which they speak."""
        turns, out = list(turns), []
        labels = labels_of(self.parts, turns)
        for number, parts in sorted(self.parts.items()):
            parts.sort(key=lambda part: part.start_frame)
            n_frames = sum(turn.end_frame - turn.start_frame for turn in turns if number in turn.persons)
            out.append(Person(number, labels[number], frames_to_seconds(n_frames),
                              joined_stretches(parts, self.scores[number])))
        return tuple(out)


def _draw(recording: media.Recording, timeline: SpeakerTimeline, path: Path, progress: Progress) -> None:
    """Write the recording with boxes and names."""
    def clips() -> Iterable[media.Clip]:
        for clip in recording.windows(VIDEO_WINDOW_FRAMES):
            yield annotated(clip, timeline, recording.scale)
            progress(f"drawing {recording.name}", clip.start_s + clip.duration_s, timeline.duration_s, "s")

    path.parent.mkdir(parents=True, exist_ok=True)
    media.write_clips(clips(), path, crf=VIDEO_CRF)
