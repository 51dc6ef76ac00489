"""Workers in a Ray cluster: an actor for each GPU, or for each node without one.

Names, hashes, finished segments and images travel, frames never. A worker that sees the folder of
the result puts them there; those of others come back through the object store, where no more lie
than workers have tasks. An input that a node cannot read is sent there if it is small, a video
once, and so is a model file. Actors are not restarted by Ray, and their calls not
repeated: the driver gives a lost segment to another one.
"""

import json
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from secrets import token_hex
from time import monotonic
from typing import Any, Self

from srgan_edge.errors import InputRefused, Interrupted, ResourcesExhausted, SrganEdgeError
from srgan_edge.files import content_sha256, output_failed
from srgan_edge.jobs.plan import Options
from srgan_edge.transcode.fanout import Answer, MadeSegment, Task, Work, WorkerLost
from srgan_edge.workers.answers import answer_of, result_of
from srgan_edge.workers.cluster import Cluster, line_of
from srgan_edge.workers.images import MOST_SHIPPED_BYTES, Chunk, ImageOrder, MadeChunk
from srgan_edge.workers.kind import Facts, Kind
from srgan_edge.workers.worker import Start, Worker

_FOLDER = "srgan-edge-worker-"

_START_SECONDS = 300.0
_TIDY_SECONDS = 0.5
_LOOK_SECONDS = 0.2  # so that signals are noticed


@dataclass
class _Placed:
    """An actor, and the tasks that it has."""

    name: str
    node: str
    actor: Any
    tasks: "deque[tuple[Any, Work]]" = field(default_factory=deque)
    inputs: set[str] = field(default_factory=set)
    """Hashes of inputs that it can read."""
    folders: dict[Path, bool] = field(default_factory=dict)
    """Work folders of videos, and whether it sees them."""
    unseen: set[Path] = field(default_factory=set)
    """Folders of images that it cannot read."""


