"""The results of jobs, and reporters that show them while a command runs.

People get a progress bar with frames per second and the time left on stderr. Machines get one JSON
object a line on stdout. Errors go to stderr in either case.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from srgan_edge.errors import InputDamaged, SrganEdgeError, print_error, printable
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.video.color import MATRICES
from srgan_edge.video.frame import Notes, VideoInfo


@dataclass(frozen=True)
class VideoResult:
    """Facts about an upscaled video that can be checked.

    Frames and packets of a file were compared with those of the input; those of a pipe or a live
    source were only counted.
    """

    saved_as: str
    """Path of the result: the target, or `NAME.partial.EXT` if only a part could be saved."""
    frames: int
    """Frames in the result: those of the input, except dropped ones and those lost to damage."""
    size: tuple[int, int]
    """Width and height of the result in pixels."""
    frames_resumed: int
    """Frames that an earlier run upscaled."""
    frames_untimed: int
    """Frames that had no timestamp and were spaced by their period."""
    frames_nudged: int
    """Frames that had the timestamp of the frame before and were moved just behind it."""
    packets_copied: int
    """Packets of audio and subtitles."""
    packets_nudged: int
    """Copied packets that had the timestamp of the packet before and were moved by one tick."""
    frames_concealed: int
    """Frames that could not be decoded and show another frame instead."""
    left_out: list[str]
    """Streams and metadata of the input that the result's codec or container cannot hold."""
    packets_refused: int = 0
    """Packets of audio and subtitles too damaged for the container, which the result lacks."""
    frames_dropped: int = 0
    """Frames of a live source that were skipped in favor of newer ones."""

    def record(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self) | {"size": "{}x{}".format(*self.size)}


class VideoDamaged(InputDamaged):
    """The input is damaged, but there is a result."""

    def __init__(self, line: str, video: VideoResult) -> None:
        super().__init__(line)
        self.video = video


@dataclass(frozen=True)
class Outcome:
    """The outcome of one job."""

    job: Job
    frames: int = 0
    seconds: float = 0.0
    size: str = ""
    """Size of the result, for example `1280x720`."""
    tiles_redone: int = 0
    """Tiles that were not finite in the engine's precision and were recomputed in FP32."""
    error: SrganEdgeError | None = None
    skipped: bool = False
    video: VideoResult | None = None
    """Facts about the video, if there is a result, even a partial one."""

    @property
    def exit_code(self) -> int:
        return 0 if self.error is None else self.error.exit_code

    @property
    def frames_per_second(self) -> float:
        """Speed of this run; frames that an earlier run upscaled do not count."""
        done = self.frames - (self.video.frames_resumed if self.video else 0)
        return done / self.seconds if self.seconds else 0.0

    def record(self) -> dict[str, Any]:
        """Return the fields shared by the report and the `ended` event, as JSON values."""
        return {
            "source": str(self.job.source),
            "target": str(self.job.target),
            "exit_code": self.exit_code,
            "error": None if self.error is None else str(self.error),
            "skipped": self.skipped,
            "frames": self.frames,
            "seconds": round(self.seconds, 3),
            "size": self.size,
            "tiles_redone": self.tiles_redone,
        }


class Reporter(Protocol):
    """Receives the events of a run. Use it in a `with` statement, which restores the terminal."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def began(self, text: str, made_by: Mapping[str, Any]) -> None:
        """Report the open engine: a summary, and all that determines the pixels as JSON values."""
        ...

    def note(self, text: str) -> None:
        """Report a remark about the current or the next job, such as what was left out."""
        ...

    def started(self, job: Job, frames: int | None, done: int = 0) -> None:
        """Report the start of a job of `frames` frames (None: unknown), `done` of them done."""
        ...

    def frame_done(self) -> None: ...

    def ended(self, outcome: Outcome) -> None: ...

    def closed(self, outcomes: list[Outcome]) -> None:
        """Report the end of all jobs."""
        ...


class TerminalReporter:
    """Shows a live progress bar for a person; with `quiet`, only errors."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _FpsColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
            transient=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()  # if it is left running, the cursor stays hidden

    def began(self, text: str, made_by: Mapping[str, Any]) -> None:
        self.note(text)

    def note(self, text: str) -> None:
        if not self._quiet:
            self._console.print(f"[dim]{escape(printable(text))}[/]", soft_wrap=True)

    def started(self, job: Job, frames: int | None, done: int = 0) -> None:
        self._remove_bars()  # of the same job, which may start over
        name = escape(printable(job.source.name))
        self._task = self._progress.add_task(name, total=frames, completed=done)
        self._progress.start()

    def frame_done(self) -> None:
        self._progress.advance(self._task)

    def ended(self, outcome: Outcome) -> None:
        self._progress.stop()
        self._remove_bars()
        if outcome.error is not None:
            print_error(outcome.error)
        elif not self._quiet:
            self._console.print(_closing_line(outcome), soft_wrap=True)

    def closed(self, outcomes: list[Outcome]) -> None:
        """Print a table of the failures if any of several files failed."""
        failed = [outcome for outcome in outcomes if outcome.error is not None]
        if not failed or len(outcomes) == 1 or self._quiet or not self._console.is_terminal:
            return  # each file already has its line
        table = Table("exit", "file", "reason", title=f"{len(failed)} of {len(outcomes)} failed")
        for outcome in failed:
            path, reason = printable(str(outcome.job.source)), printable(str(outcome.error))
            table.add_row(str(outcome.exit_code), escape(path), escape(reason))
        self._console.print(table)

    def _remove_bars(self) -> None:
        for task in self._progress.task_ids:
            self._progress.remove_task(task)


