"""A film read in a thread of its own, for sources that may keep a reader waiting for ever.

A read from a pipe or a connection cannot be called off. So nobody waits for this thread: it is left
behind, and ends with the process if the source sends nothing more.
"""

import threading
from collections.abc import Iterator
from typing import Protocol

from srgan_edge.pipeline import Channel, ConsumerGone, Item
from srgan_edge.video_reader import VideoReader


class Source(Protocol):
    """A film that has to be opened; then it says what is in it, and iterating reads it."""

    @property
    def reader(self) -> VideoReader:
        """What is read from, once `open` was called."""
        ...

    def open(self) -> VideoReader: ...

    def __iter__(self) -> Iterator[Item]: ...


class Intake:
    """The items of a source, for another thread than that which opens, reads and closes it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._opened: Channel[VideoReader] = Channel(1)
        self._items: Channel[Item] = Channel(1)
        self._wanted = threading.Event()
        threading.Thread(target=self._read, name="intake", daemon=True).start()

    def reader(self) -> VideoReader:
        """What says what is in the film; waits until it is open. Not to be read from.

        Raises:
            SrganEdgeError: it cannot be opened.
        """
        for reader in self._opened:
            return reader
        assert self._opened.error is not None
        raise self._opened.error

    def __iter__(self) -> Iterator[Item]:
        """All items in their order, until the end or `stop`.

        Raises:
            SrganEdgeError: the source is damaged; after everything before it was yielded.
        """
        self._wanted.set()
        yield from self._items
        if self._items.error is not None:
            raise self._items.error

    def stop(self) -> None:
        """Let the items end here, wherever the source is; from any thread."""
        self._items.abandon()
        self._items.end()
        self._wanted.set()

    def _read(self) -> None:
        try:
            reader = self._source.open()
        except BaseException as error:
            self._opened.end(error)
            return
        with reader:
            self._opened.put(reader)
            self._opened.end()
            self._wanted.wait()
            try:
                for item in self._source:
                    self._items.put(item)
            except ConsumerGone:
                pass
            except BaseException as error:
                self._items.end(error)
            else:
                self._items.end()
