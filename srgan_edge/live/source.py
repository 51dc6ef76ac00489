"""Read pipes and live sources: video that is read once, with no way back and no known size.

A live video begins at zero, whatever the clock of its source says. After a lost connection it
resumes as much later as it was away; frames that were missed stay missing.
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
from srgan_edge.live.passing import ExaminedPipe
from srgan_edge.pipeline import Channel, ConsumerGone, Item
from srgan_edge.video.endpoint import PIPED_DEMUXERS, Address, Inlet, InputPipe
from srgan_edge.video.frame import CopiedPacket, Frame, Notes, ReaderOptions, decoding_seconds
from srgan_edge.video.nvidia import Nvdec
from srgan_edge.video.opening import OPEN_OPTIONS, is_copied
from srgan_edge.video.reader import VideoReader
from srgan_edge.video.transport import Examined, examined_bytes
from srgan_edge.video.truncation import find_break_in_passing, find_y4m_break_in_passing

TIMEOUT_SECONDS = 10.0
"""Silence after which a connection counts as lost."""

TRIES = 5
"""Attempts to reconnect before the source counts as lost."""

FIRST_WAIT_SECONDS = 1.0
"""Pause before the first attempt; each further pause is twice as long."""

MOST_BEHIND_SECONDS = 1.0
"""A paced source later than this counts as paused and is not made to catch up."""

GAP_SECONDS = 1.0
"""Shortest distance of two frames that is reported as a gap."""

_PROTOCOLS = {
    "rtsp": "rtp,udp,tcp",
    "udp": "udp",
    "srt": "srt",
    "http": "http,https,tcp,tls,crypto",
    "https": "http,https,tcp,tls,crypto",
}
"""Protocols that the demuxer of each scheme may open. Never `file`: playlists are untrusted."""

_DEMUXERS = {
    "rtsp": "rtsp,rtp,mpegts",
    "udp": "mpegts",
    "srt": "mpegts",
    "http": "hls,mpegts,mov,aac",
    "https": "hls,mpegts,mov,aac",
}
"""Formats that each scheme may deliver."""

_ANALYSIS_MICROSECONDS = 2_000_000  # transport streams repeat their description all the time


class StreamReader(VideoReader):
    """Reads one video from a pipe or an address, on the CPU.

    Raises:
        InputRefused: Nothing comes, or no format that is allowed; see also `VideoReader`.
        InputDamaged: See `VideoReader`.
    """

    def __init__(
        self, inlet: Inlet, *, timeout_seconds: float = 10, **reading: Unpack[ReaderOptions]
    ) -> None:
        """An address may be silent for `timeout_seconds`; `reading` goes to `VideoReader`."""
        self._inlet, self._timeout_seconds = inlet, timeout_seconds
        self._pipe: ExaminedPipe[Examined | str | None] | None = None
        super().__init__(Path(inlet.name), **reading)
        self.is_hls = "hls" in self.demuxer.formats
        self.is_open_ended = self.is_hls and not self.container.duration
        """True for HLS whose playlist did not state its end when it was opened."""

    @property
    def start_seconds(self) -> Fraction:
        """Time of the first frame or audio packet by the source's clock; ask before iterating."""
        first_frame = (self.info.start_pts or 0) * self.info.time_base
        copied = (item.packet for item in self._ahead if isinstance(item, CopiedPacket))
        starts = (decoding_seconds(packet) for packet in copied)
        return min((start for start in starts if start is not None), default=first_frame)

    def _open(self, nvdec: Nvdec | None) -> InputContainer:
        inlet, began = self._inlet, time.monotonic()
        try:
            if isinstance(inlet, InputPipe):
                return self._open_pipe(inlet)
            return _open_address(inlet, self._timeout_seconds)
        except av.FFmpegError as error:
            # RTSP reports a timeout as some other error.
            in_time = time.monotonic() - began < self._timeout_seconds
            raise InputRefused(_why_not(inlet, error, in_time=in_time)) from error

    def _open_pipe(self, inlet: InputPipe) -> InputContainer:
        pipe = self._pipe = ExaminedPipe[Examined | str | None](inlet.descriptor)
        options = OPEN_OPTIONS | {"protocol_whitelist": "", "format_whitelist": PIPED_DEMUXERS}
        container = av.open(pipe, "r", options=options, metadata_errors="surrogateescape")
        if "matroska" in container.format.name:
            pipe.examine(find_break_in_passing)
        elif container.format.name == "mpegts":
            used = {it.id for it in container.streams if it.type == "video" or is_copied(it)}
            pipe.examine(lambda passed: examined_bytes(passed, used))
        elif container.format.name == "yuv4mpegpipe":
            frame_bytes = _bytes_of_frames(container)
            pipe.examine(lambda passed: find_y4m_break_in_passing(passed, frame_bytes))
        else:  # NUT goes on behind what is broken, with a gap
            pipe.close()
        return container

    def _unkept_elements(self) -> list[str]:
        return []  # it cannot be read a second time

    def _demux(self) -> "Iterator[Packet[Stream]]":
        """Drop frames of a live source before its first keyframe: they refer to earlier ones."""
        has_begun = isinstance(self._inlet, InputPipe)
        for packet in super()._demux():
            is_video = packet.stream_index == self.video.index
            has_begun = has_begun or (is_video and packet.is_keyframe)
            if has_begun or not is_video:
                yield packet

    def close(self) -> None:
        """Close the source. Packets and frames that were yielded stay valid."""
        super().close()
        if self._pipe is not None:
            self._pipe.close()

    def _examine_container(self) -> None:
        """Record what a check beside the pipe found, and compare the duration if one is stated."""
        found = None if self._pipe is None else self._pipe.verdict()
        if isinstance(found, str):
            if not self.demuxer.broke_off:  # FFmpeg did not read what is behind
                self.notes.damage.add(found)
        elif found is not None:
            self.demuxer.note_transport(found, conceal=self._conceal)
        stated, formats = self.container.duration, self.demuxer.formats
        if stated and "matroska" in formats:
            self.demuxer.compare_duration(stated)
        elif stated and "hls" in formats and self.demuxer.reached_end:
            self.demuxer.compare_duration(stated + (self.container.start_time or 0))


