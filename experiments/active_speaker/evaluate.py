"""Who speaks? Detectors of the active speaker, measured on scenes made of GRID's clips (see scenes.py).

    uv run experiments/active_speaker/evaluate.py data/raw/grid --split valid --detector ours --detector correlation
    uv run experiments/active_speaker/evaluate.py data/raw/grid --split test --detector ours --detector lr-asd --results

A frame is right if the highest score is that of who is heard and above 0, or if nobody who is seen is heard and no score is
above 0; where two are heard, if their scores alone are above 0. `turns` counts what speakers.speaker_turns makes of the scores.
Intervals are 95 %, by bootstrap over scenes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scenes

from avsr.lips import MouthCropSettings
from avsr.metrics.intervals import interval, ratio
from avsr.rates import SAMPLES_PER_FRAME, frames_to_seconds
from avsr.speakers import SpeakerDetector, speaker_turns
from avsr.speakers import open_detector as open_model

HERE = Path(__file__).resolve().parent
MEASURED = ("speech", "turns", "change", "pause")
SHIFTS = (-12, -7, -3, 0, 3, 7, 12)                # frames by which the sound of clips is moved to earlier times
NEAR_LAG = 1                                       # frames by which the correlation may be off
MAX_LAG = 15                                       # frames over which the shift is looked for


def main() -> None:
    """Print a table; with --results, put the rows in the place of those of the same detectors and split in results.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="GRID, with splits.tsv")
    parser.add_argument("--split", choices=list(scenes.SPLITS), default="valid")
    parser.add_argument("--detector", action="append", help="correlation, ours, lr-asd, or a model of either; may be repeated")
    parser.add_argument("--cache", type=Path, default=Path("data/active_speaker"), help="folder for the crops (0.5 GB)")
    parser.add_argument("--scenes", type=int, help="so many of each kind and group in place of 8, 8 and 3")
    parser.add_argument("--kind", action="append", choices=list(scenes.N_SCENES), help="scenes of this kind alone")
    parser.add_argument("--sound", action="append", metavar="NAME", help="this sound alone, such as one or 'babble 0 dB'")
    parser.add_argument("--whole", action="store_true", help="LR-ASD in pieces of 6 s alone: a sixth of the time")
    parser.add_argument("--groups", action="store_true", help="print a line for each group of people as well")
    parser.add_argument("--clips", type=int, default=100, help="clips of which the offset of sound and lips is looked for")
    parser.add_argument("--results", action="store_true", help="store the rows in results.jsonl")
    asked = parser.parse_args()
    corpus = scenes.Grid(asked.grid, asked.split)
    numbers = {kind: asked.scenes or n for kind, n in scenes.N_SCENES.items() if kind in (asked.kind or scenes.N_SCENES)}
    made = scenes.make_scenes(corpus, numbers)
    detectors = {name: open_detector(name, asked.whole) for name in asked.detector or ["correlation"]}
    crops = scenes.Crops(corpus, list({detector.mouth_crop: None for detector in detectors.values()}), asked.cache)
    for name, detector in detectors.items():
        rows = summaries(measure_scenes(detector, made, crops, asked.sound))
        rows += lag_rows(detector, crops, asked.clips) if asked.clips else []
        rows = [{"detector": name, "split": asked.split, **row} for row in rows]
        print(table([row for row in rows if asked.groups or row["group"] == "all"]), flush=True)
        if asked.results:
            store(rows, HERE / "results.jsonl", name, asked.split)


def open_detector(name: str, whole: bool) -> SpeakerDetector:
    """A detector by its name. whole: LR-ASD gives each scene at once."""
    detector = Correlation() if name == "correlation" else open_model(None if name == "ours" else name)
    if whole and hasattr(detector, "pieces"):
        detector.pieces = detector.pieces[-1:]
    return detector


