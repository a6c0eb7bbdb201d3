"""What the lips of a person are worth, on segments that they did not learn from: words wrong before and after, and by sound.

    held-out rows, lips before and after, ears in noise -> Check -> a sentence
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from avsr import noise
from avsr.cache import read_entry
from avsr.checkpoint import Checkpoint
from avsr.combine import combine, open_recogniser
from avsr.corrupt import Mouth
from avsr.dataset import ManifestRow, recordings_by_speaker, sound_of
from avsr.metrics import NOTHING, word_errors
from avsr.metrics.counting import Score
from avsr.noise import NoiseMixer
from avsr.recogniser import Recogniser
from avsr.text import normalise

AT_ONCE = 8                           # segments
LEVELS = (None, 0.0, -5.0)            # dB of the speech over the noise; None: clean
FAMILY = "speech-shaped"              # noise with the spectrum of the person's own voice
MOST_BY_SOUND = 24                    # segments heard at each level, evenly spaced: 1.2 minutes of clips of GRID


@dataclass(frozen=True)
class Check:
    """Word error rates in % of segments that the lips did not learn from. n_words: of their text.

    before, after: by lips alone. by_sound, by_both: by the ears at each level, `clean` or decibels as in `0 dB`, without and
    with the adapted lips; `clean` is absent where these ears wrote the text.
    """

    n_words: int
    before: float
    after: float
    by_sound: dict[str, float]
    by_both: dict[str, float]

    @property
    def better(self) -> bool:
        """Whether the adapted lips read better than those before."""
        return self.after < self.before

    def facts(self) -> dict[str, Any]:
        """For model.json."""
        return asdict(self)

    def sentence(self, ears: str) -> str:
        """What the lips are worth, in a sentence. ears: the name of the model that hears."""
        lips = f"By lips alone {self.after:.0f} % of {self.n_words} held-out words are wrong, {self.before:.0f} % before"
        levels = [f"{level if level == 'clean' else f'at {level}'} {wer:.0f} % by sound alone ({ears}) and "
                  f"{self.by_both[level]:.0f} % by both" for level, wer in self.by_sound.items() if level in self.by_both]
        return f"{lips}; {', '.join(levels)}." if levels else f"{lips}."


def level_name(snr_db: float | None) -> str:
    """`clean`, or as in `-5 dB`."""
    return "clean" if snr_db is None else f"{snr_db:g} dB"


@torch.inference_mode()
def by_lips(lips: Checkpoint, rows: Sequence[ManifestRow]) -> Score:
    """The word errors of the rows, read by lips alone."""
    recogniser, total = Recogniser(lips), NOTHING
    for first in range(0, len(rows), AT_ONCE):
        some = rows[first:first + AT_ONCE]
        memory = recogniser.encode(None, list(map(_mouths, some)), "v")
        total += _errors(recogniser, recogniser.decode(memory), some)
    return total


@dataclass(frozen=True)
class Hearing:
    """Ears, and the noise in which they are tried. levels: dB, None for clean."""

    ears: Checkpoint
    mixer: NoiseMixer
    levels: tuple[float | None, ...]

    @torch.inference_mode()
    def errors(self, lips: Checkpoint | None, rows: Sequence[ManifestRow]) -> dict[str, Score]:
        """The word errors of the rows at each level, heard alone or with these lips."""
        modality, checkpoint = ("a", self.ears) if lips is None else ("av", combine(self.ears, lips))
        recogniser, out = open_recogniser(checkpoint, modality), {}
        for snr_db in self.levels:
            mixer, total = replace(self.mixer, snrs=(snr_db,)), NOTHING
            for first in range(0, len(rows), AT_ONCE):
                some = rows[first:first + AT_ONCE]
                mouths = None if lips is None else list(map(_mouths, some))
                memory = recogniser.encode([_heard(row, mixer) for row in some], mouths, modality)
                total += _errors(recogniser, recogniser.decode(memory, None, some[0].utterance.language), some)
            out[level_name(snr_db)] = total
        return out


def hearing(ears: Checkpoint, rows: Sequence[ManifestRow], *, clean: bool) -> Hearing:
    """Ears in noise made of these rows. clean: whether clean sound is of interest."""
    own, _ = recordings_by_speaker(rows)
    return Hearing(ears, NoiseMixer(noise.open_families([FAMILY], own=own)), LEVELS if clean else LEVELS[1:])


def _heard(row: ManifestRow, mixer: NoiseMixer) -> np.ndarray:
    """The sound of a row, in noise that the row's id draws, so that it is the same each time."""
    sound = sound_of(row)
    assert sound is not None, "an enrolment is packed with sound"
    return mixer(sound, row.utterance.speaker, np.random.default_rng(zlib.crc32(row.utterance.id.encode()))).audio


def percents(errors: dict[str, Score]) -> dict[str, float]:
    """Word error rates in %."""
    return {level: round(score.percent or 0.0, 1) for level, score in errors.items()}


def _mouths(row: ManifestRow) -> Mouth:
    cached = read_entry(row.base, row.cache)
    assert cached.images is not None, "an enrolment is packed with mouths"
    assert cached.missing is not None
    return Mouth(cached.images, cached.missing)


def _errors(recogniser: Recogniser, found: Sequence, rows: Sequence[ManifestRow]) -> Score:
    total = NOTHING
    for row, one in zip(rows, found, strict=True):
        total += word_errors(normalise(row.utterance.text), normalise(recogniser.detokenize(one.tokens)))
    return total