class RayActors:
    """Actors of a cluster; see `transcode.fanout.Crew`. Use it in a `with`.

    Args:
        address: `HOST:PORT` of a cluster, `auto` for the one that this machine is part of, or
            `local`.
        start: with what to open each worker.
        kind: that of the engine of this process.

    Raises:
        ExtraMissing: Ray is not installed.
        ResourcesExhausted: there is no such cluster, or no worker starts.
        UsageError: no worker is of the same kind as this process.
    """

    def __init__(self, address: str, start: Start, kind: Kind) -> None:
        self._cluster = Cluster(address)
        self._ray = self._cluster.ray
        self._start, self._kind = start, kind
        model = Path(start.options.model)
        self._model = model.read_bytes() if model.is_file() else b""
        self._placed: list[_Placed | None] = []
        try:
            self._placed = self._all_placed()
        except BaseException as error:
            self.__exit__(error)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        is_interrupted = any(isinstance(it, Interrupted) for it in exception)
        if not (is_interrupted and self._cluster.is_own):  # which ends at once, with this process
            self.close()

    def close(self) -> None:
        """End all actors, whatever they do, and leave the cluster."""
        with suppress(Exception):
            idle = (it for it in self._placed if it is not None and not it.tasks)
            left = [placed.actor.tidy.remote() for placed in idle]  # the others would not answer
            self._ray.wait(left, num_returns=len(left), timeout=_TIDY_SECONDS)
        for placed in filter(None, self._placed):
            with suppress(Exception):
                self._ray.kill(placed.actor)
        self._cluster.leave()

    @property
    def present(self) -> Sequence[int]:
        return [number for number, placed in enumerate(self._placed) if placed is not None]

    def name(self, worker: int) -> str:
        return self._there(worker).name

    def tasks(self, worker: int) -> Sequence[Work]:
        return [task for _, task in self._there(worker).tasks]

    def give(self, worker: int, task: Work) -> None:
        placed = self._there(worker)
        if isinstance(task, Chunk):
            contents = dict(_unseen_by(placed, task))
            placed.tasks.append((placed.actor.make_images.remote(task, contents), task))
            return
        assert isinstance(task, Task)
        order = task.order
        if order.content_sha256 not in placed.inputs:
            self._bring_input(placed, Path(order.source), order.content_sha256)
        folder = Path(task.file).parent
        if folder not in placed.folders:
            placed.folders[folder] = self._shares(placed, folder)
        made = placed.actor.make.remote(task, shared=placed.folders[folder])
        placed.tasks.append((made, task))

    def wait(self, seconds: float | None) -> Answer | None:
        first = {
            placed.tasks[0][0]: number
            for number, placed in enumerate(self._placed)
            if placed is not None and placed.tasks
        }
        ready: list[Any] = []
        ends = inf if seconds is None else monotonic() + seconds
        while not ready:
            if (left := ends - monotonic()) <= 0:
                return None
            ready, _ = self._ray.wait(list(first), timeout=min(left, _LOOK_SECONDS))
        number = first[ready[0]]
        placed = self._there(number)
        _, task = placed.tasks.popleft()
        try:
            data, contents = self._ray.get(ready[0])
        except self._full as error:
            return number, task, _store_full(error)
        except self._ray.exceptions.RayError as error:
            node, _, _ = placed.name.rpartition("/")
            return number, task, WorkerLost(f"on {node} ended ({line_of(error)})")
        if isinstance(task, Chunk):
            for image in task.images:
                if content := contents.get(image.number):
                    with suppress(OSError), Path(image.file).open("r+b") as file:  # if it is wanted
                        file.write(content)
            made = result_of(data, MadeChunk, placed.name)
            if isinstance(made, MadeChunk):
                for image, answer in zip(task.images, made.answers, strict=True):
                    if not answer:
                        placed.unseen.add(Path(image.source).parent)
            return number, task, made
        assert isinstance(task, Task)
        if contents:
            with suppress(FileNotFoundError):  # made twice, and its video is complete
                Path(task.file).write_bytes(contents)
        return number, task, result_of(data, MadeSegment, placed.name)

    def replace(self, worker: int) -> None:
        old = self._there(worker)
        with suppress(Exception):
            self._ray.kill(old.actor)
        self._placed[worker] = None
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        if old.node in alive:
            new = self._place(old.name, old.node)
            with suppress(self._ray.exceptions.RayError):
                self._kind.members({new.name: self._facts(new)})
                self._placed[worker] = new
        if self._placed[worker] is None:
            self._kind.say(f"the node of worker {old.name} is lost; the others go on")

    def _there(self, worker: int) -> _Placed:
        placed = self._placed[worker]
        assert placed is not None, "the caller looks who is present"
        return placed

    def _all_placed(self) -> list[_Placed | None]:
        placed = []
        for node in self._ray.nodes():
            if node["Alive"]:
                gpus = int(node["Resources"].get("GPU", 0)) if self._uses_gpus else 1
                for number in range(gpus):
                    name = f"{node['NodeManagerHostname']}-{node['NodeID'][:4]}/{number}"
                    placed.append(self._place(name, node["NodeID"]))
        if not placed:
            raise ResourcesExhausted("no node of the cluster has a GPU; type --device cpu")
        facts, found, line = {}, [], ""
        for one in placed:
            try:
                facts[one.name] = self._facts(one)
                found.append(one)
            except (self._ray.exceptions.RayError, SrganEdgeError) as error:
                line = f"worker {one.name} does not start and is left out: {line_of(error)}"
                self._kind.say(line)
        if not found:
            raise ResourcesExhausted(
                f"{line}; none starts: on every node, type: pip install 'srgan-edge[ray]'"
            )
        kept = self._kind.members(facts)
        return [one for one in found if one.name in kept]

    @property
    def _uses_gpus(self) -> bool:
        return bool(self._kind.here["engine"]["device"] != "cpu")

    def _place(self, name: str, node: str) -> _Placed:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        family = self._kind.here["engine"]["device"]
        start = replace(
            self._start, name=name, options=replace(self._start.options, device=family, devices=())
        )
        actor = self._ray.remote(_Actor).options(
            num_cpus=1,
            num_gpus=1 if self._uses_gpus else 0,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        return _Placed(name, node, actor.remote(start, self._model))

    def _facts(self, placed: _Placed) -> Facts:
        facts = result_of(self._got(placed.actor.facts.remote()), dict[str, Any], placed.name)
        if isinstance(facts, SrganEdgeError):
            raise facts
        return facts

    def _got(self, reference: Any) -> Any:  # noqa: ANN401 - what an actor returns
        deadline = monotonic() + _START_SECONDS
        while not self._ray.wait([reference], timeout=_LOOK_SECONDS)[0]:
            if monotonic() > deadline:
                raise self._ray.exceptions.GetTimeoutError(
                    f"no free CPU or GPU on its node within {_START_SECONDS:g} s, or no answer"
                )
        return self._ray.get(reference)

    def _bring_input(self, placed: _Placed, source: Path, content: str) -> None:
        """Make sure that a worker can read the input, and send it there if it has to be."""
        with suppress(self._ray.exceptions.RayError):  # `wait` finds that it is lost
            if not self._got(placed.actor.has.remote(str(source), content)):
                if source.stat().st_size > MOST_SHIPPED_BYTES:
                    raise InputRefused(
                        f"{source} is not on the node of worker {placed.name} and too large to be "
                        "sent there; put it on a folder that all nodes share, at the same path"
                    )
                try:
                    sent = self._ray.put(source.read_bytes())
                except self._full as error:
                    raise _store_full(error) from error
                self._got(placed.actor.take.remote(source.name, content, sent))
        placed.inputs.add(content)

    def _shares(self, placed: _Placed, folder: Path) -> bool:
        """Return True if a worker sees a file that is made here in a folder."""
        probe = folder / f"segment-part-{token_hex(8)}"
        try:
            probe.touch()
            with suppress(self._ray.exceptions.RayError):  # `wait` finds that it is lost
                return bool(self._got(placed.actor.sees.remote(str(probe))))
            return False
        except OSError:  # the folder is away
            return False
        finally:
            probe.unlink(missing_ok=True)

    @property
    def _full(self) -> tuple[type[Exception], ...]:
        exceptions = self._ray.exceptions
        return exceptions.ObjectStoreFullError, exceptions.OutOfDiskError


class _Actor:
    """The other end, on a node."""

    def __init__(self, start: Start, model: bytes) -> None:
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray sets it to the one CPU that it counts
        self._folder = _own_folder()
        self._inputs: dict[str, str] = {}
        if model:
            own = self._folder / Path(start.options.model).name
            own.write_bytes(model)
            start = replace(start, options=replace(start.options, model=str(own)))
        self._start = start
        self._worker: Worker | None = None

    def facts(self) -> bytes:
        """Open the engine, and return the facts of the worker as an answer."""

        def opened() -> Facts:
            self._worker = Worker(self._start)
            return self._worker.facts()

        return answer_of(opened)

    def process(self) -> int:
        """Return the number of the process."""
        return os.getpid()

    def has(self, source: str, content: str) -> bool:
        """Return True if an input can be read here at its path, with the same content."""
        with suppress(OSError):
            return content_sha256(Path(source)) == content
        return False

    def take(self, name: str, content: str, data: bytes) -> None:
        """Keep an input that cannot be read here at its path."""
        path = self._folder / f"{content[:16]}-{name[-100:]}"
        path.write_bytes(data)
        self._inputs[content] = str(path)

    def sees(self, file: str) -> bool:
        """Return True if there is a file here."""
        return Path(file).exists()

    def make(self, task: Task, *, shared: bool) -> tuple[bytes, bytes]:
        """Return the answer to a task, and the content of the segment.

        If the driver shares its folder, the segment is written there, and its content is empty.
        """
        worker, source = self._worker, task.order.source
        assert worker is not None, "facts() comes first"
        file = self._folder / Path(task.file).name
        here = self._inputs.get(task.order.content_sha256, source)
        own = replace(task, file=str(file), order=replace(task.order, source=here))

        def made() -> MadeSegment:
            segment = worker.make(own)
            return replace(segment, damaged=segment.damaged.replace(here, source))

        try:
            answer = answer_of(made)
            if shared and file.exists():
                with suppress(OSError):  # the folder is away or full: the driver has the last word
                    shutil.copyfile(file, task.file)
                    return answer, b""
            return answer, file.read_bytes() if file.exists() else b""
        finally:
            file.unlink(missing_ok=True)

    def make_images(
        self, chunk: Chunk, contents: Mapping[int, bytes]
    ) -> tuple[bytes, dict[int, bytes]]:
        """Return the answer to a chunk, and the content of results by the numbers of their images.

        A result whose file is seen here is written there, and has no content.

        Args:
            contents: of images that cannot be read here, by their numbers.
        """
        results: dict[int, bytes] = {}

        def made() -> MadeChunk:
            answers = [
                self._image_made(image, chunk.options, contents, results) for image in chunk.images
            ]
            return MadeChunk([answer.decode() for answer in answers])

        return answer_of(made), results

    def _image_made(
        self,
        image: ImageOrder,
        options: Options,
        contents: Mapping[int, bytes],
        results: dict[int, bytes],
    ) -> bytes:
        worker, own = self._worker, self._folder / "image"
        assert worker is not None, "facts() comes first"
        source, file, shared = Path(image.source), Path(image.file), Path(image.file).exists()
        is_here = self.has(image.source, image.content_sha256)
        if not is_here and image.number not in contents:
            return b""
        try:
            own.mkdir(exist_ok=True)
            if not is_here:
                source = own / source.name
                source.write_bytes(contents[image.number])
            if not shared:
                file = own / f"result{file.suffix}"
                file.touch()
            order = replace(image, source=str(source), file=str(file))
            answer = answer_of(lambda: worker.make_image(order, options))
            if not shared:
                results[image.number] = file.read_bytes()
        except OSError as error:
            failed = output_failed(own, error)
            return answer_of(lambda: _raise(failed))
        finally:
            shutil.rmtree(own, ignore_errors=True)
        return answer.replace(_in_json(str(source)), _in_json(image.source))

    def tidy(self) -> None:
        """Remove its files; one that is killed at work leaves them to the next on its node."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _unseen_by(placed: _Placed, chunk: Chunk) -> Iterator[tuple[int, bytes]]:
    """Yield the number and content of each image that a node is known not to see, if it is small.

    What cannot be read any more, the node reports as missing once more.
    """
    for image in chunk.images:
        source = Path(image.source)
        with suppress(OSError):
            if source.parent in placed.unseen and source.stat().st_size <= MOST_SHIPPED_BYTES:
                yield image.number, source.read_bytes()


def _raise(error: Exception) -> None:
    raise error


def _in_json(text: str) -> bytes:
    return json.dumps(text)[1:-1].encode()


def _own_folder() -> Path:
    """Make a folder for the files of this process, and remove those of processes that ended."""
    place = Path(tempfile.gettempdir())
    for folder in place.glob(f"{_FOLDER}*-*"):
        number = folder.name.removeprefix(_FOLDER).partition("-")[0]
        if number.isdecimal() and not Path(f"/proc/{number}").exists():
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-", dir=place))


def _store_full(error: Exception) -> ResourcesExhausted:
    return ResourcesExhausted(
        f"the object store of Ray is full ({line_of(error)}); put input and result on a "
        "folder that all nodes share, or type a larger ray start --object-store-memory"
    )
