"""Segments of one video, made by many workers and entered into the journal in order.

The driver is the process of the command: it plans, keeps the journal, joins and checks. Workers get
numbers of segments and return files; frames never travel. Nothing here knows where workers run: a
crew does.

A frame at the border of two segments is decoded for both. Its pixels have to be the same in both,
so that what workers read from keyframes on is shown to be the video that one reader would have
decoded; where it is not, all read the file from its start.

A worker without work makes what another one has queued or is late with. The first to finish wins,
as both results have the same bytes.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from math import inf
from operator import add
from pathlib import Path
from secrets import token_hex
from statistics import median
from time import monotonic
from typing import Any, Protocol, Self, TypeGuard

from srgan_edge.errors import (
    EngineLost,
    InputDamaged,
    InputRefused,
    OutputFailed,
    ResourcesExhausted,
)
from srgan_edge.files import sha256_of
from srgan_edge.isolation.child import ChildFailed
from srgan_edge.jobs.plan import Options
from srgan_edge.jobs.reporters import WorkerShare
from srgan_edge.transcode.outage import Place, were_away
from srgan_edge.transcode.recipe import Made, Saved
from srgan_edge.transcode.work_folder import WorkFolder
from srgan_edge.upscaler import FrameUpscaler
from srgan_edge.video.frame import Frame, Notes

IN_FLIGHT = 2
"""Segments that a worker has at once: one that it makes, and the next one."""

AHEAD = 4
"""Segments for each worker, made or in the making, behind the first that is missing. They are what
a kill of the driver can cost."""

LATE = 1.5
"""A worker is late with a segment after so many times the median time that segments take."""

RECENT = 4
"""Segments, or images, by which the speed of a worker is shown during the work."""

MOST_FAILURES = 2
"""Times that a segment is given to another worker because the one before failed."""


@dataclass(frozen=True)
class Order:
    """One video, as workers have to know it."""

    source: str
    """Absolute path of the input."""
    content_sha256: str
    """See `files.content_sha256`."""
    options: Options
    length: int
    """Frames in a segment."""
    tiles: str
    """The tiles of a frame, which memory may decide."""


@dataclass(frozen=True)
class Task:
    """One segment to be made."""

    run: str
    """Differs between the videos of a command, and after a change of plan for one."""
    order: Order
    number: int
    """From 0 in the video."""
    file: str
    """Absolute path of the file to be written."""
    seeks: bool
    """The file may be read from a keyframe on; otherwise from its start."""
    first_pts: int | None = None
    """Expected time of the first frame in ticks, if it `seeks`."""
    next_pts: int | None = None
    """Expected time of the frame behind the segment; None: it is the last one."""

    def discard(self) -> None:
        Path(self.file).unlink(missing_ok=True)


@dataclass(frozen=True)
class MadeSegment:
    """The answer to a task."""

    number: int
    pts: list[int]
    """Timestamps of the frames in ticks; empty: the video ends before this segment."""
    durations: list[int]
    reorder: int
    sha256: str
    """SHA-256 of the file."""
    first_sha256: str
    """Hash of the first frame before it was upscaled."""
    next_sha256: str
    """The same of the frame behind the segment; empty: there is none."""
    ended: bool
    """The video ends with this segment, or before it."""
    inexact: str
    """Why the segment cannot be taken for what one reader would have decoded; empty: it can."""
    damaged: str
    """The error with which reading ended; empty: there was none."""
    decoder_ended: bool
    """The error is one of the decoder, which crashed or hung."""
    notes: Notes
    saved: Saved
    seconds: float
    said: list[str] = field(default_factory=list)
    """Lines for the user."""


class WorkerLost(Exception):
    """A worker ended without an answer. The message completes "the worker ..."."""


class Work(Protocol):
    """A task of a worker: a segment, or several images."""

    @property
    def run(self) -> str:
        """Differs between those who give tasks: an answer may come when they are gone."""
        ...

    def discard(self) -> None:
        """Remove the files that were made."""
        ...


Answer = tuple[int, Work, Any]
"""A worker, its task, and the result (as `MadeSegment`), or the `SrganEdgeError` or `WorkerLost`
why there is none."""


class Crew(Protocol):
    """Workers with engines, each with a number from 0. They are ready and of one kind.

    Use it in a `with`, which ends them.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    @property
    def present(self) -> Sequence[int]:
        """Numbers of the workers that there are; those that are lost for good are not."""
        ...

    def name(self, worker: int) -> str:
        """Return the name of a worker, for people."""
        ...

    def tasks(self, worker: int) -> Sequence[Work]:
        """Return the unanswered tasks of a worker; the first one is in progress."""
        ...

    def give(self, worker: int, task: Work) -> None:
        """Queue a task for a worker."""
        ...

    def wait(self, seconds: float | None) -> Answer | None:
        """Wait for one answer, at most `seconds`; return None if there was none.

        The file of a segment lies where the task named it.
        """
        ...

    def replace(self, worker: int) -> None:
        """Start another worker, without tasks, in the place of one.

        Where none can start, it is not `present` any more.

        Raises:
            SrganEdgeError: it does not start, or is of another kind.
        """
        ...


