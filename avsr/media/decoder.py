"""From a source to decoded frames with corrected times; what is damaged is counted and left out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Stream

from avsr.errors import BadMedia
from avsr.media.source import mistaken_for_recording, reopenable, source_name
from avsr.media.timestamps import DECODE_ERRORS, MAX_GAP_S, PacketCoverage, PtsCorrector, read_packets
from avsr.rates import SAMPLE_RATE

NEAR = 10.0                           # seconds from what was read last, within which a damaged packet may say where it lies
CUT_SHORT = 0.5                       # seconds missing at the end before it is worth a word
MIN_RATE, MAX_RATE = 1_000, 6_000_000 # samples a second: below the first there is no speech, DSD1024 is below the second
MAX_CHANNELS = 64                     # of libswresample
MAX_PIXELS = 80_000_000               # of a picture: 12K; a decoder may hold a dozen of them, 120 MB each
ONE_THREAD = 300_000                  # pixels of a picture up to which it is decoded by one thread: more cost 14 % at 360x288
NOT_RECORDINGS = {"tty", "image2", "lavfi", "hls", "concat", "dash", "imf", "webm_dash_manifest", "sdp", "rtp",
                  "rtsp", "sap"}
GUESSED_LENGTH = {"mp3", "aac", "ac3", "eac3", "loas", "h264", "hevc", "mpegvideo", "m4v", "mpeg", "mpegts"}
NOUNS = {"video": "picture", "audio": "sound"}


class _SharedFile:
    """A file that several readers share, each with a position of its own."""

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
    """Opens a source as often as asked, each time with a position of its own. Raises BadMedia, also when it is made.

    A source that can be read only once, or lies at an address, is copied first; `close` deletes the copy.
    """

    def __init__(self, source: str | Path | bytes | BinaryIO):
        self._copies = ExitStack()
        self.path: Path | None = None
        self.name = source_name(source)
        source = self._copies.enter_context(reopenable(source))
        if isinstance(source, str | Path):
            self.path = Path(source)
            size = self._size_of(self.path)
        else:
            self.file = BytesIO(source) if isinstance(source, bytes) else source
            size = self.file.seek(0, os.SEEK_END)
        if size == 0:
            raise BadMedia(f"{self.name}: the file is empty (0 bytes).  Copy or download it again.")

    def close(self) -> None:
        """Delete what was copied."""
        self._copies.close()

    def _size_of(self, path: Path) -> int:
        try:
            if path.is_dir():
                raise BadMedia(f"{path}: this is a folder, not a recording.  Name the files in it.")
            return path.stat().st_size
        except PermissionError as error:
            raise self._forbidden() from error
        except (OSError, ValueError) as error:               # ValueError: a null character in the name
            raise BadMedia(f"{path}: no such file.  Check the path for typing mistakes.") from error

    def _forbidden(self) -> BadMedia:
        return BadMedia(f"{self.name}: this user may not read the file.  Change its permissions, or copy it.")

    def _begin(self) -> bytes:
        """The first bytes, none where they cannot be read."""
        with suppress(OSError, ValueError, TypeError):
            if self.path is None:
                return bytes(_SharedFile(self.file).read(512))
            with self.path.open("rb") as file:
                return file.read(512)
        return b""

    def open(self) -> InputContainer:
        """A fresh demuxer at the start of the source. The caller closes it."""
        # "file:" keeps a colon in a name from being a protocol.
        file = _SharedFile(self.file) if self.path is None else f"file:{self.path}"
        try:
            return av.open(file, mode="r", metadata_errors="ignore", options=open_options())
        except PermissionError as error:
            raise self._forbidden() from error
        except (FFmpegError, OSError, ValueError, TypeError) as error:       # TypeError: a file in text mode
            raise unreadable(self.name, self._begin(), error) from error


def open_options() -> dict[str, str]:
    """FFmpeg's options for opening what others made.

    The white lists keep out text drawn as pictures, still pictures and play lists: those open other files, go to the net, or
    wait for ever for what is to come.
    """
    formats = {name for name in av.formats_available if not name.endswith("_pipe")} - NOT_RECORDINGS
    return {"protocol_whitelist": "file", "format_whitelist": ",".join(formats)}


def unreadable(name: str, begins: bytes, error: Exception) -> BadMedia:
    """The error for a recording that cannot be opened. begins: its first bytes."""
    mistaken = mistaken_for_recording(begins)
    if mistaken is not None:
        return BadMedia(f"{name}: this is {mistaken[0]}, not a recording.  {mistaken[1]}")
    reason = getattr(error, "strerror", None) or str(error)
    return BadMedia(f"{name}: this cannot be read as a recording ({reason}).  Give a sound or video file; "
                    "if a player does not open it either, get it again.")


class StreamDecoder:
    """Decodes one stream, in a container of its own, and counts what was damaged.

    first: the first frame that decodes, None when none does; `failure` then says why. start_s: its time by the container's
    clock, seconds. zero: the recording's zero by that clock. end: when the frames read so far end by it; whoever takes
    `frames` updates it, and `pts.due`. invalid_samples: samples of sound that were no number. cancelled_samples: samples of
    mono sound at SAMPLE_RATE that were taken from one channel because the channels cancel each other out.
    """

    def __init__(self, container: InputContainer, stream: Stream):
        self.container, self.stream = container, stream
        self.noun = NOUNS[stream.type]
        self.codec = stream.codec_context.name if stream.codec_context else "unknown codec"
        self.failure = f"nothing of its {self.noun} can be decoded ({self.codec})"
        self.damage: list[float] = []                        # times of packets that could not be decoded, seconds
        self.invalid_samples = self.cancelled_samples = 0
        self._pts: PtsCorrector | None = None
        self.end = self.zero = 0.0
        if stream.codec_context:
            self.failure = prepare_decoder(stream) or self.failure
        self._frames = self._decode() if stream.codec_context else iter(())
        self.first = next(self._frames, None)
        claimed = None if self.first is None else self._claimed(self.first)
        self.start_s = header_start(stream) or 0.0 if claimed is None else claimed

    @property
    def pts(self) -> PtsCorrector:
        """What corrects the times of the frames; there is none before `set_zero`."""
        assert self._pts is not None
        return self._pts

    def set_zero(self, zero: float, coverage: PacketCoverage) -> None:
        """Set the time by the container's clock that is zero, and what tells which times can be trusted."""
        assert self.first is not None
        self.zero = zero
        self._pts = PtsCorrector(zero, coverage, self.stream.type)
        late = self.start_s > zero + MAX_GAP_S and coverage.uncovered(zero, self.start_s) > MAX_GAP_S
        if late and coverage.covers_only(self.start_s, self.stream.type):
            self.pts.restart_at(self.start_s)
        if self._claimed(self.first) is None:
            self.pts.due = self.pts.correct(self.start_s)

    def frames(self) -> Iterator[tuple[av.VideoFrame | av.AudioFrame, float]]:
        """Every decoded frame with the time at which it starts, seconds by the container's clock. Can be called once.

        Whoever takes a frame sets `pts.due`, the time of the next one, before taking that.
        """
        frame, self.first = self.first, None
        while frame is not None:
            following = next(self._frames, None)
            yield frame, self.pts.correct(self._claimed(frame), None if following is None else self._claimed(following))
            frame = following

    def count_damage(self, time: float | None = None) -> None:
        """Count a packet that could not be read, decoded or converted. time: what it claims, by the container's clock."""
        placed = time if time is None or self._pts is None else time + self._pts.offset
        known = placed is not None and (self._pts is None or abs(placed - self.end) < NEAR)
        self.damage.append(placed if placed is not None and known else self.end)

    def _claimed(self, frame: av.VideoFrame | av.AudioFrame) -> float | None:
        """The PTS of a frame, seconds; None where it has none, or the stream has no unit of time."""
        return None if self.stream.time_base is None or frame.time is None else frame.time

    def _decode(self) -> Iterator[av.VideoFrame | av.AudioFrame]:
        for packet in read_packets(self.container, [self.stream], self.count_damage):
            try:
                frames = packet.decode()
            except DECODE_ERRORS:
                if packet.size:                              # the last, empty one only fetches what is inside
                    pts, unit = packet.pts, packet.time_base
                    self.count_damage(None if pts is None or not unit else float(pts * unit))
                continue
            for frame in frames:
                failure = why_unusable(frame)
                if failure is None:
                    yield frame
                else:
                    self.failure = failure
                    self.count_damage()

    def problems(self, name: str) -> list[str]:
        """Sentences about what was wrong; complete once all frames have been read."""
        found = []
        if self.damage:
            first, last = (max(0.0, time - self.zero) for time in (min(self.damage), max(self.damage)))
            packets = "1 damaged packet" if len(self.damage) == 1 else f"{len(self.damage)} damaged packets"
            found.append(f"{name}: {packets} of the {self.noun} skipped between {first:.1f} and {last:.1f} s; "
                         "the rest was kept.")
        if self.pts.n_jumps:
            times = "once" if self.pts.n_jumps == 1 else f"{self.pts.n_jumps} times"
            found.append(f"{name}: the time stamps of the {self.noun} leap {times}, by {self.pts.jumped_s:.0f} s in all, "
                         "which the packets do not bear out; the parts were joined.")
        if self.invalid_samples:
            found.append(f"{name}: {self.invalid_samples} samples of the sound are not numbers; they were silenced.")
        if self.cancelled_samples:
            found.append(f"{name}: the channels of the sound cancel each other out, as where one is the other upside down; "
                         f"the loudest one was taken alone for {self.cancelled_samples / SAMPLE_RATE:.1f} s.")
        return found

    def announced_end(self) -> float | None:
        """When the stream ends by its header; None where that says nothing, or FFmpeg guesses.

        Where a stream of Matroska starts late, FFmpeg puts the length of the whole file from there on.
        """
        stream, container = self.stream, self.container
        if stream.duration is None or stream.time_base is None or _guessed(container):
            return None
        end = self.start_s + float(stream.duration * stream.time_base)
        whole = None if container.duration is None else ((container.start_time or 0) + container.duration) / 1e6
        return None if whole is not None and end > whole + CUT_SHORT else end


