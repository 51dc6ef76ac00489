"""Video files: frames out, frames back in, and everything else in the file carried across.

Exactness is the whole point: every frame once, in order, at the time it had; sound and subtitles
packet by packet; colours by the stream's own matrix and range. What cannot be kept is refused
before the first frame is decoded. What is done to the frames in between is the caller's business.
"""

import math
import os
import stat
import struct
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from fractions import Fraction
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeAlias, cast

import av
import numpy as np
from av.codec import Codec, codecs_available
from av.codec.codec import UnknownCodecError
from av.container import Flags as ContainerFlags
from av.container import InputContainer, OutputContainer
from av.filter import Graph
from av.format import Flags
from av.packet import Packet
from av.rational import AVRational
from av.sidedata.sidedata import SideData
from av.stream import AttachmentStream, Discard, Disposition, Stream
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from srgan_edge.atomic import replace_when_whole
from srgan_edge.color import (
    HLG,
    MATRICES,
    PQ,
    RGB,
    ColorDescription,
    rgb_from_yuv,
    unclipped_rgb,
)
from srgan_edge.errors import InputDamaged, InputRefused, OutputFailed, UsageError
from srgan_edge.pixels import Pixels

Siting: TypeAlias = Literal["left", "center"]
"""Where chroma samples lie between luma samples, by FFmpeg's name."""

CONTAINERS: dict[str, str] = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
}
"""Lower-case suffix of an output -> its format: those that keep exact timestamps."""

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

# Chroma is interpolated linearly on the way in, so that it never leaves the range of its
# neighbours, and filtered with a cubic on the way out. Without the three other flags libswscale is
# faster, but up to 3 levels wrong.
_DECODE_FLAGS = "bilinear+accurate_rnd+full_chroma_int+full_chroma_inp"
_ENCODE_FLAGS = "bicubic+accurate_rnd+full_chroma_inp"
# Chroma lies on the left one of two luma samples in H.264 and its like, and between them in JPEG
# and MPEG-1. Libswscale, if not told, takes it to be between them.
_CENTRED_CHROMA = {"mjpeg", "mpeg1video"}
_SWSCALE_WRAPS_AT = 510  # its 32-bit sums turn a blue of 512 or more into 0

# True of the file they were written for, and not of the one that is made from it.
_OWN_METADATA = {
    "MAJOR_BRAND",
    "MINOR_VERSION",
    "COMPATIBLE_BRANDS",
    "ENCODER",
    "DURATION",
    "BPS",
    "NUMBER_OF_FRAMES",
    "NUMBER_OF_BYTES",
    "_STATISTICS_WRITING_APP",
    "_STATISTICS_WRITING_DATE_UTC",
    "_STATISTICS_TAGS",
}

_MP4_SUBTITLE_GAP = b"\0\0"  # text of no length

_LARGEST_STEP_BACK_SECONDS = 1  # further back is another recording, not a rounding

av.logging.set_level(None)  # its callback takes the GIL from FFmpeg's threads, and can deadlock


@dataclass(frozen=True)
class VideoInfo:
    """What the header and the first frame say about the video stream."""

    width: int
    """In pixels, as coded: `display_matrix` is not applied."""
    height: int
    time_base: Fraction
    """Seconds in one tick of a timestamp."""
    start_pts: int | None
    """Time of the first frame in ticks; None: it has none."""
    average_rate: Fraction | None
    """Frames a second, for display only. Times come from the timestamps."""
    duration_seconds: float | None
    """As stated or estimated by the container, for display only."""
    frames_stated: int | None
    """Number of frames in the header, where the container has one."""
    codec: str
    pixel_format: str
    """FFmpeg's name, for example `yuv420p`."""
    color: ColorDescription
    sample_aspect_ratio: Fraction | None
    """Width of a pixel over its height; None: not stated."""
    display_matrix: tuple[int, ...] | None
    """How a player turns or mirrors the picture: nine numbers as in ISO/IEC 14496-12 `tkhd`."""
    interlaced: bool
    """The first frame holds two fields. It is upscaled as one picture."""


