"""A child process that reads an untrusted file, and whose answers are not trusted either.

The child starts without a shell and inherits neither environment nor descriptors. It drops the
rights that `sandbox` removes, and communicates over one socket: JSON objects of limited size, and
shared memory made by its parent. If it crashes, hangs or is taken over, the parent gets an
exception and goes on.
"""

import errno
import fcntl
import importlib
import json
import mmap
import os
import signal
import socket
import stat
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import RLock
from time import monotonic, sleep
from typing import Any, BinaryIO, NamedTuple, Self

from srgan_edge.errors import (
    HostMemoryExhausted,
    InputDamaged,
    InputRefused,
    ResourcesExhausted,
    SrganEdgeError,
    printable,
)
from srgan_edge.isolation import sandbox, system_calls
from srgan_edge.machine import address_space_is_limited, without_collections

Reports = tuple[type[SrganEdgeError], ...]

MAX_MESSAGE_BYTES = 1 << 16
MAX_DESCRIPTORS = 8
"""Most descriptors that come with one message."""
START_SECONDS = 600
"""Time limit for the child's imports. They take 0.2 s, those of PyTorch 3 s, but a minute on a slow
disk or a machine with much other work; nothing that a stranger made has been read until then."""

_STARTS = (
    "import sys; sys.path[:] = sys.argv[1].split('\\n')\n"
    "from srgan_edge.isolation import child; child.main()"
)
# The child's address space is limited, and each thread of malloc and OpenBLAS reserves some.
_VARIABLES = {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}
_KEPT_VARIABLES = ("LD_LIBRARY_PATH",)
_MAX_TEXT = 2000


class ChildFailed(Exception):
    """The child crashed, hung or broke the protocol. The message completes "the decoder ..."."""


class ChildKilled(ResourcesExhausted):
    """The kernel killed the child for lack of memory, or another process did.

    That is no fault of the file that it read, so callers let it pass. The same command may succeed.
    """

    def __init__(self, read: Path | None) -> None:
        super().__init__(
            f"{'' if read is None else f'{read}: '}the process that read it was killed (SIGKILL), "
            "by another process or for lack of memory; free some memory, or raise the limit of the "
            "container, and type the same command"
        )


