"""The stream reader: a recording in, windows of its sound and of its speaker's mouth out, in memory that does not grow.

    media.Recording -> Clips -> faces.FaceTracker -> lips.MouthCropper -> Window
                             -> segment.VadSegmenter -> SpeechSegment

`transcribe` iterates over the speech segments of a recording. `prepare` and `explain` ask for windows of their own choosing.
All three get the same sound and the same mouths, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from avsr import media, sync
from avsr.cropped import open_cropping
from avsr.faces import MESH, FaceTrack
from avsr.lips import MouthCropSettings, Mouths
from avsr.media.level import Loudness, amplified, frame_powers
from avsr.rates import SEGMENT_FRAMES, frames_to_samples, samples_to_frames
from avsr.runtime import Progress, no_progress
from avsr.segment import (
    SegmentExtension,
    SpeechProbability,
    SpeechSegment,
    VadOptions,
    VadSegmenter,
    cuts_at_rests,
    quietest,
)
from avsr.speakers import (
    CONTEXT,
    ActiveSpeakerDetector,
    Conversation,
    SpeakerTurn,
    choose_speaker,
    everybody,
    find_turns,
    one_turn,
)
from avsr.speakers.offset import BLOCK, MAX_OFFSET, Offset, OffsetFinder

VIDEO_WINDOW_FRAMES = 100             # frames decoded at a time with pictures: 4 s, 138 MB of grey and colour at 1280x720
AUDIO_WINDOW_FRAMES = SEGMENT_FRAMES  # frames decoded at a time without pictures: 30 s, 2 MB

OVERLAP_FRAMES = 8                    # on each side of a cut through sound: 0.32 s, so that a word at the cut is whole in one


@dataclass(frozen=True)
class Window:
    """The sound (S,) float32 and the mouths of a segment; each is None where the recording has none there.

    unextended: for an extended segment, the windows of the speech segments that it was made from; None for any other.
    turns: who speaks when in it; None if the reader was not asked for speakers. With them the mouths are in each frame those
    of the one whose turn it is.
    seen, scores: with turns, as in speakers.Conversation. apart: whether mouths were left out because lips and sound are not in
    step, see speakers.offset.
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
                      seen=None if self.seen is None else self.seen[here])


