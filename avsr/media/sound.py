"""Sound as one unbroken stream of 16 kHz mono from zero on, from the frames of a track."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import av
import numpy as np
from av.audio.fifo import AudioFifo

from avsr.media.mixdown import Mixdown
from avsr.media.streams import Track
from avsr.rates import SAMPLE_RATE

JITTER = 0.020                        # seconds by which time stamps may be off before the sound is moved


class _Run:
    """A stretch of sound without a break, made 16 kHz mono a second at a time (26,000 frames one by one take 2 s)."""

    def __init__(self, frame: av.AudioFrame):
        self.rate = frame.sample_rate
        self.form = _form(frame)
        self.fifo = AudioFifo()
        self.resampler = av.AudioResampler("fltp", frame.layout, SAMPLE_RATE)
        self.mixdown = Mixdown()
        self.n_in = self.n_out = 0

    def push(self, frame: av.AudioFrame) -> np.ndarray | None:
        """Take a frame in; (n,) float32 comes out about once a second."""
        frame.pts = None                                     # the fifo insists on counting by itself
        self.fifo.write(frame)
        self.n_in += frame.samples
        return self._convert([self.fifo.read()]) if self.fifo.samples >= self.rate else None

    def finish(self) -> np.ndarray:
        """What is still inside."""
        last = self.fifo.read()
        rest = self._convert([None] if last is None else [last, None])
        return rest[: max(0, round(self.n_in * SAMPLE_RATE / self.rate) - self.n_out + len(rest))]

    def _convert(self, frames: Iterable[av.AudioFrame | None]) -> np.ndarray:
        made = [out.to_ndarray() for frame in frames for out in self.resampler.resample(frame)]
        samples = self.mixdown(np.concatenate(made, axis=1)) if made else np.zeros(0, np.float32)
        self.n_out += len(samples)
        return samples


def _form(frame: av.AudioFrame) -> tuple:
    return frame.format.name, frame.layout.name, frame.sample_rate


def runs(track: Track) -> Iterator[tuple[float | None, np.ndarray]]:
    """(seconds since zero, or None where it goes on from the last, (n,) float32)."""
    clock, run, start = track.clock, None, None
    for frame in track.frames():
        if not (frame.samples and frame.sample_rate):
            continue
        due, time = clock.due, clock.place(frame.time)
        if run is None or abs(time - due) > JITTER or run.form != _form(frame):
            if run is not None:
                yield start, _numbers_only(run.finish(), track)
                track.cancelled_samples += run.mixdown.n_cancelled
            run, start, clock.due = _Run(frame), time - track.zero, time
        clock.due += frame.samples / frame.sample_rate
        track.end = clock.due
        samples = run.push(frame)
        if samples is not None:
            yield start, _numbers_only(samples, track)
            start = None
    if run is not None:
        yield start, _numbers_only(run.finish(), track)
        track.cancelled_samples += run.mixdown.n_cancelled


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
