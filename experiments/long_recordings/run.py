"""Long recordings made of short sentences: words cut between segments, words doubled or lost, text where nobody speaks.

    uv run experiments/long_recordings/run.py --models tiny.en,default,grid,base
    uv run experiments/long_recordings/run.py --models grid --only lips
Sentences are of GRID's valid part, with word times, and of the Lombard corpus's talkers that may be trained on.
"""

import argparse
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avsr import checkpoint, media, noise
from avsr.metrics import NOTHING, word_errors
from avsr.rates import SAMPLE_RATE, frames_to_samples
from avsr.stream import StreamReader, StreamSettings
from avsr.text import normalise
from avsr.transcribe import transcribe

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "shared" / "data"
SPOKEN = {**dict(zip("bl", ("bin", "lay"), strict=True)), "p": "place", "s": "set"}
WORDS = ({"b": "bin", "l": "lay", "p": "place", "s": "set"}, {"b": "blue", "g": "green", "r": "red", "w": "white"},
         {"a": "at", "b": "by", "i": "in", "w": "with"}, None,
         dict(zip("z123456789", ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"], strict=True)),
         {"a": "again", "n": "now", "p": "please", "s": "soon"})
MARGIN = 0.04                                               # seconds at a word's edges in which a cut does no harm


@dataclass(frozen=True)
class Sentence:
    """A sentence: sound (S,) from its first word to its last, and its words with start and end in seconds where known."""

    audio: np.ndarray
    text: str
    words: tuple[tuple[float, float, str], ...] = ()


@dataclass(frozen=True)
class Long:
    """A long recording: source for transcribe, what is said in it, and its words with start and end in seconds."""

    name: str
    source: np.ndarray | media.Clip
    text: str = ""
    words: tuple[tuple[float, float, str], ...] = ()

    @property
    def audio(self) -> np.ndarray:
        return self.source.audio if isinstance(self.source, media.Clip) else self.source


def grid_clips(split: str, n: int) -> Iterator[tuple[Path, str]]:
    """Paths and texts of GRID clips of a split, those of s1 last first so that several speakers are among them."""
    with (DATA / "grid" / "splits.tsv").open() as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["split"] == split and row["has_align"] == "1"]
    for row in rows[:n]:
        yield next((DATA / "grid" / row["speaker"]).glob(f"{row['utterance']}.m*")), row["text"]


def grid_words(path: Path) -> list[tuple[float, float, str]]:
    """Words of a GRID clip with start and end in seconds."""
    rows = [line.split() for line in path.with_suffix(".align").read_text().splitlines() if line.strip()]
    return [(int(a) / 25_000, int(b) / 25_000, word) for a, b, word in rows if word not in ("sil", "sp")]


def grid_sentences(split: str, n: int) -> Iterator[Sentence]:
    """GRID sentences, trimmed to their words."""
    for path, text in grid_clips(split, n):
        audio, words = media.read(path, want_video=False).audio, grid_words(path)
        begin, end = max(0.0, words[0][0] - 0.05), words[-1][1] + 0.05
        moved = tuple((a - begin, b - begin, word) for a, b, word in words)
        yield Sentence(audio[int(begin * SAMPLE_RATE):int(end * SAMPLE_RATE)], text, moved)


def lombard_sentences(n: int) -> Iterator[Sentence]:
    """Lombard GRID, plain and Lombard speech of s30 to s37, trimmed by level."""
    paths = sorted(path for talker in range(30, 38) for path in (DATA / "lombard_audio" / f"s{talker}").glob("*.opus"))
    for path in paths[::max(1, len(paths) // n)][:n]:
        audio = media.read(path).audio
        level = np.sqrt(np.convolve(audio ** 2, np.full(800, 1 / 800), "same"))
        loud = np.flatnonzero(level > 0.05 * level.max())
        code = path.stem.split("_")[-1]
        text = " ".join(letter if table is None else table[letter] for letter, table in zip(code, WORDS, strict=True))
        yield Sentence(audio[max(0, loud[0] - 800):loud[-1] + 800], text)


def joined(name: str, sentences: Sequence[Sentence], pauses: tuple[float, float], rng: np.random.Generator) -> Long:
    """Sentences one after another, with pauses of low noise between; each is brought to the same level."""
    parts, words, at = [], [], 0
    for one in sentences:
        audio = one.audio * (0.05 / np.sqrt(np.square(one.audio).mean()))
        gap = int(rng.uniform(*pauses) * SAMPLE_RATE)
        words += [(at / SAMPLE_RATE + a, at / SAMPLE_RATE + b, word) for a, b, word in one.words]
        parts += [audio, rng.normal(0, 3e-4, gap)]
        at += len(audio) + gap
    sound = np.concatenate(parts).astype(np.float32)
    return Long(name, sound, " ".join(one.text for one in sentences), tuple(words))


def in_noise(speech: Long, name: str, snr_db: float, rng: np.random.Generator) -> Long:
    other = sound_of(f"noise/{name}.flac")
    mixed = noise.mix(speech.source, other, snr_db, rng=rng).audio
    return Long(f"{speech.name}, {Path(name).name} {snr_db:g} dB", mixed, speech.text, speech.words)


def sound_of(name: str) -> np.ndarray:
    return media.read(DATA / name, want_video=False).audio


def speech() -> Iterator[Long]:
    """Recordings in which somebody speaks."""
    rng, sentences, lombard = np.random.default_rng(0), list(grid_sentences("valid", 40)), list(lombard_sentences(32))
    pauses = joined("GRID, pauses of 0 to 1 s", sentences, (0, 1), rng)
    unbroken = joined("GRID, no pauses", sentences, (0, 0), rng)
    yield pauses
    yield unbroken
    yield joined("Lombard, pauses of 0 to 1 s", lombard, (0, 1), rng)
    yield joined("Lombard, no pauses", lombard, (0, 0), rng)
    for name, snr_db in (("noisex/babble", 10), ("noisex/babble", 0), ("music", 10), ("music", 0)):
        yield in_noise(pauses, name, snr_db, rng)
    yield in_noise(unbroken, "noisex/babble", 5, rng)


def speechless() -> Iterator[Long]:
    """Recordings in which nobody speaks, 40 s each or as long as they are."""
    rng, n = np.random.default_rng(1), 40 * SAMPLE_RATE
    yield Long("music", np.resize(sound_of("noise/music.flac"), n))
    for folder in sorted((DATA / "noise" / "esc10").iterdir()):
        parts = [media.read(path).audio for path in sorted(folder.glob("*.ogg"))]
        yield Long(folder.name, np.concatenate(parts)[:n])
    for path in sorted((DATA / "noise" / "noisex").glob("*.flac")):
        yield Long(path.stem, np.resize(media.read(path).audio, n))
    t = np.arange(n) / SAMPLE_RATE
    yield Long("white noise", rng.normal(0, 0.05, n).astype(np.float32))
    yield Long("room noise -60 dB", rng.normal(0, 1e-3, n).astype(np.float32))
    yield Long("tone 440 Hz", (0.2 * np.sin(2 * np.pi * 440 * t)).astype(np.float32))
    yield Long("beeps", (0.2 * np.sin(2 * np.pi * 1000 * t) * ((t % 1) < 0.2)).astype(np.float32))
    yield Long("sweep", (0.2 * np.sin(2 * np.pi * (100 + 40 * t) * t)).astype(np.float32))


def lips(n: int = 40) -> Iterator[Long]:
    """GRID clips with picture one after another, as they are: pauses are in them."""
    clips, words, texts, at = [], [], [], 0
    for path, text in grid_clips("valid", n):
        clip = media.read(path)
        words += [(at / 25 + a, at / 25 + b, word) for a, b, word in grid_words(path)]
        clips.append(clip)
        texts.append(text)
        at += clip.n_frames
    yield Long("GRID, picture", media.Clip(np.concatenate([one.video for one in clips]), None,
                                           np.concatenate([one.audio for one in clips])), " ".join(texts), tuple(words))


def n_harmed(words: Sequence[tuple[float, float, str]], segments: Sequence[tuple[float, float]]) -> tuple[int, int]:
    """How many words a segment's edge cuts, and how many are in no segment as a whole or in part."""
    cut = lost = 0
    for start, end, _ in words:
        inside = [(max(start, a), min(end, b)) for a, b in segments if a < end - MARGIN and b > start + MARGIN]
        whole = any(b - a >= end - start - 2 * MARGIN for a, b in inside)
        cut += not whole and len(inside) > 0
        lost += not inside
    return cut, lost


def measure(one: Long, model: checkpoint.Checkpoint, modality: str, vad: bool) -> dict:
    """A row of results for a recording."""
    reader = StreamReader(media.open_recording(one.source, want_audio=modality != "v"),
                          None, StreamSettings(vad=vad, amplify=False)) if modality == "a" else None
    row = {"recording": one.name, "model": model.name, "modality": modality, "vad": vad,
           "seconds": round(len(one.audio) / SAMPLE_RATE, 1)}
    if reader is not None:
        segments = [(w.segment.start_s, w.segment.start_s + w.segment.duration_s) for w in reader]
        cut, lost = n_harmed(one.words, segments)
        row |= {"segments": len(segments), "cut": cut, "outside": lost,
                "covered_s": round(sum(b - a for a, b in segments), 1)}
    written = transcribe(one.source, model=model, modality=modality, vad=vad)
    row["characters"] = len(written.text)
    if one.text:
        score = word_errors(normalise(one.text), normalise(written.text))
        row |= {"errors": score.errors, "words": score.words, "substitutions": score.substitutions,
                "insertions": score.insertions, "deletions": score.deletions, "wer": round(score.percent, 1)}
    row["text"] = written.text[:20_000]
    return row


def single_clips(model: checkpoint.Checkpoint, sentences: Sequence[Sentence], name: str) -> dict:
    """The errors of the sentences one by one, each with 0.3 s of quiet on both sides."""
    total, quiet = NOTHING, np.zeros(frames_to_samples(8), np.float32)
    for one in sentences:
        audio = one.audio * (0.05 / np.sqrt(np.square(one.audio).mean()))
        found = transcribe(np.concatenate([quiet, audio, quiet]).astype(np.float32), model=model, modality="a").text
        total += word_errors(normalise(one.text), normalise(found))
    return {"recording": name, "model": model.name, "modality": "a", "errors": total.errors, "words": total.words,
            "insertions": total.insertions, "deletions": total.deletions, "wer": round(total.percent, 1)}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="tiny.en,default,base")
    parser.add_argument("--only", default="speech,single,speechless")
    parser.add_argument("--modality", default="a")
    parser.add_argument("--vad", default="1,0")
    parser.add_argument("--out", type=Path, default=HERE / "results.jsonl")
    arguments = parser.parse_args()
    kinds = arguments.only.split(",")
    with arguments.out.open("a") as file:
        for name in arguments.models.split(","):
            model = checkpoint.load(name, lips=arguments.modality != "a")
            rows = (row for kind in kinds for row in _rows(kind, model, arguments.modality, arguments.vad.split(",")))
            for row in rows:
                file.write(json.dumps(row) + "\n")
                file.flush()
                print({key: value for key, value in row.items() if key != "text"}, row.get("text", "")[:60], flush=True)


def _rows(kind: str, model: checkpoint.Checkpoint, modality: str, vads: Sequence[str]) -> Iterator[dict]:
    if kind == "single":
        yield single_clips(model, list(grid_sentences("valid", 40)), "GRID, single")
        yield single_clips(model, list(lombard_sentences(32)), "Lombard, single")
        return
    for one in {"speech": speech, "speechless": speechless, "lips": lips}[kind]():
        for vad in vads:
            yield measure(one, model, modality, vad == "1")


if __name__ == "__main__":
    main()
