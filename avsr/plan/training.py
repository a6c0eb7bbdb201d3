"""Memory and time of a training on a number of devices, from what its step takes and what the devices give.

    Config, Cluster, StepCounts -> TrainingPlan: memory by part, seconds of a step by part, hours, what limits, what to change
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from avsr.config import Config
from avsr.plan.communication import Ring, exposed_data_parallel_s, exposed_sharded_s
from avsr.plan.counting import StepCount, Weights
from avsr.plan.devices import GB, Device
from avsr.rates import VIDEO_FPS

STATE_BYTES = 8                                             # AdamW's two means of a weight, float32
OPTIMISER_TRAFFIC = 40                                      # bytes read and written to clip a gradient and move its weight
# CUDA's context, cuDNN's and NCCL's buffers; and, of activations, what the allocator loses between blocks of unequal size.
# The process on a CPU is this program with torch.
RUNTIME_BYTES = {True: 2.0 * GB, False: 0.8 * GB}
FRAGMENTED = 0.1
# Seconds of speech that one loader process makes examples of in a second: 11.5 clips of 3 s, with mouths augmented there
# (experiments/speed). Where a GPU augments them, 14 processes made 500 clips a second, and no more was asked of them (LOG.md,
# 2026-11-26).
LOADED_PER_S = {False: 34.0, True: 107.0}
READ_BYTES_PER_S = 100e3                                    # of a second of speech in the cache: 300 kB for 3 s
VALID_AT_ONCE, VALID_TOKENS_PER_S = 16, 8                   # as train/valid.py searches, greedily


@dataclass(frozen=True)
class Cluster:
    """Devices of one kind. network: bytes/s from a machine to another. cores: of this machine, which processes on a CPU
    share."""

    device: Device
    n: int
    per_machine: int
    network: float
    cores: int

    @property
    def ring(self) -> Ring:
        """All of them."""
        return Ring(self.n, min(self.n, self.per_machine), self.network, self.device)


@dataclass(frozen=True)
class Memory:
    """Bytes on each device, by part, and how many it has (None: unknown)."""

    weights: float
    gradients: float
    optimiser: float
    activations: float
    communication: float
    runtime: float
    available: float | None

    @property
    def total(self) -> float:
        """All parts together."""
        return self.weights + self.gradients + self.optimiser + self.activations + self.communication + self.runtime

    @property
    def fits(self) -> bool:
        """Whether a twentieth of the memory is left."""
        return self.available is None or self.total <= 0.95 * self.available


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step by part, averaged over modalities.

    compute: forward and backward. waiting: for the process whose batch takes longest. communication: what does not hide behind
    computing. optimiser. loading: what does not hide either.
    """

    compute: float
    waiting: float
    communication: float
    optimiser: float
    loading: float

    @property
    def total(self) -> float:
        """Seconds of a step."""
        return self.compute + self.waiting + self.communication + self.optimiser + self.loading


