"""Packets that an edit list hides: which of them a container without edit lists gets."""

from collections.abc import Iterator

from srgan_edge.video.frame import CopiedPacket

MOST_PRIMING_PACKETS = {"opus": 4}
"""Codec -> packets that its encoders put before their audio at most: 80 ms of Opus."""

USUAL_PRIMING_PACKETS = 2
"""The same for all other codecs, such as 2112 samples of AAC, of which a packet has 1024."""


class Heard:
    """Leaves out the packets of one stream that are not played.

    The silence that an encoder puts before its audio is kept, because the decoder needs it. What
    was cut away before or between the parts of an edit list is not.

    Args:
        most_before: what is hidden before the first packet that is played is kept if it is no more
            packets than this.
    """

    def __init__(self, most_before: float) -> None:
        self.hidden_between = 0
        """Packets left out so far between others that are played."""
        self._most_before = most_before
        self._before: list[CopiedPacket] | None = []
        self._hidden_since: int | None = None  # the last that is played; None: there is none yet

    def pass_on(self, copied: CopiedPacket) -> Iterator[CopiedPacket]:
        """Yield the packet if it is played, after those before it that are needed for it."""
        if not copied.packet.is_discard:
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
            if len(self._before) > self._most_before:
                self._before = None
