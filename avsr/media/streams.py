"""From a source to decoded frames whose times can be believed; what is damaged is counted and left out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import av
from av.error import FFmpegError
from av.stream import Disposition

from avsr.errors import BadMedia
from avsr.rates import SAMPLE_RATE

LEAP_BACK = 1.0                       # seconds: frames further back than this, or further ahead than LEAP_AHEAD past
LEAP_AHEAD = 10.0                     # the announced end, have a broken clock
LONGEST = 3600.0                      # seconds believed to lie ahead where the container announces no end
CUT_SHORT = 0.5                       # seconds missing at the end before it is worth a word
MAX_READ_ERRORS = 500                 # in a row: a demuxer that only fails would never end
NOT_RECORDINGS = {"tty", "image2", "lavfi", "hls", "concat", "dash", "imf", "webm_dash_manifest", "sdp", "rtp",
                  "rtsp", "sap"}
GUESSED_LENGTH = {"mp3", "aac", "ac3", "eac3", "loas", "h264", "hevc", "mpegvideo", "m4v", "mpeg", "mpegts"}
NOUNS = {"video": "picture", "audio": "sound"}


class _View:
    """A reader with a position of its own over a file that others read too."""

    def __init__(self, file: BinaryIO):
        self.file, self.position = file, 0

    def read(self, size: int = -1) -> bytes:
        self.file.seek(self.position)
        data = self.file.read(size)
        self.position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset += self.position
        elif whence == os.SEEK_END:
            offset += self.file.seek(0, os.SEEK_END)
        self.position = offset
        return offset

    def tell(self) -> int:
        return self.position


class Opener:
    """Opens a source as often as asked, each time with a position of its own. Raises BadMedia, also when it is made."""

    def __init__(self, source: str | Path | bytes | BinaryIO):
        self.path: Path | None = None
        if isinstance(source, str | Path):
            self.path = Path(source)
            self.name = self.path.name
            size = self._size_of_path()
        else:
            self.file = BytesIO(source) if isinstance(source, bytes) else source
            if not self.file.seekable():
                self.file = BytesIO(self.file.read())
            name = getattr(source, "name", None)
            self.name = Path(name).name if isinstance(name, str) else "recording"
            size = self.file.seek(0, os.SEEK_END)
        if size == 0:
            raise BadMedia(f"{self.name}: the file is empty (0 bytes).  Copy or download it again.")

    def _size_of_path(self) -> int:
        try:
            if self.path.is_dir():
                raise BadMedia(f"{self.path}: this is a folder, not a recording.  Name the files in it.")
            return self.path.stat().st_size
        except PermissionError as error:
            raise self._forbidden() from error
        except (OSError, ValueError) as error:               # ValueError: a null character in the name
            raise BadMedia(f"{self.path}: no such file.  Check the path for typing mistakes.") from error

    def _forbidden(self) -> BadMedia:
        return BadMedia(f"{self.name}: this user may not read the file.  Change its permissions, or copy it.")

    def open(self) -> av.container.InputContainer:
        """A fresh demuxer at the start of the source. The caller closes it."""
        # "file:" keeps a colon in a name from being a protocol. The white lists keep out text drawn as pictures, still
        # pictures and play lists: those open other files, go to the net, or wait for ever for what is to come.
        file = _View(self.file) if self.path is None else f"file:{self.path}"
        formats = {name for name in av.formats_available if not name.endswith("_pipe")} - NOT_RECORDINGS
        options = {"protocol_whitelist": "file", "format_whitelist": ",".join(formats)}
        try:
            return av.open(file, metadata_errors="ignore", options=options)
        except PermissionError as error:
            raise self._forbidden() from error
        except (FFmpegError, OSError, ValueError, TypeError) as error:       # TypeError: a file in text mode
            reason = getattr(error, "strerror", None) or str(error)
            raise BadMedia(f"{self.name}: this cannot be read as a recording ({reason}).  Give a sound or video file; "
                           "if a player does not open it either, get it again.") from error


def pick(container: av.container.InputContainer, kind: str) -> av.stream.Stream | None:
    """The `video` or `audio` stream FFmpeg thinks best; cover art is no video."""
    real = [s for s in container.streams if s.type == kind and not s.disposition & Disposition.attached_pic]
    best = container.streams.best(kind)
    return best if best in real else next(iter(real), None)


class _Clock:
    """Makes the times that frames claim believable: missing ones are filled in, absurd leaps are taken out."""

    def __init__(self, due: float):
        self.due = due                                       # when the next frame should start, seconds
        self.latest = due + LONGEST
        self.shift = 0.0
        self.leaps = 0

    def place(self, time: float | None) -> float:
        """Time of a frame that claims `time`; the caller then says when the next is `due`."""
        if time is None:
            return self.due
        for shift in (self.shift, 0.0):
            if self.due - LEAP_BACK < time + shift < max(self.due, self.latest) + LEAP_AHEAD:
                self.shift = shift
                return time + shift
        self.shift = self.due - time
        self.leaps += 1
        return self.due


class Track:
    """One stream in a container of its own: decoded frames, and a count of what was damaged.

    first: the first frame that decodes, None when none does.  start_s: its time by the container's clock, seconds.
    zero: the recording's zero by that clock.  end: where the frames read so far end by it; whoever places frames on
    `clock` keeps it.  invalid_samples: sound that was no number.  cancelled_samples: of mono sound at SAMPLE_RATE, that were
    taken from one channel because the channels cancel each other out.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.stream.Stream):
        self.container, self.stream = container, stream
        self.noun = NOUNS[stream.type]
        self.codec = stream.codec_context.name if stream.codec_context else "unknown codec"
        self.damage: list[float] = []                        # times of packets that could not be decoded, seconds
        self.invalid_samples = self.cancelled_samples = 0
        self.end = self.zero = 0.0
        if stream.type == "video" and stream.codec_context:
            stream.codec_context.thread_type = "AUTO"
        self._frames = self._decode() if stream.codec_context else iter(())
        self.first = next(self._frames, None)
        header = float(stream.start_time * stream.time_base) if stream.start_time is not None else 0.0
        self.start_s = header if self.first is None or self.first.time is None else self.first.time
        self.clock = _Clock(self.start_s)

    def set_zero(self, zero: float, duration_s: float | None) -> None:
        """Say what time by the container's clock is zero, and how long the recording should be."""
        self.zero = zero
        latest = zero + (LONGEST if duration_s is None else duration_s)
        if self.start_s > latest + LEAP_AHEAD:
            self.clock = _Clock(zero)                        # its own clock cannot be meant
        self.clock.latest = latest

    def frames(self) -> Iterator[av.VideoFrame | av.AudioFrame]:
        """Every decoded frame. Can be called once, when there is a first."""
        first, self.first = self.first, None
        return chain((first,), self._frames)

    def _packets(self) -> Iterator[av.Packet]:
        packets, failures = self.container.demux(self.stream), 0
        while failures < MAX_READ_ERRORS:
            try:
                packet = next(packets, None)
            except (FFmpegError, OSError):
                failures += 1
                self.damage.append(self.end)
                packets = self.container.demux(self.stream)
                continue
            if packet is None:
                return
            failures = 0
            yield packet

    def _decode(self) -> Iterator[av.VideoFrame | av.AudioFrame]:
        for packet in self._packets():
            try:
                frames = packet.decode()
            except (FFmpegError, ValueError):
                if packet.size:                              # the last, empty one only fetches what is inside
                    self.damage.append(self.end if packet.pts is None else float(packet.pts * packet.time_base))
                continue
            yield from frames

    def complaints(self, name: str) -> list[str]:
        """Sentences about what was wrong, once all frames have been read."""
        found = []
        if self.damage:
            first, last = (max(0.0, time - self.zero) for time in (min(self.damage), max(self.damage)))
            packets = "1 damaged packet" if len(self.damage) == 1 else f"{len(self.damage)} damaged packets"
            found.append(f"{name}: {packets} of the {self.noun} skipped between {first:.1f} and {last:.1f} s; "
                         "the rest was kept.")
        if self.clock.leaps:
            found.append(f"{name}: the time stamps of the {self.noun} leap (seen {self.clock.leaps} times); "
                         "the parts were joined.")
        if self.invalid_samples:
            found.append(f"{name}: {self.invalid_samples} samples of the sound are not numbers; they were silenced.")
        if self.cancelled_samples:
            found.append(f"{name}: the channels of the sound cancel each other out, as where one is the other upside down; "
                         f"the loudest one was taken alone for {self.cancelled_samples / SAMPLE_RATE:.1f} s.")
        return found

    def announced_end(self) -> float | None:
        """Where the stream's header says that it ends; None where it says nothing, or FFmpeg guesses."""
        if self.stream.duration is None or GUESSED_LENGTH & set(self.container.format.name.split(",")):
            return None
        return self.start_s + float(self.stream.duration * self.stream.time_base)


def cut_short(name: str, tracks: list[Track], duration_s: float | None) -> list[str]:
    """Sentences for tracks that end before their headers say; `duration_s` serves formats that only say it once."""
    ends = [(track.noun, track.end, track.announced_end()) for track in tracks]
    guessed = any(GUESSED_LENGTH & set(track.container.format.name.split(",")) for track in tracks)
    if tracks and duration_s is not None and not guessed and all(announced is None for _, _, announced in ends):
        ends = [("recording", max(track.end for track in tracks), duration_s)]
    return [f"{name}: the {noun} ends at {end - tracks[0].zero:.1f} s of {announced - tracks[0].zero:.1f} s: the file "
            "is cut short; what is there was kept."
            for noun, end, announced in ends if announced is not None and end < announced - CUT_SHORT]