class LiveSource:
    """Iterates over the frames and packets of an address, and reconnects when necessary.

    With `paced`, input that arrives in bursts (HLS) is yielded when it is due. Frames that come all
    at once would look like those of a source that is too fast for the upscaler.

    A source that signals its end has ended. A live HLS playlist is fetched again for that, since
    reading it ends without an error when its server is gone. A source that does not come back, or
    comes back as another kind of video, ends with an error, and so does a playlist that states its
    end and breaks off, since it would begin anew. Damage on any connection raises
    `InputDamaged` at the end at the latest, unless the frames that were shown make up for it.

    Args:
        say: Receives a line for every lost and new connection and for every gap.
        reading: Options for `VideoReader`.
    """

    reader: StreamReader
    """The current or last connection."""

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
        self._before = Notes()  # on the connections before `reader`
        self._gaps = Notes()  # by the clock of the result

    @property
    def notes(self) -> Notes:
        """The notes on all connections until now."""
        found = self._before + self.reader.notes
        return replace(found, gaps=self._gaps.gaps, first_gap=self._gaps.first_gap)

    def open(self) -> StreamReader:
        """Connect and decode the first frame.

        Raises:
            InputRefused, InputDamaged: See `StreamReader`.
        """
        self.reader = self._connect()
        self._kind = _kind_of(self.reader)
        self._shift = -self.reader.start_seconds
        # Time zero of the video by our clock.
        self._zero = self._arrived = time.monotonic()
        return self.reader

    def __iter__(self) -> Iterator[Item]:
        while True:
            try:
                for item in self.reader:
                    yield self._shifted(item)
                if not self.reader.is_open_ended or self._playlist_states_end():
                    self._refuse_damage()
                    return
                name = self._address.name
                lost = InputDamaged(f"{name}: nothing came, though its playlist states no end")
            except InputDamaged as error:
                begins_anew = self.reader.is_hls and not self.reader.is_open_ended
                if self.reader.demuxer.reached_end or begins_anew:
                    raise self._final(str(error)) from error
                lost = error
            finally:
                self.reader.close()
            self._resume(self._again(lost))

    def _final(self, problem: str) -> InputDamaged:
        """Return an error that names the damage on earlier connections, too."""
        before = self._before.damage
        return InputDamaged(f"{problem}; before it reconnected: {before}" if before else problem)

    def _refuse_damage(self) -> None:
        damage = self.notes.damage
        if not damage.is_repaired:
            raise InputDamaged(f"{self._address.name}: damaged: {damage}")

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
            if self.reader.is_open_ended and not reader.is_open_ended:
                reader.close()  # it would begin anew
                raise self._final(f"{name}: damaged: it ended before the connection was back")
            if _kind_of(reader) != self._kind:
                reader.close()
                raise self._final(f"{name}: damaged: it came back as another kind of video")
            return reader
        raise self._final(f"{name}: lost, and not back after {TRIES} tries: {problem}")

    def _playlist_states_end(self) -> bool:
        try:
            with _open_address(self._address, TIMEOUT_SECONDS) as container:
                return bool(container.duration)
        except av.FFmpegError:
            return False

    def _resume(self, reader: StreamReader) -> None:
        away_seconds = Fraction(time.monotonic() - self._arrived)
        self._shift = self._latest_seconds + away_seconds - reader.start_seconds
        # Losing the connection is not damage: the gap is reported, and what follows is whole.
        before = self.reader.notes
        before.damage = before.damage.without(self.reader.demuxer.broke_off)
        self._before, self.reader = self._before + before, reader
        self._say(f"{self._address.name}: back after {float(away_seconds):.1f} s")

    def _shifted(self, item: Item) -> Item:
        if isinstance(item, Frame):
            time_base = self.reader.info.time_base
            pts = item.pts + round(self._shift / time_base)
            seconds = pts * time_base
            gap_seconds = seconds - self._latest_seconds
            if gap_seconds > GAP_SECONDS and gap_seconds > 3 * item.duration * time_base:
                self._gaps.add_gap(begins := float(self._latest_seconds), ends := float(seconds))
                between = f"{begins:.2f} and {ends:.2f} s"
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
        """Sleep until that time in the video; a video that is late continues from now."""
        early_seconds = self._zero + seconds - time.monotonic()
        if early_seconds < -MOST_BEHIND_SECONDS:
            self._zero -= early_seconds
        time.sleep(max(0.0, early_seconds))


