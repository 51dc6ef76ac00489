"""Packets that an edit list hides: which of them a container without edit lists gets."""

from collections.abc import Iterator
from fractions import Fraction

from srgan_edge.video.frame import CopiedPacket

LONGEST_PRIMING_SECONDS = Fraction(1, 8)
"""Encoders put up to two packets of silence before their audio, of 2048 samples in HE-AAC."""


class Heard:
    """Leaves out the packets of one stream that are not played.

    The silence that an encoder puts before its audio is kept, because the decoder needs it. What
    was cut away before or between the parts of an edit list is not.

    Args:
        most_before_seconds: what is hidden before the first packet that is played is kept if it
            is shorter than this.
    """

    def __init__(self, most_before_seconds: Fraction | float) -> None:
        self.hidden_between = 0
        """Packets left out so far between others that are played."""
        self._most_before_seconds = most_before_seconds
        self._before: list[CopiedPacket] | None = []
        self._hidden_since: int | None = None  # the last that is played; None: there is none yet

    def pass_on(self, copied: CopiedPacket) -> Iterator[CopiedPacket]:
        """Yield the packet if it is played, after those before it that are needed for it."""
        packet = copied.packet
        if not packet.is_discard:
            if self._before:
                yield from self._before
            self._before = None
            self.hidden_between += self._hidden_since or 0
            self._hidden_since = 0
            yield copied
        elif self._hidden_since is not None:
            self._hidden_since += 1
        elif self._before is not None:
            self._before.append(copied)
            if self._seconds_before() >= self._most_before_seconds:
                self._before = None

    def _seconds_before(self) -> Fraction:
        packets = (copied.packet for copied in self._before or ())
        return sum(
            (packet.duration * packet.time_base for packet in packets if packet.duration),
            Fraction(0),
        )
