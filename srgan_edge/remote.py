"""Functions of ours that are called in a child process, one call after another.

Both ends of the conversation. Arguments are JSON; results are whatever `wire` takes, their arrays
in memory that the caller made for them. What is called, and how its failure reads, is the caller's.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self, TypeVar

from srgan_edge.child import Child, ChildFailed, Parent, Reports, error_message, shared_memory
from srgan_edge.errors import InputDamaged, InputRefused, SrganEdgeError
from srgan_edge.wire import Heap, Json, pack, unpack

T = TypeVar("T")

SIGN_OF_LIFE = {"alive": True}
"""What a function that takes long may send its parent meanwhile."""


class Remote:
    """One child process that serves many calls; after a failure the next call gets another.

    Args:
        entry: `module:function`, a function that calls `serve`.
        readable: files and folders it may read, where the kernel can hold it to that.
        memory_bytes: how much more than its libraries it may map.
        seconds: how long one call may take; if it gives signs of life, from one to the next.
        writable, reports: as of `Child`.

    The child starts with the first call, and dies with the thread that made that, or at `close`.
    """

    def __init__(
        self,
        entry: str,
        readable: list[Path],
        memory_bytes: int,
        seconds: float,
        writable: Path | None = None,
        reports: Reports = (InputRefused, InputDamaged),
    ) -> None:
        self._entry, self._readable = entry, readable
        self._writable, self._reports = writable, reports
        self._memory_bytes, self._seconds = memory_bytes, seconds
        self._child: Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """Whether there is a child that knows of earlier calls."""
        return self._child is not None

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def call(self, kind: type[T], function: str, *arguments: Json) -> T:
        """The function's result, which has to be a `kind`.

        Raises:
            ChildFailed: it crashed, took too long or too much memory, or answered nonsense.
            SrganEdgeError: what the function raised, of those that it may report.
            ResourcesExhausted: no process or no memory to be had.
        """
        if self._child is None:
            self._child = Child(
                self._entry, {}, self._memory_bytes, self._readable, self._writable, self._reports
            )
        try:
            return self._answer(self._child, kind, function, arguments)
        except ValueError as error:
            self.close()
            raise ChildFailed(f"broke its protocol ({error})") from error
        except SrganEdgeError:
            raise  # said by the function, which can be called again
        except BaseException:
            self.close()
            raise

    def _answer(self, child: Child, kind: type[T], function: str, arguments: tuple[Json, ...]) -> T:
        child.send({"call": function, "arguments": list(arguments)})
        while (message := child.receive(self._seconds)) == SIGN_OF_LIFE:
            pass
        memory = memoryview(b"")
        if "size" in message:
            memory = self._memory_for(child, unpack(int, message["size"]))
            message = child.receive(self._seconds)
        if message.keys() != {"result"}:
            raise ValueError("no result")
        return unpack(kind, message["result"], memory)

    def _memory_for(self, child: Child, size: int) -> memoryview:
        if not 0 < size <= self._memory_bytes:
            raise ValueError(f"a result of {size} bytes")
        with shared_memory(size) as (memory, descriptor):
            child.send({}, descriptor)
        return memoryview(memory)


def serve(parent: Parent, functions: Mapping[str, Callable[..., object]]) -> None:
    """The child: calls of these functions what it is told to, until nobody is left."""
    while True:
        order = parent.receive()
        heap = Heap()
        try:
            result = pack(functions[order["call"]](*order["arguments"]), heap)
        except SrganEdgeError as error:
            parent.send(error_message(error))
            continue
        if heap.size:
            parent.send({"size": heap.size})
            _, memory = parent.receive_with_memory()
            assert memory is not None
            heap.write(memoryview(memory))
            memory.close()
        parent.send({"result": result})
