"""The results of jobs, and reporters that show them while a command runs.

People get a progress bar, or a line a minute, on stderr (`bar`). Machines get one JSON
object a line on stdout. Errors go to stderr in either case.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from srgan_edge.errors import InputDamaged, SrganEdgeError, print_error, printable
from srgan_edge.jobs.bar import JobBar
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.video.color import MATRICES
from srgan_edge.video.frame import Notes, VideoInfo

_FEW_WORKERS = 4
"""Workers that a line names; of more, it has the slowest and the fastest."""


@dataclass(frozen=True)
class WorkerShare:
    """The part of a video that one of several workers made in this run."""

    worker: str
    """Its name."""
    frames: int = 0
    seconds: float = 0.0
    """Time that it worked on them, from decoding to encoding."""

    @property
    def frames_per_second(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0

    def __add__(self, other: "WorkerShare") -> "WorkerShare":
        seconds = self.seconds + other.seconds
        return WorkerShare(self.worker, self.frames + other.frames, seconds)


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
    frames_reused: int = 0
    """Frames of this run that show the same as the one before and were not computed again."""
    frames_repeated: int = 0
    """Frames of this run that nearly repeat an earlier one and were made of its result."""
    tiles: int = 0
    """Tiles of the frames of this run; 0 if the frames stayed on the GPU."""
    tiles_reused: int = 0
    """Tiles of this run that were the same in the frame before and were not computed again."""
    workers: list[WorkerShare] = field(default_factory=list)
    """The part that each of several workers made; empty if one engine made all."""

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
    worker: str = ""
    """Name of the worker that made an image; empty if there are none."""

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

    def began(self, text: str, made_by: Mapping[str, Any], jobs: int) -> None:
        """Report the open engine and the number of jobs.

        Args:
            text: a summary of the engine.
            made_by: all that determines the pixels, as JSON values.
        """
        ...

    def note(self, text: str) -> None:
        """Report a remark about the current or the next job, such as what was left out."""
        ...

    def started(self, job: Job, frames: int | None, done: int = 0) -> None:
        """Report the start of a job of `frames` frames (None: unknown), `done` of them done."""
        ...

    def frame_done(self) -> None: ...

    def tiles_done(self, done: int, total: int) -> None:
        """Report how many tiles of a still image are done; the total grows if they get smaller."""
        ...

    def images_done(self, done: int, total: int) -> None:
        """Report how many images are done of those that several workers make at once.

        Their `started` and `ended` come in order, after the images before them. Ends with `total`.
        """
        ...

    def workers_at(self, recent: Sequence[WorkerShare]) -> None:
        """Report what each of several workers made lately, of the current video or the images."""
        ...

    def ended(self, outcome: Outcome) -> None: ...

    def closed(self, outcomes: list[Outcome]) -> None:
        """Report the end of all jobs."""
        ...


class Unheard:
    """Passes over every event; derived ones override those that they look at."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def began(self, text: str, made_by: Mapping[str, Any], jobs: int) -> None: ...

    def note(self, text: str) -> None: ...

    def started(self, job: Job, frames: int | None, done: int = 0) -> None: ...

    def frame_done(self) -> None: ...

    def tiles_done(self, done: int, total: int) -> None: ...

    def images_done(self, done: int, total: int) -> None: ...

    def workers_at(self, recent: Sequence[WorkerShare]) -> None: ...

    def ended(self, outcome: Outcome) -> None: ...

    def closed(self, outcomes: list[Outcome]) -> None: ...


