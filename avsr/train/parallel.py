"""The processes of a run: one alone, several with a copy of the network each (DDP), or several that share it (FSDP2).

    torchrun -> join_group -> Alone, Replicated or Sharded: batch -> losses and gradients, the same for all
A step is the mean over its batches, however many processes share them: process r of W computes the batches r, r + W, ...
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from avsr.batch import Batch
from avsr.config import TrainConfig
from avsr.errors import AvsrError, BadConfig
from avsr.losses import Losses, LossModule
from avsr.runtime import pick_device
from avsr.train.blocks import BatchNorm, blocks, prepare_blocks
from avsr.train.speed import FlopCounter

# The others wait while the first one validates: with nccl's own 10 minutes a large set would end the run.
LONGEST_WAIT = timedelta(hours=2)


def join_group(asked: str, config: TrainConfig) -> torch.device:
    """This process's device; under torchrun, after joining the other processes. asked: `auto`, `cpu` or `cuda`.

    Raises BadConfig where train.shard is true and no torchrun has started this process.
    """
    started = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if config.shard and not started:
        raise BadConfig("train.shard is true, but this process was started alone, and there is nobody to share the network "
                        "with.  Start it by torchrun --nproc-per-node N -m avsr train CONFIG, or set train.shard=false.")
    if not started or (int(os.environ["WORLD_SIZE"]) == 1 and not config.shard):
        return pick_device(asked)
    cuda = asked != "cpu" and torch.cuda.is_available()
    number, n_devices = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if cuda and number >= n_devices:
        raise AvsrError(f"torchrun: process {number + 1} of this machine has no GPU, as torch sees only {n_devices} here.  Use "
                        f"--nproc-per-node {n_devices}, or --device cpu.")
    try:
        distributed.init_process_group("nccl" if cuda else "gloo", timeout=LONGEST_WAIT, **_own_store())
    except (RuntimeError, ValueError, OSError) as error:
        raise AvsrError(f"torchrun: the group of {os.environ['WORLD_SIZE']} processes cannot be joined "
                        f"({' '.join(str(error).split())[:160]}).  Look at its --rdzv-endpoint, or at MASTER_ADDR and "
                        "MASTER_PORT.") from error
    device = torch.device("cuda", number) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    return device


def _own_store() -> dict[str, Any]:
    """The arguments by which the processes of one start find each other, and not those of a start before.

    torchrun keeps one store for all starts (torch 2.15 with the rendezvous c10d, as of --standalone), in which gloo would find
    the addresses of processes that have ended: "Connection refused" after the first restart.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    from torch._C._distributed_c10d import PrefixStore, TCPStore  # where torch.distributed has them from

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world, is_master=False,
                     timeout=LONGEST_WAIT)
    return {"store": PrefixStore(f"avsr/{n_restarts()}/{world}", store), "rank": rank, "world_size": world}


def n_restarts() -> int:
    """How often torchrun has started this group of processes again because one of them ended."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


class Alone:
    """One process with the whole network.

    module: the network and its losses as this process has them. whole: the same with whole weights, which validation and model
    files are made of, once `gather` was called; None in the processes that do not need it.
    """

    rank, world = 0, 1

    def __init__(self, module: LossModule, device: torch.device, config: TrainConfig):
        self.device, self.module = device, module
        self.whole: LossModule | None = None
        self._place(config)
        self.network: nn.Module = module
        self.flops = FlopCounter(compiled=config.compile == "yes")

    def _place(self, config: TrainConfig) -> None:
        """Put the network where it is computed."""
        self.whole = self.module.to(self.device)
        prepare_blocks(self.module.model, config, self.device)

    def start(self) -> None:
        """Get ready for the first step, when the weights are those of the state."""

    def backward(self, batch: Batch, n_parts: int, *, last: bool) -> Losses:
        """Add the gradient of a batch's loss, divided by `n_parts`. last: whether this is the last batch of the step, after
        which the gradients are those of all processes together."""
        losses = self._losses(batch)
        (losses.total / n_parts).backward()
        return losses

    def _losses(self, batch: Batch) -> Losses:
        with self.flops.counting(batch), torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            return self.network(batch)

    @torch.no_grad()
    def clip(self, parameters: list[nn.Parameter], longest: float) -> float:
        """Shorten the whole gradient to the norm `longest` at most; returns its norm before that.

        It is computed in float64, so that it does not depend on how the gradient is shared: with a norm that differed in the
        last bit of float32, the losses of one process and of two were 1.5e-4 apart after 31 steps.
        """
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = self._squared(gradients) ** 0.5
        if not norm <= longest:
            for gradient in gradients:
                local(gradient).mul_(longest / (norm + 1e-6))
        return norm

    def _squared(self, gradients: list[Tensor]) -> float:
        """The sum of the squares of all numbers of these gradients, the shares of all processes together."""
        norms = [torch.linalg.vector_norm(one, dtype=torch.float64) for one in gradients]
        return torch.stack(norms).square().sum().item() if norms else 0.0

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Within the block, the weights of `whole` are those of the network, on the device. All processes must enter it."""
        yield

    def sum(self, values: list[float]) -> list[float]:
        """The sums over all processes."""
        return values

    def max(self, values: list[float]) -> list[float]:
        """The largest values of all processes."""
        return values

    def barrier(self) -> None:
        """Wait until all processes are here."""

    def agree(self, flag: bool) -> bool:
        """The flag of the first process, in all of them: else some would wait for the others for ever."""
        return flag


