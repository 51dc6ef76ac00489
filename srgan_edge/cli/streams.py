"""Standard streams whose failure ends no work, and is an error where the output was the result.

`upscale` writes files and only tells about them: if the reader of its messages has gone, or their
disk is full, the work is done all the same. The output of `info --json` is all that it makes.
"""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from srgan_edge.errors import OutputFailed


class UnfailingStream(io.TextIOBase):
    """A standard stream; what cannot be written to it is lost, and the reason is kept."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None
        """The first error; a reader that has gone is none, as it has what it wanted."""
        self.has_result = False
        """True if what the command was asked for is written here."""

    def write(self, text: str) -> int:
        with self._surviving():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._surviving():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of a stream
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # what is in its buffer, and all that follows, goes nowhere
            if self.failure is None and error.errno != errno.EPIPE:
                self.failure = error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def open_closed_streams() -> None:
    """Keep closed standard descriptors from being given to files, which messages would destroy.

    They can be read, but not written: a result for a closed standard output fails.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - to the end
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115 - to the end


def make_streams_unfailing() -> None:
    """Wrap the two output streams; characters that their encoding lacks are escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = map(UnfailingStream, (sys.stdout, sys.stderr))


def print_result_here() -> None:
    """Note that standard output gets the result of the command, without which it has failed."""
    if isinstance(sys.stdout, UnfailingStream):
        sys.stdout.has_result = True


def refuse_lost_result() -> None:
    """Raise if the result was to be printed and could not be.

    Raises:
        OutputFailed: standard output is closed, or its disk is full.
    """
    stdout = sys.stdout
    if not isinstance(stdout, UnfailingStream) or not stdout.has_result:
        return
    stdout.flush()
    if stdout.failure is not None:
        raise OutputFailed(
            f"cannot write to standard output: {stdout.failure.strerror}; "
            "send it to another place, such as > FILE"
        )