def frame_sha256(frame: Frame) -> str:
    """Return a hash of the time and the pixels of a frame."""
    digest = hashlib.sha256(str(frame.pts).encode())
    for pixels in (frame.pixels, frame.deep):
        if pixels is not None:
            digest.update(pixels.tobytes())
    return digest.hexdigest()


def tiles_of(upscaler: FrameUpscaler, width: int, height: int) -> str:
    """Describe how frames of a size in pixels are cut."""
    plan, batch = upscaler.plan(width, height)
    return f"{len(plan.tiles)} tiles of {'{}x{}'.format(*plan.window_size)} px, {batch} a call"


class Shares:
    """The segments, or images, that each worker has made."""

    def __init__(self) -> None:
        self._totals: dict[str, WorkerShare] = {}
        self._latest: dict[str, deque[WorkerShare]] = {}

    def add(self, share: WorkerShare) -> None:
        """Count another segment or image."""
        worker = share.worker
        self._totals[worker] = self._totals.get(worker, WorkerShare(worker)) + share
        self._latest.setdefault(worker, deque(maxlen=RECENT)).append(share)

    @property
    def totals(self) -> list[WorkerShare]:
        """All that each worker has made, in the order of their first ones."""
        return list(self._totals.values())

    @property
    def recent(self) -> list[WorkerShare]:
        """The latest that each worker has made, by their names."""
        return [reduce(add, made) for _, made in sorted(self._latest.items())]


def free_worker(crew: Crew) -> int | None:
    """Return the worker with the fewest tasks; None if all have `IN_FLIGHT`."""
    worker = min(crew.present, key=lambda it: len(crew.tasks(it)))
    return worker if len(crew.tasks(worker)) < IN_FLIGHT else None


def double_late(
    crew: Crew,
    late: Callable[[], Iterable[tuple[float, int]]],
    give: Callable[[int, int], None],
) -> float | None:
    """Give work that is late elsewhere to workers that have none.

    Args:
        late: returns the seconds until each piece of work is late, and its number.
        give: gives a worker the work with a number.

    Returns:
        Seconds until a worker without work may double what another one is late with; None: there
        is no such worker.
    """
    idle = [worker for worker in crew.present if not crew.tasks(worker)]
    latest = sorted(late()) if idle else []
    for worker, (seconds, number) in zip(idle, latest, strict=False):
        if seconds > 0:
            return None if seconds == inf else seconds
        give(worker, number)
    return None


