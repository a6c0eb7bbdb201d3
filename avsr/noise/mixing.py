"""Levels of sound, and speech mixed with noise at an exact signal-to-noise ratio.

The ratio is the level of the speech while somebody speaks (ITU-T P.56 active speech level) minus the RMS level of exactly the
noise that is added, in dB. With `level="rms"` the pauses of the speech count as well, as in most papers: on 40 GRID sentences
the active level is 2.5 dB above RMS, so that the same ratio means 2.5 dB less noise.
Speech is never scaled and nothing is clipped: sums may exceed 1.0, which float32 and log-mel features allow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np

from avsr.errors import BadMedia
from avsr.rates import HOP, SAMPLE_RATE

TIME_CONSTANT = 0.03                  # seconds, of each of P.56's two smoothing stages
HANGOVER = 0.2                        # seconds for which speech counts as active after its envelope has fallen
MARGIN = 15.9                         # dB from the threshold of activity up to the active level
FADE = HOP                            # samples of equal-power crossfade where one sound follows another: 10 ms


def rms_level(audio: np.ndarray) -> float:
    """Mean power in dB over full scale (1.0); -inf for silence."""
    audio = np.asarray(audio, np.float64)
    power = audio @ audio / max(len(audio), 1)
    return -math.inf if power == 0 else 10 * math.log10(power)


def active_level(audio: np.ndarray) -> float:
    """Active speech level in dB over full scale (1.0), by method B of ITU-T P.56; -inf for silence.

    The power is divided by the time in which the envelope is, or was 0.2 s before, above the threshold that lies 15.9 dB below
    the resulting level. Thresholds are powers of two, and levels between two of them are interpolated in dB.
    """
    audio = np.asarray(audio, np.float64)
    power, long_term = audio @ audio, rms_level(audio)
    if not math.isfinite(long_term):
        return long_term
    envelope = _envelope(audio)
    hangover = round(HANGOVER * SAMPLE_RATE)
    below: tuple[float, float] | None = None                 # level and margin at the next lower threshold
    for exponent in count(math.floor((long_term - MARGIN) / (20 * math.log10(2)))):
        above = np.flatnonzero(envelope >= 2.0 ** exponent)
        if not len(above):                                   # a click, whose envelope stays far below its power
            return long_term if below is None else below[0]
        n_active = np.minimum(np.diff(above, append=len(audio)), hangover + 1).sum()
        level = 10 * math.log10(power / n_active)
        margin = level - 20 * math.log10(2) * exponent
        if margin <= MARGIN:
            if below is None:
                return level
            share = (below[1] - MARGIN) / (below[1] - margin)
            return below[0] + share * (level - below[0])
        below = level, margin
    raise AssertionError("the envelope has a maximum")


LEVELS = {"active": active_level, "rms": rms_level}


@dataclass(frozen=True)
class MixedSpeech:
    """Speech in noise: audio (S,) float32, not clipped.

    snr_db, snr_rms: achieved, measured on the noise that was added, with the level asked for and by plain RMS; None without.
    offset: first sample of the noise that was used; None where the noise is computed.  gain: factor of the noise, 0 without.
    noise_id: id of the noise manifest's row, where the noise comes from one.
    """

    audio: np.ndarray
    snr_db: float | None
    offset: int | None
    gain: float
    snr_rms: float | None = None
    noise_id: str | None = None


def mix(speech: np.ndarray, noise: np.ndarray, snr_db: float | None, *, rng: np.random.Generator,
        level: str = "active") -> MixedSpeech:
    """Add noise to speech (S,) float32 at `snr_db`; None leaves the speech as it is, 0 is as loud as the speech.

    A random part of the noise (N,) is used; noise shorter than the speech is repeated with crossfades. `level` is how speech
    is measured, "active" or "rms" (see the top of this file). Raises BadMedia where either is silent.
    """
    if snr_db is None:
        return MixedSpeech(np.array(speech, np.float32), None, 0, 0.0)
    speech_level = known_level("speech", LEVELS[level](speech), speech)
    offset = int(rng.integers(max(1, len(noise) - len(speech) + 1 if len(noise) >= len(speech) else len(noise))))
    cut = joined(noise[offset:], lambda: noise, len(speech))
    noise_level = known_level("noise", rms_level(cut), cut)
    gain = 10 ** ((speech_level - snr_db - noise_level) / 20)
    added = scaled(cut, gain)
    added_level = rms_level(added)
    return MixedSpeech(np.asarray(speech, np.float32) + added, speech_level - added_level, offset, gain,
                 rms_level(speech) - added_level)


def scaled(noise: np.ndarray, gain: float) -> np.ndarray:
    """Noise (N,) float32 times a gain, multiplied in float64."""
    return (noise.astype(np.float64) * gain).astype(np.float32)


def known_level(what: str, level: float, audio: np.ndarray) -> float:
    """Return `level`. Raises BadMedia where it is not finite; `what` is the name of the audio in the message."""
    if math.isfinite(level):
        return level
    problem = "is silent" if level == -math.inf else "holds samples that are not numbers"
    raise BadMedia(f"{what}: it {problem} over all {len(audio)} samples ({len(audio) / SAMPLE_RATE:.2f} s), so a "
                   "signal-to-noise ratio has no meaning.  Leave it out, or mix without noise (snr_db None).")


def _envelope(audio: np.ndarray) -> np.ndarray:
    """P.56's envelope: the absolute value after two equal one-pole filters."""
    from scipy.signal import lfilter

    g = math.exp(-1 / (SAMPLE_RATE * TIME_CONSTANT))
    return np.asarray(lfilter([(1 - g) ** 2], [1, -2 * g, g * g], np.abs(audio)))


def joined(first: np.ndarray, following: Callable[[], np.ndarray], n_samples: int) -> np.ndarray:
    """(n_samples,): `first`, then as many further sounds as needed, each crossfaded into the next."""
    if len(first) >= n_samples:
        return first[:n_samples]
    parts, length = [first], len(first)
    while length < n_samples:
        sound, last = following(), parts.pop()
        n = fade_length(len(last), len(sound))
        out, into = (weights.astype(np.float32) for weights in fade_weights(n))
        seam = last[len(last) - n:] * out + sound[:n] * into
        parts += [last[: len(last) - n], seam, sound[n:]]
        length += len(sound) - n
        if not length:
            return np.zeros(n_samples, np.float32)           # all sounds are empty, which `mix` reports
    return np.concatenate(parts)[:n_samples]


def fade_length(n_last: int, n_next: int) -> int:
    """How many samples a sound overlaps the one before it: FADE, or half of the shorter one."""
    return min(FADE, n_last // 2, n_next // 2)


def fade_weights(n: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,), (n,) float64: factors for the end of one sound and the start of the next; their squares add up to 1."""
    turn = (np.arange(n) + 0.5) * (np.pi / 2 / max(n, 1))
    return np.cos(turn), np.sin(turn)
