"""Show how far the current job is: a live bar in a terminal, a line a minute without one.

A video is counted in frames, a still image in tiles, and images that several workers make together
as such. The name is cut to the room that the bar leaves, however narrow the terminal is.
"""

import time

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from srgan_edge.errors import printable

SECONDS_BETWEEN_LINES = 60
"""Without a terminal: a log should have a line for every minute, not for every frame."""

BAR_CELLS = 20

_OTHERS_CELLS = {"frames": 58, "images": 62, "tiles": 47}
"""Room for the bar, counts, speed (not of tiles) and time left, with the gaps between."""
_SHORTEST_NAME_CELLS = 4
_GAP_CELLS = 4
"""Gaps beside the place and the speeds of workers."""
_NARROW_CELLS = 60
"""In a narrower terminal there is neither speed nor time left."""


class JobBar:
    """Shows the name, count and speed of one job after another."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console, self._quiet = console, quiet
        speed_and_time = (_FpsColumn(), TimeRemainingColumn(True, elapsed_when_finished=True))
        self._progress = Progress(
            _NameColumn(console),
            BarColumn(BAR_CELLS),
            TextColumn("{task.fields[count]}"),
            *(speed_and_time if console.width >= _NARROW_CELLS else ()),
            _WorkersColumn(console),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self._task = TaskID(0)
        self._name, self._place, self._unit = "", "", "frames"
        self._began_at = self._last_line = time.monotonic()
        self._begun_with = 0
        self._workers: tuple[str, ...] = ()

    def begin(self, name: str, place: str, total: int | None, done: int, unit: str) -> None:
        """Show another job instead of the one before.

        Args:
            place: its place among the jobs, such as `3 of 400`; empty if it is the only one.
            total: frames or tiles to expect; None: unknown.
            done: how many of them an earlier run did.
            unit: `frames`, `images` or `tiles`.
        """
        self.end()  # also that of the same job, which may start over
        self._name, self._place, self._unit = name, place, unit
        self._began_at = self._last_line = time.monotonic()
        self._begun_with, self._workers = done, ()
        self._task = self._progress.add_task(
            name,
            total=total,
            completed=done,
            place=place,
            unit=unit,
            count=_count(done, total, unit),
            workers=(),
        )
        self._progress.start()

    def show(self, done: int, total: int | None) -> None:
        """Show how many of how many frames or tiles are done; without a terminal, now and then."""
        if not self._progress.disable:
            count = _count(done, total, self._unit)
            # The bar of a single tile would stay empty to its end: one that moves tells more.
            shown = None if self._unit == "tiles" and total == 1 else total
            self._progress.update(self._task, total=shown, completed=done, count=count)
        elif not self._quiet and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._console.print(escape(self._line(done, total)), soft_wrap=True)

    def workers_at(self, *texts: str) -> None:
        """Show with the next count how fast workers are: the first text that there is room for."""
        self._workers = texts
        if not self._progress.disable:
            self._progress.update(self._task, workers=texts)

    def end(self) -> None:
        """Remove the bar."""
        self._progress.stop()  # if it is left running, the cursor stays hidden
        for task in self._progress.task_ids:
            self._progress.remove_task(task)

    def _line(self, done: int, total: int | None) -> str:
        name = printable(self._name)
        parts = [f"{self._place}, {name}" if self._place else name]
        parts[0] += f": {_count(done, total, self._unit)}"
        speed = (done - self._begun_with) / max(time.monotonic() - self._began_at, 1e-6)
        if self._unit != "tiles":
            parts.append(_speed(speed, self._unit))
        if total is not None and speed > 0:
            parts.append(f"{max(0.0, total - done) / speed / 60:.0f} min left")
        if self._workers:
            parts.append(self._workers[0])
        return ", ".join(parts)


def shortened(text: str, cells: int, mark: str = "…") -> str:
    """Return `text` in at most `cells` columns of a terminal; a longer one loses its middle.

    The end stays, where names differ and have their suffix.
    """
    if cell_len(text) <= cells:
        return text
    room = max(0, cells - cell_len(mark))
    return f"{_fitting(text, room - room // 2)}{mark}{_fitting(text[::-1], room // 2)[::-1]}"


def _fitting(text: str, cells: int) -> str:
    """Return the longest beginning that fits into `cells` columns."""
    end = taken = 0
    for character in text:
        taken += cell_len(character)
        if taken > cells:
            break
        end += 1
    return text[:end]


def _count(done: int, total: int | None, unit: str) -> str:
    if unit == "tiles" and total in (None, 1):
        return ""
    return f"{done}/{'?' if total is None else total} {unit}"


def _speed(per_second: float, unit: str) -> str:
    return f"{per_second:.1f} {'fps' if unit == 'frames' else f'{unit}/s'}"


class _NameColumn(ProgressColumn):
    """The place among the jobs and the name, as long as there is room."""

    max_refresh = 0.5

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def render(self, task: Task) -> Text:
        place = f"{task.fields['place']}  " if task.fields["place"] else ""
        mark = "..." if self._console.options.ascii_only else "…"
        room = self._console.width - _OTHERS_CELLS[task.fields["unit"]] - len(place)
        room = max(_SHORTEST_NAME_CELLS, room)
        return Text(place + shortened(printable(task.description), room, mark), no_wrap=True)


class _WorkersColumn(ProgressColumn):
    """The speeds of workers, in the room that the whole name leaves."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def render(self, task: Task) -> Text:
        name = cell_len(printable(task.description)) + len(task.fields["place"])
        room = self._console.width - _OTHERS_CELLS[task.fields["unit"]] - name - _GAP_CELLS
        texts = map(printable, task.fields["workers"])
        return Text(next((it for it in texts if cell_len(it) <= room), ""), no_wrap=True)


class _FpsColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.speed or task.finished_speed
        if speed is None or task.fields["unit"] == "tiles":
            return Text("")
        return Text(_speed(speed, task.fields["unit"]), style="cyan")