class Heard(Unheard):
    """Keeps all notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Forwarding:
    """Passes every event on to another reporter; derived ones override what they look at."""

    def __init__(self, shown: Reporter) -> None:
        self._shown = shown

    def __enter__(self) -> Self:
        self._shown.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._shown.__exit__(*exception)

    def began(self, text: str, made_by: Mapping[str, Any], jobs: int) -> None:
        self._shown.began(text, made_by, jobs)

    def note(self, text: str) -> None:
        self._shown.note(text)

    def started(self, job: Job, frames: int | None, done: int = 0) -> None:
        self._shown.started(job, frames, done)

    def frame_done(self) -> None:
        self._shown.frame_done()

    def tiles_done(self, done: int, total: int) -> None:
        self._shown.tiles_done(done, total)

    def images_done(self, done: int, total: int) -> None:
        self._shown.images_done(done, total)

    def workers_at(self, recent: Sequence[WorkerShare]) -> None:
        self._shown.workers_at(recent)

    def ended(self, outcome: Outcome) -> None:
        self._shown.ended(outcome)

    def closed(self, outcomes: list[Outcome]) -> None:
        self._shown.closed(outcomes)


class TerminalReporter:
    """Shows progress to a person; with `quiet`, only errors."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False, emoji=False)
        self._quiet = quiet
        self._bar = JobBar(self._console, quiet=quiet)
        self._jobs, self._number = 1, 1
        self._frames: int | None = None
        self._done, self._counts_tiles = 0, False
        self._together = False
        """Several images are in work, and the bar is that of all."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.end()

    def began(self, text: str, made_by: Mapping[str, Any], jobs: int) -> None:
        self._jobs = jobs
        self.note(text)

    def note(self, text: str) -> None:
        if not self._quiet:
            self._console.print(f"[dim]{escape(printable(text))}[/]", soft_wrap=True)

    def started(self, job: Job, frames: int | None, done: int = 0) -> None:
        if self._together:
            return
        self._frames, self._done = frames, done
        place = f"{self._number} of {self._jobs}" if self._jobs > 1 else ""
        self._counts_tiles = job.kind == "image" and frames == 1
        total, unit = (None, "tiles") if self._counts_tiles else (frames, "frames")
        self._bar.begin(job.source.name, place, total, done, unit)

    def frame_done(self) -> None:
        self._done += 1
        if not (self._counts_tiles or self._together):
            self._bar.show(self._done, self._frames)

    def tiles_done(self, done: int, total: int) -> None:
        self._bar.show(done, total)

    def images_done(self, done: int, total: int) -> None:
        if not self._together:
            self._bar.begin(f"{total} images", "", total, done, "images")
        self._together = done < total
        self._bar.show(done, total)
        if not self._together:
            self._bar.end()

    def workers_at(self, recent: Sequence[WorkerShare]) -> None:
        self._bar.workers_at(*_speeds(recent))

    def ended(self, outcome: Outcome) -> None:
        self._number += 1
        if not self._together:
            self._bar.end()
        if outcome.error is not None:
            print_error(outcome.error)
        elif not self._quiet:
            self._console.print(_closing_line(outcome), soft_wrap=True)

    def closed(self, outcomes: list[Outcome]) -> None:
        """Print a summary of the failures if any of several files failed."""
        failed = [(outcome, outcome.error) for outcome in outcomes if outcome.error is not None]
        if not failed or len(outcomes) == 1 or self._quiet:
            return  # each file already has its line
        title = f"{len(failed)} of {len(outcomes)} failed"
        if not self._console.is_terminal:  # a line each, which programs can read
            self._console.print(f"{title}:")
            for outcome, error in failed:
                line = f"exit {error.exit_code}: {_with_name(outcome, error)}"
                self._console.print(escape(printable(line)), soft_wrap=True)
            return
        table = Table("exit", "file", "reason", title=title)
        for outcome, error in failed:
            path, reason = printable(str(outcome.job.source)), printable(str(error))
            table.add_row(str(outcome.exit_code), escape(path), escape(reason))
        self._console.print(table)


class JsonReporter:
    """Writes a JSON object per line: `event` is began, note, started, progress, ended or closed."""

    PROGRESS_SECONDS = 1.0

    def __init__(self) -> None:
        self._frames, self._last = 0, 0.0
        self._together = False
        """Several images are in work."""
        self._workers: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def began(self, text: str, made_by: Mapping[str, Any], jobs: int) -> None:
        _emit("began", text=text, made_by=made_by, jobs=jobs)

    def note(self, text: str) -> None:
        _emit("note", text=text)

    def started(self, job: Job, frames: int | None, done: int = 0) -> None:
        if not self._together:
            self._frames, self._last, self._workers = done, time.monotonic(), {}
        _emit("started", source=str(job.source), target=str(job.target), frames=frames, done=done)

    def frame_done(self) -> None:
        self._frames += 1
        if not self._together:
            self._progress(frames=self._frames)

    def tiles_done(self, done: int, total: int) -> None:
        self._progress(frames=self._frames, tiles=done, tiles_expected=total)

    def images_done(self, done: int, total: int) -> None:
        if not self._together:
            self._last, self._workers = time.monotonic(), {}
        self._together = done < total
        self._progress(images=done, images_expected=total)

    def workers_at(self, recent: Sequence[WorkerShare]) -> None:
        self._workers = {it.worker: round(it.frames_per_second, 2) for it in recent}

    def ended(self, outcome: Outcome) -> None:
        _emit("ended", **outcome.record())
        if outcome.error is not None:
            print_error(outcome.error)

    def closed(self, outcomes: list[Outcome]) -> None:
        _emit("closed", exit_code=max((outcome.exit_code for outcome in outcomes), default=0))

    def _progress(self, **numbers: int) -> None:
        now = time.monotonic()
        if now - self._last >= self.PROGRESS_SECONDS:
            self._last = now
            workers = {"workers": self._workers} if self._workers else {}
            _emit("progress", **numbers, **workers)


def _with_name(outcome: Outcome, error: SrganEdgeError) -> str:
    """Return an error's text, behind the name of its file if that is not in it."""
    name, text = printable(str(outcome.job.source)), printable(str(error))
    return text if name in text else f"{name}: {text}"


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


