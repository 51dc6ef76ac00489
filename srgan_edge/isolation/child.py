"""A child process that reads a stranger's file, and is not believed a word.

It starts without a shell, without our environment and our descriptors, gives up what `sandbox`
takes from it, and talks over one socket: JSON objects of a bounded size, and shared memory that its
parent made. It may crash, hang or be taken over; its parent then has an exception and goes on.
"""

import fcntl
import importlib
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any, Self

from srgan_edge.errors import (
    InputDamaged,
    InputRefused,
    ResourcesExhausted,
    SrganEdgeError,
    printable,
)
from srgan_edge.isolation import sandbox

MAX_MESSAGE_BYTES = 1 << 16
START_SECONDS = 60
"""For importing what the child needs; a fifth of a second where the disk is not asleep."""

_STARTS = (
    "import sys; sys.path[:] = sys.argv[1].split('\\n')\n"
    "from srgan_edge.isolation import child; child.main()"
)
# Address space is limited, and each thread of malloc and of OpenBLAS reserves some.
_VARIABLES = {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}
_KEPT_VARIABLES = ("LD_LIBRARY_PATH",)
_MAX_TEXT = 2000
Reports = tuple[type[SrganEdgeError], ...]


class ChildFailed(Exception):
    """It crashed, hung or broke the protocol. The message completes "the decoder ..."."""


class Child:
    """The parent's end: starts a process that calls `entry`, and talks to it.

    Args:
        entry: `module:function`, called there with its `Parent` and the request.
        request: what to do, as JSON.
        memory_bytes: how much more than its libraries it may map.
        readable: the files it may read, where the kernel can hold it to that.
        writable: the folder in which it may do anything; None: it writes nothing.
        reports: the errors that it may raise here, beside its own failing.

    The process dies with the thread that made this object, and at `close`. It is in a process group
    of its own, so that Ctrl-C reaches its parent alone.

    Raises:
        ResourcesExhausted: it cannot be started.
    """

    def __init__(
        self,
        entry: str,
        request: dict[str, Any],
        memory_bytes: int,
        readable: list[Path],
        writable: Path | None = None,
        reports: Reports = (InputRefused, InputDamaged),
    ) -> None:
        self._memory_bytes, self._reports = memory_bytes, reports
        self._lock = RLock()  # against closing the socket under a thread that receives
        self._closed = False
        try:
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._complaints = os.fdopen(os.memfd_create("stderr"), "r+b")
                self._process = self._start(theirs, entry)
        except OSError as error:
            raise ResourcesExhausted(f"cannot start a process: {error.strerror}") from error
        try:
            orders = {
                "memory_bytes": memory_bytes,
                "readable": [os.fspath(path.absolute()) for path in readable],
                "writable": None if writable is None else os.fspath(writable.absolute()),
                "request": request,
            }
            self.send(orders)
            self.receive(START_SECONDS)
        except ChildFailed as failure:
            last_line = self._last_complaint()
            self.close()
            raise ResourcesExhausted(f"a process {failure} before it began{last_line}") from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def send(self, message: dict[str, Any], memory: int | None = None) -> None:
        """Send a message, and the descriptor of shared memory with it; never waits.

        A child that does not take its messages, or is gone, is noticed at the next `receive`.
        """
        descriptors = [] if memory is None else [memory]
        with self._lock, suppress(BlockingIOError, ConnectionError):
            if not self._closed:
                self._socket.settimeout(0)
                socket.send_fds(self._socket, [_encoded(message)], descriptors)

    def receive(self, within_seconds: float) -> dict[str, Any]:
        """The next message.

        Raises:
            ChildFailed: it ended, or sent none in time or none that is one.
            SrganEdgeError: what it reports.
        """
        with self._lock:
            if self._closed:
                raise ChildFailed("was closed")
            try:
                self._socket.settimeout(within_seconds)
                data = self._receive()
            except TimeoutError:
                raise ChildFailed(f"gave no sign of life for {within_seconds:g} s") from None
        if not data:
            raise ChildFailed(self._how_it_ended())
        if len(data) > MAX_MESSAGE_BYTES:
            raise ChildFailed("sent a message that is too long")
        try:
            message = json.loads(data, parse_constant=_no_number)
        except (ValueError, RecursionError):
            raise ChildFailed("sent something that is no message") from None
        if not isinstance(message, dict):
            raise ChildFailed("sent something that is no message")
        if "error" in message:
            raise self._error_from(message)
        return message

    def close(self) -> None:
        """Kill the process, wherever it is. A thread that is in `receive` has a `ChildFailed`."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # a disk that hangs holds it a while longer
            self._process.wait(1)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._closed = True
            self._socket.close()
            self._complaints.close()

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(MAX_MESSAGE_BYTES + 1)
        except ConnectionResetError:
            # It died before it read all we sent, which is told once, ahead of what it still said.
            return self._socket.recv(MAX_MESSAGE_BYTES + 1)

    def _start(self, theirs: socket.socket, entry: str) -> subprocess.Popen[bytes]:
        variables = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        path = "\n".join(os.path.abspath(folder) for folder in sys.path)  # noqa: PTH100 - keeps links
        return subprocess.Popen(
            [
                *(sys.executable, "-I", "-B", "-X", "utf8", "-c", _STARTS, path),
                *(str(theirs.fileno()), str(os.getpid()), entry),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._complaints,  # a file of memory: later the child's own limits close it
            env=variables | _VARIABLES,
            pass_fds=[theirs.fileno()],
            process_group=0,
        )

    def _error_from(self, message: dict[str, Any]) -> Exception:
        name, text = message["error"], printable(str(message.get("text"))[:_MAX_TEXT])
        for kind in self._reports:
            if name == kind.__name__:
                return kind(text)
        if name == MemoryError.__name__:
            return ChildFailed(f"needs more than the {self._memory_bytes >> 20} MiB it may have")
        failure = ChildFailed(f"failed ({text})")
        failure.add_note(str(message.get("trace"))[:_MAX_TEXT])
        return failure

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return "fell silent"
        if code >= 0:
            return f"ended by itself (exit code {code})"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        if -code == signal.SIGKILL:
            return f"was killed ({name}), by somebody or for want of memory"
        return f"crashed ({name})"

    def _last_complaint(self) -> str:
        self._complaints.seek(0)
        lines = self._complaints.read(1 << 20).decode(errors="replace").split("\n")
        return f": {printable(lines[-2][:_MAX_TEXT])}" if len(lines) > 1 else ""


class Parent:
    """The child's end of the same socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, message: dict[str, Any]) -> None:
        self._socket.send(_encoded(message))

    def receive(self) -> dict[str, Any]:
        """The next message; waits for it."""
        message, memory = self.receive_with_memory()
        assert memory is None
        return message

    def receive_with_memory(self) -> tuple[dict[str, Any], mmap.mmap | None]:
        """The next message, and the shared memory that came with it."""
        data, descriptors, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE_BYTES, 1)
        if not data:
            os._exit(0)  # nobody is left to work for
        if not descriptors:
            return json.loads(data), None
        memory = mmap.mmap(descriptors[0], os.fstat(descriptors[0]).st_size)
        os.close(descriptors[0])
        return json.loads(data), memory


