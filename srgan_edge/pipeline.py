"""Decode, upscale, encode: three stages side by side, a few frames apart.

The pipeline knows neither files nor engines: frames come from an iterator, pass through a function,
and go to a sink. Every frame passes once and leaves in order, however many are upscaled at a time;
copied packets bypass the network and keep their place. The channels between the stages bound the
memory, whatever the length of the video.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Generic, Protocol, TypeVar, cast

from srgan_edge.depth import deepened
from srgan_edge.pixels import Pixels
from srgan_edge.video.frame import CodedFrame, CopiedPacket, Frame

QUEUED_ITEMS = 4
"""Items between two stages: enough to even out slow frames."""

MOST_LIGHT = 8
"""Frames that wait to be made of an earlier result while later ones are upscaled."""

IN_FLIGHT_BYTES = 1 << 30
"""Budget for results that are in work or wait for the encoder. Each of a 4K video is 398 MB: of
these, fewer are in work at once."""

Item = Frame | CopiedPacket

Result = Frame | CodedFrame

T = TypeVar("T")

Source = TypeVar("Source")
"""Input of the upscaling stage: RGB frames, linked ones, or decoded frames that stay on a GPU."""

Given = TypeVar("Given")
Done = TypeVar("Done")


class Sink(Protocol):
    """Destination of the last stage; `VideoWriter` is one."""

    def write(self, frame: Result) -> None: ...

    def copy(self, copied: CopiedPacket) -> None: ...


class ConsumerGone(Exception):
    """The consumer accepts no more items; its own error has the reason."""


class Channel(Generic[T]):
    """A bounded queue from one producing to one consuming thread, which never hangs.

    It ends when the producer is done or has failed: in both cases the consumer still gets every
    item, and then finds the error in `error`. It also ends when the consumer abandons it, which the
    producer learns at its next `put`.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = self._abandoned = False
        self.error: BaseException | None = None
        """Error that stopped the producer; valid once the items have ended."""

    def put(self, item: T) -> None:
        """Append an item; waits while the channel is full.

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
        """Declare that no more items follow, because all were put or because of `error`."""
        with self._changed:
            self._ended, self.error = True, error
            self._changed.notify_all()

    def abandon(self) -> None:
        """Drop queued items; the consumer accepts no more."""
        with self._changed:
            self._abandoned = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Yield all items in order, until the producer ends."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._ended)
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


class NewestChannel(Channel[T]):
    """A channel whose `put` never waits: it keeps the newest `capacity` droppable items.

    All other items are kept, however many there are; they should be small.
    """

    def __init__(self, capacity: int, may_be_dropped: Callable[[T], bool]) -> None:
        super().__init__(capacity)
        self._may_be_dropped = may_be_dropped
        self.dropped = 0
        """Items that were dropped because newer ones came."""

    def put(self, item: T) -> None:
        """Append an item; if too many are waiting, drop the oldest droppable one.

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
    upscale: Callable[[Given], Result],
    sink: Sink,
    on_frame: Callable[[], None] = lambda: None,
    slots: int = 1,
    end_source: Callable[[], None] = lambda: None,
    newest: NewestChannel[Source | CopiedPacket] | None = None,
    result_bytes: int = 0,
    taken: Callable[[Source], Given] | None = None,
    is_light: Callable[[Given], bool] | None = None,
) -> int:
    """Pass every frame of `source` through `upscale` into `sink`; return the number of frames.

    With `newest`, decoding never waits, and that channel drops frames when upscaling is slower.
    Frames wait nowhere else, so that latency stays low.

    `source` is iterated in one thread, `sink` is called in another, `upscale` in `slots` further
    threads at once, and `on_frame` in the caller's. The first error of any stage stops all stages
    and is raised here. An error of `source` is raised after the frames before it were written, so
    that they can be kept. `end_source` is called when no more frames are needed: a hanging decoder
    must not delay Ctrl-C. With `result_bytes`, the memory of one result, no more are in work and
    queued than `IN_FLIGHT_BYTES` hold, but one each. `upscale` gets what `taken` returns, which is
    called in the caller's thread with the frames in their order, those that are dropped left out.
    `is_light` is as for `in_order`.
    """
    fitting = max(1, IN_FLIGHT_BYTES // result_bytes) if result_bytes else slots + QUEUED_ITEMS
    slots = min(slots, fitting)
    queued = max(1, min(QUEUED_ITEMS, fitting - slots))
    decoded: Channel[Source | CopiedPacket]
    decoded = Channel(QUEUED_ITEMS) if newest is None else newest
    encoded: Channel[Result | CopiedPacket] = Channel(queued if newest is None else 1)
    # One more frame than there are slots is in work, so that no slot waits for a frame; not where
    # the next frame should be as new as possible.
    most_in_work = slots - 1 if newest is not None or fitting <= slots else slots
    decoder = threading.Thread(target=_decode, args=(source, decoded), name="decode", daemon=True)
    encoder = _Encoder(encoded, sink)
    frames = 0
    decoder.start()
    encoder.start()
    try:
        items = decoded if taken is None else _taken(decoded, taken)
        given = cast("Iterable[Given | CopiedPacket]", items)  # without `taken` both are alike
        for item in in_order(given, upscale, slots, most_in_work, is_light):
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


def _taken(
    items: Iterable[Source | CopiedPacket], taken: Callable[[Source], Given]
) -> Iterator[Given | CopiedPacket]:
    for item in items:
        yield item if isinstance(item, CopiedPacket) else taken(item)


def upscaled_frame(frame: Frame, upscale: Callable[[Pixels], Pixels]) -> Frame:
    """Upscale a frame at its own bit depth; its metadata is kept."""
    pixels = upscale(frame.pixels)
    deep = None if frame.deep is None else deepened(frame.deep, pixels)
    return replace(frame, pixels=pixels, deep=deep)


def in_order(
    items: Iterable[Given | CopiedPacket],
    upscale: Callable[[Given], Done],
    slots: int,
    most_in_work: int,
    is_light: Callable[[Given], bool] | None = None,
) -> Generator[Done | CopiedPacket, None, None]:
    """Yield the items in order, with `slots` frames upscaled at a time.

    No item is read while more than `most_in_work` frames are unfinished. Those for which `is_light`
    returns True are made of the result of a frame before them, with little work. They are made in
    the caller's thread when it is their turn: a slot would only wait for that frame. Until then up
    to `MOST_LIGHT` of them wait, and the frames behind them are upscaled.
    """
    executor = ThreadPoolExecutor(slots, thread_name_prefix="upscale")
    waiting: deque[CopiedPacket | Future[Done] | Callable[[], Done]] = deque()
    in_work = light = 0
    try:
        for item in items:
            if isinstance(item, CopiedPacket):
                waiting.append(item)
            elif is_light is not None and is_light(item):
                waiting.append(partial(upscale, item))
                light += 1
            else:
                waiting.append(executor.submit(upscale, item))
                in_work += 1
            while waiting and (
                in_work > most_in_work or light > MOST_LIGHT or not isinstance(waiting[0], Future)
            ):
                first = waiting.popleft()
                in_work -= isinstance(first, Future)
                light -= callable(first)
                done = _finished(first)
                del first  # its frame
                yield done
        yield from map(_finished, waiting)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _finished(
    item: CopiedPacket | Future[Done] | Callable[[], Done],
) -> Done | CopiedPacket:
    if isinstance(item, CopiedPacket):
        return item
    return item.result() if isinstance(item, Future) else item()


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
    """Writes the channel's items to the sink, and keeps the error that stopped it."""

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