@dataclass(frozen=True)
class TrainingPlan:
    """What a training takes on one kind of device. counts: by modality, with the share of batches of each."""

    config: Config
    cluster: Cluster
    weights: Weights
    counts: Mapping[str, tuple[StepCount, float]]

    @property
    def shard(self) -> bool:
        """Whether the processes share the weights; one alone has nobody to share with."""
        return self.config.train.shard and self.cluster.n > 1

    @cached_property
    def memory(self) -> Memory:
        """The memory of a device at the worst moment of a step."""
        device, n = self.cluster.device, self.cluster.n
        share = n if self.shard else 1
        # Without a sum over processes, FSDP keeps the whole gradient until the last batch of a step.
        whole_gradient = self.shard and self.config.train.accumulate > 1
        copies = 0.0
        if self.shard:                                      # two blocks gathered, as the next one is fetched meanwhile
            copies = 2 * self.weights.largest_block * (2 if device.is_gpu else 4)
        elif n > 1:
            copies = 4 * self.weights.trained               # DDP's buckets
        activations = max(count.activations for count, _ in self.counts.values()) * (1 + FRAGMENTED)
        return Memory(4 * self.weights.all / share, 4 * self.weights.trained / (1 if whole_gradient else share),
                      STATE_BYTES * self.weights.trained / share, activations, copies, RUNTIME_BYTES[device.is_gpu],
                      self._available)

    @property
    def _available(self) -> float | None:
        """Bytes for each process: those of the GPU, or its part of this machine's."""
        device, ring = self.cluster.device, self.cluster.ring
        return device.memory if device.is_gpu or device.memory is None else device.memory / ring.per_machine

    @cached_property
    def batch_s(self) -> dict[str, float]:
        """By modality, the seconds of a pass forward and backward over one batch, and of the messages that do not hide."""
        return {name: self.crowding * self.cluster.device.seconds(count.forward, count.backward) + self._weights_s(count)
                for name, (count, _) in self.counts.items()}

    def _weights_s(self, count: StepCount) -> float:
        """Seconds of gathering weights for a batch that do not hide; 0 without FSDP."""
        if not self.shard:
            return 0.0
        device = self.cluster.device
        return exposed_sharded_s(self.cluster.ring, self._gathered, 0, device.seconds(count.forward),
                                 device.seconds(count.backward))

    @property
    def _gathered(self) -> float:
        return self.weights.all * (2.0 if self.cluster.device.is_gpu else 4.0)

    @property
    def crowding(self) -> float:
        """How many times as long computing takes because processes on a CPU, and those that load, are more than its cores."""
        if self.cluster.device.is_gpu:
            return 1.0
        return max(1.0, self.cluster.ring.per_machine / self.cluster.cores)

    @cached_property
    def step(self) -> StepTime:
        """The time of a step."""
        device, train, ring = self.cluster.device, self.config.train, self.cluster.ring
        mean = sum(self.batch_s[name] * share for name, (_, share) in self.counts.items())
        gathering = sum(self._weights_s(count) * share for count, share in self.counts.values())
        backward = sum(device.seconds(count.backward) * share for count, share in self.counts.values())
        gradients = 4.0 * self.weights.trained
        if self.shard:
            communication = max(0.0, ring.gather_s(gradients) - ring.device.overlap * backward)
        else:
            communication = exposed_data_parallel_s(ring, gradients, backward)
        optimiser = OPTIMISER_TRAFFIC * self.weights.trained / (self.cluster.n if self.shard else 1)
        parts = train.accumulate
        compute, waiting = parts * (mean - gathering), parts * (self._slowest() - mean)
        loading = self._loading(compute + waiting)
        return StepTime(compute, waiting, communication + parts * gathering,
                        optimiser / (device.bytes_per_s * device.bandwidth_share), loading)

    def _slowest(self) -> float:
        """The mean time of the slowest of n batches, each of which has a modality of its own, drawn with its share."""
        n, below, total = self.cluster.n, 0.0, 0.0
        for name in sorted(self.batch_s, key=lambda name: self.batch_s[name]):
            up_to = min(1.0, below + self.counts[name][1])
            total += self.batch_s[name] * (up_to ** n - below ** n)
            below = up_to
        return total

    def _loading(self, computing: float) -> float:
        """Seconds by which making batches delays a step."""
        device, data, ring = self.cluster.device, self.config.data, self.cluster.ring
        work = self.speech_s / self.cluster.n / LOADED_PER_S[device.is_gpu]       # core-seconds for each process
        if not data.workers:
            return work * self.crowding                     # by the training process itself, between steps
        if device.is_gpu:
            return max(0.0, work / data.workers - computing)
        # Loader processes need cores too: together they cannot be faster than all cores of the machine.
        both = ring.per_machine * (computing / self.crowding + work) / self.cluster.cores
        return max(0.0, work / data.workers - computing, both - computing)

    @property
    def speech_s(self) -> float:
        """Seconds of speech in a step of all processes."""
        mean = sum(count.shape.seconds * share for count, share in self.counts.values())
        return mean * self.cluster.n * self.config.train.accumulate

    @property
    def clips_per_s(self) -> float:
        """Clips a second, of all processes."""
        clips = sum(count.shape.n_clips * share for count, share in self.counts.values())
        return clips * self.cluster.n * self.config.train.accumulate / self.step.total

    @property
    def loaders_needed(self) -> int:
        """Loader processes for each process of the training that keep it from waiting."""
        work = self.speech_s / self.cluster.n / LOADED_PER_S[self.cluster.device.is_gpu]
        rest = self.step.total - self.step.loading
        return max(1, -(-int(1e6 * work) // int(1e6 * rest)))

    @property
    def read_bytes_per_s(self) -> float:
        """Bytes a second that all processes read from the cache."""
        return self.speech_s * READ_BYTES_PER_S / self.step.total

    @property
    def utilisation(self) -> float:
        """FLOPs of the network a second, as a share of the devices' peak (MFU). What is recomputed does not count."""
        flops = sum(count.flops * share for count, share in self.counts.values()) * self.config.train.accumulate
        return flops / self.step.total / self.cluster.device.flops

    @cached_property
    def validation_s(self) -> float:
        """Seconds of one validation, by the first process alone: the encoder's pass, then the decoder's for each token."""
        data, device = self.config.data, self.cluster.device
        clip = next(iter(self.counts.values()))[0].shape.n_frames / VIDEO_FPS
        total = 0.0
        for count, _ in self.counts.values():
            pass_s = device.seconds(count.forward) * VALID_AT_ONCE / count.shape.n_clips
            if device.asynchronous:
                pass_s = max(pass_s, count.forward.n * device.launch_s)
            tokens = clip * VALID_TOKENS_PER_S
            decoder = max(1, count.forward.n // 4) * device.launch_s + pass_s / max(1, count.shape.n_tokens)
            total += (data.max_valid or 500) / VALID_AT_ONCE * (pass_s + tokens * decoder)
        return total

    def hours(self, steps: int) -> float:
        """Hours of so many steps with their validations."""
        validations = -(-steps // self.config.train.valid_every)
        return (steps * self.step.total + validations * self.validation_s) / 3600

    @property
    def limit(self) -> str:
        """What to change first: memory, data, communication, waiting, launches or compute."""
        if not self.memory.fits:
            return "memory"
        step = self.step
        parts = {"data": step.loading, "communication": step.communication, "waiting": step.waiting,
                 "compute": step.compute + step.optimiser}
        largest = max(parts, key=lambda name: parts[name])
        passes = [one for count, _ in self.counts.values() for one in (count.forward, count.backward)]
        return "launches" if largest == "compute" and self.cluster.device.waits_for_launches(*passes) else largest