class Child:
    """The parent's end: starts a process that calls `entry`, and exchanges messages with it.

    Args:
        entry: `module:function`, called in the child with its `Parent` and the request.
        request: JSON object for `entry`.
        memory_bytes: how much memory the child may map beyond its libraries.
        readable: files that the child may read, where the kernel can enforce it; what is no regular
            file is not among them.
        folder: folder in which it may read everything; None: there is none.
        writable: folder in which it may make and change regular files; None: it may not write.
        reports: errors that the child may raise in the parent, besides `ChildFailed`.

    The process dies with the thread that made this object, and at `close`. It has its own process
    group, so that Ctrl-C reaches only the parent.

    Raises:
        ResourcesExhausted: the process cannot be started.
    """

    def __init__(
        self,
        entry: str,
        request: dict[str, Any],
        memory_bytes: int,
        readable: list[Path],
        folder: Path | None = None,
        writable: Path | None = None,
        reports: Reports = (InputRefused, InputDamaged),
    ) -> None:
        self._memory_bytes, self._reports = memory_bytes, reports
        self._read = next(iter(readable), None)
        self._files = {path: file for path in readable if (file := _file_at(path))}
        self._lock = RLock()  # keeps the socket open while a thread receives
        self._closed = False
        try:
            self._socket, self._complaints, self._process = _taken(entry) or _started(entry)
        except OSError as error:
            raise ResourcesExhausted(f"cannot start a process: {error.strerror}") from error
        with closed_on_failure(self.close), _handles(readable, folder, writable) as handles:
            orders = {
                "memory_bytes": memory_bytes,
                "folders": [folder is not None, writable is not None],
                "request": request,
            }
            try:
                self.send(orders, *handles)
                self.receive(START_SECONDS)
            except ChildFailed as failure:
                reason = f"{failure} before it began{self._last_complaint()}"
                raise ResourcesExhausted(f"a process {reason}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def send(self, message: dict[str, Any], *descriptors: int) -> None:
        """Send a message, and with it descriptors of files or shared memory, without ever waiting.

        The next `receive` notices if the child does not read its messages or is gone.
        """
        with self._lock, suppress(BlockingIOError, ConnectionError):
            if not self._closed:
                self._socket.settimeout(0)
                socket.send_fds(self._socket, [_encoded(message)], list(descriptors))

    def receive(self, within_seconds: float) -> dict[str, Any]:
        """Return the next message.

        Raises:
            ChildFailed: the child ended, or sent no message in time, or an invalid one.
            SrganEdgeError: the child reported it.
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
            how = self._how_it_ended()
            raise ChildKilled(self._read) if how.startswith("was killed") else ChildFailed(how)
        if len(data) > MAX_MESSAGE_BYTES:
            raise ChildFailed("sent a message that is too long")
        message = parsed(data)
        if not isinstance(message, dict):
            raise ChildFailed("sent an invalid message")
        if "error" in message:
            raise self._error_from(message)
        return message

    def close(self) -> None:
        """Kill the process and its group. A thread waiting in `receive` gets a `ChildFailed`."""
        self._kill_group()
        with suppress(subprocess.TimeoutExpired):  # a hanging disk delays its end
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
            # The child died with messages unread. This error comes once, before its last messages.
            return self._socket.recv(MAX_MESSAGE_BYTES + 1)

    def _error_from(self, message: dict[str, Any]) -> Exception:
        name, text = message["error"], printable(str(message.get("text"))[:_MAX_TEXT])
        for kind in self._reports:
            if name == kind.__name__:
                replaced = self._replaced() if kind is InputRefused else None
                return replaced or kind(text)
        if name == MemoryError.__name__:
            if address_space_is_limited():  # of this process, which its children share
                return HostMemoryExhausted()
            return ChildFailed(f"needs more than the {self._memory_bytes >> 20} MiB it may have")
        failure = ChildFailed(f"failed ({text})")
        failure.add_note(str(message.get("trace"))[:_MAX_TEXT])
        return failure

    def _replaced(self) -> InputDamaged | None:
        """Return an error if a file has another in its place now, which the child may not read.

        One that is missing may come back, with the disk or the folder that it is on.
        """
        for path, file in self._files.items():
            if _file_at(path) not in (None, file):
                return InputDamaged(
                    f"{path}: damaged: the file was changed or removed while it was read"
                )
        return None

    def _kill_group(self) -> None:
        if self._process.returncode is None:  # until then its number is that of no other group
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _how_it_ended(self) -> str:
        deadline = monotonic() + 1
        with suppress(ChildProcessError):  # another thread closed this
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            while os.waitid(os.P_PID, self._process.pid, options) is None:
                if monotonic() > deadline:
                    return "stopped responding"
                sleep(0.001)
        self._kill_group()  # what it left behind
        code = self._process.wait()
        if code >= 0:
            return f"exited with code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        if -code == signal.SIGKILL:
            return f"was killed ({name})"
        return f"crashed ({name})"

    def _last_complaint(self) -> str:
        self._complaints.seek(0)
        lines = self._complaints.read(1 << 20).decode(errors="replace").split("\n")
        return f": {printable(lines[-2][:_MAX_TEXT])}" if len(lines) > 1 else ""


class _Started(NamedTuple):
    """A process that imports what its entry needs, and then waits for its first message."""

    socket: socket.socket
    complaints: BinaryIO
    """The file that its stderr goes to."""
    process: subprocess.Popen[bytes]


_ahead: dict[str, list[_Started]] = {}
"""Processes that were started ahead, by their entry."""


@contextmanager
def started_ahead(entries: Iterable[str]) -> Iterator[None]:
    """Start the processes of the next children with these entries, unless they wait already.

    They import their libraries while the caller does something else, read nothing, and die with the
    thread that calls this. Those that no child took are ended with the body.
    """
    started: list[_Started] = []
    try:
        with suppress(OSError):  # the children will start their processes, or report why not
            for entry, wanted in Counter(entries).items():
                waiting = _ahead.setdefault(entry, [])
                while len(waiting) < wanted:
                    started.append(_started(entry))
                    waiting.append(started[-1])
        yield
    finally:
        for waiting in _ahead.values():
            for one in [it for it in waiting if it in started]:
                waiting.remove(one)
                one.socket.close()
                one.complaints.close()
                one.process.kill()
                one.process.wait()


def _taken(entry: str) -> _Started | None:
    waiting = _ahead.get(entry)
    return waiting.pop(0) if waiting else None


def _started(entry: str) -> _Started:
    """Start the process of a child; raises OSError."""
    variables = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    path = "\n".join(os.path.abspath(folder) for folder in sys.path)  # noqa: PTH100 - keeps links
    ours, theirs = _socket_pair()
    with theirs, closed_on_failure(ours.close):
        complaints = os.fdopen(os.memfd_create("stderr"), "r+b")
        with closed_on_failure(complaints.close):
            process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-B", "-X", "utf8", "-c", _STARTS, path),
                    *(str(theirs.fileno()), str(os.getpid()), entry),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,  # in memory; the child's limits soon forbid writing to it
                env=variables | _VARIABLES,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
    return _Started(ours, complaints, process)


class Parent:
    """The child's end of the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, message: dict[str, Any]) -> None:
        self._socket.send(_encoded(message))

    def receive(self) -> dict[str, Any]:
        """Wait for the next message and return it."""
        message, descriptors = self.receive_with_descriptors()
        assert not descriptors
        return message

    def receive_with_descriptors(self) -> tuple[dict[str, Any], list[int]]:
        """Return the next message and the descriptors that came with it."""
        data, descriptors, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS)
        if not data:
            os._exit(0)  # the parent is gone
        return json.loads(data), descriptors


