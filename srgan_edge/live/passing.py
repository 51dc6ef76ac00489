"""A pipe, read by FFmpeg, and examined while its bytes pass.

A file is examined once it was read to its end (`srgan_edge.video.truncation`). A pipe cannot be
read again, so the same code reads along in a thread of its own.
"""

import os
import select
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

_KEPT_BYTES = 1 << 16
"""Bytes before the place of a `PassedBytes` to which it can go back."""

_MOST_BYTES = 1 << 24
"""Bytes beyond that place that are held before FFmpeg has to wait."""

Verdict = TypeVar("Verdict")


class PassedBytes:
    """The bytes that have passed, as a file for one thread, in which reading waits for more.

    It goes forward, and back by a little.
    """

    def __init__(self) -> None:
        self.reached_end = False
        """Bytes behind the end were asked for."""
        self._changed = threading.Condition()
        self._held = bytearray()
        self._first = self._at = 0  # places of the first byte that is held, and of the next to read
        self._wanted: int | None = None  # up to where it was read so far; None: not at all
        self._is_over = self._is_closed = False

    def seek(self, at: int) -> None:
        """Go to a place in bytes from the start."""
        with self._changed:
            assert at >= self._first, f"byte {at} has passed"
            self._at = at
            self._forget()

    def read(self, count: int) -> bytes:
        """Return the next bytes, fewer at the end."""
        with self._changed:
            wanted = self._wanted = self._at + count
            self._forget()
            self._changed.wait_for(lambda: self._is_over or self.passed_bytes >= wanted)
            start = self._at - self._first
            content = bytes(self._held[start : start + count])
            self._at += len(content)
            self.reached_end |= len(content) < count
            return content

    def close(self) -> None:
        """End it, and hold nothing any more: nobody reads it."""
        with self._changed:
            self._is_over = self._is_closed = True
            self._held.clear()
            self._changed.notify_all()

    def add(self, content: bytes) -> None:
        """Add bytes that have passed; waits while the reader is far behind."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._has_room)
            if not self._is_closed:
                self._held += content
                self._forget()

    def end(self) -> None:
        """Say that nothing comes any more."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    @property
    def passed_bytes(self) -> int:
        """The number of bytes that have passed until now."""
        return self._first + len(self._held)

    @property
    def _has_room(self) -> bool:
        return (
            self._wanted is None
            or self.passed_bytes < self._wanted
            or len(self._held) < _MOST_BYTES
        )

    def _forget(self) -> None:
        gone = min(self._at - _KEPT_BYTES - self._first, len(self._held))
        if gone > 0:
            del self._held[:gone]
            self._first += gone
        self._changed.notify_all()


class ExaminedPipe(Generic[Verdict]):
    """A pipe as a file for FFmpeg, which reads it once from start to end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._passed = PassedBytes()
        self._verdict: Future[Verdict] | None = None

    def read(self, count: int) -> bytes:
        """Return some bytes, at least one; none at the end."""
        try:
            content = os.read(self._descriptor, count)
        except BlockingIOError:  # whoever started us made it so
            waiting = select.poll()
            waiting.register(self._descriptor, select.POLLIN)
            waiting.poll()
            return self.read(count)
        if content:
            self._passed.add(content)
        else:
            self._passed.end()
        return content

    def examine(self, check: Callable[[PassedBytes], Verdict]) -> None:
        """Begin to examine everything from the first byte on."""
        verdict: Future[Verdict] = Future()

        def run() -> None:
            try:
                verdict.set_result(check(self._passed))
            except BaseException as error:
                verdict.set_exception(error)
            finally:
                self._passed.close()

        self._verdict = verdict
        threading.Thread(target=run, name="examination", daemon=True).start()

    def verdict(self) -> Verdict | None:
        """Return what was found, once FFmpeg has read all; None if nothing was examined."""
        self._passed.end()
        return None if self._verdict is None else self._verdict.result()

    def close(self) -> None:
        """End an examination, and hold nothing any more. The pipe stays open."""
        self._passed.close()
