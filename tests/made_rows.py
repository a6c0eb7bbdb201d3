"""Made-up rows of a benchmark, for tests of scores and of the report: sentences of GRID's grammar with errors put in.

Sound gets worse with noise, lips do not, both is a little better than the better one, but for babble at -10 dB where the
no-harm criterion is broken. Speakers differ; one accent is harder for lips. Nothing here was measured.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avsr.results import ResultRow

GRAMMAR = (("bin", "lay", "place", "set"), ("blue", "green", "red", "white"), ("at", "by", "in", "with"),
           tuple("abcdefghijklmnopqrstuvxyz"), ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
           ("again", "now", "please", "soon"))
ALIKE = dict(zip("bpmdtnfvsz", "pbbtdmvfzs", strict=True))               # letters that lips show alike
SNRS = (None, 20.0, 10.0, 5.0, 0.0, -5.0, -10.0)
DAMAGE = (("occlusion", 0.25), ("occlusion", 0.5), ("blur", 2.0), ("blur", 4.0), ("shift", -200.0), ("shift", -80.0),
          ("shift", 80.0), ("shift", 200.0), ("noface", None), ("face", None))
HARM = {"noface": 1.0, "face": 0.9, "occlusion": 0.5, "blur": 0.15, "shift": 0.003}


@dataclass(frozen=True)
class Made:
    """What is in a made-up run."""

    n_utterances: int = 48
    n_speakers: int = 12
    systems: tuple[str, ...] = ("default", "faster-whisper:tiny.en")    # the first has sight, the others only hear
    noises: tuple[str, ...] = ("babble", "white")
    snrs: tuple[float | None, ...] = SNRS
    damage: tuple[tuple[str, float | None], ...] = DAMAGE
    seeing: int = 1                                                     # how many of the systems have sight
    quality: float = 1.0                                                # below 1: fewer errors
    seed: int = 0


def utterances(made: Made) -> list[dict]:
    """Id, speaker, labels, reference and how hard each is."""
    rng = np.random.default_rng(made.seed)
    out = []
    for i in range(made.n_utterances):
        who = i % made.n_speakers
        text = " ".join(str(rng.choice(slot)) for slot in GRAMMAR)
        labels = {"sex": "fm"[who % 2], "accent": ("north", "south", "west")[who % 3 if who < 9 else 0]}
        out.append({"id": f"s{who + 1}-{i:05}", "speaker": f"s{who + 1}", "labels": labels, "reference": text,
                    "hard": float(rng.gamma(4, 0.25)) * (0.7 + 0.6 * (who % 5) / 4)})
    return out


def sound_wrong(snr_db: float | None, noise: str | None) -> float:
    """Share of words that hearing gets wrong."""
    return 0.04 if snr_db is None else 0.04 + 0.9 / (1 + np.exp((snr_db + (3 if noise == "babble" else 6)) / 3.5))


def wrong(modality: str, one: dict, condition: tuple, damage: tuple) -> float:
    """Share of words that are wrong, before the utterance's own hardness."""
    noise, snr_db = condition
    sound = sound_wrong(snr_db, noise)
    name, amount = damage
    strength = 0.0 if name is None else HARM[name] * (abs(amount) if amount is not None else 1.0)
    lips = min(0.12 * (1.8 if one["labels"]["accent"] == "west" else 1) + strength, 0.95)
    if modality == "v":
        return lips
    if modality == "a":
        return sound
    if modality == "none":
        return 0.98
    worse = 0.05 if noise == "babble" and snr_db is not None and snr_db <= -10 else -0.02
    return max(min(sound, lips) + worse, 0.005)


def misheard(text: str, share: float, rng: np.random.Generator) -> str:
    """Some words swapped for others of their place, for look-alike letters mostly; some lost, some added."""
    words = []
    for slot, word in zip(GRAMMAR, text.split(), strict=True):
        if rng.random() >= share:
            words.append(word)
            continue
        what = rng.random()
        if what < 0.8:
            words.append(ALIKE[word] if word in ALIKE and rng.random() < 0.7 else slot[rng.integers(len(slot))])
        elif what > 0.93:
            words += [word, "now"]
    return " ".join(words)


def plain_row(system: str = "grid", modality: str = "a", **fields) -> ResultRow:
    """A row of which only what matters to a test is given."""
    return ResultRow(system=system, modality=modality, **fields)


