"""Training examples for the active-speaker network: clips with their labels, and random pairs of mouths and sounds.

    clips/*.npz of prepare.py, faces.npy of make_faces.py, folders of noise -> Clips, Noises -> Batch
"""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from avsr.augment import Augment, _resampled, augment_clip
from avsr.features import mel_power
from avsr.rates import FEATURES_PER_FRAME, SAMPLES_PER_FRAME

N_MELS = 80
ALIGN_RATE = 1000                                          # units of GRID's .align files in a frame
CONTINUOUS = 0.6                                           # share of mouths and of voices that speak without a pause
STRONG = Augment(scale=0.2, degrees=12, perspective=0.05, elastic=0.3, brightness=60, contrast=0.5, gamma=0.5, blur=0.3,
                 erase=0.1)


@dataclass(frozen=True)
class Clip:
    """images: (T, 96, 96) uint8; power: (4T, 80) float32 of the sound in mel bands; spoken: (T,) bool, True from the first
    word to the last; speaker: who says it; face: who is seen."""

    images: np.ndarray
    power: np.ndarray
    spoken: np.ndarray
    speaker: str
    face: str
    name: str

    def __len__(self) -> int:
        return len(self.images)


def power_of(audio: np.ndarray, n_frames: int) -> np.ndarray:
    """(S,) float32 -> (4T, 80) float32, of exactly T frames: the end is filled with silence or cut."""
    whole = np.zeros(n_frames * SAMPLES_PER_FRAME, np.float32)
    whole[: len(audio)] = audio[: len(whole)]
    return mel_power(whole, N_MELS)


def words(align: Path, power: np.ndarray) -> tuple[float, float]:
    """The frames at which the first word of a GRID clip begins and the last one ends; without .align, by its loudness."""
    if not align.exists():
        heard = np.flatnonzero(power.sum(axis=1) > loud(power) * 10**-2.5)
        return heard[0] / FEATURES_PER_FRAME, heard[-1] / FEATURES_PER_FRAME
    rows = [line.split() for line in align.read_text(encoding="utf-8").splitlines()]
    said = [row for row in rows if len(row) == 3 and row[2] not in ("sil", "sp")]
    return int(said[0][0]) / ALIGN_RATE, int(said[-1][1]) / ALIGN_RATE


def spoken_frames(start: float, end: float, n_frames: int) -> np.ndarray:
    """(T,) bool: the frames whose middle is between `start` and `end`, in frames."""
    middles = np.arange(n_frames) + 0.5
    return (middles >= start) & (middles < end)


def read_clips(folder: Path, grid: Path, splits: tuple[str, ...] = ("train",)) -> list[Clip]:
    """The clips that prepare.py stored in `folder` as SPLIT_SPEAKER_NAME.npz."""
    clips = []
    for path in sorted(folder.glob("*.npz")):
        split, speaker, name = path.stem.split("_")
        if split in splits:
            with np.load(path) as stored:
                images, audio = stored["images"], stored["audio"]
            power = power_of(audio, len(images))
            spoken = spoken_frames(*words(grid / speaker / f"{name}.align", power), len(images))
            clips.append(Clip(images, power, spoken, speaker, speaker, path.name))
    return clips


def read_faces(path: Path, clips: Path, grid: Path, without: Container[str]) -> list[Clip]:
    """The talking portraits of make_faces.py (`path` .npy and .json) whose mouth motion is of no speaker in `without`."""
    rows, frames = json.loads(path.with_suffix(".json").read_text()), np.load(path, mmap_mode="r")
    faces, sounds = [], {}
    for images, row in zip(frames, rows, strict=False):        # as many as are rendered
        _, speaker, name = Path(row["driver"]).stem.split("_")
        if speaker in without:
            continue
        if row["driver"] not in sounds:
            with np.load(clips / row["driver"]) as stored:
                sounds[row["driver"]] = stored["audio"], words(grid / speaker / f"{name}.align", power_of(stored["audio"], 75))
        audio, (start, end) = sounds[row["driver"]]
        n, speed, first = row["n"], row["speed"], row["t0"]
        ratio = Fraction(1 / speed).limit_denominator(50)
        audio = _resampled(audio[round(first * SAMPLES_PER_FRAME):], ratio)
        spoken = spoken_frames((start - first) / speed, (end - first) / speed, n)
        faces.append(Clip(images[:n], power_of(audio, n), spoken, f"{speaker}", f"portrait {row['portrait']}", row["driver"]))
    return faces


