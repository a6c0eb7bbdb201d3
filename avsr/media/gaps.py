"""Which stretches of a recording's time its packets bear out: the demuxed packets of a file in, believable time out."""

from __future__ import annotations

from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition

from avsr.rates import VIDEO_FPS

MAX_READ_ERRORS = 500                 # in a row: a demuxer that only fails would never end
# What PyAV raises on damaged files: FFmpeg's errors, and its own where a number does not fit or a layout has no name.
DAMAGE = (FFmpegError, OSError, ValueError, MemoryError, OverflowError, RuntimeError)
GAP = 1.0                             # seconds that any frame may be held, or be late, with no further evidence
LONGEST_BLOCK = 10.0                  # seconds of sound in one packet: FLAC's largest block lasts 8 s at 8 kHz
STILL = 120.0                         # seconds of believed holes in a recording with pictures, and in one of sound alone,
SILENCE = 3600.0                      # where people who are muted send nothing
RATIO = 30.0                          # seconds of believed holes for each second that is borne out
HOLD = 60.0                           # seconds of believed holes for each picture of a recording without sound
LONGEST_RUN = 6.0                     # seconds of packets with damaged time stamps, one after another
NEAR_STRAY = 0.1                      # seconds: a frame that claims a time this near to such a packet's comes from it
SHIFTS = 8                            # leaps of one track that another may follow


def read_packets(container: av.container.InputContainer, streams: list[av.stream.Stream],
                 damaged: Callable[[], None]) -> Iterator[av.Packet]:
    """The packets of some streams to the end, in the order of the file; `damaged` is called where reading fails."""
    packets, failures = container.demux(*streams), 0
    while failures < MAX_READ_ERRORS:
        try:
            packet = next(packets, None)
        except IndexError:                                   # PyAV at the end, on a stream that appeared after opening; the
            return                                           # decoders of the streams asked for were flushed before
        except DAMAGE:
            failures += 1
            damaged()
            packets = container.demux(*streams)
            continue
        if packet is None:
            return
        failures = 0
        yield packet


class Gaps:
    """What of the time that a file claims is borne out by its packets.

    Headers and time stamps can claim any time, but work and memory must follow what is in the file. A packet bears out the
    time that it claims for itself, a picture up to GAP seconds (one that claims longer bears out 1 / VIDEO_FPS), a packet of
    sound up to LONGEST_BLOCK. A stretch of more than GAP seconds that no packet of any stream bears out is a hole. Holes are
    believed from the shortest up, power of two by power of two, as long as all believed ones together last no longer than the
    largest of

        STILL seconds, or SILENCE seconds where there is no picture,
        RATIO times what is borne out,
        HOLD seconds for each picture where there is no sound: a slide show.

    So a picture may stand for an hour over an hour of sound, and sound may begin late under pictures; 25 hours in which
    nothing lies are a broken clock. The file is gone through once, without decoding, when the first long gap is met. The
    numbers are choices: pictures of a still face cost 0.12 s of one core a second in `avsr transcribe`, silence 1.5 ms.

    shifts: seconds by which tracks were moved at the latest leaps, for the other track to follow, so that they stay together.
    """

    def __init__(self, opener: Callable[[], av.container.InputContainer]):
        self._open = opener
        self.shifts: deque[float] = deque(maxlen=SHIFTS)
        self._any_cut = False

    def unborne(self, start: float, end: float) -> float:
        """Seconds between two times that are not to be believed."""
        return max(0.0, end - start - (self._believed.before(end) - self._believed.before(start)))

    def holds(self, time: float, kind: str) -> bool:
        """Whether a time lies in a believed stretch, or within GAP of one, and is not known to be a damaged time stamp."""
        damaged = any(np.searchsorted(stream.strays, time - NEAR_STRAY) < np.searchsorted(stream.strays, time + NEAR_STRAY)
                      for stream in self._claims if stream.kind == kind)
        return not damaged and self._believed.at(time) is not None

    def holds_only(self, time: float, kind: str) -> bool:
        """Whether the believed stretch around a time, if there is one, has packets of that kind of stream alone."""
        place = self._believed.at(time)
        if place is None:
            return True
        start, end = self._believed.starts[place], self._believed.ends[place]
        return not any(np.searchsorted(stream.starts, start) < np.searchsorted(stream.starts, end, "right")
                       for stream in self._claims if stream.kind != kind)

    @property
    def end(self) -> float:
        """Where the last believed packet of any stream ends, seconds by the container's clock; 0 where there is none."""
        return float(self._believed.ends[-1]) if len(self._believed.ends) else 0.0

    @property
    def believed_s(self) -> float | None:
        """Length of the recording without the holes, seconds; None while nobody has asked, or where nothing is cut."""
        return self._believed.before(np.inf) if self._any_cut else None

    @cached_property
    def _believed(self) -> _Stretches:
        starts = np.concatenate([stream.starts for stream in self._claims] or [np.zeros(0)])
        ends = np.concatenate([stream.ends for stream in self._claims] or [np.zeros(0)])
        if not len(starts):
            return _Stretches(starts, ends)
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], np.maximum.accumulate(ends[order])
        until = max(ends[-1], *(stream.held_until for stream in self._claims))
        lengths = np.append(starts[1:], until) - ends        # of what lies between a packet and the next
        borne = float(ends[-1] - starts[0] - lengths[:-1].clip(0).sum())
        believed = _believed(lengths, _allowance(self._claims, borne))
        self._any_cut = not believed.all()
        cuts = np.flatnonzero(~believed[:-1])
        starts, ends = starts[np.append(0, cuts + 1)], ends[np.append(cuts, len(ends) - 1)]
        if believed[-1]:
            ends[-1] = until
        # One shorter than GAP is a damaged time stamp, unless it is all that there is.
        kept = (ends - starts >= GAP) | (np.arange(len(starts)) == np.argmax(ends - starts))
        return _Stretches(starts[kept], ends[kept])

    @cached_property
    def _claims(self) -> list[_Claims]:
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
            return [_claims(stream, np.array(times[stream.index]), np.array(lengths[stream.index]))
                    for stream in streams if times[stream.index]]