def rows(made: Made = Made()) -> Iterator[ResultRow]:
    """As the benchmark writes them."""
    rng = np.random.default_rng(made.seed + 1)
    speech = utterances(made)
    noisy = [(name, snr) for name in made.noises for snr in made.snrs if snr is not None]
    conditions = [*([(None, None)] if None in made.snrs else []), *noisy]
    last = conditions[-1]
    for number, system in enumerate(made.systems):
        cells = [("a", one, (None, None)) for one in conditions]
        if number < made.seeing:
            cells += [("none", (None, None), (None, None)), ("v", (None, None), (None, None))]
            cells += [("av", one, (None, None)) for one in conditions]
            for damage in made.damage:
                cells += [("v", (None, None), damage), ("av", (None, None), damage), ("av", last, damage)]
        factor = made.quality * (1 if number < made.seeing else 1.15)
        for modality, condition, damage in cells:
            for one in speech:
                yield row(system, modality, one, condition, damage, rng, factor, number < made.seeing)


def row(system: str, modality: str, one: dict, condition: tuple, damage: tuple, rng: np.random.Generator, factor: float,
        ours: bool) -> ResultRow:
    """One of them."""
    noise, snr_db = condition
    share = min(wrong(modality, one, condition, damage) * one["hard"] * factor, 0.98)
    reliability = float(1 / (1 + np.exp(-(sound_wrong(snr_db, noise) - 0.25) * 6 + rng.normal(0, 0.6))))
    sees = ours and modality == "av"
    return ResultRow(
        system=system, sha256="0" * 64 if ours else None, modality=modality, search="beam 5", id=one["id"],
        speaker=one["speaker"], split="test", labels=one["labels"], reference=one["reference"],
        hypothesis="" if modality == "none" else misheard(one["reference"], share, rng),
        noise=noise, snr_db=snr_db, snr_achieved=None if snr_db is None else round(snr_db + float(rng.normal(0, 1e-3)), 4),
        snr_rms=None if snr_db is None else round(snr_db - 2.4, 4),
        noise_id=None if noise is None else "0123456789abcdef", noise_offset=None if noise is None else 0,
        corruption=damage[0], amount=damage[1], face="s2-00001" if damage[0] == "face" else None,
        video_reliability=round(reliability, 4) if sees else None, gate=round(0.3 + 0.4 * reliability, 4) if sees else None,
        loss=round(0.05 + 3 * share + float(rng.gamma(1, 0.05)), 4) if ours else None, duration_s=3.0)


def timings(made: Made = Made()) -> Iterator[dict]:
    """A row per batch."""
    rng = np.random.default_rng(made.seed + 2)
    cost = {"a": 0.03, "v": 0.05, "av": 0.09, "none": 0.02}
    for number, system in enumerate(made.systems):
        ours = number < made.seeing
        for modality in ("a", "v", "av") if ours else ("a",):
            for i in range(4):
                clips = made.n_utterances // 4
                yield {"system": system, "modality": modality, "noise": None, "snr_db": None, "corruption": None,
                       "amount": None, "clips": clips, "audio_s": 3.0 * clips,
                       "seconds": round(3.0 * clips * cost[modality] * (1 if ours else 2.5) * float(rng.uniform(0.9, 1.1)), 3),
                       "peak_mb": 900 + 40 * i + 300 * len(modality), "device": "cpu", "first": f"s1-{i:05}"}


def write(folder: Path, made: Made = Made(), **run) -> Path:
    """A run's folder: results.jsonl, timings.jsonl, run.json."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "results.jsonl").open("w") as file:
        file.writelines(one.line() for one in rows(made))
    with (folder / "timings.jsonl").open("w") as file:
        file.writelines(json.dumps(one) + "\n" for one in timings(made))
    about = {"command": "avsr benchmark data/grid --split test --noise babble,white", "avsr": "0.1.0", "commit": "0" * 40,
             "python": "3.11.9", "torch": "2.15.0", "device": "cpu", "cores": 2,
             "settings": {"split": "test", "snr": "clean,20,10,5,0,-5,-10"},
             "skipped": [{"id": "s3-00099", "reason": "silent speech: SNR undefined"}]}
    (folder / "run.json").write_text(json.dumps(about | run))
    return folder
