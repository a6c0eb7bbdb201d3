"""(b) Landmarks in place of pixels: points of the mouth in the face's own frame, without the clip's mean, and their motion.

    uv run experiments/strangers/landmarks.py CLIPS data/grid runs/s1-lips/model --steps 1500
    clips of ../active_speaker/prepare.py, of which it uses the points; a model -> WER by group

The frontend for pixels of the model gives way to one for points, (T, 47, 4): place and change of place, across and down, in
widths of the mouth. Blocks, decoder and losses stay, and all is trained further. MediaPipe's 52 blendshapes are computed from
146 of the same points by a network of their own, and are not tried.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsr import checkpoint, manifest
from avsr.batch import Batch, collate
from avsr.checkpoint import Checkpoint
from avsr.config import LossConfig
from avsr.dataset import Example, frame_labels, label_words
from avsr.dataset import ManifestRow as Row
from avsr.losses import LossModule
from avsr.manifest import TimedWord
from avsr.metrics import word_errors
from avsr.metrics.intervals import ratio
from avsr.recogniser import Recogniser
from avsr.text import ctc_classes, normalise, target_tokens

sys.path.append(str(Path(__file__).parents[1] / "active_speaker"))
from carry_faces import points_in_crop
from evaluate import groups, measured

LIPS = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409,
        78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415]
AROUND = [152, 200, 18, 205, 425, 50, 280]                  # chin, below the lip, cheeks
POINTS = LIPS + AROUND
UNIT = 0.6                                                  # widths of the mouth; VideoEncoder.features divides by a sixth, too
BATCH, RATE = 16, 5e-4


class PointFrontend(nn.Module):
    """Points (B, T, 47, 4) -> (B, T, 256), in the place of a frontend for pixels."""

    width = 256

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Sequential(nn.Flatten(2), nn.Linear(4 * len(POINTS), self.width), nn.GELU(), nn.Dropout(0.2))
        self.over_time = nn.Conv1d(self.width, self.width, kernel_size=5, padding=2)

    def forward(self, points: Tensor, seen: Tensor) -> Tensor:
        """seen: (B, T) bool, False for padding."""
        x = self.points(points) * seen[:, :, None]
        return x + F.gelu(self.over_time(x.transpose(1, 2))).transpose(1, 2)


def places(path: Path) -> np.ndarray:
    """The points of a clip (T, 47, 2) float32: less their mean, in UNITs. The frames before the first face repeat it."""
    with np.load(path) as stored:
        placed, start = points_in_crop(stored["points"].astype(np.float64))[:, POINTS], int(stored["start"])
    middle = placed.mean(axis=0)
    out = (placed - middle) / np.linalg.norm(middle[0] - middle[10]) / UNIT
    return np.concatenate([np.repeat(out[:1], start, axis=0), out]).astype(np.float32)


def with_motion(points: np.ndarray) -> np.ndarray:
    """(T, 47, 2) -> (T, 47, 4): beside the places the change of place over two frames."""
    return np.concatenate([points, np.gradient(points, axis=0)], axis=-1)


def varied(points: np.ndarray, words: tuple[TimedWord, ...],
           rng: np.random.Generator) -> tuple[np.ndarray, tuple[TimedWord, ...]]:
    """The points of somebody who moves the lips more or less, is turned a little, and speaks faster or slower."""
    angle, size, rate = rng.uniform(-0.15, 0.15), rng.uniform(0.7, 1.35, 2), rng.uniform(0.85, 1.15)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * size
    times = np.arange(0, len(points) - 1, rate)
    low, share = times.astype(int), (times % 1)[:, None, None]
    points = points[low] * (1 - share) + points[low + 1] * share
    points = points @ matrix + rng.normal(0, 0.025, (1, len(POINTS), 2)) + rng.normal(0, 0.005, points.shape)
    return points.astype(np.float32), tuple(TimedWord(word.text, word.start / rate, word.end / rate) for word in words)


class Points:
    """Examples of points, by the id of the utterance."""

    def __init__(self, folder: Path, model: Checkpoint, labels: dict[str, int]):
        self.files = {path.stem.partition("_")[2]: path for path in folder.glob("*.npz")}
        self.model, self.labels, self.kept = model, labels, {}

    def of(self, row: Row) -> np.ndarray:
        """(T, 47, 2) float32."""
        name = row.utterance.id
        if name not in self.kept:
            self.kept[name] = places(self.files[name])
        return self.kept[name]

    def batch(self, rows: list[Row], rng: np.random.Generator | None) -> Batch:
        """A batch whose mouths are points times 255, as LossModule divides by it; without rng as they are."""
        examples, points = [], []
        for row in rows:
            found, words = self.of(row), row.utterance.words or ()
            if rng is not None:
                found, words = varied(found, words, rng)
            points.append(torch.from_numpy(with_motion(found)))
            text = row.utterance.text
            examples.append(Example(row.utterance.id, None, np.zeros((len(found), 1, 1), np.uint8), np.ones(len(found), bool),
                                    target_tokens(self.model.tokenizer, text), ctc_classes(normalise(text)),
                                    frame_labels(words, len(found), self.labels), True))
        made = collate(examples, self.model.tokenizer.prompt(None), self.model.tokenizer.end, self.model.pad_columns)
        return replace(made, mouths=255 * nn.utils.rnn.pad_sequence(points, batch_first=True))


@torch.inference_mode()
def errors(model: Checkpoint, points: Points, rows: list[Row]) -> np.ndarray:
    """Errors and words of each clip, (N, 2), by beam search."""
    model.model.eval()
    recogniser, out = Recogniser(model), []
    for first in range(0, len(rows), BATCH):
        some = rows[first:first + BATCH]
        for row, found in zip(some, recogniser.decode(recogniser.encode_batch(points.batch(some, None))), strict=True):
            score = word_errors(normalise(row.utterance.text), normalise(recogniser.detokenize(found.tokens)))
            out.append((score.errors, score.words))
    return np.array(out, float)


def train(model: Checkpoint, points: Points, rows: list[Row], steps: int, seed: int) -> None:
    """All weights on the points of these rows; the rate rises and falls as a cosine does."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    losses = LossModule(model.model, LossConfig(), len(points.labels) + 1)
    optimiser = torch.optim.AdamW(losses.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.03)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.05)
    losses.train()
    for step in range(1, steps + 1):
        chosen = rng.choice(len(rows), BATCH, replace=False)
        found = losses(points.batch([rows[i] for i in chosen], rng))
        optimiser.zero_grad()
        found.total.backward()
        nn.utils.clip_grad_norm_(losses.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            print(step, {name: round(value.item(), 3) for name, value in found.parts.items()}, flush=True)


def main() -> None:
    """Train on the speakers that are known, report on the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("grid", type=Path)
    parser.add_argument("model")
    parser.add_argument("--known", nargs="+", default=["s1"])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = checkpoint.load(args.model)
    model.model.video.frontend = PointFrontend()
    rows = [Row(row, args.grid) for row in manifest.read(args.grid)]
    points = Points(args.clips, model, label_words(rows, 100))
    train(model, points, [row for row in rows if row.utterance.split == "train" and row.utterance.speaker in args.known
                          and row.utterance.id in points.files], args.steps, args.seed)
    for name, some in groups(args.grid, args.known).items():
        some = [row for row in some if row.utterance.id in points.files]
        if some:
            print(name, len(some), measured(errors(model, points, some), ratio), flush=True)


if __name__ == "__main__":
    main()
