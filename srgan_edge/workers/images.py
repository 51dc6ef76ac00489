"""Images of a command, made by several workers and reported in order.

The driver hands them out in chunks, which get smaller towards the end. It makes an empty file
beside each result, which a worker fills, and renames it once its hash is right: so a worker that
dies leaves nothing, and of two that make the same image the first one wins. Workers read and decode
the images themselves, each in its own sandbox.

An image whose worker dies is made again, alone, so that one that kills workers costs only itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from pathlib import Path
from secrets import token_hex
from statistics import median
from time import monotonic

from srgan_edge.errors import (
    EngineLost,
    InputRefused,
    OutputFailed,
    ResourcesExhausted,
    SrganEdgeError,
)
from srgan_edge.files import content_sha256, folder_made, output_failed, replace_when_whole
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.jobs.reporters import Outcome, Reporter, WorkerShare, shared_by
from srgan_edge.run import refusal, settled
from srgan_edge.transcode.fanout import (
    IN_FLIGHT,
    LATE,
    MOST_FAILURES,
    Crew,
    Shares,
    Work,
    WorkerLost,
    double_late,
    file_sha256,
    free_worker,
    tiles_of,
    why_again,
)
from srgan_edge.transcode.outage import Place, were_away
from srgan_edge.upscaler import FrameUpscaler
from srgan_edge.workers.answers import result_of

MOST_IN_CHUNK = 8
"""Images that a worker is given at once."""

CHUNKS_LEFT = 2 * IN_FLIGHT
"""Chunks for each worker into which the images that are left are cut."""

MOST_SHIPPED_BYTES = 1 << 30
"""Largest input that is sent to nodes that cannot read it."""


@dataclass(frozen=True)
class ImageOrder:
    """One image, as workers have to know it."""

    number: int
    """From 0 in the command."""
    source: str
    """Absolute path of the input."""
    target: str
    """Absolute path of the result, which the worker names in errors."""
    content_sha256: str
    """See `files.content_sha256`."""
    file: str
    """Absolute path of the empty file to be filled."""


@dataclass(frozen=True)
class Chunk:
    """Images to be made by one worker, one after another."""

    run: str
    options: Options
    images: list[ImageOrder]

    def discard(self) -> None:
        for image in self.images:
            Path(image.file).unlink(missing_ok=True)


@dataclass(frozen=True)
class MadeImage:
    """The answer for one image."""

    width: int
    """Width of the input in pixels."""
    height: int
    frames: int
    size: str
    """Size of the result, for example `1280x720`."""
    tiles: str
    """See `fanout.tiles_of`."""
    tiles_redone: int
    sha256: str
    """SHA-256 of the file."""
    notes: list[str]
    seconds: float


@dataclass(frozen=True)
class MadeChunk:
    """The answers for the images of a chunk, in their order, each as of `answers.answer_of`.

    An empty one: the node cannot read the input and needs its content.
    """

    answers: list[str]


@dataclass(frozen=True)
class Asked:
    """An image to be upscaled."""

    job: Job
    notes: Sequence[str] = ()
    """Lines for the user about it."""


@dataclass
class _Part:
    """The file for one try to make an image, until it becomes the result or is removed."""

    path: Path
    whole: AbstractContextManager[Path]

    @classmethod
    def beside(cls, target: Path, *, overwrite: bool) -> "_Part":
        whole = replace_when_whole(target, overwrite=overwrite)
        return cls(whole.__enter__(), whole)

    def publish(self) -> None:
        self.whole.__exit__(None, None, None)

    def remove(self) -> None:
        self.whole.__exit__(_Unwanted, _Unwanted(), None)


class _Unwanted(Exception):
    """Makes `replace_when_whole` remove its temporary file."""


@dataclass
class _Tries:
    """Everything that is known of an image that has no outcome."""

    parts: dict[str, _Part] = field(default_factory=dict)
    """Files of tries that have no answer, by their paths."""
    failures: int = 0
    absences: int = 0
    """Times that a worker could not read it."""


class ImageFanout:
    """Upscales images once, by `run`.

    Args:
        crew: starts the workers; called when the first image is handed out.
        upscaler: the driver's, which cuts images as theirs have to.
        reporter: hears of each image once all before it are done.
        clock: returns seconds.
    """

    def __init__(
        self,
        crew: Callable[[], Crew],
        asked: Sequence[Asked],
        upscaler: FrameUpscaler,
        options: Options,
        reporter: Reporter,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._start, self._asked, self._upscaler = crew, asked, upscaler
        self._options, self._reporter, self._clock = options, reporter, clock
        self._run = token_hex(4)
        self._left = list(range(len(asked)))
        """Images that nobody has, as a heap."""
        self._tries = {number: _Tries() for number in self._left}
        """Images without an outcome."""
        self._outcomes: dict[int, Outcome] = {}
        self._notes = {number: list(it.notes) for number, it in enumerate(asked)}
        self._told = 0
        self._begun: dict[int, float] = {}
        """When each worker began the chunk that it works on."""
        self._seconds: list[float] = []
        self._shares = Shares()
        self._folders: set[Path] = set()
        self._places: dict[Path, Place] = {}
        self._excused: set[str] = set()
        """Files of images that were in work while a folder was away."""
        self._life = ExitStack()

    def run(self) -> list[Outcome]:
        """Return the outcomes of all images; an error of one stops no other.

        Raises:
            ResourcesExhausted: no worker is left.
            SrganEdgeError: none can be started in the place of one that was lost.
        """
        with self._life:
            self._life.callback(self._remove_parts)
            self._settle_known()
            if self._tries:
                self._crew = self._start()
                self._reporter.images_done(len(self._outcomes), len(self._asked))
            while self._tries:
                if (answered := self._crew.wait(self._hand_out())) is not None:
                    self._take(*answered)
                self._tell()
        self._tell()
        if shares := self._shares.totals:
            self._reporter.note(shared_by(shares, "images/s"))
            self._reporter.images_done(len(self._asked), len(self._asked))
        return [self._outcomes[number] for number in range(len(self._asked))]

    def _settle_known(self) -> None:
        for number, asked in enumerate(self._asked):
            if (outcome := settled(asked.job, self._options)) is not None:
                self._end(number, outcome)
        self._left = [number for number in self._left if number in self._tries]

    def _hand_out(self) -> float | None:
        """Give images to workers that have too few.

        Returns:
            As `fanout.double_late` does.
        """
        if not self._crew.present:
            raise ResourcesExhausted(
                "no worker is left; the same command with --skip-existing makes what is missing"
            )
        while self._left:
            worker = free_worker(self._crew)
            if worker is None:
                return None
            self._give(worker, self._next_chunk(len(self._crew.present)))
        if not self._tries:
            return 0.0  # those that were left could not be begun
        return double_late(
            self._crew, self._late, lambda worker, number: self._give(worker, [number])
        )

    def _next_chunk(self, workers: int) -> list[int]:
        """Take images off the heap; one that failed is alone."""
        room = min(MOST_IN_CHUNK, max(1, len(self._left) // (CHUNKS_LEFT * workers)))
        chunk = [heappop(self._left)]
        while len(chunk) < room and not any(self._tries[it].failures for it in chunk):
            if self._tries[self._left[0]].failures:
                break
            chunk.append(heappop(self._left))
        return chunk

    def _give(self, worker: int, numbers: Sequence[int]) -> None:
        images = [order for number in numbers if (order := self._order(number)) is not None]
        if not images:
            return
        if not self._crew.tasks(worker):
            self._begun[worker] = self._clock()
        self._crew.give(worker, Chunk(self._run, self._options, images))

    def _order(self, number: int) -> ImageOrder | None:
        """Make the file of an image; return None if that ends it."""
        job = self._asked[number].job
        source, target = job.source.absolute(), job.target.absolute()
        try:
            content = content_sha256(source)
        except OSError as error:
            if self._is_back(number):
                return self._order(number)
            refused = InputRefused(f"{job.source}: {error.strerror}; check the name and its rights")
            self._end(number, Outcome(job, error=refused))
            return None
        try:
            if target.parent not in self._folders:
                self._life.enter_context(folder_made(target.parent))
                self._folders.add(target.parent)
                self._places[target.parent] = Place(target.parent)
            self._places.setdefault(source.parent, Place(source.parent))
            part = _Part.beside(target, overwrite=self._options.overwrite)
        except OSError as error:
            self._end(number, Outcome(job, error=output_failed(job.target, error)))
            return None
        except SrganEdgeError as error:
            if self._is_back(number):
                return self._order(number)
            self._end(number, Outcome(job, error=error))
            return None
        self._tries[number].parts[str(part.path)] = part
        return ImageOrder(number, str(source), str(target), content, str(part.path))

    def _late(self) -> Iterator[tuple[float, int]]:
        """Yield images that one worker has: the seconds until it is late with them, and the number.

        Those of chunks still in its queue are late now.
        """
        now = self._clock()
        usual = median(self._seconds) if self._seconds else inf
        for worker in self._crew.present:
            for place, task in enumerate(self._crew.tasks(worker)):
                if not isinstance(task, Chunk) or task.run != self._run:
                    continue
                for count, image in enumerate(task.images, 1):
                    if len(self._parts_of(image.number)) == 1:
                        due = self._begun[worker] + LATE * usual * count - now
                        yield (0.0 if place else due), image.number

    def _parts_of(self, number: int) -> Mapping[str, _Part]:
        tries = self._tries.get(number)
        return {} if tries is None else tries.parts

    def _take(self, worker: int, task: Work, answer: object) -> None:
        self._begun[worker] = self._clock()
        name = self._crew.name(worker)
        if isinstance(answer, WorkerLost | EngineLost):
            self._replace(worker)
        if not isinstance(task, Chunk) or task.run != self._run:
            task.discard()
            return
        if not isinstance(answer, MadeChunk):
            assert isinstance(answer, WorkerLost | SrganEdgeError)
            for order in task.images:
                self._fail(order, answer)
            return
        is_lost = False
        for order, text in zip(task.images, answer.answers, strict=True):
            if is_lost:  # not its fault
                self._put_back(order)
            elif not text:
                self._miss(order)
            else:
                made = self._as_typed(order, result_of(text.encode(), MadeImage, name))
                is_lost = isinstance(made, EngineLost)
                if isinstance(made, MadeImage):
                    self._enter(order, made, name)
                else:
                    self._fail(order, made)
        if is_lost:
            self._replace(worker)

    def _as_typed(
        self, order: ImageOrder, made: MadeImage | SrganEdgeError
    ) -> MadeImage | SrganEdgeError:
        """Return an answer whose error has the names of files as they were typed."""
        if isinstance(made, MadeImage):
            return made
        job, text = self._asked[order.number].job, str(made)
        for absolute, typed in ((order.source, job.source), (order.target, job.target)):
            text = text.replace(absolute, str(typed))
        return type(made)(text)

    def _replace(self, worker: int) -> None:
        """Put another worker in the place of one; the chunks that it had not begun are free."""
        dropped = [
            order
            for task in self._crew.tasks(worker)
            if isinstance(task, Chunk) and task.run == self._run
            for order in task.images
        ]
        self._crew.replace(worker)
        for order in dropped:
            self._put_back(order)

    def _put_back(self, order: ImageOrder) -> None:
        """Let an image be made again, unless another worker has it."""
        if part := self._part_of(order):
            part.remove()
            if not self._tries[order.number].parts:
                heappush(self._left, order.number)

    def _part_of(self, order: ImageOrder) -> _Part | None:
        """Return the file of a try, which has ended; None: another worker was faster."""
        tries = self._tries.get(order.number)
        return None if tries is None else tries.parts.pop(order.file, None)

    def _miss(self, order: ImageOrder) -> None:
        """Have an image sent to a node that cannot read it."""
        tries = self._tries.get(order.number)
        if tries is None:
            return
        tries.absences += 1
        if tries.absences <= len(self._crew.present):
            self._put_back(order)
            return
        why = "is not on the node of a worker, or was changed"
        with suppress(OSError):
            if Path(order.source).stat().st_size > MOST_SHIPPED_BYTES:
                why = "is not on the node of a worker and too large to be sent there"
        job = self._asked[order.number].job
        self._end(
            order.number,
            Outcome(
                job,
                error=InputRefused(
                    f"{job.source} {why}; put it on a folder that all nodes share, at the same path"
                ),
            ),
        )

    def _enter(self, order: ImageOrder, made: MadeImage, worker: str) -> None:
        """Give a result its name."""
        number, job = order.number, self._asked[order.number].job
        if number not in self._tries:
            return
        tiles = tiles_of(self._upscaler, made.width, made.height)
        if made.tiles != tiles:
            self._fail(
                order,
                ResourcesExhausted(
                    f"{worker} cuts {job.source} into {made.tiles} instead of {tiles}, for its "
                    "memory; type --tile 256, or less, for all"
                ),
            )
            return
        if file_sha256(Path(order.file)) != made.sha256:
            self._fail(order, OutputFailed(f"{order.file} is not what was written to it"))
            return
        part = self._part_of(order)
        assert part is not None, "it has no outcome, so the file of this try is here"
        self._seconds.append(made.seconds)
        self._shares.add(WorkerShare(worker, 1, made.seconds))
        self._reporter.workers_at(self._shares.recent)
        self._notes[number] += made.notes
        self._is_back(number)
        try:
            part.publish()
        except SrganEdgeError as error:
            self._end(number, refusal(job, self._options, error, made.seconds))
            return
        self._end(
            number,
            Outcome(job, made.frames, made.seconds, made.size, made.tiles_redone, worker=worker),
        )

    def _fail(self, order: ImageOrder, why: SrganEdgeError | WorkerLost) -> None:
        """Have an image made again, if that can help; or else end it with the error."""
        number = order.number
        if number not in self._tries:
            return
        tries, job = self._tries[number], self._asked[number].job
        if isinstance(why, OutputFailed | InputRefused) and (
            order.file in self._excused or self._is_back(number)
        ):
            self._put_back(order)
            return
        tries.failures += 1
        can_help = isinstance(why, WorkerLost | ResourcesExhausted | OutputFailed)
        if can_help and tries.failures <= MOST_FAILURES:
            self._notes[number].append(f"{job.source.name} is made again: {why_again(why)}")
            self._put_back(order)
            return
        if isinstance(why, WorkerLost):
            why = ResourcesExhausted(
                f"{job.source} was begun {tries.failures} times, and each time its worker {why}"
            )
        self._end(number, Outcome(job, error=why))

    def _is_back(self, number: int) -> bool:
        """Return True if a folder of an image was away, and is back now."""
        job = self._asked[number].job
        folders = {job.source.absolute().parent, job.target.absolute().parent}
        places = [self._places[folder] for folder in folders if folder in self._places]
        try:
            if not were_away(places, self._reporter.note):
                return False
        except OutputFailed:  # those of other folders go on
            return False
        self._excused |= {path for tries in self._tries.values() for path in tries.parts}
        return True

    def _end(self, number: int, outcome: Outcome) -> None:
        tries = self._tries.pop(number)
        for part in tries.parts.values():
            part.remove()
        self._outcomes[number] = outcome

    def _remove_parts(self) -> None:
        for tries in self._tries.values():
            for part in tries.parts.values():
                part.remove()

    def _tell(self) -> None:
        """Report the images whose turn it is."""
        if self._tries:
            self._reporter.images_done(len(self._outcomes), len(self._asked))
        while (outcome := self._outcomes.get(self._told)) is not None:
            for note in self._notes[self._told]:
                self._reporter.note(note)
            if outcome.frames:
                self._reporter.started(outcome.job, outcome.frames)
                for _ in range(outcome.frames):
                    self._reporter.frame_done()
            self._reporter.ended(outcome)
            self._told += 1
