"""How much the lips count beside the sound, from how reliable each is just then.

    entropy of CTC on the lips, frames without a face -> reliability of the lips, 0 to 1
    reliability, how sure the audio model is of its own text, whether it hears speech at all -> weight of the lips
Scores are log-probabilities in nats a letter, so that models with other tokens can be compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

# Mean entropy of CTC, nats a frame, up to which lips are fully reliable, and from which on not at all. Where CTC writes
# letters: 0.13 at most for speakers whom a network knows (28 valid clips, `grid`), 0.24 at most for strangers (46 clips of s4,
# s26 and s31, a network that has seen s1 alone), 3.2 with random weights. Set after a look at GRID's unseen speakers
# (up to 0.30) and at five segments of people elsewhere, of whose lips `grid` reads nothing. Measured since on 11 recordings of
# such people: 0.30 to 0.73, 3 of 19 segments below 0.35, of which no text changed. Where CTC writes thousands of pieces of
# words, as in published lip readers, no trained network could be measured here.
LETTERS, PIECES = (0.25, 0.35), (0.8, 1.2)
# The weight is reliability x exp(BASE + NO_SPEECH p + UNSURE u): p the probability of no speech, u by how much the
# log-probability of the audio model's own text is below SURE_TEXT. These five numbers were fitted on validation and training
# clips of GRID, on lips that know the speaker and on lips that do not, on the mouths of others, and on sentences that the lips
# cannot write: see experiments/any_ears_any_eyes.
BASE, NO_SPEECH, UNSURE = -1.16, 2.51, 9.35
SURE_TEXT = -0.1                                            # nats a letter
FLOOR = -3.67                                               # nats a letter: a text that the lips find less likely counts so
CTC_SHARE = 0.68                                            # of the score by lips; the decoder has the rest


@dataclass(frozen=True)
class Evidence:
    """What tells how reliable sound and lips are for an utterance.

    no_speech: probability (0 to 1) that nobody speaks, 0 for a model that does not say. sound: log-probability of the audio
    model's own best text, nats a letter. reliability: of the lips, 0 to 1.
    """

    no_speech: float
    sound: float
    reliability: float

    @property
    def weight(self) -> float:
        """By what the score of the lips is multiplied; that of the sound counts once."""
        return self.reliability * math.exp(BASE + NO_SPEECH * self.no_speech + UNSURE * (SURE_TEXT - self.sound))

    @property
    def share(self) -> float:
        """The share of the lips in both weights together, 0 to 1."""
        return self.weight / (1 + self.weight)


def lips_score(ctc: float | None, decoder: float) -> float:
    """The score of a text by lips, nats a letter, from those of CTC (None without it) and of the decoder."""
    decoder = max(decoder, FLOOR)
    return decoder if ctc is None else CTC_SHARE * max(ctc, FLOOR) + (1 - CTC_SHARE) * decoder


def mean_entropy(log_probs: Tensor) -> float:
    """The mean entropy of frames: log-probabilities (T, V) -> nats a frame."""
    return -(log_probs.exp() * log_probs).sum(dim=1).mean().item()


def lips_reliability(entropy: float, missing: float, limits: tuple[float, float] = LETTERS) -> float:
    """1 for lips that are sure, 0 for lips that say nothing, in proportion between.

    missing: share of frames without a face. limits: LETTERS or PIECES, by what CTC writes.
    """
    near, far = limits
    return (1 - missing) * min(1.0, max(0.0, (far - entropy) / (far - near)))
