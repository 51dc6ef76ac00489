"""Video files in: every frame once, in order, at the time it had; audio and subtitles as packets.

Frames become RGB by their own matrix and range. What RGB cannot keep is refused before the first
frame. The conversion itself is left to `rgb_decoder`, what comes out to `video`.
"""

import math
import struct
from collections import deque
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from shlex import quote
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

from srgan_edge.errors import InputDamaged, InputRefused
from srgan_edge.video import truncation as matroska
from srgan_edge.video.color import (
    MATRICES,
    RGB,
    ColorDescription,
    StaticHdr,
    needs_dolby_vision,
    unkept_metadata,
)
from srgan_edge.video.convert import RgbDecoder, Siting, depth_bits, is_readable
from srgan_edge.video.decoder import Damage, Deinterlacer, StillImage, VideoDecoder
from srgan_edge.video.frame import (
    CodedFrame,
    CopiedPacket,
    Frame,
    FrameTime,
    Notes,
    VideoInfo,
    VideoPacket,
)
from srgan_edge.video.nvidia import Nvdec, NvdecFailed
from srgan_edge.video.opening import (
    MAX_PIXELS,
    MAX_STREAMS,
    VIDEO_DECODERS,
    color_of,
    file_identity,
    is_copied,
    open_container,
    too_many_streams,
)
from srgan_edge.video.truncation import missing_bytes

_STATED_DURATION = {"mov", "matroska", "avi", "flv"}  # others estimate it from the file they have
_ONE_TO_ONE = {"mov", "matroska", "flv"}  # each packet is one frame, from the first keyframe on

# Chroma lies on the left one of two luma samples in H.264 and its like, and between them in JPEG
# and MPEG-1. Libswscale, if not told, takes it to be between them.
CENTERED_CHROMA = {"mjpeg", "mpeg1video"}

_LARGEST_STEP_BACK_SECONDS = 1  # further back is another recording, not a rounding
_LEAST_STEP_SECONDS = Fraction(1, 1000)  # what Matroska can tell apart


