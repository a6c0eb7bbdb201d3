"""Trains the active-speaker network (network.py) on clips of prepare.py and portraits of make_faces.py.

    uv run --extra export experiments/active_speaker/train.py --clips CLIPS --grid GRID --faces FACES.npy \\
        --noise FOLDER --voices FOLDER -o OUT
    ... --without s4        # leave a speaker out, and judge the network by that speaker's clips
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from examples import Batch, Clip, Sampler, read_clips, read_faces, read_noises
from export import export
from network import TorchNetwork
from torch import Tensor
from torch.nn import functional as F

from avsr.lips import centre
from avsr.rates import FEATURES_PER_FRAME
from avsr.speakers.network import Dims, halved

MAX_LAG = 25
SMOOTHED = 13


def losses(network: TorchNetwork, batch: Batch) -> dict[str, Tensor]:
    """pair: whether each mouth makes each sound, per frame; lag: which lag is the right one; whose: which mouth is whose."""
    video = network.video(torch.from_numpy(halved(batch.mouths.numpy())), batch.seen)
    sound = network.audio(batch.power)
    n_sounds = len(sound) // len(video)
    logits = network(video.repeat_interleave(n_sounds, dim=0), sound)
    pair = F.binary_cross_entropy_with_logits(logits, batch.labels, batch.weights, reduction="sum") / batch.weights.sum()
    late, own = sound[::n_sounds], sound[1::n_sounds]
    scale = network.scale.exp()
    used = batch.talking & (batch.lags.abs() <= MAX_LAG)
    curve = network.lag_similarity(video, late, MAX_LAG)[used] * scale
    lag = F.cross_entropy(curve, batch.lags[used] + MAX_LAG)
    size = network.dims.embedding
    alike = torch.einsum("iet,jet->ij", video[:, :size], own[:, :size])[batch.talking][:, batch.talking]
    alike = alike / video.shape[2] * scale
    right = torch.arange(len(alike))
    whose = (F.cross_entropy(alike, right) + F.cross_entropy(alike.T, right)) / 2
    return {"pair": pair, "lag": lag, "whose": whose}


def smooth(scores: np.ndarray) -> np.ndarray:
    ones = np.ones(SMOOTHED)
    return np.convolve(scores, ones, "same") / np.convolve(np.ones(len(scores)), ones, "same")


@torch.inference_mode()
def judge(network: TorchNetwork, clips: list[Clip], seed: int = 0) -> dict[str, float]:
    """Shares of frames and clips that are right. own: spoken frames with one's own sound; off: with another's sound, where that
    is speech; two: spoken frames in which the speaker scores above a face that says another sentence; lag_*: clips whose lag
    is found within a frame, of 3 shifts by up to 12 frames each."""
    network.eval()
    rng = np.random.default_rng(seed)
    videos, sounds = [], []
    for clip in clips:
        mouths = torch.from_numpy(halved(centre(clip.images)))[None]
        videos.append(network.video(mouths, torch.ones(1, len(clip), dtype=torch.bool)))
        sounds.append(network.audio(torch.from_numpy(clip.power).float()[None]))
    own, off, two, cos, head = [], [], [], [], []
    for i, clip in enumerate(clips):
        mine = smooth(network(videos[i], sounds[i])[0].numpy())
        own.append((mine > 0)[clip.spoken].mean())
        for j in rng.choice([j for j in range(len(clips)) if clips[j].name != clip.name], 3):
            n = min(len(clip), len(clips[j]))
            other = smooth(network(videos[i][..., :n], sounds[j][..., :n])[0].numpy())
            off.append((other <= 0)[clips[j].spoken[:n]].mean())
            beside = smooth(network(videos[j][..., :n], sounds[i][..., :n])[0].numpy())
            two.append((mine[:n] > beside)[clip.spoken[:n]].mean())
        for lag in rng.integers(-12, 13, 3):
            power = np.full_like(clip.power, 1e-9)
            k = int(lag) * FEATURES_PER_FRAME
            n = len(power)
            power[max(0, -k): n - max(0, k)] = clip.power[max(0, k): n - max(0, -k)]     # the lips `lag` frames late
            late = network.audio(torch.from_numpy(power).float()[None])
            curve = network.lag_similarity(videos[i], late, 15)[0].numpy()
            cos.append(abs(int(curve.argmax()) - 15 - lag) <= 1)
            heads = head_curve(network, videos[i], late, 15)
            head.append(abs(int(heads.argmax()) - 15 - lag) <= 1)
    network.train()
    return {name: round(100 * float(np.mean(values)), 1) for name, values in
            (("own", own), ("off", off), ("two", two), ("lag_cos", cos), ("lag_head", head))}


def head_curve(network: TorchNetwork, video: Tensor, sound: Tensor, max_lag: int) -> np.ndarray:
    """(2 max_lag + 1,): mean log-odds at each lag."""
    n = video.shape[2]
    out = []
    for k in range(-max_lag, max_lag + 1):
        out.append(network(video[..., max(0, k): n + min(0, k)], sound[..., max(0, -k): n + min(0, -k)]).mean())
    return torch.stack(out).numpy()


def train(args: argparse.Namespace) -> None:
    """Train for `args.minutes` of CPU time, in one run or several with one output folder, and store the mean weights."""
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    without = set(filter(None, args.without.split(",")))
    real = [clip for clip in read_clips(args.clips, args.grid) if clip.speaker not in without]
    synthetic = [clip for path in args.faces for clip in read_faces(path, args.clips, args.grid, without)]
    voices, noises = read_noises(args.voices), read_noises(args.noise)
    print(len(real), "clips", len(synthetic), "portraits", len(voices), "voices", len(noises), "noises", flush=True)
    judged = {"valid": [clip for clip in read_clips(args.clips, args.grid, ("valid",)) if clip.speaker not in without]}
    for speaker in sorted(without):
        judged[speaker] = [clip for clip in read_clips(args.clips, args.grid, ("train", "valid")) if clip.speaker == speaker]
    sampler = Sampler(real, synthetic, voices, noises, args.share)
    run = Run(args)
    start, total, log = time.process_time() - run.spent, args.minutes * 60, []
    while (spent := time.process_time() - start) < total:
        log.append(run.step_on(sampler, spent / total))
        if run.step % args.every == 0:
            report = {name: judge(run.averaged(), clips) for name, clips in judged.items() if clips}
            print(run.step, f"{spent:.0f} s", np.round(np.mean(log, axis=0), 3), json.dumps(report), flush=True)
            log = []
            run.save(spent)
    report = {name: judge(run.averaged(), clips, seed=1) for name, clips in judged.items() if clips}
    print("end", run.step, json.dumps(report), flush=True)
    data = {"clips": len(real), "portraits": len(synthetic), "without": sorted(without), "bias": args.bias}
    store(run.averaged(), args.output, args.bias, {**data, "steps": run.step, "batch": args.batch, "judged": report})


class Run:
    """The network in training, its optimiser, and the moving average of its weights, which is what is kept."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.step, self.spent = args, 0, 0.0
        self.network = TorchNetwork(Dims())
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=args.lr, weight_decay=0.02)
        self.average = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.path = args.output / "state.pt"
        args.output.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            stored = torch.load(self.path, weights_only=True)
            self.network.load_state_dict(stored["network"])
            self.optimiser.load_state_dict(stored["optimiser"])
            self.average, self.spent, self.step = stored["average"], stored["spent"], stored["step"]

    def step_on(self, sampler: Sampler, done: float) -> list[float]:
        """One step, with a rate for the share of the time that is done. Returns the losses."""
        for group in self.optimiser.param_groups:
            group["lr"] = float(self.args.lr * min(1, (self.step + 1) / 100) * (0.51 + 0.5 * np.cos(np.pi * min(1, done))))
        parts = losses(self.network, sampler.batch(self.args.batch, np.random.default_rng((self.args.seed, self.step))))
        self.optimiser.zero_grad()
        (parts["pair"] + 0.3 * parts["lag"] + 0.3 * parts["whose"]).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 2.0)
        self.optimiser.step()
        self.step += 1
        decay = min(0.995, self.step / (self.step + 10))
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)
        return [float(part.detach()) for part in parts.values()]

    def averaged(self) -> TorchNetwork:
        """The network with the moving average of its weights."""
        network = TorchNetwork(self.network.dims)
        network.load_state_dict(self.average)
        return network

    def save(self, spent: float) -> None:
        """Store all that another run needs to go on."""
        temporary = self.path.with_suffix(".new")
        torch.save({"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(), "average": self.average,
                    "spent": spent, "step": self.step}, temporary)
        temporary.replace(self.path)


def store(network: TorchNetwork, folder: Path, bias: float, training: dict[str, Any]) -> None:
    """Write the folder that avsr.speakers.network reads. bias: is added to all log-odds."""
    with torch.no_grad():
        network.out.bias += bias
    export(network, folder, training)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--grid", type=Path, required=True)
    parser.add_argument("--faces", type=Path, nargs="*", default=[])
    parser.add_argument("--noise", type=Path, nargs="*", default=[])
    parser.add_argument("--voices", type=Path, nargs="*", default=[])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--without", default="", help="speakers to leave out, with commas between")
    parser.add_argument("--share", type=float, default=0.6, help="of portraits among the mouths")
    parser.add_argument("--minutes", type=float, default=20, help="of CPU time")
    parser.add_argument("--bias", type=float, default=1.0, help="added to all log-odds, chosen on scenes of valid")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--every", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())
