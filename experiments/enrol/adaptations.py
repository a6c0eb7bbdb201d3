"""Which parts of a lip reader should be adapted to a person? Each way of adapting is trained on a few clips of one speaker.

    python experiments/enrol/adaptations.py MANIFEST SPEAKER --lips MODEL --clips 5 20 -o rows.jsonl
The clips to train on are the first of the speaker's split `train`, in a random order; the lips are judged on the others and on
split `valid`, by greedy search. Nothing of split `test` is read.
"""

import argparse
import json
import resource
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import parametrize

from avsr import manifest
from avsr.config import Config, DataConfig, LossConfig, ModelConfig, TrainConfig
from avsr.train.loop import Trainer, TrainOptions

RANK = 8
# name: (patterns of the weights that are adapted, learning rate)
PARTS = {
    "batch norms": (("video.frontend.stages.[147].*",), 3e-3),
    "norms and biases": (("video.*bias", "video.*norm*", "video.frontend.stages.[147].*"), 3e-3),
    "convolutions": (("video.frontend.stages.[0134567].*",), 1e-3),
    "frontend": (("video.frontend.*",), 1e-3),
    "first block": (("video.blocks.0.*",), 1e-3),
    "last block": (("video.blocks.2.*",), 1e-3),
    "all video": (("video.*",), 5e-4),
    "all video, faster": (("video.*",), 1e-3),
    "frontend, faster": (("video.frontend.*",), 2e-3),
    "convolutions, faster": (("video.frontend.stages.[0134567].*",), 3e-3),
    "LoRA": ((), 3e-3),
    "LoRA, faster": ((), 1e-2),
    "input prompt": ((), 3e-2),
}


class LowRank(nn.Module):
    """Adds a product of two thin matrices to a weight (Hu et al. 2021, LoRA)."""

    def __init__(self, n_out: int, n_in: int):
        super().__init__()
        self.down = nn.Parameter(torch.randn(RANK, n_in) * n_in ** -0.5)
        self.up = nn.Parameter(torch.zeros(n_out, RANK))

    def forward(self, weight):
        return weight + self.up @ self.down


class AddedToMouths(nn.Module):
    """A picture that is added to every mouth (Kim et al. 2023, prompts for speaker-adaptive lip reading)."""

    def __init__(self):
        super().__init__()
        self.picture = nn.Parameter(torch.zeros(88, 88))


def config(path: Path, lips: str, name: str, steps: int) -> Config:
    """A run that adapts the parts called `name`."""
    patterns, lr = PARTS[name]
    rates = {**dict.fromkeys(patterns, 1.0), "*": 0.0} if patterns else {"video.norm.bias": 1e-12, "*": 0.0}
    return Config(name, ModelConfig(start=lips),
                  DataConfig(train=(str(path),), valid=(str(path),), p_audio_visual=0.0, p_audio=0.0, workers=0, max_valid=0),
                  LossConfig(frames=0.0),
                  TrainConfig(steps=steps, lr=lr, rates=rates, warmup=max(1, steps // 10), threads=1, valid_every=10**6,
                              save_every=10**6, dropout=0.0))


def extra_parameters(trainer: Trainer, name: str) -> list[nn.Parameter]:
    """Add the weights of LoRA or of a prompt to the network."""
    video = trainer.model.video
    if name.startswith("LoRA"):
        linears = [one for one in video.modules() if isinstance(one, nn.Linear)]
        made = [LowRank(*linear.weight.shape) for linear in linears]
        for linear, added in zip(linears, made, strict=True):
            parametrize.register_parametrization(linear, "weight", added)
        return [one for added in made for one in added.parameters()]
    if name == "input prompt":
        prompt, usual = AddedToMouths(), video.features
        video.features = lambda mouths, seen: usual(mouths + prompt.picture, seen)
        return [prompt.picture]
    return []


def adapt(path: Path, lips: str, name: str, steps: list[int]) -> list[dict]:
    """WER before, and after each number of steps."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config(path, lips, name, steps[-1]), Path(folder), TrainOptions(), torch.device("cpu"))
        if added := extra_parameters(trainer, name):
            trainer.optimiser = torch.optim.AdamW([{"params": added, "factor": 1.0, "weight_decay": 0.0}], lr=PARTS[name][1])
        n = sum(p.numel() for group in trainer.optimiser.param_groups for p in group["params"])
        out = [{"steps": 0, "wer": trainer.validation(trainer.start)["v"]}]
        from avsr.train.optimiser import freeze_batch_norms
        trainer.loss_module.train()
        freeze_batch_norms(trainer.loss_module)
        batches, began = trainer._batches(), cpu()
        for step in range(1, steps[-1] + 1):
            trainer._step(batches)
            if step in steps:
                spent = cpu() - began
                out.append({"steps": step, "wer": trainer.validation(trainer.start)["v"], "cpu_s": round(spent, 1)})
                freeze_batch_norms(trainer.loss_module)
        return [{"parts": name, "weights": n, **one} for one in out]


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("manifest", type=Path)
    parser.add_argument("speaker")
    parser.add_argument("--lips", required=True)
    parser.add_argument("--clips", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--steps", type=int, nargs="+", default=[25, 50])
    parser.add_argument("--parts", nargs="+", default=list(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    asked = parser.parse_args()
    rows = [row for row in manifest.read(manifest.manifest_path(asked.manifest)) if row.speaker == asked.speaker
            and row.split in ("train", "valid")]
    order = manifest.shuffled([row.id for row in rows if row.split == "train"], asked.seed)
    for n in asked.clips:
        chosen = set(order[:n])
        path = manifest.manifest_path(asked.manifest).with_name(f"adapt-{asked.speaker}-{n}.jsonl")
        manifest.write(path, [replace(row, split="train" if row.id in chosen else "valid") for row in rows])
        for name in asked.parts:
            for row in adapt(path, asked.lips, name, asked.steps):
                line = {"speaker": asked.speaker, "clips": n, "seed": asked.seed, **row}
                print(line, file=sys.stderr, flush=True)
                with asked.output.open("a") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
