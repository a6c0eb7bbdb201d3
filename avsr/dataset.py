"""Utterances to what the network learns from: sound in noise, mouths, tokens, frame labels.

    Utterance + cache -> Example: log-mel (C, n_mels), mouths uint8, tokens, CTC classes, a label per frame
All chance comes from one generator per example, so that a resumed run draws what an undisturbed one would have drawn.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from avsr import noise
from avsr.augment import Augment, augment_sound, centre, hide_frames, ruin, speed
from avsr.cache import Cached, read_entry
from avsr.corrupt import fitted
from avsr.errors import BadManifest
from avsr.features import features
from avsr.manifest import TimedWord, Utterance, manifest_path, read
from avsr.rates import VIDEO_FPS, samples_to_frames
from avsr.text import Tokenizer, ctc_classes, normalise, target_tokens

NO_LABEL = -100                                             # torch's cross-entropy passes over these frames
SILENCE = 0                                                 # the label of frames in which nobody speaks


@dataclass(frozen=True)
class Row:
    """An utterance and where its manifest lies, which its cache entry is relative to."""

    utterance: Utterance
    base: Path

    @property
    def n_frames(self) -> int:
        """Video frames, as cached."""
        return self.utterance.cache.n_frames

    @property
    def believed(self) -> bool:
        """False where the manifest's label `trust` says no: such a mouth only teaches not to believe it."""
        return self.utterance.labels.get("trust") != "no"


@dataclass(frozen=True)
class Draw:
    """How an example is to be made. modality: av, a or v. foreign: a row whose mouth replaces the right one.

    varied: augmented, and in noise by chance; else in noise at snr_db. sound: number of the sound's version, where an
    utterance has only so many; None where chance has no end.
    """

    modality: str
    foreign: Row | None = None
    snr_db: float | None = None
    varied: bool = True
    sound: int | None = None


@dataclass(frozen=True)
class Example:
    """One utterance as the network takes it; what the modality leaves out is None.

    mel (C, n_mels) float32, or the waveform (S, 1); mouths (T, 88, 88) uint8, seen (T,) bool; tokens, classes: of text and of
    CTC; labels (T,) int64 with NO_LABEL where nothing is known; matched: whether the mouth is to be believed: it belongs to the
    sound, and the manifest has no label `trust` that says no. sound: name of this version of the sound, where there are only
    so many. seed: from which augment.augment_mouths draws for these mouths, which are (T, 96, 96) until then; None where they
    are not augmented.
    """

    id: str
    mel: np.ndarray | None
    mouths: np.ndarray | None
    seen: np.ndarray | None
    tokens: list[int]
    classes: list[int]
    labels: np.ndarray
    matched: bool
    sound: str | None = None
    seed: int | None = None


def read_rows(manifests: Sequence[Path], split: str, max_seconds: float) -> tuple[list[Row], list[str]]:
    """The prepared rows of a split, and a line for each that cannot be used. Raises BadManifest when none can, or where
    two manifests have an id in common."""
    rows, left_out, homes, splits = [], [], {}, Counter()
    for path in map(manifest_path, manifests):
        for utterance in read(path):
            splits[utterance.split] += 1
            if utterance.split != split:
                continue
            if utterance.id in homes:
                raise BadManifest(f"{path}: id {utterance.id!r} is in {homes[utterance.id]} too, of split {split!r} in both.  "
                                  "Name each manifest once, and give corpora ids of their own.")
            homes[utterance.id] = path
            if utterance.cache is None:
                left_out.append(f"{utterance.id}: not prepared")
            elif utterance.cache.n_frames == 0:
                left_out.append(f"{utterance.id}: 0 frames")
            elif utterance.cache.n_frames > max_seconds * VIDEO_FPS:
                left_out.append(f"{utterance.id}: {utterance.cache.n_frames / VIDEO_FPS:.1f} s, limit {max_seconds:g}")
            else:
                rows.append(Row(utterance, path.parent))
    if not rows:
        raise _none_of(manifests, split, left_out, splits)
    return rows, left_out


def _none_of(manifests: Sequence[Path], split: str, left_out: Sequence[str], splits: Counter[str]) -> BadManifest:
    """The error for manifests without a prepared utterance of a split. splits: how many utterances are in each."""
    names = ", ".join(os.path.normpath(path) for path in manifests)
    there = ", ".join(f"{count} of {name!r}" for name, count in splits.most_common()) or "no utterance at all"
    if left_out:
        remedy = f"The first one left out is {left_out[0]}; see data.max_seconds, or run avsr prepare again."
    elif split == "valid" and splits["train"] > 1:
        remedy = "Run avsr prepare again with --valid-share 0.05, which draws some."
    elif split == "valid":
        remedy = ("Add clips and run avsr prepare again, which draws some of two training utterances or more; or name another "
                  "manifest in data.valid.")
    else:
        remedy = "Make the manifest with avsr prepare, from a corpus or a split list that has this split."
    return BadManifest(f"{names}: no prepared utterance of split {split!r} ({len(left_out)} left out), but {there}.  {remedy}")


def sound_of(row: Row) -> np.ndarray | None:
    """The cached sound of an utterance, (S,) float32, SAMPLE_RATE; None where it was prepared without."""
    return read_entry(row.base, row.utterance.cache).audio


def recordings_by_speaker(rows: Sequence[Row]) -> tuple[dict[str, list[noise.Recorded]], int]:
    """The sounds of all rows that have one, as noise is made of them, by speaker; and how many of them have no speaker."""
    own: dict[str, list[noise.Recorded]] = {}
    heard = [row for row in rows if "a" in row.utterance.cache.modality]
    for row in heard:
        if row.utterance.speaker is not None:
            own.setdefault(row.utterance.speaker, []).append(noise.Recorded(row.utterance.id, partial(sound_of, row)))
    return own, sum(row.utterance.speaker is None for row in heard)


