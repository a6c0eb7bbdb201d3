"""How long processes talk: a ring over all of them, as NCCL and gloo form it.

    bytes, Ring -> seconds of an all-reduce (data parallel), of all-gather and reduce-scatter (FSDP), and what stays in sight
In a ring of n each process sends (n - 1) / n of the bytes to gather or to reduce them, and twice as many for both. The slowest
link of the ring sets the pace: within a machine the device's own, between machines the network.
"""

from __future__ import annotations

from dataclasses import dataclass

from avsr.plan.devices import Device

BUCKET_BYTES = 25 * 2**20                                   # DDP sends gradients in pieces of this size as they are ready


@dataclass(frozen=True)
class Ring:
    """n processes, `per_machine` on each machine. network: bytes/s that a machine sends to another."""

    n: int
    per_machine: int
    network: float
    device: Device

    @property
    def n_machines(self) -> int:
        """Machines, the last of which may have fewer processes."""
        return -(-self.n // self.per_machine)

    @property
    def bytes_per_s(self) -> float:
        """The slowest link. A machine's network serves its one neighbour in the ring."""
        return self.device.link if self.n_machines == 1 else min(self.device.link, self.network)

    def gather_s(self, size: float) -> float:
        """All-gather or reduce-scatter of `size` bytes in all."""
        if self.n == 1:
            return 0.0
        return (self.n - 1) / self.n * size / self.bytes_per_s + (self.n - 1) * self.device.latency_s

    def all_reduce_s(self, size: float) -> float:
        """All-reduce of `size` bytes: a reduce-scatter and an all-gather."""
        return 2 * self.gather_s(size)


def exposed_data_parallel_s(ring: Ring, gradients: float, backward_s: float) -> float:
    """Seconds that all-reducing `gradients` bytes adds to a step. The last bucket is ready when the backward pass has ended, so
    nothing hides it; the others hide behind the share `overlap` of the pass."""
    if ring.n == 1:
        return 0.0
    last = min(gradients, BUCKET_BYTES)
    others = (gradients - last) / BUCKET_BYTES * ring.all_reduce_s(BUCKET_BYTES)
    return ring.all_reduce_s(last) + max(0.0, others - ring.device.overlap * backward_s)


def exposed_sharded_s(ring: Ring, gathered: float, gradients: float, forward_s: float, backward_s: float) -> float:
    """Seconds that FSDP adds to a pass: weights (`gathered` bytes) are gathered forward and again backward, gradients are
    reduced and scattered; each hides behind the share `overlap` of its pass."""
    if ring.n == 1:
        return 0.0
    overlap = ring.device.overlap
    forward = ring.gather_s(gathered) - overlap * forward_s
    backward = ring.gather_s(gathered) + ring.gather_s(gradients) - overlap * backward_s
    return max(0.0, forward) + max(0.0, backward)
