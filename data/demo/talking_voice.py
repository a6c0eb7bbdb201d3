"""The talking face's voice: text in; sound, phonemes with their times, and the mouth's shape in each frame out.

    text -> speak: samples (S,) + phonemes -> mouth_shapes: (T, 4) opening, width, rounding, tuck

The sound is espeak-ng's, called in its library, which says at which sample each phoneme begins.
"""

import _ctypes
import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from avsr.rates import SAMPLE_RATE


@dataclass(frozen=True)
class Phoneme:
    """One sound of speech: `ipa` such as "aɪ" or "m" and its time in seconds."""

    ipa: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Speech:
    """What was said: samples (S,) float32 in [-1, 1] at SAMPLE_RATE, and its phonemes in order (pauses are gaps)."""

    samples: np.ndarray
    phonemes: tuple[Phoneme, ...]


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_id", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("ipa", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
_ESPEAK_RATE = 22_050
_SYNCHRONOUS, _PHONEME_EVENTS, _PHONEME_IPA, _PHONEME_EVENT, _UTF8, _RATE, _PITCH = 2, 1, 2, 7, 1, 1, 3


def speak(text: str, *, voice: str = "en-us+f2", words_per_minute: int = 140, pitch: int = 50) -> Speech:
    """Say `text` with one of espeak-ng's voices, at a pitch of 0 to 99; empty text gives an empty Speech."""
    import espeakng_loader
    from scipy.signal import resample_poly

    if not text.strip():
        return Speech(np.zeros(0, np.float32), ())
    # What espeak says depends on what it said before, even with the same seed: a fresh library forgets.
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        pieces, events = _synthesize(library, espeakng_loader.get_data_path(), text, voice, words_per_minute, pitch)
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)
    sound = np.concatenate(pieces).astype(np.float32) / 32_768
    sound = resample_poly(sound, SAMPLE_RATE, _ESPEAK_RATE).astype(np.float32)
    return Speech(sound, _phonemes(events, len(sound) / SAMPLE_RATE))


def _synthesize(library, data_path, text, voice, words_per_minute, pitch) -> tuple[list, list]:
    pieces, events = [], []

    @_Callback
    def collect(samples, n_samples, event):
        if samples and n_samples:
            pieces.append(np.ctypeslib.as_array(samples, (n_samples,)).copy())
        i = 0
        while event[i].type:
            if event[i].type == _PHONEME_EVENT:
                events.append((event[i].ipa.decode(errors="ignore"), event[i].audio_ms / 1000))
            i += 1
        return 0

    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data_path.encode(), _PHONEME_EVENTS | _PHONEME_IPA)
    assert rate == _ESPEAK_RATE or rate < 0, rate
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    library.espeak_SetSynthCallback(collect)
    if rate < 0 or library.espeak_SetVoiceByName(voice.encode()):
        raise ValueError(f"espeak-ng has no voice {voice!r}: try en-us, en-us+f2 or de")
    library.espeak_SetParameter(_RATE, words_per_minute, 0)
    library.espeak_SetParameter(_PITCH, pitch, 0)
    encoded = text.encode()
    library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded) + 1), 0, 1, 0, _UTF8, None, None)
    return pieces, events


def _phonemes(events: list[tuple[str, float]], end_s: float) -> tuple[Phoneme, ...]:
    """Starts to intervals. Nameless events are pauses, or, below 60 ms, glides that belong to the sound before."""
    ends = [start for _, start in events[1:]] + [end_s]
    phonemes: list[Phoneme] = []
    for (ipa, start), end in zip(events, ends, strict=True):
        if ipa.strip("ˈˌ "):
            phonemes.append(Phoneme(ipa.strip("ˈˌ "), start, end))
        elif phonemes and phonemes[-1].end_s == start and end - start < 0.06:
            phonemes[-1] = Phoneme(phonemes[-1].ipa, phonemes[-1].start_s, end)
    return tuple(phonemes)


