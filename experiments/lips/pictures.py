"""Pictures of faces with their key points, by the mesh: what the face follower learns from.

    uv run experiments/lips/pictures.py ../shared/data/grid ../shared/data/portraits -o runs/follower

From GRID's train and valid clips: frames, with the mesh of every frame. From portraits: the portrait, and versions of it whose
head is turned and whose lips are moved by splines, with an opened mouth painted in; the mesh is then found in each version.
"""

import argparse
import csv
import random
from pathlib import Path

import cv2
import numpy as np

from avsr import media
from avsr.faces import FaceTracker
from avsr.faces.detectors import FaceMesh
from avsr.faces.following import FRAME, REFERENCE, key_points
from avsr.faces.geometry import similarity
from avsr.faces.log_suppression import cut_out

SIDE = 144                # pixels of the mean face, square: what is kept of a face
DRAWN = 320               # pixels: side of a portrait when it is changed
N_CLIPS = {("s1", "train"): 45, ("s4", "train"): 28, ("s26", "train"): 4, ("s31", "train"): 4,
           ("s1", "valid"): 2, ("s4", "valid"): 2, ("s26", "valid"): 1, ("s31", "valid"): 1}
INNER = [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95]  # of the lips
LOWER = [146, 91, 181, 84, 17, 314, 405, 321, 375, 95, 88, 178, 87, 14, 317, 402, 318, 324]              # lower lip
PINS = [*INNER, *LOWER, 61, 291, 0, 13, 14, 17, 33, 133, 362, 263, 98, 97, 2, 326, 327]
RIGHT_EYE, LEFT_EYE, LIP_TOP, LIP_BOTTOM, CHIN_TOP = 33, 263, 13, 14, 17


class Pictures:
    """Faces cut out alike, their key points, and where they come from."""

    def __init__(self) -> None:
        self.faces: list[np.ndarray] = []
        self.points: list[np.ndarray] = []
        self.sources: list[str] = []

    def add(self, picture: np.ndarray, mesh: np.ndarray, source: str) -> None:
        """picture: (H, W, 3) uint8 RGB; mesh: (478, 2 or 3) in its pixels."""
        key = key_points(mesh[:, :2])
        matrix = similarity(FRAME @ key, np.column_stack([REFERENCE.real, REFERENCE.imag]))
        matrix[:, 2] += SIDE / 2
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        self.faces.append(cv2.warpAffine(grey, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE))
        self.points.append(key @ matrix[:, :2].T + matrix[:, 2])
        self.sources.append(source)

    def save(self, path: Path) -> None:
        """Write them as arrays."""
        np.savez(path, faces=np.stack(self.faces), points=np.stack(self.points).astype(np.float32), sources=self.sources)


