"""Training examples from utterances: sound in noise, mouths, tokens, frame labels.

    Utterance + cache -> Example: log-mel (C, n_mels), mouths uint8, tokens, CTC classes, a label per frame
Every random number of an example comes from one generator, so a resumed run draws what an uninterrupted one would have.
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
from avsr.augment import Augment, augment_sound, hide_frames, make_unreadable, speed
from avsr.cache import Cached, read_entry
from avsr.corrupt import Mouth, fitted
from avsr.errors import BadManifest
from avsr.features import features
from avsr.lips import centre
from avsr.manifest import CacheEntry, TimedWord, Utterance, manifest_path, read
from avsr.rates import VIDEO_FPS, samples_to_frames
from avsr.text import Tokenizer, ctc_classes, normalise, target_tokens

NO_LABEL = -100                                             # torch's cross-entropy passes over these frames
SILENCE = 0                                                 # the label of frames in which nobody speaks


@dataclass(frozen=True)
class ManifestRow:
    """A prepared utterance and the folder of its manifest, which its cache entry is relative to."""

    utterance: Utterance
    base: Path

    @property
    def n_frames(self) -> int:
        """Video frames, as cached."""
        return self.cache.n_frames

    @property
    def cache(self) -> CacheEntry:
        """The cache entry, which every prepared utterance has."""
        assert self.utterance.cache is not None, f"{self.utterance.id} is not prepared"
        return self.utterance.cache

    @property
    def reliable(self) -> bool:
        """False where the manifest's label `trust` says no: the mouth is an example of unreliable video."""
        return self.utterance.labels.get("trust") != "no"


@dataclass(frozen=True)
class ExampleSpec:
    """How an example is made. modality: av, a or v. mismatched: a row whose mouth replaces the right one.

    varied: augmented, and in random noise; otherwise as it is, in noise at snr_db where that is a number.
    """

    modality: str
    mismatched: ManifestRow | None = None
    snr_db: float | None = None
    varied: bool = True


@dataclass(frozen=True)
class Example:
    """One utterance as the network takes it; inputs that are not of its modality are None.

    mel (C, n_mels) float32, or the waveform (S, 1); mouths (T, 88, 88) uint8, seen (T,) bool; tokens and classes: of the text
    for the decoder and for CTC; labels: see `frame_labels`; reliable: whether the mouth belongs to the sound and its row is
    reliable. seed: of augment.augment_mouths, until which mouths are (T, 96, 96); None where they are not augmented.
    """

    id: str
    mel: np.ndarray | None
    mouths: np.ndarray | None
    seen: np.ndarray | None
    tokens: list[int]
    classes: list[int]
    labels: np.ndarray
    reliable: bool
    seed: int | None = None


def read_prepared(manifests: Sequence[Path], split: str, max_seconds: float) -> tuple[list[ManifestRow], list[str]]:
    """The prepared rows of a split, and a line for each that cannot be used. Raises BadManifest where none can be used, or two
    manifests share an id."""
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
                rows.append(ManifestRow(utterance, path.parent))
    if not rows:
        raise _none_of(manifests, split, left_out, splits)
    return rows, left_out


def share_of(rows: Sequence[ManifestRow], share: float, seed: int) -> list[ManifestRow]:
    """A share of each speaker's rows, at least one, in their order; which ones, their ids and the seed alone decide.

    A smaller share is part of a larger one.
    """
    speakers: dict[str | None, list[ManifestRow]] = {}
    for row in rows:
        speakers.setdefault(row.utterance.speaker, []).append(row)
    kept = set()
    for some in speakers.values():
        ids = sorted((zlib.crc32(f"{seed} {row.utterance.id}".encode()), row.utterance.id) for row in some)
        kept |= {name for _, name in ids[:max(1, round(share * len(ids)))]}
    return [row for row in rows if row.utterance.id in kept]


def _none_of(manifests: Sequence[Path], split: str, left_out: Sequence[str], splits: Counter[str]) -> BadManifest:
    """The error for manifests without a prepared utterance of a split. splits: the number of utterances in each."""
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


def sound_of(row: ManifestRow) -> np.ndarray | None:
    """The cached sound of an utterance, (S,) float32, SAMPLE_RATE; None where it was prepared without."""
    return read_entry(row.base, row.cache).audio


def recordings_by_speaker(rows: Sequence[ManifestRow]) -> tuple[dict[str, list[noise.Recorded]], int]:
    """The sounds of all rows that have one, by speaker, to make noise of them; and how many of them have no speaker."""
    own: dict[str, list[noise.Recorded]] = {}
    with_sound = [row for row in rows if "a" in row.cache.modality]
    for row in with_sound:
        if row.utterance.speaker is not None:
            own.setdefault(row.utterance.speaker, []).append(noise.Recorded(row.utterance.id, partial(sound_of, row)))
    return own, sum(row.utterance.speaker is None for row in with_sound)


def label_words(rows: Sequence[ManifestRow], n_labels: int) -> dict[str, int]:
    """Label by word for the most frequent words with known times; 0 is silence."""
    counts = Counter(word.text.lower() for row in rows for word in row.utterance.words or ())
    return {word: i + 1 for i, (word, _) in enumerate(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:n_labels])}


