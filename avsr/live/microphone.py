"""A microphone by the package sounddevice (PortAudio): pieces of 16 kHz mono sound with the times at which they were taken.

    PortAudio's thread -> bounded queue -> Microphone.take() -> SoundPieces
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from avsr.errors import AvsrError
from avsr.media.audio import Downmixer
from avsr.media.level import FLOOR_DB, decibels
from avsr.rates import SAMPLE_RATE, SAMPLES_PER_FRAME

QUEUE_S = 30                          # seconds of sound that wait at most, 2 MB; after that the oldest is lost
MUTED_DB = -80.0                      # of full scale; the noise of a quiet room and a cheap microphone is above -75
MUTED_S = 5.0                         # after so many seconds without any sound the user is told
LONGEST_DELAY_S = 2.0                 # a driver that says sound is older than this is not believed
MOST_CHANNELS = 8
LIST = "`avsr live --list-devices` lists them."


@dataclass(frozen=True)
class SoundPiece:
    """samples: (S,) float32 mono, SAMPLE_RATE. time_s: of its first sample, by time.monotonic()."""

    samples: np.ndarray
    time_s: float


class Microphone:
    """An open microphone, or any other input that PortAudio knows. Its sound waits in a queue of QUEUE_S seconds.

    which: its number, or a part of its name; None for the system's default. name: as the system calls it.
    Raises AvsrError where there is none, where it cannot be opened, and where sounddevice or PortAudio is missing.
    """

    def __init__(self, which: str | None = None):
        sounddevice = import_sounddevice()
        self.device = _find(sounddevice, which)
        self.name = str(self.device["name"])
        self._pieces: deque[SoundPiece] = deque()
        self._n_waiting, self.n_lost = 0, 0                  # samples
        self._lock = threading.Lock()
        self._quiet = _Quiet()
        self._stream = self._open(sounddevice)

    def _open(self, sounddevice: ModuleType) -> Any:
        """The stream, not yet started: at SAMPLE_RATE and with one channel where the device has that, else as it is."""
        number, most = int(self.device["index"]), int(self.device["max_input_channels"])
        problem = "no way to open it"
        for rate, channels in ((SAMPLE_RATE, 1), (round(self.device["default_samplerate"]), min(most, MOST_CHANNELS))):
            self._converter = SoundConverter(rate)
            try:
                return sounddevice.InputStream(samplerate=rate, channels=channels, device=number, dtype="float32",
                                               blocksize=round(rate * SAMPLES_PER_FRAME / SAMPLE_RATE), callback=self._receive)
            except sounddevice.PortAudioError as error:
                problem = _reason(error)
        raise AvsrError(f"microphone {self.name}: it cannot be opened ({problem}).  {_remedy()}")

    def start(self) -> None:
        """Begin to record. Raises AvsrError where the system refuses."""
        try:
            self._stream.start()
        except Exception as error:                           # PortAudioError, which is imported only where it is used
            raise AvsrError(f"microphone {self.name}: it does not start ({_reason(error)}).  {_remedy()}") from error

    def close(self) -> None:
        """End the recording."""
        self._stream.close(ignore_errors=True)

    def _receive(self, data: np.ndarray, n_samples: int, times: Any, status: object) -> None:
        """PortAudio's callback, in a thread of its own: it may neither wait nor raise."""
        delay = times.currentTime - times.inputBufferAdcTime
        if not 0 <= delay <= LONGEST_DELAY_S:                # some drivers give no time, or one of another clock
            delay = n_samples / self._converter.rate
        began = time.monotonic() - delay
        samples = self._converter(data)
        with self._lock:
            self._pieces.append(SoundPiece(samples, began))
            self._n_waiting += len(samples)
            while self._n_waiting > QUEUE_S * SAMPLE_RATE:
                lost = len(self._pieces.popleft().samples)
                self._n_waiting, self.n_lost = self._n_waiting - lost, self.n_lost + lost

    def take(self) -> list[SoundPiece]:
        """The pieces that came since the last call, in order."""
        with self._lock:
            pieces, self._n_waiting = list(self._pieces), 0
            self._pieces.clear()
        for piece in pieces:
            self._quiet.add(piece.samples)
        return pieces

    def problem(self) -> str | None:
        """A sentence for the user where the microphone seems to be muted; said once until sound comes again."""
        level_db = self._quiet.told()
        return None if level_db is None else muted_sentence(self.name, level_db)


def muted_sentence(name: str, level_db: float) -> str:
    """That a microphone seems to be muted. level_db: the loudest that it gave, in dB of full scale."""
    level = "its samples are all zero" if level_db <= FLOOR_DB else f"{level_db:.0f} dB of full scale at its loudest"
    return (f"microphone {name}: no sound came for {MUTED_S:.0f} s ({level}).  Turn its mute off, {_allow()}or choose another "
            f"with --microphone; {LIST}")