class Replicated(Alone):
    """Several processes, each with a copy of the network."""

    def __init__(self, module: LossModule, device: torch.device, config: TrainConfig):
        super().__init__(module, device, config)
        self.rank, self.world = distributed.get_rank(), distributed.get_world_size()

    def start(self) -> None:
        """Make the copies equal to that of the first process."""
        devices = [self.device] if self.device.type == "cuda" else None
        with warnings.catch_warnings():                     # torch 2.15 has another name for it, which 2.11 does not know
            warnings.simplefilter("ignore", FutureWarning)
            self.network = DistributedDataParallel(self.module, find_unused_parameters=True, device_ids=devices,
                                                   broadcast_buffers=False)
        self.batch_norms = BatchNorms(self.module)

    def backward(self, batch: Batch, n_parts: int, *, last: bool) -> Losses:
        """See Alone. Gradients travel once a step."""
        with self.batch_norms.same_everywhere(), self._alone_until(last):
            return super().backward(batch, n_parts, last=last)

    def _alone_until(self, last: bool):
        assert isinstance(self.network, DistributedDataParallel)
        return nullcontext() if last else self.network.no_sync()

    def sum(self, values: list[float]) -> list[float]:
        """See Alone."""
        return self._reduced(values, distributed.ReduceOp.SUM)

    def max(self, values: list[float]) -> list[float]:
        """See Alone."""
        return self._reduced(values, distributed.ReduceOp.MAX)

    def _reduced(self, values: list[float], operation: distributed.ReduceOp.RedOpType) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor, operation)
        return tensor.tolist()

    def barrier(self) -> None:
        """See Alone."""
        distributed.barrier()

    def agree(self, flag: bool) -> bool:
        """See Alone."""
        tensor = torch.tensor(float(flag), device=self.device)
        distributed.broadcast(tensor, 0)
        return bool(tensor.item())