class Correlation:
    """The correlation of sync.py, by which speakers were chosen before there was a network: the baseline."""

    mouth_crop = MouthCropSettings()
    window, even = 25, 0.25                        # frames; the correlation that counts as 0

    def scores(self, images: np.ndarray, audio: np.ndarray, missing: np.ndarray | None = None) -> np.ndarray:
        """The correlation of the second around each frame, less `even`."""
        from avsr import sync

        opening, energy, n = sync.mouth_opening(images), sync.energy(audio, len(images)), self.window
        starts = np.clip(np.arange(len(images)) - n // 2, 0, max(0, len(images) - n))
        curve = [sync.correlations(opening[i : i + n], energy[i : i + n], NEAR_LAG).max() - self.even for i in starts]
        return np.where(np.zeros(len(images), bool) if missing is None else missing, -np.inf, curve).astype(np.float32)

    def lag_scores(self, images: np.ndarray, audio: np.ndarray, max_lag: int, missing: np.ndarray | None = None) -> np.ndarray:
        """The correlation of the whole clip at each lag."""
        from avsr import sync

        return sync.correlations(sync.mouth_opening(images), sync.energy(audio, len(images)), max_lag).astype(np.float32)


def measure_scenes(detector: SpeakerDetector, made: Sequence[scenes.Scene], crops: scenes.Crops,
                   only: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """A row for each scene and sound: counts of frames; and with the first sound CPU seconds for each second of one face."""
    rows = []
    for scene in made:
        images, missing = crops.of_scene(scene, detector.mouth_crop)
        remember_faces(detector)
        cpu: float | None = None
        for name, sound in scenes.sounds(scene, crops.corpus).items():
            if only and name not in only:
                continue
            start = time.process_time()
            scores = np.stack([detector.scores(one, sound.audio, gone) for one, gone in zip(images, missing, strict=True)])
            cpu = cpu or (time.process_time() - start) / (len(images) * frames_to_seconds(scenes.N_FRAMES))
            rows.append({"scene": scene.id, "kind": scene.kind, "group": scene.group, "sound": name, "cpu": cpu,
                         **counts(scores, sound)})
    return rows


def remember_faces(detector: Any) -> None:
    """Let a detector with a method `encode` of faces alone encode each once, for all sounds that are heard with them."""
    if not hasattr(detector, "encode"):
        return
    kept, encode = {}, type(detector).encode

    def remembering(images: np.ndarray) -> Any:
        key = images.__array_interface__["data"][0], images.shape
        if key not in kept:
            kept[key] = encode(detector, images)
        return kept[key]

    detector.encode = remembering


def counts(scores: np.ndarray, sound: scenes.SceneSound) -> dict[str, Any]:
    """Pairs of frames right and frames: by the scores (n, T) in speech, near changes and in pauses, and by speaker turns in
    speech; and `faces`, the scores of all faces in speech with whether they speak."""
    frames_right = right_frames(scores, sound.speaking)
    by_turns = turn_frames(scores, sound)
    out: dict[str, Any] = {}
    for kind in ("speech", "change", "pause"):
        here = sound.kind == kind
        out[kind] = (int(frames_right[here].sum()), int(here.sum()))
    here = sound.kind == "speech"
    out["turns"] = (int(by_turns[here].sum()), int(here.sum()))
    out["faces"] = (scores[:, here].ravel(), sound.speaking[:, here].ravel())
    return out


def right_frames(scores: np.ndarray, speaking: np.ndarray) -> np.ndarray:
    """(n, T), (n, T) -> (T,) bool: see the top of this file."""
    n_speak = speaking.sum(axis=0)
    best = (np.arange(len(scores))[:, None] == scores.argmax(axis=0)) & (scores > 0)
    return np.where(n_speak < 2, (best == speaking).all(axis=0), ((scores > 0) == speaking).all(axis=0))


def turn_frames(scores: np.ndarray, sound: scenes.SceneSound) -> np.ndarray:
    """(T,) bool: whether speaker_turns names exactly those who speak; frames without a pause between are a piece of speech."""
    out, heard = np.zeros(scores.shape[1], bool), sound.kind != "pause"
    edges = np.flatnonzero(np.diff(np.r_[False, heard, False]))
    for start, end in edges.reshape(-1, 2):
        for turn in speaker_turns(dict(enumerate(scores[:, start:end])), int(start), int(end - start)):
            here = slice(turn.start_frame, turn.end_frame)
            named = np.isin(np.arange(len(scores)), turn.persons)[:, None]
            out[here] = (sound.speaking[:, here] == named).all(axis=0)
    return out


def summaries(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each kind of scene, sound and group, and one for all groups."""
    out = []
    keys = dict.fromkeys((row["kind"], row["sound"]) for row in rows)
    for kind, sound in keys:
        here = [row for row in rows if (row["kind"], row["sound"]) == (kind, sound)]
        for group in ["all", *dict.fromkeys(row["group"] for row in here)]:
            some = [row for row in here if group in ("all", row["group"])]
            measured = {f"{name}_percent": share([row[name] for row in some]) for name in MEASURED}
            scores, speaking = (np.concatenate([row["faces"][i] for row in some]) for i in range(2))
            out.append({"kind": kind, "sound": sound, "group": group, "scenes": len(some),
                        "frames": sum(row["speech"][1] for row in some), **measured,
                        "average_precision": average_precision(scores, speaking),
                        "cpu_per_face_second": round(float(np.mean([row["cpu"] for row in some])), 4)})
    return out


def share(pairs: Sequence[tuple[int, int]]) -> list[float] | None:
    """Per cent of frames that are right, with the bounds of its interval over scenes; None where there are none."""
    sums = np.array([pair for pair in pairs if pair[1]], float)
    if not len(sums):
        return None
    low, high = interval(sums, ratio, np.random.default_rng(0), share=True)
    value = sums[:, 0].sum() / sums[:, 1].sum()
    return [round(100 * float(x), 1) for x in (value, value if low is None else low, value if high is None else high)]


def average_precision(scores: np.ndarray, speaking: np.ndarray) -> float | None:
    """The mean over faces that speak of the precision at their score, in per cent; None where nobody speaks, or all do."""
    if speaking.all() or not speaking.any():
        return None
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(speaking[order])
    precision = found / np.arange(1, len(order) + 1)
    return round(100 * float(precision[speaking[order]].mean()), 1)


def lag_rows(detector: SpeakerDetector, crops: scenes.Crops, n_clips: int) -> list[dict[str, Any]]:
    """The share of single clips, shifted by SHIFTS, whose shift is found to within a frame, by group: of about as many clips,
    and of all of people with few."""
    rows = [row for person in crops.corpus.people.values() for row in person[:: max(1, len(person) * len(crops.corpus.people)
                                                                                   // n_clips)]]
    hits: dict[str, list[tuple[int, int]]] = {"all": []}
    spent, seconds = 0.0, 0.0                                 # a shift is found once in a clip, so faces are encoded once
    for row in rows:
        images, missing = crops.of_clip(row.id, detector.mouth_crop)
        audio = crops.corpus.clip(row.id)[1]
        remember_faces(detector)
        right = 0
        for shift in SHIFTS:
            start = time.process_time()
            curve = detector.lag_scores(images, moved(audio, -shift), MAX_LAG, missing)
            spent, seconds = spent + time.process_time() - start, seconds + frames_to_seconds(len(images))
            right += abs(int(np.argmax(curve)) - MAX_LAG - shift) <= 1
        for group in ("all", scenes.GROUPS.get(str(row.speaker), "unknown")):
            hits.setdefault(group, []).append((right, len(SHIFTS)))
    return [{"kind": "offset", "sound": "one", "group": group, "scenes": len(pairs), "within_1_frame_percent": share(pairs),
             "cpu_per_face_second": round(spent / seconds, 4)} for group, pairs in hits.items()]


def moved(audio: np.ndarray, n_frames: int) -> np.ndarray:
    """The sound (S,) later by a number of frames, or earlier if it is below 0, silent where there is none."""
    n = abs(n_frames) * SAMPLES_PER_FRAME
    return np.pad(audio, (n, 0))[: len(audio)] if n_frames >= 0 else np.pad(audio[n:], (0, n))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table in Markdown."""
    def cell(value: object) -> str:
        return "-" if value is None else f"{value[0]} ({value[1]} - {value[2]})" if isinstance(value, list) else str(value)

    columns = ["detector", "split", "kind", "sound", "group", "scenes", *(f"{name}_percent" for name in MEASURED),
               "average_precision", "within_1_frame_percent", "cpu_per_face_second"]
    lines = [f"| {' | '.join(columns)} |", "|--" * len(columns) + "|"]
    return "\n".join(lines + [f"| {' | '.join(cell(row.get(name)) for name in columns)} |" for row in rows])


def store(rows: Sequence[dict[str, Any]], path: Path, name: str, split: str) -> None:
    """Write the rows in the place of those of the same detector and split."""
    kept = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    kept = [row for row in kept if (row["detector"], row["split"]) != (name, split)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*kept, *rows]))


if __name__ == "__main__":
    main()
