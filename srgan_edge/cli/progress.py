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
from srgan_edge.jobs.bar import SECONDS_BETWEEN_LINES

if TYPE_CHECKING:  # which needs torch
    from srgan_edge.train.session import Progress as TrainingProgress


class LiveLine:
    """Phase, step, losses, PSNR-Y, speed and time left on stderr; before that, the preparation."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=None, count="", measured="")
        self._measured: list[str] = []
        self._last_line, self._last_work = 0.0, ""

    def show(self, now: "TrainingProgress") -> None:
        """Show the state of the run; between two logged steps, with the losses of the last one."""
        if now.values:
            self._measured = list(_measured(now))
        measured = [*self._measured, f"{now.steps_per_second:.1f} steps/s"]
        self._show(now.phase, now.step, now.steps, measured)

    def show_preparation(self, work: str, done: int, total: int) -> None:
        """Show how many of how many photographs some work before the first step has done."""
        if work != self._last_work:
            self._last_work, self._last_line = work, 0.0
        self._show(work, done, total, [])

    def _show(self, what: str, done: int, total: int, measured: list[str]) -> None:
        """Show a line; without a terminal, the first and last of some work, and one a minute."""
        count, numbers = f"{done:,}/{total:,}", "  ".join(measured)
        if self._progress.console.is_terminal:
            self._progress.update(
                self._task,
                description=what,
                completed=done,
                total=total,
                count=count,
                measured=numbers,
            )
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES or done == total:
            self._last_line = time.monotonic()
            self.say(f"{what} {count}  {numbers}".rstrip())

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
        TextColumn("{task.fields[count]}  {task.fields[measured]}"),
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
