"""Patience of the workers with the disk: while it is full or fails they wait, and try again."""

import threading
from collections.abc import Callable
from typing import TypeVar

from srgan_edge.serve.log import Log

TRY_AGAIN_SECONDS = 2.0

T = TypeVar("T")


class Patience:
    """The calls of one kind of worker to the `JobStore`. Any thread may call any method.

    Args:
        stopping: set when the service stops, and nothing is tried again.
    """

    def __init__(self, log: Log, stopping: threading.Event) -> None:
        self._log, self._stopping = log, stopping
        self.trouble: str | None = None
        """The last answer of the disk, while it is waited for; None: it does its work."""

    def attempt(self, call: Callable[[], T]) -> T | None:
        """Return what a call returns; None: the disk does not let it, now."""
        try:
            result = call()
        except OSError as error:
            if self.trouble is None:
                self._log.warning("disk", text=str(error))
            self.trouble = error.strerror or str(error)
            return None
        self.trouble = None
        return result

    def insist(self, call: Callable[[], bool]) -> bool:
        """Return what a call returns, once the disk lets it; False: the service stops before."""
        while (done := self.attempt(call)) is None:
            if self._stopping.wait(TRY_AGAIN_SECONDS):
                return False
        return done
