"""Progress of commands that take minutes, on stderr: a live line or a bar."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from srgan_edge.cli.common import say
from srgan_edge.errors import printable

if TYPE_CHECKING:  # which needs torch
    from srgan_edge.train.session import Progress as TrainingProgress

SECONDS_BETWEEN_LINES = 60
"""Without a terminal: a log file should not hold a line for every hundred steps."""


class LiveLine:
    """Phase, step, losses, PSNR-Y, speed and time left on stderr."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, step="", measured="")
        self._last_line = 0.0

    def show(self, now: "TrainingProgress") -> None:
        """Show the state of the run; without a terminal, once in a while."""
        measured = "  ".join(_measured(now))
        step = f"{now.step:,}/{now.steps:,}"
        if self._progress.console.is_terminal:
            self._progress.update(
                self._task,
                description=now.phase,
                completed=now.step,
                total=now.steps,
                step=step,
                measured=measured,
            )
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES or now.step == now.steps:
            self._last_line = time.monotonic()
            self.say(f"{now.phase} {step}  {measured}")

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._progress.console.print(escape(printable(line)), soft_wrap=True)


@contextmanager
def live_line() -> Iterator[LiveLine]:
    """Keep a line up to date while the block runs; silent in all processes but the first."""
    quiet = os.environ.get("RANK", "0") != "0"
    console = Console(stderr=True, highlight=False, emoji=False, quiet=quiet)
    columns = [
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[step]}  {task.fields[measured]}"),
        TimeRemainingColumn(compact=True),
    ]
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield LiveLine(progress)


@contextmanager
def build_bar() -> Iterator[tuple[Callable[[str], None], Callable[[str, int, int], None]]]:
    """Show a bar while an engine is built.

    Yields:
        A function that prints a line, and one that accepts a builder's phase, the steps of it that
        are done, and all of its steps.
    """
    console = Console(stderr=True, emoji=False)
    progress = Progress(console=console, disable=not console.is_terminal, transient=True)
    task = progress.add_task("building", total=None)

    def say_between(line: str) -> None:
        progress.stop()
        say(line)

    def show(phase: str, done: int, steps: int) -> None:
        progress.start()
        progress.update(task, description=phase, completed=done, total=steps)

    try:
        yield say_between, show
    finally:
        progress.stop()


def _measured(now: "TrainingProgress") -> Iterator[str]:
    if now.psnr_y is not None:
        yield f"{now.psnr_y:.2f} dB"
    yield f"loss {now.values.get('loss', float('nan')):.4f}"
    if "D(real)" in now.values:
        yield f"D {now.values['D(real)']:.2f}/{now.values['D(fake)']:.2f}"
    yield f"{now.steps_per_second:.1f} steps/s"
