"""What computes: peaks from vendors' data sheets, and how much of them a training gets, assumed or measured.

Peaks are of dense bfloat16 products with sums in float32; bandwidths of links count one direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from avsr.errors import AvsrError
from avsr.plan.counting import Pass
from avsr.runtime import memory_bytes
from avsr.train.speed import PEAKS

# Assumed of GPUs: of the peak in large products and convolutions, of the memory's bandwidth in all else, and of the time of
# the backward pass behind which messages can hide.
GPU_FLOPS_SHARE = 0.4
GPU_BANDWIDTH_SHARE = 0.7
GPU_OVERLAP = 0.8
# Measured on one H200: steps of experiments/grid took 47 ms by sound, 41 by lips, 88 by both (medians; LOG.md, 2026-11-26).
# They have 602, 547 and 1356 operations, whose products and memory traffic take 1 to 4 ms. So small networks wait for Python to
# launch operations. 70 us for each, all else of a step included, are within 10 % of the three.
GPU_LAUNCH_S = 70e-6


@dataclass(frozen=True)
class Device:
    """A kind of GPU, or a core of a processor.

    flops: peak FLOP/s. bytes_per_s: of its memory. memory: bytes. link: bytes/s to its neighbour in one machine. per_machine:
    how many a usual machine has. flops_share, bandwidth_share: how much of the peaks a training gets. launch_s: of an
    operation, however small; hidden where the device works on its own (`asynchronous`). overlap: the share of the backward
    pass behind which messages hide. latency_s: of one message.
    """

    name: str
    flops: float
    bytes_per_s: float
    memory: float | None
    link: float
    per_machine: int
    source: str
    flops_share: float = GPU_FLOPS_SHARE
    bandwidth_share: float = GPU_BANDWIDTH_SHARE
    launch_s: float = GPU_LAUNCH_S
    overlap: float = GPU_OVERLAP
    latency_s: float = 15e-6
    asynchronous: bool = True
    calibration: float = 1.0                                # measured time of a pass, divided by what is said without it

    @property
    def is_gpu(self) -> bool:
        """Whether it computes in bfloat16 beside a processor that feeds it."""
        return self.asynchronous

    def seconds(self, *passes: Pass) -> float:
        """The time of passes: each operation takes its products or its memory traffic, whichever is longer, and a launch."""
        kernels = sum(max(flops / (self.flops * self.flops_share), size / (self.bytes_per_s * self.bandwidth_share)) * n
                      for one in passes for (flops, size), n in one.operations.items())
        launches = sum(one.n for one in passes) * self.launch_s
        return self.calibration * (max(kernels, launches) if self.asynchronous else kernels + launches)

    def waits_for_launches(self, *passes: Pass) -> bool:
        """Whether the device is idle for most of the time, because operations are too small."""
        return self.asynchronous and sum(one.n for one in passes) * self.launch_s * self.calibration >= self.seconds(*passes)


GB = 1e9
DEVICES = {device.name: device for device in (
    Device("h100", PEAKS["H100"], 3350 * GB, 80 * GB, 450 * GB, 8, "NVIDIA H100 SXM data sheet"),
    Device("h200", PEAKS["H200"], 4800 * GB, 141 * GB, 450 * GB, 8, "NVIDIA H200 SXM data sheet"),
    Device("a100", PEAKS["A100"], 2039 * GB, 80 * GB, 300 * GB, 8, "NVIDIA A100 80GB SXM data sheet"),
    Device("l4", PEAKS["L4"], 300 * GB, 24 * GB, 32 * GB, 8, "NVIDIA L4 data sheet, PCIe 4.0 x16"),
    Device("rtx4090", PEAKS["RTX 4090"], 1008 * GB, 24 * GB, 32 * GB, 8, "NVIDIA Ada architecture white paper, PCIe 4.0 x16"),
    # 34 GMAC/s were measured as a core's peak (experiments/speed); the shares are fitted, see experiments/scale.
    Device("cpu", 68e9, 10 * GB, memory_bytes(), 1 * GB, 1, "experiments/speed: a core's peak; experiments/scale: the rest",
           flops_share=0.8, bandwidth_share=0.5, launch_s=20e-6, overlap=0.0, latency_s=200e-6, asynchronous=False))}


def devices_of(names: Sequence[str]) -> list[Device]:
    """The devices of these names. Raises AvsrError, which suggests the right one."""
    out = []
    for name in names:
        if name not in DEVICES:
            nearest = get_close_matches(name, DEVICES, 1, 0.3)
            hint = f"Did you mean {nearest[0]}?  " if nearest else ""
            raise AvsrError(f"--gpu {name}: not a kind of device this program knows.  {hint}Known are {', '.join(DEVICES)}.")
        out.append(DEVICES[name])
    return out
