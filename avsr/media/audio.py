"""Sound as one unbroken stream of 16 kHz mono from time zero on, from the frames of a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import cast

import av
import numpy as np
from av.audio.fifo import AudioFifo

from avsr.media.decoder import StreamDecoder
from avsr.media.timestamps import DECODE_ERRORS
from avsr.rates import SAMPLE_RATE

JITTER = 0.020                        # seconds by which time stamps may be off before the sound is moved
MAX_HELD = 2**22                      # samples of all channels together that wait to be converted
# Share of the power that the mean of as many independent channels would have, below which they cancel each other out. A
# balanced cable with one plug turned round, or an effect for width, gives left = -right and a share of 0. Of the stereo
# recordings at hand, nine of them wild, none comes below 1.4 in any second; a voice in one of 64 channels has 1.
CANCELLED = 0.05
LOUDER = 2.0                          # a channel replaces the one that was taken if its power is so many times larger


class Downmixer:
    """Mixes the channels of a stretch of sound to one, block by block: their mean, or one where they cancel each other out.

    n_cancelled: samples that were taken from one channel in place of the mean.
    """

    def __init__(self):
        self.n_cancelled = 0
        self._channel: int | None = None

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Samples (C, n) float32 of about a second -> (n,) float32."""
        mean = samples.mean(axis=0)
        if len(samples) < 2 or not len(mean):
            return mean
        powers = np.square(samples, dtype=np.float64).mean(axis=1)
        independent = powers.sum() / len(samples) ** 2
        if not np.square(mean, dtype=np.float64).mean() < CANCELLED * independent:      # also where it is no number
            return mean
        if self._channel is None or powers.max() > LOUDER * powers[self._channel]:
            self._channel = int(powers.argmax())            # kept: a change between left and -left would be heard
        self.n_cancelled += len(mean)
        return samples[self._channel]


class Resampler:
    """Makes a stretch of sound without a break 16 kHz mono, a second at a time: 26,000 frames one by one would take 2 s.

    frame: the first one, which tells the form of all. block_s: seconds of sound that are converted at a time.
    """

    def __init__(self, frame: av.AudioFrame, block_s: float = 1.0):
        self.rate, self.n_channels = frame.sample_rate, frame.layout.nb_channels
        self.form = form_of(frame)
        self.block = min(max(1, round(self.rate * block_s)), MAX_HELD // self.n_channels)
        self.fifo = AudioFifo()
        # Packed: PyAV finds the planes of a frame by counting pointers until a null, and there is none after the eighth.
        self.resampler = av.AudioResampler("flt", frame.layout, SAMPLE_RATE)
        self.downmix = Downmixer()
        self.n_in = self.n_out = 0

    def push(self, frame: av.AudioFrame) -> list[np.ndarray]:
        """Take a frame in; (n,) float32 comes out about once a block, several from a frame of several blocks."""
        frame.pts = None                                     # the fifo insists on counting by itself
        self.fifo.write(frame)
        self.n_in += frame.samples
        made = []
        while self.fifo.samples >= self.block:
            made.append(self._convert([self.fifo.read(min(self.fifo.samples, 2 * self.block))]))
        return made

    def finish(self) -> list[np.ndarray]:
        """The sound that is still inside."""
        last = self.fifo.read()
        rest = self._convert([None] if last is None else [last, None])
        return [rest[: max(0, round(self.n_in * SAMPLE_RATE / self.rate) - self.n_out + len(rest))]]

    def _convert(self, frames: Iterable[av.AudioFrame | None]) -> np.ndarray:
        made = [out.to_ndarray() for frame in frames for out in self.resampler.resample(frame)]
        packed = np.concatenate(made, axis=1) if made else np.zeros((1, 0), np.float32)
        samples = self.downmix(np.ascontiguousarray(packed.reshape(-1, self.n_channels).T))
        self.n_out += len(samples)
        return samples


def form_of(frame: av.AudioFrame) -> tuple:
    """What must stay the same for one Resampler: the kind of samples, the channels, the rate."""
    return frame.format.name, frame.layout.name, frame.sample_rate


def resample_audio(decoder: StreamDecoder) -> Iterator[np.ndarray]:
    """The sound of a stream from time zero on: (n,) float32 mono, SAMPLE_RATE, without gaps, about a second at a time."""
    return _without_gaps(_resampled(decoder))


def _resampled(decoder: StreamDecoder) -> Iterator[tuple[float | None, np.ndarray]]:
    """(seconds since zero, or None where it goes on from the last, (n,) float32). What cannot be converted is left out."""
    pts, resampler, start = decoder.pts, None, None
    jitter = max(JITTER, float(decoder.stream.time_base or 0))
    for frame, time in decoder.frames():
        frame = cast(av.AudioFrame, frame)
        if not frame.samples:
            continue
        if resampler is None or abs(time - pts.due) > jitter or resampler.form != form_of(frame):
            for samples in _rest(decoder, resampler):
                yield start, samples
                start = None
            resampler, start, pts.due = Resampler(frame), time - decoder.zero, time
        pts.due += frame.samples / frame.sample_rate
        decoder.end = pts.due
        made = _converted(decoder, resampler.push, frame)
        for samples in made or []:
            yield start, samples
            start = None
        if made is None:
            resampler = None
    for samples in _rest(decoder, resampler):
        yield start, samples
        start = None


def _rest(decoder: StreamDecoder, resampler: Resampler | None) -> list[np.ndarray]:
    """The sound that is still inside a resampler, finite."""
    if resampler is None:
        return []
    samples = _converted(decoder, resampler.finish) or []
    decoder.cancelled_samples += resampler.downmix.n_cancelled
    return samples


def _converted(decoder: StreamDecoder, convert: Callable[..., list[np.ndarray]],
               *frame: av.AudioFrame) -> list[np.ndarray] | None:
    """What a resampler gives, finite; None where it fails, which is counted."""
    try:
        return [_finite(samples, decoder) for samples in convert(*frame)]
    except DECODE_ERRORS:
        decoder.count_damage()
        return None


def _finite(samples: np.ndarray, decoder: StreamDecoder) -> np.ndarray:
    """Zero for NaN and infinity; resampling spreads them over a millisecond, not further."""
    finite = np.isfinite(samples)
    if finite.all():
        return samples
    decoder.invalid_samples += int(len(samples) - finite.sum())
    return np.where(finite, samples, np.float32(0))


def _without_gaps(parts: Iterator[tuple[float | None, np.ndarray]]) -> Iterator[np.ndarray]:
    """Sound from zero on as one stream: silence fills the gaps, and where parts overlap, the later is dropped."""
    end = overlap = 0
    for start_s, samples in parts:
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


def rechunk(chunks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
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
