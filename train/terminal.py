"""The live line of a training run, and the device it runs on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from srgan_edge.errors import UsageError
from srgan_edge.train.loop import Progress as TrainingProgress


@contextmanager
def live_line() -> Iterator[Callable[[TrainingProgress], None]]:
    """Shows step, loss, PSNR-Y, speed and time left on stderr while the block runs."""
    console = Console(stderr=True, highlight=False)
    columns = [
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[measured]}"),
        TimeRemainingColumn(compact=True),
    ]
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=None, measured="")

        def show(now: TrainingProgress) -> None:
            measured = f"loss {now.loss:.4f}  {now.steps_per_second:.1f} steps/s"
            if now.psnr_y is not None:
                measured += f"  {now.psnr_y:.2f} dB"
            progress.update(task, completed=now.step, total=now.steps, measured=measured)

        yield show


def pick_device(device: str) -> str:
    """`auto` is CUDA where there is one, else the CPU.

    Raises:
        UsageError: CUDA was asked for and torch sees none.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here; type --device cpu")
    return device
