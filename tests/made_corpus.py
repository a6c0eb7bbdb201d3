"""A made-up corpus for tests of training: each word has a tone of its own and a mouth of its own."""

import json
from pathlib import Path

import numpy as np

from avsr import cache, manifest
from avsr.config import Config, read_config
from avsr.lips import MouthCropSettings
from avsr.manifest import TimedWord, Utterance
from avsr.rates import SAMPLE_RATE, SAMPLES_PER_FRAME, VIDEO_FPS

WORDS = {"ab": (300, 0.2), "cd": (900, 0.5), "ef": (2000, 0.8)}         # hertz, height of the open mouth
FRAMES = 6                                                              # to a word

CONFIG = """
name = "made-up"
[model]
gates = 0.5
[model.dims]
width = 32
n_heads = 2
n_audio_layers = 1
n_video_layers = 1
n_fusion_layers = 1
n_decoder_layers = 1
n_context = 24
video_width = 32
[data]
train = ["manifest.jsonl"]
valid = ["manifest.jsonl"]
frames = 60
workers = 0
p_speed = 0.0
noise = {}
[data.augment]
mask_seconds = 0
mask_frames = 0
[train]
steps = 10
lr = 3e-3
warmup = 2
valid_every = 100
save_every = 100
threads = 1
"""


def say(words, *, sight: bool = True, sound: bool = True, seed: int = 0) -> cache.Cached:
    """Mouth and sound of some words."""
    rng = np.random.default_rng(seed)
    images = np.full((len(words) * FRAMES, 96, 96), 60, np.uint8)
    audio = []
    for i, word in enumerate(words):
        hertz, height = WORDS[word]
        images[i * FRAMES:(i + 1) * FRAMES, 48 - round(40 * height):48 + round(40 * height), 20:76] = 200
        audio.append(0.3 * np.sin(2 * np.pi * hertz * np.arange(FRAMES * SAMPLES_PER_FRAME) / SAMPLE_RATE))
    images += rng.integers(0, 20, images.shape, np.uint8)
    audio = (np.concatenate(audio) + rng.normal(0, 0.003, len(images) * SAMPLES_PER_FRAME)).astype(np.float32)
    return cache.Cached(images if sight else None, np.zeros(len(images), bool) if sight else None, audio if sound else None)


def utterance(name: str, words, split: str, entry=None, *, speaker: str = "s1") -> Utterance:
    """A row of a manifest with the times of its words."""
    seconds = FRAMES / VIDEO_FPS
    timed = tuple(TimedWord(word, i * seconds, (i + 1) * seconds) for i, word in enumerate(words))
    return Utterance(name, f"{name}.mp4", " ".join(words), speaker, split, words=timed, cache=entry)


def corpus(folder: Path, n_train: int = 12, n_valid: int = 3, *, n_sound: int = 0, n_sight: int = 0) -> Path:
    """A prepared corpus with `n_sound` rows of sound alone and `n_sight` of sight alone; returns its manifest."""
    rng = np.random.default_rng(0)
    kinds = [("train", "av")] * n_train + [("valid", "av")] * n_valid + [("train", "a")] * n_sound + [("train", "v")] * n_sight
    rows = []
    cache.write_mouth_crop(folder, MouthCropSettings())
    with cache.ShardWriter(folder) as writer:
        for i, (split, has) in enumerate(kinds):
            words = [str(word) for word in rng.choice(list(WORDS), rng.integers(1, 4))]
            entry = writer.add(cache.pack(f"u{i}", say(words, sight="v" in has, sound="a" in has, seed=i)))
            rows.append(utterance(f"u{i}", words, split, entry))
    manifest.write(folder / "manifest.jsonl", rows)
    return folder / "manifest.jsonl"


def stored_tensors(run: Path) -> dict:
    """The tensors of a run's state, whether one process has written them or several."""
    import torch
    from safetensors.torch import load_file

    from avsr.train.group_state import read_group_header, read_group_tensors

    path = run / json.loads((run / "state.json").read_text())["tensors"]
    if not path.is_dir():
        return load_file(path)
    found = {name: torch.empty(one.shape, dtype=torch.int64 if "int64" in one.dtype else torch.float32)
             for name, one in read_group_header(path).items()}
    read_group_tensors(path, found)
    return found


def config(folder: Path, *overrides: str, text: str = CONFIG) -> Config:
    """The config of a tiny run on the corpus in `folder`."""
    (folder / "config.toml").write_text(text)
    return read_config(folder / "config.toml", overrides)
