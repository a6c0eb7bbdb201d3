"""Scenes to test active-speaker detection: GRID's people side by side, with sounds of which it is known who makes them.

    GRID -> Scene (who shows what, when; every column's sound) -> picture -> tracker and cropper -> crops (n, T, H, W) uint8
    Scene -> {name of a sound: SceneSound (what is heard, who makes it)}
Kinds of scenes: in "dubbed" all talk all the time and one of them is heard; in "turns" they say a sentence each in turn, and
the others listen; in "listening" nobody talks. Everything follows from the seed. Crops are kept in a folder.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from avsr import media
from avsr.corpora import grid
from avsr.faces import FaceTracker
from avsr.lips import MouthCropper, MouthCropSettings
from avsr.manifest import Utterance
from avsr.noise.mixing import active_level, mix, rms_level
from avsr.rates import SAMPLES_PER_FRAME, VIDEO_FPS

N_FRAMES = 150                                     # of a scene: 6 s
HEIGHT, LEFT, WIDTH, BORDER = 288, 56, 224, 16     # pixels of a tile: GRID's height, the columns with the face, its border
GROUPS = {"s1": "known", "s4": "hardly known", "s26": "hardly known", "s31": "hardly known"}      # others: unknown
SPLITS = {"valid": ("valid",), "test": ("test", "unseen")}
N_SCENES = {"dubbed": 8, "turns": 8, "listening": 3}        # of each group of people
CHANGE = 3                                         # frames on either side of a change of speaker that are counted apart
LOUD_DB = 12                                       # below the active speech level, speech where no times of words are given
SNRS = (10, 0, -5)                                 # dB
MIN_REST = 8                                       # frames of a mouth at rest


@dataclass(frozen=True)
class Part:
    """Frames of an utterance, one after the other, in one column of a scene. spoken: with their sound."""

    utterance: str
    frames: tuple[int, ...]
    spoken: bool


@dataclass(frozen=True)
class Scene:
    """People side by side. columns: what each shows. turns: (T,) the column whose turn it is; -1 where it is nobody's."""

    id: str
    kind: str
    group: str
    people: tuple[str, ...]
    columns: tuple[tuple[Part, ...], ...]
    turns: tuple[int, ...]
    off_screen: str                                # an utterance of somebody else


@dataclass(frozen=True)
class SceneSound:
    """What is heard, and who makes it.

    audio: (S,) float32. speaking: (n, T) bool, who is heard in each frame. kind: (T,) "speech" (somebody is heard), "pause"
    (nobody, between words), "change" (near a change of speaker).
    """

    audio: np.ndarray
    speaking: np.ndarray
    kind: np.ndarray