def label_words(rows: Sequence[Row], n_labels: int) -> dict[str, int]:
    """Label by word for the most frequent words with known times; 0 is silence."""
    counts = Counter(word.text.lower() for row in rows for word in row.utterance.words or ())
    return {word: i + 1 for i, (word, _) in enumerate(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:n_labels])}


class Examples:
    """Makes examples of rows. Can be pickled, so that worker processes can hold one each."""

    def __init__(self, tokenizer: Path, n_mels: int, labels: Mapping[str, int], mixer: noise.NoiseMixer | None,
                 augment: Augment | None = None, *, p_speed: float = 0.5, p_ruined: float = 0.0):
        self.tokenizer_path, self.n_mels, self.labels = tokenizer, n_mels, dict(labels)
        self.mixer, self.augment, self.p_speed, self.p_ruined = mixer, augment, p_speed, p_ruined
        self.tokenizer: Tokenizer | None = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "tokenizer": None}

    def n_tokens(self, row: Row) -> int:
        """How many tokens its text has."""
        return len(self._spell(row.utterance.text)[0])

    def make(self, row: Row, draw: Draw, rng: np.random.Generator) -> Example:
        """One example. Raises BadManifest when the cache lacks what is asked for."""
        utterance, cached = row.utterance, read_entry(row.base, row.utterance.cache)
        if draw.foreign is not None:
            cached = _dubbed(cached, read_entry(draw.foreign.base, draw.foreign.utterance.cache))
        words = utterance.words
        if draw.varied and self.augment is not None and rng.random() < self.p_speed:
            cached, words = self._speed(cached, words, rng)
        mel = mouths = seen = seed = None
        if "a" in draw.modality:
            if cached.audio is None:
                raise BadManifest(f"{utterance.id}: sound was asked for, but its cache holds none.  Prepare it again.")
            own = rng if draw.sound is None else np.random.default_rng((draw.sound, zlib.crc32(utterance.id.encode())))
            sound = self._sound(cached.audio, utterance, draw, own)
            mel, n_frames = features(sound, self.n_mels).numpy(), samples_to_frames(len(sound))
        if "v" in draw.modality:
            mouths, seen, seed = self._sight(cached, utterance, draw, rng)
            n_frames = len(mouths)
        tokens, classes = self._spell(utterance.text)
        return Example(utterance.id, mel, mouths, seen, tokens, classes, frame_labels(words, n_frames, self.labels),
                       draw.foreign is None and row.believed,
                       None if draw.sound is None else f"{utterance.id}#{draw.sound}", seed)

    def _speed(self, cached: Cached, words: tuple[TimedWord, ...] | None,
               rng: np.random.Generator) -> tuple[Cached, tuple[TimedWord, ...] | None]:
        times = None if words is None else np.array([(word.start, word.end) for word in words]).reshape(-1, 2)
        factor = 1 + self.augment.speed * rng.uniform(-1, 1)
        images, missing, audio, times = speed(cached.images, cached.missing, cached.audio, factor, times)
        if words is not None:
            words = tuple(TimedWord(word.text, *map(float, time)) for word, time in zip(words, times, strict=True))
        return replace(cached, images=images, missing=missing, audio=audio), words

    def _sound(self, audio: np.ndarray, utterance: Utterance, draw: Draw, rng: np.random.Generator) -> np.ndarray:
        if not draw.varied:
            if draw.snr_db is None or self.mixer is None:
                return audio
            return replace(self.mixer, snrs=(draw.snr_db,), snr_range=None, p_clean=0.0)(audio, utterance.speaker, rng).audio
        if self.mixer is not None:
            audio = self.mixer(audio, utterance.speaker, rng).audio
        return audio if self.augment is None else augment_sound(audio, self.augment, rng)

    def _sight(self, cached: Cached, utterance: Utterance, draw: Draw,
               rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int | None]:
        """Mouths, where they are seen, and the seed of their augmentation, if any."""
        if cached.images is None:
            raise BadManifest(f"{utterance.id}: lips were asked for, but its cache holds none.  Prepare it again.")
        if not draw.varied or self.augment is None:
            return centre(cached.images), ~cached.missing, None
        images = hide_frames(cached.images, self.augment, rng)
        if self.p_ruined and rng.random() < self.p_ruined:
            images = ruin(images, rng)
        return images, ~cached.missing, int(rng.integers(2 ** 63))

    def _spell(self, text: str) -> tuple[list[int], list[int]]:
        """Tokens and CTC classes."""
        if self.tokenizer is None:
            self.tokenizer = Tokenizer(self.tokenizer_path)
        return target_tokens(self.tokenizer, text), ctc_classes(normalise(text))


def _dubbed(heard: Cached, seen: Cached) -> Cached:
    """The sound of one with the mouth of another, as long as the sound: cut, or nobody seen after its end."""
    images, missing = fitted((seen.images, seen.missing), heard.n_frames)
    return replace(heard, images=images, missing=missing)


def frame_labels(words: Sequence[TimedWord] | None, n_frames: int, labels: Mapping[str, int]) -> np.ndarray:
    """(T,) int64: the label of the word said in the middle of each frame, SILENCE between words, NO_LABEL for words
    without a label, and everywhere when no times are known."""
    if words is None:
        return np.full(n_frames, NO_LABEL)
    out = np.full(n_frames, SILENCE)
    for word in words:
        out[max(0, round(word.start * VIDEO_FPS)):max(0, round(word.end * VIDEO_FPS))] = labels.get(word.text.lower(), NO_LABEL)
    return out
