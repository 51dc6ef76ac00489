"""The processes of one training run: a single one, or as many as `torchrun` started.

Each takes its share of every batch; gradients are averaged, so all processes hold the same weights.

Note: DistributedDataParallel does the same with hooks, which rely on one backward per forward,
while here the discriminator runs three times a step and a step may be skipped. One explicit
reduction after `backward` has no such conditions, and costs little at a few megabytes.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from srgan_edge.errors import UsageError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Processes:
    """This process among its siblings."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    control: dist.ProcessGroup | None = None
    """A group on the CPU for decisions, so that they never wait for a GPU."""

    @property
    def first(self) -> bool:
        """True for the process that writes the files and reports to the user."""
        return self.rank == 0

    def share(self, batch: int) -> range:
        """Return the indices of a global batch that this process computes.

        Raises:
            UsageError: the batch cannot be divided evenly.
        """
        if batch % self.size:
            raise UsageError(
                f"data.batch is {batch}; it must be a multiple of {self.size}, "
                "the number of processes"
            )
        each = batch // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor, in place, by its mean over all processes, in a single reduction."""
        if self.size == 1:
            return
        found = list(tensors)
        flat = torch.cat([tensor.reshape(-1) for tensor in found])
        dist.all_reduce(flat)
        flat /= self.size
        position = 0
        for tensor in found:
            tensor.copy_(flat[position : position + tensor.numel()].view_as(tensor))
            position += tensor.numel()

    def highest(self, value: int) -> int:
        """Return the largest value of all processes, so that they stop at the same step."""
        if self.size == 1:
            return value
        largest = torch.tensor(value)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.control)
        return int(largest)

    def wait(self) -> None:
        """Return once all processes have reached this call."""
        if self.size > 1:
            dist.barrier(group=self.control)


def resolved_device(device: str) -> str:
    """Return `device` with `auto` resolved: `cuda` where available, else `cpu`.

    Raises:
        UsageError: CUDA was requested and torch sees none.
    """
    has_cuda = torch.cuda.is_available()
    if device.startswith("cuda") and not has_cuda:
        raise UsageError("--device cuda: torch sees no CUDA device here; type --device cpu")
    if device == "auto":
        return "cuda" if has_cuda else "cpu"
    return device


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the processes that `torchrun` started, or run alone on `device`.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`. Under torchrun each process takes the GPU of its
            local rank.

    Raises:
        UsageError: CUDA was requested and torch sees none.
    """
    family = resolved_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes(device=torch.device(family))
        return
    if family.startswith("cuda"):
        family = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(family)
    backend = "nccl" if family.startswith("cuda") else "gloo"
    store, rank, size = next(rendezvous("env://"))
    # When torchrun starts all processes again, its store still has the addresses of the last ones.
    store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        # The first process may decode photographs for hours while the others wait for it.
        control = dist.new_group(backend="gloo", timeout=timedelta(hours=12))
        assert isinstance(control, dist.ProcessGroup)  # every process is a member
        yield Processes(dist.get_rank(), dist.get_world_size(), torch.device(family), control)
    finally:
        dist.destroy_process_group()
