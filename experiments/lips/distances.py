"""How far the middle of the mouth is from where the mesh of every frame puts it, in pixels of the 96x96 crop.

    uv run experiments/lips/distances.py ../shared/data/grid --split valid --clips 4
    uv run experiments/lips/distances.py ../shared/data/grid --split unseen --clips 4
    uv run experiments/lips/distances.py ../shared/data/wild
"""

import argparse
import csv
import time
from collections import defaultdict
from itertools import islice
from pathlib import Path

import numpy as np

from avsr import lips, media
from avsr.faces import FaceTrack, FaceTracker
from avsr.lips import MouthCropSettings

N_FRAMES = 300            # of each recording that are compared


def matrices(points: np.ndarray, settings: MouthCropSettings) -> np.ndarray:
    """(T, 2, 3) from the frame to the crop, for the points of a whole track."""
    marks = lips._group_means(points, settings)
    person = lips._OpenCrop(0, 0, 0, marks, *np.zeros((3, len(marks))))
    return lips._matrices(lips._smooth(person, slice(0, len(marks)), settings.smooth // 2), settings)


def centres_apart(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(T,): the middle of the other's crop in the reference's crop, from its middle. Points (T, 478, 2) each."""
    settings = MouthCropSettings()
    a, b = matrices(reference, settings), matrices(other, settings)
    middle = np.full(2, settings.size / 2)
    there = np.einsum("tij,tj->ti", np.linalg.inv(b[:, :, :2]), middle - b[:, :, 2])
    return np.linalg.norm(np.einsum("tij,tj->ti", a[:, :, :2], there) + a[:, :, 2] - middle, axis=1)


def tracks_of(clips: list[media.Clip], **options) -> tuple[list[FaceTrack], float]:
    """Whole tracks, and the seconds of processor time that finding them took."""
    began, parts = time.process_time(), []
    with FaceTracker(**options) as tracker:
        for clip in clips:
            parts += tracker.update(clip)
        parts += tracker.finish()
    seconds, whole, open_parts = time.process_time() - began, [], defaultdict(list)
    for part in parts:
        open_parts[part.person].append(part)
        if part.last:
            pieces = open_parts.pop(part.person)
            arrays = [np.concatenate([getattr(piece, name) for piece in pieces])
                      for name in ("points", "box", "score", "missing")]
            whole.append(FaceTrack(part.person, pieces[0].start_frame, *arrays))
    return whole, seconds


def compare(reference: list[FaceTrack], others: list[FaceTrack]) -> tuple[np.ndarray, int, int]:
    """Distances in the frames in which both found the face; the number of the reference's faces, and of those not found."""
    distances, n_faces, n_lost = [], 0, 0
    for track in reference:
        best = np.full(len(track.points), np.inf)
        for other in others:
            start, end = max(track.start_frame, other.start_frame), min(track.end_frame, other.end_frame)
            if end > start:
                mine, theirs = slice(start - track.start_frame, end - track.start_frame), slice(
                    start - other.start_frame, end - other.start_frame)
                apart = centres_apart(track.points, _extended(other, track))[mine]
                apart[other.missing[theirs]] = np.inf
                best[mine] = np.minimum(best[mine], apart)
        seen = ~track.missing
        n_faces, n_lost = n_faces + int(seen.sum()), n_lost + int((best[seen] > 48).sum())
        distances.append(best[seen & (best <= 48)])
    return np.concatenate(distances) if distances else np.zeros(0), n_faces, n_lost


def _extended(other: FaceTrack, track: FaceTrack) -> np.ndarray:
    """The other's points over the frames of `track`; its first and last stand for those that it lacks."""
    frames = np.arange(track.start_frame, track.end_frame) - other.start_frame
    return other.points[np.clip(frames, 0, len(other.points) - 1)]


def recordings_of(folder: Path, split: str, n_clips: int) -> dict[str, list[Path]]:
    """Recordings by group: GRID's clips of a split by speaker, or else every file for itself."""
    if not (folder / "splits.tsv").is_file():
        return {path.name: [path] for path in sorted(folder.iterdir())}
    groups: dict[str, list[Path]] = defaultdict(list)
    with (folder / "splits.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["split"] == split and len(groups[row["speaker"]]) < n_clips:
                groups[row["speaker"]].append(next((folder / row["speaker"]).glob(f"{row['utterance']}.m*")))
    return groups


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of GRID with splits.tsv, or one of recordings")
    parser.add_argument("--split", default="valid", help="of GRID (%(default)s)")
    parser.add_argument("--clips", type=int, default=4, help="of each speaker (%(default)s)")
    parser.add_argument("--stride", type=int, default=3, help="see faces.FaceTracker (%(default)s)")
    parser.add_argument("--key-interval", type=int, default=24, help="see faces.FaceTracker (%(default)s)")
    args = parser.parse_args()
    print("| group | median | 95 % | 99 % | faces | not found | ms a frame | every frame, ms |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    everything = []
    for name, paths in recordings_of(args.folder, args.split, args.clips).items():
        found, n_faces, n_lost, n_frames, ours_s, every_s = [], 0, 0, 0, 0.0, 0.0
        for path in paths:
            with media.open_recording(path, want_audio=False) as recording:
                clips = list(islice(recording.windows(100, grey=True), N_FRAMES // 100))
            with media.open_recording(path, want_audio=False) as recording:
                every, seconds = tracks_of(list(islice(recording.windows(100), N_FRAMES // 100)), stride=1)
            every_s += seconds
            followed, seconds = tracks_of(clips, stride=args.stride, key_interval=args.key_interval)
            ours_s += seconds
            apart, faces, lost = compare(every, followed)
            found.append(apart)
            n_faces, n_lost = n_faces + faces, n_lost + lost
            n_frames += sum(clip.n_frames for clip in clips)
        everything += found
        ours_ms, every_ms = 1e3 * ours_s / n_frames, 1e3 * every_s / n_frames
        print(_row(name, np.concatenate(found), n_faces, n_lost, ours_ms, every_ms), flush=True)
    together = np.concatenate(everything)
    median, *high = np.percentile(together, [50, 95, 99])
    print(f"| all | {median:.2f} | {high[0]:.2f} | {high[1]:.2f} | | | | |")


def _row(name: str, apart: np.ndarray, n_faces: int, n_lost: int, ours_ms: float, every_ms: float) -> str:
    numbers = [f"{np.percentile(apart, share):.2f}" if len(apart) else "" for share in (50, 95, 99)]
    return f"| {name} | " + " | ".join([*numbers, str(n_faces), str(n_lost), f"{ours_ms:.2f}", f"{every_ms:.1f}"]) + " |"


if __name__ == "__main__":
    main()
