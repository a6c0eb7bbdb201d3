"""The stream reader: a recording in, windows of its sound and of its speaker's mouth out, in memory that does not grow.

    media.Recording -> Clips -> faces.FaceTracker -> lips.MouthCropper -> Window
                             -> segmenters.DetectedSpeech -> SpeechSegment

`transcribe` iterates over the speech segments of a recording. `prepare` and `explain` ask for windows of their own choosing.
All three get the same sound and the same mouths, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from avsr import media, sync
from avsr.faces import MESH, FaceTrack
from avsr.lips import MouthCropSettings, Mouths
from avsr.media.level import Loudness, amplified
from avsr.rates import SEGMENT_FRAMES, frames_to_samples, samples_to_frames
from avsr.runtime import Progress, no_progress
from avsr.segment import SpeechSegment, VadOptions
from avsr.segmenters import CoveringParts, DetectedSpeech, Gaps
from avsr.speakers import CONTEXT, Conversation, SpeakerDetector, SpeakerTurn, find_turns, one_turn, open_detector
from avsr.speakers.mouths import MouthStream
from avsr.speakers.offset import Offset

VIDEO_WINDOW_FRAMES = 100             # frames decoded at a time with pictures: 4 s, 138 MB of grey and colour at 1280x720
AUDIO_WINDOW_FRAMES = SEGMENT_FRAMES  # frames decoded at a time without pictures: 30 s, 2 MB


@dataclass(frozen=True)
class Window:
    """The sound (S,) float32 and the mouths of a segment; each is None where the recording has none there.

    unextended: for an extended segment, the windows of the speech segments that it was made from; None for any other.
    turns: who speaks when in it; None if the reader was not asked for speakers. With them the mouths are in each frame those
    of the one whose turn it is.
    seen, scores: with turns, as in speakers.Conversation. apart: whether lips and sound are out of step beyond
    what can be moved, so that the mouths, which are there, are not to be used; see speakers.offset.
    """

    segment: SpeechSegment
    audio: np.ndarray | None
    mouths: Mouths | None
    unextended: tuple[Window, ...] | None = None
    turns: tuple[SpeakerTurn, ...] | None = None
    seen: np.ndarray | None = None
    scores: Mapping[int, np.ndarray] | None = None
    apart: bool = False

    def part(self, first: int, last: int) -> Window:
        """Its frames from `first` to before `last`, counted from its start."""
        start, here = self.segment.start_frame, slice(first, last)
        if (first, last) == (0, self.segment.end_frame - start):
            return self
        turns = None if self.turns is None else tuple(
            turn for turn in self.turns if turn.start_frame < start + last and turn.end_frame > start + first)
        return Window(SpeechSegment(start + first, start + last),
                      None if self.audio is None else self.audio[frames_to_samples(first) : frames_to_samples(last)],
                      None if self.mouths is None else self.mouths.part(first, last), turns=turns,
                      seen=None if self.seen is None else self.seen[here],
                      scores=None if self.scores is None else {person: one[here] for person, one in self.scores.items()},
                      apart=self.apart)


@dataclass(frozen=True)
class StreamSettings:
    """How a recording is read.

    vad: detect speech; without, segments cover the whole recording, see segmenters.CoveringParts. speech: settings of that.
    extension: extend segments by what may be speech hidden in noise, see segment.SegmentExtension; this needs mouths and vad.
    speakers: find out who speaks when; this needs mouths. speaker_model: by which network, see speakers.open_detector.
    save_lips: a folder, or an .mp4 file, for a small video of the mouths. stage: the words before the name of the recording
    when `progress` is told. amplify: make very quiet sound louder, see media.Recording.gain. live: mouths are wanted soon,
    see speakers.mouths.
    """

    vad: bool = True
    speech: VadOptions = field(default_factory=VadOptions)
    extension: bool = False
    speakers: bool = False
    speaker_model: str | Path | None = None
    save_lips: Path | None = None
    stage: str = "transcribing"
    amplify: bool = True
    live: bool = False


class StreamReader:
    """Reads a recording once, from start to end, and keeps only the sound and the mouths that are still needed.

    Iterating over the reader gives one Window for each speech segment, as soon as its sound and its mouths are complete.
    For other windows, iterate over `clips`, take each `window` once its last frame is `settled`, and `forget` what is over.
    For a recording that is still being made, `add` each Clip as it comes, and `end` it; the recording itself is not read.

    mouth_crop: how mouths are cut out; None reads the sound alone. on_tracks: called with the parts of face tracks as they
    become final.

    n_frames: frames read so far. duration_s: seconds read so far. ended: whether the recording has been read to its end.
    loudness: the level of the sound read so far, before it is amplified.
    """

    def __init__(self, recording: media.Recording, mouth_crop: MouthCropSettings | None,
                 settings: StreamSettings = StreamSettings(), *,
                 on_tracks: Callable[[list[FaceTrack]], None] | None = None, progress: Progress = no_progress):
        assert mouth_crop is not None or not (settings.extension or settings.speakers)
        assert settings.vad or not settings.extension
        self.recording, self.mouth_crop, self.settings = recording, mouth_crop, settings
        self.on_tracks, self.progress = on_tracks, progress
        self.n_frames, self.duration_s, self.ended, self.loudness = 0, 0.0, False, Loudness()
        self._sound = _Sound(keep_all=settings.save_lips is not None)
        self._mouths: MouthStream | None = None
        self._detector = open_detector(settings.speaker_model) if settings.speakers else None
        self._can_compare = recording.has_audio and recording.has_video and not recording.is_silent

    def __iter__(self) -> Iterator[Window]:
        detects = self.settings.vad and self.recording.has_audio
        segments = DetectedSpeech(self.settings.speech) if detects else CoveringParts(self)
        gaps = Gaps(self) if self.settings.extension else None
        stage = f"{self.settings.stage} {Path(self.recording.name).name}"
        context = 0 if self._detector is None else CONTEXT
        waiting: list[SpeechSegment] = []
        for clip in self.clips():
            waiting += segments.update(clip)
            n_ready = sum(segment.end_frame + context <= self.settled for segment in waiting)
            ready, waiting = waiting[:n_ready], waiting[n_ready:]
            oldest = min([segments.settled] + [segment.start_frame for segment in waiting])
            if gaps is not None:
                ready = gaps.update(ready, min(oldest, self.settled - context))
                oldest = min(oldest, gaps.oldest)
            yield from map(self.window, ready)
            self.forget(oldest - context)
            self.progress(stage, self.duration_s, self.recording.duration_s, "s")
        waiting += segments.finish(self.n_frames)
        yield from map(self.window, waiting if gaps is None else gaps.finish(waiting))
        if self.settings.save_lips is not None and self._mouths is not None:
            self._mouths.save(lips_path(self.settings.save_lips, self.recording.name), self._sound.all)

    def clips(self, n_frames: int | None = None) -> Iterator[media.Clip]:
        """Decode the recording in Clips of `n_frames`; each Clip is given after its sound and its mouths have been kept."""
        usual = AUDIO_WINDOW_FRAMES if self.mouth_crop is None else VIDEO_WINDOW_FRAMES
        grey = self.mouth_crop is not None and self.mouth_crop.landmarks == MESH
        with closing(self):
            for clip in self.recording.windows(n_frames or usual, grey=grey):
                yield self.add(clip)
            self.end()

    def add(self, clip: media.Clip) -> media.Clip:
        """Take in the next Clip: its faces are followed, its sound is kept. The Clip with the sound as it is used."""
        if self._mouths is None and self.mouth_crop is not None:
            self._mouths = self._open_mouths(self.mouth_crop)
        self.n_frames, self.duration_s = clip.start_frame + clip.n_frames, clip.start_s + clip.duration_s
        if clip.audio is not None:
            self.loudness.update(clip.audio)
            clip = replace(clip, audio=amplified(clip.audio, self.recording.gain if self.settings.amplify else 1.0))
            self._sound.add(clip)
        if self._mouths is not None:
            self._mouths.add(clip)
        return clip

    def end(self) -> None:
        """The recording has ended."""
        if self._mouths is not None:
            self._mouths.finish(self.n_frames)
        self.ended = True

    def close(self) -> None:
        """Free the face finder."""
        if self._mouths is not None:
            self._mouths.tracker.close()

    def _open_mouths(self, mouth_crop: MouthCropSettings) -> MouthStream:
        return MouthStream(mouth_crop, self.recording, on_tracks=self.on_tracks,
                           sound=self._sound.of if self._can_compare else None,
                           keep_all=self.settings.save_lips is not None, live=self.settings.live,
                           compared=None if self._detector is None else self._detector.mouth_crop)

    @property
    def settled(self) -> int:
        """The frame before which sound and mouths are final. Until it is known whether they are in step, that does not rise."""
        return self.n_frames if self._mouths is None or self.ended else self._mouths.settled

    @property
    def offset(self) -> Offset:
        """How lips and sound go together, as far as it is known; the mouths have been moved."""
        return Offset() if self._mouths is None else self._mouths.offset

    def window(self, segment: SpeechSegment) -> Window:
        """The sound and the mouths of a segment that ends before `settled` and was not forgotten."""
        unextended = None if segment.unextended is None else tuple(map(self.window, segment.unextended))
        audio = self.audio(segment)
        if self._detector is None:
            return Window(segment, audio, self.mouths(segment, audio), unextended, apart=self.offset.apart)
        found = self._conversation(segment, self._detector)
        return Window(segment, audio, found.mouths, unextended, found.turns, found.seen, found.scores, self.offset.apart)

    def _conversation(self, segment: SpeechSegment, detector: SpeakerDetector) -> Conversation:
        """Who speaks when in a segment. Without sound it is the one whose lips are read."""
        assert self._mouths is not None
        first = max(0, segment.start_frame - CONTEXT)
        sound = self._sound.of(SpeechSegment(first, segment.end_frame + CONTEXT))
        if sound is None or self.recording.is_silent:
            return one_turn(self.mouths(segment), segment)
        return find_turns(self._mouths.kept, segment, sound, first, detector)

    def audio(self, segment: SpeechSegment) -> np.ndarray | None:
        """The sound (S,) float32 of a segment; None without sound."""
        return self._sound.of(segment)

    def mouths(self, segment: SpeechSegment, audio: np.ndarray | None = None) -> Mouths | None:
        """The mouths of the person who most likely speaks; None where nobody is seen. audio: see speakers.choose_speaker."""
        return None if self._mouths is None else self._mouths.of(segment, audio)

    @property
    def lag(self) -> int:
        """After how many frames a mouth is final, at most; 0 where no mouths are read."""
        if self.mouth_crop is None:
            return 0
        if self._mouths is None:
            self._mouths = self._open_mouths(self.mouth_crop)
        return self._mouths.lag

    @property
    def n_unknown(self) -> int:
        """How many of the last frames have faces that are not known yet, where somebody is followed."""
        return 0 if self._mouths is None or self.ended else self._mouths.n_unknown

    def forget(self, before: int) -> None:
        """Drop sound and mouths from before a frame: no window that begins earlier will be asked for."""
        before = before if self._mouths is None else self._mouths.needed_from(before)
        self._sound.forget(before)
        if self._mouths is not None:
            self._mouths.forget(before)


class _Sound:
    """The sound of the clips that may still be needed. all: the sound of all clips, if asked for."""

    def __init__(self, *, keep_all: bool):
        self.keep_all = keep_all
        self.kept: list[tuple[int, np.ndarray]] = []         # first frame, samples
        self.all: list[np.ndarray] = []

    def add(self, clip: media.Clip) -> None:
        assert clip.audio is not None
        self.kept.append((clip.start_frame, clip.audio))
        if self.keep_all:
            self.all.append(clip.audio)

    def of(self, segment: SpeechSegment) -> np.ndarray | None:
        parts = []
        for start, samples in self.kept:
            low, high = frames_to_samples(segment.start_frame - start), frames_to_samples(segment.end_frame - start)
            if high > 0 and low < len(samples):
                parts.append(samples[max(0, low):high])
        return np.concatenate(parts) if parts else None

    def forget(self, before: int) -> None:
        self.kept = [(start, samples) for start, samples in self.kept if start + samples_to_frames(len(samples)) > before]


def why_unreadable(mouths: Mouths | None, max_missing: float, *, apart: bool = False, n_unknown: int = 0) -> str | None:
    """Why a segment cannot be lip-read: "missing" where too few frames show a face, "apart" where lips and sound are out of
    step, "still" where too few frames show a mouth that moves, None where nothing is wrong. max_missing: the largest share of
    frames of which this may be true. apart: see Window. n_unknown: frames at the end that do not count, as their faces are not
    known yet."""
    if mouths is None or n_unknown >= len(mouths.missing):
        return "missing"
    known = len(mouths.missing) - n_unknown
    missing = mouths.missing[:known]
    if missing.mean() > max_missing:
        return "missing"
    if apart:
        return "apart"
    motionless = sync.motionless(mouths.images[:known], missing)
    return "still" if (missing | motionless).mean() > max_missing else None


def lips_path(place: Path, recording: str) -> Path:
    """The file for the mouths of a recording: `place` itself where it ends in .mp4, else NAME.lips.mp4 in that folder."""
    return place if place.suffix == ".mp4" else place / f"{Path(recording).stem}.lips.mp4"
