"""Call our functions in a child process, one call after another.

Both ends of the conversation: `Remote` is the caller's, `serve` the child's. Arguments are JSON.
Results cross as `wire` describes; their arrays travel in memory that the caller made. The caller
decides which functions may be called and how their failures are worded.
"""

import json
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, Self, TypeVar

from srgan_edge.errors import InputDamaged, InputRefused, ResourcesExhausted, SrganEdgeError
from srgan_edge.isolation.child import (
    MAX_MESSAGE_BYTES,
    Child,
    ChildFailed,
    ChildKilled,
    Parent,
    Reports,
    error_message,
    mapped,
    parsed,
    shared_memory,
)
from srgan_edge.isolation.wire import Heap, Json, pack, unpack

T = TypeVar("T")

SIGN_OF_LIFE = {"alive": True}
"""Message that a slow function may send to its parent so that the call does not time out."""

MAX_RESULT_BYTES = 1 << 20
"""Longest result without its arrays; what does not fit into a message comes through memory."""

MAX_SHORT_BYTES = MAX_MESSAGE_BYTES // 2

_HERE_IS_MEMORY = {"memory": True}
_NONE = memoryview(b"")


class Remote:
    """A child process that serves many calls; after a failure, the next call starts another one.

    Args:
        entry: `module:function`, a function that calls `serve`.
        memory_bytes: how much memory the child may map beyond its libraries.
        seconds: time limit for a call, or between two signs of life.
        shows_life: functions may send `SIGN_OF_LIFE`; otherwise that is no answer.
        readable, folder, writable, reports: as for `Child`.

    The child starts with the first call. It dies with the thread that made that call, or at
    `close`, which any thread may call; a call that waits in another one then fails.

    Several calls may be under way: `ask` sends one without waiting, and `answer` returns the
    results in the order of the calls.
    """

    def __init__(
        self,
        entry: str,
        readable: list[Path],
        memory_bytes: int,
        seconds: float,
        folder: Path | None = None,
        writable: Path | None = None,
        reports: Reports = (InputRefused, InputDamaged),
        *,
        shows_life: bool = False,
    ) -> None:
        self._entry, self._readable, self._folder = entry, readable, folder
        self._shows_life = shows_life
        self._writable, self._reports = writable, reports
        self._memory_bytes, self._seconds = memory_bytes, seconds
        self._child: Child | None = None
        self._closed = False
        self._lock = Lock()  # so that no child starts once `close` was called

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """True if there is a child that remembers earlier calls."""
        return self._child is not None

    def close(self) -> None:
        """Kill the child, and start no other one."""
        with self._lock:
            self._closed = True
        self.kill()

    def kill(self) -> None:
        """Kill the child; the next call starts another one."""
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def call(
        self,
        kind: type[T],
        function: str,
        *arguments: Json,
        file: int | None = None,
        max_bytes: int = MAX_RESULT_BYTES,
    ) -> T:
        """Call a function in the child and return its result; see `ask` and `answer`."""
        self.ask(function, *arguments, file=file)
        return self.answer(kind, max_bytes)

    def ask(self, function: str, *arguments: Json, file: int | None = None) -> None:
        """Send a call to the child, which starts if there is none.

        Args:
            file: a descriptor that the function gets as its first argument, and has to close.

        Raises:
            ChildFailed: this was closed.
            ResourcesExhausted: the process cannot be started.
        """
        with self._lock:
            if self._closed:
                raise ChildFailed("was closed")
            if self._child is None:
                self._child = Child(
                    self._entry,
                    {},
                    self._memory_bytes,
                    self._readable,
                    self._folder,
                    self._writable,
                    self._reports,
                )
            order = {"call": function, "arguments": list(arguments)}
            self._child.send(order, *([] if file is None else [file]))

    def answer(self, kind: type[T], max_bytes: int = MAX_RESULT_BYTES) -> T:
        """Wait for the result of the earliest call that has none, checked to be a `kind`.

        Args:
            max_bytes: most memory that the arrays, bytes and long texts of the result may take.

        Raises:
            ChildFailed: the child crashed, took too long, used too much memory, or sent an invalid
                answer.
            SrganEdgeError: the function raised it, and it is one of `reports`.
            ResourcesExhausted: there is no memory for the result.
        """
        child = self._child
        if child is None:
            raise ChildFailed("was closed")
        try:
            return self._answer(child, kind, max_bytes)
        except ValueError as error:
            self.kill()
            raise ChildFailed(f"broke its protocol ({error})") from error
        except ChildKilled:
            self.kill()
            raise
        except SrganEdgeError:
            raise  # from the function itself, which can be called again
        except BaseException:
            self.kill()
            raise

    def _answer(self, child: Child, kind: type[T], max_bytes: int) -> T:
        message = child.receive(self._seconds)
        while self._shows_life and message == SIGN_OF_LIFE:
            message = child.receive(self._seconds)
        memory = _NONE
        if "size" in message:
            size = unpack(int, message["size"])
            if not 0 < size <= max_bytes:
                raise ValueError(f"a result of {size} bytes")
            try:
                with shared_memory(size) as (shared, descriptor):
                    child.send(_HERE_IS_MEMORY, descriptor)
            except ResourcesExhausted:
                self.kill()  # it would wait for its memory
                raise
            memory = memoryview(shared)
            message = child.receive(self._seconds)
        if message.keys() == {"long"}:
            text = unpack(bytes, message["long"], memory)
            if len(text) > MAX_RESULT_BYTES:
                raise ValueError(f"a result of {len(text)} bytes")
            message = {"result": parsed(text)}
        if message.keys() != {"result"}:
            raise ValueError("no result")
        return unpack(kind, message["result"], memory)


def serve(parent: Parent, functions: Mapping[str, Callable[..., object]]) -> None:
    """Run in the child: call the functions that the parent names, until the parent is gone."""
    waiting: deque[tuple[dict[str, Any], list[int]]] = deque()
    while True:
        order, files = waiting.popleft() if waiting else parent.receive_with_descriptors()
        heap = Heap()
        try:
            result = pack(functions[order["call"]](*files, *order["arguments"]), heap)
        except SrganEdgeError as error:
            parent.send(error_message(error))
            continue
        answer = {"result": result}
        text = json.dumps(result).encode()
        if len(text) > MAX_SHORT_BYTES:
            answer = {"long": pack(text, heap)}
        if heap.size:
            parent.send({"size": heap.size})
            while (received := parent.receive_with_descriptors())[0] != _HERE_IS_MEMORY:
                waiting.append(received)
            with mapped(received[1][0]) as memory:
                heap.write(memoryview(memory))
        parent.send(answer)
