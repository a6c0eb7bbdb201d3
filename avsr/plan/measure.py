"""Real steps of a training on this machine, on noise instead of data, to calibrate a plan with.

    Config -> seconds of a pass forward and backward by modality -> Device.calibration
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import torch
from torch import nn

from avsr.batch import Batch
from avsr.config import Config
from avsr.errors import AvsrError
from avsr.losses import LossModule
from avsr.models.avsr import AVSR
from avsr.models.blocks import WithDropout
from avsr.plan.counting import BatchShape, Network, network_of, shapes
from avsr.plan.devices import DEVICES
from avsr.plan.run import PlanSettings, plan_training
from avsr.rates import FEATURES_PER_FRAME, MOUTH_INPUT, SAMPLES_PER_FRAME
from avsr.runtime import Progress, no_progress, pick_device
from avsr.train.optimiser import freeze_batch_norms, freeze_weights

STEPS = 3                                                   # that are measured, after one to warm up


def kind_here(device: torch.device) -> str:
    """The name of a device among DEVICES. Raises AvsrError where this GPU is not among them."""
    if device.type == "cpu":
        return "cpu"
    name = torch.cuda.get_device_name(device)
    found = [kind for kind in DEVICES if kind in name.lower().replace(" ", "")]
    if not found:
        raise AvsrError(f"--measure: this machine has a {name}, which is not among the kinds that are known "
                        f"({', '.join(DEVICES)}).  Leave out --measure.")
    return found[0]


def measure(config: Config, settings: PlanSettings, *, device: str = "auto",
            progress: Progress = no_progress) -> tuple[str, float, dict[str, float]]:
    """The kind of this machine's device, its calibration, and the seconds of a pass by modality (medians).

    A process on a CPU computes in one thread, as a plan for cpu assumes. Raises AvsrError.
    """
    where = pick_device(device)
    kind, network = kind_here(where), network_of(config)
    (plan,) = plan_training(config, replace(settings, gpus=1, kinds=(kind,)), progress=progress)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        measured = {}
        module = _module(config, network, settings).to(where)
        made = shapes(config, network, settings.clip_seconds)
        for number, (name, (shape, _)) in enumerate(made.items()):
            progress("measuring steps", number, len(made), "steps")
            measured[name] = _pass_s(module, network, shape, where)
    finally:
        torch.set_num_threads(threads)
    shares = {name: share for name, (_, share) in made.items()}
    said = sum(plan.batch_s[name] * share for name, share in shares.items())
    return kind, sum(measured[name] * share for name, share in shares.items()) / said, measured


def _module(config: Config, network: Network, settings: PlanSettings) -> LossModule:
    torch.manual_seed(config.train.seed)
    n_labels = config.data.n_labels + 2 if settings.n_labels is None else settings.n_labels
    module = LossModule(AVSR(network.dims), config.loss, n_labels if config.loss.frames else 0).train()
    for part in module.modules():
        if isinstance(part, WithDropout):
            part.dropout = config.train.dropout
    freeze_weights(module, config)
    freeze_batch_norms(module)
    return module


def _pass_s(module: LossModule, network: Network, shape: BatchShape, device: torch.device) -> float:
    """The median time of passes forward and backward over a batch of noise. On a CPU it is processor time, which other work on
    the machine does not lengthen; of one thread that is what an idle machine would take."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    batch, seconds = noise_batch(module, network, shape).to(device), []
    for _ in range(STEPS + 1):
        module.zero_grad(set_to_none=True)
        _synchronise(device)
        began = clock()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            total = module(batch).total
        total.backward()
        _synchronise(device)
        seconds.append(clock() - began)
    return statistics.median(seconds[1:])


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def noise_batch(module: LossModule, network: Network, shape: BatchShape) -> Batch:
    """A batch of this shape with random numbers for sound, mouths, texts and labels."""
    n, frames, dims = shape.n_clips, shape.n_frames, module.model.dims
    random = torch.Generator().manual_seed(0)
    mel = mel_lengths = mouths = seen = None
    if "a" in shape.modality:
        columns, width = (FEATURES_PER_FRAME, dims.n_mels) if dims.n_mels else (SAMPLES_PER_FRAME, 1)
        mel = torch.randn(n, columns * (network.pad_frames or frames), width, generator=random)
        mel_lengths = None if network.pad_frames else torch.full((n,), columns * frames)
    if "v" in shape.modality:
        mouths = torch.randint(0, 256, (n, frames, MOUTH_INPUT, MOUTH_INPUT), dtype=torch.uint8, generator=random)
        seen = torch.ones(n, frames, dtype=torch.bool)
    tokens = torch.randint(0, dims.n_vocab, (n, shape.n_tokens), generator=random)
    n_letters = max(1, min(shape.n_tokens, frames // 2))
    n_labels = next((head.bias.shape[0] for head in module.labels.values() if isinstance(head, nn.Linear)), 1)
    classes = torch.randint(1, max(2, dims.n_ctc), (n * n_letters,), generator=random)
    return Batch([f"noise-{i}" for i in range(n)], mel, mel_lengths, mouths, seen, tokens, tokens.roll(-1, dims=1), classes,
                 torch.full((n,), n_letters), torch.randint(0, n_labels, (n, frames), generator=random),
                 torch.ones(n, dtype=torch.bool), torch.full((n,), frames))