@dataclass(frozen=True)
class Frame:
    """One picture of the film, and when it is shown."""

    pixels: Pixels
    """uint8 [H, W, 3], RGB, in the primaries and transfer of `VideoInfo.color`."""
    pts: int
    """Presentation time in ticks of `VideoInfo.time_base`; may start anywhere, may be negative."""
    duration: int
    """For how many ticks it is shown; what the last frame of a stream is known by."""


@dataclass(frozen=True)
class CopiedPacket:
    """One packet of sound or subtitles, to be handed to `VideoWriter.copy` as it is."""

    packet: "Packet[Stream]"


@dataclass(frozen=True)
class Encoding:
    """How the video stream is compressed."""

    codec: str = "libx264"
    """An FFmpeg encoder, for example `libx265` or `libsvtav1`."""
    crf: int | None = None
    """Constant quality, lower is better; None: `DEFAULT_CRF`, or what the codec does by itself."""
    preset: str | None = None
    """The codec's own word for its speed, for example `slow`; None: `DEFAULT_SPEED`."""
    pixel_format: str | None = None
    """For example `yuv444p`; None: 8 bits, with the chroma resolution of the input."""
    options: dict[str, str] = field(default_factory=dict)
    """Any other option of the codec, by its FFmpeg name."""

    @property
    def accepts_8bit(self) -> bool:
        """Whether an 8-bit format was named, so that nobody is surprised by one."""
        if self.pixel_format is None:
            return False
        components = _video_format(self.pixel_format).components
        return all(component.bits <= 8 for component in components)


DEFAULT_CRF = {"libx264": 18, "libx265": 20, "libsvtav1": 26}
"""Visually lossless, about: an upscaled film is a master, not a stream."""

DEFAULT_SPEED = {
    "libx264": {"preset": "superfast", "weightp": "0", "b_strategy": "0", "sc_threshold": "0"}
}
"""Where the network runs on the same cores, a slower encoder is a slower film: `medium` takes half
of it. Without the look-ahead that the last three switch off, `superfast` takes a quarter less time
for a file of the same size and PSNR."""


