"""Crops the mouths of GRID clips, and keeps the sound and all points of the face mesh, from which make_faces.py takes motion.

    uv run experiments/active_speaker/prepare.py data/raw/grid data/active_speaker/clips --clips 400
    GRID with splits.tsv -> SPLIT_SPEAKER_NAME.npz: images (T, 96, 96), audio (S,), points (T, 478, 2), start
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np

from avsr import media
from avsr.faces import FaceTracker
from avsr.lips import MouthCropper

STRIDE = 2                 # frames from one search for the mesh to the next; closed lips last two frames


def store(path: Path, to: Path) -> None:
    """Crop one clip, of which the first face is kept, and write it whole or not at all."""
    tracks, mouths, audio = [], [], []
    with FaceTracker(stride=STRIDE) as tracker:
        cropper = MouthCropper()
        for clip in media.windows(path):
            audio.append(clip.audio)
            found = tracker.update(clip)
            tracks += found
            mouths += cropper.update(clip, found)
        found = tracker.finish()
        mouths += cropper.finish(found)
    tracks = [track for track in tracks + found if track.person == 0]
    images = np.concatenate([part.images for part in mouths if part.person == 0])
    start = tracks[0].start_frame
    temporary = to.with_suffix(".new.npz")
    np.savez(temporary, images=np.concatenate([np.zeros((start, *images.shape[1:]), np.uint8), images]), start=start,
             points=np.concatenate([track.points for track in tracks]), audio=np.concatenate(audio))
    temporary.rename(to)


def main() -> None:
    """Go through the clips of the splits; those that are there already are left alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--clips", type=int, default=400, help="the most training clips of one speaker")
    parser.add_argument("--splits", nargs="+", default=["train", "valid"], help="splits of GRID that are gone through")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    rows = [line.split("\t")[:3] for line in (args.grid / "splits.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    random.Random(0).shuffle(rows)
    taken: dict[tuple[str, str], int] = {}
    for speaker, name, split in rows:
        taken[speaker, split] = taken.get((speaker, split), 0) + 1
        to = args.output / f"{split}_{speaker}_{name}.npz"
        if split not in args.splits or taken[speaker, split] > args.clips or to.exists():
            continue
        store(next((args.grid / speaker).glob(f"{name}.m*")), to)
        print(to.name, flush=True)


if __name__ == "__main__":
    main()
