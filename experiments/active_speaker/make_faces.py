"""Talking portraits: the mouth motion of GRID clips on other people's faces, so that the network sees more than four of them.

    uv run experiments/active_speaker/make_faces.py PORTRAITS CLIPS -o data/active_speaker/faces.npy --per 2 --seed 1
    portraits (JPEG), clips of prepare.py -> faces.npy (N, 75, 96, 96) uint8, faces.json: driver, portrait, speed, t0, n of each

The face mesh of a clip is laid into the mouth crop, and its difference from the resting face, in widths of the mouth, is
added to the mesh of a portrait, whose mouth is closed first. Triangles carry the portrait's pixels along; the opened mouth is
painted: dark, teeth, tongue. The pictures are for training alone: none is shown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import Delaunay

from avsr.faces.detectors import FaceMesh
from avsr.lips import MouthCropSettings, _group_means, _matrices, _OpenCrop, _smooth
from avsr.rates import MOUTH_SIZE

SETTINGS = MouthCropSettings()
SIDE, N_POINTS, LONGEST = 160, 468, 75                      # pixels around a portrait's crop; points without irises; frames
EDGE = (SIDE - MOUTH_SIZE) / 2
UPPER = [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308]  # points of the mesh: inner edges of the lips, from corner to corner
LOWER = [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308]
UNDER = [146, 91, 181, 84, 17, 314, 405, 321, 375]          # outer edge of the lower lip
CORNERS = (61, 291)
INNER = UPPER + LOWER[-2:0:-1]
SHARES = {"s1": 0.4, "s4": 0.32, "s26": 0.14, "s31": 0.14}     # of the speakers who lend their motion


def motion(points: np.ndarray) -> np.ndarray:
    """Points (T, 478, 2) in a frame -> their differences (T, 478, 2) float32 from the resting face, in widths of the mouth."""
    groups = _group_means(points, SETTINGS)
    n = len(groups)
    whole = _OpenCrop(0, 0, 0, groups, np.ones(n), np.ones(n), np.zeros(n, bool))
    matrices = _matrices(_smooth(whole, slice(0, n), SETTINGS.smooth // 2), SETTINGS)
    placed = np.einsum("tij,tnj->tni", matrices[:, :, :2], points) + matrices[:, None, :, 2]
    gap = (placed[:, LOWER[1:-1], 1] - placed[:, UPPER[1:-1], 1]).mean(axis=1)
    rest = placed[gap <= np.quantile(gap, 0.15)].mean(axis=0)
    return ((placed - rest) / np.linalg.norm(rest[CORNERS[1]] - rest[CORNERS[0]])).astype(np.float32)


def read_portraits(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """The surroundings of the mouth of each portrait (160, 160) float32, and the points of its mesh in them (468, 2)."""
    mesh, out = FaceMesh(1, "IMAGE"), []
    for path in sorted(folder.glob("*.jpg")):
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if faces := mesh.detect(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), None):
            matrix = _matrices(_group_means(faces[0][None], SETTINGS), SETTINGS)[0]
            matrix[:, 2] += EDGE
            crop = cv2.warpAffine(grey, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            out.append((crop.astype(np.float32), (faces[0][:N_POINTS] @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)))
    return out


class Portrait:
    """A portrait with its mouth closed. closed: (468, 2) its points then; skin: its grey level."""

    def __init__(self, crop: np.ndarray, points: np.ndarray, rng: np.random.Generator):
        self.crop, self.skin = crop, float(np.median(crop[70:100, 40:120]))
        self.width = float(np.linalg.norm(points[CORNERS[1]] - points[CORNERS[0]]))
        gaps = points[LOWER, 1] - points[UPPER, 1]
        gap, centre = float(gaps[1:-1].mean()), points[list(CORNERS)].mean(axis=0)
        x, y = (points - centre).T
        below = np.clip((points[:, 1] - points[UPPER, 1].mean()) / max(gap, 1), 0, 1) * (y > 0)
        beside = np.exp(-np.clip(np.abs(x) / self.width - 0.5, 0, None) ** 2 / 0.1)
        closed = points.copy()
        closed[:, 1] -= gap * 0.9 * below * beside * np.clip(2 - y / self.width / 0.6, 0, 1)
        closed[LOWER] = points[UPPER] + 0.3 * rng.random()
        closed[UNDER, 1] = points[UNDER, 1] - np.interp(points[UNDER, 0], points[UPPER, 0], gaps)
        near = np.exp(-(x**2 + y**2) / (0.75 * self.width) ** 2)
        closed[:, 0] -= x * (1 - rng.uniform(0.78, 1.0)) * np.minimum(1, 1.4 * near)     # most portraits smile
        self.closed = closed
        self._triangulate(points, (y > 0) * beside)

    def _triangulate(self, points: np.ndarray, lower: np.ndarray) -> None:
        """Triangles over all points but across the mouth. They are found with the mouth open, so that none crosses the slit."""
        side = np.linspace(0, SIDE - 1, 5)
        grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
        self.border = grid[((grid == 0) | (grid == SIDE - 1)).any(axis=1)].astype(np.float32)
        self.kept = np.flatnonzero(((points > -5) & (points < SIDE + 5)).all(axis=1))
        opened = self.closed.copy()
        moved = 6 * lower
        moved[UPPER], moved[LOWER[1:-1]], moved[UNDER] = 0, 6, 6
        opened[:, 1] += moved
        triangles = Delaunay(np.concatenate([opened[self.kept], self.border])).simplices
        inner = np.isin(np.r_[self.kept, np.full(len(self.border), -1)], INNER)
        self.triangles = triangles[~inner[triangles].all(axis=1)]
        self.source = np.concatenate([points[self.kept], self.border]).astype(np.float64)[self.triangles]

    def warped(self, points: np.ndarray) -> np.ndarray:
        """The crop (96, 96) float32 with the points (K, 2) that are kept, and the border, at these places of the crop."""
        corners = points[self.triangles]
        inside = ((corners.max(axis=1) > -1) & (corners.min(axis=1) < MOUTH_SIZE + 1)).all(axis=1)
        whole = np.round(corners * 16).astype(np.int32)
        label = np.zeros((MOUTH_SIZE, MOUTH_SIZE), np.float32)
        for number in np.flatnonzero(inside):
            cv2.fillConvexPoly(label, whole[number], float(number), shift=4)
        square = np.concatenate([corners, np.ones((len(corners), 3, 1))], axis=2)
        square[np.abs(np.linalg.det(square)) < 1e-3] = np.eye(3)
        affine = np.linalg.solve(square, self.source).astype(np.float32)[label.astype(np.int32)]
        y, x = np.mgrid[:MOUTH_SIZE, :MOUTH_SIZE].astype(np.float32)
        there = affine[..., 0, :] * x[..., None] + affine[..., 1, :] * y[..., None] + affine[..., 2, :]
        return cv2.remap(self.crop, there[..., 0], there[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


class Mouth:
    """How the inside of a mouth looks: dark, with teeth and a tongue or without."""

    def __init__(self, portrait: Portrait, rng: np.random.Generator):
        self.dark, self.teeth = portrait.skin * rng.uniform(0.1, 0.35), portrait.skin * rng.uniform(0.8, 1.4)
        self.shown, self.height = rng.uniform(0, 1), rng.uniform(0.05, 0.14) * portrait.width
        self.tongue = portrait.skin * rng.uniform(0.4, 0.8) if rng.random() < 0.4 else None
        self.lower_teeth = rng.random() < 0.3
        self.rest = portrait.closed[UPPER[2:9]]

    def paint(self, picture: np.ndarray, points: np.ndarray, place) -> np.ndarray:
        """The picture (96, 96) with the opening between the lips of (468, 2) filled. place: to pixels of the picture."""
        opening = float((points[LOWER[3:8], 1] - points[UPPER[3:8], 1]).mean())
        if opening <= 0.4:
            return picture
        inside = np.full(picture.shape, self.dark, np.float32)
        if self.tongue is not None:
            _fill(inside, place(_band(points[LOWER[2:9]], 0, -0.35 * opening)), self.tongue)
        if self.shown > 0.3:                                # the upper teeth stay where they are
            _fill(inside, place(_band(self.rest, -2, self.height * self.shown)),
                  self.dark + (self.teeth - self.dark) * self.shown)
        if self.lower_teeth:
            _fill(inside, place(_band(points[LOWER[3:8]], 2, -0.4 * self.height)), self.dark + (self.teeth - self.dark) * 0.6)
        mask = np.zeros(picture.shape, np.float32)
        _fill(mask, place(points[INNER]), 1.0)
        mask = cv2.GaussianBlur(mask, (3, 3), 0.6)
        return picture * (1 - mask) + cv2.GaussianBlur(inside, (5, 5), 1.0) * mask


def _band(line: np.ndarray, top: float, bottom: float) -> np.ndarray:
    return np.concatenate([line + np.array([0, top]), line[::-1] + np.array([0, bottom])])


def _fill(picture: np.ndarray, corners: np.ndarray, level: float) -> None:
    cv2.fillPoly(picture, [np.round(corners * 16).astype(np.int32)], level, shift=4)


def slow(n: int, amount: float, width: float, rng: np.random.Generator) -> np.ndarray:
    """A slow random motion (n,) of about `amount`."""
    return gaussian_filter1d(rng.normal(size=n + 40), width)[20:-20] * amount * np.sqrt(width * 3.5)


def render(portrait: Portrait, moved: np.ndarray, rng: np.random.Generator, inside=None) -> np.ndarray:
    """The portrait (T, 96, 96) uint8 with the motion (T, 478, 2), while the head moves and is followed with small errors.
    inside: what paints between the lips, a Mouth if None."""
    n, out = len(moved), np.empty((len(moved), MOUTH_SIZE, MOUTH_SIZE), np.uint8)
    amount = rng.uniform(0.6, 1.15) * portrait.width * rng.uniform(0.9, 1.1, 2)
    mouth = Mouth(portrait, rng) if inside is None else inside
    turn, size, yaw = slow(n, 0.03, 10, rng), 1 + slow(n, 0.02, 12, rng), slow(n, 0.05, 10, rng)
    shift = np.stack([slow(n, 0.7, 8, rng), slow(n, 0.7, 8, rng)], axis=1) + rng.normal(0, 0.15, (n, 2))
    for t in range(n):
        points = portrait.closed + moved[t, :N_POINTS] * amount
        crossed = np.minimum(points[LOWER, 1] - points[UPPER, 1], 0)
        points[LOWER, 1] -= crossed / 2
        points[UPPER, 1] += crossed / 2
        cos, sin = np.cos(turn[t]) * size[t], np.sin(turn[t]) * size[t]
        matrix = np.array([[cos * (1 + yaw[t]), sin], [-sin, cos]])

        def place(some: np.ndarray, matrix=matrix, by=shift[t]) -> np.ndarray:
            return (some - SIDE / 2) @ matrix + SIDE / 2 + by - EDGE

        picture = portrait.warped(place(np.concatenate([points[portrait.kept], portrait.border])))
        out[t] = np.clip(mouth.paint(picture, points, place), 0, 255)
    return out


def at_speed(moved: np.ndarray, speed: float, first: float) -> np.ndarray:
    """Motion (T, 478, 2) from frame `first` on, played `speed` times as fast: at most LONGEST frames."""
    times = first + speed * np.arange(min(LONGEST, int((len(moved) - 1 - first) / speed) + 1))
    low = np.minimum(times.astype(int), len(moved) - 2)
    share = (times - low)[:, None, None].astype(np.float32)
    return moved[low] * (1 - share) + moved[low + 1] * share


def main_movements(files: list[Path], n: int = 6, most: int = 60) -> np.ndarray:
    """The principal components (n, 478 * 2) of the motion of up to `most` clips: jaw, lips spread or rounded, and so on."""
    frames = []
    for path in files[:: max(1, len(files) // most)]:
        with np.load(path) as stored:
            frames.append(motion(stored["points"].astype(np.float64))[::3].reshape(-1, 2 * 478))
    frames = np.concatenate(frames)
    return np.linalg.svd(frames - frames.mean(axis=0), full_matrices=False)[2][:n]


def in_other_style(moved: np.ndarray, components: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Motion (T, 478, 2) of somebody who moves the jaw more, the lips less, and so on."""
    flat = moved.reshape(len(moved), -1)
    factors = np.exp(rng.normal(0, 0.35, len(components))) - 1
    flat = flat + (flat @ components.T * factors) @ components
    return gaussian_filter1d(flat, rng.uniform(0.1, 0.8), axis=0).reshape(moved.shape).astype(np.float32)


