"""A video that is sent over the network, through as many connections as it takes.

It begins at zero, whatever the clock of its source says. After a lost connection it goes on as much
later as it was away; what was missed stays missing.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Protocol, Unpack

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from srgan_edge.errors import InputDamaged, InputRefused, SrganEdgeError
from srgan_edge.pipeline import Channel, ConsumerGone, Item
from srgan_edge.video.endpoint import PIPED_DEMUXERS, Address, Inlet, InputPipe
from srgan_edge.video.frame import CopiedPacket, Frame, ReaderOptions, decoding_seconds
from srgan_edge.video.nvidia import Nvdec
from srgan_edge.video.opening import OPEN_OPTIONS
from srgan_edge.video.reader import VideoReader

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


class StreamReader(VideoReader):
    """Reads one video from a pipe or an address, as `VideoReader` does a file, on the CPU.

    `reached_end` tells, after an error, whether the input ended by itself.

    Raises:
        InputRefused: nothing there, or nothing that is allowed; and as `VideoReader`.
        InputDamaged: as `VideoReader`.
    """

    def __init__(
        self, inlet: Inlet, *, timeout_seconds: float = 10, **reading: Unpack[ReaderOptions]
    ) -> None:
        """`reading`: as of `VideoReader`. An address may send nothing for `timeout_seconds`."""
        self._inlet, self._timeout_seconds = inlet, timeout_seconds
        super().__init__(Path(inlet.name), **reading)

    @property
    def start_seconds(self) -> Fraction:
        """When its first frame or audio is due, by its own clock; to be asked before iterating."""
        first_frame = (self.info.start_pts or 0) * self.info.time_base
        copied = (item.packet for item in self._ahead if isinstance(item, CopiedPacket))
        starts = (decoding_seconds(packet) for packet in copied)
        return min((start for start in starts if start is not None), default=first_frame)

    def _open(self, nvdec: Nvdec | None) -> InputContainer:
        inlet, began = self._inlet, time.monotonic()
        try:
            if isinstance(inlet, InputPipe):
                return _open_pipe(inlet)
            return _open_address(inlet, self._timeout_seconds)
        except av.FFmpegError as error:
            # RTSP makes an error of its own of a time that ran out.
            in_time = time.monotonic() - began < self._timeout_seconds
            raise InputRefused(_why_not(inlet, error, in_time=in_time)) from error

    def _demux(self) -> "Iterator[Packet[Stream]]":
        """Who joins a live source begins at a keyframe: the frames before refer to others."""
        has_begun = isinstance(self._inlet, InputPipe)
        for packet in super()._demux():
            is_video = packet.stream_index == self.video.index
            has_begun = has_begun or (is_video and packet.is_keyframe)
            if has_begun or not is_video:
                yield packet

    def _examine_container(self) -> None:
        """Nothing can be read again. But where a length is stated, it must be there."""
        stated = self.container.duration
        if stated and "matroska" in self._formats:
            self._compare_duration(Fraction(stated, 1_000_000))
        elif stated and "hls" in self._formats:
            self._compare_duration(Fraction(stated + (self.container.start_time or 0), 1_000_000))


class LiveSource:
    """Iterates over the frames and packets of an address, reconnecting where it must.

    With `paced`, what comes in bursts, as HLS does, comes out when it is due: frames that come all
    at once would look like those of a source that upscaling is too slow for.

    A source that says it is at its end is; so is, with an error, one that does not come back, or
    comes back as a video of another kind.

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
        """Connect, and find out what is in the video.

        Raises:
            InputRefused, InputDamaged: as `StreamReader`.
        """
        self.reader = self._connect()
        self._kind = _kind_of(self.reader)
        self._shift = -self.reader.start_seconds
        self._zero = self._arrived = (
            time.monotonic()
        )  # when time zero of the video is, by our clock
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
                raise InputDamaged(f"{name}: damaged: it came back as another kind of video")
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
        """Until it is that time in the video; a video that is late goes on from now."""
        early_seconds = self._zero + seconds - time.monotonic()
        if early_seconds < -MOST_BEHIND_SECONDS:
            self._zero -= early_seconds
        time.sleep(max(0.0, early_seconds))


def _kind_of(reader: StreamReader) -> tuple[object, ...]:
    """What an encoder and a muxer that have begun rely on."""
    info = reader.info
    streams = [(stream.type, stream.codec_context.name) for stream in reader.copied]
    return info.width, info.height, info.pixel_format, info.time_base, info.color, streams


