"""The processes of one training run: one alone, or as many as `torchrun` started.

Each takes its share of every batch; gradients are averaged, so that all hold the same weights.

Note: this is what DistributedDataParallel does, without its hooks. Those count on one backward for
each forward, while here the discriminator runs three times a step and a step may be skipped; one
explicit reduction after `backward` has no such conditions, and costs little at a few megabytes.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from srgan_edge.errors import UsageError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Processes:
    """This process among its siblings."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    control: dist.ProcessGroup | None = None
    """A group on the CPU for decisions, so that agreeing never waits for a GPU."""

    @property
    def first(self) -> bool:
        """Whether this one writes the files and talks to the user."""
        return self.rank == 0

    def share(self, batch: int) -> range:
        """The indices of a global batch that fall to this process.

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
        """Replace each tensor, in place, by its mean over all processes: one reduction in all."""
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
        """The largest of what the processes say: how they agree to stop at the same step."""
        if self.size == 1:
            return value
        said = torch.tensor(value)
        dist.all_reduce(said, dist.ReduceOp.MAX, group=self.control)
        return int(said)

    def wait(self) -> None:
        """Go on when all have come this far."""
        if self.size > 1:
            dist.barrier(group=self.control)


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """The processes that `torchrun` started, or this one alone on `device`.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`. Under torchrun each process takes the GPU of its
            local rank.

    Raises:
        UsageError: CUDA was asked for and torch sees none.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here; type --device cpu")
    family = device
    if device == "auto":
        family = "cuda" if torch.cuda.is_available() else "cpu"
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes(device=torch.device(family))
        return
    if family.startswith("cuda"):
        family = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(family)
    dist.init_process_group("nccl" if family.startswith("cuda") else "gloo")
    try:
        # The first one may decode photographs for long while the others wait for it.
        control = dist.new_group(backend="gloo", timeout=timedelta(hours=12))
        assert isinstance(control, dist.ProcessGroup)  # every process is a member
        yield Processes(dist.get_rank(), dist.get_world_size(), torch.device(family), control)
    finally:
        dist.destroy_process_group()
