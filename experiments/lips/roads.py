"""Two roads from a video to mouths, in turn in one process: ours, and auto_avsr's made again from its description.

    uv run experiments/lips/roads.py ../shared/data/grid --clips 25 --runs 2

Prints frames per second of processor time (user and system, all threads) for decoding, finding and cropping, and for all three
together. Loading the networks is left out: both roads read a clip before the first run.
"""

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import av
import cv2
import numpy as np

from avsr import media
from avsr.faces import FaceTracker
from avsr.faces.detectors import BlazeFace
from avsr.lips import MouthCropper

T = TypeVar("T")

STAGES = ("decode", "find", "crop")
# auto_avsr's mean face of 256x256 pixels: right eye, left eye, nose, mouth.
REFERENCE = np.array([(102.07394306, 94.27230352), (156.36130542, 93.57815605), (129.00373787, 135.90343029),
                      (129.31337323, 157.82299635)])


def auto_avsr_decode(path: Path) -> list[np.ndarray]:
    """All frames (H, W, 3) uint8 RGB, by PyAV, as torchvision's reader gives them."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def auto_avsr_find(frames: list[np.ndarray], detector: BlazeFace) -> np.ndarray:
    """(T, 4, 2): eyes, nose and mouth of the face in every frame, in whole pixels; between frames with a face linear."""
    found = [detector.detect(frame, None) for frame in frames]
    there = [i for i, faces in enumerate(found) if faces]
    points = np.stack([found[i][0][:4] for i in there]).reshape(len(there), 8)
    every = np.stack([np.interp(np.arange(len(frames)), there, column) for column in points.T], axis=1)
    return every.reshape(-1, 4, 2)


def auto_avsr_crop(frames: list[np.ndarray], points: np.ndarray) -> np.ndarray:
    """(T, 96, 96) uint8 grey mouths."""
    mouths = []
    for i, frame in enumerate(frames):
        near = min(6, i, len(frames) - 1 - i)
        smoothed = points[i - near:i + near + 1].mean(axis=0)
        smoothed += points[i].mean(axis=0) - smoothed.mean(axis=0)
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        matrix, _ = cv2.estimateAffinePartial2D(smoothed, REFERENCE, method=cv2.LMEDS)
        face = cv2.warpAffine(grey, matrix, (256, 256), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        x, y = matrix[:, :2] @ smoothed[3] + matrix[:, 2]
        top, left = (round(min(max(middle - 48, 0), 160)) for middle in (y, x))
        mouths.append(face[top:top + 96, left:left + 96])
    return np.stack(mouths)


def auto_avsr(path: Path, clock: "Clock", detector: BlazeFace) -> int:
    """auto_avsr's road with MediaPipe. Returns the number of frames."""
    frames = clock("decode", lambda: auto_avsr_decode(path))
    points = clock("find", lambda: auto_avsr_find(frames, detector))
    return len(clock("crop", lambda: auto_avsr_crop(frames, points)))


def ours(path: Path, clock: "Clock") -> int:
    """This program's road, with its default settings. Returns the number of frames."""
    def decode() -> list[media.Clip]:
        with media.open_recording(path, want_audio=False) as recording:
            return list(recording.windows(grey=True))

    def find() -> list:
        with FaceTracker() as tracker:
            return [tracker.update(clip) for clip in clips] + [tracker.finish()]

    def crop() -> list:
        cropper = MouthCropper()
        mouths = [piece for clip, parts in zip(clips, tracks[:-1], strict=True) for piece in cropper.update(clip, parts)]
        return mouths + cropper.finish(tracks[-1])

    clips = clock("decode", decode)
    tracks = clock("find", find)
    mouths = clock("crop", crop)
    n_frames = sum(clip.n_frames for clip in clips)
    assert sum(len(piece.images) for piece in mouths) == n_frames, f"{path}: not every one of {n_frames} frames has a mouth"
    return n_frames


class Clock:
    """Adds up the processor time of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    def __call__(self, stage: str, work: Callable[[], T]) -> T:
        before = time.process_time()
        done = work()
        self.seconds[stage] += time.process_time() - before
        return done


def measure(road: Callable[[Path, Clock], int], paths: list[Path]) -> dict[str, float]:
    """Frames per second of processor time, by stage and together."""
    clock = Clock()
    n_frames = sum(road(path, clock) for path in paths)
    return {stage: n_frames / max(seconds, 1e-9) for stage, seconds in
            [*clock.seconds.items(), ("together", sum(clock.seconds.values()))]}


def clips_of(grid: Path, n_clips: int) -> list[Path]:
    """Clips of all speakers in turn, as the list of splits has them."""
    with (grid / "splits.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    speakers = sorted({row["speaker"] for row in rows})
    by_speaker = {name: [row["utterance"] for row in rows if row["speaker"] == name] for name in speakers}
    chosen = [(name, utterances[i]) for i in range(n_clips) for name, utterances in by_speaker.items() if i < len(utterances)]
    return [next((grid / name).glob(f"{utterance}.m*")) for name, utterance in chosen[:n_clips]]


def main() -> None:
    """Measure both roads in turn, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="a folder of GRID with splits.tsv")
    parser.add_argument("--clips", type=int, default=25, help="how many clips are read (%(default)s)")
    parser.add_argument("--runs", type=int, default=2, help="how many times each road reads them (%(default)s)")
    args = parser.parse_args()
    paths = clips_of(args.grid, args.clips)
    detector = BlazeFace(1, "VIDEO")
    roads = {"auto_avsr, MediaPipe": lambda path, clock: auto_avsr(path, clock, detector), "ours": ours}
    for road in roads.values():
        road(paths[0], Clock())
    print("| road, run | decode | find | crop | together |\n|---|--:|--:|--:|--:|", flush=True)
    for run in range(1, args.runs + 1):
        for name, road in roads.items():
            rates = measure(road, paths)
            numbers = " | ".join(f"{rates[stage]:,.0f}" for stage in (*STAGES, "together"))
            print(f"| {name}, {run} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
