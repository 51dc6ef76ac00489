"""A film that is sent over the network, through as many connections as it takes.

It begins at zero, whatever the clock of its source says. After a lost connection it goes on as much
later as it was away; what was missed stays missing.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Unpack

from srgan_edge.endpoint import Address
from srgan_edge.errors import InputDamaged, SrganEdgeError
from srgan_edge.isolated_reader import ReaderOptions
from srgan_edge.pipeline import Item
from srgan_edge.stream_reader import StreamReader
from srgan_edge.video import CopiedPacket, Frame

TIMEOUT_SECONDS = 10.0
"""Without a byte, before a connection counts as lost."""

TRIES = 5
"""At a new connection, before the source counts as lost."""

FIRST_WAIT_SECONDS = 1.0
"""Before the first of them; twice as long before each other."""

MOST_BEHIND_SECONDS = 1.0
"""That a paced source may be late before it is taken to have paused, and need not catch up."""

GAP_SECONDS = 1.0
"""Between two frames, from which on it is said that something is missing."""


class LiveSource:
    """Iterates over the frames and packets of an address, reconnecting where it must.

    With `paced`, what comes in bursts, as HLS does, comes out when it is due: frames that come all
    at once would look like those of a source that upscaling is too slow for.

    A source that says it is at its end is; so is, with an error, one that does not come back, or
    comes back as a film of another kind.

    Args:
        say: takes a line on each connection that was lost or made again, and on what is missing.
        reading: as of `VideoReader`.
    """

    reader: StreamReader
    """The connection that is read from, or was last; its counts are those of all until then."""

    def __init__(
        self,
        address: Address,
        say: Callable[[str], None],
        *,
        paced: bool = False,
        **reading: Unpack[ReaderOptions],
    ) -> None:
        self._address, self._say, self._reading = address, say, reading
        self._is_paced = paced and address.comes_in_bursts
        self._latest_seconds = Fraction(0)

    def open(self) -> StreamReader:
        """Connect, and find out what is in the film.

        Raises:
            InputRefused, InputDamaged: as `StreamReader`.
        """
        self.reader = self._connect()
        self._kind = _kind_of(self.reader)
        self._shift = -self.reader.start_seconds
        self._zero = self._arrived = time.monotonic()  # when time zero of the film is, by our clock
        return self.reader

    def __iter__(self) -> Iterator[Item]:
        while True:
            try:
                for item in self.reader:
                    yield self._shifted(item)
                return
            except InputDamaged as error:
                if self.reader.reached_end:
                    raise
                lost = error
            finally:
                self.reader.close()
            self._resume(self._again(lost))

    def _connect(self) -> StreamReader:
        return StreamReader(self._address, timeout_seconds=TIMEOUT_SECONDS, **self._reading)

    def _again(self, lost: InputDamaged) -> StreamReader:
        name, wait_seconds, problem = self._address.name, FIRST_WAIT_SECONDS, str(lost)
        for attempt in range(1, TRIES + 1):
            self._say(
                f"{problem}; connecting again in {wait_seconds:g} s, try {attempt} of {TRIES}"
            )
            time.sleep(wait_seconds)
            wait_seconds *= 2
            try:
                reader = self._connect()
            except SrganEdgeError as error:
                problem = str(error)
                continue
            if _kind_of(reader) != self._kind:
                reader.close()
                raise InputDamaged(f"{name}: damaged: it came back as another kind of film")
            return reader
        raise InputDamaged(f"{name}: lost, and not back after {TRIES} tries: {problem}")

    def _resume(self, reader: StreamReader) -> None:
        away_seconds = Fraction(time.monotonic() - self._arrived)
        self._shift = self._latest_seconds + away_seconds - reader.start_seconds
        for count in ("untimed", "nudged", "doubtful", "interlaced"):
            setattr(reader, count, getattr(self.reader, count) + getattr(reader, count))
        self.reader = reader
        self._say(f"{self._address.name}: back after {float(away_seconds):.1f} s")

    def _shifted(self, item: Item) -> Item:
        if isinstance(item, Frame):
            time_base = self.reader.info.time_base
            pts = item.pts + round(self._shift / time_base)
            seconds = pts * time_base
            gap_seconds = seconds - self._latest_seconds
            if gap_seconds > GAP_SECONDS and gap_seconds > 3 * item.duration * time_base:
                between = f"{float(self._latest_seconds):.1f} and {float(seconds):.1f} s"
                self._say(f"{self._address.name}: no frames between {between}")
            if self._is_paced:
                self._wait_until(float(seconds))
            self._latest_seconds, self._arrived = seconds, time.monotonic()
            return replace(item, pts=pts)
        packet = item.packet
        ticks = round(self._shift / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts + ticks
        packet.dts = None if packet.dts is None else packet.dts + ticks
        return CopiedPacket(packet)

    def _wait_until(self, seconds: float) -> None:
        """Until it is that time in the film; a film that is late goes on from now."""
        early_seconds = self._zero + seconds - time.monotonic()
        if early_seconds < -MOST_BEHIND_SECONDS:
            self._zero -= early_seconds
        time.sleep(max(0.0, early_seconds))


def _kind_of(reader: StreamReader) -> tuple[object, ...]:
    """What an encoder and a muxer that have begun rely on."""
    info = reader.info
    streams = [(stream.type, stream.codec_context.name) for stream in reader.copied]
    return info.width, info.height, info.pixel_format, info.time_base, info.color, streams