OPENING, WIDTH, ROUNDING, TUCK = range(4)  # columns of a mouth shape
# opening 0..1, width -1 (narrow)..1 (spread), rounding 0..1, tuck 0..1 (the lower lip under the upper teeth)
_VISEMES = {
    "pbm": (0.0, 0.0, 0.1, 0.0),
    "fv": (0.12, 0.1, 0.0, 1.0),
    "θð": (0.25, 0.1, 0.0, 0.0),
    "szt": (0.16, 0.5, 0.0, 0.0),
    "dnlɾɫ": (0.24, 0.25, 0.0, 0.0),
    "ʃʒ": (0.2, -0.5, 0.6, 0.0),
    "kɡgŋhxʔ": (0.28, 0.0, 0.0, 0.0),
    "ɹr": (0.2, -0.4, 0.5, 0.0),
    "wʍ": (0.08, -1.0, 1.0, 0.0),
    "jiᵻ": (0.24, 1.0, 0.0, 0.0),
    "ɪy": (0.3, 0.7, 0.0, 0.0),
    "eɛ": (0.5, 0.7, 0.0, 0.0),
    "æ": (0.8, 0.5, 0.0, 0.0),
    "aɑɐ": (1.0, 0.0, 0.0, 0.0),
    "ʌ": (0.65, 0.0, 0.0, 0.0),
    "ə": (0.35, 0.0, 0.0, 0.0),
    "ɚɜ": (0.35, -0.3, 0.4, 0.0),
    "ɔɒ": (0.75, -0.5, 0.6, 0.0),
    "o": (0.5, -0.75, 0.8, 0.0),
    "ʊ": (0.28, -0.7, 0.8, 0.0),
    "u": (0.16, -1.0, 1.0, 0.0),
}
SHAPE_OF = {symbol: np.array(shape) for symbols, shape in _VISEMES.items() for symbol in symbols}
_TRACK_RATE = 400  # mouth shapes per second before they are sampled at the frames
_GLIDE_S = 0.11  # from one shape to the next, neighbours running into each other
_CLOSED_S = 0.07  # lips stay together at least this long, so that one frame in 25 fps shows it


def mouth_shapes(phonemes: Sequence[Phoneme], n_frames: int, fps: Fraction | float) -> np.ndarray:
    """The mouth in the middle of each frame: (n_frames, 4) float32 of opening, width, rounding and tuck.

    Shapes glide into each other; the lips do meet at every p, b and m, and are closed and at rest in pauses."""
    fps = float(fps)
    n_track = int(n_frames / fps * _TRACK_RATE) + _TRACK_RATE
    track = np.zeros((n_track, 4))
    times = np.arange(n_track) / _TRACK_RATE
    apart = np.ones(n_track)
    for phoneme in phonemes:
        symbols = [symbol for symbol in phoneme.ipa if symbol in SHAPE_OF]
        bounds = np.linspace(phoneme.start_s, phoneme.end_s, len(symbols) + 1)
        for symbol, start, end in zip(symbols, bounds, bounds[1:], strict=False):
            track[(times >= start) & (times < end)] = SHAPE_OF[symbol]
            if symbol in "pbm":
                # espeak's p and b begin with the burst: the lips were closed before it and part with it.
                closing, parting = (start, end) if symbol == "m" else (start - 0.06, start + 0.01)
                half = max(parting - closing, _CLOSED_S, 1 / fps) / 2
                distance = np.abs(times - (closing + parting) / 2) - half
                apart = np.minimum(apart, smoothstep(distance / 0.05))
    window = np.hanning(int(_GLIDE_S * _TRACK_RATE) + 2)
    track = np.stack([np.convolve(column, window / window.sum(), mode="same") for column in track.T], axis=1)
    track[:, OPENING] *= apart
    middles = (np.arange(n_frames) + 0.5) / fps
    return np.stack([np.interp(middles, times, column) for column in track.T], axis=1).astype(np.float32)


def smoothstep(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, and a smooth rise between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