class JsonReporter:
    """Writes a JSON object per line: `event` is began, note, started, progress, ended or closed."""

    PROGRESS_SECONDS = 1.0

    def __init__(self) -> None:
        self._frames, self._last = 0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def began(self, text: str, made_by: Mapping[str, Any]) -> None:
        _emit("began", text=text, made_by=made_by)

    def note(self, text: str) -> None:
        _emit("note", text=text)

    def started(self, job: Job, frames: int | None, done: int = 0) -> None:
        self._frames, self._last = done, time.monotonic()
        _emit("started", source=str(job.source), target=str(job.target), frames=frames, done=done)

    def frame_done(self) -> None:
        self._frames += 1
        now = time.monotonic()
        if now - self._last >= self.PROGRESS_SECONDS:
            self._last = now
            _emit("progress", frames=self._frames)

    def ended(self, outcome: Outcome) -> None:
        _emit("ended", **outcome.record())
        if outcome.error is not None:
            print_error(outcome.error)

    def closed(self, outcomes: list[Outcome]) -> None:
        _emit("closed", exit_code=max((outcome.exit_code for outcome in outcomes), default=0))


def _closing_line(outcome: Outcome) -> str:
    target = escape(printable(str(outcome.job.target)))
    if outcome.skipped:
        return f"[yellow]kept[/] {target} (exists; --overwrite replaces it)"
    redone = f"; {outcome.tiles_redone} tiles in FP32" if outcome.tiles_redone else ""
    if outcome.job.kind == "image":
        return f"[green]wrote[/] {target}  {outcome.size}, {outcome.seconds:.2f} s{redone}"
    return (
        f"[green]wrote[/] {target}  {outcome.size}, {outcome.frames} frames, "
        f"{outcome.seconds:.1f} s, {outcome.frames_per_second:.1f} fps{redone}"
    )


def _emit(event: str, **fields: Any) -> None:  # noqa: ANN401 - JSON values
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


class _FpsColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.speed or task.finished_speed
        return Text("" if speed is None else f"{speed:.1f} fps", style="cyan")


def remarks_on(info: VideoInfo, options: Options) -> Iterator[str]:
    """Yield remarks on what the video's own properties leave uncertain."""
    if info.interlaced and not options.deinterlace:
        yield "interlaced; its fields are upscaled together, as one image: try --deinterlace"
    if not info.states_length:
        yield "transport and program streams state no length: whether its end is missing is unknown"
    if info.color.assumed:
        matrix, *_ = MATRICES[info.color.matrix]
        span = "full" if info.color.full_range else "limited"
        yield f"states no color {' and '.join(info.color.assumed)}: taken as {matrix}, {span}"


def remarks_after(
    info: VideoInfo, notes: Notes, options: Options, packets_nudged: int
) -> Iterator[str]:
    """Yield remarks on changed colors and times, and on what only the whole video reveals."""
    if notes.recolored:
        yield f"colors change from {notes.recolored}; all are written as the first"
    if notes.reshaped:
        yield f"pixel aspect ratio changes from {notes.reshaped}; the result has the first"
    for lost in notes.unkept:
        if lost not in info.unkept:
            yield f"left out: {lost}"
    if notes.interlaced and not (info.interlaced or options.deinterlace):
        yield f"{notes.interlaced} of its frames are interlaced: try --deinterlace"
    if notes.doubtful:
        yield f"{notes.doubtful} packets may lack a part: the count in the stream is interrupted"
    if notes.gaps:
        more = f" and {notes.gaps - 1} more times" if notes.gaps > 1 else ""
        yield f"has no frames from {notes.first_gap}{more}"
    if notes.untimed:
        yield f"{notes.untimed} frames had no time and were spaced by their period"
    if moved := notes.nudged + packets_nudged:
        yield f"{moved} frames or packets shared a time with the one before and moved behind it"
