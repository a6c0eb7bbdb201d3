"""What the lips of a person are worth, on segments that they did not learn from: words wrong before and after, and by sound.

    held-out rows, lips before and after, ears -> Check -> a sentence
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from avsr import noise
from avsr.cache import read_entry
from avsr.checkpoint import Checkpoint
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
MOST_BY_SOUND = 40                    # segments heard at each level, evenly spaced: two minutes and a half of clips of GRID


@dataclass(frozen=True)
class Check:
    """Word error rates in % of segments that the lips did not learn from. n_words: of their text.

    before, after: by lips alone. by_sound: by the ears at each level, `clean` or decibels as in `0 dB`; `clean` is absent
    where these ears wrote the text.
    """

    n_words: int
    before: float
    after: float
    by_sound: dict[str, float]

    @property
    def better(self) -> bool:
        """Whether the adapted lips read better than those before."""
        return self.after < self.before

    def facts(self) -> dict[str, Any]:
        """For model.json."""
        return asdict(self)

    def sentence(self, ears: str) -> str:
        """What the lips are worth, in a sentence. ears: the name of the model that hears."""
        heard = ", ".join(f"{wer:.0f} % {level}" for level, wer in self.by_sound.items())
        lips = f"by lips alone {self.after:.0f} % of {self.n_words} held-out words are wrong, {self.before:.0f} % before"
        if not heard:
            return f"{lips}."
        worse = [level for level, wer in self.by_sound.items() if wer > self.after]
        worth = f"so these lips read better than {ears} hears at {' and '.join(worse)}" if worse else \
            f"so {ears} hears better than these lips read at every level"
        return f"{lips}; by sound alone {heard}, {worth}."


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


@torch.inference_mode()
def by_sound(ears: Checkpoint, rows: Sequence[ManifestRow], *, language: str, clean: bool) -> dict[str, float]:
    """Word error rate in % by level, heard in noise. clean: whether clean sound is of interest."""
    step = max(1, -(-len(rows) // MOST_BY_SOUND))
    rows, recogniser, out = rows[::step], Recogniser(ears), {}
    own, _ = recordings_by_speaker(rows)
    mixer = NoiseMixer(noise.open_families([FAMILY], own=own))
    for snr_db in LEVELS if clean else LEVELS[1:]:
        heard, rng, total = replace(mixer, snrs=(snr_db,)), np.random.default_rng(0), NOTHING
        for first in range(0, len(rows), AT_ONCE):
            some = rows[first:first + AT_ONCE]
            sounds = [heard(sound, row.utterance.speaker, rng).audio for row in some if (sound := sound_of(row)) is not None]
            total += _errors(recogniser, recogniser.decode(recogniser.encode(sounds, None, "a"), None, language), some)
        out[level_name(snr_db)] = round(total.percent or 0.0, 1)
    return out


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
