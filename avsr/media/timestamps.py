"""Time stamps (PTS) that may be wrong: which stretches of time the packets of a file cover, and corrected times of frames.

    demuxed packets -> PacketCoverage;  PTS of decoded frames -> PtsCorrector -> times
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition, Stream

from avsr.rates import VIDEO_FPS

MAX_READ_ERRORS = 500                 # in a row: a demuxer that only fails would never end
# What PyAV raises on damaged files: FFmpeg's errors, and its own where a number does not fit or a layout has no name.
DECODE_ERRORS = (FFmpegError, OSError, ValueError, MemoryError, OverflowError, RuntimeError)
MAX_GAP_S = 1.0                       # seconds that any frame may last, or be late, with no further evidence
MAX_BACK_S = 1.0                      # seconds by which a frame may lie before the time at which it is due
LONGEST_BLOCK_S = 10.0                # seconds of sound in one packet: FLAC's largest block lasts 8 s at 8 kHz
STILL_S = 120.0                       # seconds of accepted holes in a recording with pictures, and in one of sound alone,
SILENCE_S = 3600.0                    # where people who are muted send nothing
HOLES_TO_COVERED = 30.0               # seconds of accepted holes for each second that packets cover
SLIDE_S = 60.0                        # seconds of accepted holes for each picture of a recording without sound
LONGEST_OUTLIERS_S = 6.0              # seconds of packets with damaged time stamps, one after another
NEAR_OUTLIER_S = 0.1                  # a frame that claims a time this near to such a packet's comes from it
N_OFFSETS = 8                         # jumps of one stream that another may follow


def read_packets(container: InputContainer, streams: list[Stream], damaged: Callable[[], None]) -> Iterator[av.Packet]:
    """The packets of some streams to the end, in the order of the file; `damaged` is called where reading fails."""
    packets, failures = container.demux(*streams), 0
    while failures < MAX_READ_ERRORS:
        try:
            packet = next(packets, None)
        except IndexError:                                   # PyAV at the end, on a stream that appeared after opening; the
            return                                           # decoders of the streams asked for were flushed before
        except DECODE_ERRORS:
            failures += 1
            damaged()
            packets = container.demux(*streams)
            continue
        if packet is None:
            return
        failures = 0
        yield packet


class PacketCoverage:
    """Which stretches of the time that a file claims are covered by its packets.

    Headers and time stamps can claim any time, but work and memory must follow what is in the file. A packet covers the time
    that it claims for itself, a picture up to MAX_GAP_S (one that claims longer covers 1 / VIDEO_FPS), a packet of sound up to
    LONGEST_BLOCK_S. A stretch of more than MAX_GAP_S that no packet of any stream covers is a hole. Holes are accepted from the
    shortest up, power of two by power of two, as long as all accepted ones together last no longer than the largest of

        STILL_S, or SILENCE_S where there is no picture,
        HOLES_TO_COVERED times what is covered,
        SLIDE_S for each picture where there is no sound: a slide show.

    So a picture may stand for an hour over an hour of sound, and sound may begin late under pictures, but 25 empty hours come
    from a broken clock. The packets are read once, without decoding, when the first long gap is met. The numbers are choices:
    pictures of a still face cost 0.12 s of one core a second in `avsr transcribe`, silence 1.5 ms.

    offsets: seconds by which streams were moved at the latest jumps, for the other stream to follow, so that they stay in step.
    """

    def __init__(self, opener: Callable[[], InputContainer]):
        self._open = opener
        self.offsets: deque[float] = deque(maxlen=N_OFFSETS)
        self._any_cut = False

    def uncovered(self, start: float, end: float) -> float:
        """Seconds between two times that are neither covered nor in an accepted hole."""
        return max(0.0, end - start - (self._accepted.before(end) - self._accepted.before(start)))

    def covers(self, time: float, kind: str) -> bool:
        """Whether a time lies in an accepted stretch, or within MAX_GAP_S of one, and is not known as a damaged time stamp."""
        low, high = time - NEAR_OUTLIER_S, time + NEAR_OUTLIER_S
        damaged = any(np.searchsorted(spans.outliers, low) < np.searchsorted(spans.outliers, high)
                      for spans in self._spans if spans.kind == kind)
        return not damaged and self._accepted.at(time) is not None

    def covers_only(self, time: float, kind: str) -> bool:
        """Whether the accepted stretch around a time, if there is one, has packets of that kind of stream alone."""
        place = self._accepted.at(time)
        if place is None:
            return True
        start, end = self._accepted.starts[place], self._accepted.ends[place]
        return not any(np.searchsorted(spans.starts, start) < np.searchsorted(spans.starts, end, "right")
                       for spans in self._spans if spans.kind != kind)

    @property
    def end(self) -> float:
        """The end of the last accepted packet of any stream, seconds by the container's clock; 0 where there is none."""
        return float(self._accepted.ends[-1]) if len(self._accepted.ends) else 0.0

    @property
    def accepted_s(self) -> float | None:
        """The length of the recording without the rejected holes, seconds; None while it was not needed, or nothing is cut."""
        return self._accepted.before(np.inf) if self._any_cut else None

    @cached_property
    def _accepted(self) -> _Intervals:
        starts = np.concatenate([spans.starts for spans in self._spans] or [np.zeros(0)])
        ends = np.concatenate([spans.ends for spans in self._spans] or [np.zeros(0)])
        if not len(starts):
            return _Intervals(starts, ends)
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], np.maximum.accumulate(ends[order])
        until = max(ends[-1], *(spans.held_until for spans in self._spans))
        lengths = np.append(starts[1:], until) - ends        # of the time between a packet and the next
        covered = float(ends[-1] - starts[0] - lengths[:-1].clip(0).sum())
        accepted = _accepted_holes(lengths, _allowance(self._spans, covered))
        self._any_cut = not accepted.all()
        cuts = np.flatnonzero(~accepted[:-1])
        starts, ends = starts[np.append(0, cuts + 1)], ends[np.append(cuts, len(ends) - 1)]
        if accepted[-1]:
            ends[-1] = until
        # One shorter than MAX_GAP_S is a damaged time stamp, unless it is all that there is.
        kept = (ends - starts >= MAX_GAP_S) | (np.arange(len(starts)) == np.argmax(ends - starts))
        return _Intervals(starts[kept], ends[kept])

    @cached_property
    def _spans(self) -> list[_PacketSpans]:
        times, lengths = defaultdict(lambda: array("d")), defaultdict(lambda: array("d"))
        with self._open() as container:
            streams = [stream for stream in container.streams if stream.type in ("video", "audio") and stream.time_base
                       and not stream.disposition & Disposition.attached_pic]
            for packet in read_packets(container, streams, lambda: None) if streams else ():
                time = packet.dts if packet.pts is None else packet.pts
                if time is not None and packet.size:
                    base = packet.stream.time_base
                    times[packet.stream_index].append(float(time * base))
                    lengths[packet.stream_index].append(float((packet.duration or 0) * base))
            return [_packet_spans(stream, np.array(times[stream.index]), np.array(lengths[stream.index]))
                    for stream in streams if times[stream.index]]