class Sharded(Replicated):
    """Several processes that hold a share of every weight, gradient and mean of the optimiser each (FSDP2).

    The blocks of the network are units: their weights are gathered when they run, forward and backward, and freed afterwards.
    The rest (frontends, embeddings, heads) stays gathered for the length of a step. torch takes no share of a single number, so
    that every process keeps the gates.
    """

    def _place(self, config: TrainConfig) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

        self.whole = copy.deepcopy(self.module) if distributed.get_rank() == 0 else None
        prepare_blocks(self.module.model, config, self.device)
        self.module.run_all, self.used = True, set[str]()
        self.numbers = [parameter for parameter in self.module.parameters() if parameter.ndim == 0]
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")     # which nothing here writes to
        mesh, alone = init_device_mesh(self.device.type, (distributed.get_world_size(),)), set(self.numbers)
        for tensor in (*self.numbers, *self.module.buffers()):
            tensor.data = tensor.data.to(self.device)
        half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        whole = MixedPrecisionPolicy()
        for prefix, block in blocks(self.module.model):
            # A batch norm has running means in float32 and takes no weights of another type. autocast does the rest.
            halved = self.device.type == "cuda" and not any(isinstance(one, BatchNorm) for one in block.modules())
            fully_shard(block, mesh=mesh, mp_policy=half if halved else whole, ignored_params=alone)
            if hasattr(block, "memory_keys"):
                register_fsdp_forward_method(block, "memory_keys")
            block.register_forward_pre_hook(self._name_parameters(f"model.{prefix}."))
        fully_shard(self.module, mesh=mesh, mp_policy=whole, ignored_params=alone)
        self.module.register_forward_pre_hook(self._name_parameters(""))

    def _name_parameters(self, prefix: str):
        def name(module: nn.Module, _: object) -> None:
            self.module.parameter_names |= {id(p): prefix + name for name, p in module.named_parameters()}

        return name

    def start(self) -> None:
        """See Alone."""
        self.batch_norms = BatchNorms(self.module)

    @contextmanager
    def _alone_until(self, last: bool) -> Iterator[None]:
        from torch.distributed.fsdp import FSDPModule

        assert isinstance(self.module, FSDPModule)
        self.module.set_requires_gradient_sync(last)
        self.module.set_is_last_backward(last)
        yield
        if last:
            self._finish_gradients()

    def _losses(self, batch: Batch) -> Losses:
        losses = super()._losses(batch)
        self.used |= losses.used or set()
        return losses

    @torch.no_grad()
    def _finish_gradients(self) -> None:
        """Take the mean of the gates' gradients, and take away gradients that no batch of the step has made: AdamW moves a
        weight with a gradient of 0 as well, and one process would not."""
        named = [(name, parameter) for name, parameter in self.module.named_parameters() if parameter.requires_grad]
        flags = self.max([float(name in self.used) for name, _ in named])
        trained = [parameter for parameter in self.numbers if parameter.requires_grad]
        if trained:
            sums = self.sum([0.0 if p.grad is None else p.grad.item() for p in trained])
            for parameter, total in zip(trained, sums, strict=True):
                parameter.grad = torch.full_like(parameter, total / self.world)
        for (_, parameter), flag in zip(named, flags, strict=True):
            if not flag:
                parameter.grad = None
        self.used.clear()

    def _squared(self, gradients: list[Tensor]) -> float:
        numbers = [one for one in gradients if local(one) is one]
        (shares,) = self.sum([super()._squared([local(one) for one in gradients if local(one) is not one])])
        return shares + super()._squared(numbers)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """See Alone. Outside the block `whole` is in the machine's memory, as it may not fit beside the shares on a device."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        state = get_model_state_dict(self.module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if self.whole is not None:
            self.whole.load_state_dict(state)
            self.whole.to(self.device)
        del state
        yield
        if self.whole is not None:
            self.whole.to("cpu")


def make_parallel(module: LossModule, device: torch.device, config: TrainConfig) -> Alone:
    """How this process computes gradients, from how it was started."""
    kind = Sharded if config.shard else Replicated if distributed.is_initialized() else Alone
    return kind(module, device, config)


def local(tensor: Tensor) -> Tensor:
    """This process's share of a tensor; the tensor itself where it is not shared."""
    if not distributed.is_initialized():                    # and spare the import
        return tensor
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class BatchNorms:
    """Keeps running means equal in all processes: what one process would have, had it seen the batches of all in their order.

    A batch norm moves its mean by m_r = (1 - p) m + p x_r, with the mean x_r of the batch of process r. All m_r are exchanged,
    and the moves of the processes are made one after the other.
    """

    def __init__(self, module: nn.Module):
        self.norms = [one for one in module.modules() if isinstance(one, BatchNorm)]

    @contextmanager
    def same_everywhere(self) -> Iterator[None]:
        """Within the block, each process computes a batch."""
        norms = [norm for norm in self.norms if norm.training]
        before = self._read(norms) if norms else None
        yield
        if before is not None:
            self._write(norms, self._moved(norms, before, self._read(norms)))

    @staticmethod
    def _read(norms: list[BatchNorm]) -> Tensor:
        """How many batches each of the norms has seen, then the running means and variances: one row of float64."""
        return torch.cat([torch.stack([norm.get_buffer("num_batches_tracked") for norm in norms]).double(),
                          *(buffer.double() for norm in norms for buffer in BatchNorms._means(norm))])

    @staticmethod
    def _means(norm: BatchNorm) -> tuple[Tensor, Tensor]:
        return norm.get_buffer("running_mean"), norm.get_buffer("running_var")

    @staticmethod
    def _write(norms: list[BatchNorm], row: Tensor) -> None:
        at = len(norms)
        for count, norm in zip(row[:at], norms, strict=True):
            norm.get_buffer("num_batches_tracked").copy_(count)
            for buffer in BatchNorms._means(norm):
                buffer.copy_(row[at:at + len(buffer)])
                at += len(buffer)

    @staticmethod
    def _moved(norms: list[BatchNorm], before: Tensor, after: Tensor) -> Tensor:
        """The row of all processes, from that of this process before and after its batch."""
        n = len(norms)
        rows = [torch.empty_like(after) for _ in range(distributed.get_world_size())]
        distributed.all_gather(rows, after)
        every, sizes = torch.stack(rows), torch.tensor([2 * norm.num_features for norm in norms], device=after.device)
        counts = every[:, :n] - before[:n]                  # 0 in a process whose batch did not reach the norm
        moves = counts.repeat_interleave(sizes, dim=1)
        momentum = torch.tensor([norm.momentum for norm in norms], dtype=torch.float64, device=after.device)
        keep = (1 - momentum).repeat_interleave(sizes)
        added = (every[:, n:] - keep * before[n:]) * moves  # p x_r
        later = moves.flip(0).cumsum(dim=0).flip(0) - moves
        values = keep ** moves.sum(dim=0) * before[n:] + (added * keep ** later).sum(dim=0)
        return torch.cat([before[:n] + counts.sum(dim=0), values])
