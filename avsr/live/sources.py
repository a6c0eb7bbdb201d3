"""What is recognised live, as Clips that come in real time: a microphone and a camera, or files played as if live.

    Microphone, Camera -> ClipAssembler -> Clips | files -> Clips, each when its time has come
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Protocol

import numpy as np

from avsr import media, selection
from avsr.errors import BadMedia
from avsr.live.assembler import ClipAssembler
from avsr.live.camera import Camera
from avsr.live.microphone import QUEUE_S, Microphone, SoundPiece
from avsr.media.colour import NO_COLOUR
from avsr.rates import SAMPLE_RATE, frames_to_samples, frames_to_seconds

PIECE_FRAMES = 2                      # 80 ms of a file, as a sound card gives it
CLOCK_S = 10.0                        # over so many seconds the sound card's clock is compared with the system's
LOST_S = 1.0                          # without sound for so long, silence stands for it, so that the pictures go on


class LiveSource(Protocol):
    """Gives a recording while it is being made. has_audio, has_video: what its Clips hold. ended: nothing more comes."""

    name: str
    has_audio: bool
    has_video: bool
    ended: bool

    def start(self) -> None:
        """Begin, or begin anew: time zero is now, and what came before is dropped."""
        ...

    def skip(self) -> None:
        """Drop what has come."""
        ...

    def take(self) -> media.Clip | None:
        """The next Clip that has come; None where the caller has all of them."""
        ...

    def rest(self) -> list[media.Clip]:
        """What came up to now and waits for more. The recording has ended then; `start` begins another."""
        ...

    def now_s(self) -> float:
        """Seconds since time zero."""
        ...

    def problems(self) -> list[str]:
        """What the user should know, a sentence each; each is given once."""
        ...

    def close(self) -> None:
        """Switch devices off, close files."""
        ...


class DeviceSource:
    """A microphone, a camera, or both. The sound is the clock; the times of pictures are moved to it."""

    def __init__(self, microphone: Microphone | None, camera: Camera | None):
        assert microphone is not None or camera is not None
        self.microphone, self.camera, self.name = microphone, camera, "live"
        self.has_audio, self.has_video, self.ended = microphone is not None, camera is not None, False
        self._runs, self._n_lost = False, 0
        self._begin()

    def start(self) -> None:
        """See LiveSource, and Microphone.start for errors."""
        if not self._runs:
            for device in (self.camera, self.microphone):
                if device is not None:
                    device.start()
            self._runs = True
        self.skip()
        self._begin()

    def _begin(self) -> None:
        self._zero = time.monotonic()
        self._assembler = ClipAssembler(has_audio=self.has_audio, has_video=self.has_video)
        self._sound = SoundClock(self._zero) if self.has_audio else None

    def skip(self) -> None:
        """Drop what has come."""
        for device in (self.microphone, self.camera):
            if device is not None:
                device.take()

    def take(self) -> media.Clip | None:
        """See LiveSource."""
        if self.microphone is not None and self._sound is not None:
            for samples in self._sound.samples(self.microphone.take(), time.monotonic()):
                self._assembler.add_sound(samples)
        zero = self._zero if self._sound is None else self._sound.zero_s
        for one in self.camera.take() if self.camera is not None else ():
            if one.time_s >= zero:
                self._assembler.add_picture(one.picture, one.time_s - zero)
        return self._assembler.take()

    def rest(self) -> list[media.Clip]:
        """See LiveSource."""
        clips = [self.take(), self._assembler.finish()]
        return [clip for clip in clips if clip is not None]

    def now_s(self) -> float:
        """See LiveSource."""
        return time.monotonic() - (self._zero if self._sound is None else self._sound.zero_s)

    def problems(self) -> list[str]:
        """See LiveSource."""
        out = [] if self.camera is None else [self.camera.problem()]
        if self.microphone is not None and self._sound is not None:
            out += [self.microphone.problem(), self._sound.problem(self.microphone.name), self._lost()]
        return [one for one in out if one is not None]

    def _lost(self) -> str | None:
        """A sentence for the first sound that was lost because recognition did not keep up."""
        before, self._n_lost = self._n_lost, 0 if self.microphone is None else self.microphone.n_lost
        if before or not self._n_lost:
            return None
        return (f"{self.name}: recognition is {QUEUE_S} s behind, so sound is lost.  Use a smaller --model, a longer --step, "
                "or --modality a.")

    def close(self) -> None:
        """See LiveSource."""
        for device in (self.microphone, self.camera):
            if device is not None:
                device.close()


class SoundClock:
    """Makes pieces of sound one unbroken stream, and says which time of the system is its second 0.

    The clock of a sound card may run faster or slower than the system's, and pieces may be lost. Each piece says when the
    stream must have begun if all is well: at its own time less the samples before it. The earliest of these times in CLOCK_S
    seconds is the one of the piece that waited least, so it is taken. zero_s: it, by time.monotonic().
    """

    def __init__(self, zero_s: float):
        self.zero_s = zero_s
        self._begins: deque[tuple[float, float]] = deque()   # time of a piece, time at which the stream began by it
        self._n_samples, self._is_lost, self._is_told, self._heard_s = 0, False, False, zero_s

    def samples(self, pieces: list[SoundPiece], now_s: float) -> Iterator[np.ndarray]:
        """The samples of the next pieces, with silence where sound was lost. now_s: by time.monotonic()."""
        for piece in pieces:
            if self._begins or self._is_lost:
                gap = round((piece.time_s - self.zero_s) * SAMPLE_RATE) - self._n_samples
                if gap > LOST_S * SAMPLE_RATE:               # the queue was full, or the device was away
                    yield self._silence(gap)
                    self._begins.clear()
            self._is_lost, self._heard_s = False, now_s
            self._compare(piece)
            self._n_samples += len(piece.samples)
            yield piece.samples
        behind = now_s - self.zero_s - self._n_samples / SAMPLE_RATE
        if now_s - self._heard_s > 2 * LOST_S and behind > 2 * LOST_S:
            self._is_lost = True
            self._begins.clear()
            yield self._silence(round((behind - LOST_S) * SAMPLE_RATE))

    def problem(self, name: str) -> str | None:
        """A sentence where no sound comes, said once until it comes again."""
        told, self._is_told = self._is_told, self._is_lost
        if not self._is_lost or told:
            return None
        return (f"microphone {name}: no sound comes from it any more.  Check its cable, or choose another with --microphone "
                "and begin anew.")

    def _silence(self, n_samples: int) -> np.ndarray:
        self._n_samples += n_samples
        return np.zeros(n_samples, np.float32)

    def _compare(self, piece: SoundPiece) -> None:
        self._begins.append((piece.time_s, piece.time_s - self._n_samples / SAMPLE_RATE))
        while self._begins[0][0] < piece.time_s - CLOCK_S:
            self._begins.popleft()
        self.zero_s = min(began for _, began in self._begins)


class FileSource:
    """Files played as if live: one with the picture, one with the sound, or one with both.

    video, audio: paths, addresses, or what else media.open_recording takes; None for none. The same one may be both.
    Raises BadMedia where one cannot be read, or has not what is wanted of it.
    """

    def __init__(self, video: media.Source | None, audio: media.Source | None, *, both_from_video: bool = False, **tracks):
        """both_from_video: take the sound of `video` too, if it has any; then `audio` is None. tracks: which of several is
        taken, `language` and `landmarks` of selection.open_recording."""
        self._files = [(source, {"want_video": sees, "want_audio": hears, **tracks}) for source, sees, hears in (
            (video, True, both_from_video), (audio, False, True)) if source is not None]
        self._played, self._told = False, 0
        self._open_files()
        self.name = " and ".join(dict.fromkeys(one.name for one in self._recordings))
        self.has_audio = any(one.has_audio for one in self._recordings)
        self.has_video = any(one.has_video for one in self._recordings)

    def _open_files(self) -> None:
        self.ended, self._played = False, False
        self._open = ExitStack()
        try:
            self._recordings = [self._opened(source, **options) for source, options in self._files]
        except BaseException:
            self._open.close()
            raise

    def _opened(self, source: media.Source, **options) -> media.Recording:
        source = self._open.enter_context(media.reopenable(source))
        recording = self._open.enter_context(selection.open_recording(source, **options))
        if options["want_video"] and not options["want_audio"] and not recording.has_video:
            raise BadMedia(f"{recording.name}: there is no picture in it.  Name a video with --video.")
        return recording

    def start(self) -> None:
        """See LiveSource."""
        if self._played:
            self._open.close()
            self._open_files()
        self._played = True
        streams = [one.windows(PIECE_FRAMES, grey=True) for one in self._recordings]
        self._clips = streams[0] if len(streams) == 1 else _side_by_side(*streams)
        self._zero = time.monotonic()
        self._waiting = next(self._clips, None)

    def skip(self) -> None:
        """See LiveSource; a file comes only once it is started."""

    def take(self) -> media.Clip | None:
        """See LiveSource."""
        clip = self._waiting
        if clip is None:
            self.ended = True
            return None
        if frames_to_seconds(clip.start_frame + clip.n_frames) > self.now_s():
            return None
        self._waiting = next(self._clips, None)
        return clip

    def rest(self) -> list[media.Clip]:
        """See LiveSource; of a file nothing waits."""
        return []

    def now_s(self) -> float:
        """See LiveSource."""
        return time.monotonic() - self._zero

    def problems(self) -> list[str]:
        """See LiveSource."""
        all_now = [sentence for one in self._recordings for sentence in one.problems]
        new, self._told = all_now[self._told:], len(all_now)
        return new

    def close(self) -> None:
        """See LiveSource."""
        self._open.close()


def _side_by_side(pictures: Iterator[media.Clip], sounds: Iterator[media.Clip]) -> Iterator[media.Clip]:
    """Clips with the pictures of one recording and the sound of another; the shorter one is filled with silence, or black."""
    shape: tuple[int, ...] = ()
    chroma: tuple[int, ...] = ()
    frame = 0
    while True:
        seen, heard = next(pictures, None), next(sounds, None)
        if seen is None and heard is None:
            return
        n_frames = max(one.n_frames for one in (seen, heard) if one is not None)
        if seen is not None and seen.video is not None and seen.chroma is not None:
            shape, chroma = seen.video.shape[1:], seen.chroma.shape[1:]
        video, shown = np.zeros((n_frames, *shape), np.uint8), np.zeros(n_frames, bool)
        colour = np.full((n_frames, *chroma), NO_COLOUR, np.uint8)
        if seen is not None and seen.video is not None and seen.chroma is not None and seen.shown is not None:
            video[: seen.n_frames], shown[: seen.n_frames], colour[: seen.n_frames] = seen.video, seen.shown, seen.chroma
        audio = np.zeros(frames_to_samples(n_frames), np.float32)
        if heard is not None and heard.audio is not None:
            audio[: len(heard.audio)] = heard.audio
        yield media.Clip(video, shown, audio, frame, colour)
        frame += n_frames