def mapped(descriptor: int) -> mmap.mmap:
    """Map the shared memory behind a descriptor, and close the descriptor."""
    try:
        return mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


@contextmanager
def shared_memory(size: int) -> Iterator[tuple[mmap.mmap, int]]:
    """Allocate `size` bytes to share with a child; yields them and the descriptor to send.

    The memory outlives the context, which closes the descriptor. It is sealed, because a child that
    could shrink it would kill every process that touches it.

    Raises:
        ResourcesExhausted: there is not enough memory.
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
            f"no memory for {size / 2**20:.1f} MiB of decoded pixels: {error.strerror}; raise the "
            f"limit (ulimit {'-f' if error.errno == errno.EFBIG else '-v'})"
        ) from error


@contextmanager
def closed_on_failure(close: Callable[[], None]) -> Iterator[None]:
    """Call `close` if the body raises anything."""
    try:
        yield
    except BaseException:
        close()
        raise


def error_message(error: SrganEdgeError) -> dict[str, Any]:
    """Return the message for which `Child.receive` raises `error`, if the child may report it."""
    return {"error": type(error).__name__, "text": str(error)[:_MAX_TEXT]}


def main() -> None:
    """Run the child; `sys.argv` holds import path, descriptor, the parent's ID and the entry."""
    _, descriptor, parent_id, entry = sys.argv[1:]
    sandbox.die_with(int(parent_id))
    parent = Parent(socket.socket(fileno=int(descriptor)))
    module, _, function = entry.partition(":")
    with without_collections():
        serve = getattr(importlib.import_module(module), function)
    orders, handles = parent.receive_with_descriptors()
    files = list(handles)
    has_folder, writes = orders["folders"]
    writable = files.pop() if writes else None
    folder = files.pop() if has_folder else None
    sandbox.limit_resources(orders["memory_bytes"], writes=writes)
    sandbox.keep_to_files(files, folder, writable)
    system_calls.keep_to_decoding(writes=writes)
    for handle in handles:
        os.close(handle)
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
    os._exit(0)  # skips destructors, whatever state the decoder is in


@contextmanager
def _handles(files: list[Path], *folders: Path | None) -> Iterator[list[int]]:
    """Yield descriptors that only name the regular files, and the folders, for the sandbox.

    What is missing or of another kind is left out; opening it says why it cannot be read.
    """
    with ExitStack() as opened:
        handles = []
        for path in files:
            with suppress(OSError):
                handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
                opened.callback(os.close, handle)
                if stat.S_ISREG(os.fstat(handle).st_mode):
                    handles.append(handle)
        for folder in filter(None, folders):
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            handles.append(os.open(folder, flags))
            opened.callback(os.close, handles[-1])
        yield handles


def _file_at(path: Path) -> tuple[int, int] | None:
    """Return the device and the inode of a file, which another one in its place does not share."""
    with suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets, neither of them with the number of a standard stream.

    In a process that was started with closed standard streams they would get those numbers, and
    the child's own streams would take the place of its socket.
    """
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with pair[0], pair[1]:
        ours, theirs = (
            socket.socket(fileno=fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))
            for end in pair
        )
    return ours, theirs


def parsed(data: bytes) -> Any:  # noqa: ANN401 - any JSON
    """Parse JSON from a child.

    Raises:
        ChildFailed: it is none.
    """
    try:
        return json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise ChildFailed("sent an invalid message") from None


def _encoded(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number")
