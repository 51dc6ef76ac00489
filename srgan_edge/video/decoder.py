"""Packets of one video stream in, its images out, every one of them accounted for."""

import heapq
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from srgan_edge.errors import InputRefused
from srgan_edge.video.frame import FrameTime, VideoPacket
from srgan_edge.video.nvidia import Nvdec, NvdecFailed


class StillImage(NamedTuple):
    """A decoded frame, and when it is shown."""

    frame: VideoFrame
    pts: int | None
    """In ticks of the stream, as all times here; None: the file states none."""
    duration: int
    """0: the file states none."""


# What was found wrong with a video: each kind once, with where it is first and how often.
class Damage:
    """The findings about one file. As text, it is what an error says after `damaged:`."""

    def __init__(self) -> None:
        self.is_repaired = True
        """Every finding so far is one that the frames shown make up for."""
        self._findings: dict[str, tuple[Fraction | None, int]] = {}

    def add(self, what: str, at_seconds: Fraction | None = None, *, repaired: bool = False) -> None:
        """Note a finding, at a place in the video or about all of it."""
        first, count = self._findings.get(what, (at_seconds, 0))
        self._findings[what] = first, count + 1
        self.is_repaired &= repaired

    def __bool__(self) -> bool:
        return bool(self._findings)

    def __str__(self) -> str:
        return "; ".join(
            what
            + ("" if first is None else f" at {float(first):.2f} s")
            + (f" and {count - 1} more" if count > 1 else "")
            for what, (first, count) in self._findings.items()
        )


class VideoDecoder:
    """Decodes one stream and notes in `damage` what it should have given and did not.

    With `conceal`, the image before (at the start, the one after) is shown in place of a frame
    that cannot be decoded, at the time of that frame. Not thread-safe.

    Raises:
        NvdecFailed: it is `nvdec` that decodes, and something is not as it should be.
    """

    def __init__(
        self,
        stream: VideoStream,
        damage: Damage,
        period_ticks: Fraction,
        *,
        one_to_one: bool,
        conceal: bool,
        frames_at_once: bool = False,
        nvdec: Nvdec | None = None,
    ) -> None:
        """
        Args:
            one_to_one: in this container each packet is a frame, from the first keyframe on.
            frames_at_once: each thread takes a frame of its own. Frames behind a broken one at the
                end of the file are lost then, and it is reported some packets late.
        """
        self.concealed = 0
        """Images shown in place of one that could not be decoded."""
        self._stream, self._nvdec = stream, nvdec
        self._time_base = stream.time_base or Fraction(1, 1000)
        self._damage = damage
        self._one_to_one = one_to_one
        self._conceal = conceal
        self._ledger = FrameLedger(period_ticks)
        self._lost: set[int] = set()  # times
        self._last: VideoFrame | None = None
        self._error: tuple[str, Fraction] | None = None
        self._has_untimed_packets = False
        self._first_pts: int | None = None  # in the order of the file
        stream.codec_context.thread_type = "FRAME" if frames_at_once else "SLICE"

    def decode(self, packet: VideoPacket) -> Iterator[StillImage]:
        """The images that come out when this packet goes in."""
        if packet.pts is None:
            self._has_untimed_packets = True
        elif not packet.is_discard and not self._is_hidden(packet):
            self._ledger.send(packet.pts, packet.duration or 0)
            if self._first_pts is None:
                self._first_pts = packet.pts
        yield from self._images(packet)

    def finish(self) -> Iterator[StillImage]:
        """What the decoder still holds. Afterwards `damage` is complete, as far as frames go."""
        yield from self._images(None)
        yield from self._make_up_for(self._ledger.close())
        repaired = self.concealed == len(self._lost) and not self._has_untimed_packets
        for pts in sorted(self._lost):
            seconds = pts * self._time_base
            self._damage.add("a frame cannot be decoded", seconds, repaired=repaired)
        if self._error and not self._lost:
            self._damage.add(*self._error)

    def _is_hidden(self, packet: VideoPacket) -> bool:
        """Whether the frame in it is only referred to: `show_frame` of RFC 6386, section 9.1."""
        return self._stream.codec_context.name == "vp8" and not memoryview(packet)[0] & 0x10

    def _images(self, packet: "VideoPacket | None") -> Iterator[StillImage]:
        try:
            if self._nvdec is None:
                frames = self._stream.decode(packet)
            else:
                frames = self._nvdec.decode(self._stream, packet)
        except av.FFmpegError as error:
            time = None if packet is None else packet.dts if packet.pts is None else packet.pts
            self._error = str(error.strerror), (time or 0) * self._time_base
            return
        for frame in frames:
            pts = _stated_time(frame)
            if frame.is_corrupt:
                seconds = (pts or 0) * self._time_base
                self._damage.add("part of a frame is missing", seconds, repaired=self._conceal)
            if frame.pts is not None:
                if self._conceal and frame.pts in self._lost:
                    continue  # too late: its place is taken
                self._lost.discard(frame.pts)
                unseen = self._ledger.receive(frame.pts, has_fields=frame.interlaced_frame)
                yield from self._make_up_for(unseen, frame)
            self._last = frame
            yield StillImage(frame, pts, frame.duration)

    def _make_up_for(
        self, unseen: list[FrameTime], following: VideoFrame | None = None
    ) -> Iterator[StillImage]:
        if self._nvdec and unseen and (self._last is not None or following is None):
            seconds = float(unseen[0].pts * self._time_base)
            raise NvdecFailed(f"NVDEC gave no frame for the packet at {seconds:.2f} s")
        lost = [sent for sent in unseen if self._is_damage(sent)]
        self._lost.update(sent.pts for sent in lost)
        shown = self._last or following
        if self._conceal and shown is not None:
            self.concealed += len(lost)
            yield from (StillImage(shown, *sent) for sent in lost)

    def _is_damage(self, unseen: FrameTime) -> bool:
        """Whether a frame that did not come was lost.

        Where nothing else is wrong, it may also be one that is shown before the first keyframe and
        refers to what came before the start of the video; and some containers say little about
        their packets.
        """
        if self._error or self._damage:
            return True
        return self._one_to_one and self._first_pts is not None and unseen.pts >= self._first_pts


