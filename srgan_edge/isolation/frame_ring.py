"""A ring of decoded frames in memory shared by two processes; the reader needs no copy.

The process that fills the ring is not trusted. The reading process made the memory, keeps track of
the slots and says which one is filled next; how is up to `isolation.videos`.
"""

import math
import mmap
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from srgan_edge.isolation.child import shared_memory

Samples: TypeAlias = npt.NDArray[Any]

RING_BYTES = 128 << 20
FEWEST_SLOTS, MOST_SLOTS = 3, 8
"""Limits on the number of frames in the ring, which is as many as fit into `RING_BYTES`."""

_KEPT_SLOTS = 2  # left to the filling process, however many frames the reader holds


@dataclass(frozen=True)
class Plane:
    """Type and shape of one array of each frame."""

    dtype: Literal["uint8", "uint16"]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: Samples) -> Self:
        """Return the plane that can hold `array`."""
        dtype: Any = array.dtype.name
        return cls(dtype, array.shape)

    @property
    def size(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class FrameRing:
    """The reading end.

    Args:
        planes: the arrays of a frame.
        send: sends the number of slots and the descriptor of the memory to the other process.
        lend: frames may stay in the ring; if False, all are copied and none holds the memory.

    Raises:
        ResourcesExhausted: there is not enough memory.
    """

    def __init__(
        self, planes: tuple[Plane, ...], send: Callable[[int, int], None], *, lend: bool
    ) -> None:
        self._planes, self._lend = planes, lend
        self._frame_bytes = sum(plane.size for plane in planes)
        self.slots = max(FEWEST_SLOTS, min(RING_BYTES // self._frame_bytes, MOST_SLOTS))
        with shared_memory(self.slots * self._frame_bytes) as (self._memory, descriptor):
            send(self.slots, descriptor)
        self._taken: set[int] = set()
        self._freed = deque(range(self.slots))  # filled by finalizers, in any thread

    def take(self, slot: int) -> list[Samples]:
        """Return the frame in a slot: in place, or as a copy if too few slots would stay free.

        The slot is free again when no array refers to it any more.
        """
        self._taken.add(slot)
        frame = np.frombuffer(self._memory, np.uint8, self._frame_bytes, slot * self._frame_bytes)
        # Every view of this array keeps it alive.
        weakref.finalize(frame, self._freed.append, slot).atexit = False
        planes = _views(frame, self._planes)
        if self._lend and self.slots - len(self._taken) >= _KEPT_SLOTS:
            return planes
        return [plane.copy() for plane in planes]

    def freed(self) -> Iterator[int]:
        """Yield the slots that no array refers to, each once, for the other process to fill."""
        while self._freed:
            slot = self._freed.popleft()
            self._taken.discard(slot)
            yield slot


class FrameSlots:
    """The filling end."""

    def __init__(self, memory: mmap.mmap, planes: tuple[Plane, ...], slots: int) -> None:
        self.planes = planes
        frames = np.frombuffer(memory, np.uint8).reshape(slots, -1)
        self._slots = [_views(frame, planes) for frame in frames]

    def put(self, slot: int, arrays: list[Samples]) -> None:
        """Copy a frame into a slot."""
        for place, array in zip(self._slots[slot], arrays, strict=True):
            place[...] = array


def _views(frame: Samples, planes: tuple[Plane, ...]) -> list[Samples]:
    ends = np.cumsum([plane.size for plane in planes])
    pieces = np.split(frame, ends[:-1])
    return [
        piece.view(plane.dtype).reshape(plane.shape)
        for piece, plane in zip(pieces, planes, strict=True)
    ]
