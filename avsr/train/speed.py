"""How well a run uses its machine: arithmetic of the model, waiting for data, memory, and a trace of a few steps.

    batch -> FLOPs of the forward pass, counted once for each modality;  step -> FLOP/s, or their share of what the GPU can do
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from avsr.batch import Batch

FORWARD_AND_BACKWARD = 3                                    # times the forward pass: the backward one has two products for each
# Peak arithmetic of a GPU in FLOP/s: dense products of bfloat16 (float16 on V100 and T4), from the vendor's data sheets. The
# first whose name is part of the device's counts.
PEAKS = {"GB200": 2.5e15, "B200": 2.25e15, "H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12,
         "A100": 312e12, "A40": 150e12, "A30": 165e12, "A10G": 70e12, "A10": 125e12, "L40S": 362e12, "L40": 181e12,
         "L4": 121e12, "V100": 125e12, "T4": 65e12, "RTX 4090": 165e12, "RTX 3090": 71e12, "RTX A6000": 155e12}
GIGABYTE = 1e9
FIRST, LAST = 3, 5                                          # steps of a start that a trace shows, when all is warm


def peak_flops(device: torch.device) -> float | None:
    """FLOP/s that a device can do at most; None for a CPU and for a GPU that the table lacks."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


class FlopCounter:
    """Counts the floating-point operations of the model: matrix products, convolutions and attention, as torch's own formulas
    have them; recurrent layers are left out.

    The forward pass of the first batch of each modality is counted. Other batches of that modality take as much per frame, and
    the backward pass twice as much. What is computed again (train.recompute) does not count: it is no work of the model.
    compiled: whether blocks are, whose kernels would have no formulas.
    """

    def __init__(self, *, compiled: bool) -> None:
        self.compiled = compiled
        self.per_frame: dict[str, float] = {}
        self.total = 0.0

    @contextmanager
    def counting(self, batch: Batch) -> Iterator[None]:
        """Within the block, the losses of a batch are computed."""
        n_frames = batch.labels.numel()
        if batch.modality not in self.per_frame:
            with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext(), _Counting() as found:
                yield
            self.per_frame[batch.modality] = found.flops / max(1, n_frames)
        else:
            yield
        self.total += FORWARD_AND_BACKWARD * self.per_frame[batch.modality] * n_frames

    def take(self) -> float:
        """The operations since the last call."""
        total, self.total = self.total, 0.0
        return total


class _Counting(TorchDispatchMode):
    """Adds up what each of torch's operations takes."""

    def __init__(self) -> None:
        super().__init__()
        from torch.utils.flop_counter import flop_registry

        self.formulas, self.flops = flop_registry, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (formula := self.formulas.get(func.overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def memory_used(device: torch.device) -> float | None:
    """Gigabytes: on a GPU the most since the last call, of tensors; on a CPU what the process has in memory now, where the
    system tells."""
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return most / GIGABYTE
    with suppress(OSError, ValueError, AttributeError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / GIGABYTE
    return None


class Trace:
    """Records the steps FIRST to LAST of this start with torch.profiler, into a file that trace viewers open."""

    def __init__(self, path: Path, device: torch.device, say: Callable[[str], None]):
        from torch import profiler

        os.environ.setdefault("KINETO_LOG_LEVEL", "5")      # else it says on stderr that it starts and stops
        self.path, self.say, self.n_steps, self.written = path, say, 0, False
        activities = [profiler.ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(profiler.ProfilerActivity.CUDA)
        schedule = profiler.schedule(wait=FIRST - 2, warmup=1, active=LAST - FIRST + 1, repeat=1)
        self.profile = profiler.profile(activities=activities, schedule=schedule, record_shapes=True,
                                        on_trace_ready=self._write)
        self.profile.start()

    def _write(self, profile: Any) -> None:
        if self.n_steps >= FIRST:
            profile.export_chrome_trace(str(self.path))
            self.written = True
            self.say(f"profile of steps {FIRST} to {self.n_steps} of this start: {self.path}; chrome://tracing and Perfetto "
                     "open it")

    def step(self) -> None:
        """A step has ended."""
        self.n_steps += 1
        self.profile.step()

    def close(self) -> None:
        """End the recording."""
        self.profile.stop()
        if not self.written:
            self.say(f"profile: this start has ended before its step {FIRST}, so no trace was written")
