"""Video files in: every frame once, in order, at the time it had; sound and subtitles as packets.

Frames become RGB by their own matrix and range. What RGB cannot keep is refused before the first
frame. The conversion itself is left to `rgb_decoder`, what comes out to `video`.
"""

import os
import stat
import struct
from collections import deque
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Self, cast

import av
from av.container import Flags as ContainerFlags
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import SideData
from av.stream import Disposition, Stream
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from srgan_edge.color import MATRICES, RGB, ColorDescription
from srgan_edge.deep_frames import depth_bits, is_readable
from srgan_edge.errors import InputDamaged, InputRefused
from srgan_edge.hdr import StaticHdr, needs_dolby_vision, unkept_metadata
from srgan_edge.rgb_decoder import RgbDecoder
from srgan_edge.swscale import Siting
from srgan_edge.video import CopiedPacket, Frame, FrameTime, VideoInfo

MAX_PIXELS = 2**26
"""Largest frame, in decoded pixels (8192x8192): a few kilobytes can claim to be one of any size."""

_DEMUXERS = "mov,matroska,avi,mpegts,mpeg,flv,ogg,asf,yuv4mpegpipe"
_MAGIC = (  # offset, bytes: how the formats above begin
    (4, b"ftyp"),
    (4, b"moov"),
    (4, b"mdat"),
    (4, b"wide"),
    (4, b"free"),
    (0, b"\x1aE\xdf\xa3"),
    (8, b"AVI "),
    (0, b"\x47\x40"),
    (0, b"\x00\x00\x01\xba"),
    (0, b"FLV\x01"),
    (0, b"OggS"),
    (0, b"\x30\x26\xb2\x75"),
    (0, b"YUV4MPEG2"),
)
_STATED_DURATION = {"mov", "matroska", "avi", "flv"}  # others estimate it from the file they have

# Chroma lies on the left one of two luma samples in H.264 and its like, and between them in JPEG
# and MPEG-1. Libswscale, if not told, takes it to be between them.
_CENTRED_CHROMA = {"mjpeg", "mpeg1video"}

_LARGEST_STEP_BACK_SECONDS = 1  # further back is another recording, not a rounding


