"""Conversations to test per-speaker text: two of GRID's people side by side who say sentences by turns.

    GRID -> Conversation (pictures, sound, who says which words when) -> crops of everybody, kept in a folder
Kinds: in "resting" whoever is not heard rests his mouth, in "talking" he says something else that is not heard, and in
"off screen" every third sentence is of a third person, whom the picture does not show. Everything follows from the seed.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from avsr import media
from avsr.corpora import grid
from avsr.manifest import Utterance
from avsr.rates import SAMPLE_RATE, SAMPLES_PER_FRAME, VIDEO_FPS, frames_to_samples

KINDS = ("resting", "talking", "off screen")
PEOPLE = ("s1", "s4", "s26", "s31")
N_SENTENCES = 6
HEIGHT, LEFT, WIDTH = 288, 56, 224                          # pixels of a tile: GRID's height, the columns with the face
MARGIN = (3, 5)                                             # frames kept before and after the words: pauses of 0.3 s
NOBODY = -1


@dataclass(frozen=True)
class Sentence:
    """What is heard from `start` to `end`, seconds. column: where its speaker is seen, NOBODY for off screen."""

    column: int
    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Conversation:
    """Two people side by side. pictures: (T, H, W, 3) uint8 RGB; audio: (S,) float32."""

    name: str
    kind: str
    people: tuple[str, str]
    pictures: np.ndarray
    audio: np.ndarray
    sentences: tuple[Sentence, ...]

    def clip(self) -> media.Clip:
        return media.Clip(self.pictures, np.ones(len(self.pictures), bool), self.audio)


def read(folder: Path) -> dict[str, list[Utterance]]:
    """The utterances of PEOPLE: those of `valid`, and of `train` for those who have few."""
    rows = grid.read(folder).utterances
    return {person: [row for row in rows if row.speaker == person and row.split in
                     (("valid",) if person == "s1" else ("valid", "train"))] for person in PEOPLE}


@lru_cache(maxsize=64)
def _clip(path: str) -> tuple[np.ndarray, np.ndarray]:
    import cv2

    clip = media.read(path)
    assert clip.video is not None
    assert clip.audio is not None
    scale = HEIGHT / clip.video.shape[1]
    frames = clip.video if scale == 1 else [cv2.resize(one, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
                                            for one in clip.video]
    audio = np.zeros(frames_to_samples(len(frames)), np.float32)
    audio[: len(clip.audio)] = clip.audio[: len(audio)]
    return np.stack([frame[:, LEFT : LEFT + WIDTH] for frame in frames]), audio


def _speech(row: Utterance, audio: np.ndarray) -> tuple[int, int]:
    """First and last frame of the words, by their times or else by the level."""
    if row.words:
        return round(row.words[0].start * VIDEO_FPS), round(row.words[-1].end * VIDEO_FPS)
    level = np.square(audio.reshape(-1, SAMPLES_PER_FRAME)).mean(axis=1)
    loud = np.flatnonzero(level > level.max() / 300)
    return int(loud[0]), int(loud[-1]) + 1


def make(people: dict[str, list[Utterance]], kind: str, number: int) -> Conversation:
    """A conversation of N_SENTENCES sentences; the number and the kind decide on everything."""
    rng = np.random.default_rng((KINDS.index(kind), number))
    chosen = rng.permutation(PEOPLE)
    pair, third = (str(chosen[0]), str(chosen[1])), str(chosen[2])
    pictures, sound, sentences, at = [], [], [], 0
    rows = {person: [people[person][i] for i in rng.permutation(len(people[person]))] for person in (*pair, third)}
    for turn in range(N_SENTENCES):
        column = turn % 2
        if kind == "off screen":
            column = NOBODY if turn % 3 == 2 else int(rng.integers(2))
        row = rows[third if column == NOBODY else pair[column]].pop()
        frames, audio = _clip(row.media)
        first, last = _speech(row, audio)
        low, high = max(0, first - MARGIN[0]), min(len(frames), last + MARGIN[1])
        tiles = [frames[low:high] if column == i else _listener(rows[person], kind, high - low)
                 for i, person in enumerate(pair)]
        pictures.append(np.concatenate(tiles, axis=2))
        sound.append(audio[frames_to_samples(low) : frames_to_samples(high)])
        sentences.append(Sentence(column, row.text, (at + first - low) / VIDEO_FPS, (at + last - low) / VIDEO_FPS))
        at += high - low
    return Conversation(f"{kind}-{number}", kind, pair, np.concatenate(pictures), np.concatenate(sound), tuple(sentences))


def _listener(rows: list[Utterance], kind: str, n_frames: int) -> np.ndarray:
    """The pictures of somebody who is not heard."""
    row = rows[0]
    frames, audio = _clip(row.media)
    first, last = _speech(row, audio)
    until_the_lips_open, talking = slice(max(8, first - 4)), slice(max(0, first - 1), last + 1)
    frames = frames[talking if kind == "talking" else until_the_lips_open]
    there_and_back = np.concatenate([frames, frames[-2:0:-1]])
    return there_and_back[np.arange(n_frames) % len(there_and_back)]


def crops(conversation: Conversation, folder: Path):
    """Everybody's Mouths, by the tracker and the cropper; from `folder` if they are there."""
    from avsr.faces import FaceTracker
    from avsr.lips import MouthCropper

    path = folder / f"{conversation.name}.pickle"
    if not path.exists():
        clip, cropper = conversation.clip(), MouthCropper()
        with FaceTracker() as tracker:
            mouths = cropper.update(clip, tracker.update(clip))
            mouths += cropper.finish(tracker.finish())
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(mouths))
    return pickle.loads(path.read_bytes())


def n_seconds(conversation: Conversation) -> float:
    return len(conversation.audio) / SAMPLE_RATE
