"""A container that grows, such as WebM from a browser's MediaRecorder: its bytes in pieces -> sound and pictures, soon.

    bytes in pieces -> GrowingFile -> GrowingContainer: FFmpeg's demuxer and decoders -> SoundPiece, PicturePiece
What has come is given before more is waited for, and nothing is read ahead. With pieces of 100 ms from Chromium 156 (VP8 or
H.264, and Opus), Clips of them are complete 0.16 s after they were taken, in 95 of 100 cases within 0.24 s: that is the piece
and the browser's coders. As FFmpeg opens files, it would first look at 2 s of them, and a decoder with two threads keeps a
picture back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Stream

from avsr.errors import BadMedia, counted
from avsr.media.audio import JITTER, Resampler, form_of
from avsr.media.decoder import open_options, prepare_decoder, unreadable, why_unusable
from avsr.media.timestamps import DECODE_ERRORS, read_packets
from avsr.media.video import FrameConverter
from avsr.rates import SAMPLE_RATE, VIDEO_FPS

MATROSKA = b"\x1a\x45\xdf\xa3"        # how WebM begins; its header says all that the decoders must know
AT_ONCE = {"probesize": "32", "analyzeduration": "0", "fpsprobesize": "0"}        # look at nothing before the first packet
BLOCK_S = 0.02                        # seconds of sound that are converted at a time: the shortest packet of Opus in use
LONGEST_GAP_S = 10.0                  # a longer gap, in which nothing was recorded, is left out
LATE_SOUND_S = 1.0                    # the sound is taken as silence where pictures are so far ahead of it
LARGEST_SIDE = 1280                   # pixels, as in media.open_recording
CLOSEST_S = 0.5 / VIDEO_FPS           # pictures that follow sooner are left out


@dataclass(frozen=True)
class SoundPiece:
    """The next samples (S,) float32, mono, SAMPLE_RATE."""

    samples: np.ndarray


@dataclass(frozen=True)
class PicturePiece:
    """A picture (H, W, 3) uint8 RGB, taken `time_s` seconds after the start."""

    picture: np.ndarray
    time_s: float


def missing_sound(heard_s: float, picture_s: float) -> np.ndarray | None:
    """Silence (S,) float32 to go on with where a picture is far ahead of the sound, which has stopped; None where it is not."""
    missing_s = picture_s - heard_s
    return np.zeros(round((missing_s - LATE_SOUND_S / 2) * SAMPLE_RATE), np.float32) if missing_s > LATE_SOUND_S else None


class GrowingFile:
    """A file of which bytes come in pieces: one thread feeds it, another reads, and waits where nothing has come."""

    name = "live"

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._bytes = bytearray()
        self._ended = False
        self.begins = b""                                    # its first bytes

    @property
    def n_waiting(self) -> int:
        """Bytes that were fed and not read."""
        return len(self._bytes)

    def feed(self, data: bytes, /) -> None:
        """Append bytes. Never waits: whoever feeds looks at n_waiting."""
        with self._changed:
            self._bytes += data
            if len(self.begins) < 512:
                self.begins += data[:512]
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more comes."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Drop what waits; whoever reads is told the end."""
        with self._changed:
            self._bytes.clear()
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, n: int) -> None:
        """Wait for the first n bytes, or the end."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.begins) >= n or self._ended)

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, as soon as there is one; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._bytes or self._ended)
            data = bytes(self._bytes[:size] if size >= 0 else self._bytes)
            del self._bytes[: len(data)]
            return data


class GrowingContainer:
    """Decodes a GrowingFile while it grows; made and read in a thread of its own, as both wait for bytes.

    has_audio, has_video: what is in it. problems: sentences about what was damaged or left out, complete at the end.
    Raises BadMedia where it cannot be opened, or holds nothing of what is wanted.
    """

    def __init__(self, file: GrowingFile, *, want_audio: bool = True, want_video: bool = True):
        self.file, self._n_damaged, self._left_out_s = file, 0, 0.0
        file.wait_for(len(MATROSKA))
        options = open_options() | (AT_ONCE if file.begins.startswith(MATROSKA) else {})
        try:
            self._container = av.open(cast("str", file), mode="r", metadata_errors="ignore", options=options)
        except (FFmpegError, OSError, ValueError) as error:
            raise unreadable(file.name, file.begins, error) from error
        sound = self._container.streams.best("audio") if want_audio else None
        picture = self._container.streams.best("video") if want_video else None
        self._streams = [stream for stream in (sound, picture) if stream is not None and self._prepare(stream)]
        self.has_audio, self.has_video = (any(one.type == kind for one in self._streams) for kind in ("audio", "video"))
        if not self._streams:
            self._container.close()
            raise BadMedia(f"{file.name}: no sound and no picture in it that is wanted and can be decoded.  Record with Opus "
                           "and VP8, as browsers do.")
        self._zero: float | None = None                      # the time by the container's clock that is 0 s
        self._resampler: Resampler | None = None
        self._sound_s = 0.0                                  # where the sound that was given ends
        self._overlap = 0                                    # samples to leave out, as others stand in their place
        self._converter: FrameConverter | None = None
        self._picture_s: float | None = None                 # time of the last picture that was given

    def _prepare(self, stream: Stream) -> bool:
        if not stream.codec_context or prepare_decoder(stream) is not None:
            return False
        if stream.type == "video":                           # threads that each take a picture give it one picture later
            cast(av.VideoStream, stream).codec_context.thread_type = "SLICE"
        return True

    def __enter__(self) -> GrowingContainer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._container.close()

    @property
    def problems(self) -> list[str]:
        """See GrowingContainer."""
        damaged = [f"{self.file.name}: {counted(self._n_damaged, 'damaged packet')} left out."] if self._n_damaged else []
        gaps = [f"{self.file.name}: the time stamps leap by {self._left_out_s:.0f} s in all; the parts were joined."]
        return damaged + (gaps if self._left_out_s else [])

    def __iter__(self) -> Iterator[SoundPiece | PicturePiece]:
        for packet in read_packets(self._container, self._streams, self._count_damage):
            try:
                frames = packet.decode()
            except DECODE_ERRORS:
                self._count_damage()
                continue
            for frame in frames:
                if why_unusable(frame) is not None:
                    self._count_damage()
                elif isinstance(frame, av.AudioFrame):
                    yield from self._sound(frame)
                else:
                    yield from self._picture(cast(av.VideoFrame, frame))
        yield from self._rest()

    def _count_damage(self) -> None:
        self._n_damaged += 1

    def _time(self, frame: av.AudioFrame | av.VideoFrame, expected: float) -> float:
        """When a frame is, in seconds from the start; `expected` where it does not say, or time leaps to or from it."""
        if frame.time is None:
            return expected
        if self._zero is None:
            self._zero = frame.time
        leap = frame.time - self._zero - expected
        if abs(leap) > LONGEST_GAP_S:
            self._left_out_s += abs(leap)
            self._zero += leap
        return frame.time - self._zero

    def _sound(self, frame: av.AudioFrame) -> Iterator[SoundPiece]:
        if not frame.samples:
            return
        held = 0.0 if self._resampler is None else self._resampler.n_in / self._resampler.rate
        gap = self._time(frame, self._sound_s + held) - self._sound_s - held
        if self._resampler is None or abs(gap) > JITTER or self._resampler.form != form_of(frame):
            yield from self._rest()
            yield from self._silence(gap if abs(gap) > JITTER else 0.0)
            self._resampler = Resampler(frame, BLOCK_S)
        try:
            made = self._resampler.push(frame)
        except DECODE_ERRORS:
            self._count_damage()
            self._resampler = None
            return
        yield from self._given(made)

    def _rest(self) -> Iterator[SoundPiece]:
        """The sound that is still inside the resampler."""
        resampler, self._resampler = self._resampler, None
        if resampler is not None:
            self._sound_s += resampler.n_in / resampler.rate
            try:
                yield from self._given(resampler.finish())
            except DECODE_ERRORS:
                self._count_damage()

    def _silence(self, gap_s: float) -> Iterator[SoundPiece]:
        """Silence for a gap; of an overlap, where the gap is below 0, it is the later sound that is left out."""
        self._sound_s += gap_s
        self._overlap = max(0, -round(gap_s * SAMPLE_RATE))
        if gap_s > 0:
            yield SoundPiece(np.zeros(round(gap_s * SAMPLE_RATE), np.float32))

    def _given(self, made: list[np.ndarray]) -> Iterator[SoundPiece]:
        for samples in made:
            dropped = min(self._overlap, len(samples))
            self._overlap -= dropped
            if len(samples) > dropped:
                yield SoundPiece(np.nan_to_num(samples[dropped:], posinf=0.0, neginf=0.0))

    def _picture(self, frame: av.VideoFrame) -> Iterator[SoundPiece | PicturePiece]:
        heard = self._sound_s + (0.0 if self._resampler is None else self._resampler.n_in / self._resampler.rate)
        expected = heard if self.has_audio or self._picture_s is None else self._picture_s + 1 / VIDEO_FPS
        time_s = self._time(frame, expected)
        if self._picture_s is not None and time_s < self._picture_s + CLOSEST_S:
            return
        silence = missing_sound(heard, time_s) if self.has_audio else None
        if silence is not None:
            yield from self._rest()
            yield from self._silence(len(silence) / SAMPLE_RATE)
        if self._converter is None:
            aspect = cast(av.VideoStream, next(one for one in self._streams if one.type == "video")).sample_aspect_ratio
            self._converter = FrameConverter(frame, aspect, LARGEST_SIDE)
        try:
            picture = self._converter.rgb(frame)
        except DECODE_ERRORS:
            self._count_damage()
            return
        self._picture_s = time_s
        yield PicturePiece(picture, time_s)