def grid_pictures(grid: Path) -> Pictures:
    """Every frame of some clips of each speaker, every second one of s1's; the source is speaker/split/utterance."""
    with (grid / "splits.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    random.Random(7).shuffle(rows)
    left, out = dict(N_CLIPS), Pictures()
    for row in rows:
        kind = row["speaker"], row["split"]
        if not left.get(kind):
            continue
        left[kind] -= 1
        clip = media.read(next((grid / row["speaker"]).glob(f"{row['utterance']}.m*")), want_audio=False)
        with FaceTracker(stride=1, max_faces=2) as tracker:
            tracks = tracker.update(clip) + tracker.finish()
        for track in tracks:
            for i in range(0, len(track.points), 2 if row["speaker"] == "s1" else 1):
                if not track.missing[i]:
                    out.add(clip.video[track.start_frame + i], track.points[i], "/".join((*kind, row["utterance"])))
    return out


class Mesh:
    """MediaPipe's mesh of one face, with depths."""

    def __init__(self) -> None:
        self.finder = FaceMesh(1, "IMAGE")

    def __call__(self, picture: np.ndarray) -> np.ndarray | None:
        """(H, W, 3) uint8 RGB -> (478, 3) in pixels; None without a face."""
        image, _, (width, height) = cut_out(np.ascontiguousarray(picture), None)
        found = self.finder._task.detect(image).face_landmarks
        return np.array([(p.x * width - 0.5, p.y * height - 0.5, p.z * width) for p in found[0]]) if found else None


def portrait_pictures(folder: Path, n_versions: int, rng: np.random.Generator) -> Pictures:
    """Each portrait as it is, and so many changed versions; the source is the name of the file."""
    mesh, out = Mesh(), Pictures()
    for path in sorted(folder.glob("*.jpg")):
        picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        points = mesh(picture)
        if points is None:
            continue
        scale = DRAWN / (2 * np.ptp(points[:, :2], axis=0).max())
        shift = DRAWN / 2 - scale * points[:, :2].mean(axis=0)
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        picture = cv2.warpAffine(picture, matrix, (DRAWN, DRAWN), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        points = mesh(picture)
        if points is None:
            continue
        out.add(picture, points, path.name)
        for _ in range(n_versions):
            changed = another_pose(picture, points, rng)
            found = mesh(changed)
            if found is not None:
                out.add(changed, found, path.name)
    return out


def another_pose(picture: np.ndarray, mesh: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The portrait (DRAWN, DRAWN, 3) with the head turned and the lips moved, by chance."""
    eyes = float(np.linalg.norm(mesh[LEFT_EYE, :2] - mesh[RIGHT_EYE, :2]))
    yaw, pitch = np.radians([rng.normal(0, 14), rng.normal(0, 9)])
    jaw = eyes * max(0.0, rng.normal(0.05, 0.18))
    middle = mesh.mean(axis=0)
    moved = _with_lips(mesh - middle, eyes, jaw, rng) @ _turn(yaw, pitch).T
    target = moved[:, :2] + middle[:2]
    out = _bent(picture, mesh[:, :2], target)
    return _with_open_mouth(out, target, rng) if jaw > 0.04 * eyes else out


def _turn(yaw: float, pitch: float) -> np.ndarray:
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    return about_y @ about_x


def _with_lips(mesh: np.ndarray, eyes: float, jaw: float, rng: np.random.Generator) -> np.ndarray:
    """The mesh, centred, with the lips wider or narrower, the upper lip raised, and the lower lip and chin dropped by `jaw`."""
    mesh = mesh.copy()
    raised, widened = eyes * rng.normal(0, 0.03), rng.normal(0, 0.12)
    lips = mesh[[LIP_TOP, LIP_BOTTOM]].mean(axis=0)
    across, down = mesh[:, 0] - lips[0], mesh[:, 1] - lips[1]
    near = np.exp(-(across**2 / (2 * (0.45 * eyes) ** 2) + down**2 / (2 * (0.3 * eyes) ** 2)))
    half = abs(mesh[61, 0] - mesh[291, 0]) / 2
    arch = np.clip(1 - (across / half) ** 2, 0, 1)
    chin_top = mesh[CHIN_TOP, 1]
    dropped = np.where(mesh[:, 1] > chin_top - 1, 0.9 * np.clip(1 - (across / (2.2 * half)) ** 2, 0, 1)
                       * np.clip((mesh[:, 1] - chin_top) / (0.1 * eyes) + 1, 0, 1), 0.0)
    lower = [point for point in LOWER if mesh[point, 1] <= chin_top - 1]
    dropped[lower] = arch[lower]
    mesh[:, 0] += widened * near * across
    mesh[:, 1] += jaw * dropped - (raised + 0.15 * jaw * rng.random()) * near * arch * (down <= 0.5)
    return mesh


def _bent(picture: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The picture with points moved from `source` to `target`, and its edge left where it is, by multiquadrics."""
    line = np.linspace(0, DRAWN - 1, 24)
    ends = np.zeros_like(line), np.full_like(line, DRAWN - 1)
    edge = np.concatenate([np.stack(pair, axis=1) for end in ends for pair in ((line, end), (end, line))])
    some = np.unique([*range(0, 468, 2), *PINS])
    there, here = np.concatenate([target[some], edge]), np.concatenate([source[some], edge])
    n = len(there)
    plane = np.column_stack([np.ones(n), there])
    system = np.block([[_multiquadric(there, there) + 0.5 * np.eye(n), plane], [plane.T, np.zeros((3, 3))]])
    weights = np.linalg.solve(system, np.concatenate([here - there, np.zeros((3, 2))]))
    coarse = np.linspace(0, DRAWN - 1, 64)
    knots = np.stack(np.meshgrid(coarse, coarse), axis=-1).reshape(-1, 2)
    shift = _multiquadric(knots, there) @ weights[:n] + np.column_stack([np.ones(len(knots)), knots]) @ weights[n:]
    places = (knots + shift).reshape(64, 64, 2).astype(np.float32)
    fine = (np.arange(DRAWN) / (DRAWN - 1) * 63).astype(np.float32)
    places = cv2.remap(places, *np.meshgrid(fine, fine), cv2.INTER_LINEAR)
    return cv2.remap(picture, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _multiquadric(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(a[:, None] - b[None]).sum(axis=-1) + 4.0)


def _with_open_mouth(picture: np.ndarray, mesh: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Dark between the lips, mostly with teeth above, sometimes with a tongue below."""
    inside = np.zeros((DRAWN, DRAWN), np.uint8)
    cv2.fillPoly(inside, [mesh[INNER].round().astype(int)], 255)
    share = cv2.GaussianBlur(inside, (0, 0), 1.2)[..., None] / 255
    colour = np.ones((DRAWN, DRAWN, 3)) * rng.uniform(15, 60) * np.array([1, 0.6, 0.55])
    rows, opening = np.arange(DRAWN)[:, None, None], max(3.0, mesh[LIP_BOTTOM, 1] - mesh[LIP_TOP, 1])
    if rng.random() < 0.7:
        teeth = np.clip((mesh[LIP_TOP, 1] + rng.uniform(0.2, 0.6) * opening - rows) / 2, 0, 1)
        colour = colour * (1 - teeth) + teeth * rng.uniform(130, 220)
    if rng.random() < 0.4:
        tongue = np.clip((rows - mesh[LIP_BOTTOM, 1] + rng.uniform(0.1, 0.4) * opening) / 2, 0, 1)
        colour = colour * (1 - tongue) + tongue * np.array([170, 100, 100]) * rng.uniform(0.6, 1)
    return (picture * (1 - share) + colour * share).astype(np.uint8)


def main() -> None:
    """Make both sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="a folder of GRID with splits.tsv")
    parser.add_argument("portraits", type=Path, help="a folder of portraits, .jpg")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the folder for grid.npz and portraits.npz")
    parser.add_argument("--versions", type=int, default=5, help="changed versions of each portrait (%(default)s)")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    grid_pictures(args.grid).save(args.output / "grid.npz")
    portrait_pictures(args.portraits, args.versions, np.random.default_rng(1)).save(args.output / "portraits.npz")


if __name__ == "__main__":
    main()