@contextmanager
def shared_memory(size: int) -> Iterator[tuple[mmap.mmap, int]]:
    """Memory of `size` bytes to share with a child, all of it there, and its descriptor to send.

    It outlasts the context, which closes the descriptor. It is sealed: a child that cut it short
    would kill whoever touches it.

    Raises:
        ResourcesExhausted: there is not as much.
    """
    try:
        descriptor = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(descriptor, 0, size)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
            yield mmap.mmap(descriptor, size), descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ResourcesExhausted(
            f"no memory for {size >> 20} MiB of decoded pixels: {error.strerror}"
        ) from error


def error_message(error: SrganEdgeError) -> dict[str, Any]:
    """What `Child.receive` raises as the same error, if it is one that a child may raise."""
    return {"error": type(error).__name__, "text": str(error)[:_MAX_TEXT]}


def main() -> None:
    """Where the child begins: `sys.argv` is import path, descriptor, parent's number, entry."""
    _, descriptor, parent_id, entry = sys.argv[1:]
    sandbox.die_with(int(parent_id))
    parent = Parent(socket.socket(fileno=int(descriptor)))
    orders = parent.receive()
    module, _, function = entry.partition(":")
    serve = getattr(importlib.import_module(module), function)
    writable = None if orders["writable"] is None else Path(orders["writable"])
    sandbox.limit_resources(orders["memory_bytes"], writes=writable is not None)
    sandbox.keep_to_files(map(Path, orders["readable"]), writable)
    parent.send({"ready": True})
    try:
        serve(parent, orders["request"])
    except SrganEdgeError as error:
        parent.send(error_message(error))
    except MemoryError:
        parent.send({"error": MemoryError.__name__})
    except Exception as error:
        text = f"{type(error).__name__}: {error}"[:_MAX_TEXT]
        parent.send({"error": "bug", "text": text, "trace": traceback.format_exc()[-_MAX_TEXT:]})
    os._exit(0)  # without the destructors of whatever state the decoder is in


def _encoded(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")