class StreamReader:
    """Reads a recording once, from start to end, and keeps only the sound and the mouths that are still needed.

    Iterating over the reader gives one Window for each speech segment, as soon as its sound and its mouths are complete.
    For other windows, iterate over `clips`, take each `window` once its last frame is `settled`, and `forget` what is over.

    mouth_crop: how mouths are cut out; None reads the sound alone. vad: detect speech; without, segments cover the
    whole recording, see _CoveringParts. extension: extend segments by what may be speech hidden in noise, see
    segment.SegmentExtension; this needs mouth_crop and vad. speakers: find out who speaks when; this needs mouth_crop. speech:
    settings of the detection of speech. save_lips: a folder, or an .mp4 file, for a small video of the mouths. stage: the words
    before the name of the recording when `progress` is told. amplify: make very quiet sound louder, see media.Recording.gain.
    on_tracks: called with the parts of face tracks as they become final.

    n_frames: frames read so far. duration_s: seconds read so far. ended: whether the recording has been read to its end.
    loudness: the level of the sound read so far, before it is amplified.
    """

    def __init__(self, recording: media.Recording, mouth_crop: MouthCropSettings | None, *, vad: bool = True,
                 extension: bool = False, speakers: bool = False, speech: VadOptions | None = None,
                 save_lips: Path | None = None, stage: str = "transcribing", amplify: bool = True,
                 on_tracks: Callable[[list[FaceTrack]], None] | None = None, progress: Progress = no_progress):
        assert not extension or (mouth_crop is not None and vad)
        assert not speakers or mouth_crop is not None
        self.recording, self.mouth_crop, self.save_lips, self.amplify = recording, mouth_crop, save_lips, amplify
        self.vad, self.extension, self.speech = vad and recording.has_audio, extension, speech or VadOptions()
        self.stage, self.progress, self.on_tracks = f"{stage} {Path(recording.name).name}", progress, on_tracks
        self.n_frames, self.duration_s, self.ended, self.loudness = 0, 0.0, False, Loudness()
        self._sound = _Sound(keep_all=save_lips is not None)
        self._mouths: _Mouths | None = None
        self._detector = ActiveSpeakerDetector() if speakers else None
        can_compare = mouth_crop is not None and recording.has_audio and recording.has_video and not recording.is_silent
        self._offsets = OffsetFinder(ActiveSpeakerDetector()) if can_compare else None

    def __iter__(self) -> Iterator[Window]:
        segments = _DetectedSpeech(self.speech) if self.vad else _CoveringParts(self)
        gaps = _Gaps(self) if self.extension else None
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
            self.progress(self.stage, self.duration_s, self.recording.duration_s, "s")
        waiting += segments.finish(self.n_frames)
        yield from map(self.window, waiting if gaps is None else gaps.finish(waiting))
        if self.save_lips is not None and self._mouths is not None:
            self._mouths.save(lips_path(self.save_lips, self.recording.name), self.n_frames, self._sound.all)

    def clips(self, n_frames: int | None = None, *, faces_from: int = 0) -> Iterator[media.Clip]:
        """Decode the recording in Clips of `n_frames`; each Clip is given after its sound and its mouths have been kept.

        faces_from: a frame before which no mouth will be asked for. Faces are then looked for from a little before it.
        """
        usual = AUDIO_WINDOW_FRAMES if self.mouth_crop is None else VIDEO_WINDOW_FRAMES
        gain = self.recording.gain if self.amplify else 1.0
        with ExitStack() as stack:
            if self.mouth_crop is not None:
                self._mouths = _Mouths(self.mouth_crop, self.recording, self.on_tracks, keep_all=self.save_lips is not None)
                stack.callback(self._mouths.tracker.close)
            grey = self.mouth_crop is not None and self.mouth_crop.landmarks == MESH
            for clip in self.recording.windows(n_frames or usual, grey=grey):
                self.n_frames, self.duration_s = clip.start_frame + clip.n_frames, clip.start_s + clip.duration_s
                if clip.audio is not None:
                    self.loudness.update(clip.audio)
                    clip = replace(clip, audio=amplified(clip.audio, gain))
                    self._sound.add(clip)
                if self._mouths is not None and self.n_frames > faces_from - self._mouths.lag:
                    self._mouths.add(clip)
                    self._find_offset(self.n_frames - self._mouths.lag)
                yield clip
            if self._mouths is not None:
                self._mouths.finish()
                self.recording.problems += self._mouths.tracker.problems(self.recording.name)
                self._find_offset(self.n_frames, over=True)
            self.ended = True

    @property
    def settled(self) -> int:
        """The frame before which sound and mouths are final. What may have to be moved, see speakers.OffsetFinder, is not."""
        if self._mouths is None or self.ended:
            return self.n_frames
        finder, settled = self._offsets, self.n_frames - self._mouths.lag
        if finder is not None and finder.found is None:
            return finder.next if finder.first is None else finder.first
        return settled - max(0, self.offset.frames)

    @property
    def offset(self) -> Offset:
        """By how many frames the lips come after the sound, as far as it is known; the mouths have been moved by as many."""
        return Offset() if self._offsets is None or self._offsets.found is None else self._offsets.found

    def _find_offset(self, upto: int, *, over: bool = False) -> None:
        """Examine whether lips and sound are in step, in whole blocks before frame `upto`, and move the mouths."""
        finder, mouths = self._offsets, self._mouths
        if finder is None or mouths is None or finder.found is not None:
            return
        while finder.found is None and upto - finder.next >= (1 if over else BLOCK):
            block = SpeechSegment(finder.next, min(finder.next + BLOCK, upto))
            finder.add(everybody(mouths.kept, block.start_frame, block.end_frame), self.audio(block), block)
        if over:
            finder.finish()
        if (problem := self.offset.problem(self.recording.name)) is not None:
            self.recording.problems.append(problem)
            mouths.move(self.offset)

    def window(self, segment: SpeechSegment) -> Window:
        """The sound and the mouths of a segment that ends before `settled` and was not forgotten."""
        unextended = None if segment.unextended is None else tuple(map(self.window, segment.unextended))
        audio = self.audio(segment)
        if self._detector is None:
            return Window(segment, audio, self.mouths(segment, audio), unextended, apart=self.offset.apart)
        found = self._conversation(segment, self._detector)
        return Window(segment, audio, found.mouths, unextended, found.turns, found.seen, found.scores, self.offset.apart)

    def _conversation(self, segment: SpeechSegment, detector: ActiveSpeakerDetector) -> Conversation:
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

    def forget(self, before: int) -> None:
        """Drop sound and mouths from before a frame: no window that begins earlier will be asked for."""
        if self._offsets is not None and self._offsets.found is None:
            before = min(before, self.settled - MAX_OFFSET)
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


