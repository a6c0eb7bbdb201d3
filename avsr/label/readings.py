"""Two passes of recognition over the sound of segments: texts, how sure the recogniser is, and how far the passes differ.

    sounds (S,) float32 each -> Readings -> Reading(text, second, confidence, disagreement, language, words)
The first pass is the recogniser's usual search on the sound as it is. The second, by default, is the same recogniser on the
sound in faint noise, and greedy: what it is sure of withstands that. A second model may take its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from avsr import checkpoint
from avsr.checkpoint import Checkpoint
from avsr.errors import AvsrError
from avsr.manifest import TimedWord
from avsr.media.level import is_silent
from avsr.memory import Memory
from avsr.metrics.counting import word_errors
from avsr.modality import check_modality
from avsr.noise.mixing import mix
from avsr.rates import SAMPLE_RATE
from avsr.recogniser import MIN_SAMPLES, Recogniser
from avsr.runtime import pick_device, pick_dtype
from avsr.text import normalise
from avsr.transcript import Word

SECOND_SNR_DB = 15.0                  # of the white noise in which the second pass hears the segment


@dataclass(frozen=True)
class Reading:
    """What the two passes over a segment gave; the fields are those of labels.Label."""

    text: str
    second: str
    confidence: float | None
    lowest: float | None
    disagreement: float | None
    language: str | None
    words: tuple[TimedWord, ...]


SILENCE = Reading("", "", None, None, None, None, ())


class Readings:
    """The two passes. model, second: see checkpoint.load; without `second` the first model hears the sound in faint noise."""

    def __init__(self, model: Checkpoint, second: Checkpoint | None):
        self.first, self.second = Recogniser(model), None if second is None else Recogniser(second)

    def language_of(self, sounds: Sequence[np.ndarray]) -> str:
        """The code of the language that most of these sounds seem to be in; that of the model where it writes only one."""
        heard = [sound for sound in sounds if _can_be_read(sound)]
        if not heard or not self.first.tokenizer.languages:
            return self.first.checkpoint.languages[0]
        with torch.inference_mode():
            return self.first.detect_language(self.first.encode(heard, None, "a"))

    @torch.inference_mode()
    def read(self, sounds: Sequence[np.ndarray], language: str, seed: int) -> list[Reading]:
        """A reading of each sound (S,) float32, in the order given. seed: of the noise in the second pass."""
        heard = [sound for sound in sounds if _can_be_read(sound)]
        made = iter(self._read(heard, language, seed) if heard else [])
        return [next(made) if _can_be_read(sound) else SILENCE for sound in sounds]

    def _read(self, sounds: list[np.ndarray], language: str, seed: int) -> list[Reading]:
        first = self.first
        memory = first.encode(sounds, None, "a")
        found = first.decode(memory, first.search_options(), language)
        words = first.align(memory, [one.tokens for one in found], [len(one) / SAMPLE_RATE for one in sounds], language)
        texts = [first.detokenize(one.tokens) for one in found]
        seconds = self._second_texts(sounds, language, seed)
        return [Reading(text, second, *_confidence(timed), _disagreement(text, second), heard_in, _timed_words(timed))
                for text, second, timed, heard_in in zip(texts, seconds, words, self._languages(memory), strict=True)]

    def _second_texts(self, sounds: list[np.ndarray], language: str, seed: int) -> list[str]:
        if self.second is not None:
            found = self.second.decode(self.second.encode(sounds, None, "a"), None, language)
            return [self.second.detokenize(one.tokens) for one in found]
        rng = np.random.default_rng(seed)
        noisy = [mix(sound, rng.standard_normal(len(sound), np.float32), SECOND_SNR_DB, rng=rng).audio for sound in sounds]
        greedy = self.first.search_options(beam_size=1, temperatures=(0.0,))
        found = self.first.decode(self.first.encode(noisy, None, "a"), greedy, language)
        return [self.first.detokenize(one.tokens) for one in found]

    def _languages(self, memory: Memory) -> list[str | None]:
        """The language detected in each segment by itself; None where the model writes only one."""
        if not self.first.tokenizer.languages:
            return [None] * memory.n_utterances
        each = [memory.select(torch.tensor([i], device=memory.device)) for i in range(memory.n_utterances)]
        return [self.first.detect_language(one) for one in each]


def _can_be_read(sound: np.ndarray) -> bool:
    """Whether there is anything to hear: Whisper writes "you" where there is not."""
    return len(sound) >= MIN_SAMPLES and not is_silent(sound)


def _confidence(words: Sequence[Word]) -> tuple[float, float] | tuple[None, None]:
    """The mean and the lowest confidence of the words; None without words."""
    known = [word.confidence for word in words if word.confidence is not None]
    return (round(float(np.mean(known)), 4), round(min(known), 4)) if known else (None, None)


def _disagreement(first: str, second: str) -> float | None:
    """Word errors of the second text against the first, both normalised, for each word of the first; None without words."""
    score = word_errors(normalise(first), normalise(second)) if normalise(first) else None
    return None if score is None else round(score.errors / score.words, 4)


def _timed_words(words: Sequence[Word]) -> tuple[TimedWord, ...]:
    return tuple(TimedWord(word.text.strip(), round(word.start, 3), round(word.end, 3)) for word in words if word.text.strip())


def load(model: str, second: str | None, device: str) -> Readings:
    """The recogniser or recognisers by name, checked for what labels need. Raises AvsrError, BadCheckpoint, MissingAsset."""
    return Readings(_load(model, device), None if second is None else _load(second, device))


@lru_cache(maxsize=1)
def loaded(model: str, second: str | None, device: str) -> Readings:
    """As `load`, once in each process."""
    return load(model, second, device)


def _load(name: str, device: str) -> Checkpoint:
    target = pick_device(device)
    model = checkpoint.load(name, lips=False, device=target, dtype=pick_dtype(target))
    check_modality(model, "a")
    return model


def fingerprint(readings: Readings, code: str | None) -> dict[str, str | None]:
    """What labels depend on: the recognisers, by name and by the sha256 of their weights, and the language asked for.

    Raises AvsrError for a language that the first model does not write.
    """
    first, second = readings.first.checkpoint, readings.second and readings.second.checkpoint
    if code is not None and code not in first.languages:
        raise AvsrError(f"{first.name}: does not write language {code!r}; it knows {len(first.languages)}.  Leave "
                        "--language out, or use a multilingual model such as --label base.")
    return {"model": first.name, "weights": _weights_hash(first), "second": None if second is None else second.name,
            "second_weights": None if second is None else _weights_hash(second),
            "language": code}


def _weights_hash(model: Checkpoint) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def model_name(name: str) -> str | Path:
    """A model's folder as an absolute path, as worker processes may be elsewhere, or the name itself."""
    return Path(name).resolve() if Path(name).is_dir() else name
