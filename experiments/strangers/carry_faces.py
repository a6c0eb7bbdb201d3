"""Other faces under real speech: the mouth's motion and the inside of GRID's mouths, carried onto portraits, with the words.

    uv run experiments/strangers/carry_faces.py PORTRAITS CLIPS data/grid data/strangers/s1 --speakers s1
    portraits (JPEG), clips of ../active_speaker/prepare.py, a prepared GRID -> a cache of mouths with manifest.jsonl

../active_speaker/make_faces.py moves the portrait. What shows between the lips (teeth, tongue, dark) is the clip's own, warped
to the portrait's opening and scaled to its skin's grey level. Each row has the text and the word times of its clip. Sentences
of split `valid` are said by portraits that no training sentence has. The pictures are for training alone: none is shown.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from avsr import cache, manifest
from avsr.cache import Cached, ShardWriter, pack
from avsr.lips import MouthCropSettings
from avsr.rates import MOUTH_SIZE

sys.path.append(str(Path(__file__).parents[1] / "active_speaker"))
import make_faces as faces

HELD_OUT = 50                 # portraits that only validation sentences get
RIDGE = 4.0                   # square pixels: how strongly the inside keeps its shape where the opening is narrow
STYLE = 0.5                   # of the active speaker's random factors, with which words could change
CHEEKS = np.s_[20:40, 10:86]  # of a crop of 96x96 pixels: above the mouth, where the skin's grey level is taken


def points_in_crop(points: np.ndarray) -> np.ndarray:
    """Points (T, 478, 2) in a frame -> the same in the crop of their frame, (T, 478, 2)."""
    groups = faces._group_means(points, faces.SETTINGS)
    n = len(groups)
    whole = faces._OpenCrop(0, 0, 0, groups, np.ones(n), np.ones(n), np.zeros(n, bool))
    matrices = faces._matrices(faces._smooth(whole, slice(0, n), faces.SETTINGS.smooth // 2), faces.SETTINGS)
    return np.einsum("tij,tnj->tni", matrices[:, :, :2], points) + matrices[:, None, :, 2]


def inside_of(clip: np.ndarray, there: np.ndarray, here: np.ndarray, scale: float) -> np.ndarray:
    """The clip's crop (96, 96) with the opening at its lips `there` (K, 2) laid on the lips `here` (K, 2), (96, 96) float32.

    scale: pixels here per pixel there, which the affine fit keeps to in directions that the points do not span.
    """
    middle_there, middle_here = there.mean(axis=0), here.mean(axis=0)
    x, y = there - middle_there, here - middle_here
    matrix = np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(2), x.T @ y + RIDGE * len(x) * scale * np.eye(2)).T
    shift = middle_here - matrix @ middle_there
    return cv2.warpAffine(clip, np.column_stack([matrix, shift]), (MOUTH_SIZE, MOUTH_SIZE), borderMode=cv2.BORDER_REPLICATE)


class RealMouth:
    """The inside of the mouth as a clip shows it. `paint` takes the place of that of ../active_speaker/make_faces.Mouth."""

    def __init__(self, images: np.ndarray, placed: np.ndarray, portrait: faces.Portrait, rng: np.random.Generator):
        self.images, self.lips, self.frame = images, placed[:, faces.INNER], 0
        self.gain = portrait.skin / max(1.0, float(np.median(images[:, *CHEEKS]))) * rng.uniform(0.85, 1.15)
        ends = placed[:, faces.CORNERS].mean(axis=0)
        self.scale = portrait.width / float(np.linalg.norm(ends[1] - ends[0]))

    def paint(self, picture: np.ndarray, points: np.ndarray, place) -> np.ndarray:
        """The picture (96, 96) of the next frame with the opening between the lips of (468, 2) filled."""
        t, self.frame = self.frame, self.frame + 1
        lips = place(points[faces.INNER])
        inside = inside_of(self.images[t].astype(np.float32) * self.gain, self.lips[t], lips, self.scale)
        mask = np.zeros(picture.shape, np.float32)
        faces._fill(mask, lips, 1.0)
        mask = cv2.GaussianBlur(cv2.dilate(mask, np.ones((3, 3))), (3, 3), 0.6)      # a closed mouth shows the clip's slit
        return picture * (1 - mask) + inside * mask


def carried(path: Path, portrait: faces.Portrait, components: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The portrait (T, 96, 96) uint8 that says what the clip says, frame by frame."""
    with np.load(path) as stored:
        start, points = int(stored["start"]), stored["points"].astype(np.float64)
        images = stored["images"][start:]
    moved = faces.motion(points)
    moved = moved + STYLE * (faces.in_other_style(moved, components, rng) - moved)
    made = faces.render(portrait, moved, rng, RealMouth(images, points_in_crop(points), portrait, rng))
    return np.concatenate([np.zeros((start, *made.shape[1:]), np.uint8), made])


def clips_by_id(folder: Path, speakers: list[str]) -> dict[str, Path]:
    """The clips of these speakers by the id of their utterance, such as s1_bbaf2n."""
    return {path.stem.partition("_")[2]: path for path in sorted(folder.glob("*.npz")) if path.stem.split("_")[1] in speakers}


def main() -> None:
    """Carry `--count` training clips onto one portrait each, and each validation clip onto one that was held out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("portraits", type=Path)
    parser.add_argument("clips", type=Path)
    parser.add_argument("grid", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--speakers", nargs="+", default=["s1", "s4", "s26", "s31"])
    parser.add_argument("--count", type=int, default=600, help="training clips to make")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    rng, clips = np.random.default_rng(args.seed), clips_by_id(args.clips, args.speakers)
    rows = {row.id: row for row in manifest.read(args.grid) if row.id in clips}
    portraits = faces.read_portraits(args.portraits)
    order = rng.permutation(len(portraits))
    components = faces.main_movements(list(clips.values()))
    train = [row for row in rows.values() if row.split == "train"]
    share = np.array([1 if row.speaker == "s1" else 4 for row in train], float)       # s1 has ten times as many as the others
    jobs = [(row, order[:HELD_OUT], number) for number, row in enumerate(row for row in rows.values() if row.split == "valid")]
    jobs += [(train[i], order[HELD_OUT:], number)
             for number, i in enumerate(rng.choice(len(train), args.count, p=share / share.sum()))]
    made = []
    with ShardWriter(args.output) as shards:
        for number, (row, among, turn) in enumerate(jobs):
            which = int(among[turn % len(among)])
            images = carried(clips[row.id], faces.Portrait(*portraits[which], rng), components, rng)
            name = f"{row.id}_portrait{which}_{number}"
            entry = shards.add(pack(name, Cached(images, np.zeros(len(images), bool), None)))
            made.append(replace(row, id=name, media=str(args.clips), speaker=f"portrait{which}", cache=entry))
            if number % 50 == 49:
                print(number + 1, "of", len(jobs), flush=True)
    cache.write_mouth_crop(args.output, MouthCropSettings())
    manifest.write(args.output / "manifest.jsonl", made)


if __name__ == "__main__":
    main()