class VideoReader:
    """Reads one file, once, from start to end.

    Iterating yields `Frame` and `CopiedPacket` in the order of the file. Damage that decoding can
    go around (a broken packet, a file that ends early) raises `InputDamaged` after everything else
    was yielded; damage that it cannot raises at once.

    Raises:
        InputRefused: not a regular file of a known format, no video stream, frames over
            `MAX_PIXELS`, colours that cannot be read; or, unless allowed, transparency.
        InputDamaged: a known format that is cut off or broken.
    """

    def __init__(self, path: Path, *, allow_8bit: bool = False, allow_opaque: bool = False) -> None:
        """Of more than 8 bits, or of transparency, nothing is lost unless it is allowed here.

        Frames of more than 8 bits have `deep`, unless `allow_8bit`, which allows both.
        """
        self.path = path
        self._allow_8bit = allow_8bit
        self.recolored = ""
        """From what the frames change to what, and when; empty: they do not."""
        self.unkept: dict[str, None] = {}
        """Names of what came with frames and is not in `Frame`, in order."""
        self.nudged = 0
        """Frames moved forward because their time was not later than that of the one before."""
        self.untimed = 0
        """Frames for which the file states no time, placed right after the one before."""
        self.cover_art: dict[int, Packet[Stream]] = {}
        """Attached pictures, by stream index."""
        self.container = _open_container(path)
        try:
            self.video = self._best_video()
            self._prepare_decoder()
            self.copied = [stream for stream in self.container.streams if _is_copied(stream)]
            """The sound and subtitle streams, whose packets are yielded."""
            self._time_base = self.video.time_base or Fraction(1, 1000)
            rate = self.video.average_rate or self.video.guessed_rate
            self._period_ticks = 1 / (rate * self._time_base) if rate else Fraction(1)
            self._damage: list[str] = []
            self._decoded = self._video_packets = 0
            self._last_pts: int | None = None
            self._latest_end_seconds = Fraction(0)
            self._items = self._decode()
            self._ahead: deque[VideoFrame | CopiedPacket] = deque()
            first = self._first_frame()
            self.info = self._describe(first, rate)
            self._refuse_unreadable(self.info.pixel_format, self.info.color)
            if needs_dolby_vision(first):
                raise InputRefused(
                    f"{path} is Dolby Vision of profile 5, whose colours cannot be read here; "
                    "convert it to HDR10 first"
                )
            if not (allow_8bit or allow_opaque):
                self._refuse_transparency()
            self._to_rgb = self._decoder_for(self.info.pixel_format, self.info.color)
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Packets and frames that were yielded stay valid."""
        self._items.close()
        self.container.close()

    def __iter__(self) -> Iterator[Frame | CopiedPacket]:
        for item in self._all():
            yield self._frame(item) if isinstance(item, VideoFrame) else item

    def scan(self) -> Iterator[FrameTime | CopiedPacket]:
        """The same, but of the frames only the times: much faster, as no pixel is converted."""
        for item in self._all():
            yield self._time(item) if isinstance(item, VideoFrame) else item

    def copied_packets(self) -> Iterator[CopiedPacket]:
        """Only the packets, and no frame is decoded; damage is passed over."""
        for item in self._ahead:
            if isinstance(item, CopiedPacket):
                yield item
        copied = {stream.index for stream in self.copied}
        for packet in self._demux():
            if packet.stream_index in copied:
                yield CopiedPacket(packet)

    def _best_video(self) -> VideoStream:
        best = self.container.streams.best("video")
        if best is None or best.disposition & Disposition.attached_pic:
            raise InputRefused(f"{self.path} has no video stream")
        assert isinstance(best, VideoStream)
        if best.codec_context is None:
            raise InputRefused(f"{self.path}: no decoder for its video stream here")
        return best

    def _prepare_decoder(self) -> None:
        self.container.flags &= ~cast(int, ContainerFlags.gen_pts.value)  # see `_stated_time`
        context = self.video.codec_context
        if not context.width:
            raise InputRefused(
                f"{self.path}: no readable frames, or frames of more than {MAX_PIXELS} pixels"
            )
        context.options = {"max_pixels": str(MAX_PIXELS)}
        context.thread_type = "AUTO"

    def _first_frame(self) -> VideoFrame:
        """What only a decoded frame tells is needed before the output can be opened."""
        for item in self._items:
            self._ahead.append(item)
            if isinstance(item, VideoFrame):
                return item
        raise InputDamaged(f"{self.path}: damaged: none of its frames can be decoded")

    def _describe(self, first: VideoFrame, rate: Fraction | None) -> VideoInfo:
        stream, total = self.video, self.container.duration
        matrix = cast(SideData | None, first.side_data.get("DISPLAYMATRIX"))
        return VideoInfo(
            width=first.width,
            height=first.height,
            time_base=self._time_base,
            start_pts=_stated_time(first),
            average_rate=rate,
            duration_seconds=None if total is None else total / 1e6,
            frames_stated=stream.frames or None,
            codec=stream.codec_context.name,
            pixel_format=first.format.name,
            color=_color_of(first),
            hdr=StaticHdr.from_frame(first),
            unkept=unkept_metadata(first),
            sample_aspect_ratio=stream.sample_aspect_ratio or None,
            display_matrix=None if matrix is None else struct.unpack("=9i", memoryview(matrix)),
            interlaced=first.interlaced_frame,
        )

    def _refuse_transparency(self) -> None:
        pixel_format = VideoFormat(self.info.pixel_format, 16, 16)
        transparent = any(component.is_alpha for component in pixel_format.components)
        hidden_alpha = self.video.metadata.get("alpha_mode") == "1"  # VP8 and VP9: not decoded here
        if transparent or hidden_alpha:
            name = self.info.pixel_format
            opaque = name.replace("yuva", "yuv") if name.startswith("yuv") else "yuv444p"
            raise InputRefused(
                f"{self.path} ({name}) has transparency, which would be lost; "
                f"to accept that, name a format without: --pix-fmt {opaque}"
            )

    def _refuse_unreadable(self, pixel_format: str, color: ColorDescription) -> None:
        if depth_bits(pixel_format) > 8 and not is_readable(pixel_format):
            raise InputRefused(
                f"{self.path}: pixel format {pixel_format}; possible: Y'CbCr, RGB or grey of up "
                "to 16 bits in integers"
            )
        if color.matrix not in (RGB, *MATRICES):
            possible = ", ".join(name for name, *_ in MATRICES.values())
            raise InputRefused(
                f"{self.path}: colour matrix {color.matrix} of H.273; possible: {possible}, RGB"
            )

    def _decode(self) -> Generator[VideoFrame | CopiedPacket, None, None]:
        copied = {stream.index for stream in self.copied}
        for packet in self._demux():
            if packet.stream_index == self.video.index:
                self._video_packets += not packet.is_discard
                yield from self._decode_packet(packet)
            elif packet.stream_index in copied:
                yield CopiedPacket(packet)
            elif packet.stream.disposition & Disposition.attached_pic:
                self.cover_art.setdefault(packet.stream_index, packet)
        yield from self._decode_packet(None)  # what the decoder still holds
        self._note_early_end()
        if self._damage:
            more = f" and {len(self._damage) - 1} more" if len(self._damage) > 1 else ""
            raise InputDamaged(f"{self.path}: damaged: {self._damage[0]}{more}")

    def _demux(self) -> Iterator["Packet[Stream]"]:
        """Every packet with something in it. A packet without is how PyAV marks the end."""
        packets = self.container.demux()
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                self._note_damage(self._latest_end_seconds, str(error.strerror))
                return
            if packet is None:
                return
            if not packet.size:
                continue
            start = packet.dts if packet.pts is None else packet.pts
            if start is not None and packet.time_base:
                end = (start + (packet.duration or 0)) * packet.time_base
                self._latest_end_seconds = max(self._latest_end_seconds, end)
            yield packet

    def _decode_packet(self, packet: "Packet[Stream] | None") -> Iterator[VideoFrame]:
        try:
            frames = self.video.decode(packet)
        except av.FFmpegError as error:
            pts = None if packet is None else packet.pts
            self._note_damage(self._seconds(pts), str(error.strerror))
            return
        for frame in frames:
            self._decoded += 1
            if frame.is_corrupt:
                self._note_damage(self._seconds(frame.pts), "part of a frame is missing")
            yield frame

    def _note_damage(self, seconds: Fraction, what: str) -> None:
        self._damage.append(f"{what} at {float(seconds):.2f} s")

    def _note_early_end(self) -> None:
        """A file that was cut off decodes to its end without any error.

        The end is the latest of any packet, as the last in the file is not the last in time. MPEG
        transport and program streams state no duration: there a cut cannot be known.
        """
        formats = set(self.container.format.name.split(","))
        if not formats & _STATED_DURATION or not self.container.duration:
            return
        stated = Fraction(self.container.duration, 1_000_000)
        slack = max(2 * self._period_ticks * self._time_base, Fraction(1, 10))
        is_mp4 = "mov" in formats
        if is_mp4 and (missing_bytes := self._end_of_index() - self.container.size) > 0:
            self._damage.insert(0, f"cut off, {missing_bytes} bytes are missing")
        elif self._latest_end_seconds < stated - slack:
            ends = f"{float(self._latest_end_seconds):.2f} of {float(stated):.2f} s"
            self._damage.insert(0, f"ends at {ends}")
        elif is_mp4 and self._decoded < self._video_packets and not self._damage:
            self._damage.append(f"{self._decoded} of {self._video_packets} frames can be decoded")

    def _end_of_index(self) -> int:
        """Where the last sample that the index knows of ends, in bytes; exact to the last frame."""
        indices = (stream.index_entries for stream in self.container.streams)
        return max((entry.pos + entry.size for index in indices for entry in index), default=0)

    def _seconds(self, pts: int | None) -> Fraction:
        return self._latest_end_seconds if pts is None else pts * self._time_base

    def _all(self) -> Iterator[VideoFrame | CopiedPacket]:
        while self._ahead:
            yield self._ahead.popleft()
        yield from self._items

    def _frame(self, frame: VideoFrame) -> Frame:
        time = self._time(frame)
        self._follow_colors(frame)
        pixels, deep = self._to_rgb(frame)
        return Frame(pixels, time.pts, time.duration, None if self._allow_8bit else deep)

    def _time(self, frame: VideoFrame) -> FrameTime:
        self._refuse_change(frame)
        return FrameTime(self._rising_pts(frame), self._frame_duration(frame))

    def _refuse_change(self, frame: VideoFrame) -> None:
        now = (frame.width, frame.height)
        before = (self.info.width, self.info.height)
        if now != before:
            raise InputDamaged(
                f"{self.path}: damaged: frames change from {'{}x{}'.format(*before)} to "
                f"{'{}x{}'.format(*now)} at {float(self._seconds(frame.pts)):.2f} s"
            )

    def _follow_colors(self, frame: VideoFrame) -> None:
        """Each frame is read by its own format and tags; that they change is noted once."""
        self.unkept.update(dict.fromkeys(unkept_metadata(frame)))
        before, now = self._to_rgb, (frame.format.name, _color_of(frame))
        if now == (before.pixel_format, before.color):
            return
        self._refuse_unreadable(*now)
        self._to_rgb = self._decoder_for(*now)
        if not self.recolored:
            was, becomes = (
                f"{name}, {color}" for name, color in ((before.pixel_format, before.color), now)
            )
            self.recolored = f"{was} to {becomes} at {float(self._seconds(frame.pts)):.2f} s"

    def _rising_pts(self, frame: VideoFrame) -> int:
        """The frame's time, or else the nearest that an encoder takes."""
        last, pts = self._last_pts, _stated_time(frame)
        if pts is None:
            pts = 0 if last is None else last + self._frame_duration(frame)
            self.untimed += 1
        if last is not None and pts <= last:
            if (last - pts) * self._time_base > _LARGEST_STEP_BACK_SECONDS:
                before, now = float(self._seconds(last)), float(self._seconds(pts))
                raise InputDamaged(
                    f"{self.path}: damaged: time goes back from {before:.2f} to {now:.2f} s"
                )
            pts = last + 1
            self.nudged += 1
        self._last_pts = pts
        return pts

    def _frame_duration(self, frame: VideoFrame) -> int:
        return frame.duration or round(self._period_ticks) or 1

    def _decoder_for(self, pixel_format: str, color: ColorDescription) -> RgbDecoder:
        siting: Siting = "center" if self.info.codec in _CENTRED_CHROMA else "left"
        return RgbDecoder(pixel_format, (self.info.width, self.info.height), color, siting)