class PtsCorrector:
    """Corrects the PTS of the frames of one stream: missing ones are filled in, jumps that nothing confirms are taken out.

    A frame up to MAX_BACK_S before or MAX_GAP_S after the time at which it is due is trusted, one further ahead if `coverage`
    confirms it. Any other is a jump. If the frame after it is on time, its time stamp alone is wrong, and it follows the last;
    otherwise what nothing confirms is cut out, or the recording simply goes on from here.

    kind: of the stream, video or audio. due: when the next frame should start, seconds; the caller sets it after each frame.
    offset: seconds added to PTS at present. n_jumps: how many jumps were met. jumped_s: how far they went in all.
    """

    def __init__(self, due: float, coverage: PacketCoverage, kind: str):
        self.due, self.coverage, self.kind = due, coverage, kind
        self.offset = self.jumped_s = 0.0
        self.n_jumps = 0

    def correct(self, time: float | None, following: float | None = None) -> float:
        """The time of a frame with PTS `time`, seconds; None where it has none. following: the PTS of the frame after it."""
        if time is None or not math.isfinite(time):
            return self.due
        if following is not None and self._is_near(following, self.offset) and not self._is_near(time, self.offset):
            self.n_jumps += 1
            self.jumped_s += abs(self._ahead(time, self.offset))
            return self.due
        offset = self._nearest(time, [offset for offset in (self.offset, 0.0) if self._trusts(time, offset)])
        if offset is None:
            offset = self._jump(time)
        self.offset = offset
        return time + offset

    def restart_at(self, time: float) -> None:
        """Let a frame with PTS `time` be the one that is due."""
        self._count(self.due - time)

    def trusted_length(self, time: float, length: float) -> float:
        """How much of `length` seconds a frame at the corrected `time` may last: up to MAX_GAP_S, or what packets cover."""
        if length <= MAX_GAP_S:
            return max(0.0, length)
        claimed = time - self.offset
        return max(1 / VIDEO_FPS, length - self.coverage.uncovered(claimed, claimed + length))

    def _nearest(self, time: float, offsets: list[float]) -> float | None:
        return min(offsets, key=lambda offset: abs(time + offset - self.due), default=None)

    def _ahead(self, time: float, offset: float) -> float:
        return time + offset - self.due

    def _is_near(self, time: float, offset: float) -> bool:
        return -MAX_BACK_S < self._ahead(time, offset) <= MAX_GAP_S

    def _trusts(self, time: float, offset: float) -> bool:
        if self._ahead(time, offset) <= MAX_GAP_S:
            return self._is_near(time, offset)
        return self.coverage.covers(time, self.kind) and self.coverage.uncovered(self.due - offset, time) <= MAX_GAP_S

    def _jump(self, time: float) -> float:
        """The offset by which the recording goes on: the other stream's, or one that cuts what nothing covers, or none."""
        near = [offset for offset in self.coverage.offsets if self._is_near(time, offset)]
        offset = self._nearest(time, near)
        if offset is None and self._ahead(time, self.offset) > 0 and self.coverage.covers(time, self.kind):
            offset = self.offset - self.coverage.uncovered(self.due - self.offset, time)
        if offset is None or self._ahead(time, offset) <= -MAX_BACK_S:
            offset = self.due - time
        self._count(offset)
        return offset

    def _count(self, offset: float) -> None:
        self.n_jumps += 1
        self.jumped_s += abs(offset - self.offset)
        self.offset = offset
        if offset not in self.coverage.offsets:
            self.coverage.offsets.append(offset)