class _Mouths:
    """Everybody's mouths that may still be needed. all: all mouths, if asked for.

    lag: frames that tracker and cropper may hold back until they are final.
    """

    def __init__(self, mouth_crop: MouthCropSettings, recording: media.Recording,
                 on_tracks: Callable[[list[FaceTrack]], None] | None, *, keep_all: bool):
        self.on_tracks = on_tracks
        self.tracker, self.cropper = open_cropping(mouth_crop, recording)
        self.lag = self.tracker.lag + mouth_crop.smooth
        self.keep_all = keep_all
        self.kept: list[Mouths] = []
        self.all: list[Mouths] = []
        self.offset = Offset()

    def add(self, clip: media.Clip) -> None:
        self._keep(self.cropper.update(clip, self._told(self.tracker.update(clip))))

    def finish(self) -> None:
        self._keep(self.cropper.finish(self._told(self.tracker.finish())))

    def _told(self, tracks: list[FaceTrack]) -> list[FaceTrack]:
        if self.on_tracks is not None:
            self.on_tracks(tracks)
        return tracks

    def _keep(self, mouths: list[Mouths]) -> None:
        mouths = [self._moved(one) for one in mouths if not self.offset.apart]
        self.kept += mouths
        if self.keep_all:
            self.all += mouths

    def move(self, offset: Offset) -> None:
        """Move these mouths and all that follow to the sound that they make; drop them where they are not to be used."""
        self.offset = offset
        self.kept, self.all = ([] if offset.apart else list(map(self._moved, those)) for those in (self.kept, self.all))

    def _moved(self, mouths: Mouths) -> Mouths:
        return replace(mouths, start_frame=mouths.start_frame - self.offset.frames) if self.offset.frames else mouths

    def of(self, segment: SpeechSegment, audio: np.ndarray | None) -> Mouths | None:
        return choose_speaker(self.kept, segment.start_frame, segment.end_frame, audio)

    def forget(self, before: int) -> None:
        self.kept = [mouths for mouths in self.kept if mouths.end_frame > before]

    def save(self, path: Path, n_frames: int, sound: list[np.ndarray]) -> None:
        """Write the mouths of the whole recording, with its sound, as a small video."""
        audio = np.concatenate(sound) if sound else None
        chosen = choose_speaker(self.all, 0, n_frames, audio)
        if chosen is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            media.write(chosen.images, path, audio=audio)


class _DetectedSpeech:
    """Speech segments by voice activity detection."""

    def __init__(self, options: VadOptions):
        self._probability, self._segmenter = SpeechProbability(), VadSegmenter(options)

    @property
    def settled(self) -> int:
        """The frame before which no further segment begins."""
        return self._segmenter.settled

    def update(self, clip: media.Clip) -> list[SpeechSegment]:
        assert clip.audio is not None, "speech cannot be detected without sound"
        return self._segmenter.update(self._probability.update(clip.audio), self._probability.levels)

    def finish(self, n_frames: int) -> list[SpeechSegment]:
        segments = self._segmenter.update(self._probability.finish(), self._probability.levels) + self._segmenter.finish()
        return [replace(segment, end_frame=min(segment.end_frame, n_frames)) for segment in segments]