class Fanout:
    """Makes the segments of one video that are missing, once, by `run`.

    Args:
        borders: times of the first frames of all segments in ticks, by the packets of the file;
            empty: workers read it from its start.
        expected: number of frames of the video, if that is known.
        places: folders that the work depends on, of the result and of the input.
        on_frame: called for each frame that is in the journal.
        say: called with lines for the user.
        clock: returns seconds.
        on_speeds: called with what each worker made lately.
    """

    def __init__(
        self,
        crew: Crew,
        order: Order,
        borders: Sequence[int],
        expected: int | None,
        work: WorkFolder,
        places: Sequence[Place],
        on_frame: Callable[[], None],
        say: Callable[[str], None],
        clock: Callable[[], float] = monotonic,
        on_speeds: Callable[[Sequence[WorkerShare]], None] = lambda recent: None,
    ) -> None:
        self._on_speeds, self._shares = on_speeds, Shares()
        self._crew, self._order, self._work, self._places = crew, order, work, places
        self._on_frame, self._say, self._clock = on_frame, say, clock
        self._borders, self._run = borders, token_hex(4)
        self._count = len(borders) or -(-(expected or 1) // order.length)
        """Segments that are expected."""
        self._last: int | None = None
        """The last segment, once that is known."""
        self._begun: dict[int, float] = {}
        """When each worker began what it works on."""
        self._seconds: list[float] = []
        """Seconds that segments took."""
        self._failures: Counter[int] = Counter()
        self._waiting: dict[int, tuple[MadeSegment, Path]] = {}
        self._border_sha256 = work.border_sha256()
        """Hash of the frame with which the next segment has to begin; empty: not known."""
        self._entered: list[MadeSegment] = []
        self._damaged: InputDamaged | None = None
        self._excused: set[str] = set()
        """Files of tasks that were in work while a folder was away."""

    def run(self) -> Made:
        """Return once all segments are in the journal.

        Raises:
            OutputFailed: the disk failed, or workers decode different frames.
            ResourcesExhausted: workers were lost too often.
            SrganEdgeError: a worker reported it.
        """
        while not self._is_complete():
            if (answered := self._crew.wait(self._hand_out())) is None:
                continue
            worker, task, answer = answered
            self._begun[worker] = self._clock()
            if isinstance(answer, WorkerLost | EngineLost):
                self._crew.replace(worker)
            if not self._is_wanted(task):
                task.discard()
            elif isinstance(answer, MadeSegment):
                self._take(answer, task, self._crew.name(worker))
            else:
                task.discard()
                self._refuse_hopeless(task, answer)
            self._enter()
        made = self._entered
        return Made(
            self._damaged,
            _merged([it.notes for it in made]),
            reduce(add, (it.saved for it in made), Saved()),
            tuple(self._shares.totals),
        )

    def _is_complete(self) -> bool:
        return self._last is not None and self._work.segments > self._last

    def _hand_out(self) -> float | None:
        """Give segments to workers that have too few, the first that are missing first.

        Returns:
            As `double_late` does.
        """
        if not self._crew.present:
            raise ResourcesExhausted("no worker is left; the same command goes on from there")
        for number in self._missing(self._in_work()):
            worker = free_worker(self._crew)
            if worker is None:
                return None
            self._give(worker, number)
        return double_late(self._crew, lambda: self._late_in(self._in_work()), self._give)

    def _give(self, worker: int, number: int) -> None:
        if not self._crew.tasks(worker):
            self._begun[worker] = self._clock()
        self._crew.give(worker, self._task(number))

    def _in_work(self) -> Mapping[int, int]:
        """Return how many workers have each segment that is not made."""
        return Counter(
            task.number
            for worker in self._crew.present
            for task in self._crew.tasks(worker)
            if self._is_wanted(task)
        )

    def _is_wanted(self, task: Work) -> TypeGuard[Task]:
        if not isinstance(task, Task) or task.run != self._run:
            return False
        return task.number >= self._work.segments and task.number not in self._waiting

    def _missing(self, in_work: Mapping[int, int]) -> Iterator[int]:
        """Yield the segments that nobody makes and that may be made now, in order."""
        first = self._work.segments
        if self._last is None and not in_work and first >= self._count:
            self._count = first + 1  # longer than was expected
        stop = self._count if self._last is None else self._last + 1
        for number in range(first, min(stop, first + AHEAD * len(self._crew.present))):
            if number not in in_work and number not in self._waiting:
                yield number

    def _late_in(self, in_work: Mapping[int, int]) -> Iterator[tuple[float, int]]:
        """Yield segments that one worker has: the seconds until it is late with it, and the number.

        Segments still in its queue are late now.
        """
        now = self._clock()
        usual = median(self._seconds) if self._seconds else inf
        for worker in self._crew.present:
            for place, task in enumerate(self._crew.tasks(worker)):
                if not self._is_wanted(task) or in_work[task.number] > 1:
                    continue
                if place:
                    yield 0.0, task.number
                else:
                    yield self._begun[worker] + LATE * usual - now, task.number

    def _task(self, number: int) -> Task:
        file = str(self._work.part_path(number).absolute())
        knows_border = number > self._work.segments or bool(self._border_sha256) or not number
        seeks = number < len(self._borders) and knows_border
        task = Task(self._run, self._order, number, file, seeks)
        if not seeks:
            return task
        after = self._borders[number + 1] if number + 1 < len(self._borders) else None
        return replace(task, first_pts=self._borders[number], next_pts=after)

    def _take(self, made: MadeSegment, task: Task, worker: str) -> None:
        file = Path(task.file)
        for line in made.said:
            self._say(line)
        if made.inexact:
            file.unlink(missing_ok=True)
            self._read_from_start(made.inexact)
        elif made.pts and file_sha256(file) != made.sha256:
            self._refuse_hopeless(task, OutputFailed(f"{file} is not what was written to it"))
            task.discard()
        else:
            self._waiting[made.number] = made, file
            self._seconds.append(made.seconds)
            if made.pts:
                self._shares.add(WorkerShare(worker, len(made.pts), made.seconds))
                self._on_speeds(self._shares.recent)
            if made.ended:
                last = made.number if made.pts else made.number - 1
                self._last = last if self._last is None else min(self._last, last)

    def _enter(self) -> None:
        """Move what is next in order from the waiting segments to the journal."""
        while not self._is_complete() and self._work.segments in self._waiting:
            made, file = self._waiting.pop(self._work.segments)
            if self._border_sha256 and made.first_sha256 != self._border_sha256:
                file.unlink(missing_ok=True)
                self._disagree(made)
                return
            if made.ended:
                self._end(made)
            if not made.pts:
                file.unlink(missing_ok=True)
                self._entered.append(made)
                return
            segment = self._work.segment_path(made.number)
            self._riding_out(partial(file.replace, segment))
            self._border_sha256 = made.next_sha256
            self._riding_out(
                partial(
                    self._work.add,
                    *(made.pts, made.durations, made.reorder),
                    border_sha256=self._border_sha256,
                    sha256=made.sha256,
                )
            )
            self._entered.append(made)
            for _ in made.pts:
                self._on_frame()

    def _end(self, made: MadeSegment) -> None:
        if made.damaged:
            self._damaged = InputDamaged(made.damaged)
            if made.decoder_ended:
                self._damaged.__cause__ = ChildFailed(made.damaged)

    def _disagree(self, made: MadeSegment) -> None:
        what = f"the first frame of segment {made.number} is another one than its neighbor's"
        if not self._borders:
            raise OutputFailed(
                f"{self._order.source}: {what}, though both read it from its start; workers need "
                "the same file and the same version of PyAV"
            )
        if self._entered:  # perhaps it is that one which is wrong
            self._entered.pop()
            self._work.forget_last()
        self._read_from_start(what)

    def _read_from_start(self, reason: str) -> None:
        """Forget what is not in the journal, and let all workers read the file from its start."""
        if self._borders:
            self._say(
                f"{Path(self._order.source).name}: cannot be read from its keyframes on "
                f"({reason}); each worker reads it from its start"
            )
        for _, file in self._waiting.values():
            file.unlink(missing_ok=True)
        self._borders, self._run, self._last = (), token_hex(4), None
        self._waiting.clear()
        self._border_sha256 = self._work.border_sha256()

    def _riding_out(self, step: Callable[[], object]) -> None:
        """Take a step of the driver, again if a folder was away."""
        try:
            step()
        except OSError:
            if not self._is_back():
                raise
            self._work.forget_unfinished()
            self._riding_out(step)

    def _is_back(self) -> bool:
        """Return True if a folder was away, and is back now."""
        if not were_away(self._places, self._say):
            return False
        self._excused |= {
            task.file
            for worker in self._crew.present
            for task in self._crew.tasks(worker)
            if self._is_wanted(task)
        }
        return True

    def _refuse_hopeless(self, task: Task, why: Exception) -> None:
        """Raise what happened to a segment, unless having it made again can help."""
        if isinstance(why, OutputFailed | InputRefused) and (
            task.file in self._excused or self._is_back()
        ):
            return
        number = task.number
        self._failures[number] += 1
        can_help = isinstance(why, WorkerLost | ResourcesExhausted | OutputFailed)
        if not can_help or self._failures[number] > MOST_FAILURES:
            if isinstance(why, WorkerLost):
                raise ResourcesExhausted(
                    f"segment {number} was begun {self._failures[number]} times, and each time its "
                    f"worker {why}; the same command goes on from there"
                ) from why
            raise why
        self._say(f"segment {number} is made again: {why_again(why)}")


def _merged(notes: Sequence[Notes]) -> Notes:
    """Return the notes of a video, given those of its segments in order.

    Counts are those of a reader up to its last frame, so the largest is that of the whole; changes
    are noted by the first segment that shows them.
    """
    if not notes:
        return Notes()
    return replace(
        notes[-1],
        interlaced=max(it.interlaced for it in notes),
        reshaped=next(filter(None, (it.reshaped for it in notes)), ""),
        recolored=next(filter(None, (it.recolored for it in notes)), ""),
        unkept=tuple(dict.fromkeys(name for it in notes for name in it.unkept)),
    )


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file; empty if there is none."""
    with suppress(FileNotFoundError):
        return sha256_of(file)
    return ""


def why_again(why: Exception) -> str:
    """Return why something is made again, for people."""
    return f"its worker {why}" if isinstance(why, WorkerLost) else str(why)
