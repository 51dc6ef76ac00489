"""The errors a user can cause or meet, each with its exit code.

Every message is one line that names what was found, what is possible and what to type. An exception
that is not an `SrganEdgeError` is a bug and keeps its traceback (exit code 1).
"""

import errno
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import ClassVar


class SrganEdgeError(Exception):
    """An error that the user can fix. `exit_code` is part of the command line's contract."""

    exit_code: ClassVar[int] = 1


class UsageError(SrganEdgeError):
    """The request contradicts itself or names something that does not exist."""

    exit_code = 2


class InputRefused(SrganEdgeError):
    """The input is missing, is not media that we accept, or exceeds a limit."""

    exit_code = 3


class InputDamaged(SrganEdgeError):
    """The input is media, but damaged or incomplete."""

    exit_code = 4


class OutputFailed(SrganEdgeError):
    """The output cannot be written: disk, permission, or a container that cannot hold it."""

    exit_code = 5


class ResultAppeared(OutputFailed):
    """Somebody else made a file of the result's name during the work; theirs is kept."""


class ModelRefused(SrganEdgeError):
    """A model, checkpoint or engine is missing, foreign, or not what it claims to be."""

    exit_code = 6


class ResourcesExhausted(SrganEdgeError):
    """Memory, the GPU or time ran out, and every announced fallback failed too."""

    exit_code = 7


class OutOfMemory(ResourcesExhausted):
    """The GPU is out of memory; a smaller request may succeed."""

    def __init__(
        self, line: str = "the GPU is out of memory; smaller tiles or batches take less"
    ) -> None:
        super().__init__(line)


class HostMemoryExhausted(ResourcesExhausted):
    """The host has no more memory, address space or threads for this process."""

    def __init__(
        self,
        line: str = "host memory or threads are exhausted; raise the limit (ulimit -v or -u, or "
        "that of the container), or type --tile 64",
    ) -> None:
        super().__init__(line)


class EngineLost(ResourcesExhausted):
    """An engine's device failed and will fail again; another engine may continue."""


class KernelsMissing(ResourcesExhausted):
    """Our CUDA kernels do not run on this GPU; a slower path works without them."""


class Interrupted(BaseException):
    """A signal stopped the run. Not an `Exception`, so that no error handler swallows it."""

    def __init__(self, signum: int, left: str = "nothing half done was kept") -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}; {left}")
        self.signum = signum
        self.exit_code = 128 + signum


class ReaderGone(BaseException):
    """The reader of our standard output closed the pipe.

    This is no failure and prints nothing; the exit code is that of a filter that SIGPIPE ended.
    """

    exit_code: ClassVar[int] = 128 + signal.SIGPIPE


class ExtraMissing(SrganEdgeError):
    """An optional dependency is not installed; the message is the exact pip command."""

    exit_code = 6

    def __init__(self, module: str, requirement: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package `{module}`, which is not installed: "
            f"pip install '{requirement}'"
        )


_NO_MEMORY = re.compile(
    r"bad_alloc|failed to map|can(no|')t (start new thread|(pre)?allocate)|cannot create thread"
    r"|resource temporarily unavailable|(not enough|out of|insufficient|enough) memory"
    r"|(unable|failed|failure) to (m?alloc|mmap)|alloc\w* failed|without setting an exception",
    re.IGNORECASE,
)
"""Texts with which libraries report a lack of memory or threads, in errors of any type."""


def lacks_memory(error: BaseException) -> bool:
    """Return True if an error stems from a lack of host memory, address space or threads."""
    return any(
        isinstance(it, MemoryError)
        or (isinstance(it, OSError) and it.errno in (errno.ENOMEM, errno.EAGAIN))
        or (not isinstance(it, SrganEdgeError) and _NO_MEMORY.search(str(it)) is not None)
        for it in causes_of(error)
    )


def file_failed(error: OSError) -> "InputRefused | OutputFailed":
    """Return our error for one of the system's that names a file, such as a name that is too long.

    It is for the end of a command: whoever knows what the file is for says it better.
    """
    name = os.fsdecode(error.filename)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return OutputFailed(f"cannot write {name}: {error.strerror}; name another place")
    return InputRefused(f"{name}: {error.strerror}; check the name and the rights on its folders")


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and those that led to it."""
    behind: BaseException | None = error
    for _ in range(100):  # chains may be circular
        if behind is None:
            return
        yield behind
        behind = behind.__cause__ or behind.__context__


def print_error(error: SrganEdgeError) -> None:
    """Print the one line that a failure gets on stderr."""
    sys.stderr.write(f"srgan-edge: error: {printable(str(error))}\n")


def quoted(word: object) -> str:
    """Quote a word of a command that a message tells the user to type, such as a file's name.

    What cannot be typed is escaped so that the shell makes it again, as in `$'caf\\xe9.png'`, and a
    path that looks like an option begins with `./`.
    """
    text = os.fspath(word) if isinstance(word, os.PathLike) else str(word)
    if isinstance(word, os.PathLike) and text.startswith("-"):
        text = f"./{text}"
    if text.isprintable():
        return shlex.quote(text)
    escaped = text.replace("\\", r"\\").replace("'", r"\'")
    return f"$'{''.join(c if c.isprintable() else _in_bytes(c) for c in escaped)}'"


def typed(words: Iterable[object]) -> str:
    """Return a command of several words as it has to be typed."""
    return " ".join(map(quoted, words))


def printable(text: str) -> str:
    """Escape control characters and line ends, so that a name cannot write to the terminal.

    A byte of a name that is not UTF-8, which Python has as a surrogate, becomes `\\xe9`.
    """
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]


def _in_bytes(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
