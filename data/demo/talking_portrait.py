"""The talking face's picture: a mouth shape and a time in, one frame out.

    shape (4,) + seconds -> draw -> (N, N, 3) uint8 RGB

The lips of a smiling portrait are moved by thin-plate splines, one for the skin above the mouth and one for the skin
below it, and the opened mouth is painted in: the portrait's own teeth, dark, tongue. Head and lids move on their own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from talking_voice import ROUNDING, smoothstep

# MediaPipe's numbers of the points, from the picture's left to its right; lists that are zipped run in step.
_UPPER_OUTER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
_UPPER_INNER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
_LOWER_OUTER = (146, 91, 181, 84, 17, 314, 405, 321, 375)
_LOWER_INNER = (95, 88, 178, 87, 14, 317, 402, 318, 324)
_JAW = (58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288)
_JAW_SHARE = (0.1, 0.25, 0.45, 0.7, 0.88, 0.97, 1, 1, 1, 0.97, 0.88, 0.7, 0.45, 0.25, 0.1)  # of the chin's drop
_CHIN = (18, 200, 199, 175, 83, 313, 208, 428)
_STILL = (2, 98, 327, 129, 358, 50, 280, 117, 346, 205, 425, 93, 323, 132, 361, 4, 36, 266)
_EYES = (
    ((33, 246, 161, 160, 159, 158, 157, 173, 133), (33, 7, 163, 144, 145, 153, 154, 155, 133)),
    ((362, 398, 384, 385, 386, 387, 388, 466, 263), (362, 382, 381, 380, 374, 373, 390, 249, 263)),
)
_CROP = (118, 14, 212)  # left, top and side in pixels of the square of the 512 x 512 portrait that is shown


@dataclass(frozen=True, eq=False)
class Face:
    """The portrait at one size. Local coordinates put the mouth's middle at 0 and its corners at (-1, 0) and (1, 0)."""

    skin: np.ndarray  # (N, N, 3) uint8 RGB, the inside of the mouth painted over with lip
    teeth: np.ndarray  # (h, w, 4) float32: colour, and cover 0..1, inside the box
    landmarks: np.ndarray  # (478, 2) float64 pixels
    local: np.ndarray  # (478, 2) the same in local coordinates
    to_pixels: np.ndarray  # (2, 3) local coordinates to pixels
    box: tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels around all that lips and jaw move
    grid: np.ndarray  # (h / step, w / step, 2) local coordinates of the coarse points


