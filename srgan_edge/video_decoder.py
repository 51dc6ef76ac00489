"""Packets of one video stream in, its pictures out, every one of them accounted for."""

from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from srgan_edge.damage import Damage
from srgan_edge.frame_ledger import FrameLedger
from srgan_edge.nvdec import Nvdec, NvdecFailed
from srgan_edge.video import FrameTime, VideoPacket


class Picture(NamedTuple):
    """A decoded frame, and when it is shown."""

    frame: VideoFrame
    pts: int | None
    """In ticks of the stream, as all times here; None: the file states none."""
    duration: int
    """0: the file states none."""


class VideoDecoder:
    """Decodes one stream and notes in `damage` what it should have given and did not.

    With `conceal`, the picture before (at the start, the one after) is shown in place of a frame
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
        """Pictures shown in place of one that could not be decoded."""
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

    def decode(self, packet: VideoPacket) -> Iterator[Picture]:
        """The pictures that come out when this packet goes in."""
        if packet.pts is None:
            self._has_untimed_packets = True
        elif not packet.is_discard and not self._is_hidden(packet):
            self._ledger.send(packet.pts, packet.duration or 0)
            if self._first_pts is None:
                self._first_pts = packet.pts
        yield from self._pictures(packet)

    def finish(self) -> Iterator[Picture]:
        """What the decoder still holds. Afterwards `damage` is complete, as far as frames go."""
        yield from self._pictures(None)
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

    def _pictures(self, packet: "VideoPacket | None") -> Iterator[Picture]:
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
            yield Picture(frame, pts, frame.duration)

    def _make_up_for(
        self, unseen: list[FrameTime], following: VideoFrame | None = None
    ) -> Iterator[Picture]:
        if self._nvdec and unseen and (self._last is not None or following is None):
            seconds = float(unseen[0].pts * self._time_base)
            raise NvdecFailed(f"NVDEC gave no frame for the packet at {seconds:.2f} s")
        lost = [sent for sent in unseen if self._is_damage(sent)]
        self._lost.update(sent.pts for sent in lost)
        shown = self._last or following
        if self._conceal and shown is not None:
            self.concealed += len(lost)
            yield from (Picture(shown, *sent) for sent in lost)

    def _is_damage(self, unseen: FrameTime) -> bool:
        """Whether a frame that did not come was lost.

        Where nothing else is wrong, it may also be one that is shown before the first keyframe and
        refers to what was before the film's beginning; and some containers say little of what their
        packets are.
        """
        if self._error or self._damage:
            return True
        return self._one_to_one and self._first_pts is not None and unseen.pts >= self._first_pts


def _stated_time(frame: VideoFrame) -> int | None:
    """Containers that store one time only, as AVI, store the decoder's, which then is the frame's.

    FFmpeg's own derivation of the other (GENPTS) puts frames between B-frames in the wrong order.
    """
    return frame.dts if frame.pts is None else frame.pts
