"""Decode the packets of one video stream, account for every frame, and deinterlace.

All times are in ticks of the stream.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av
from av.filter import Graph
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from srgan_edge.errors import InputRefused
from srgan_edge.video.clock import LONGEST_GAP_SECONDS, duration_until
from srgan_edge.video.frame import FrameTime, Notes, VideoPacket
from srgan_edge.video.mpeg4 import is_not_coded, time_bits
from srgan_edge.video.nvidia import Nvdec, NvdecFailed
from srgan_edge.video.truncation import has_broken_slice

_ONE_FRAME = Fraction(3, 4)  # of a period: the two fields of a frame are half a period apart

_STRICT_OPTIONS = {
    "mjpeg": {"err_detect": "explode"},
    "png": {"err_detect": "crccheck+explode"},
    "apng": {"err_detect": "crccheck+explode"},
}
"""Codec -> options with which its decoder reports damage that it only logs without them."""

_BWDIF = "mode=send_frame:parity=auto:deint=interlaced"


class DecodedFrame(NamedTuple):
    """A decoded frame, its presentation time and its duration."""

    frame: VideoFrame
    pts: int | None
    """Presentation time; None if the file states none."""
    duration: int
    """Duration; 0 if the file states none."""


class VideoDecoder:
    """Decodes one stream and records missing and broken frames in `notes`.

    With `conceal`, a frame that cannot be decoded is replaced by the frame before it (at the start,
    by the frame after it), at its own time. Not thread-safe.

    Raises:
        NvdecFailed: `nvdec` decodes, and something differs from what software would decode.
    """

    def __init__(
        self,
        stream: VideoStream,
        notes: Notes,
        period_ticks: Fraction,
        *,
        end_pts: int | None,
        one_to_one: bool,
        conceal: bool,
        deinterlace: bool = False,
        frames_at_once: bool = False,
        nvdec: Nvdec | None = None,
    ) -> None:
        """
        Args:
            notes: Receives `damage` and the numbers of `concealed` and `interlaced` frames.
            end_pts: See `FrameClock`.
            one_to_one: In this container each packet is a frame, from the first keyframe on.
            frames_at_once: Every thread decodes a frame of its own. Frames behind a broken one at
                the end of the file are then lost, and it is reported some packets late.
        """
        self._stream, self._nvdec = stream, nvdec
        self._time_base = stream.time_base or Fraction(1, 1000)
        self._notes = notes
        self._end_pts = end_pts
        self._one_to_one = one_to_one
        self._conceal = conceal
        self._deinterlacer = Deinterlacer() if deinterlace else None
        self._ledger = FrameLedger(period_ticks)
        self._lost: set[int] = set()  # times
        self._last: VideoFrame | None = None
        self._error: tuple[str, Fraction] | None = None
        self._has_untimed_packets = False
        self._first_pts: int | None = None  # in the order of the file
        self._shape: Fraction | None = None  # width of a pixel divided by its height, at first
        context = stream.codec_context
        self._time_bits = time_bits(context.extradata or b"") if context.name == "mpeg4" else None
        self._has_checksums = context.name == "ffv1" and bool(context.extradata)  # from version 3
        context.thread_type = "FRAME" if frames_at_once else "SLICE"
        context.options = context.options | _STRICT_OPTIONS.get(context.name, {})

    def decode(self, packet: VideoPacket) -> Iterator[DecodedFrame]:
        """Yield the frames that the decoder returns for this packet."""
        if packet.pts is None:
            self._has_untimed_packets = True
        elif self.is_shown(packet):
            self._ledger.send(packet.pts, packet.duration or 0)
            if self._first_pts is None:
                self._first_pts = packet.pts
        if self._has_checksums and has_broken_slice(bytes(packet)):
            self._note_broken_part(packet.dts if packet.pts is None else packet.pts)
        yield from self._progressive(self._decoded(packet))

    def finish(self) -> Iterator[DecodedFrame]:
        """Yield the remaining frames. Afterwards all damage to frames is recorded."""
        last = None
        for decoded in self._remaining():
            if last is not None:
                yield last
            last = decoded
        if last is not None:
            yield last._replace(duration=duration_until(self._end_pts, last.pts, last.duration))

    def _remaining(self) -> Iterator[DecodedFrame]:
        yield from self._progressive(self._decoded(None))
        yield from self._progressive(self._make_up_for(self._ledger.close()))
        self.note_losses()
        if self._deinterlacer:
            yield from self._deinterlacer.finish()

    def note_losses(self) -> None:
        """Record the frames that are known to be lost, if decoding ends here."""
        repaired = self._notes.concealed == len(self._lost) and not self._has_untimed_packets
        for pts in sorted(self._lost):
            seconds = pts * self._time_base
            self._notes.damage.add("a frame cannot be decoded", seconds, repaired=repaired)
        if self._error and not self._lost:
            self._notes.damage.add(*self._error)
        self._lost, self._error = set(), None

    def _progressive(self, frames: Iterator[DecodedFrame]) -> Iterator[DecodedFrame]:
        for decoded in frames:
            self._notes.interlaced += decoded.frame.interlaced_frame
            yield from self._deinterlacer.push(decoded) if self._deinterlacer else (decoded,)

    def is_shown(self, packet: "VideoPacket | Packet[Stream]") -> bool:
        """Return False for frames outside of an edit list, for reference only, or not coded.

        VP8 has `show_frame` for that: RFC 6386, section 9.1.
        """
        if packet.is_discard:
            return False
        if self._time_bits is not None:
            return not is_not_coded(bytes(packet), self._time_bits)
        is_vp8 = self._stream.codec_context.name == "vp8"
        return not is_vp8 or bool(memoryview(packet)[0] & 0x10)

    def _decoded(self, packet: "VideoPacket | None") -> Iterator[DecodedFrame]:
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
                self._note_broken_part(pts)
            if frame.pts is not None:
                if self._conceal and frame.pts in self._lost:
                    continue  # too late: a replacement was already shown
                self._lost.discard(frame.pts)
                if self._last is None:
                    self._note_start(frame.pts)
                unseen = self._ledger.receive(frame.pts, has_fields=frame.interlaced_frame)
                yield from self._make_up_for(unseen, frame)
            self._last = frame
            self._note_shape(pts)
            yield DecodedFrame(frame, pts, frame.duration)

    def _note_start(self, first: int) -> None:
        """Note packets at the start that refer to frames from before it, as in cut recordings."""
        begins, ends = (float((pts or 0) * self._time_base) for pts in (self._first_pts, first))
        if not self._one_to_one and ends - begins > LONGEST_GAP_SECONDS:
            self._notes.add_gap(begins, ends, " (before its first keyframe)")

    def _note_broken_part(self, pts: int | None) -> None:
        """Note a frame of which the decoder shows a part as it was in the frame before."""
        seconds = (pts or 0) * self._time_base
        self._notes.damage.add("part of a frame is missing", seconds, repaired=self._conceal)

    def _note_shape(self, pts: int | None) -> None:
        """Note the first change of the shape of pixels, which broadcasts make between programs."""
        shape = self._stream.codec_context.sample_aspect_ratio or Fraction(1)
        before, self._shape = self._shape or shape, self._shape or shape
        if shape != before and not self._notes.reshaped:
            seconds = float((pts or 0) * self._time_base)
            self._notes.reshaped = f"{before} to {shape} at {seconds:.2f} s"

    def _make_up_for(
        self, unseen: list[FrameTime], following: VideoFrame | None = None
    ) -> Iterator[DecodedFrame]:
        if self._nvdec and unseen and (self._last is not None or following is None):
            seconds = float(unseen[0].pts * self._time_base)
            raise NvdecFailed(f"NVDEC returned no frame for the packet at {seconds:.2f} s")
        lost = [sent for sent in unseen if self._is_damage(sent)]
        self._lost.update(sent.pts for sent in lost)
        shown = self._last or following
        if self._conceal and shown is not None:
            self._notes.concealed += len(lost)
            yield from (DecodedFrame(shown, *sent) for sent in lost)

    def _is_damage(self, unseen: FrameTime) -> bool:
        """Check whether a frame that the decoder did not return was lost.

        If nothing else is wrong, it may also belong before the first keyframe and refer to frames
        from before the start of the video; and some containers describe their packets poorly.
        """
        if self._error or self._notes.damage:
            return True
        return self._one_to_one and self._first_pts is not None and unseen.pts >= self._first_pts


def _stated_time(frame: VideoFrame) -> int | None:
    """Return the presentation time, or the decoding time in containers that store only that (AVI).

    FFmpeg's own derivation (GENPTS) puts frames between B-frames in the wrong order.
    """
    return frame.dts if frame.pts is None else frame.pts


class FrameLedger:
    """Finds frames that a decoder dropped silently, from their times alone.

    Decoders return frames in the order of their times, so a frame that was sent for an earlier time
    than the one returned now will not be returned any more. All times are ticks of one time base.
    """

    def __init__(self, period_ticks: Fraction) -> None:
        """`period_ticks`: average distance of two frames, to tell two fields from two frames."""
        self._period_ticks = period_ticks
        self._awaited: list[FrameTime] = []  # a heap
        self._latest: int | None = None
        self._latest_has_fields = False

    def send(self, pts: int, duration: int) -> None:
        """Record a packet with one frame, or one field of a frame, that is sent to the decoder."""
        heapq.heappush(self._awaited, FrameTime(pts, duration))

    def receive(self, pts: int, *, has_fields: bool = False) -> list[FrameTime]:
        """Record a decoded frame; return the frames before it that are now known to be missing."""
        lost = self._give_up(before=pts)
        if self._awaited and self._awaited[0].pts == pts:
            heapq.heappop(self._awaited)
        self._latest, self._latest_has_fields = pts, has_fields
        return lost

    def close(self) -> list[FrameTime]:
        """Return the frames that are missing at the end, once the decoder is empty."""
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
        return 0 < pts - self._latest < _ONE_FRAME * self._period_ticks


class Deinterlacer:
    """FFmpeg's bwdif: turns each frame of two fields into one frame at the time of its first field.

    Without it, moving edges are combs, and the network takes the teeth for detail. The flags of
    each frame decide whether it is interlaced and which field is first. Progressive frames pass
    unchanged, and so does a video of one frame, which has no other to detect motion with. Not
    thread-safe.
    """

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._inside: deque[DecodedFrame] = deque()

    def push(self, image: DecodedFrame) -> Iterator[DecodedFrame]:
        """Yield the frames that are ready after this one; bwdif looks one frame ahead.

        Raises:
            InputRefused: bwdif does not support the pixel format.
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

    def finish(self) -> Iterator[DecodedFrame]:
        """Yield the frames that are still inside."""
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._ready(self._graph)
            self._graph = None

    def _ready(self, graph: Graph) -> Iterator[DecodedFrame]:
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


def _build_graph(image: DecodedFrame) -> Graph:
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