def read_noises(folders: list[Path], pattern: str = "**/*.*") -> list[np.ndarray]:
    """The power (4T, 80) of each sound file below the folders."""
    from avsr import media

    out = []
    for folder in folders:
        for path in sorted(folder.glob(pattern)):
            if path.suffix not in (".ogg", ".opus", ".flac", ".wav"):
                continue
            audio = media.read(path).audio
            if audio is not None and len(audio) > 16000:
                out.append(power_of(audio, len(audio) // SAMPLES_PER_FRAME))
    return out


# --- mouths ---

def changed_mouth(images: np.ndarray, rng: np.random.Generator, strong: bool = True) -> np.ndarray:
    """(T, 96, 96) -> (T, 88, 88) uint8 in other light, shape, sharpness; with frames repeated or noisy."""
    images = np.array(images)
    if rng.random() < 0.15:                                # a camera of fewer frames a second
        step = rng.uniform(1.2, 2.2)
        images = images[(np.floor(np.arange(len(images)) / step) * step).astype(int)]
    clip = augment_clip(torch.from_numpy(images), float(images[::8, ::4, ::4].mean()), STRONG, rng)
    x = clip.float()
    way = rng.random()
    if way < 0.3:                                          # a small or a coarsely coded face
        side = int(rng.integers(18, 60))
        x = F.interpolate(F.interpolate(x[:, None], size=side, mode="area" if side > 44 else "bilinear"), size=88,
                          mode="bilinear" if rng.random() < 0.7 else "nearest")[:, 0]
    if rng.random() < 0.3:
        x = x + torch.from_numpy(rng.normal(0, rng.uniform(1, 10), (1, 88, 88)).astype(np.float32)) * torch.from_numpy(
            rng.choice([-1.0, 1.0], len(x)).astype(np.float32))[:, None, None]
    if rng.random() < 0.2:                                 # flicker
        x = x * torch.from_numpy(1 + rng.normal(0, 0.04, len(x)).astype(np.float32))[:, None, None]
    if rng.random() < 0.3:                                 # a mouth that is followed badly
        walk = np.cumsum(rng.normal(0, 0.25, (len(x), 2)), axis=0)
        walk -= np.linspace(0, 1, len(x))[:, None] * walk[-1]
        for t, (dy, dx) in enumerate(np.clip(np.round(walk + rng.normal(0, 0.3, walk.shape)), -4, 4).astype(int)):
            if dy or dx:
                x[t] = torch.roll(x[t], (int(dy), int(dx)), (0, 1))
    return x.clamp(0, 255).to(torch.uint8).numpy()


def resting(clip: Clip, n_frames: int, rng: np.random.Generator) -> np.ndarray:
    """(T, 96, 96) uint8 of a mouth that does not speak: the silence before the first word, to and fro, or one frame."""
    quiet = np.flatnonzero(~clip.spoken[: len(clip) // 2])
    quiet = quiet[: max(1, len(quiet) - 4)]                # lips move before the sound
    if len(quiet) < 3 or rng.random() < 0.25:
        quiet = quiet[:1] if len(quiet) else np.array([0])
    order = np.concatenate([quiet, quiet[::-1]])
    return clip.images[order[(np.arange(n_frames) // max(1, int(rng.integers(1, 3)))) % len(order)]]


# --- sounds ---

def changed_sound(power: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N, 80) power in another voice (the mel axis stretched), another microphone, another room."""
    n = power.shape[1]
    if rng.random() < 0.7:
        place = np.clip(np.arange(n) * np.exp(rng.uniform(-0.12, 0.12)) + rng.uniform(-1, 1), 0, n - 1.001)
        low, share = place.astype(int), place % 1
        power = power[:, low] * (1 - share) + power[:, low + 1] * share
    if rng.random() < 0.6:
        knots = rng.normal(0, 0.4, 6)
        power = power * 10 ** np.interp(np.linspace(0, 5, n), np.arange(6), knots)
    if rng.random() < 0.2:
        power = power * (np.arange(n) < rng.integers(40, 80))
    if rng.random() < 0.3:
        from scipy.signal import lfilter

        keep = np.exp(-rng.uniform(0.15, 0.7))             # per 10 ms: a reverberation time of 0.2 to 0.9 s
        wet = lfilter([1 - keep], [1, -keep], power, axis=0)
        power = power * (1 - (share := rng.uniform(0.2, 0.8))) + wet * share
    return power


def loud(power: np.ndarray) -> float:
    """The power of the loud part of a sound."""
    return float(np.quantile(power.sum(axis=1), 0.8)) + 1e-6


def stretch_of(power: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Any n frames of (N, 80), repeated if it is shorter."""
    if len(power) < n:
        power = np.tile(power, (-(-n // len(power)), 1))
    start = int(rng.integers(len(power) - n + 1))
    return power[start : start + n]


def mixed(power: np.ndarray, other: np.ndarray, db: float) -> np.ndarray:
    """`power` with `other` so loud that `power` is `db` dB above it."""
    return power + other * (loud(power) / loud(other) * 10 ** (-db / 10))


# --- pairs ---

@dataclass(frozen=True)
class Batch:
    """B mouths with V sounds each.

    mouths: (B, T, 88, 88) uint8; seen: (B, T) bool; power: (B * V, 4T, 80) float32; labels: (B * V, T) float32, 1 where the
    mouth makes the sound; weights: (B * V, T) float32; lags: (B,) int64, by how many frames the lips of sound 0 are late, and
    talking: (B,) bool, where there is such a lag
    """

    mouths: Tensor
    seen: Tensor
    power: Tensor
    labels: Tensor
    weights: Tensor
    lags: Tensor
    talking: Tensor


class Sampler:
    """Draws batches. share: of portraits among the mouths; of the speakers each is drawn by the root of the number of clips."""

    def __init__(self, real: list[Clip], synthetic: list[Clip], voices: list[np.ndarray], noises: list[np.ndarray],
                 share: float, n_frames: int = 56):
        self.by_speaker: dict[str, list[Clip]] = {}
        for clip in real:
            self.by_speaker.setdefault(clip.speaker, []).append(clip)
        sizes = {speaker: len(clips) ** 0.5 for speaker, clips in self.by_speaker.items()}
        self.speakers = list(sizes)
        self.chances = np.array(list(sizes.values())) / sum(sizes.values())
        self.real, self.synthetic, self.voices, self.noises = real, synthetic, voices, noises
        self.share, self.n_frames = share if synthetic else 0.0, n_frames

    def clip(self, rng: np.random.Generator) -> Clip:
        if rng.random() < self.share:
            return self.synthetic[rng.integers(len(self.synthetic))]
        clips = self.by_speaker[self.speakers[rng.choice(len(self.speakers), p=self.chances)]]
        return clips[rng.integers(len(clips))]

    def without_pauses(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Sentences of the same person one after the other, cut hard, as GRID's clips of one sentence in silence never are."""
        pool = self.by_speaker[clip.speaker] if clip.face == clip.speaker else [clip]
        parts, length, following = [], 0, clip
        while length < self.n_frames + 20:
            said = np.flatnonzero(following.spoken)
            low = max(0, said[0] - int(rng.integers(4)) + int(rng.integers(12)) * (rng.random() < 0.3))
            high = min(len(following), said[-1] + 1 + int(rng.integers(4)))
            if high - low < 8:
                return clip
            parts.append((following, low, high))
            length += high - low
            following = pool[rng.integers(len(pool))]
            if not following.spoken.any():
                following = clip
        k = FEATURES_PER_FRAME
        return replace(clip, images=np.concatenate([one.images[low:high] for one, low, high in parts]),
                       power=np.concatenate([one.power[low * k : high * k] for one, low, high in parts]),
                       spoken=np.concatenate([one.spoken[low:high] for one, low, high in parts]))

    def other_voice(self, clip: Clip, rng: np.random.Generator) -> np.ndarray:
        """(4T, 80) of somebody else, or of the same speaker saying something else."""
        n, way = self.n_frames * FEATURES_PER_FRAME, rng.random()
        if way < 0.3:
            return stretch_of(self.voices[rng.integers(len(self.voices))], n, rng)
        other = self._other(self.by_speaker.get(clip.speaker, self.real) if way < 0.65 else None, clip, rng)
        return self._cut(self.without_pauses(other, rng) if rng.random() < CONTINUOUS else other, rng)[0]

    def not_this_mouth(self, clip: Clip, rng: np.random.Generator) -> np.ndarray:
        """(4T, 80) of somebody off screen, of noise, or silence."""
        n, way = self.n_frames * FEATURES_PER_FRAME, rng.random()
        if way < 0.8:
            return self.other_voice(clip, rng)
        if way < 0.9 and self.noises:
            return stretch_of(self.noises[rng.integers(len(self.noises))], n, rng)
        return np.full((n, N_MELS), 1e-9, np.float32)

    def _other(self, pool: list[Clip] | None, clip: Clip, rng: np.random.Generator) -> Clip:
        while True:
            other = self.clip(rng) if pool is None else pool[rng.integers(len(pool))]
            if other.spoken.any() and (other.name != clip.name or (pool is not None and len(pool) == 1)):
                return other

    def _cut(self, clip: Clip, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        start = int(rng.integers(len(clip) - self.n_frames + 1)) if len(clip) > self.n_frames else 0
        rows = slice(start * FEATURES_PER_FRAME, (start + self.n_frames) * FEATURES_PER_FRAME)
        power = clip.power[rows]
        return np.pad(power, ((0, self.n_frames * FEATURES_PER_FRAME - len(power)), (0, 0))), start

    def finished(self, power: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A sound at another level, mostly in some noise."""
        power = changed_sound(power, rng)
        way = rng.random()
        if way < 0.45 and self.noises:
            noise = stretch_of(self.noises[rng.integers(len(self.noises))], len(power), rng)
            power = mixed(power, noise, rng.uniform(0, 25))
        elif way < 0.6:
            steady = np.abs(rng.normal(1, 0.4, power.shape)) * np.linspace(1, rng.uniform(1, 6), power.shape[1])
            power = mixed(power, steady, rng.uniform(5, 30))
        return (power * 10 ** rng.uniform(-2.0, 1.0)).astype(np.float32)

    def one(self, rng: np.random.Generator):
        """One mouth with 4 sounds: in step or late; another's, or spliced; a mixture or a splice; off screen or silence."""
        T, K = self.n_frames, FEATURES_PER_FRAME
        clip = self.clip(rng)
        while len(clip) < T + 4 or not clip.spoken.any():
            clip = self.clip(rng)
        whole = clip
        if rng.random() < CONTINUOUS:
            clip = self.without_pauses(clip, rng)
        start = int(rng.integers(len(clip) - T + 1))
        images, spoken = clip.images[start : start + T], clip.spoken[start : start + T].astype(np.float32)
        own = clip.power[start * K : (start + T) * K]
        edges = np.abs(np.diff(np.r_[spoken[:1], spoken])) > 0
        firm = (np.convolve(edges, np.ones(5), "same") == 0).astype(np.float32)
        talking = rng.random() > 0.1
        if not talking:
            images, spoken, firm = resting(whole, T, rng), np.zeros(T, np.float32), np.ones(T, np.float32)
        sounds, labels, weights = [], [], []

        def add(power, label, weight):
            sounds.append(self.finished(power, rng)), labels.append(label), weights.append(weight)

        late = int(rng.integers(len(clip) - T + 1))        # the frame with which the sound starts
        shifted = clip.power[late * K : (late + T) * K]
        lag = late - start
        in_step = abs(lag) <= 1
        unsure = abs(lag) == 2
        add(shifted, spoken * in_step, firm * (0.0 if unsure else 1.0))
        add(own, spoken, firm)
        other = self.other_voice(clip, rng)
        if rng.random() < 0.5:                             # the sound changes to another's, or from it
            at = int(rng.integers(12, T - 12))
            first = rng.random() < 0.5
            mine = (np.arange(T) < at) == first
            power = np.where(np.repeat(mine, K)[:, None], own, other * (loud(own) / loud(other)))
            soft = (np.abs(np.arange(T) + 0.5 - at) > 3).astype(np.float32)
            add(power, spoken * mine, firm * soft)
        else:
            add(mixed(own, other, rng.uniform(-3, 12)), spoken, firm)
        add(self.not_this_mouth(clip, rng), np.zeros(T, np.float32), np.ones(T, np.float32))
        mouths = changed_mouth(images, rng)
        seen = np.ones(T, bool)
        if rng.random() < 0.12:
            n = int(rng.integers(3, 15))
            at = int(rng.integers(T - n))
            seen[at : at + n] = False
        return mouths, seen, np.stack(sounds), np.stack(labels), np.stack(weights) * seen, lag, talking

    def batch(self, size: int, rng: np.random.Generator) -> Batch:
        parts = [self.one(rng) for _ in range(size)]
        mouths, seen, power, labels, weights, lags, talking = zip(*parts, strict=True)
        joined = (torch.from_numpy(np.concatenate(some)).float() for some in (power, labels, weights))
        return Batch(torch.from_numpy(np.stack(mouths)), torch.from_numpy(np.stack(seen)), *joined, torch.tensor(lags),
                     torch.tensor(talking))
