"""A recording in noise, read by sound, by lips and by both: how much the lips help, on anyone's own recording.

    recording -> its sound + noise at an exact SNR (avsr.noise) -> the same pictures with that sound -> one text for each way
The babble is made of the recording's own voices, where the server has no other: six copies of them, played at other speeds,
so higher and lower, and from other places on. It is made of strangers where the server was started with a folder of recordings.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np

from avsr import media
from avsr.errors import AvsrError, BadMedia
from avsr.media.write import with_sound
from avsr.names import INPUT_MODALITIES
from avsr.noise import Babble, Coloured, NoiseSource, mix, open_sources
from avsr.rates import SAMPLE_RATE
from avsr.transcript import Transcript

LONGEST_S = 30.0                      # seconds of a recording that are read; each way takes about as long as `transcribe`
SPEEDS = tuple(Fraction(*speed) for speed in ((4, 5), (7, 8), (15, 16), (15, 14), (8, 7), (5, 4)))           # of the copies
NOISES = ("babble", "white")
LOUDEST_DB = -40.0                    # voice over noise at which nothing of the voice is left
FINEST_DB = 60.0

File = bytes | BinaryIO
Read = Callable[[bytes, str], Transcript]
"""Reads a recording (a file's content) by a modality: a, av, or auto for one without sound."""


@dataclass(frozen=True)
class NoisyReading:
    """What was read in noise.

    audio: (S,) float32, the sound with noise, scaled down where it would be clipped. snr_db: the ratio that was reached.
    is_cut: whether the recording is longer than LONGEST_S. transcripts: by modality. refused: why others could not be read.
    """

    audio: np.ndarray
    snr_db: float
    is_cut: bool
    transcripts: Mapping[str, Transcript]
    refused: Mapping[str, str]

    def row(self) -> dict:
        """As JSON: the sound is base64 of a WAV file, a text has its confidence."""
        texts = {way: {"text": one.text, "problem": None if one.text else _why_empty(one)}
                 for way, one in self.transcripts.items()}
        texts |= {way: {"text": "", "problem": why} for way, why in self.refused.items()}
        return {"snr_db": round(self.snr_db, 3), "duration": round(len(self.audio) / SAMPLE_RATE, 3), "cut": self.is_cut,
                "sound": base64.b64encode(wav(self.audio)).decode(),
                "texts": texts}


def read_in_noise(source: File, *, noise: str, snr_db: float, read: Read, modalities: Sequence[str] = INPUT_MODALITIES,
                  babble: NoiseSource | None = None, seed: int = 0) -> NoisyReading:
    """Add noise to a recording's first LONGEST_S seconds and read it by each modality.

    source: a file, as bytes or open. noise: one of NOISES. babble: where babble comes from; None for the recording's own
    voices. The same seed gives the same noise. A modality that the model cannot use, or for which there is no picture, is
    refused by a sentence; all others are read. The lips are read as those of a recording without sound, so that lips which are
    not believed give no text. Raises BadMedia where there is no sound, AvsrError for another noise or level.
    """
    if noise not in NOISES:
        raise AvsrError(f"noise {noise}: not known.  Use one of {', '.join(NOISES)}.")
    if not math.isfinite(snr_db) or not LOUDEST_DB <= snr_db <= FINEST_DB:
        raise AvsrError(f"snr_db {snr_db}: must be from {LOUDEST_DB:.0f} to {FINEST_DB:.0f} dB.")
    clean, is_cut = beginning(source)
    rng = np.random.default_rng(seed)
    drawn = (Coloured() if noise == "white" else babble or own_babble(clean)).draw(len(clean), rng)
    mixed = mix(clean, drawn, snr_db, rng=rng)
    assert mixed.snr_db is not None
    transcripts, refused = {}, {}
    noisy = with_sound(source, mixed.audio)
    for modality in modalities:
        try:
            transcripts[modality] = (read(with_sound(source, mixed.audio, silent=True), "auto") if modality == "v" else
                                     read(noisy, modality))
        except AvsrError as error:
            refused[modality] = _plain(str(error))
    peak = float(np.abs(mixed.audio).max())
    return NoisyReading(mixed.audio / max(1.0, peak), mixed.snr_db, is_cut, transcripts, refused)


def _why_empty(transcript: Transcript) -> str:
    return _plain(transcript.problems[-1]) if transcript.problems else "No words were found."


def _plain(problem: str) -> str:
    """A problem without the name of the recording and the remedies of the command line."""
    sentence = problem.partition("  ")[0].removeprefix("recording: ")
    return sentence[:1].upper() + sentence[1:]


def beginning(source: File) -> tuple[np.ndarray, bool]:
    """The sound (S,) float32 of the first LONGEST_S seconds, and whether there is more. Raises BadMedia without sound."""
    with media.open_recording(source, want_video=False) as recording:
        if not recording.has_audio or recording.is_silent:
            raise BadMedia(f"{recording.name}: there is no sound in it to which noise could be added.  Use another recording.")
        parts, n_samples, longest = [], 0, round(LONGEST_S * SAMPLE_RATE)
        for clip in recording.windows():
            assert clip.audio is not None
            parts.append(clip.audio)
            n_samples += len(clip.audio)
            if n_samples > longest:
                break
    return np.concatenate(parts)[:longest], n_samples > longest


def own_babble(speech: np.ndarray) -> Babble:
    """Babble of copies of one recording (S,) float32 at SPEEDS. Raises BadMedia where it is silent."""
    from scipy.signal import resample_poly

    copies = {f"copy {i}": [resample_poly(speech, speed.denominator, speed.numerator).astype(np.float32)]
              for i, speed in enumerate(SPEEDS)}
    return Babble(copies, len(SPEEDS))


def open_babble(folder: Path) -> NoiseSource:
    """Babble of the recordings in a folder: of talkers, where each has a folder of its own in it. Raises AvsrError."""
    talkers = [one for one in sorted(folder.iterdir()) if one.is_dir()] if folder.is_dir() else []
    described = {"talkers": str(folder.resolve()), "n_talkers": "all"} if len(talkers) > 2 else str(folder.resolve())
    return open_sources({"babble": described})["babble"]


def wav(audio: np.ndarray) -> bytes:
    """A sound (S,) float32 as a WAV file of 16 bits."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, audio, SAMPLE_RATE, subtype="PCM_16", format="WAV")
    return file.getvalue()
