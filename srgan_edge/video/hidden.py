"""Packets that an edit list hides: which of them a container without edit lists gets."""

from collections.abc import Iterator
from fractions import Fraction

from srgan_edge.video.frame import CopiedPacket

_LONGEST_PRIMING_SECONDS = Fraction(1, 8)
"""Encoders put up to two packets of silence before their audio, of 2048 samples in HE-AAC."""


class Heard:
    """Leaves out the packets of one stream that are not played.

    The silence that an encoder puts before its audio is kept, because the decoder needs it. What
    was cut away before or between the parts of an edit list is not. MP4 has edit lists of its own,
    and keeps what comes before the first packet that is played.
    """

    def __init__(self, *, keeps_start: bool) -> None:
        """`keeps_start`: the container can hide what comes before the first packet played."""
        self._keeps_start = keeps_start
        self._before: list[CopiedPacket] | None = []

    def pass_on(self, copied: CopiedPacket) -> Iterator[CopiedPacket]:
        """Yield the packet if it is played, after those before it that are needed for it."""
        packet = copied.packet
        if not packet.is_discard:
            if self._before:
                yield from self._before
            self._before = None
            yield copied
        elif self._before is not None:
            self._before.append(copied)
            if not self._keeps_start and self._seconds_before() > _LONGEST_PRIMING_SECONDS:
                self._before = None

    def _seconds_before(self) -> Fraction:
        packets = (copied.packet for copied in self._before or ())
        return sum(
            (packet.duration * packet.time_base for packet in packets if packet.duration),
            Fraction(0),
        )