class Grid:
    """GRID's clips of a split. people: the utterances of each person."""

    def __init__(self, folder: Path, split: str):
        rows = [row for row in grid.read(folder).utterances if row.split in SPLITS[split]]
        self.split, self.rows = split, {row.id: row for row in rows}
        self.people: dict[str, list[Utterance]] = {}
        for row in rows:
            assert row.speaker is not None
            self.people.setdefault(row.speaker, []).append(row)

    def clip(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The tile (T, HEIGHT, WIDTH, 3) uint8 and the sound (S,) float32 of an utterance."""
        return _clip(self.rows[name].media)

    def speech(self, name: str) -> tuple[int, int]:
        """The first frame of speech in an utterance and the one after the last, by its words or else by its level."""
        words = self.rows[name].words
        if words:
            return round(words[0].start * VIDEO_FPS), round(words[-1].end * VIDEO_FPS)
        audio = self.clip(name)[1]
        power = np.square(audio[: len(audio) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME].reshape(-1, SAMPLES_PER_FRAME))
        loud = 10 * np.log10(power.mean(axis=1) + 1e-12) > active_level(audio) - LOUD_DB
        steady = np.flatnonzero(loud & (np.convolve(loud, np.ones(3), "same") >= 2))
        return int(steady[0]), int(steady[-1]) + 1

    def rest(self, person: str) -> Part:
        """The frames in which a person's mouth rests, after a sentence or before it, the most in a few utterances."""
        found = []
        for row in self.people[person][:6]:
            start, end = self.speech(row.id)
            n_frames = len(self.clip(row.id)[0])
            found += [Part(row.id, tuple(range(end + 7, n_frames)), False), Part(row.id, tuple(range(start - 5)), False)]
        best = max(found, key=lambda part: len(part.frames))
        assert len(best.frames) >= MIN_REST, f"{person}: {len(best.frames)} frames at rest"
        return best


@lru_cache(maxsize=48)
def _clip(path: str) -> tuple[np.ndarray, np.ndarray]:
    import cv2

    clip = media.read(path)
    assert clip.video is not None, path
    assert clip.audio is not None, path
    scale = HEIGHT / clip.video.shape[1]
    frames = clip.video if scale == 1 else [cv2.resize(f, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
                                            for f in clip.video]
    return np.stack([frame[:, LEFT : LEFT + WIDTH] for frame in frames]), clip.audio


def make_scenes(corpus: Grid, n_scenes: dict[str, int] = N_SCENES) -> list[Scene]:
    """Scenes of two and three people by turns, of each group of people and of all mixed."""
    groups: dict[str, list[str]] = {}
    for person in sorted(corpus.people):
        groups.setdefault(GROUPS.get(person, "unknown"), []).append(person)
    scenes = []
    for group, people in [*groups.items(), ("mixed", sorted(corpus.people))]:
        for kind, number in n_scenes.items():
            for i in range(number):
                name = f"{corpus.split}-{kind}-{group.replace(' ', '-')}-{i}"
                rng = np.random.default_rng(zlib.crc32(name.encode()))
                here = rng.permutation(people)[: 2 + i % 2].tolist() if len(people) > 1 else people * (2 + i % 2)
                scenes.append(_scene(corpus, name, kind, group, here, rng))
    return scenes


def _scene(corpus: Grid, name: str, kind: str, group: str, people: list[str], rng: np.random.Generator) -> Scene:
    if kind == "turns":
        columns, turns = _in_turn(corpus, people, rng)
    elif kind == "dubbed":
        columns = [_talking(corpus, person, i, len(people), rng) for i, person in enumerate(people)]
        turns = _switches(len(people), rng)
    else:
        columns, turns = [[_resting(corpus.rest(person), N_FRAMES, rng)] for person in people], [-1] * N_FRAMES
    shown = {part.utterance for column in columns for part in column}
    others = [row for person, rows in corpus.people.items() if person not in people for row in rows]
    others = others or [row for rows in corpus.people.values() for row in rows if row.id not in shown]
    off_screen = str(rng.choice([row.id for row in others]))
    return Scene(name, kind, group, tuple(people), tuple(map(tuple, columns)), tuple(turns), off_screen)


def _talking(corpus: Grid, person: str, place: int, of: int, rng: np.random.Generator) -> list[Part]:
    """Sentences of one person without a pause. place: which share of the sentences, where a person is there several times."""
    rows = [corpus.people[person][i] for i in rng.permutation(len(corpus.people[person]))]
    rows = rows[place::of] if len(rows) >= 4 * of else rows
    parts: list[Part] = []
    left, i = N_FRAMES, 0
    while left > 0:
        row = rows[i % len(rows)]
        start, end = corpus.speech(row.id)
        frames = range(max(0, start - 1), min(end + 1, len(corpus.clip(row.id)[0])))[:left]
        parts.append(Part(row.id, tuple(frames), True))
        left, i = left - len(frames), i + 1
    return parts


def _switches(n: int, rng: np.random.Generator) -> list[int]:
    """Which of `n` columns is heard in each frame: another one every 1 to 3 s."""
    turns, now = [], int(rng.integers(n))
    while len(turns) < N_FRAMES:
        turns += [now] * int(rng.integers(VIDEO_FPS, 3 * VIDEO_FPS + 1))
        now = (now + int(rng.integers(1, n))) % n
    return turns[:N_FRAMES]


def _in_turn(corpus: Grid, people: list[str], rng: np.random.Generator) -> tuple[list[list[Part]], list[int]]:
    """A sentence of one person, then one of another; those who do not speak rest."""
    columns: list[list[Part]] = [[] for _ in people]
    rest, turns = [corpus.rest(person) for person in people], []
    now, used = int(rng.integers(len(people))), set()
    while len(turns) < N_FRAMES:
        rows = corpus.people[people[now]]
        row = rows[int(rng.choice([i for i in range(len(rows)) if rows[i].id not in used] or range(len(rows))))]
        used.add(row.id)
        start, end = corpus.speech(row.id)
        frames = range(max(0, start - 6), min(end + 7, len(corpus.clip(row.id)[0])))[: N_FRAMES - len(turns)]
        for i, column in enumerate(columns):
            column.append(Part(row.id, tuple(frames), True) if i == now else _resting(rest[i], len(frames), rng))
        turns += [now] * len(frames)
        now = (now + int(rng.integers(1, len(people)))) % len(people)
    return columns, turns


def _resting(rest: Part, n_frames: int, rng: np.random.Generator) -> Part:
    """Frames at rest forwards, backwards, forwards and so on, from any of them."""
    there_and_back = [*rest.frames, *rest.frames[-2:0:-1]]
    start = int(rng.integers(len(there_and_back)))
    return Part(rest.utterance, tuple(there_and_back[(start + i) % len(there_and_back)] for i in range(n_frames)), False)


def picture(scene: Scene, corpus: Grid) -> np.ndarray:
    """The frames (T, H, W, 3) uint8 RGB of a scene."""
    n = len(scene.people)
    out = np.full((N_FRAMES, HEIGHT + 2 * BORDER, n * WIDTH + (n + 1) * BORDER, 3), 60, np.uint8)
    for i, column in enumerate(scene.columns):
        tiles = np.concatenate([corpus.clip(part.utterance)[0][list(part.frames)] for part in column])
        left = BORDER + i * (WIDTH + BORDER)
        out[:, BORDER : BORDER + HEIGHT, left : left + WIDTH] = tiles
    return out


def column_sound(column: Sequence[Part], corpus: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The sound (S,) float32 of one column, and in which frames (T,) bool there is speech in it."""
    sound, speech = [], []
    for part in column:
        audio = corpus.clip(part.utterance)[1]
        low, high = part.frames[0] * SAMPLES_PER_FRAME, (part.frames[-1] + 1) * SAMPLES_PER_FRAME
        n_samples = len(part.frames) * SAMPLES_PER_FRAME
        heard = audio[low:high] if part.spoken else np.zeros(n_samples, np.float32)
        sound.append(np.pad(heard, (0, n_samples - len(heard))))
        start, end = corpus.speech(part.utterance)
        speech += [part.spoken and start <= frame < end for frame in part.frames]
    return np.concatenate(sound), np.array(speech)


def sounds(scene: Scene, corpus: Grid) -> dict[str, SceneSound]:
    """All sounds of a scene, by name."""
    rng = np.random.default_rng(zlib.crc32(f"{scene.id} sound".encode()))
    found = [column_sound(column, corpus) for column in scene.columns]
    audio, speech = np.stack([one for one, _ in found]), np.stack([one for _, one in found])
    out = {}
    if scene.kind != "listening":
        one = _one_heard(scene, audio, speech)
        noises = {"pink": _pink(len(one.audio), rng), "babble": _babble(corpus, scene, len(one.audio), rng)}
        out["one"] = one
        out |= {f"{name} {snr_db} dB": SceneSound(mix(one.audio, noise, snr_db, rng=rng).audio, one.speaking, one.kind)
                for name, noise in noises.items() for snr_db in SNRS}
    if scene.kind == "dubbed":
        both = speech[0] & speech[1]
        speaking = np.zeros_like(speech)
        speaking[:2] = both
        out["two at once"] = SceneSound(audio[0] + audio[1], speaking, np.where(both, "speech", "pause"))
    if scene.kind != "turns":
        nobody = np.zeros_like(speech)
        heard, active = _off_screen(scene, corpus)
        out["off screen"] = SceneSound(heard, nobody, np.where(active, "speech", "pause"))
        out["silence"] = SceneSound(_level(_pink(len(heard), rng), -70), nobody, np.full(N_FRAMES, "speech"))
        out["noise alone"] = SceneSound(_level(_pink(len(heard), rng), -30), nobody, np.full(N_FRAMES, "speech"))
    return out


def _one_heard(scene: Scene, audio: np.ndarray, speech: np.ndarray) -> SceneSound:
    turns, frames = np.array(scene.turns), np.arange(N_FRAMES)
    heard = audio.reshape(len(audio), N_FRAMES, SAMPLES_PER_FRAME)[turns, frames].reshape(-1)
    active = speech[turns, frames]
    speaking = (turns == np.arange(len(audio))[:, None]) & active
    changes = np.flatnonzero(np.diff(turns)) + 1
    near = ((frames[:, None] >= changes - CHANGE) & (frames[:, None] < changes + CHANGE)).any(axis=1)
    near &= scene.kind == "dubbed"                           # those who speak in turn pause in between
    return SceneSound(heard, speaking, np.where(near, "change", np.where(active, "speech", "pause")))


def _off_screen(scene: Scene, corpus: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The sound of somebody who is not in the picture, again and again, and where there is speech in it."""
    start, end = corpus.speech(scene.off_screen)
    n_frames = len(corpus.clip(scene.off_screen)[0])
    frames = range(max(0, start - 3), min(end + 3, n_frames))
    part = Part(scene.off_screen, tuple(frames), True)
    sound, speech = column_sound([part] * (N_FRAMES // len(frames) + 1), corpus)
    return sound[: N_FRAMES * SAMPLES_PER_FRAME], speech[:N_FRAMES]


def _babble(corpus: Grid, scene: Scene, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Six utterances at once that are not in the scene, each from another start."""
    shown = {part.utterance for column in scene.columns for part in column}
    names = [name for name in corpus.rows if name not in shown] or list(corpus.rows)
    out = np.zeros(n_samples, np.float32)
    for name in rng.permutation(names)[:6]:
        start, end = corpus.speech(str(name))
        voice = corpus.clip(str(name))[1][start * SAMPLES_PER_FRAME : end * SAMPLES_PER_FRAME]
        out += np.roll(np.resize(voice, n_samples), int(rng.integers(n_samples)))
    return out


def _pink(n_samples: int, rng: np.random.Generator) -> np.ndarray:
    spectrum = np.fft.rfft(rng.standard_normal(n_samples)) / np.sqrt(np.arange(n_samples // 2 + 1) + 1)
    return np.fft.irfft(spectrum, n_samples).astype(np.float32)


def _level(audio: np.ndarray, level_db: float) -> np.ndarray:
    return (audio * 10 ** ((level_db - rms_level(audio)) / 20)).astype(np.float32)


class Crops:
    """Images (n, T, size, size) uint8 and missing (n, T) bool of the columns of scenes, kept in a folder.

    wanted: the settings, all of the same landmarks, so that the faces are looked for once for all of them.
    """

    def __init__(self, corpus: Grid, wanted: Sequence[MouthCropSettings], folder: Path):
        self.corpus, self.wanted, self.folder = corpus, list(wanted), folder

    def of_scene(self, scene: Scene, settings: MouthCropSettings) -> tuple[np.ndarray, np.ndarray]:
        """The crops of a scene, in the order of its columns."""
        return self._kept(scene.id, [asdict(part) for column in scene.columns for part in column], settings,
                          lambda: (picture(scene, self.corpus), len(scene.people)))

    def of_clip(self, name: str, settings: MouthCropSettings) -> tuple[np.ndarray, np.ndarray]:
        """The same of a single clip: images (T, size, size) uint8 and missing (T,) bool."""
        images, missing = self._kept(f"{self.corpus.split}-clip-{name}", name, settings, lambda: (self.corpus.clip(name)[0], 1))
        return images[0], missing[0]

    def _kept(self, name: str, about: object, settings: MouthCropSettings,
              make: Callable[[], tuple[np.ndarray, int]]) -> tuple[np.ndarray, np.ndarray]:
        paths = [self.folder / f"{name}-{_key(about, one)}.npz" for one in self.wanted]
        if not paths[self.wanted.index(settings)].exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            for path, (images, missing) in zip(paths, cut(*make(), self.wanted), strict=True):
                np.savez(path.with_suffix(".part.npz"), images=images, missing=missing)
                path.with_suffix(".part.npz").rename(path)
        loaded = np.load(paths[self.wanted.index(settings)])
        return loaded["images"], loaded["missing"]


def _key(about: object, settings: MouthCropSettings) -> str:
    text = json.dumps([about, settings.to_dict(), HEIGHT, LEFT, WIDTH, BORDER])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def cut(video: np.ndarray, n: int, mouth_crops: Sequence[MouthCropSettings]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same of `n` equal columns of a picture (T, H, W, 3) uint8, by the real tracker and croppers."""
    croppers = [MouthCropper(settings) for settings in mouth_crops]
    images = [np.zeros((n, len(video), settings.size, settings.size), np.uint8) for settings in mouth_crops]
    missing, columns = np.ones((n, len(video)), bool), {}
    with FaceTracker(landmarks=mouth_crops[0].landmarks) as tracker:
        for start in [*range(0, len(video), 50), None]:
            clip = media.Clip(video[start : start + 50], np.ones(len(video[start : start + 50]), bool), start_frame=start) \
                if start is not None else None
            tracks = tracker.finish() if clip is None else tracker.update(clip)
            for track in tracks:
                if len(track.points):
                    columns.setdefault(track.person, int(n * track.box[:, ::2].mean() / video.shape[2]))
            for cropper, out in zip(croppers, images, strict=True):
                for mouths in cropper.finish(tracks) if clip is None else cropper.update(clip, tracks):
                    here = slice(mouths.start_frame, mouths.end_frame)
                    column = min(max(columns[mouths.person], 0), n - 1)
                    out[column, here] = np.where(mouths.missing[:, None, None], out[column, here], mouths.images)
                    missing[column, here] &= mouths.missing
    return [(one, missing) for one in images]