def _affine(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


@lru_cache(maxsize=4)
def portrait(size: int = 384) -> Face:
    """The face that will talk, `size` x `size` pixels."""
    from skimage.data import astronaut

    left, top, side = _CROP
    image = cv2.resize(astronaut()[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_LANCZOS4)
    [[landmarks]] = find_faces([image])
    corners = landmarks[[61, 291]]
    axis = (corners[1] - corners[0]) / 2
    middle = corners.mean(axis=0)
    to_pixels = np.array([[axis[0], -axis[1], middle[0]], [axis[1], axis[0], middle[1]]])
    to_local = cv2.invertAffineTransform(to_pixels)
    local = _affine(to_local, landmarks)
    unit = np.hypot(*axis)
    step = max(1, size // 96)  # pixels between the points at which the displacement is computed: 4 look like 1
    x0, y0 = np.maximum(middle - unit * np.array([2.8, 1.4]), 0).astype(int)
    n_columns, n_rows = int(5.6 * unit) // step, int(4.6 * unit) // step
    n_columns, n_rows = min(n_columns, (size - x0) // step), min(n_rows, (size - y0) // step)
    box = (int(x0), int(y0), int(x0) + n_columns * step, int(y0) + n_rows * step)
    half = (step - 1) / 2  # where cv2.resize puts a coarse pixel's middle
    coarse = np.stack(np.meshgrid(np.arange(n_columns), np.arange(n_rows)), axis=-1) * step + half + (x0, y0)
    skin, teeth = _layers(image, landmarks, box)
    return Face(skin, teeth, landmarks, local, to_pixels, box, _affine(to_local, coarse))


def _layers(image: np.ndarray, landmarks: np.ndarray, box) -> tuple[np.ndarray, np.ndarray]:
    """The skin without the inside of the smile, and the teeth that the smile shows, continued under the upper lip."""
    x0, y0, x1, y1 = box
    upper, lower = landmarks[list(_UPPER_INNER)], landmarks[[78, *_LOWER_INNER, 308]]
    inside = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(inside, [np.concatenate([upper, lower[::-1]]).round().astype(np.int32)], 255)
    skin = cv2.inpaint(image, cv2.dilate(inside, np.ones((3, 3), np.uint8)), 3, cv2.INPAINT_TELEA)
    xs, ys = np.meshgrid(np.arange(x0, x1, dtype=np.float32), np.arange(y0, y1, dtype=np.float32))
    gums = np.interp(xs, *upper.T).astype(np.float32) + 1
    edges = np.maximum(np.interp(xs, *lower.T).astype(np.float32) - 1, gums)
    colour = cv2.remap(image, xs, np.clip(ys, gums, edges), cv2.INTER_LINEAR).astype(np.float32)
    aside = np.minimum(xs - upper[0, 0], upper[-1, 0] - xs)
    cover = smoothstep((edges - ys) / 2 + 0.5) * smoothstep(aside / 4)
    return skin, np.dstack([colour, cover.astype(np.float32)])


def find_faces(frames: Iterable[np.ndarray]) -> list[list[np.ndarray]]:
    """The faces in each RGB frame (H, W, 3) uint8, left to right: MediaPipe's points, each (478, 2) in pixels."""
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    from avsr.assets import find

    model = BaseOptions(model_asset_path=str(find("face_landmarker.task")))
    options = vision.FaceLandmarkerOptions(base_options=model, num_faces=4)
    results = []
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        for frame in frames:
            found = landmarker.detect(mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(frame)))
            scale = frame.shape[1::-1]
            faces = [np.array([(point.x, point.y) for point in face]) * scale - 0.5 for face in found.face_landmarks]
            results.append(sorted(faces, key=lambda face: face[:, 0].mean()))
    return results


def _inner_lips(shape: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, and y of the upper and of the lower lip's inner edge, at -1 (left corner) <= u <= 1, in local coordinates."""
    opening, width, rounding, tuck = shape
    half = 0.84 + (0.1 if width > 0 else 0.27) * width - 0.05 * opening
    upper = 0.25 - 0.08 * opening - 0.05 * tuck
    lower = upper + 0.66 * opening
    corner = 0.13 - 0.07 * max(width, 0) + 0.18 * opening
    corner += (0.5 * (upper + lower) - corner) * 0.9 * rounding
    bend = np.abs(u)
    y_upper = corner + (upper - corner) * (1 - bend ** (2 + rounding))
    y_lower = corner + (lower - corner) * (1 - bend ** (2.2 + rounding))
    return u * half, y_upper, np.maximum(y_upper, y_lower)


def _lip_targets(face: Face, shape: np.ndarray) -> tuple[np.ndarray, ...]:
    """Where the points go: upper inner lip, lower inner lip, and all others, each as (source, target) local (n, 2)."""
    opening, width, rounding, tuck = shape
    drop = 0.56 * opening
    upper_inner, lower_inner = face.local[list(_UPPER_INNER)], face.local[[78, *_LOWER_INNER, 308]]
    upper_outer, lower_outer = face.local[list(_UPPER_OUTER)], face.local[list(_LOWER_OUTER)]
    reach = np.abs(upper_inner[[0, -1], 0]).mean()
    targets = []
    for row, source in enumerate((upper_inner, lower_inner)):
        edges = _inner_lips(shape, np.clip(source[:, 0] / reach, -1, 1))
        targets.append(np.stack([edges[0], edges[1 + row]], axis=1))
    squeeze = targets[0][-1, 0] / reach
    upper_thick, lower_thick = 1.55 + 0.6 * rounding - 0.25 * max(width, 0), 1.05 + 0.4 * rounding - 0.4 * tuck
    outer = [
        targets[0] + (upper_outer - upper_inner) * (squeeze, upper_thick),
        targets[1][1:-1] + (lower_outer - lower_inner[1:-1]) * (squeeze, lower_thick),
    ]
    jaw, chin, still = face.local[list(_JAW)], face.local[list(_CHIN)], face.local[list(_STILL)]
    edge = np.concatenate([face.grid[::8, [0, -1]].reshape(-1, 2), face.grid[[0, -1], 4:-4:8].reshape(-1, 2)])
    source = np.concatenate([upper_outer, lower_outer, jaw, chin, still, edge])
    down = np.array([0, drop])
    target = np.concatenate([*outer, jaw + np.outer(_JAW_SHARE, down), chin + down, still, edge])
    return (upper_inner, targets[0]), (lower_inner, targets[1]), (source, target)


def _splines(parts: tuple, grid: np.ndarray) -> list[np.ndarray]:
    """Displacement from target to source at grid (h, w, 2), once for each lip: [(h, w, 2), (h, w, 2)] float32.

    Thin-plate splines through that lip's points and all others. Two, because the skin is cut between the lips."""
    n_inner = len(parts[0][0])
    source, target = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    points = grid.reshape(-1, 2)
    near, far = _kernel(target, target), _kernel(points.astype(np.float32), target.astype(np.float32))
    results = []
    for skip in (slice(n_inner, 2 * n_inner), slice(0, n_inner)):
        keep = np.delete(np.arange(len(target)), skip)
        affine = np.column_stack([np.ones(len(keep)), target[keep]])
        system = np.block([[near[np.ix_(keep, keep)], affine], [affine.T, np.zeros((3, 3))]])
        solved = np.linalg.solve(system, np.concatenate([(source - target)[keep], np.zeros((3, 2))]))
        weights = np.zeros((len(target), 2), np.float32)
        weights[keep] = solved[:-3]
        values = far @ weights + solved[-3] + points @ solved[-2:]
        results.append(values.reshape(grid.shape).astype(np.float32))
    return results


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    square = np.maximum((a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T, 1e-9)
    return square * np.log(square)


@lru_cache(maxsize=8)
def _mouth_patch(face: Face, shape: tuple[float, ...]) -> np.ndarray:
    """The part of the face inside `face.box` with its mouth in the given shape: uint8 RGB."""
    x0, y0, x1, y1 = face.box
    size = (x1 - x0, y1 - y0)
    scale = face.to_pixels[:, :2].T.astype(np.float32)
    splines = _splines(_lip_targets(face, np.array(shape)), face.grid)
    maps = [cv2.resize(spline @ scale, size, interpolation=cv2.INTER_LINEAR) for spline in splines]
    x, y_upper, y_lower = _inner_lips(np.array(shape), np.linspace(-1, 1, 41))
    edges = [_affine(face.to_pixels, np.stack([x, y], axis=1)) - (x0, y0) for y in (y_upper, y_lower)]
    seam = (edges[0] + edges[1]) / 2
    below = np.zeros(size[::-1], np.uint8)
    seam = np.concatenate([[(0, seam[0, 1])], seam, [(size[0], seam[-1, 1]), size, (0, size[1])]])
    cv2.fillPoly(below, [seam.round().astype(np.int32)], 1)
    where = np.where(below[..., None], maps[1], maps[0])
    where += np.stack(np.meshgrid(np.arange(x0, x1), np.arange(y0, y1)), axis=-1)
    patch = cv2.remap(face.skin, where, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    _paint_inside(face, patch, edges, shape[ROUNDING])
    return patch


def _paint_inside(face: Face, patch: np.ndarray, edges: list[np.ndarray], rounding: float) -> None:
    """Teeth above, dark and tongue below, in the shade of the lips; closed lips keep a thin dark line between them."""
    unit = np.hypot(*face.to_pixels[:, 0])
    line = np.array([0, 0.016 * unit])
    outline = np.concatenate([edges[0] - line, (edges[1] + line)[::-1]])
    x0, y0 = (outline.min(axis=0) - 0.3 * unit).astype(int)
    x1, y1 = (outline.max(axis=0) + 0.3 * unit).astype(int)
    patch, teeth = patch[y0:y1, x0:x1], face.teeth[y0:y1, x0:x1]
    inside = np.zeros(patch.shape[:2], np.float32)
    cv2.fillPoly(inside, [((outline - (x0, y0)) * 16).round().astype(np.int32)], 1.0, cv2.LINE_8, 4)
    cover = cv2.GaussianBlur(inside, (0, 0), 0.025 * unit)[..., None]
    depth = cv2.GaussianBlur(inside, (0, 0), 0.09 * unit)[..., None]
    rows = np.arange(y0, y1, dtype=np.float32)[:, None, None]
    tongue = smoothstep(1 - (edges[1][:, 1].max() - rows) / (0.3 * unit)) * 0.8
    dark, red = np.array((42, 16, 16), np.float32), np.array((128, 66, 64), np.float32)
    colour = dark + (red - dark) * tongue
    enamel = teeth[..., :3] * np.array((0.92, 0.88, 0.83), np.float32)
    colour = colour + (enamel - colour) * (teeth[..., 3:] * (1 - 0.9 * rounding))
    colour = dark + (colour - dark) * (0.25 + 0.75 * smoothstep(1.5 * depth - 0.35))
    patch[:] = (patch + (colour - patch) * cover).round()


def _blink(face: Face, image: np.ndarray, closed: float) -> None:
    """Draw the upper lids down over the eyes, in place, `closed` 0 to 1; the skin below the brow stretches."""
    for eye in _EYES:
        upper, lower = (face.landmarks[list(points)] for points in eye)
        xs = np.arange(int(upper[0, 0]), int(upper[-1, 0]) + 2, dtype=np.float32)
        lid, rim = np.interp(xs, *upper.T), np.interp(xs, *lower.T)
        height = (rim - lid).max()
        lashes = 0.5 * height * closed * np.sin(np.linspace(0, np.pi, len(xs))) ** 0.5
        moved = lid + closed * (rim - lid)
        y0, y1 = int(lid.min() - height), int(rim.max() + 2)
        ys = np.arange(y0, y1, dtype=np.float32)[:, None]
        stretched = y0 + (ys - y0) * (lid - lashes - y0) / (moved - y0)
        ys = np.where(ys < moved, stretched, ys).astype(np.float32)
        patch = cv2.remap(image, np.broadcast_to(xs, ys.shape).copy(), ys, cv2.INTER_CUBIC)
        line = (np.stack([xs - xs[0], moved - y0], axis=1)[1:-2] * 16).round().astype(np.int32)
        inked = cv2.polylines(patch.copy(), [line], False, (62, 40, 34), max(1, round(height / 12)), cv2.LINE_AA, 4)
        image[y0:y1, int(xs[0]) : int(xs[-1]) + 1] = cv2.addWeighted(patch, 1 - 0.7 * closed, inked, 0.7 * closed, 0)


def draw(shape: np.ndarray, time_s: float, *, size: int = 384, person: int = 0) -> np.ndarray:
    """One picture (size, size, 3) uint8 RGB of the mouth in `shape` (4,). Head and lids move with time; odd persons
    are mirrored, and each moves in its own time."""
    face = portrait(size)
    x0, y0, x1, y1 = face.box
    image = face.skin.copy()
    image[y0:y1, x0:x1] = _mouth_patch(face, tuple(float(value) for value in shape))
    time_s += 1.7 * person
    since_blink = (time_s + 1.9) % 3.1
    if since_blink < 0.24:
        _blink(face, image, np.sin(np.pi * since_blink / 0.24) ** 2)
    angle = np.radians(1.3 * np.sin(2.0 * time_s) + 0.7 * np.sin(3.7 * time_s + 1))
    shift = np.array([0.008 * np.sin(1.6 * time_s + 2), 0.006 * np.sin(2.7 * time_s)])
    xs, ys, dx, dy, share = _stage(size)
    cos, sin, shift = np.cos(angle) - 1, np.sin(angle), size * shift
    from_x = xs + (dx * np.float32(cos) + dy * np.float32(sin) - share * np.float32(shift[0]))
    from_y = ys + (dy * np.float32(cos) - dx * np.float32(sin) - share * np.float32(shift[1]))
    image = cv2.remap(image, from_x, from_y, cv2.INTER_CUBIC)
    return np.ascontiguousarray(image[:, ::-1]) if person % 2 else image


@lru_cache(maxsize=4)
def _stage(size: int) -> tuple[np.ndarray, ...]:
    """x, y, their distance from the neck times the share, and the share of the head's motion that each pixel takes.

    All (N, N) float32. The share falls from 1 at the face to 0 at the frame: the room stands still."""
    xs, ys = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32))
    middle_x, middle_y = portrait(size).landmarks.mean(axis=0)
    away = np.hypot((xs - middle_x) / (0.46 * size), (ys - middle_y) / (0.48 * size))
    share = smoothstep((1 - away) / 0.4).astype(np.float32)
    return xs, ys, (xs - 0.5 * size) * share, (ys - 0.75 * size) * share, share
