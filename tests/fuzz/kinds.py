"""The kinds of input that are tried: how a case is made, and what a user would do with it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

from avsr.errors import BadMedia
from tests.fuzz import hostile, media
from tests.fuzz.damage import damage

ROOT = Path(__file__).resolve().parents[2]
# A damaged unit of time stretches a recording as far as 60 s for each picture, see avsr/media/gaps.py; a day is never right.
LONGEST_FRAMES = 3600 * 2 * 25
# Reading a recording takes 0.1 s, transcribing it or finding its speakers 1 to 3 s: all are read to their end, one of eight is
# used as well. `speakers` transcribes and tells who speaks; `faces` finds the speakers and draws them.
USES = (*[None] * 42, *["grid"] * 2, "default", "speakers", *["faces"] * 2)


@dataclass(frozen=True)
class Kind:
    """seed: makes what cases are altered from, once, in a folder. warm: loads what all cases need, which no case is charged
    with. make: a case, in a new folder, from the seeds; returns what `use` is called with. use: what a user would do with it;
    it may raise AvsrError, and nothing else."""

    seed: Callable[[Path], None]
    warm: Callable[[Path], None]
    make: Callable[[Path, Path, Random], object]
    use: Callable[[object], None]


@cache
def _model(name: str):
    from avsr import checkpoint

    return checkpoint.load(name)


# Recordings

def _seed_media(seeds: Path) -> None:
    media.make_all(ROOT / "data" / "demo" / "hello.mp4", seeds)


def _damaged_recording(seeds: Path, folder: Path, rng: Random) -> tuple[Path, str | None]:
    whole = rng.choice(sorted(seeds.glob("clip.*")))
    path = folder / whole.name
    path.write_bytes(damage(whole.read_bytes(), rng))
    return path, rng.choice(USES)


def _warm_media(seeds: Path) -> None:
    for use, suffix in (("grid", "mp4"), ("default", "mp4"), ("default", "wav"), ("speakers", "mp4"), ("faces", "mp4")):
        _use_recording((seeds / f"clip.{suffix}", use))


def _use_recording(case: tuple[Path, str | None]) -> None:
    from avsr import media as recordings
    from avsr import transcript
    from avsr.find_speakers import find_speakers
    from avsr.transcribe import transcribe

    path, use = case
    n_frames = sum(clip.n_frames for clip in recordings.windows(path))
    if n_frames > LONGEST_FRAMES:
        raise RuntimeError(f"{n_frames} frames are read from a recording of {media.SECONDS * 25}")
    if use == "faces":
        timeline = find_speakers(path, video=path.parent / "drawn.mp4")
        json.loads(timeline.to_json(every=5), parse_constant=lambda name: _raise(ValueError(f"{name} is no JSON")))
    if use in (None, "faces"):
        return
    said = transcribe(path, model=_model("default" if use == "speakers" else use), speakers=use == "speakers")
    transcript.write(said, ("txt", "srt", "vtt", "tsv", "json"), output_dir=path.parent, stem="said")


# Models and language models

def _seed_models(seeds: Path) -> None:
    from avsr.checkpoint import Checkpoint, save
    from avsr.models.avsr import AVSR, Dims
    from avsr.text import Tokenizer, write_characters

    write_characters(seeds / "letters.json")
    tokenizer = Tokenizer(seeds / "letters.json")
    dims = Dims(width=32, n_heads=2, n_audio_layers=1, n_video_layers=1, n_fusion_layers=1, n_decoder_layers=1,
                n_vocab=tokenizer.no_timestamps + 1, n_context=24, n_ctc=29, video_frontend="compact", video_width=32)
    save(Checkpoint("tiny", AVSR(dims), tokenizer, pad_seconds=None, video_trained=True), seeds / "model")


def _warm_models(seeds: Path) -> None:
    _use_model((seeds / "model", None))


def _altered_model(seeds: Path, folder: Path, rng: Random) -> tuple[Path, Path | None]:
    hostile.alter_model(seeds / "model", folder / "model", rng)
    return folder / "model", None


def _altered_lm(seeds: Path, folder: Path, rng: Random) -> tuple[Path, Path]:
    import gzip

    data = hostile.alter_arpa(rng)
    path = folder / rng.choice(("words.arpa", "words.arpa.gz"))
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return seeds / "model", path


def _use_model(case: tuple[Path, Path | None]) -> None:
    from avsr.transcribe import transcribe

    folder, lm = case
    tone = (0.1 * np.sin(np.arange(24_000) / 7)).astype(np.float32)
    transcribe(tone, model=folder, modality="a", vad=False, beam_size=2, lm=lm)


# Corpora

def _seed_tables(seeds: Path) -> None:
    import soundfile

    for name in "abcd":
        soundfile.write(seeds / f"{name}.wav", np.sin(np.arange(32_000) / 9) / 4, 16_000)


def _warm_tables(seeds: Path) -> None:
    (seeds / "metadata.csv").write_text("\n".join(map(",".join, hostile.TABLE)) + "\n", encoding="utf-8")
    _read_table(seeds / "metadata.csv")


def _altered_table(seeds: Path, folder: Path, rng: Random) -> Path:
    for path in seeds.glob("*.wav"):
        (folder / path.name).symlink_to(path)
    return hostile.alter_table(folder, rng)


def _read_table(path: Path) -> None:
    from avsr import manifest
    from avsr.corpora import CORPORA

    corpus = CORPORA["folder"](path, split_list=None)
    manifest.write(path.parent / "manifest.jsonl", corpus.utterances)
    if len(manifest.read(path.parent / "manifest.jsonl")) != len(corpus.utterances):
        raise RuntimeError("the manifest holds not as many utterances as were written")


def _seed_corpus(seeds: Path) -> None:
    from tests.made_corpus import corpus

    corpus(seeds, n_train=2, n_valid=1)


def _warm_corpus(seeds: Path) -> None:
    _read_corpus(seeds / "manifest.jsonl")


def _altered_corpus(seeds: Path, folder: Path, rng: Random) -> Path:
    return hostile.alter_corpus(seeds, folder / "corpus", rng)


def _read_corpus(manifest: Path) -> None:
    from avsr import cache
    from avsr.dataset import read_prepared

    cache.read_mouth_crop(manifest.parent)
    for split in ("train", "valid"):
        for row in read_prepared([manifest], split, 30.0)[0]:
            cache.read_entry(row.base, row.utterance.cache, name=row.utterance.id)


# Configs

def _altered_config(seeds: Path, folder: Path, rng: Random) -> tuple[Path, list[str]]:
    from tests.made_corpus import CONFIG

    text = CONFIG.replace("steps = 10", "steps = 2").replace("manifest.jsonl", f"{seeds}/manifest.jsonl")
    data, overrides = hostile.alter_config(text, _settings(), rng)
    (folder / "config.toml").write_bytes(data)
    return folder / "config.toml", overrides


def _warm_training(seeds: Path) -> None:
    import avsr.train

    assert avsr.train


def _settings() -> list[str]:
    """The names of all settings, as --set takes them."""
    from avsr.config import Config
    from avsr.models.avsr import Dims

    default = Config("x")
    sections = {f.name: getattr(default, f.name) for f in fields(default) if is_dataclass(getattr(default, f.name))}
    return [f"{name}.{f.name}" for name, section in sections.items() for f in fields(section)] + [
        f"model.dims.{f.name}" for f in fields(Dims)]


def _train(case: tuple[Path, list[str]]) -> None:
    from avsr.config import read_config
    from avsr.train import TrainOptions, train

    path, overrides = case
    train(read_config(path, overrides), path.parent / "run", TrainOptions(minutes=0.05))


# Faults, one of each sort, that the harness's own test plants

def _plant(seeds: Path, folder: Path, rng: Random) -> str:
    number = int(folder.name.split("-")[1])                 # as the worker names it, so that each has its turn
    return list(PLANTED)[number % len(PLANTED)]


def _fall(name: str) -> None:
    PLANTED[name]()


def _raise(error: Exception) -> None:
    raise error


PLANTED: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "refused": lambda: _raise(BadMedia("clip.mp4: it is 0 s long.  Copy it again.")),
    "no remedy": lambda: _raise(BadMedia("clip.mp4: it is 0 s long")),
    "raw": lambda: _raise(ZeroDivisionError("division by zero")),
    "death": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "endless": lambda: time.sleep(3600),
    "memory": lambda: [bytearray(b"x" * 10**7) for _ in range(10**6)],
}

KINDS = {
    "media": Kind(_seed_media, _warm_media, _damaged_recording, _use_recording),
    "models": Kind(_seed_models, _warm_models, _altered_model, _use_model),
    "lms": Kind(_seed_models, _warm_models, _altered_lm, _use_model),
    "tables": Kind(_seed_tables, _warm_tables, _altered_table, _read_table),
    "shards": Kind(_seed_corpus, _warm_corpus, _altered_corpus, _read_corpus),
    "configs": Kind(_seed_corpus, _warm_training, _altered_config, _train),
}
TRIED = KINDS | {"planted": Kind(lambda seeds: None, lambda seeds: None, _plant, _fall)}