class VideoReader:
    """Reads one file, once, from start to end.

    Iterating yields `Frame` and `CopiedPacket` in the order of the file. Damage that decoding can
    go around (a broken packet, a file that ends early) raises `InputDamaged` after everything else
    was yielded; damage that it cannot raises at once.

    With `conceal`, a frame that cannot be decoded is replaced by the one before it (at the start of
    the video, by the one after), at its own time, so that their number stays and audio stays in
    step. If that makes up for all of the damage, nothing is raised: see `damage`.

    With `deinterlace`, images of two fields become images of one moment.

    Raises:
        InputRefused: not a regular file of a known format, no video stream, frames over
            `max_pixels`, colors that cannot be read; or, unless allowed, transparency.
        NvdecFailed: `nvdec` cannot decode it, which may show in the middle; without, it can be.
        InputDamaged: a known format that is cut off or broken.
    """

    def __init__(
        self,
        path: Path,
        *,
        allow_8bit: bool = False,
        allow_opaque: bool = False,
        conceal: bool = False,
        deinterlace: bool = False,
        max_pixels: int = MAX_PIXELS,
        frames_at_once: bool = False,
        nvdec: Nvdec | None = None,
    ) -> None:
        """Of more than 8 bits, or of transparency, nothing is lost unless it is allowed here.

        Frames of more than 8 bits have `deep`, unless `allow_8bit`, which allows both. With
        `frames_at_once` decoding is faster, for whom damage is an error wherever it is.
        """
        self.path = path
        self._allow_8bit, self._max_pixels = allow_8bit, max_pixels
        self.recolored = ""
        """From what the frames change to what, and when; empty: they do not."""
        self.unkept: dict[str, None] = {}
        """Names of what came with frames and is not in `Frame`, in order."""
        self.damage = Damage()
        """What was found wrong; complete once the last frame was yielded."""
        self.doubtful = 0
        """Packets that may lack a part: transport streams count, and the count was interrupted.
        Recordings joined end to end have such places too, with nothing missing."""
        self.interlaced = 0
        """Frames that hold two fields, whether they were deinterlaced or not."""
        self.nudged = 0
        """Frames moved forward because their time was not later than that of the one before."""
        self.untimed = 0
        """Frames for which the file states no time, placed right after the one before."""
        self.cover_art: dict[int, Packet[Stream]] = {}
        """Attached images, by stream index."""
        self.reached_end = False
        """Whether reading ended because there was no more, and not by an error."""
        self.container = self._open(nvdec)
        try:
            self.video = self._best_video()
            self._prepare_decoder()
            self.copied = [stream for stream in self.container.streams if is_copied(stream)]
            """The audio and subtitle streams, whose packets are yielded."""
            self._conceal = conceal
            self._formats = set(self.container.format.name.split(","))
            self._time_base = self.video.time_base or Fraction(1, 1000)
            rate = self.video.average_rate or self.video.guessed_rate
            self._period_ticks = 1 / (rate * self._time_base) if rate else Fraction(1)
            self._decoder = VideoDecoder(
                self.video,
                self.damage,
                self._period_ticks,
                one_to_one=bool(self._formats & _ONE_TO_ONE),
                conceal=conceal,
                frames_at_once=frames_at_once,
                nvdec=nvdec,
            )
            self._deinterlacer = Deinterlacer() if deinterlace else None
            self._video_packets = 0
            self._last_pts: int | None = None
            self._latest_end_seconds = Fraction(0)
            self._items = self._decode()
            self._ahead: deque[StillImage | CopiedPacket] = deque()
            first = self._first_frame()
            self._first_color = color_of(first.frame)
            if nvdec is not None:
                with VideoReader(path, allow_8bit=True, deinterlace=deinterlace) as software:
                    expected = cast(StillImage, software._ahead[-1])
                    nvdec.compare(first.frame, expected.frame)
                if nvdec.stays:  # what FFmpeg says of a frame on a GPU is not all
                    first = expected
            self.info = self._describe(first, rate)
            self._refuse_unreadable(self.info.pixel_format, self.info.color)
            if needs_dolby_vision(first.frame):
                raise InputRefused(
                    f"{path} is Dolby Vision of profile 5, whose colors cannot be read here; "
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

    @property
    def concealed(self) -> int:
        """Frames that could not be decoded and were replaced."""
        return self._decoder.concealed

    def close(self) -> None:
        """Close the file. Packets and frames that were yielded stay valid."""
        self._items.close()
        self.container.close()

    def __iter__(self) -> Iterator[Frame | CopiedPacket]:
        for item in self._all():
            yield self._frame(item) if isinstance(item, StillImage) else item

    def scan(self) -> Iterator[FrameTime | CopiedPacket]:
        """The same, but of the frames only the times: much faster, as no pixel is converted."""
        for item in self._all():
            yield self._time(item) if isinstance(item, StillImage) else item

    def after(self, frames: int) -> Iterator[Frame | CopiedPacket]:
        """What comes after the first `frames` frames, which are decoded and no more."""
        self._pass_over(frames)
        yield from self

    def images_after(self, frames: int) -> Iterator[CodedFrame | CopiedPacket]:
        """The same, frames being as NVDEC leaves them on the GPU.

        Raises:
            NvdecFailed: their colors change, which is for `after` to follow.
        """
        self._pass_over(frames)
        for item in self._all():
            yield self._image(item) if isinstance(item, StillImage) else item

    def _pass_over(self, frames: int) -> None:
        scanned = self.scan()
        while frames and (item := next(scanned, None)):
            frames -= isinstance(item, FrameTime)

    @property
    def notes(self) -> Notes:
        """What was found out so far."""
        counts = (self.nudged, self.untimed, self.interlaced, self.concealed, self.doubtful)
        return Notes(*counts, self.recolored, tuple(self.unkept), str(self.damage))

    def copied_packets(self) -> Iterator[CopiedPacket]:
        """Only the packets, and no frame is decoded; damage is passed over."""
        for item in self._ahead:
            if isinstance(item, CopiedPacket):
                yield item
        copied = {stream.index for stream in self.copied}
        for packet in self._demux():
            if packet.stream_index in copied:
                yield CopiedPacket(packet)

    def _open(self, nvdec: Nvdec | None) -> InputContainer:
        self._identity = file_identity(self.path)
        return open_container(self.path, nvdec, self._max_pixels)

    def _best_video(self) -> VideoStream:
        if len(self.container.streams) > MAX_STREAMS:
            raise too_many_streams(self.path)
        best = self.container.streams.best("video")
        if best is None or best.disposition & Disposition.attached_pic:
            raise InputRefused(f"{self.path} has no video stream")
        assert isinstance(best, VideoStream)
        if best.codec_context is None:
            raise InputRefused(f"{self.path}: no decoder for its video stream here")
        if (name := best.codec_context.name) not in VIDEO_DECODERS:
            raise InputRefused(
                f"{self.path}: its video is {name}, which is not read here; convert it first, for "
                f"example with: ffmpeg -i {quote(str(self.path))} -c:v ffv1 -c:a copy converted.mkv"
            )
        return best

    def _prepare_decoder(self) -> None:
        self.container.flags &= ~cast(int, ContainerFlags.gen_pts.value)  # see `_stated_time`
        context = self.video.codec_context
        if not 0 < context.width * context.height <= self._max_pixels:
            raise InputRefused(
                f"{self.path}: no readable frames, or frames of more than {self._max_pixels} pixels"
            )
        context.options = {"max_pixels": str(self._max_pixels)}

    def _first_frame(self) -> StillImage:
        """What only a decoded frame tells is needed before the output can be opened."""
        for item in self._items:
            self._ahead.append(item)
            if isinstance(item, StillImage):
                return item
        raise InputDamaged(f"{self.path}: damaged: none of its frames can be decoded")

    def _describe(self, image: StillImage, rate: Fraction | None) -> VideoInfo:
        stream, total, first = self.video, self.container.duration, image.frame
        matrix = cast(SideData | None, first.side_data.get("DISPLAYMATRIX"))
        return VideoInfo(
            width=first.width,
            height=first.height,
            time_base=self._time_base,
            start_pts=image.pts,
            average_rate=rate,
            duration_seconds=None if total is None else total / 1e6,
            frames_stated=stream.frames or None,
            codec=stream.codec_context.name,
            pixel_format=first.format.name,
            color=color_of(first),
            hdr=StaticHdr.from_frame(first),
            unkept=unkept_metadata(first),
            sample_aspect_ratio=stream.sample_aspect_ratio or None,
            display_matrix=None if matrix is None else struct.unpack("=9i", memoryview(matrix)),
            interlaced=self.interlaced > 0,
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
                f"{self.path}: pixel format {pixel_format}; possible: Y'CbCr, RGB or gray of up "
                "to 16 bits in integers"
            )
        if color.matrix not in (RGB, *MATRICES):
            possible = ", ".join(name for name, *_ in MATRICES.values())
            raise InputRefused(
                f"{self.path}: color matrix {color.matrix} of H.273; possible: {possible}, RGB"
            )

    def _decode(self) -> Generator[StillImage | CopiedPacket, None, None]:
        copied = {stream.index for stream in self.copied}
        for packet in self._demux():
            if packet.stream_index == self.video.index:
                self._video_packets += 1
                yield from self._progressive(self._decoder.decode(cast(VideoPacket, packet)))
            elif packet.stream_index in copied:
                yield CopiedPacket(packet)
            elif packet.stream.disposition & Disposition.attached_pic:
                self.cover_art.setdefault(packet.stream_index, packet)
        try:
            self._examine_container()
        except OSError as error:
            self.damage.add(f"cannot be read again: {error.strerror}")
        yield from self._progressive(self._decoder.finish())
        if self._deinterlacer:
            yield from self._deinterlacer.finish()
        if self.damage and not self.damage.is_repaired:
            raise InputDamaged(f"{self.path}: damaged: {self.damage}")

    def _demux(self) -> Iterator["Packet[Stream]"]:
        """Every packet with something in it. A packet without is how PyAV marks the end."""
        packets = self.container.demux()
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                self.damage.add(str(error.strerror), self._latest_end_seconds)
                return
            if packet is None:
                self.reached_end = True
                return
            if not packet.size:
                continue
            if packet.has_sidedata("encryption_info"):
                raise InputRefused(f"{self.path} is encrypted; possible: a video without DRM")
            self.doubtful += packet.is_corrupt
            start = packet.dts if packet.pts is None else packet.pts
            if start is not None and packet.time_base:
                end = (start + (packet.duration or 0)) * packet.time_base
                self._latest_end_seconds = max(self._latest_end_seconds, end)
            yield packet

    def _progressive(self, images: Iterator[StillImage]) -> Iterator[StillImage]:
        for image in images:
            self.interlaced += image.frame.interlaced_frame
            yield from self._deinterlacer.push(image) if self._deinterlacer else (image,)

    def _examine_container(self) -> None:
        """A file that was cut off decodes to its end without any error."""
        if file_identity(self.path) != self._identity:
            self.damage.add("the file was changed or removed while it was read")
        if "matroska" in self._formats:
            if broken := matroska.find_break(self.path):
                self.damage.add(broken)
            elif changed := matroska.find_wrong_checksum(self.path):
                self.damage.add(changed, repaired=self._conceal)
        elif self._formats & {"mov", "avi"}:
            missing = max(missing_bytes(self.path), self._end_of_index() - self.container.size)
            if missing > 0:
                self.damage.add(f"cut off, {missing} bytes are missing")
        if "avi" in self._formats:
            listed = sum(entry.size > 0 for entry in self.video.index_entries)
            if self._video_packets < listed:
                self.damage.add(f"{self._video_packets} of {listed} frames can be found")
        if self._formats & _STATED_DURATION and self.container.duration:
            self._compare_duration(Fraction(self.container.duration, 1_000_000))

    def _compare_duration(self, stated_seconds: Fraction) -> None:
        """The end is the latest of any packet, as the last in the file is not the last in time.

        MPEG transport and program streams state no duration: there a cut cannot be known.
        """
        slack = max(2 * self._period_ticks * self._time_base, Fraction(1, 10))
        if self._latest_end_seconds < stated_seconds - slack:
            end, whole = float(self._latest_end_seconds), float(stated_seconds)
            self.damage.add(f"ends at {end:.2f} of {whole:.2f} s")

    def _end_of_index(self) -> int:
        """Where the last sample that the index knows of ends, in bytes; exact to the last frame."""
        indices = (stream.index_entries for stream in self.container.streams)
        return max((entry.pos + entry.size for index in indices for entry in index), default=0)

    def _all(self) -> Iterator[StillImage | CopiedPacket]:
        while self._ahead:
            yield self._ahead.popleft()
        while item := next(self._items, None):  # `yield from` would close them with this generator
            yield item

    def _frame(self, image: StillImage) -> Frame:
        time = self._time(image)
        self._follow_colors(image.frame, time.pts)
        pixels, deep = self._to_rgb(image.frame)
        return Frame(pixels, time.pts, time.duration, None if self._allow_8bit else deep)

    def _image(self, image: StillImage) -> CodedFrame:
        time = self._time(image)
        self.unkept.update(dict.fromkeys(unkept_metadata(image.frame)))
        if color_of(image.frame) != self._first_color:
            seconds = float(time.pts * self._time_base)
            raise NvdecFailed(f"colors change at {seconds:.2f} s")
        return CodedFrame(image.frame, *time)

    def _time(self, image: StillImage) -> FrameTime:
        time = FrameTime(self._rising_pts(image), self._duration(image))
        self._refuse_change(image.frame, time.pts)
        return time

    def _refuse_change(self, frame: VideoFrame, pts: int) -> None:
        now = (frame.width, frame.height)
        before = (self.info.width, self.info.height)
        if now != before:
            raise InputDamaged(
                f"{self.path}: damaged: frames change from {'{}x{}'.format(*before)} to "
                f"{'{}x{}'.format(*now)} at {float(pts * self._time_base):.2f} s"
            )

    def _follow_colors(self, frame: VideoFrame, pts: int) -> None:
        """Each frame is read by its own format and tags; that they change is noted once."""
        self.unkept.update(dict.fromkeys(unkept_metadata(frame)))
        before, now = self._to_rgb, (frame.format.name, color_of(frame))
        if now == (before.pixel_format, before.color):
            return
        self._refuse_unreadable(*now)
        self._to_rgb = self._decoder_for(*now)
        if not self.recolored:
            was, becomes = (
                f"{name}, {color}" for name, color in ((before.pixel_format, before.color), now)
            )
            self.recolored = f"{was} to {becomes} at {float(pts * self._time_base):.2f} s"

    def _rising_pts(self, image: StillImage) -> int:
        """The time it has, or else the nearest that an encoder takes."""
        last, pts = self._last_pts, image.pts
        if pts is None:
            pts = 0 if last is None else last + self._duration(image)
            self.untimed += 1
        if last is not None and pts <= last:
            if (last - pts) * self._time_base > _LARGEST_STEP_BACK_SECONDS:
                before, now = (float(ticks * self._time_base) for ticks in (last, pts))
                raise InputDamaged(
                    f"{self.path}: damaged: time goes back from {before:.2f} to {now:.2f} s"
                )
            pts = last + max(1, math.ceil(_LEAST_STEP_SECONDS / self._time_base))
            self.nudged += 1
        self._last_pts = pts
        return pts

    def _duration(self, image: StillImage) -> int:
        return image.duration or round(self._period_ticks) or 1

    def _decoder_for(self, pixel_format: str, color: ColorDescription) -> RgbDecoder:
        siting: Siting = "center" if self.info.codec in CENTERED_CHROMA else "left"
        return RgbDecoder(pixel_format, (self.info.width, self.info.height), color, siting)