# A video from a pipe or over the network, read once: how it is opened, and with what it is trusted.
#
# Everything else is as in `video_reader`, of which this is the other end: no going back, no size.
_PROTOCOLS = {
    "rtsp": "rtp,udp,tcp",
    "udp": "udp",
    "srt": "srt",
    "http": "http,https,tcp,tls,crypto",
    "https": "http,https,tcp,tls,crypto",
}
"""What the demuxer of each scheme may open. Never `file`: a playlist is a stranger's."""

_DEMUXERS = {
    "rtsp": "rtsp,rtp,mpegts",
    "udp": "mpegts",
    "srt": "mpegts",
    "http": "hls,mpegts,mov,aac",
    "https": "hls,mpegts,mov,aac",
}
"""What it may find there."""

_ANALYSIS_MICROSECONDS = 2_000_000  # a transport stream says what is in it again and again


def _open_pipe(pipe: InputPipe) -> InputContainer:
    return av.open(
        f"pipe:{pipe.descriptor}",
        options=OPEN_OPTIONS | {"protocol_whitelist": "pipe", "format_whitelist": PIPED_DEMUXERS},
        metadata_errors="replace",
    )


def _open_address(address: Address, timeout_seconds: float) -> InputContainer:
    options = OPEN_OPTIONS | {
        "protocol_whitelist": _PROTOCOLS[address.scheme],
        "format_whitelist": _DEMUXERS[address.scheme],
        "analyzeduration": str(_ANALYSIS_MICROSECONDS),
    }
    if address.scheme == "rtsp":
        options["rtsp_flags"] = "prefer_tcp"  # loses nothing, and passes firewalls
    if address.demuxer == "hls":
        options["seg_max_retry"] = "3"  # afterwards it is passed over
    return av.open(
        address.url,
        format=address.demuxer,
        options=options,
        metadata_errors="replace",
        timeout=timeout_seconds,
    )


def _why_not(inlet: Inlet, error: av.FFmpegError, *, in_time: bool) -> str:
    if isinstance(inlet, Address):
        if not in_time:
            return f"{inlet.name}: nothing came in time"
        if isinstance(error, av.ProtocolNotFoundError):
            return f"{inlet.name}: this FFmpeg was built without {inlet.scheme}"
        return f"{inlet.name}: {error.strerror}"
    return (
        f"{inlet.name} is empty, or no video that can be read once through; possible: "
        f"{PIPED_DEMUXERS.replace(',', ', ')}; type: ffmpeg -i FILE -map 0 -c copy -f nut - | ..."
    )


# A video read in a thread of its own, for sources that may keep a reader waiting for ever.
#
# A read from a pipe or a connection cannot be called off. So nobody waits for this thread: it is
# left behind, and ends with the process if the source sends nothing more.
class Source(Protocol):
    """A video that has to be opened; then it says what is in it, and iterating reads it."""

    @property
    def reader(self) -> VideoReader:
        """What is read from, once `open` was called."""
        ...

    def open(self) -> VideoReader: ...

    def __iter__(self) -> Iterator[Item]: ...


class Intake:
    """The items of a source, for another thread than that which opens, reads and closes it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._opened: Channel[VideoReader] = Channel(1)
        self._items: Channel[Item] = Channel(1)
        self._wanted = threading.Event()
        threading.Thread(target=self._read, name="intake", daemon=True).start()

    def reader(self) -> VideoReader:
        """What says what is in the video; waits until it is open. Not to be read from.

        Raises:
            SrganEdgeError: it cannot be opened.
        """
        for reader in self._opened:
            return reader
        assert self._opened.error is not None
        raise self._opened.error

    def __iter__(self) -> Iterator[Item]:
        """All items in their order, until the end or `stop`.

        Raises:
            SrganEdgeError: the source is damaged; after everything before it was yielded.
        """
        self._wanted.set()
        yield from self._items
        if self._items.error is not None:
            raise self._items.error

    def stop(self) -> None:
        """Let the items end here, wherever the source is; from any thread."""
        self._items.abandon()
        self._items.end()
        self._wanted.set()

    def _read(self) -> None:
        try:
            reader = self._source.open()
        except BaseException as error:
            self._opened.end(error)
            return
        with reader:
            self._opened.put(reader)
            self._opened.end()
            self._wanted.wait()
            try:
                for item in self._source:
                    self._items.put(item)
            except ConsumerGone:
                pass
            except BaseException as error:
                self._items.end(error)
            else:
                self._items.end()
