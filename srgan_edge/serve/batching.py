"""Calls of one engine that several threads share: images of one size are upscaled together.

The results are those of single calls; an engine must not mix the images of a batch.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from srgan_edge.engines.base import Closing, Engine, NotFinite
from srgan_edge.pixels import Pixels

Shape = tuple[int, ...]


@dataclass(eq=False)
class _Group:
    """Images of one shape that wait for each other."""

    images: list[Pixels] = field(default_factory=list)
    result: Pixels | None = None
    bad: frozenset[int] = frozenset()
    """Numbers of the images that are not finite."""
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def size(self) -> int:
        return sum(map(len, self.images))


class SharedCalls(Closing):
    """An engine whose calls wait up to `window_seconds` for others of the same shape.

    A call waits no longer than until all threads at work are waiting, so that one alone never does.

    Args:
        engine: it accepts any number of images.
        most: images in one call.
    """

    def __init__(self, engine: Engine, window_seconds: float, most: int) -> None:
        self._engine, self._window_seconds, self._most = engine, window_seconds, most
        self.info = engine.info
        self._open: dict[Shape, _Group] = {}
        self._changed = threading.Condition()
        self._working = self._waiting = 0
        self.calls = self.images = 0
        """Calls of the engine so far, and images in them."""

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count this thread as one that may call soon."""
        with self._changed:
            self._working += 1
        try:
            yield
        finally:
            with self._changed:
                self._working -= 1
                self._changed.notify_all()

    def upscale(self, batch: Pixels) -> Pixels:
        """Upscale uint8 [N, h, w, 3], perhaps with the images of other threads."""
        with self._changed:
            group = self._open.get(batch.shape[1:])
            leads = group is None or group.size + len(batch) > self._most
            if group is None or leads:
                group = self._open[batch.shape[1:]] = _Group()
            first = group.size
            group.images.append(batch)
            self._waiting += 1
            self._changed.notify_all()
        try:
            if leads:
                self._lead(group)
            group.done.wait()
        finally:
            with self._changed:
                self._waiting -= 1
        if group.error is not None:
            raise group.error
        assert group.result is not None
        mine = np.ascontiguousarray(group.result[first : first + len(batch)])
        bad = [index - first for index in group.bad if first <= index < first + len(batch)]
        if bad:
            raise NotFinite(mine, sorted(bad))
        return mine

    def _lead(self, group: _Group) -> None:
        """Wait for others to join the group, then upscale it for all."""
        shape = group.images[0].shape[1:]
        with self._changed:
            self._changed.wait_for(
                lambda: group.size >= self._most or self._waiting >= self._working,
                self._window_seconds,
            )
            if self._open.get(shape) is group:
                del self._open[shape]
            self.calls += 1
            self.images += group.size
        try:
            whole = group.images[0] if len(group.images) == 1 else np.concatenate(group.images)
            group.result = self._engine.upscale(whole)
        except NotFinite as error:
            group.result, group.bad = error.result, frozenset(error.frames)
        except BaseException as error:
            group.error = error
        finally:
            group.done.set()

    def close(self) -> None:
        self._engine.close()
