"""The slots of an engine that nobody uses at the moment."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

S = TypeVar("S")


class Idle(Generic[S]):
    """Hands out slots, each to one thread at a time; who finds none waits."""

    def __init__(self, slots: list[S]) -> None:
        self._all, self._idle = slots, list(slots)
        self._changed = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[S]:
        """A slot for this thread alone."""
        with self._changed:
            while not self._idle:
                self._changed.wait()
            slot = self._idle.pop()
        try:
            yield slot
        finally:
            with self._changed:
                self._idle.append(slot)
                self._changed.notify_all()

    @contextmanager
    def all(self) -> Iterator[list[S]]:
        """Every slot, once nobody uses any; whoever wants one waits meanwhile."""
        with self._changed:
            while len(self._idle) < len(self._all):
                self._changed.wait()
            yield self._all
