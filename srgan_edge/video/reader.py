"""Read video files: every frame once, in order and at its own time; audio and subtitles as packets.

Frames become RGB by their own matrix and range. A video that RGB cannot represent is refused before
its first frame.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self, cast

from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame

from srgan_edge.errors import InputDamaged
from srgan_edge.pixels import DeepPixels, Pixels
from srgan_edge.video.clock import FrameClock, ShownTimes, time_of
from srgan_edge.video.color import ColorDescription, unkept_metadata
from srgan_edge.video.convert import RgbDecoder, Siting
from srgan_edge.video.decoder import DecodedFrame, VideoDecoder
from srgan_edge.video.demuxer import Demuxer
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
    best_video,
    color_of,
    describe,
    file_identity,
    is_copied,
    open_container,
    refuse_losses,
    refuse_unreadable,
)
from srgan_edge.video.services import unkept_services
from srgan_edge.video.unkept import unkept_elements
from srgan_edge.video.unkept_boxes import unkept_boxes

if TYPE_CHECKING:  # only in the description of its types
    from av.container.core import Chapter

_ONE_TO_ONE = {"mov", "matroska", "flv"}  # each packet is one frame, from the first keyframe on

# Chroma lies on the left one of two luma samples in H.264 and similar codecs, and between them in
# JPEG and MPEG-1. Libswscale assumes between, unless told.
CENTERED_CHROMA = {"mjpeg", "mpeg1video"}


class VideoReader:
    """Reads one file, once, from start to end.

    Iterating yields `Frame` and `CopiedPacket` in the order of the file. Damage that decoding can
    work around (a broken packet, a file that ends early) raises `InputDamaged` after everything
    else was yielded; other damage raises at once.

    With `conceal`, a frame that cannot be decoded is replaced by the frame before it (at the start
    of the video, by the frame after it), at its own time, so that the frame count stays the same
    and audio stays in step. If that makes up for all of the damage, nothing is raised: see
    `notes.damage`.

    With `deinterlace`, frames of two fields become frames of one moment.

    Raises:
        InputRefused: The input is not a regular file of a known format, has no video stream, frames
            over `max_pixels`, colors that cannot be converted or, unless allowed, transparency.
        NvdecFailed: `nvdec` cannot decode the video, which may become known midway; the CPU can.
        InputDamaged: The format is known, but the file is cut off or broken.
    """

    is_excerpt: ClassVar[bool] = False
    """True if only parts of the file are read."""

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
        """Open the file and decode its first frame.

        Extra bit depth and transparency are never dropped silently: `allow_8bit` permits dropping
        both, `allow_opaque` transparency. Without `allow_8bit`, frames of more than 8 bits have
        `deep`. `frames_at_once` decodes faster, but any damage then raises an error.
        """
        self.path = path
        self._max_pixels, self._conceal, self._allow_8bit = max_pixels, conceal, allow_8bit
        self.has_state = conceal or deinterlace
        """Frames depend on those before them in other ways than by their coding."""
        self.notes = Notes()
        """Everything found so far that is worth reporting; complete after the last frame."""
        self.cover_art: dict[int, Packet[Stream]] = {}
        """Attached images by stream index."""
        self.container = self._open(nvdec)
        try:
            self.video = best_video(self.container, path, max_pixels)
            self.copied = [stream for stream in self.container.streams if is_copied(stream)]
            """The audio and subtitle streams whose packets are yielded."""
            self.demuxer = Demuxer(path, self.container, self.video, self.notes)
            """The source of all packets."""
            self._clock = FrameClock(path, self.video, self.notes, self.demuxer.formats)
            self._decoding = partial(
                VideoDecoder,
                period_ticks=self._clock.period_ticks,
                end_pts=self._clock.end_pts,
                one_to_one=bool(self.demuxer.formats & _ONE_TO_ONE),
                conceal=conceal,
                deinterlace=deinterlace,
                frames_at_once=frames_at_once,
                nvdec=nvdec,
            )
            self._decoder = self._decoding(self.video, self.notes)
            self._items = self._decode()
            self._ahead: deque[DecodedFrame | CopiedPacket] = deque()
            first = self._first_frame()
            self._first_color = color_of(first.frame)
            if nvdec is not None:
                with VideoReader(path, allow_8bit=True, deinterlace=deinterlace) as software:
                    expected = cast(DecodedFrame, software._ahead[-1])
                    nvdec.compare(first.frame, expected.frame)
                if nvdec.stays:  # FFmpeg does not describe frames on a GPU completely
                    first = expected
            info = describe(
                self.container, self.video, first.frame, first.pts, self.notes.interlaced > 0
            )
            self.info = replace(info, unkept=(*info.unkept, *self._unkept_elements()))
            """The facts of the video stream."""
            self._rgb = RgbFrames(path, self.info, self.notes)
            refuse_losses(path, self.video, first.frame, allow_opaque=allow_8bit or allow_opaque)
        except BaseException:
            self.container.close()
            raise

    @property
    def attached(self) -> dict[int, bytes]:
        """Content of cover art and attached files, such as fonts, by stream index."""
        files = {stream.index: stream.data for stream in self.container.streams.attachments}
        return files | {index: bytes(packet) for index, packet in self.cover_art.items()}

    @property
    def chapters(self) -> "list[Chapter]":
        """The chapters of the file."""
        return self.container.chapters()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Packets and frames that were yielded stay valid."""
        self._items.close()
        self._decoder.note_losses()
        self.container.close()

    def __iter__(self) -> Iterator[Frame | CopiedPacket]:
        for item in self._all():
            yield self._frame(item) if isinstance(item, DecodedFrame) else item

    def scan(self) -> Iterator[FrameTime | CopiedPacket]:
        """Yield only the times of frames: much faster, because no pixel is converted."""
        for item in self._all():
            yield self._time(item) if isinstance(item, DecodedFrame) else item

    def after(self, frames: int) -> Iterator[Frame | CopiedPacket]:
        """Yield everything after the first `frames` frames, which are decoded but not converted."""
        self.pass_over(frames)
        yield from self

    def pass_over(self, frames: int) -> None:
        """Decode the next frames without converting them."""
        scanned = self.scan()
        while frames and (item := next(scanned, None)):
            frames -= isinstance(item, FrameTime)

    def images_after(self, frames: int) -> Iterator[CodedFrame | CopiedPacket]:
        """Like `after`, but leave the frames on the GPU as NVDEC decodes them.

        Raises:
            NvdecFailed: The colors change midway, which only `after` supports.
        """
        self.pass_over(frames)
        for item in self._all():
            yield self._image(item) if isinstance(item, DecodedFrame) else item

    def copied_packets(self) -> Iterator[CopiedPacket]:
        """Yield only audio and subtitle packets; no frame is decoded and damage is ignored."""
        for item in self._ahead:
            if isinstance(item, CopiedPacket):
                yield item
        copied = {stream.index for stream in self.copied}
        for packet in self._demux():
            if packet.stream_index in copied:
                yield CopiedPacket(packet)

    def scan_packets(self) -> Iterator[FrameTime | CopiedPacket]:
        """Yield like `scan`, from a second reading of the file in which nothing is decoded.

        The times of frames are those of their packets, which only in rare files are other ones.
        """
        yield from self._scanned(lambda packet: None)

    def scan_whole(
        self, on_coded: Callable[[VideoPacket], None]
    ) -> Iterator[FrameTime | CopiedPacket]:
        """Yield like `scan_packets`, and call `on_coded` with each packet of the video.

        Raises:
            InputDamaged: the file is cut off or broken, as far as that shows without decoding.
        """
        notes = Notes()
        yield from self._scanned(on_coded, notes)
        if notes.damage:
            raise InputDamaged(f"{self.path}: damaged: {notes.damage}")

    def _scanned(
        self, on_coded: Callable[[VideoPacket], None], damage_to: Notes | None = None
    ) -> Iterator[FrameTime | CopiedPacket]:
        clock = FrameClock(self.path, self.video, Notes(), self.demuxer.formats)
        times = ShownTimes(clock)
        copied = {stream.index for stream in self.copied}
        with open_container(self.path, None, self._max_pixels) as container:
            video = best_video(container, self.path, self._max_pixels)
            demuxer = Demuxer(self.path, container, video, damage_to or Notes())
            try:
                for packet in demuxer:
                    if packet.stream_index in copied:
                        yield CopiedPacket(packet)
                    elif packet.stream_index == video.index:
                        on_coded(cast(VideoPacket, packet))
                        if self._decoder.is_shown(packet):
                            yield from times.after(time_of(packet), packet.duration)
                yield from times.rest(clock.end_pts)
            except InputDamaged:  # time goes back: frames end there
                return
            if damage_to is not None:
                demuxer.examine_file(self._identity, conceal=False)

    def _open(self, nvdec: Nvdec | None) -> InputContainer:
        self._identity = file_identity(self.path)
        return open_container(self.path, nvdec, self._max_pixels)

    def _unkept_elements(self) -> list[str]:
        readers = {"matroska": unkept_elements, "mov": unkept_boxes, "mpegts": unkept_services}
        chosen = (read for kind, read in readers.items() if kind in self.demuxer.formats)
        return [line for read in chosen for line in read(self.path)]

    def _first_frame(self) -> DecodedFrame:
        """Decode up to the first frame, which has facts that the output needs when it is opened."""
        for item in self._items:
            self._ahead.append(item)
            if isinstance(item, DecodedFrame):
                return item
        raise InputDamaged(f"{self.path}: damaged: none of its frames can be decoded")

    def _decode(self) -> Generator[DecodedFrame | CopiedPacket, None, None]:
        copied = {stream.index for stream in self.copied}
        for packet in self._demux():
            if packet.stream_index == self.video.index:
                yield from self._decoder.decode(cast(VideoPacket, packet))
            elif packet.stream_index in copied:
                yield CopiedPacket(packet)
            elif packet.stream.disposition & Disposition.attached_pic:
                self.cover_art.setdefault(packet.stream_index, packet)
        damage = self.notes.damage
        try:
            self._examine_container()
        except OSError as error:
            damage.add(f"cannot be read again: {error.strerror}")
        yield from self._decoder.finish()
        self.demuxer.note_late_streams()
        if not damage.is_repaired:
            raise InputDamaged(f"{self.path}: damaged: {damage}")

    def _demux(self) -> Iterator["Packet[Stream]"]:
        return iter(self.demuxer)

    def _examine_container(self) -> None:
        self.demuxer.examine_file(self._identity, conceal=self._conceal)

    def _all(self) -> Iterator[DecodedFrame | CopiedPacket]:
        while self._ahead:
            yield self._ahead.popleft()
        while item := next(self._items, None):  # `yield from` would close them with this generator
            yield item

    def _frame(self, decoded: DecodedFrame) -> Frame:
        time = self._time(decoded)
        pixels, deep = self._rgb.convert(decoded.frame, time.pts)
        return Frame(pixels, time.pts, time.duration, None if self._allow_8bit else deep)

    def _image(self, decoded: DecodedFrame) -> CodedFrame:
        time = self._time(decoded)
        self.notes.add_unkept(unkept_metadata(decoded.frame))
        if color_of(decoded.frame) != self._first_color:
            seconds = float(time.pts * self.info.time_base)
            raise NvdecFailed(f"colors change at {seconds:.2f} s")
        return CodedFrame(decoded.frame, *time)

    def _time(self, decoded: DecodedFrame) -> FrameTime:
        time = self._clock.next(decoded.pts, decoded.duration)
        now = (decoded.frame.width, decoded.frame.height)
        before = (self.info.width, self.info.height)
        if now != before:
            raise InputDamaged(
                f"{self.path}: damaged: frames change from {'{}x{}'.format(*before)} to "
                f"{'{}x{}'.format(*now)} at {float(time.pts * self.info.time_base):.2f} s"
            )
        return time


