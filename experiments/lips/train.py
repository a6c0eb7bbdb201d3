"""Teach the face follower from pictures of faces and their key points, and write it for onnxruntime.

    uv run --with onnx experiments/lips/train.py runs/follower --steps 6000 -o avsr/weights/face_follower.onnx
"""

import argparse
import math
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from avsr.faces.following import CONTRAST, COVERED, GROUPS, INPUT

N = len(GROUPS)
SCALE = INPUT / COVERED
MIRRORED = [3, 2, 1, 0, 4, 5, 6, 7, 9, 8, 11, 10, 12, 13, 15, 14, 16]        # which key point is which in a mirror
WEIGHT = [1, 1, 1, 1, 3, 3, 1, 1, 0.6, 0.6, 1, 1, 1, 0.4, 0.4, 0.4, 0.4]     # of the error of each key point
BATCH = 96
NEGATIVES = 0.12          # share of pictures that show no face, or one far from where it is looked for
GRID_SHARE = 0.4          # of the pictures; the others are portraits
HELD_OUT = 10             # every tenth portrait is for validation, as are GRID's valid clips


class Follower(nn.Module):
    """(B, 1, 64, 64) float32 -> (B, 2 * 17 + 1): x, y of each key point from -1 to 1, and the log-odds of a face."""

    def __init__(self) -> None:
        super().__init__()

        def block(n_in: int, n_out: int, stride: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU())

        self.begin = nn.Sequential(block(1, 12, 2), block(12, 24, 2), block(24, 32, 2))
        self.middle, self.end = block(32, 32, 1), block(32, 40, 2)
        self.hidden, self.out = nn.Linear(640, 80), nn.Linear(80, 2 * N + 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.begin(x)
        x = self.end(x + self.middle(x))
        return self.out(F.relu(self.hidden(x.flatten(1))))


class Pictures:
    """Faces (N, 144, 144) uint8 with key points, and how often each is drawn."""

    def __init__(self, folder: Path, valid: bool) -> None:
        parts = []
        for name in ("grid", "portraits"):
            with np.load(folder / f"{name}.npz") as file:
                faces, points, sources = file["faces"], file["points"], file["sources"]
            if name == "grid":
                held = np.array(["/valid/" in source for source in sources])
                groups = np.array([source.split("/")[0] for source in sources])
            else:
                held = np.isin(sources, np.unique(sources)[::HELD_OUT])
                groups = sources
            here = held == valid
            _, which, counts = np.unique(groups[here], return_inverse=True, return_counts=True)
            weights = 1 / np.sqrt(counts[which])                 # GRID's speakers have very different numbers of clips
            parts.append((faces[here], points[here], weights / weights.sum()))
        self.faces, self.points = (np.concatenate([part[i] for part in parts]) for i in range(2))
        self.n_grid = len(parts[0][0])
        self.weights = np.concatenate([GRID_SHARE * parts[0][2], (1 - GRID_SHARE) * parts[1][2]])

    def draw(self, place: int, rng: np.random.Generator, *, negative: bool, augment: bool) -> tuple[np.ndarray, np.ndarray]:
        """The network's picture (64, 64) of a face that moved since the frame before, and its key points (17, 2), -1 to 1."""
        face, points = self.faces[place], self.points[place].astype(np.float64)
        if augment and rng.random() < 0.5:
            face, points = np.ascontiguousarray(face[:, ::-1]), points[MIRRORED]
            points[:, 0] = face.shape[1] - 1 - points[:, 0]
        matrix = _motion(rng, len(face), negative)
        border = cv2.BORDER_REPLICATE if rng.random() < 0.6 else cv2.BORDER_CONSTANT
        picture = cv2.warpAffine(face, matrix, (INPUT, INPUT), borderMode=border)
        picture = _augmented(picture, rng) if augment else picture.astype(np.float32)
        if negative and rng.random() < 0.25:
            picture = _shuffled(picture, rng)
        picture = (picture - picture.mean()) / (picture.std() + CONTRAST)
        return picture, (points @ matrix[:, :2].T + matrix[:, 2]) / (INPUT / 2) - 1


def _motion(rng: np.random.Generator, side: int, negative: bool) -> np.ndarray:
    """(2, 3) from a face to the network's picture: moved, turned and scaled as from frame to frame; too much where negative."""
    shift = rng.normal(0, 5, 2) if rng.random() < 0.7 else rng.uniform(-15, 15, 2)
    scale, angle = math.exp(rng.normal(0, 0.08)), math.radians(rng.normal(0, 8))
    if negative:
        match int(rng.integers(3)):
            case 0:
                where = rng.uniform(0, 2 * math.pi)
                shift = np.array([math.cos(where), math.sin(where)]) * rng.uniform(42, 75)
            case 1:
                scale = math.exp(rng.choice([-1, 1]) * rng.uniform(0.75, 1.3))
            case _:
                angle = rng.uniform(0.9, 5.4)
    turn = SCALE * scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.column_stack([turn, INPUT / 2 - turn @ (side / 2 + shift)])


def _augmented(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Coarser, blurred, compressed, darker, lit from a side, noisy or partly covered, each with its chance."""
    if rng.random() < 0.3:
        side = INPUT - 2 * int(rng.integers(4, 20))
        picture = cv2.resize(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), (INPUT, INPUT))
    if rng.random() < 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.4))
    if rng.random() < 0.3:
        jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 70))])[1]
        picture = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE))
    out = picture.astype(np.float32)
    if rng.random() < 0.5:
        out = 255 * (np.clip(out, 1, 255) / 255) ** math.exp(rng.normal(0, 0.35))
    if rng.random() < 0.5:
        across, down = rng.normal(0, 0.6, 2)
        line = np.arange(INPUT) / INPUT - 0.5
        out = out * (1 + across * line[None] + down * line[:, None]).astype(np.float32)
    if rng.random() < 0.4:
        out = out + rng.normal(0, rng.uniform(1, 9), out.shape).astype(np.float32)
    if rng.random() < 0.15:
        (left, top), (width, height) = rng.integers(0, 50, 2), rng.integers(8, 24, 2)
        out[top:top + height, left:left + width] = rng.uniform(0, 255)
    return out


def _shuffled(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same picture with its 16 squares in another order."""
    squares = picture.reshape(4, 16, 4, 16).transpose(0, 2, 1, 3).reshape(16, 16, 16)[rng.permutation(16)]
    return squares.reshape(4, 4, 16, 16).transpose(0, 2, 1, 3).reshape(64, 64)


def loss_of(network: Follower, pictures: Pictures, rng: np.random.Generator) -> torch.Tensor:
    """The loss of one batch."""
    places = rng.choice(len(pictures.faces), BATCH, p=pictures.weights)
    negative = rng.random(BATCH) < NEGATIVES
    drawn = [pictures.draw(i, rng, negative=bool(n), augment=True) for i, n in zip(places, negative, strict=True)]
    x, points = (torch.from_numpy(np.stack([one[i] for one in drawn]).astype(np.float32)) for i in range(2))
    face = torch.from_numpy(~negative)
    found = network(x[:, None])
    away = (found[:, :-1].reshape(-1, N, 2) - points)[face].norm(dim=2)
    shaped = (away + 0.02 * torch.log1p(away / 0.02)) * torch.tensor(WEIGHT)
    return 4 * shaped.mean() + 0.1 * F.binary_cross_entropy_with_logits(found[:, -1], face.float())


@torch.no_grad()
def report(network: Follower, pictures: Pictures) -> str:
    """Mean distances in pixels of the mean face, and how often faces and others are told apart."""
    network.eval()
    rng, lines = np.random.default_rng(1), []
    for name, places in (("grid", range(pictures.n_grid)), ("portraits", range(pictures.n_grid, len(pictures.faces)))):
        some = places[::1 + len(places) // 400]
        drawn = [pictures.draw(i, rng, negative=False, augment=False) for i in some]
        others = [pictures.draw(i, rng, negative=True, augment=False) for i in some[::2]]
        found, no_face = (network(torch.from_numpy(np.stack([x for x, _ in part]).astype(np.float32))[:, None])
                          for part in (drawn, others))
        away = np.linalg.norm(found[:, :-1].reshape(-1, N, 2).numpy() - np.stack([y for _, y in drawn]), axis=2) * COVERED / 2
        lines.append(f"{name}: eyes {away[:, :4].mean():.2f}, nose {away[:, 4].mean():.2f}, lip {away[:, 5].mean():.2f}, faces "
                     f"{(found[:, -1] > 0).float().mean():.1%}, others {(no_face[:, -1] <= 0).float().mean():.1%}")
    network.train()
    return "; ".join(lines)


def export(network: Follower, path: Path) -> None:
    """Write the network for onnxruntime, its weights in half precision, which halves the file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    network.eval()
    torch.onnx.export(network, (torch.zeros(1, 1, INPUT, INPUT),), str(path), input_names=["picture"], output_names=["points"],
                      dynamic_axes={"picture": {0: "batch"}, "points": {0: "batch"}}, dynamo=False)
    network.train()
    model = onnx.load(str(path))
    for tensor in list(model.graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > N:
            model.graph.initializer.remove(tensor)
            model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}.half"))
            cast = helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=TensorProto.FLOAT)
            model.graph.node.insert(0, cast)
    model.doc_string = ""
    onnx.save(model, str(path))


def main() -> None:
    """Train and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of pictures.py")
    parser.add_argument("--steps", type=int, default=6000, help="batches of 96 (%(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the network's file, .onnx")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rng, network = np.random.default_rng(0), Follower()
    train, valid = Pictures(args.folder, valid=False), Pictures(args.folder, valid=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=args.steps, pct_start=0.1)
    begin, total = time.process_time(), 0.0
    for step in range(1, args.steps + 1):
        loss = loss_of(network, train, rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item()
        if step % 500 == 0 or step == args.steps:
            seconds = time.process_time() - begin
            print(f"{step} steps, {seconds:.0f} s, loss {total / 500:.4f}; {report(network, valid)}", flush=True)
            total = 0.0
            export(network, args.output)


if __name__ == "__main__":
    main()
