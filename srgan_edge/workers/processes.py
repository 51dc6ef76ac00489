"""Workers on this machine: a process for each device.

Both ends of the conversation: JSON objects over one socket for each process. The processes are ours
and trusted; each reads its input in a sandboxed child of its own. They die with the thread that
started them.
"""

import os
import selectors
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self, TypeVar

from srgan_edge.errors import ResourcesExhausted, SrganEdgeError, printable
from srgan_edge.isolation import sandbox
from srgan_edge.transcode.fanout import Answer, MadeSegment, Task, Work, WorkerLost
from srgan_edge.workers.answers import answer_of, decoded, encoded, result_of
from srgan_edge.workers.images import Chunk, MadeChunk
from srgan_edge.workers.kind import Facts, Kind
from srgan_edge.workers.worker import Start, Worker

MAX_MESSAGE_BYTES = 1 << 20

_MOST_STARTS = 3
"""Times that a worker is started that ends before it has opened its engine."""

_STARTS = (
    "import sys; sys.path[:] = sys.argv[1].split('\\n')\n"
    "from srgan_edge.workers import processes; processes.main()"
)

T = TypeVar("T")


@dataclass(frozen=True)
class _Request:
    """A task as it is sent: one of them."""

    segment: Task | None = None
    images: Chunk | None = None


class Processes:
    """A process for each device; see `transcode.fanout.Crew`. Use it in a `with`.

    Args:
        start: with what to open each worker; its device is replaced.
        devices: a device for each worker, which may be named twice.
        kind: that of the engine of this process.

    Raises:
        SrganEdgeError: a worker does not open its engine.
        UsageError: no worker is of the same kind as this process.
    """

    def __init__(self, start: Start, devices: Sequence[str], kind: Kind) -> None:
        self._kind = kind
        self._selector = selectors.DefaultSelector()
        self._processes: list[_Process] = []
        try:
            for number, device in enumerate(devices, 1):
                name = f"{number} ({device})"
                own = replace(start, name=name, options=replace(start.options, device=device))
                self._processes.append(_Process(own))
            names = [it.start.name for it in self._processes]
            facts = {name: self._facts(number) for number, name in enumerate(names)}
            kept = kind.members(facts)
        except BaseException:
            self.close()
            raise
        for process in self._processes:
            if process.start.name not in kept:
                process.kill()
        self._processes = [it for it in self._processes if it.start.name in kept]
        for number, process in enumerate(self._processes):
            self._selector.register(process.socket, selectors.EVENT_READ, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill all processes, whatever they do."""
        for process in self._processes:
            process.kill()
        self._selector.close()

    @property
    def present(self) -> Sequence[int]:
        return range(len(self._processes))

    def name(self, worker: int) -> str:
        return self._processes[worker].start.name

    def tasks(self, worker: int) -> Sequence[Work]:
        return self._processes[worker].tasks

    def give(self, worker: int, task: Work) -> None:
        self._processes[worker].give(task)

    def wait(self, seconds: float | None) -> Answer | None:
        ready = self._selector.select(seconds)
        if not ready:
            return None
        number: int = ready[0][0].data
        process = self._processes[number]
        task = process.tasks.popleft()
        return number, task, process.answer(MadeChunk if isinstance(task, Chunk) else MadeSegment)

    def replace(self, worker: int) -> None:
        old = self._processes[worker]
        self._selector.unregister(old.socket)
        old.kill()
        self._processes[worker] = _Process(old.start)
        self._kind.members({old.start.name: self._facts(worker)})
        self._selector.register(self._processes[worker].socket, selectors.EVENT_READ, worker)

    def _facts(self, worker: int) -> Facts:
        """Wait until a worker is open; start it again if it ends before."""
        for starts in range(1, _MOST_STARTS + 1):
            process = self._processes[worker]
            facts = process.facts()
            if not isinstance(facts, WorkerLost):
                return facts
            process.kill()
            if starts < _MOST_STARTS:
                self._processes[worker] = _Process(process.start)
        raise ResourcesExhausted(
            f"the worker {self.name(worker)} {facts} before it began, {_MOST_STARTS} times"
        )


class _Process:
    """The parent's end."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.tasks: deque[Work] = deque()
        """Tasks without an answer, in order."""
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            path = "\n".join(os.path.abspath(folder) for folder in sys.path)  # noqa: PTH100
            self._complaints = os.fdopen(os.memfd_create("stderr"), "r+b")
            try:
                self._process = subprocess.Popen(
                    [
                        *(sys.executable, "-B", "-X", "utf8", "-c", _STARTS, path),
                        *(str(theirs.fileno()), str(os.getpid())),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._complaints,
                    pass_fds=[theirs.fileno()],
                    process_group=0,  # Ctrl-C reaches only this process
                )
            except OSError as error:
                raise ResourcesExhausted(f"cannot start a worker: {error.strerror}") from error
        self._send(start)

    def facts(self) -> Facts | WorkerLost:
        """Wait until the engine is open, and return the facts of the worker."""
        answer = self._received(dict[str, Any])
        if isinstance(answer, SrganEdgeError):
            raise answer
        return answer

    def give(self, task: Work) -> None:
        self.tasks.append(task)
        if isinstance(task, Chunk):
            self._send(_Request(images=task))
        else:
            assert isinstance(task, Task)
            self._send(_Request(segment=task))

    def answer(self, kind: type[T]) -> T | SrganEdgeError | WorkerLost:
        """Return the answer to the first task, which has arrived and has a result of a kind."""
        return self._received(kind)

    def kill(self) -> None:
        """End the process now, and its children."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.socket.close()
        self._complaints.close()

    def _send(self, message: Start | _Request) -> None:
        with suppress(OSError):  # that it is lost shows where its answer is read
            self.socket.send(encoded(message))

    def _received(self, kind: type[T]) -> T | SrganEdgeError | WorkerLost:
        try:
            data = self.socket.recv(MAX_MESSAGE_BYTES)
        except ConnectionResetError:  # it died with messages unread
            data = b""
        if not data:
            return WorkerLost(self._how_it_ended())
        return result_of(data, kind, self.start.name)

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        self._complaints.seek(0)
        lines = self._complaints.read(1 << 20).decode(errors="replace").strip().split("\n")
        said = f": {printable(lines[-1][:500])}" if lines[-1] else ""
        if code >= 0:
            return f"ended with code {code}{said}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"was ended by {name}{said}"


def main() -> None:
    """Run the child; `sys.argv` holds import path, descriptor and the parent's ID."""
    _, descriptor, parent_id = sys.argv[1:]
    sandbox.die_with(int(parent_id))
    with socket.socket(fileno=int(descriptor)) as connection:

        def received(kind: type[T]) -> T:
            if not (data := connection.recv(MAX_MESSAGE_BYTES)):
                os._exit(0)  # the parent is gone
            return decoded(data, kind)

        with ExitStack() as life:
            worker: list[Worker] = []

            def opened() -> Facts:
                worker.append(life.enter_context(Worker(received(Start))))
                return worker[0].facts()

            connection.send(answer_of(opened))
            while worker:
                request = received(_Request)
                if request.images is not None:
                    connection.send(answer_of(partial(worker[0].make_images, request.images)))
                elif request.segment is not None:
                    connection.send(answer_of(partial(worker[0].make, request.segment)))
