"""A bounded queue between two threads that ends in one of three ways, and never hangs.

The producer is done, the producer failed (in both cases the consumer still gets everything, and
finds the error in `error`), or the consumer gave up (the producer is told at its next put).
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class ConsumerGone(Exception):
    """Nobody will take what is put; the consumer's own error says why."""


class Channel(Generic[T]):
    """Items from one producing to one consuming thread, at most `capacity` in between."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = self._abandoned = False
        self.error: BaseException | None = None
        """What stopped the producer; to be looked at when the items have ended."""

    def put(self, item: T) -> None:
        """Hand over one item; waits while the channel is full.

        Raises:
            ConsumerGone: `abandon` was called.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._abandoned or len(self._items) < self._capacity)
            if self._abandoned:
                raise ConsumerGone
            self._items.append(item)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """No more items, because all were put or because of `error`."""
        with self._changed:
            self._ended, self.error = True, error
            self._changed.notify_all()

    def abandon(self) -> None:
        """The consumer takes no more; what is queued is dropped."""
        with self._changed:
            self._abandoned = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """All items in order, until the producer ends."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._ended)
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


class NewestChannel(Channel[T]):
    """One whose `put` never waits: of items that may be dropped, it keeps the newest `capacity`.

    All others are kept, however many; they should be small.
    """

    def __init__(self, capacity: int, may_be_dropped: Callable[[T], bool]) -> None:
        super().__init__(capacity)
        self._may_be_dropped = may_be_dropped
        self.dropped = 0
        """Items that nobody will see, because newer ones came."""

    def put(self, item: T) -> None:
        """Hand over one item, in place of the oldest that may be dropped if there are too many.

        Raises:
            ConsumerGone: `abandon` was called.
        """
        with self._changed:
            if self._abandoned:
                raise ConsumerGone
            self._items.append(item)
            waiting = [place for place, it in enumerate(self._items) if self._may_be_dropped(it)]
            if len(waiting) > self._capacity:
                del self._items[waiting[0]]
                self.dropped += 1
            self._changed.notify_all()