class _Stretches:
    """Stretches of time in order, that do not overlap: (N,) starts and ends, seconds."""

    def __init__(self, starts: np.ndarray, ends: np.ndarray):
        self.starts, self.ends = starts, ends
        self._total = np.append(0.0, np.cumsum(ends - starts))

    def before(self, time: float) -> float:
        """Seconds of them that lie before a time."""
        n = int(np.searchsorted(self.starts, time, "right"))
        return float(self._total[n]) - (max(0.0, float(self.ends[n - 1]) - time) if n else 0.0)

    def at(self, time: float) -> int | None:
        """Number of the one within which, or within GAP of which, a time lies."""
        n = int(np.searchsorted(self.starts, time + GAP, "right"))
        return n - 1 if n and time <= self.ends[n - 1] + GAP else None


@dataclass(frozen=True)
class _Claims:
    """What the packets of a stream bear out: (N,) starts and ends, seconds.

    held_until: where the last claims to end.  strays: (M,) times of packets with damaged time stamps, sorted; not among N.
    """

    kind: str
    starts: np.ndarray
    ends: np.ndarray
    held_until: float
    strays: np.ndarray


def _claims(stream: av.stream.Stream, times: np.ndarray, lengths: np.ndarray) -> _Claims:
    """times, lengths: (N,) float64 seconds, in the order of the file; a length of 0 is not known."""
    stray = _strays(times)
    strays, times, lengths = times[stray], times[~stray], lengths[~stray]
    order = np.argsort(times, kind="stable")
    times, lengths = times[order], lengths[order]
    to_next = np.append(np.diff(times), np.inf)
    claimed = np.where(lengths > 0, np.minimum(lengths, to_next), to_next)
    block_s = _block_s(stream)
    if block_s is not None:
        claimed = np.minimum(claimed, block_s)
    longest = GAP if stream.type == "video" else LONGEST_BLOCK
    bears = np.where(claimed <= longest, claimed, 1 / VIDEO_FPS)
    held_until = times[-1] + lengths[-1] if stream.type == "video" else times[-1]
    return _Claims(stream.type, times, times + bears, float(held_until), np.sort(strays))


def _strays(times: np.ndarray) -> np.ndarray:
    """(N,) bool: runs that leap ahead and then back to where the clock was, as of a damaged cluster of Matroska (up to 5 s)."""
    stray, jumps = np.zeros(len(times), bool), np.diff(times)
    back = np.flatnonzero(jumps < -GAP)
    for leap in np.flatnonzero(jumps > GAP) if len(back) else ():
        which = np.searchsorted(back, leap, "right")
        if which < len(back):
            first, last = leap + 1, back[which]
            lasted = times[last] - times[first]
            if lasted < LONGEST_RUN and abs(times[last + 1] - times[leap]) < lasted + GAP:
                stray[first: last + 1] = True
    return stray


def _block_s(stream: av.stream.Stream) -> float | None:
    """Seconds of sound in every packet where the codec fixes it, whatever the container says."""
    context = stream.codec_context
    if stream.type != "audio" or context is None or not (context.frame_size and context.sample_rate > 0):
        return None
    return context.frame_size / context.sample_rate


def _allowance(streams: list[_Claims], borne: float) -> float:
    kinds = {stream.kind for stream in streams}
    n_pictures = sum(len(stream.starts) for stream in streams if stream.kind == "video")
    return max(STILL if "video" in kinds else SILENCE, RATIO * borne, 0.0 if "audio" in kinds else HOLD * n_pictures)


def _believed(lengths: np.ndarray, allowance: float) -> np.ndarray:
    """(N,) bool: up to GAP, or among the shortest that together last no longer than allowed.

    Lengths within a power of two are believed or not together: a wrong unit of time makes many holes of about one length.
    """
    octaves = np.ceil(np.log2(lengths.clip(GAP)))
    holes = np.where(lengths > GAP, lengths, 0.0)
    order = np.argsort(octaves, kind="stable")
    totals, ordered = np.cumsum(holes[order]), octaves[order]
    together = totals[np.searchsorted(ordered, octaves, "right") - 1]        # of all in this octave and below
    return (together <= allowance) | (lengths <= GAP)