def _stated_time(frame: VideoFrame) -> int | None:
    """Containers that store one time only, as AVI, store the decoder's, which then is the frame's.

    FFmpeg's own derivation of the other (GENPTS) puts frames between B-frames in the wrong order.
    """
    return frame.dts if frame.pts is None else frame.pts


# Which of the frames that a decoder was given came out of it. Knows times alone, no packets.
_ONE_IMAGE = Fraction(3, 4)  # of a period: two fields are half of one apart


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
        return 0 < pts - self._latest < _ONE_IMAGE * self._period_ticks


# Images of two fields, half of a period apart, made into images of one moment.
#
# Left as they are, moving edges are combs, and a network takes the teeth for detail.
_BWDIF = "mode=send_frame:parity=auto:deint=interlaced"


class Deinterlacer:
    """FFmpeg's bwdif: for each image one, at its time, of the moment of its first field.

    Which field is first, and whether there are two at all, is for each image what its own flags
    say. What is not interlaced comes out as it went in, and so does a video of one frame, which has
    no other to tell movement by. Not thread-safe.
    """

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._inside: deque[StillImage] = deque()

    def push(self, image: StillImage) -> Iterator[StillImage]:
        """What is ready when this image goes in: bwdif looks one ahead.

        Raises:
            InputRefused: bwdif does not take pixels of this format.
        """
        if self._inside and _shape(image.frame) != _shape(self._inside[-1].frame):
            yield from self.finish()
        if self._graph is None and not image.frame.interlaced_frame:
            yield image
            return
        if self._graph is None:
            self._graph = _build_graph(image)
        self._inside.append(image)
        self._graph.vpush(image.frame)
        yield from self._ready(self._graph)

    def finish(self) -> Iterator[StillImage]:
        """The images that are still inside."""
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._ready(self._graph)
            self._graph = None

    def _ready(self, graph: Graph) -> Iterator[StillImage]:
        while True:
            try:
                frame = graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return
            given = self._inside.popleft()
            if frame.format.name != given.frame.format.name:
                raise InputRefused(
                    f"cannot deinterlace {given.frame.format.name}; leave --deinterlace out"
                )
            yield given._replace(frame=frame)


def _build_graph(image: StillImage) -> Graph:
    frame, graph = image.frame, Graph()
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base,
    )
    graph.link_nodes(source, graph.add("bwdif", _BWDIF), graph.add("buffersink")).configure()
    return graph


def _shape(frame: VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name