class RgbFrames:
    """Converts the frames of one video to RGB, each by its own pixel format and color tags."""

    def __init__(self, path: Path, info: VideoInfo, notes: Notes) -> None:
        self._path, self._info, self._notes = path, info, notes
        self._decoder = self._decoder_for(info.pixel_format, info.color)

    def convert(self, frame: VideoFrame, pts: int) -> tuple[Pixels, DeepPixels | None]:
        """Return the pixels in 8 bits, and in 16 if the frame has more than 8.

        The first change of pixel format or colors is noted, with its time.
        """
        self._notes.add_unkept(unkept_metadata(frame))
        before, now = self._decoder, (frame.format.name, color_of(frame))
        if now != (before.pixel_format, before.color):
            self._decoder = self._decoder_for(*now)
            seconds = float(pts * self._info.time_base)
            self._notes.recolored = self._notes.recolored or (
                f"{before.pixel_format}, {before.color} to {now[0]}, {now[1]} at {seconds:.2f} s"
            )
        return self._decoder(frame)

    def _decoder_for(self, pixel_format: str, color: ColorDescription) -> RgbDecoder:
        refuse_unreadable(self._path, pixel_format, color)
        siting: Siting = "center" if self._info.codec in CENTERED_CHROMA else "left"
        return RgbDecoder(pixel_format, (self._info.width, self._info.height), color, siting)