class Source(Protocol):
    """A video that has to be opened before it is read by iterating."""

    @property
    def notes(self) -> Notes:
        """Everything found so far that is worth reporting, once `open` was called."""
        ...

    def open(self) -> VideoReader:
        """Return the reader that knows the facts of the video."""
        ...

    def __iter__(self) -> Iterator[Item]: ...


class Intake:
    """Reads a source in a thread of its own and hands its items to another thread.

    A read from a pipe or a connection cannot be cancelled and may block forever. Nobody waits for
    this thread: if the source sends nothing more, it ends with the process.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._opened: Channel[VideoReader] = Channel(1)
        self._items: Channel[Item] = Channel(1)
        self._wanted = threading.Event()
        threading.Thread(target=self._read, name="intake", daemon=True).start()

    def reader(self) -> VideoReader:
        """Wait until the source is open and return its reader, for facts only.

        Raises:
            SrganEdgeError: The source cannot be opened.
        """
        for reader in self._opened:
            return reader
        assert self._opened.error is not None
        raise self._opened.error

    def __iter__(self) -> Iterator[Item]:
        """Yield all items in order, until the end or `stop`.

        Raises:
            SrganEdgeError: The source is damaged; everything before the damage was yielded.
        """
        self._wanted.set()
        yield from self._items
        if self._items.error is not None:
            raise self._items.error

    def stop(self) -> None:
        """End the iteration now, wherever the source is. May be called from any thread."""
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


def _kind_of(reader: StreamReader) -> tuple[object, ...]:
    """Return everything that must not change once an encoder and a muxer have started."""
    info = reader.info
    streams = [(stream.type, stream.codec_context.name) for stream in reader.copied]
    return info.width, info.height, info.pixel_format, info.time_base, info.color, streams


def _open_address(address: Address, timeout_seconds: float) -> InputContainer:
    options = OPEN_OPTIONS | {
        "protocol_whitelist": _PROTOCOLS[address.scheme],
        "format_whitelist": _DEMUXERS[address.scheme],
        "analyzeduration": str(_ANALYSIS_MICROSECONDS),
    }
    if address.scheme == "rtsp":
        options["rtsp_flags"] = "prefer_tcp"  # loses no packets, and passes firewalls
    if address.demuxer == "hls":
        options["seg_max_retry"] = "3"  # a segment is skipped afterwards
    return av.open(
        address.url,
        format=address.demuxer,
        options=options,
        metadata_errors="surrogateescape",
        timeout=timeout_seconds,
    )


def _bytes_of_frames(y4m: InputContainer) -> int:
    """Return the size of a frame, of which nothing is coded, in bytes."""
    components = y4m.streams.video[0].format.components
    return sum(it.width * it.height * -(-it.bits // 8) for it in components)


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