class _Quiet:
    """Tells when nothing was heard for MUTED_S seconds."""

    def __init__(self):
        self.n_quiet, self.loudest, self.is_told = 0, 0.0, False

    def add(self, samples: np.ndarray) -> None:
        power = float(np.square(samples, dtype=np.float64).mean()) if len(samples) else 0.0
        if decibels(power) >= MUTED_DB:
            self.n_quiet, self.loudest, self.is_told = 0, 0.0, False
        else:
            self.n_quiet, self.loudest = self.n_quiet + len(samples), max(self.loudest, power)

    def told(self) -> float | None:
        """The level in dB of full scale, once; None where sound is heard, or it was told already."""
        if self.is_told or self.n_quiet < MUTED_S * SAMPLE_RATE:
            return None
        self.is_told = True
        return decibels(self.loudest)


class SoundConverter:
    """Makes blocks of (n, C) float32 of one rate consecutive pieces of (S,) float32 mono, SAMPLE_RATE."""

    def __init__(self, rate: int):
        self.rate = rate
        self._downmix, self._resampler = Downmixer(), None
        if rate != SAMPLE_RATE:
            from av import AudioResampler

            self._resampler = AudioResampler("flt", "mono", SAMPLE_RATE)

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """The sound of a block; with another rate it lags by the few samples that resampling needs."""
        mono = np.array(block[:, 0]) if block.shape[1] == 1 else self._downmix(np.ascontiguousarray(block.T))
        mono = np.nan_to_num(mono, posinf=0.0, neginf=0.0)
        if self._resampler is None:
            return mono
        from av import AudioFrame

        frame = AudioFrame.from_ndarray(mono[None], "flt", "mono")
        frame.sample_rate = self.rate
        made = [out.to_ndarray()[0] for out in self._resampler.resample(frame)]
        return np.concatenate(made) if made else np.zeros(0, np.float32)


def list_microphones() -> list[str]:
    """A line for each input of this machine: its number, its name, and whether it is the default. Raises AvsrError where
    sounddevice or PortAudio is missing."""
    sounddevice = import_sounddevice()
    default = _default(sounddevice)
    return [f"{one['index']}: {one['name']}{'  (default)' if one['index'] == default else ''}" for one in _inputs(sounddevice)]


def import_sounddevice() -> ModuleType:
    """Import the package sounddevice. Raises AvsrError where it or the system's PortAudio is missing."""
    try:
        import sounddevice
    except ImportError as error:
        raise AvsrError("microphone: the package sounddevice is missing.  Install it with pip install 'avsr[live]'.") from error
    except OSError as error:                                 # on Linux its wheel has no PortAudio
        raise AvsrError("microphone: the library PortAudio is missing.  Install it: apt install libportaudio2, dnf install "
                        "portaudio, or pacman -S portaudio.") from error
    return sounddevice


def _inputs(sounddevice: ModuleType) -> list[dict]:
    return [one for one in sounddevice.query_devices() if one["max_input_channels"] > 0]


def _default(sounddevice: ModuleType) -> int | None:
    """The number of the default input; None where the system names none."""
    number = int(sounddevice.default.device[0])
    return number if number >= 0 else None


def _find(sounddevice: ModuleType, which: str | None) -> dict:
    """The input that is meant. Raises AvsrError where there is none, or several have that name."""
    inputs = _inputs(sounddevice)
    if not inputs:
        raise AvsrError(f"microphone: this machine has none, or none that it may use.  Connect one, "
                        f"{_allow()}or use --audio none.")
    if which is None:
        default = _default(sounddevice)
        return next((one for one in inputs if one["index"] == default), inputs[0])
    found = [one for one in inputs if which in (str(one["index"]), one["name"])]
    found = found or [one for one in inputs if which.lower() in one["name"].lower() and not which.isdigit()]
    if len(found) != 1:
        what = "no input has this number or name" if not found else f"{len(found)} inputs have this in their name"
        raise AvsrError(f"microphone {which}: {what}.  {LIST}")
    return found[0]


def _reason(error: Exception) -> str:
    """What PortAudio says, without the numbers of its errors."""
    return str(error.args[0] if error.args else error).strip().rstrip(".")


def _allow() -> str:
    """The part of a remedy that only some systems need."""
    return "allow this program the microphone in the system's privacy settings, " if sys.platform in ("darwin", "win32") else ""


def _remedy() -> str:
    return f"Close other programs that use it, {_allow()}or choose another with --microphone; {LIST}"
