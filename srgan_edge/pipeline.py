"""Decode, upscale, encode: three stages side by side, a few frames apart.

The pipeline knows neither files nor engines: frames come from an iterator, go through a function,
and leave through a sink. Every frame goes through once and leaves in order, however many are
upscaled at a time; copied packets pass the network by and keep their place. Memory is bounded by
the channels between the stages, whatever the length of the video.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from srgan_edge.depth import deepened
from srgan_edge.pixels import Pixels
from srgan_edge.video.frame import CodedFrame, CopiedPacket, Frame

QUEUED_ITEMS = 4
"""Between two stages. Enough to even out slow frames; an upscaled 4K frame is 25 MB."""

Item = Frame | CopiedPacket

Result = Frame | CodedFrame

Source = TypeVar("Source", bound=Frame | CodedFrame)
"""What is upscaled: RGB, or an image as a decoder left it on a GPU."""

Given = TypeVar("Given")
Done = TypeVar("Done")


class Sink(Protocol):
    """What the last stage writes to; `VideoWriter` is one."""

    def write(self, frame: Result) -> None: ...

    def copy(self, copied: CopiedPacket) -> None: ...


# A bounded queue between two threads that ends in one of three ways, and never hangs.
#
# The producer is done, the producer failed (in both cases the consumer still gets everything, and
# finds the error in `error`), or the consumer gave up (the producer is told at its next put).
T = TypeVar("T")


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


def upscale_video(
    source: Iterable[Source | CopiedPacket],
    upscale: Callable[[Source], Result],
    sink: Sink,
    on_frame: Callable[[], None] = lambda: None,
    slots: int = 1,
    end_source: Callable[[], None] = lambda: None,
    newest: NewestChannel[Source | CopiedPacket] | None = None,
) -> int:
    """Pass every frame of `source` through `upscale` into `sink`; returns their number.

    With `newest`, decoding never waits, and that channel is where frames are dropped when
    upscaling is slower; as none waits anywhere else, those that come through come soon.

    `source` is iterated in one thread and `sink` is called in another; `upscale` is called in
    `slots` threads of their own at once, and `on_frame` in the caller's. The first error of any
    stage stops all of them and is raised here. An error of `source` is raised after the frames
    before it were written, so that they can be kept. `end_source` is called when no more frames are
    wanted: a decoder that hangs must not hold up who pressed Ctrl-C.
    """
    decoded: Channel[Source | CopiedPacket]
    decoded = Channel(QUEUED_ITEMS) if newest is None else newest
    encoded: Channel[Result | CopiedPacket] = Channel(QUEUED_ITEMS if newest is None else 1)
    # One frame more than there are slots is under way, so that none waits for the next; unless the
    # next should be a newer one.
    most_in_work = slots if newest is None else slots - 1
    decoder = threading.Thread(target=_decode, args=(source, decoded), name="decode", daemon=True)
    encoder = _Encoder(encoded, sink)
    frames = 0
    decoder.start()
    encoder.start()
    try:
        for item in in_order(decoded, upscale, slots, most_in_work):
            encoded.put(item)
            if not isinstance(item, CopiedPacket):
                frames += 1
                on_frame()
    except ConsumerGone:
        pass  # the encoder's own error is raised below
    finally:
        decoded.abandon()
        encoded.end()
        end_source()
        decoder.join()
        encoder.join()
    if error := encoder.error or decoded.error:
        raise error
    return frames


def in_order(
    items: Iterable[Given | CopiedPacket],
    upscale: Callable[[Given], Done],
    slots: int,
    most_in_work: int,
) -> Generator[Done | CopiedPacket, None, None]:
    """The items in their order, frames upscaled, `slots` of them at a time.

    No item is taken while more than `most_in_work` frames are not finished.
    """
    executor = ThreadPoolExecutor(slots, thread_name_prefix="upscale")
    waiting: deque[CopiedPacket | Future[Done]] = deque()
    in_work = 0
    try:
        for item in items:
            if isinstance(item, CopiedPacket):
                waiting.append(item)
            else:
                waiting.append(executor.submit(upscale, item))
                in_work += 1
            while in_work > most_in_work or (waiting and isinstance(waiting[0], CopiedPacket)):
                in_work -= isinstance(waiting[0], Future)
                done = _finished(waiting.popleft())
                yield done
        yield from map(_finished, waiting)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _finished(item: CopiedPacket | Future[Done]) -> Done | CopiedPacket:
    return item.result() if isinstance(item, Future) else item


def _decode(
    source: Iterable[Source | CopiedPacket], decoded: Channel[Source | CopiedPacket]
) -> None:
    try:
        for item in source:
            decoded.put(item)
    except ConsumerGone:
        pass
    except BaseException as error:
        decoded.end(error)
    else:
        decoded.end()


class _Encoder(threading.Thread):
    """Writes what comes through the channel; keeps the error that stopped it, if one did."""

    def __init__(self, encoded: Channel[Result | CopiedPacket], sink: Sink) -> None:
        super().__init__(name="encode", daemon=True)
        self._encoded, self._sink = encoded, sink
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for item in self._encoded:
                if isinstance(item, CopiedPacket):
                    self._sink.copy(item)
                else:
                    self._sink.write(item)
        except BaseException as error:
            self.error = error
            self._encoded.abandon()


def upscaled_frame(frame: Frame, upscale: Callable[[Pixels], Pixels]) -> Frame:
    """The frame, in as many bits as it has, with all that is said of it."""
    pixels = upscale(frame.pixels)
    deep = None if frame.deep is None else deepened(frame.deep, pixels)
    return replace(frame, pixels=pixels, deep=deep)


class ConsumerGone(Exception):
    """Nobody will take what is put; the consumer's own error says why."""