class _Intervals:
    """Stretches of time in order that do not overlap: (N,) starts and ends, seconds."""

    def __init__(self, starts: np.ndarray, ends: np.ndarray):
        self.starts, self.ends = starts, ends
        self._total = np.append(0.0, np.cumsum(ends - starts))

    def before(self, time: float) -> float:
        """Seconds of them that lie before a time."""
        n = int(np.searchsorted(self.starts, time, "right"))
        return float(self._total[n]) - (max(0.0, float(self.ends[n - 1]) - time) if n else 0.0)

    def at(self, time: float) -> int | None:
        """The number of the one within which, or within MAX_GAP_S of which, a time lies."""
        n = int(np.searchsorted(self.starts, time + MAX_GAP_S, "right"))
        return n - 1 if n and time <= self.ends[n - 1] + MAX_GAP_S else None


@dataclass(frozen=True)
class _PacketSpans:
    """What the packets of a stream cover: (N,) starts and ends, seconds.

    held_until: when the last claims to end. outliers: (M,) times of packets with damaged time stamps, sorted; not among N.
    """

    kind: str
    starts: np.ndarray
    ends: np.ndarray
    held_until: float
    outliers: np.ndarray


def _packet_spans(stream: Stream, times: np.ndarray, lengths: np.ndarray) -> _PacketSpans:
    """times, lengths: (N,) float64 seconds, in the order of the file; a length of 0 is not known."""
    outlier = _outliers(times)
    outliers, times, lengths = times[outlier], times[~outlier], lengths[~outlier]
    order = np.argsort(times, kind="stable")
    times, lengths = times[order], lengths[order]
    to_next = np.append(np.diff(times), np.inf)
    claimed = np.where(lengths > 0, np.minimum(lengths, to_next), to_next)
    block_s = _block_s(stream)
    if block_s is not None:
        claimed = np.minimum(claimed, block_s)
    longest = MAX_GAP_S if stream.type == "video" else LONGEST_BLOCK_S
    covered = np.where(claimed <= longest, claimed, 1 / VIDEO_FPS)
    held_until = times[-1] + lengths[-1] if stream.type == "video" else times[-1]
    return _PacketSpans(stream.type, times, times + covered, float(held_until), np.sort(outliers))


def _outliers(times: np.ndarray) -> np.ndarray:
    """(N,) bool: runs that jump ahead and then back to where the clock was, as of a damaged cluster of Matroska (up to 5 s)."""
    outlier, jumps = np.zeros(len(times), bool), np.diff(times)
    back = np.flatnonzero(jumps < -MAX_GAP_S)
    for jump in np.flatnonzero(jumps > MAX_GAP_S) if len(back) else ():
        which = np.searchsorted(back, jump, "right")
        if which < len(back):
            first, last = jump + 1, back[which]
            lasted = times[last] - times[first]
            if lasted < LONGEST_OUTLIERS_S and abs(times[last + 1] - times[jump]) < lasted + MAX_GAP_S:
                outlier[first: last + 1] = True
    return outlier


def _block_s(stream: Stream) -> float | None:
    """Seconds of sound in every packet where the codec fixes it, whatever the container says."""
    context = cast(av.AudioStream, stream).codec_context
    if stream.type != "audio" or context is None or not (context.frame_size and context.sample_rate > 0):
        return None
    return context.frame_size / context.sample_rate


def _allowance(streams: list[_PacketSpans], covered: float) -> float:
    """Seconds that all accepted holes together may last."""
    kinds = {stream.kind for stream in streams}
    n_pictures = sum(len(stream.starts) for stream in streams if stream.kind == "video")
    return max(STILL_S if "video" in kinds else SILENCE_S, HOLES_TO_COVERED * covered,
               0.0 if "audio" in kinds else SLIDE_S * n_pictures)


def _accepted_holes(lengths: np.ndarray, allowance: float) -> np.ndarray:
    """(N,) bool: True for lengths up to MAX_GAP_S, and for the shortest that together last no longer than allowed.

    Lengths within a power of two are accepted or not together: a wrong unit of time makes many holes of about one length.
    """
    octaves = np.ceil(np.log2(lengths.clip(MAX_GAP_S)))
    holes = np.where(lengths > MAX_GAP_S, lengths, 0.0)
    order = np.argsort(octaves, kind="stable")
    totals, ordered = np.cumsum(holes[order]), octaves[order]
    together = totals[np.searchsorted(ordered, octaves, "right") - 1]        # of all in this octave and below
    return (together <= allowance) | (lengths <= MAX_GAP_S)
