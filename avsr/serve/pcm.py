"""Sound as PCM and pictures as JPEG, in messages as they are taken: what a page sends that has no time to lose.

    messages -> PcmMessages -> SoundPiece, PicturePiece
A message is one byte and what follows it: 1 and 16-bit little-endian mono PCM; 2, the time in seconds as a little-endian
float64, and a JPEG. Nothing waits for a coder: Chromium 156 sends sound 0.04 s after it was taken, as pieces last 0.02 s, and
pictures 0.02 s; in 95 of 100 cases within 0.05 and 0.03 s. By its MediaRecorder it takes 0.16 s, see live/container.py.
"""

from __future__ import annotations

import math
import struct
import threading
from collections import deque
from collections.abc import Iterator
from typing import cast

import av
import numpy as np

from avsr.errors import BadMedia, counted
from avsr.live.container import BLOCK_S, CLOSEST_S, LARGEST_SIDE, LONGEST_GAP_S, PicturePiece, SoundPiece, missing_sound
from avsr.media.audio import Resampler
from avsr.media.timestamps import DECODE_ERRORS
from avsr.media.video import FrameConverter
from avsr.rates import SAMPLE_RATE

SOUND, PICTURE = 1, 2                 # the first byte of a message
MAX_PIXELS = 4096 * 2304              # of a picture
SAMPLE_RATES = (8_000, 192_000)       # the lowest and the highest


class PcmMessages:
    """Decodes messages of sound and pictures: one thread feeds them, another iterates, and waits where nothing has come.

    has_audio, has_video: what is given; messages of the other kind are left out. problems: sentences, complete at the end.
    Iterating raises BadMedia for a message that is neither, and for times of pictures that cannot be.
    """

    def __init__(self, sample_rate: int, *, has_audio: bool, has_video: bool):
        self.sample_rate, self.has_audio, self.has_video = sample_rate, has_audio, has_video
        self._changed = threading.Condition()
        self._messages: deque[bytes] = deque()
        self._ended, self.n_waiting = False, 0               # bytes that were fed and not decoded
        self._resampler: Resampler | None = None
        self._converter: FrameConverter | None = None
        self._n_samples, self._n_damaged = 0, 0
        self._picture_s: float | None = None

    def feed(self, message: bytes, /) -> None:
        """The next message. Never waits: whoever feeds looks at n_waiting."""
        with self._changed:
            self._messages.append(message)
            self.n_waiting += len(message)
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more comes."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Drop what waits; whoever iterates is told the end."""
        with self._changed:
            self._messages.clear()
            self._ended, self.n_waiting = True, 0
            self._changed.notify_all()

    @property
    def problems(self) -> list[str]:
        """See PcmMessages."""
        return [f"live: {counted(self._n_damaged, 'damaged picture')} left out."] if self._n_damaged else []

    def __iter__(self) -> Iterator[SoundPiece | PicturePiece]:
        while (message := self._next()) is not None:
            kind, content = message[:1], message[1:]
            if kind == bytes([SOUND]):
                yield from self._sound(content)
            elif kind == bytes([PICTURE]):
                yield from self._picture(content)
            else:
                raise BadMedia(f"live: a message begins with byte {message[0] if message else 'none'}, but must begin with "
                               f"{SOUND} for sound or {PICTURE} for a picture.  Send one kind in each message.")

    def _next(self) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._messages or self._ended)
            if not self._messages:
                return None
            message = self._messages.popleft()
            self.n_waiting -= len(message)
            return message

    def _sound(self, content: bytes) -> Iterator[SoundPiece]:
        if len(content) % 2:
            raise BadMedia(f"live: a message of sound has {len(content)} bytes, and samples have 2 each.  Send whole samples.")
        samples = np.frombuffer(content, "<i2").astype(np.float32) / 2**15
        if not self.has_audio or not len(samples):
            return
        if self.sample_rate != SAMPLE_RATE:
            samples = self._resampled(samples)
        self._n_samples += len(samples)
        yield SoundPiece(samples)

    def _resampled(self, samples: np.ndarray) -> np.ndarray:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), "flt", "mono")
        frame.sample_rate = self.sample_rate
        if self._resampler is None:
            self._resampler = Resampler(frame, BLOCK_S)
        made = self._resampler.push(frame)
        return np.concatenate(made) if made else np.zeros(0, np.float32)

    def _picture(self, content: bytes) -> Iterator[SoundPiece | PicturePiece]:
        if len(content) < 9:
            raise BadMedia(f"live: a message with a picture has {len(content)} bytes.  Send 8 bytes of time, then a JPEG.")
        (time_s,) = struct.unpack("<d", content[:8])
        if not self.has_video or not self._is_due(time_s):
            return
        picture = self._decoded(content[8:])
        if picture is None:
            self._n_damaged += 1
            return
        silence = missing_sound(self._n_samples / SAMPLE_RATE, time_s) if self.has_audio else None
        if silence is not None:
            self._n_samples += len(silence)
            yield SoundPiece(silence)
        self._picture_s = time_s
        yield PicturePiece(picture, time_s)

    def _is_due(self, time_s: float) -> bool:
        """Whether a picture of this time is wanted. Raises BadMedia for a time that no clock gives."""
        latest = max(self._picture_s or 0.0, self._n_samples / SAMPLE_RATE)
        if not math.isfinite(time_s) or time_s > latest + LONGEST_GAP_S:
            raise BadMedia(f"live: the time of a picture is {time_s:.1f} s, and sound and pictures have come up to "
                           f"{latest:.1f} s, more than {LONGEST_GAP_S:.0f} s before.  Count from the start, in seconds.")
        return self._picture_s is None or time_s >= self._picture_s + CLOSEST_S

    def _decoded(self, jpeg: bytes) -> np.ndarray | None:
        """(H, W, 3) uint8 RGB; None where it cannot be decoded."""
        context = cast(av.VideoCodecContext, av.CodecContext.create("mjpeg", "r"))
        context.options, context.thread_type = {"max_pixels": str(MAX_PIXELS)}, "NONE"
        try:
            frames = [*context.decode(av.Packet(jpeg)), *context.decode(None)]
            if not frames:
                return None
            if self._converter is None:
                self._converter = FrameConverter(frames[0], None, LARGEST_SIDE)
            return self._converter.rgb(frames[0])
        except DECODE_ERRORS:
            return None