def _open_container(path: Path) -> InputContainer:
    head = _first_bytes(path)
    try:
        return av.open(
            f"file:{path.absolute()}",  # the prefix keeps `a:b.mp4` from naming a protocol
            options={
                "protocol_whitelist": "file",
                "format_whitelist": _DEMUXERS,
                "max_pixels": str(MAX_PIXELS),  # probing decodes
            },
            metadata_errors="replace",
        )
    except av.FFmpegError as error:
        if any(head[at:].startswith(magic) for at, magic in _MAGIC):
            raise InputDamaged(
                f"{path}: damaged: {error.strerror}; the file is cut off or its index is missing"
            ) from error
        raise InputRefused(
            f"{path} is not a video; possible: MP4, MOV, MKV, WebM, AVI, MPEG, FLV, Ogg, WMV, Y4M"
        ) from error


def _first_bytes(path: Path) -> bytes:
    """Opening a pipe or a device could wait for ever, so only regular files go further."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InputRefused(f"{path} is not a file; possible: one video file")
            head = os.read(descriptor, 16)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InputRefused(f"cannot read {path}: {error.strerror}") from error
    if not head:
        raise InputRefused(f"{path} is empty")
    return head


def _stated_time(frame: VideoFrame) -> int | None:
    """Containers that store one time only, as AVI, store the decoder's, which then is the frame's.

    FFmpeg's own derivation of the other (GENPTS) puts frames between B-frames in the wrong order.
    """
    return frame.dts if frame.pts is None else frame.pts


def _color_of(frame: VideoFrame) -> ColorDescription:
    return ColorDescription.from_tags(
        matrix=frame.colorspace,
        color_range=frame.color_range,
        primaries=frame.color_primaries,
        transfer=frame.color_trc,
        pixel_format=frame.format.name,
        is_rgb=frame.format.is_rgb,
        height=frame.height,
    )


def _is_copied(stream: Stream) -> bool:
    return stream.type in ("audio", "subtitle") and stream.codec_context is not None