def header_start(stream: Stream) -> float | None:
    """Start of a stream by its header, seconds; None where it says nothing."""
    if stream.start_time is None or stream.time_base is None:
        return None
    return float(stream.start_time * stream.time_base)


def prepare_decoder(stream: Stream) -> str | None:
    """Set what must be set before the first packet is decoded. Returns the reason in case nothing can be decoded."""
    if stream.type == "video":
        context = cast(av.VideoStream, stream).codec_context
        context.thread_type = "AUTO" if context.width * context.height > ONE_THREAD else "NONE"
        context.options = {"max_pixels": str(MAX_PIXELS)}
        if context.width * context.height > MAX_PIXELS:
            return f"its picture claims {context.width:,} x {context.height:,} pixels, and up to {MAX_PIXELS:,} can be read"
    else:
        context = cast(av.AudioStream, stream).codec_context
        layout = context.layout
        if "(" in layout.name:
            # PyAV 18 frees a layout of its own order ("2 channels (FR+FL)", of QuickTime and CAF) once for the frame and
            # once for its description, and the process ends. The channels are averaged, so their names do not matter.
            context.layout = f"{layout.nb_channels} channels"
    return None


def why_unusable(frame: av.VideoFrame | av.AudioFrame) -> str | None:
    """Why a decoded frame cannot be used, as a part of a sentence; None where nothing is wrong."""
    if isinstance(frame, av.VideoFrame):
        return None
    if not MIN_RATE <= frame.sample_rate <= MAX_RATE:
        return f"its sound claims a rate of {frame.sample_rate:,} Hz, and {MIN_RATE:,} to {MAX_RATE:,} Hz can be read"
    n_channels = frame.layout.nb_channels
    if not 1 <= n_channels <= MAX_CHANNELS:
        return f"its sound claims {n_channels} channels, and 1 to {MAX_CHANNELS} can be read"
    return None


def _guessed(container: InputContainer) -> bool:
    return bool(GUESSED_LENGTH & set(container.format.name.split(",")))


def truncations(name: str, decoders: list[StreamDecoder], duration_s: float | None) -> list[str]:
    """Sentences about streams that end before their headers say; `duration_s` serves formats that only say it once.

    Where time stamps jump, the announced end is by a wrong clock, and nothing is said. A stream that was not wanted may go on
    longer than those that were read; the packets tell that.
    """
    ends = [(decoder.noun, decoder.end, decoder.announced_end()) for decoder in decoders if not decoder.pts.n_jumps]
    guessed = any(_guessed(decoder.container) or decoder.pts.n_jumps for decoder in decoders)
    if decoders and duration_s is not None and not guessed and all(announced is None for _, _, announced in ends):
        end = max(decoder.end for decoder in decoders)
        if end < duration_s - CUT_SHORT:
            end = max(end, decoders[0].pts.coverage.end)
        ends = [("recording", end, duration_s)]
    return [f"{name}: the {noun} ends at {end - decoders[0].zero:.1f} s of {announced - decoders[0].zero:.1f} s: the file "
            "is cut short; what is there was kept."
            for noun, end, announced in ends if announced is not None and end < announced - CUT_SHORT]