def main() -> None:
    """Render every portrait `--per` times, in random order, each with the motion of a random training clip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("portraits", type=Path)
    parser.add_argument("clips", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--per", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    rng, portraits = np.random.default_rng(args.seed), read_portraits(args.portraits)
    files = {speaker: sorted(args.clips.glob(f"train_{speaker}_*.npz")) for speaker in SHARES}
    components = main_movements([path for some in files.values() for path in some])
    order = rng.permutation(len(portraits) * args.per) % len(portraits)
    pictures = np.lib.format.open_memmap(args.output, "w+", np.uint8, (len(order), LONGEST, MOUTH_SIZE, MOUTH_SIZE))
    rows = []
    for number, which in enumerate(order):
        speaker = rng.choice(list(SHARES), p=list(SHARES.values()))
        driver = files[speaker][rng.integers(len(files[speaker]))]
        speed = float(np.exp(rng.uniform(-0.16, 0.16)))
        with np.load(driver) as stored:
            moved = motion(stored["points"].astype(np.float64))
        first = 0.0 if speed > 1 else float(int(rng.uniform(0, (len(moved) - 1) * (1 - speed))))
        moved = at_speed(in_other_style(moved, components, rng), speed, first)
        pictures[number, : len(moved)] = render(Portrait(*portraits[which], rng), moved, rng)
        rows.append({"driver": driver.name, "portrait": int(which), "speed": speed, "t0": first, "n": len(moved)})
        if number % 50 == 49 or number + 1 == len(order):
            args.output.with_suffix(".json").write_text(json.dumps(rows))
            print(number + 1, "of", len(order), flush=True)


if __name__ == "__main__":
    main()
