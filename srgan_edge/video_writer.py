"""Video files out: frames encoded at their times, and everything else in the input carried across.

Sound and subtitles go packet by packet; chapters, tags and attachments as they are. What codec or
container cannot keep is refused before the first frame is encoded. Finding it in the input is left
to `video_reader`, what is done to the frames in between to the caller.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import av
import numpy as np
from av.codec import Codec, codecs_available
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer
from av.format import Flags
from av.packet import Packet
from av.rational import AVRational
from av.stream import AttachmentStream, Discard, Stream
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from srgan_edge.atomic import replace_when_whole
from srgan_edge.errors import InputDamaged, OutputFailed, UsageError
from srgan_edge.pixels import Pixels
from srgan_edge.swscale import ENCODE_FLAGS, Converter, color_options
from srgan_edge.video import CopiedPacket, Encoding, Frame, VideoInfo, find_pixel_format
from srgan_edge.video_reader import VideoReader

CONTAINERS: dict[str, str] = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
}
"""Lower-case suffix of an output -> its format: those that keep exact timestamps."""

DEFAULT_CRF = {"libx264": 18, "libx265": 20, "libsvtav1": 26}
"""Visually lossless, about: an upscaled film is a master, not a stream."""

DEFAULT_SPEED = {
    "libx264": {"preset": "superfast", "weightp": "0", "b_strategy": "0", "sc_threshold": "0"}
}
"""Where the network runs on the same cores, a slower encoder is a slower film: `medium` takes half
of it. Without the look-ahead that the last three switch off, `superfast` takes a quarter less time
for a file of the same size and PSNR."""

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
        self._converter: Converter | None = None

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
            self._converter = Converter(
                ("rgb24", width, height),
                (self._pixel_format, *self._size),
                ENCODE_FLAGS,
                color_options("out", self._color),
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
    pixel_format = find_pixel_format(name)
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
