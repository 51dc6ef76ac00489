"""How long frames take from the decoder into the result."""

import time
from collections import deque


class Delays:
    """Measures each frame from `arrived` to `left`, which may be called in two threads.

    Frames leave in the order of their arrival; those that never leave are not measured.
    """

    def __init__(self) -> None:
        self.arrivals = self.departures = 0
        self.longest_seconds = 0.0
        self._sum_seconds = 0.0
        self._under_way: deque[tuple[int, float]] = deque()  # pts, and when it arrived

    @property
    def mean_seconds(self) -> float:
        return self._sum_seconds / max(1, self.departures)

    def arrived(self, pts: int) -> None:
        """A frame is decoded."""
        self.arrivals += 1
        self._under_way.append((pts, time.monotonic()))

    def left(self, pts: int) -> None:
        """A frame is in the result; those that arrived before it and are not will never be."""
        at, since = self._under_way.popleft()
        while at != pts:
            at, since = self._under_way.popleft()
        seconds = time.monotonic() - since
        self.departures += 1
        self._sum_seconds += seconds
        self.longest_seconds = max(self.longest_seconds, seconds)