def remarks_on(info: VideoInfo, options: Options) -> Iterator[str]:
    """Yield remarks on what the video's own properties leave uncertain."""
    if info.interlaced and not options.deinterlace:
        yield "interlaced; its fields are upscaled together, as one image: try --deinterlace"
    if not info.states_length:
        yield "states no length: whether its end is missing is unknown"
    if info.color.assumed:
        matrix, *_ = MATRICES[info.color.matrix]
        span = "full" if info.color.full_range else "limited"
        yield f"states no color {' and '.join(info.color.assumed)}: taken as {matrix}, {span}"


def shared_by(shares: Sequence[WorkerShare], unit: str = "fps") -> str:
    """Return a line with the speeds of workers: of all if they are few, else of the ends."""
    count = f"{len(shares)} workers" if len(shares) > 1 else "one worker"
    if len(shares) <= _FEW_WORKERS:
        return f"made by {count}: {', '.join(_speed_of(it, unit) for it in shares)}"
    slowest, *_, fastest = sorted(shares, key=lambda it: it.frames_per_second)
    return f"made by {count}, from {_speed_of(slowest, unit)} to {_speed_of(fastest, unit)}"


def _speeds(recent: Sequence[WorkerShare]) -> tuple[str, str]:
    """Return the speeds of workers: of each if they are few, and only the slowest and fastest."""
    ends = sorted(recent, key=lambda it: it.frames_per_second)
    short = f"{ends[0].frames_per_second:.1f} to {ends[-1].frames_per_second:.1f} each"
    if len(recent) > _FEW_WORKERS:
        return f"{short} of {len(recent)}", short
    return ", ".join(f"{it.frames_per_second:.1f} by {it.worker}" for it in recent), short


def _speed_of(share: WorkerShare, unit: str) -> str:
    return f"{share.frames_per_second:.1f} {unit} by {share.worker}"


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
        packets = "1 packet" if notes.doubtful == 1 else f"{notes.doubtful} packets"
        yield f"{packets} may lack a part: marked as cut short or interrupted"
    if notes.gaps:
        more = f" and {notes.gaps - 1} more times" if notes.gaps > 1 else ""
        yield f"has no frames from {notes.first_gap}{more}"
    if early := float(notes.early_seconds):
        yield f"FFmpeg hides the frame within which its edit list begins: video {early:.2f} s early"
    if notes.overlapping:
        yield f"{notes.overlapping} packets of audio began before the one before: left out"
    if notes.untimed:
        yield f"{notes.untimed} frames had no time and were spaced by their period"
    if moved := notes.nudged + packets_nudged:
        yield f"{moved} frames or packets shared a time with the one before and moved behind it"
