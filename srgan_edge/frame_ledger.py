"""Which of the frames that a decoder was given came out of it. Knows times alone, no packets."""

import heapq
from fractions import Fraction

from srgan_edge.video import FrameTime

_ONE_PICTURE = Fraction(3, 4)  # of a period: two fields are half of one apart


class FrameLedger:
    """Finds frames that a decoder swallowed, which it may do without a word.

    Frames come out in the order of their times: of what was sent for a time before that of the
    frame that comes, nothing will come any more. All times are ticks of one time base.
    """

    def __init__(self, period_ticks: Fraction) -> None:
        """`period_ticks`: between two frames on average; tells two fields from two frames."""
        self._period_ticks = period_ticks
        self._awaited: list[FrameTime] = []  # a heap
        self._latest: int | None = None
        self._latest_has_fields = False

    def send(self, pts: int, duration: int) -> None:
        """A packet with one frame, or with one field of a frame, goes to the decoder."""
        heapq.heappush(self._awaited, FrameTime(pts, duration))

    def receive(self, pts: int, *, has_fields: bool = False) -> list[FrameTime]:
        """A frame comes out; returns what should have come before it and is missing by now."""
        lost = self._give_up(before=pts)
        if self._awaited and self._awaited[0].pts == pts:
            heapq.heappop(self._awaited)
        self._latest, self._latest_has_fields = pts, has_fields
        return lost

    def close(self) -> list[FrameTime]:
        """The decoder is empty; returns what is missing at the end."""
        return self._give_up(before=None)

    def _give_up(self, before: int | None) -> list[FrameTime]:
        lost = []
        while self._awaited and (before is None or self._awaited[0].pts < before):
            sent = heapq.heappop(self._awaited)
            if not self._is_second_field(sent.pts):
                lost.append(sent)
        return lost

    def _is_second_field(self, pts: int) -> bool:
        if self._latest is None or not self._latest_has_fields:
            return False
        return 0 < pts - self._latest < _ONE_PICTURE * self._period_ticks