class VideoReader:
    """Reads one file, once, from start to end.

    Iterating yields `Frame` and `CopiedPacket` in the order of the file. Damage that decoding can
    go around (a broken packet, a file that ends early) raises `InputDamaged` after everything else
    was yielded; damage that it cannot raises at once.

    Raises:
        InputRefused: not a regular file of a known format, no video stream, frames over
            `MAX_PIXELS`; or, unless `allow_8bit`, more than 8 bits, transparency or HDR.
        InputDamaged: a known format that is cut off or broken.
    """

    def __init__(self, path: Path, *, allow_8bit: bool = False) -> None:
        self.path = path
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
            self.info = self._describe(self._first_frame(), rate)
            self._refuse_unknown_matrix()
            if not allow_8bit:
                self._refuse_loss()
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
        ahead = (self._ahead.popleft() for _ in range(len(self._ahead)))
        for item in chain(ahead, self._items):
            yield self._frame(item) if isinstance(item, VideoFrame) else item

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
            color=ColorDescription.from_tags(
                matrix=first.colorspace,
                color_range=first.color_range,
                primaries=first.color_primaries,
                transfer=first.color_trc,
                pixel_format=first.format.name,
                is_rgb=first.format.is_rgb,
                height=first.height,
            ),
            sample_aspect_ratio=stream.sample_aspect_ratio or None,
            display_matrix=None if matrix is None else struct.unpack("=9i", memoryview(matrix)),
            interlaced=first.interlaced_frame,
        )

    def _refuse_loss(self) -> None:
        pixel_format = VideoFormat(self.info.pixel_format)
        depth = max(component.bits for component in pixel_format.components)
        transparent = any(component.is_alpha for component in pixel_format.components)
        hidden_alpha = self.video.metadata.get("alpha_mode") == "1"  # VP8 and VP9: not decoded here
        lost = None
        if depth > 8:
            lost = f"{depth} bits a sample"
        elif self.info.color.transfer in (PQ, HLG):
            lost = "HDR (PQ or HLG) brightness"
        elif transparent or hidden_alpha:
            lost = "transparency"
        if lost:
            raise InputRefused(
                f"{self.path} ({self.info.pixel_format}) has {lost}, which would be lost in 8-bit "
                "RGB; to accept that, name an 8-bit format: --pix-fmt yuv420p"
            )

    def _refuse_unknown_matrix(self) -> None:
        matrix = self.info.color.matrix
        if matrix not in (RGB, *MATRICES):
            possible = ", ".join(name for name, *_ in MATRICES.values())
            raise InputRefused(
                f"{self.path}: colour matrix {matrix} of H.273; possible: {possible}, RGB"
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

    def _frame(self, frame: VideoFrame) -> Frame:
        self._refuse_change(frame)
        pts = self._rising_pts(frame)
        return Frame(self._rgb(frame), pts, self._frame_duration(frame))

    def _refuse_change(self, frame: VideoFrame) -> None:
        now = (frame.width, frame.height, frame.format.name)
        before = (self.info.width, self.info.height, self.info.pixel_format)
        if now != before:
            raise InputDamaged(
                f"{self.path}: damaged: frames change from {'{}x{} {}'.format(*before)} to "
                f"{'{}x{} {}'.format(*now)} at {float(self._seconds(frame.pts)):.2f} s"
            )

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

    def _rgb(self, frame: VideoFrame) -> Pixels:
        if self.info.pixel_format == "gray":  # libswscale takes all grey for full range
            return self._grey_levels[_array(frame)]
        if self._may_wrap(frame):
            return rgb_from_yuv(_array(self._to_yuv444(frame)), self.info.color)
        return _array(self._to_rgb(frame))

    def _may_wrap(self, frame: VideoFrame) -> bool:
        """Whether the brightest luma and the bluest chroma of the frame would be too much."""
        color = self.info.color
        if color.full_range or color.matrix == RGB:
            return False
        luma = _highest(frame, 0)
        blueness = _highest(frame, min(1, len(frame.planes) - 1))
        brightest = np.array([luma, blueness, 128], np.uint8)
        return bool(unclipped_rgb(brightest, color)[2] > _SWSCALE_WRAPS_AT)

    @cached_property
    def _to_rgb(self) -> "_Converter":
        return self._converter("rgb24")

    @cached_property
    def _to_yuv444(self) -> "_Converter":
        return self._converter("yuv444p", _scale_colors("out", self.info.color))

    @cached_property
    def _grey_levels(self) -> Pixels:
        levels = np.full((256, 3), 128, np.uint8)
        levels[:, 0] = np.arange(256)
        return rgb_from_yuv(levels, self.info.color)

    def _converter(self, pixel_format: str, target_colors: str = "") -> "_Converter":
        size = (self.info.width, self.info.height)
        siting: Siting = "center" if self.info.codec in _CENTRED_CHROMA else "left"
        colors = _scale_colors("in", self.info.color, siting) + target_colors
        return _Converter(
            (self.info.pixel_format, *size), (pixel_format, *size), f"flags={_DECODE_FLAGS}{colors}"
        )


class VideoWriter:
    """Writes upscaled frames, and all else that `reader` found, to a new file.

    Making it checks the request; entering its `with` block opens the file and finds out whether the
    codec and the container take it. Leaving the block well puts the whole file at `path`; leaving
    it with `InputDamaged` puts what was written so far at `NAME.partial.EXT`; leaving it with any
    other error leaves nothing, and an older file as it was. Not thread-safe.

    Times are those of the input, in the units of the container: Matroska rounds to milliseconds,
    and moves all streams alike if one (usually sound) starts before zero.

    Raises:
        UsageError: a suffix, codec, option or pixel format that does not exist, or that do not go
            together; a sound or subtitle codec that the container cannot hold.
        OutputFailed: the disk is full or the place is not writable.
    """

    def __init__(
        self, path: Path, reader: VideoReader, size: tuple[int, int], encoding: Encoding
    ) -> None:
        """`size` is (width, height) in pixels; frames of another size are scaled to it."""
        self.path = path
        self.saved_as: Path | None = None
        """Where the result is, once there is one."""
        self.frames_written = 0
        """Frames that came out of the encoder."""
        self.nudged = 0
        """Copied packets moved forward because their time was not later than the one before."""
        self._reader = reader
        self._size = size
        self._encoding = encoding
        self._format = _container_format(path)
        self._is_mp4 = self._format in ("mp4", "mov")
        self._pixel_format = _pixel_format(encoding, reader.info, size)
        self._color = reader.info.color.stored_as(
            is_rgb=VideoFormat(self._pixel_format).is_rgb, height=reader.info.height
        )
        if self._is_mp4 and (reader.info.start_pts or 0) < 0:
            raise UsageError(
                f"{reader.path} starts before time zero, which {path.suffix} cuts off; "
                f"{self._another_container()}"
            )
        self.left_out = [_describe(s) for s in reader.container.streams if not self._keeps(s)]
        """One line for each stream of the input that the output will not have."""
        self._durations: dict[int, int] = {}  # by pts: of the frames inside the encoder
        self._streams: dict[int, Stream] = {}  # by index in the input
        self._next_dts: dict[int, int] = {}  # by index in the output
        self._converter: _Converter | None = None

    def __enter__(self) -> Self:
        self._life: AbstractContextManager[None] = self._whole_or_absent()
        self._life.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self._life.__exit__(kind, error, traceback)

    def write(self, frame: Frame) -> None:
        """Encode one picture, at the time it has in the input."""
        converted = self._to_coded(frame.pixels)
        converted.pts = frame.pts
        converted.time_base = self._reader.info.time_base
        self._durations[frame.pts] = frame.duration
        self._encode(converted)

    def copy(self, copied: CopiedPacket) -> None:
        """Add one packet of sound or subtitles. It belongs to the file afterwards."""
        packet = copied.packet
        stream = self._streams[packet.stream_index]
        if self._is_mp4 and bytes(packet) == _MP4_SUBTITLE_GAP:
            return  # the container writes its own
        assert stream.time_base is not None
        packet.stream = stream
        packet.rescale_ts(AVRational(stream.time_base))
        self._make_dts_rise(packet)
        with self._output_errors():
            self._container.mux_one(packet)

    @contextmanager
    def _whole_or_absent(self) -> Iterator[None]:
        with replace_when_whole(self.path) as temporary:
            self._container: OutputContainer = av.open(
                f"file:{temporary.absolute()}",
                "w",
                format=self._format,
                container_options=self._container_options(),
            )
            try:
                self._write_header()
                try:
                    yield
                except InputDamaged:
                    if self.frames_written or self._durations:
                        self._finish()
                        self._publish_partial(temporary)
                    raise
                self._finish()
            except BaseException:
                # Without its file the container has nothing to finish, and is closed at once.
                temporary.unlink(missing_ok=True)
                with suppress(av.FFmpegError):
                    self._container.close()
                raise
        self.saved_as = self.path

    def _publish_partial(self, temporary: Path) -> None:
        partial = self.path.with_name(f"{self.path.stem}.partial{self.path.suffix}")
        with replace_when_whole(partial) as place:
            temporary.replace(place)
        self.saved_as = partial

    def _finish(self) -> None:
        self._encode(None)
        if self._durations:
            raise OutputFailed(
                f"{self._encoding.codec} swallowed {len(self._durations)} frames; use -c libx264"
            )
        with self._output_errors():
            self._container.close()  # a full disk may show only here

    @contextmanager
    def _output_errors(self) -> Iterator[None]:
        try:
            yield
        except av.FFmpegError as error:
            if isinstance(error, OSError):  # `replace_when_whole` knows what to advise
                raise
            raise OutputFailed(f"cannot write {self.path}: {error.strerror}") from error

    def _encode(self, frame: VideoFrame | None) -> None:
        with self._output_errors():
            for packet in self._video.encode(frame):
                assert packet.pts is not None
                packet.duration = self._durations.pop(packet.pts)  # not every encoder keeps it
                self._container.mux_one(packet)
                self.frames_written += 1

    def _to_coded(self, pixels: Pixels) -> VideoFrame:
        if self._converter is None:
            height, width, _ = pixels.shape
            self._converter = _Converter(
                ("rgb24", width, height),
                (self._pixel_format, *self._size),
                f"flags={_ENCODE_FLAGS}{_scale_colors('out', self._color)}",
            )
        return self._converter(VideoFrame.from_numpy_buffer(np.ascontiguousarray(pixels), "rgb24"))

    def _make_dts_rise(self, packet: "Packet[Stream]") -> None:
        least = self._next_dts.get(packet.stream_index)
        if packet.dts is None:
            packet.dts = least or 0 if packet.pts is None else packet.pts
        if least is not None and packet.dts < least:
            packet.dts = least
            self.nudged += 1
        if packet.pts is None or packet.pts < packet.dts:
            packet.pts = packet.dts
        may_repeat = packet.stream.type == "subtitle" or bool(
            self._container.format.flags & cast(int, Flags.ts_nonstrict.value)
        )
        self._next_dts[packet.stream_index] = packet.dts + (not may_repeat)

    def _container_options(self) -> dict[str, str]:
        options = {"fflags": "+bitexact"}  # the same input gives the same bytes
        if self._is_mp4:
            options["movflags"] = "+faststart"
            options["movie_timescale"] = str(self._movie_timescale())
        return options

    def _movie_timescale(self) -> int:
        """The unit in which MP4 states where each stream starts: 1/1000 s if nothing is said.

        That would move a film that starts at frame 1 of 30000/1001 a second. A unit of the video's
        and the sounds' own is exact, as long as the times in it fit 32 bits.
        """
        streams = [self._reader.video, *self._reader.copied]
        video, *_ = bases = [stream.time_base.denominator for stream in streams if stream.time_base]
        seconds = self._reader.info.duration_seconds or 86400.0
        units = (math.lcm(*bases), video)
        return next((unit for unit in units if unit * max(seconds, 2) < 2**32), 1000)

    def _write_header(self) -> None:
        source = self._reader.container
        for stream in source.streams:
            self._add_stream(stream)
        self._container.metadata.update(_still_true(source.metadata))
        self._container.set_chapters(source.chapters())
        try:
            self._container.start_encoding()
        except OSError:
            raise
        except av.FFmpegError as error:
            raise UsageError(
                f"{self.path.name} cannot hold these streams together ({error.strerror}); "
                f"{self._another_container()}"
            ) from error
        for index, picture in self._reader.cover_art.items():
            if index in self._streams:
                picture.stream = self._streams[index]
                self._container.mux_one(picture)

    def _keeps(self, stream: Stream) -> bool:
        is_chapters = stream.discard == Discard.all  # as MP4 stores them; the muxer makes its own
        is_video = stream is self._reader.video
        return is_chapters or is_video or self._is_copied(stream) or self._is_attached(stream)

    def _is_copied(self, stream: Stream) -> bool:
        return stream in self._reader.copied or (
            self._is_mp4 and stream.index in self._reader.cover_art
        )

    def _is_attached(self, stream: Stream) -> bool:
        """Matroska has cover art, and fonts for subtitles, as files of their own."""
        return self._format == "matroska" and (
            isinstance(stream, AttachmentStream) or stream.index in self._reader.cover_art
        )

    def _add_stream(self, stream: Stream) -> None:
        """Streams are added in the order of the input, so that their numbers stay."""
        if self._is_attached(stream):
            self._attach(stream)
            return
        if stream is self._reader.video:
            self._video = self._add_video()
            added: Stream = self._video
        elif self._is_copied(stream):
            added = self._streams[stream.index] = self._add_copy(stream)
        else:
            return
        added.disposition = stream.disposition
        added.metadata.update(_still_true(stream.metadata))

    def _attach(self, stream: Stream) -> None:
        cover = self._reader.cover_art.get(stream.index)
        content = bytes(cover) if cover else cast(AttachmentStream, stream).data
        name = stream.metadata.get("filename", f"attachment-{stream.index}")
        kind = stream.metadata.get("mimetype") or f"image/{stream.codec_context.name}"
        self._container.add_attachment(name, kind, content)

    def _add_copy(self, stream: Stream) -> Stream:
        try:
            return self._container.add_stream_from_template(stream, opaque=True)
        except ValueError:
            raise UsageError(
                f"{self.path.name} cannot hold {_describe(stream)}; {self._another_container()}"
            ) from None

    def _another_container(self) -> str:
        suffix = self._reader.path.suffix if self._format == "matroska" else ".mkv"
        return f"use -o {self.path.with_suffix(suffix).name}"

    def _add_video(self) -> VideoStream:
        encoding, info = self._encoding, self._reader.info
        try:
            stream = self._container.add_stream(encoding.codec, rate=info.average_rate or 25)
        except ValueError:
            raise UsageError(
                f"{self.path.name} cannot hold {encoding.codec}; {self._another_container()}"
            ) from None
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.width, context.height = self._size
        context.pix_fmt = self._pixel_format
        context.time_base = stream.time_base = info.time_base
        context.colorspace = self._color.matrix
        context.color_range = self._color.range_tag
        context.color_primaries = self._color.primaries
        context.color_trc = self._color.transfer
        if info.sample_aspect_ratio:
            context.sample_aspect_ratio = info.sample_aspect_ratio
        context.thread_type = "AUTO"  # PyAV's default makes x264 cut each frame into slices
        if self._is_mp4 and context.codec.canonical_name == "hevc":
            context.codec_tag = "hvc1"  # the only spelling that Apple plays
        stream.set_display_matrix(info.display_matrix)
        _open_encoder(stream, encoding)
        return stream


class _Converter:
    """libswscale, told everything; through the `scale` filter, which takes the chroma siting."""

    def __init__(
        self, source: tuple[str, int, int], target: tuple[str, int, int], options: str
    ) -> None:
        """`source` and `target` are (pixel format, width, height)."""
        (source_format, width, height), (target_format, *size) = source, target
        self._graph = Graph()
        self._graph.link_nodes(
            self._graph.add_buffer(
                format=VideoFormat(source_format), width=width, height=height, time_base=Fraction(1)
            ),
            self._graph.add("scale", "{}:{}:".format(*size) + options),
            self._graph.add("format", f"pix_fmts={target_format}"),
            self._graph.add("buffersink"),
        ).configure()

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        self._graph.push(frame)
        converted = self._graph.pull()
        assert isinstance(converted, VideoFrame)
        return converted


def _scale_colors(
    side: Literal["in", "out"], color: ColorDescription, siting: Siting = "left"
) -> str:
    """One half of what FFmpeg's `scale` filter has to be told about a conversion."""
    if color.matrix == RGB:
        return ""
    name, *_ = MATRICES[color.matrix]
    span = "full" if color.full_range else "limited"
    return f":{side}_color_matrix={name}:{side}_range={span}:{side}_chroma_loc={siting}"


def _array(frame: VideoFrame) -> Pixels:
    """The samples of an 8-bit frame: [H, W] if grey, else [H, W, 3]."""
    return cast(Pixels, frame.to_ndarray(channel_last=True))


def _highest(frame: VideoFrame, plane_index: int) -> int:
    """Largest sample of one plane, in 8 bits; padding at the end of rows does not count."""
    plane = frame.planes[plane_index]
    depth = frame.format.components[0].bits
    row = sum(c.width for c in frame.format.components if c.plane == plane_index)
    samples = np.frombuffer(memoryview(plane), np.uint16 if depth > 8 else np.uint8)
    highest = samples.reshape(plane.height, -1)[:, :row].max()
    return min(255, int(highest) >> (depth - 8 if depth > 8 else 0))


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


def _is_copied(stream: Stream) -> bool:
    return stream.type in ("audio", "subtitle") and stream.codec_context is not None


def _describe(stream: Stream) -> str:
    context = stream.codec_context
    name = context.name if context else getattr(stream, "name", None) or "unknown codec"
    return f"{stream.type} stream {stream.index} ({name})"


def _still_true(metadata: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key.upper() not in _OWN_METADATA}


def _container_format(path: Path) -> str:
    try:
        return CONTAINERS[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"cannot write {path.name}: possible suffixes are {' '.join(CONTAINERS)}"
        ) from None


def _pixel_format(encoding: Encoding, info: VideoInfo, size: tuple[int, int]) -> str:
    name = encoding.pixel_format or _same_chroma(info.pixel_format)
    pixel_format = _video_format(name)
    possible = [f.name for f in _video_encoder(encoding.codec).video_formats or []]
    if possible and name not in possible:
        raise UsageError(
            f"{encoding.codec} cannot store {name}; possible: --pix-fmt {' | '.join(possible)}"
        )
    steps = (16 // pixel_format.chroma_width(16), 16 // pixel_format.chroma_height(16))
    if any(side % step for side, step in zip(size, steps, strict=True)):
        raise UsageError(
            f"{name} cannot store {size[0]}x{size[1]} pixels, an odd size; "
            "use --pix-fmt yuv444p or another --outscale"
        )
    return name


def _video_format(name: str) -> VideoFormat:
    try:
        return VideoFormat(name, 16, 16)
    except ValueError:
        raise UsageError(f"no pixel format is called {name}; for example yuv420p") from None


def _same_chroma(pixel_format: str) -> str:
    """The plain 8-bit format with at least the chroma resolution of `pixel_format`."""
    source = VideoFormat(pixel_format)
    if len(source.components) < 3 and not source.has_palette:  # grey
        return "yuv420p"
    halves = (source.chroma_width(16) < 16, source.chroma_height(16) < 16)
    return {(True, True): "yuv420p", (True, False): "yuv422p"}.get(halves, "yuv444p")


def _video_encoder(name: str) -> Codec:
    try:
        codec = Codec(name, "w")
    except UnknownCodecError:
        close = [n for n in get_close_matches(name, codecs_available, 9) if _encodes_video(n)]
        hint = f"did you mean {' or '.join(close[:3])}?" if close else "for example libx264"
        raise UsageError(f"no video codec is called {name}; {hint}") from None
    if codec.type != "video":
        raise UsageError(f"{name} is no video codec; for example libx264")
    return codec


def _encodes_video(name: str) -> bool:
    with suppress(UnknownCodecError):
        return Codec(name, "w").type == "video"
    return False


def _open_encoder(stream: VideoStream, encoding: Encoding) -> None:
    options = dict(encoding.options)
    crf = encoding.crf
    if crf is None and not options.keys() & {"crf", "qp", "b"}:
        crf = DEFAULT_CRF.get(encoding.codec)
    if crf is not None:
        options["crf"] = str(crf)
    if encoding.preset is None:
        options = DEFAULT_SPEED.get(encoding.codec, {}) | options
    else:
        options["preset"] = encoding.preset
    context = stream.codec_context
    context.options = dict(options)
    try:
        context.open()
    except av.FFmpegError as error:
        said = " ".join(f"{key}={value}" for key, value in options.items())
        raise UsageError(
            f"{encoding.codec} does not take {said} for {context.width}x{context.height} "
            f"{context.pix_fmt}: {error.strerror}"
        ) from error
    if context.options:  # what it did not recognise
        unknown = ", ".join(context.options)
        raise UsageError(f"{encoding.codec} has no option {unknown}")
