"""Listening and looking: a recording in windows, segments of speech out, each with its sound and its speaker's mouth.

    media.Recording -> Clip windows -> (segment.VadSegmenter, faces.FaceTracker -> lips.MouthCropper -> choose) -> Window
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from avsr import media, sync
from avsr.faces import FaceTracker
from avsr.lips import MouthCropper, MouthCropSettings, Mouths, choose
from avsr.media.level import Loudness, amplified
from avsr.rates import SEGMENT_FRAMES, frames_to_samples, samples_to_frames
from avsr.runtime import Progress, no_progress
from avsr.segment import SegmentExtension, SpeechProbability, SpeechSegment, VadSegmenter

VIDEO_WINDOW_FRAMES = 100                                         # to a window with pictures: 4 s, 276 MB at 1280x720
AUDIO_WINDOW_FRAMES = SEGMENT_FRAMES                                # to a window of sound alone: 30 s, 2 MB


@dataclass(frozen=True)
class Window:
    """A segment on its way to the network: sound (S,) float32 or None, mouths over its frames or None.

    unextended: of a segment that was widened, what it holds without that, none or several; None for any other.
    """

    segment: SpeechSegment
    audio: np.ndarray | None
    mouths: Mouths | None
    unextended: tuple[Window, ...] | None = None


class StreamReader:
    """The segments of a recording in order, each as soon as its sound and its mouths are complete. Iterate once.

    mouth_crop: how mouths are cut out, None to listen only. vad: cut at pauses, or every 30 s as they come.
    extension: widen segments by what may be speech that noise hides, see segment.SegmentExtension; needs mouth_crop and vad.
    save_lips: a folder for a small video of the mouths. duration_s: seconds of the recording taken in so far, which `progress`
    is told as they grow; stage: the words before the recording's name there. loudness: of the sound taken in so far, as it is
    in the recording; what is very quiet is amplified before it is listened to.
    """

    def __init__(self, recording: media.Recording, mouth_crop: MouthCropSettings | None, *, vad: bool = True,
                 extension: bool = False, save_lips: Path | None = None,
                 stage: str = "transcribing", progress: Progress = no_progress):
        assert not extension or (mouth_crop is not None and vad)
        self.recording, self.mouth_crop, self.vad, self.extension = recording, mouth_crop, vad, extension
        self.save_lips, self.duration_s, self.loudness = save_lips, 0.0, Loudness()
        self.stage, self.progress = f"{stage} {Path(recording.name).name}", progress

    def __iter__(self) -> Iterator[Window]:
        ears, waiting = _Ears(self.vad), []
        with ExitStack() as stack:
            eyes = None
            if self.mouth_crop is not None:
                eyes = stack.enter_context(_Eyes(self.mouth_crop, keep_all=self.save_lips is not None))
            gaps = _Gaps(ears, eyes) if self.extension else None
            for clip in self.recording.windows(AUDIO_WINDOW_FRAMES if eyes is None else VIDEO_WINDOW_FRAMES):
                if clip.audio is not None:
                    self.loudness.update(clip.audio)
                    clip = replace(clip, audio=amplified(clip.audio, self.recording.gain))
                waiting += ears.update(clip)
                if eyes is not None:
                    eyes.update(clip)
                n_ready = sum(eyes is None or segment.end_frame <= eyes.settled for segment in waiting)
                ready, waiting = waiting[:n_ready], waiting[n_ready:]
                oldest = min([ears.settled] + [segment.start_frame for segment in waiting])
                if gaps is not None:
                    ready = gaps.update(ready, min(oldest, eyes.settled))
                    oldest = min(oldest, gaps.oldest)
                for segment in ready:
                    yield _take(segment, ears, eyes)
                for sense in (ears, eyes):
                    if sense is not None:
                        sense.forget(oldest)
                self.duration_s = clip.start_s + clip.duration_s
                self.progress(self.stage, self.duration_s, self.recording.duration_s, "s")
            if eyes is not None:
                eyes.finish()
            waiting += ears.finish()
            for segment in waiting if gaps is None else gaps.finish(waiting):
                yield _take(segment, ears, eyes)
            if eyes is not None and self.save_lips is not None:
                eyes.save(lips_path(self.save_lips, self.recording.name))


def _take(segment: SpeechSegment, ears: _Ears, eyes: _Eyes | None) -> Window:
    unextended = None if segment.unextended is None else tuple(_take(one, ears, eyes) for one in segment.unextended)
    audio = ears.take(segment)
    return Window(segment, audio, None if eyes is None else eyes.take(segment, audio), unextended)


def why_unreadable(mouths: Mouths | None, max_missing: float) -> str | None:
    """What keeps a segment from being lip-read: "missing" where too few frames show a face, "still" where too few show
    a mouth that moves, None where nothing does. max_missing: share of the frames that may do so."""
    if mouths is None or mouths.missing.mean() > max_missing:
        return "missing"
    motionless = sync.motionless(mouths.images, mouths.missing)
    return "still" if (mouths.missing | motionless).mean() > max_missing else None


class _Gaps:
    """What lies between segments, judged in blocks as soon as it has been heard and seen."""

    def __init__(self, ears: _Ears, eyes: _Eyes):
        self.ears, self.eyes, self.extension, self.reached = ears, eyes, SegmentExtension(), 0

    @property
    def oldest(self) -> int:
        """The first frame that is still needed."""
        return self.reached if self.extension.open is None else self.extension.open.start_frame

    def update(self, segments: list[SpeechSegment], upto: int) -> list[SpeechSegment]:
        """The next segments, before frame `upto`, where the next one may begin -> segments to be recognised."""
        out = []
        for segment in segments:
            out += self._between(segment.start_frame, over=True)
            out += self.extension.speech(segment, self.ears.take(segment))
            self.reached = segment.end_frame
        return out + self._between(upto)

    def finish(self, segments: list[SpeechSegment]) -> list[SpeechSegment]:
        """The last segments."""
        return self.update(segments, self.reached) + self._between(self.ears.n_frames, over=True) + self.extension.finish()

    def _between(self, end: int, *, over: bool = False) -> list[SpeechSegment]:
        """Blocks up to `end`; if the gap is `over` there, what is too short for a block joins the last one."""
        out, n_block, least = [], self.extension.options.block, self.extension.options.least
        while (left := end - self.reached) >= (least if over else n_block + least):
            block = SpeechSegment(self.reached, end if left < n_block + least else self.reached + n_block)
            mouths, self.reached = self.eyes.take(block), block.end_frame
            out += self.extension.between(block, self.ears.take(block), None if mouths is None else mouths.missing)
        return out


class _Ears:
    """Sound and the segments it falls into; keeps what may still be needed."""

    def __init__(self, vad: bool):
        self.probability = SpeechProbability() if vad else None
        self.cutter = VadSegmenter()
        self.chunks: list[tuple[int, np.ndarray]] = []      # first frame, samples
        self.n_frames = self.taken = 0

    def update(self, clip: media.Clip) -> list[SpeechSegment]:
        self.n_frames = clip.start_frame + clip.n_frames
        if clip.audio is not None:
            self.chunks.append((clip.start_frame, clip.audio))
        if self.probability is not None and clip.audio is not None:
            return self.cutter.update(self.probability.update(clip.audio))
        segments = []
        while self.n_frames - self.taken >= SEGMENT_FRAMES:
            segments.append(SpeechSegment(self.taken, self.taken + SEGMENT_FRAMES))
            self.taken += SEGMENT_FRAMES
        return segments

    def finish(self) -> list[SpeechSegment]:
        if self.probability is not None:
            segments = self.cutter.update(self.probability.finish()) + self.cutter.finish()
            return [replace(segment, end_frame=min(segment.end_frame, self.n_frames)) for segment in segments]
        return [SpeechSegment(self.taken, self.n_frames)] if self.n_frames > self.taken else []

    @property
    def settled(self) -> int:
        return self.taken if self.probability is None else self.cutter.settled

    def take(self, segment: SpeechSegment) -> np.ndarray | None:
        parts = []
        for start, samples in self.chunks:
            low, high = frames_to_samples(segment.start_frame - start), frames_to_samples(segment.end_frame - start)
            if high > 0 and low < len(samples):
                parts.append(samples[max(0, low):high])
        return np.concatenate(parts) if parts else None

    def forget(self, before: int) -> None:
        self.chunks = [(start, samples) for start, samples in self.chunks if start + samples_to_frames(len(samples)) > before]


class _Eyes:
    """Everybody's mouths; keeps what may still be needed, or all of them for `save`."""

    def __init__(self, mouth_crop: MouthCropSettings, *, keep_all: bool):
        self.tracker, self.cropper = FaceTracker(landmarks=mouth_crop.landmarks), MouthCropper(mouth_crop)
        # Frames that tracker and cropper may hold back, see there.
        self.lag = self.tracker.max_gap + 4 * self.tracker.stride + mouth_crop.smooth
        self.mouths: list[Mouths] = []
        self.kept: list[Mouths] = []
        self.audio: list[np.ndarray] = []
        self.keep_all, self.settled, self.n_frames = keep_all, 0, 0

    def __enter__(self) -> _Eyes:
        return self

    def __exit__(self, *_) -> None:
        self.tracker.close()

    def update(self, clip: media.Clip) -> None:
        self._add(self.cropper.update(clip, self.tracker.update(clip)))
        self.n_frames = clip.start_frame + clip.n_frames
        self.settled = self.n_frames - self.lag
        if self.keep_all and clip.audio is not None:
            self.audio.append(clip.audio)

    def finish(self) -> None:
        self._add(self.cropper.finish(self.tracker.finish()))
        self.settled = self.n_frames

    def _add(self, mouths: list[Mouths]) -> None:
        self.mouths += mouths
        if self.keep_all:
            self.kept += mouths

    def take(self, segment: SpeechSegment, audio: np.ndarray | None = None) -> Mouths | None:
        return choose(self.mouths, segment.start_frame, segment.end_frame, audio)

    def forget(self, before: int) -> None:
        self.mouths = [mouths for mouths in self.mouths if mouths.end_frame > before]

    def save(self, path: Path) -> None:
        """All chosen mouths of the recording, with its sound, as a small video."""
        audio = np.concatenate(self.audio) if self.audio else None
        chosen = choose(self.kept, 0, self.n_frames, audio)
        if chosen is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            media.write(chosen.images, path, audio=audio)


def lips_path(place: Path, recording: str) -> Path:
    """Where mouths of a recording are written: `place` itself where it ends in .mp4, else NAME.lips.mp4 in that folder."""
    return place if place.suffix == ".mp4" else place / f"{Path(recording).stem}.lips.mp4"


def prefetch(items: Iterable, n: int) -> Iterator:
    """The same items, made by a thread that runs up to `n` of them ahead. Its exception is raised here."""
    line: queue.Queue = queue.Queue(maxsize=n)
    stop, end = threading.Event(), object()

    def put(item: object) -> None:
        while not stop.is_set():
            try:
                return line.put(item, timeout=0.1)
            except queue.Full:
                continue
        return None

    def work() -> None:
        try:
            for item in items:
                put((item, None))
                if stop.is_set():
                    break
            put((end, None))
        except BaseException as error:                      # raised again where the items are used
            put((end, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = line.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()
        thread.join()