class _CoveringParts:
    """Segments that cover the recording, as _DetectedSpeech gives them: each SEGMENT_FRAMES are cut where the mouth rests, or,
    with sound, once where it is quietest; then the two segments have OVERLAP_FRAMES in common on each side of the cut.

    Where they are cut does not depend on the windows in which the recording is read.
    """

    def __init__(self, reader: StreamReader):
        self.reader, self.settled = reader, 0
        self.by_sound = reader.recording.has_audio and not reader.recording.is_silent

    def update(self, clip: media.Clip) -> list[SpeechSegment]:
        return self._cut_before(self.reader.settled)

    def finish(self, n_frames: int) -> list[SpeechSegment]:
        segments = self._cut_before(n_frames)
        if not self.by_sound:
            segments += self._at(self._rests(n_frames))
        return segments + ([SpeechSegment(self.settled, n_frames)] if n_frames > self.settled else [])

    def _cut_before(self, upto: int) -> list[SpeechSegment]:
        """The segments that the next whole SEGMENT_FRAMES complete, as often as there are more than these before `upto`."""
        segments = []
        while upto - self.settled > SEGMENT_FRAMES:
            if self.by_sound:
                cut = self._quietest()
                segments.append(SpeechSegment(self.settled, cut + OVERLAP_FRAMES))
                self.settled = cut - OVERLAP_FRAMES
            else:
                stretch_end = self.settled + SEGMENT_FRAMES
                segments += self._at(self._rests(stretch_end) or [stretch_end])
        return segments

    def _at(self, cuts: list[int]) -> list[SpeechSegment]:
        """The segments up to the last of some cuts."""
        edges = [self.settled, *cuts]
        self.settled = edges[-1]
        return [SpeechSegment(first, last) for first, last in pairwise(edges)]

    def _quietest(self) -> int:
        """The frame in the second half of the next SEGMENT_FRAMES at which the sound is quietest."""
        first, last = self.settled + SEGMENT_FRAMES // 2, self.settled + SEGMENT_FRAMES - OVERLAP_FRAMES
        audio = self.reader.audio(SpeechSegment(first, last))
        if audio is None or len(audio) < frames_to_samples(last - first):       # the sound ends before the picture
            return last
        return first + quietest(10 * np.log10(frame_powers(audio) + 1e-10), 3)

    def _rests(self, end: int) -> list[int]:
        """The frames before `end` at which the mouth rests."""
        mouths = self.reader.mouths(SpeechSegment(self.settled, end)) if end > self.settled else None
        return [] if mouths is None else [self.settled + cut for cut in cuts_at_rests(mouths.images)]


class _Gaps:
    """The gaps between speech segments, cut into blocks, with which the segments are extended where they may be speech."""

    def __init__(self, reader: StreamReader):
        self.reader, self.extension, self.reached = reader, SegmentExtension(), 0

    @property
    def oldest(self) -> int:
        """The first frame that is still needed."""
        return self.reached if self.extension.open is None else self.extension.open.start_frame

    def update(self, segments: list[SpeechSegment], upto: int) -> list[SpeechSegment]:
        """The segments to be recognised, given the next speech segments before frame `upto`, where another may begin."""
        out = []
        for segment in segments:
            out += self._between(segment.start_frame, over=True)
            out += self.extension.speech(segment, self.reader.audio(segment))
            self.reached = segment.end_frame
        return out + self._between(upto)

    def finish(self, segments: list[SpeechSegment]) -> list[SpeechSegment]:
        """The last segments to be recognised, given the last speech segments of the recording."""
        out = self.update(segments, self.reached) + self._between(self.reader.n_frames, over=True)
        return out + self.extension.finish()

    def _between(self, end: int, *, over: bool = False) -> list[SpeechSegment]:
        """Blocks up to `end`. If the gap is `over` there, a rest that is too short for a block joins the last block."""
        out, n_block, shortest = [], self.extension.options.block, self.extension.options.shortest
        while (left := end - self.reached) >= (shortest if over else n_block + shortest):
            block = SpeechSegment(self.reached, end if left < n_block + shortest else self.reached + n_block)
            mouths, self.reached = self.reader.mouths(block), block.end_frame
            out += self.extension.between(block, self.reader.audio(block), None if mouths is None else mouths.missing)
        return out


def why_unreadable(mouths: Mouths | None, max_missing: float) -> str | None:
    """Why a segment cannot be lip-read: "missing" where too few frames show a face, "still" where too few show a mouth that
    moves, None where nothing is wrong. max_missing: the largest share of frames of which this may be true."""
    if mouths is None or mouths.missing.mean() > max_missing:
        return "missing"
    motionless = sync.motionless(mouths.images, mouths.missing)
    return "still" if (mouths.missing | motionless).mean() > max_missing else None


def lips_path(place: Path, recording: str) -> Path:
    """The file for the mouths of a recording: `place` itself where it ends in .mp4, else NAME.lips.mp4 in that folder."""
    return place if place.suffix == ".mp4" else place / f"{Path(recording).stem}.lips.mp4"
