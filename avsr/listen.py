"""Listening and looking: a recording in windows, pieces of speech out, each with its sound and its speaker's mouth.

    media.Recording -> Clip windows -> (speech.SpeechCutter, faces.FaceTracker -> lips.MouthCropper -> choose) -> Heard
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from avsr import media, step
from avsr.faces import FaceTracker
from avsr.lips import LipRecipe, MouthCropper, Mouths, choose
from avsr.media.level import Loudness, amplified
from avsr.rates import PIECE_FRAMES, frames_to_samples, samples_to_frames
from avsr.runtime import Progress, no_progress
from avsr.speech import Piece, SpeechCutter, SpeechProbability, Widening

BY_EYE_FRAMES = 100                                         # to a window with pictures: 4 s, 276 MB at 1280x720
BY_EAR_FRAMES = PIECE_FRAMES                                # to a window of sound alone: 30 s, 2 MB


@dataclass(frozen=True)
class Heard:
    """A piece on its way to the network: sound (S,) float32 or None, mouths over its frames or None.

    sure: of a piece that was widened, what it holds without that, none or several; None for any other.
    """

    piece: Piece
    audio: np.ndarray | None
    mouths: Mouths | None
    sure: tuple[Heard, ...] | None = None


class Listener:
    """The pieces of a recording in order, each as soon as its sound and its mouths are complete. Iterate once.

    recipe: how mouths are cut out, None to listen only. vad: cut at pauses, or every 30 s as they come.
    doubt: widen pieces by what may be speech that noise hides, see speech.Widening; needs recipe and vad.
    save_lips: a folder for a small video of the mouths. duration_s: seconds of the recording taken in so far, which `progress`
    is told as they grow; stage: the words before the recording's name there. loudness: of the sound taken in so far, as it is
    in the recording; what is very quiet is amplified before it is listened to.
    """

    def __init__(self, recording: media.Recording, recipe: LipRecipe | None, *, vad: bool = True, doubt: bool = False,
                 save_lips: Path | None = None, stage: str = "transcribing", progress: Progress = no_progress):
        assert not doubt or (recipe is not None and vad)
        self.recording, self.recipe, self.vad, self.doubt = recording, recipe, vad, doubt
        self.save_lips, self.duration_s, self.loudness = save_lips, 0.0, Loudness()
        self.stage, self.progress = f"{stage} {Path(recording.name).name}", progress

    def __iter__(self) -> Iterator[Heard]:
        ears, waiting = _Ears(self.vad), []
        with ExitStack() as stack:
            eyes = None
            if self.recipe is not None:
                eyes = stack.enter_context(_Eyes(self.recipe, keep_all=self.save_lips is not None))
            gaps = _Gaps(ears, eyes) if self.doubt else None
            for clip in self.recording.windows(BY_EAR_FRAMES if eyes is None else BY_EYE_FRAMES):
                if clip.audio is not None:
                    self.loudness.update(clip.audio)
                    clip = replace(clip, audio=amplified(clip.audio, self.recording.gain))
                waiting += ears.update(clip)
                if eyes is not None:
                    eyes.update(clip)
                n_ready = sum(eyes is None or piece.end_frame <= eyes.settled for piece in waiting)
                ready, waiting = waiting[:n_ready], waiting[n_ready:]
                oldest = min([ears.settled] + [piece.start_frame for piece in waiting])
                if gaps is not None:
                    ready = gaps.update(ready, min(oldest, eyes.settled))
                    oldest = min(oldest, gaps.oldest)
                for piece in ready:
                    yield _take(piece, ears, eyes)
                for sense in (ears, eyes):
                    if sense is not None:
                        sense.forget(oldest)
                self.duration_s = clip.start_s + clip.duration_s
                self.progress(self.stage, self.duration_s, self.recording.duration_s, "s")
            if eyes is not None:
                eyes.finish()
            waiting += ears.finish()
            for piece in waiting if gaps is None else gaps.finish(waiting):
                yield _take(piece, ears, eyes)
            if eyes is not None and self.save_lips is not None:
                eyes.save(lips_path(self.save_lips, self.recording.name))


def _take(piece: Piece, ears: _Ears, eyes: _Eyes | None) -> Heard:
    sure = None if piece.sure is None else tuple(_take(one, ears, eyes) for one in piece.sure)
    audio = ears.take(piece)
    return Heard(piece, audio, None if eyes is None else eyes.take(piece, audio), sure)


def why_unreadable(mouths: Mouths | None, max_missing: float) -> str | None:
    """What keeps a piece from being read from its lips: "missing" where too few frames show a face, "still" where too few show
    a mouth that moves, None where nothing does. max_missing: share of the frames that may do so."""
    if mouths is None or mouths.missing.mean() > max_missing:
        return "missing"
    motionless = step.motionless(mouths.images, mouths.missing)
    return "still" if (mouths.missing | motionless).mean() > max_missing else None


class _Gaps:
    """What lies between pieces, judged in blocks as soon as it has been heard and seen."""

    def __init__(self, ears: _Ears, eyes: _Eyes):
        self.ears, self.eyes, self.widening, self.reached = ears, eyes, Widening(), 0

    @property
    def oldest(self) -> int:
        """The first frame that is still needed."""
        return self.reached if self.widening.open is None else self.widening.open.start_frame

    def update(self, pieces: list[Piece], upto: int) -> list[Piece]:
        """The next pieces, before frame `upto`, where the next one may begin -> pieces to be recognised."""
        out = []
        for piece in pieces:
            out += self._between(piece.start_frame, over=True)
            out += self.widening.speech(piece, self.ears.take(piece))
            self.reached = piece.end_frame
        return out + self._between(upto)

    def finish(self, pieces: list[Piece]) -> list[Piece]:
        """The last pieces."""
        return self.update(pieces, self.reached) + self._between(self.ears.n_frames, over=True) + self.widening.finish()

    def _between(self, end: int, *, over: bool = False) -> list[Piece]:
        """Blocks up to `end`; if the gap is `over` there, what is too short for a block joins the last one."""
        out, n_block, least = [], self.widening.options.block, self.widening.options.least
        while (left := end - self.reached) >= (least if over else n_block + least):
            block = Piece(self.reached, end if left < n_block + least else self.reached + n_block)
            mouths, self.reached = self.eyes.take(block), block.end_frame
            out += self.widening.between(block, self.ears.take(block), None if mouths is None else mouths.missing)
        return out


class _Ears:
    """Sound and the pieces it falls into; keeps what may still be needed."""

    def __init__(self, vad: bool):
        self.probability = SpeechProbability() if vad else None
        self.cutter = SpeechCutter()
        self.chunks: list[tuple[int, np.ndarray]] = []      # first frame, samples
        self.n_frames = self.taken = 0

    def update(self, clip: media.Clip) -> list[Piece]:
        self.n_frames = clip.start_frame + clip.n_frames
        if clip.audio is not None:
            self.chunks.append((clip.start_frame, clip.audio))
        if self.probability is not None and clip.audio is not None:
            return self.cutter.update(self.probability.update(clip.audio))
        pieces = []
        while self.n_frames - self.taken >= PIECE_FRAMES:
            pieces.append(Piece(self.taken, self.taken + PIECE_FRAMES))
            self.taken += PIECE_FRAMES
        return pieces

    def finish(self) -> list[Piece]:
        if self.probability is not None:
            pieces = self.cutter.update(self.probability.finish()) + self.cutter.finish()
            return [replace(piece, end_frame=min(piece.end_frame, self.n_frames)) for piece in pieces]
        return [Piece(self.taken, self.n_frames)] if self.n_frames > self.taken else []

    @property
    def settled(self) -> int:
        return self.taken if self.probability is None else self.cutter.settled

    def take(self, piece: Piece) -> np.ndarray | None:
        parts = []
        for start, samples in self.chunks:
            low, high = frames_to_samples(piece.start_frame - start), frames_to_samples(piece.end_frame - start)
            if high > 0 and low < len(samples):
                parts.append(samples[max(0, low):high])
        return np.concatenate(parts) if parts else None

    def forget(self, before: int) -> None:
        self.chunks = [(start, samples) for start, samples in self.chunks if start + samples_to_frames(len(samples)) > before]


class _Eyes:
    """Everybody's mouths; keeps what may still be needed, or all of them for `save`."""

    def __init__(self, recipe: LipRecipe, *, keep_all: bool):
        self.tracker, self.cropper = FaceTracker(landmarks=recipe.landmarks), MouthCropper(recipe)
        # Frames that tracker and cropper may hold back, see there.
        self.lag = self.tracker.max_gap + 4 * self.tracker.stride + recipe.smooth
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

    def take(self, piece: Piece, audio: np.ndarray | None = None) -> Mouths | None:
        return choose(self.mouths, piece.start_frame, piece.end_frame, audio)

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


def ahead(items: Iterable, n: int) -> Iterator:
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