class Examples:
    """Makes examples of rows. It can be pickled, for worker processes."""

    def __init__(self, tokenizer: Path, n_mels: int, labels: Mapping[str, int], mixer: noise.NoiseMixer | None,
                 augment: Augment | None = None, *, p_speed: float = 0.5, p_corrupted: float = 0.0):
        self.tokenizer_path, self.n_mels, self.labels = tokenizer, n_mels, dict(labels)
        self.mixer, self.augment, self.p_speed, self.p_corrupted = mixer, augment, p_speed, p_corrupted
        self.tokenizer: Tokenizer | None = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "tokenizer": None}

    def n_tokens(self, row: ManifestRow) -> int:
        """The number of tokens of its text."""
        return len(self._spell(row.utterance.text)[0])

    def make(self, row: ManifestRow, spec: ExampleSpec, rng: np.random.Generator) -> Example:
        """One example. Raises BadManifest where the cache lacks the modality."""
        utterance, cached = row.utterance, read_entry(row.base, row.cache)
        if spec.mismatched is not None:
            cached = with_mouths_of(cached, read_entry(spec.mismatched.base, spec.mismatched.cache))
        words = utterance.words
        if spec.varied and self.augment is not None and rng.random() < self.p_speed:
            cached, words = self._speed(cached, words, rng)
        mel = mouths = seen = seed = None
        n_frames = cached.n_frames
        if "a" in spec.modality:
            if cached.audio is None:
                raise BadManifest(f"{utterance.id}: sound was asked for, but its cache holds none.  Prepare it again.")
            sound = self._sound(cached.audio, utterance, spec, rng)
            mel, n_frames = features(sound, self.n_mels), samples_to_frames(len(sound))
        if "v" in spec.modality:
            mouths, seen, seed = self._mouths(cached, utterance, spec, rng)
            n_frames = len(mouths)
        tokens, classes = self._spell(utterance.text)
        return Example(utterance.id, mel, mouths, seen, tokens, classes, frame_labels(words, n_frames, self.labels),
                       spec.mismatched is None and row.reliable, seed)

    def _speed(self, cached: Cached, words: tuple[TimedWord, ...] | None,
               rng: np.random.Generator) -> tuple[Cached, tuple[TimedWord, ...] | None]:
        assert self.augment is not None
        times = None if words is None else np.array([(word.start, word.end) for word in words]).reshape(-1, 2)
        factor = 1 + self.augment.speed * rng.uniform(-1, 1)
        images, missing, audio, times = speed(cached.images, cached.missing, cached.audio, factor, times)
        if words is not None and times is not None:
            words = tuple(TimedWord(word.text, *map(float, time)) for word, time in zip(words, times, strict=True))
        return replace(cached, images=images, missing=missing, audio=audio), words

    def _sound(self, audio: np.ndarray, utterance: Utterance, spec: ExampleSpec, rng: np.random.Generator) -> np.ndarray:
        if not spec.varied:
            if spec.snr_db is None or self.mixer is None:
                return audio
            return replace(self.mixer, snrs=(spec.snr_db,), snr_range=None, p_clean=0.0)(audio, utterance.speaker, rng).audio
        if self.mixer is not None:
            audio = self.mixer(audio, utterance.speaker, rng).audio
        return audio if self.augment is None else augment_sound(audio, self.augment, rng)

    def _mouths(self, cached: Cached, utterance: Utterance, spec: ExampleSpec,
               rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int | None]:
        """Mouths, the frames that show a face, and the seed of their augmentation, if any."""
        if cached.images is None or cached.missing is None:
            raise BadManifest(f"{utterance.id}: mouths were asked for, but its cache holds none.  Prepare it again.")
        if not spec.varied or self.augment is None:
            return centre(cached.images), ~cached.missing, None
        images = hide_frames(cached.images, self.augment, rng)
        if self.p_corrupted and rng.random() < self.p_corrupted:
            images = make_unreadable(images, rng)
        return images, ~cached.missing, int(rng.integers(2 ** 63))

    def _spell(self, text: str) -> tuple[list[int], list[int]]:
        if self.tokenizer is None:
            self.tokenizer = Tokenizer(self.tokenizer_path)
        return target_tokens(self.tokenizer, text), ctc_classes(normalise(text))


def with_mouths_of(cached: Cached, other: Cached) -> Cached:
    """`cached` with the mouths of `other`, of its own length: cut, or without a face after their end."""
    assert other.images is not None, "its cache holds no mouths"
    assert other.missing is not None
    images, missing = fitted(Mouth(other.images, other.missing), cached.n_frames)
    return replace(cached, images=images, missing=missing)


def frame_labels(words: Sequence[TimedWord] | None, n_frames: int, labels: Mapping[str, int]) -> np.ndarray:
    """(T,) int64: the label of the word said in the middle of each frame, SILENCE between words, and NO_LABEL in words without
    a label, or everywhere where no times are known."""
    if words is None:
        return np.full(n_frames, NO_LABEL)
    out = np.full(n_frames, SILENCE)
    for word in words:
        out[max(0, round(word.start * VIDEO_FPS)):max(0, round(word.end * VIDEO_FPS))] = labels.get(word.text.lower(), NO_LABEL)
    return out
