"""Sound as one unbroken stream of 16 kHz mono from zero on, from the frames of a track."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import av
import numpy as np
from av.audio.fifo import AudioFifo

from avsr.media.gaps import DAMAGE
from avsr.media.mixdown import Mixdown
from avsr.media.streams import Track
from avsr.rates import SAMPLE_RATE

JITTER = 0.020                        # seconds by which time stamps may be off before the sound is moved
MAX_HELD = 2**22                      # samples of all channels together that wait to be converted


class _Run:
    """A stretch of sound without a break, made 16 kHz mono a second at a time (26,000 frames one by one take 2 s)."""

    def __init__(self, frame: av.AudioFrame):
        self.rate, self.n_channels = frame.sample_rate, frame.layout.nb_channels
        self.form = _form(frame)
        self.block = min(self.rate, MAX_HELD // self.n_channels)
        self.fifo = AudioFifo()
        # Packed: PyAV finds the planes of a frame by counting pointers until a null, and there is none after the eighth.
        self.resampler = av.AudioResampler("flt", frame.layout, SAMPLE_RATE)
        self.mixdown = Mixdown()
        self.n_in = self.n_out = 0

    def push(self, frame: av.AudioFrame) -> list[np.ndarray]:
        """Take a frame in; (n,) float32 comes out about once a second, several from a frame of several seconds."""
        frame.pts = None                                     # the fifo insists on counting by itself
        self.fifo.write(frame)
        self.n_in += frame.samples
        made = []
        while self.fifo.samples >= self.block:
            made.append(self._convert([self.fifo.read(min(self.fifo.samples, 2 * self.block))]))
        return made

    def finish(self) -> list[np.ndarray]:
        """What is still inside."""
        last = self.fifo.read()
        rest = self._convert([None] if last is None else [last, None])
        return [rest[: max(0, round(self.n_in * SAMPLE_RATE / self.rate) - self.n_out + len(rest))]]

    def _convert(self, frames: Iterable[av.AudioFrame | None]) -> np.ndarray:
        made = [out.to_ndarray() for frame in frames for out in self.resampler.resample(frame)]
        packed = np.concatenate(made, axis=1) if made else np.zeros((1, 0), np.float32)
        samples = self.mixdown(np.ascontiguousarray(packed.reshape(-1, self.n_channels).T))
        self.n_out += len(samples)
        return samples


def _form(frame: av.AudioFrame) -> tuple:
    return frame.format.name, frame.layout.name, frame.sample_rate


def runs(track: Track) -> Iterator[tuple[float | None, np.ndarray]]:
    """(seconds since zero, or None where it goes on from the last, (n,) float32). What cannot be converted is left out."""
    clock, run, start = track.clock, None, None
    jitter = max(JITTER, float(track.stream.time_base or 0))
    for frame, time in track.frames():
        if not frame.samples:
            continue
        if run is None or abs(time - clock.due) > jitter or run.form != _form(frame):
            for samples in _finish(track, run):
                yield start, samples
                start = None
            run, start, clock.due = _Run(frame), time - track.zero, time
        clock.due += frame.samples / frame.sample_rate
        track.end = clock.due
        made = _convert(track, run.push, frame)
        for samples in made or []:
            yield start, samples
            start = None
        if made is None:
            run = None
    for samples in _finish(track, run):
        yield start, samples
        start = None


def _finish(track: Track, run: _Run | None) -> list[np.ndarray]:
    """What is still inside a run, finite."""
    if run is None:
        return []
    samples = _convert(track, run.finish) or []
    track.cancelled_samples += run.mixdown.n_cancelled
    return samples


def _convert(track: Track, convert: Callable[..., list[np.ndarray]], *frame: av.AudioFrame) -> list[np.ndarray] | None:
    """What a run gives, finite; None where it fails, which is counted."""
    try:
        return [_numbers_only(samples, track) for samples in convert(*frame)]
    except DAMAGE:
        track.damaged()
        return None


def _numbers_only(samples: np.ndarray, track: Track) -> np.ndarray:
    """Zero for NaN and infinity; resampling spreads them over a millisecond, not further."""
    finite = np.isfinite(samples)
    if finite.all():
        return samples
    track.invalid_samples += int(len(samples) - finite.sum())
    return np.where(finite, samples, np.float32(0))


def lay_out(runs: Iterator[tuple[float | None, np.ndarray]]) -> Iterator[np.ndarray]:
    """Sound from zero on as one stream: silence in the gaps, and of what overlaps the later is dropped."""
    end = overlap = 0
    for start_s, samples in runs:
        if start_s is not None:
            gap = round(start_s * SAMPLE_RATE) - end
            overlap = max(0, -gap)
            while gap > 0:
                silence = np.zeros(min(gap, SAMPLE_RATE), np.float32)
                yield silence
                end, gap = end + len(silence), gap - len(silence)
        dropped = min(overlap, len(samples))
        overlap -= dropped
        end += len(samples) - dropped
        yield samples[dropped:]


def in_pieces(chunks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same samples in arrays of `size`, the last one shorter."""
    held, n = [], 0
    for chunk in chunks:
        held.append(chunk)
        n += len(chunk)
        if n < size:
            continue
        whole = np.concatenate(held)
        yield from (whole[i: i + size] for i in range(0, n - size + 1, size))
        held = [whole[n - n % size:]]
        n %= size
    if n:
        yield np.concatenate(held)
