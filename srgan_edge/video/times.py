"""Times of packets, moved no further than a container makes necessary."""

import math
from fractions import Fraction

from av.packet import Packet
from av.stream import Stream

from srgan_edge.video.frame import VideoPacket

_MS = Fraction(1, 1000)


class RisingTimes:
    """Corrects the times of copied packets where a container would refuse them."""

    def __init__(self) -> None:
        self.nudged = 0
        """Packets moved forward."""
        self._next_dts: dict[int, int] = {}  # by index of the stream in the output

    def correct(self, packet: "Packet[Stream]", *, may_repeat: bool) -> None:
        """Make decoding times rise, or at least not fall if they `may_repeat`."""
        least = self._next_dts.get(packet.stream_index)
        if packet.dts is None:
            packet.dts = least or 0 if packet.pts is None else packet.pts
        if least is not None and packet.dts < least:
            packet.dts = least
            self.nudged += 1
        if packet.pts is None or packet.pts < packet.dts:
            packet.pts = packet.dts
        self._next_dts[packet.stream_index] = packet.dts + (not may_repeat)


class RestOfTime:
    """Gives the last packet of a video the times that MP4 wants.

    MP4 stores the times between decodings. With B-frames, the frame that is shown last is not the
    last one to be decoded, which therefore gets what is left of the time of all frames. It is
    decoded as late as it can be: a packet that lasts beyond the last frame would make FFmpeg
    state a longer video.
    """

    def __init__(self) -> None:
        self._waiting: VideoPacket | None = None
        self._decoded_from = self._shown_from = self._shown_to = 0

    def exchanged(self, packet: VideoPacket) -> "VideoPacket | None":
        """Take a packet, in decoding order, and return the one before."""
        assert packet.pts is not None
        assert packet.dts is not None
        before, self._waiting = self._waiting, packet
        if before is None:
            self._decoded_from, self._shown_from = packet.dts, packet.pts
        self._shown_from = min(self._shown_from, packet.pts)
        self._shown_to = max(self._shown_to, packet.pts + (packet.duration or 0))
        return before

    def last(self) -> "VideoPacket | None":
        """Return the last packet, with its duration; None if there is none."""
        last = self._waiting
        if last is not None:
            assert last.pts is not None
            assert last.dts is not None
            end = self._decoded_from + self._shown_to - self._shown_from
            last.dts = max(last.dts, min(last.pts, end - (last.duration or 1)))
            last.duration = end - last.dts if end > last.dts else last.duration or 1
        return last


class ShownUntilNext:
    """Ends frames where the next one begins.

    MP4 stores the times between decodings, which beside a gap are not those between frames where
    there are B-frames.
    """

    def __init__(self) -> None:
        self._newest: int | None = None
        self._next: dict[int, int] = {}  # time of a frame -> that of the next, in ticks

    def announce(self, pts: int) -> None:
        """Learn the time of the next frame to be shown, in ticks."""
        if self._newest is not None:
            self._next[self._newest] = pts
        self._newest = pts

    def apply(self, packet: VideoPacket) -> None:
        """Shorten a packet that lasts longer; one is left as it is if its next is unknown."""
        assert packet.pts is not None
        following = self._next.pop(packet.pts, None)
        if following is not None and packet.duration and following > packet.pts:
            packet.duration = min(packet.duration, following - packet.pts)


class Milliseconds:
    """Times of the frames of a video in Matroska: rounded, and each in a millisecond of its own.

    Where two frames round to the same millisecond, the first is rounded down and the second up, so
    that a pair moves by less than a millisecond.

    Args:
        time_base: seconds per tick.
    """

    def __init__(self, time_base: Fraction) -> None:
        self._ms_per_tick = time_base / _MS
        self._moved: dict[int, int] = {}  # ticks -> milliseconds, where not simply rounded
        self._last_ms: int | None = None
        self._newest: int | None = None  # in ticks; its place depends on the frame after it

    def announce(self, pts: int) -> None:
        """Learn the time of the next frame to be shown, in ticks."""
        if self._newest is not None:
            self._place(self._newest, pts)
        self._newest = pts

    def apply(self, packet: VideoPacket) -> None:
        """Put a packet at its millisecond; its time base becomes a thousandth of a second."""
        assert packet.pts is not None
        if packet.pts == self._newest:
            self._place(packet.pts, None)
            self._newest = None
        moved = self._moved.get(packet.pts)
        pts = self._rounded(packet.pts) if moved is None else moved
        dts = None if packet.dts is None else min(self._rounded(packet.dts), pts)
        duration = max(1, self._rounded(packet.duration or 0))  # 0 means unknown
        packet.time_base = _MS
        packet.pts, packet.dts, packet.duration = pts, dts, duration

    def _place(self, pts: int, following: int | None) -> None:
        rounded = place = self._rounded(pts)
        if following is not None and self._rounded(following) <= place:
            place = math.floor(pts * self._ms_per_tick)
        if self._last_ms is not None and place <= self._last_ms:
            place = self._last_ms + 1
        self._last_ms = place
        if place != rounded:
            self._moved[pts] = place

    def _rounded(self, ticks: int) -> int:
        """Round halves away from zero, as FFmpeg does."""
        ms = ticks * self._ms_per_tick
        return math.floor(abs(ms) + Fraction(1, 2)) * (1 if ms >= 0 else -1)
