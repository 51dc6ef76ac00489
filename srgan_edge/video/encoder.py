"""Encode frames to compressed packets, for any container.

Requests that the codec cannot fulfill are refused before the first frame.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from difflib import get_close_matches
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from av.codec import Codec, CodecContext, codecs_available
from av.codec.codec import UnknownCodecError
from av.codec.hwaccel import HWAccel
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from srgan_edge.errors import HostMemoryExhausted, OutputFailed, UsageError, lacks_memory
from srgan_edge.machine import address_space_is_limited
from srgan_edge.pixels import LEVEL
from srgan_edge.video.color import (
    ENCODER_PARAMETERS,
    OF_CODEC,
    RGB,
    ColorDescription,
    StaticHdr,
    stores_rgb,
)
from srgan_edge.video.convert import (
    ENCODE_FLAGS,
    Converter,
    DeepEncoder,
    color_options,
    depth_bits,
    is_writable,
    with_depth,
)
from srgan_edge.video.frame import (
    CodedFrame,
    Encoding,
    Frame,
    VideoInfo,
    VideoPacket,
    find_pixel_format,
)
from srgan_edge.video.limits import (
    Unfit,
    parameters_in,
    refuse_contradictions,
    refuse_quality,
    refuse_what_frames_decide,
    too_large_for_players,
)
from srgan_edge.video.nvidia import (
    SOFTWARE,
    STORED_AS,
    failure_in_video,
    nvenc_options,
    why_not_started,
)

DEFAULT_CRF = {"libx264": 18, "libx265": 20, "libsvtav1": 26}
"""Constant rate factors, about visually lossless: an upscaled video is a master, not a stream."""

DEFAULT_SPEED = {
    "libx264": {"preset": "superfast", "weightp": "0", "b_strategy": "0", "sc_threshold": "0"}
}
"""Speed options per codec. The network runs on the same cores, so a slow encoder slows the video
down: `medium` takes half of the time. The last three options switch off the look-ahead, so that
`superfast` takes a quarter less time for a file of the same size and PSNR."""

_X26X_PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast"),
    *("medium", "slow", "slower", "veryslow", "placebo"),
)
"""Presets of libx264 and libx265, which do not say what is wrong with another one."""

_DEPTHS = (8, 10, 12, 16)  # bits per sample in the formats of encoders
_ANY_DEPTH = {
    "libx264": "-c libx264",
    "libx265": "-c libx265",
    "ffv1": "-c ffv1 -o NAME.mkv",  # MOV cannot hold it
}
"""Encoder -> how it is asked for, in the order of preference."""


class VideoEncoder:
    """Encodes upscaled frames at their times in the input.

    `add_to` starts it and may be called repeatedly: every start makes a new encoder, whose packets
    do not depend on earlier ones. Not thread-safe, except for `coded`.

    Raises:
        UsageError: The codec, an option or the pixel format does not exist or does not fit.
    """

    def __init__(
        self,
        info: VideoInfo,
        size: tuple[int, int],
        encoding: Encoding,
        *,
        on_gpu: HWAccel | None = None,
    ) -> None:
        """
        Args:
            size: (width, height) in pixels; frames of another size are scaled to it.
            on_gpu: The GPU context of coded frames; None if they are in host memory.
        """
        self.codec = encoding.codec
        self.encoding, self.size = encoding, size
        self._info, self._size, self._encoding = info, size, encoding
        self._on_gpu = on_gpu
        self.left_out = list(info.unkept)
        """One line for each kind of metadata on frames that the output will not have."""
        if info.hdr and encoding.codec not in ENCODER_PARAMETERS:
            possible = ", ".join(ENCODER_PARAMETERS)
            self.left_out.append(
                f"{info.hdr}: {encoding.codec} cannot store them; -c {possible} can"
            )
        _refuse_options(encoding, info.hdr)
        codec = _video_encoder(self.codec).canonical_name
        large = too_large_for_players(codec, size)
        self.remarks = [] if large is None else [large]
        """One line for each thing about the output that the user may not expect."""
        self.pixel_format = _pixel_format(encoding, info, size)
        """Pixel format of the stream, by FFmpeg's name."""
        self.color = info.color.stored_as(
            is_rgb=stores_rgb(VideoFormat(self.pixel_format)), height=info.height
        )
        """Color description of the stream."""
        if self.pixel_format.startswith("yuvj"):  # FFmpeg's old names for full range
            self.color = replace(self.color, full_range=True)
        if self.color.matrix != RGB and (fixed := OF_CODEC.get(codec)):
            matrix, full_range = fixed
            self.color = replace(
                self.color, matrix=matrix or self.color.matrix, full_range=full_range
            )
        self._durations: dict[int, int] = {}  # of the frames inside the encoder, by pts
        self._frames_taken = 0
        self._conversion = _Conversion()

    def add_to(self, container: OutputContainer) -> VideoStream:
        """Start a new encoder, and add the stream for its packets to `container`.

        Raises:
            UsageError: The codec does not support the options.
            ResourcesExhausted: NVENC is not available here.
            ValueError: The container cannot hold the codec.
        """
        encoding, info = self._encoding, self._info
        rate = info.average_rate or 25
        stream = container.add_stream(encoding.codec, rate=rate, hwaccel=self._on_gpu)
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.width, context.height = self._size
        context.pix_fmt = self.pixel_format
        context.time_base = stream.time_base = info.time_base
        self._tag(context)
        if info.sample_aspect_ratio:
            context.sample_aspect_ratio = info.sample_aspect_ratio
        context.thread_type = "AUTO"  # PyAV's default makes x264 cut each frame into slices
        is_mp4 = container.format.name in ("mp4", "mov")
        if is_mp4 and context.codec.canonical_name == "hevc":
            context.codec_tag = "hvc1"  # the only tag that Apple players accept
        stream.set_display_matrix(info.display_matrix_at(self._size))
        _open_encoder(stream, encoding, info.hdr)
        self._stream = stream
        self._durations.clear()
        self._frames_taken = 0
        return stream

    def coded(self, frame: Frame) -> CodedFrame:
        """Convert a frame for the stream: half of the work, which several threads can share.

        Raises:
            UsageError: The frame is deeper than the stream, whose depth is that of the first frame.
        """
        if frame.deep is not None and depth_bits(self.pixel_format) == 8:
            raise UsageError(
                f"frames of more than 8 bits from {float(frame.pts * self._info.time_base):.2f} s "
                f"on; type --pix-fmt {with_depth(self.pixel_format, 10)} to keep them, or "
                f"--pix-fmt {self.pixel_format} to go on in 8"
            )
        convert = self._conversion.of_this_thread
        if convert is None:
            height, width, _ = frame.pixels.shape
            convert = _conversion((width, height), self.pixel_format, self._size, self.color)
            self._conversion.of_this_thread = convert
        return CodedFrame(convert(frame), frame.pts, frame.duration)

    def encode(self, frame: Frame | CodedFrame) -> Iterator[VideoPacket]:
        """Encode a frame and yield the packets that are ready, often those of earlier frames."""
        coded = self.coded(frame) if isinstance(frame, Frame) else frame
        image = coded.image
        image.pts, image.time_base = coded.pts, self._info.time_base
        self._tag(image)  # some encoders use the tags of frames
        self._durations[coded.pts] = coded.duration
        self._frames_taken += 1
        yield from self._packets(image)

    def finish(self) -> Iterator[VideoPacket]:
        """End encoding and yield the remaining packets.

        Raises:
            OutputFailed: The encoder returned fewer packets than frames.
        """
        yield from self._packets(None)
        if self._durations:
            raise OutputFailed(
                f"{self.codec} swallowed {len(self._durations)} frames; use -c libx264"
            )

    @property
    def holds_frames(self) -> bool:
        """`finish` will yield packets."""
        return bool(self._durations)

    def _packets(self, frame: VideoFrame | None) -> Iterator[VideoPacket]:
        try:
            packets = self._stream.encode(frame)
        except av.FFmpegError as error:
            if self.codec in SOFTWARE:
                raise failure_in_video(self.codec, error) from error
            raise OutputFailed(f"{self.codec} failed: {error.strerror}") from error
        for packet in packets:
            assert packet.pts is not None
            if self._frames_taken < 3:  # too few for B-frames; and x265 invents times
                packet.dts = packet.pts
            packet.duration = self._durations.pop(packet.pts)  # not every encoder keeps it
            yield packet

    def _tag(self, target: VideoCodecContext | VideoFrame) -> None:
        target.colorspace = self.color.matrix
        target.color_range = self.color.range_tag
        target.color_primaries = self.color.primaries
        target.color_trc = self.color.transfer


@contextmanager
def keeping_priority() -> Iterator[None]:
    """Return threads that an encoder made real-time ones in the block to ordinary scheduling.

    SVT-AV1 does so to its own threads and to the caller's where it is run as root, as in
    containers. A real-time thread keeps all other processes from its core.
    """
    before = set(_real_time_threads())
    try:
        yield
    finally:
        for thread in set(_real_time_threads()) - before:
            with suppress(OSError):  # it has ended, or this process is not allowed to
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def _real_time_threads() -> Iterator[int]:
    threads = [threading.get_native_id()]
    with suppress(PermissionError):  # a sandboxed process sees its own thread only
        threads = [int(task.name) for task in Path("/proc/self/task").iterdir()]
    for thread in threads:
        with suppress(ProcessLookupError):
            if os.sched_getscheduler(thread) in (os.SCHED_FIFO, os.SCHED_RR):
                yield thread


class _Conversion(threading.local):
    """The conversion of each thread: one libswscale context serves one frame at a time."""

    of_this_thread: Callable[[Frame], VideoFrame] | None = None


def _conversion(
    source_size: tuple[int, int], pixel_format: str, size: tuple[int, int], color: ColorDescription
) -> Callable[[Frame], VideoFrame]:
    """Return the conversion from RGB to the stream: libswscale where it is exact, as it is faster.

    For 8 bits it rounds full-range chroma down, by half a level on average, and assumes that gray
    is full range.
    """
    is_plain = depth_bits(pixel_format) == 8 and not color.full_range and pixel_format != "gray"
    if is_plain or not is_writable(pixel_format):
        told = color_options("out", color)
        convert = Converter(("rgb24", *source_size), (pixel_format, *size), ENCODE_FLAGS, told)
        return lambda frame: convert(
            VideoFrame.from_numpy_buffer(np.ascontiguousarray(frame.pixels), "rgb24")
        )
    encode = DeepEncoder(source_size, pixel_format, size, color)
    return lambda frame: encode(
        frame.pixels * np.uint16(LEVEL) if frame.deep is None else frame.deep
    )


def _pixel_format(encoding: Encoding, info: VideoInfo, size: tuple[int, int]) -> str:
    name = encoding.pixel_format or _with_all_of(info.pixel_format)
    if encoding.codec in SOFTWARE:
        name = STORED_AS.get(name, name)
    pixel_format = find_pixel_format(name)
    possible = _stored_by(encoding.codec)
    if not _can_be_made(name) or (possible and name not in possible):
        others = [way for codec, way in _ANY_DEPTH.items() if name in _stored_by(codec)][:1]
        formats = [f"--pix-fmt {' | '.join(possible)}"] if possible else []
        ways = [*others, *formats] or ["-c libx264 --pix-fmt yuv420p"]
        raise UsageError(f"{encoding.codec} cannot store {name}; possible: {' or '.join(ways)}")
    steps = (16 // pixel_format.chroma_width(16), 16 // pixel_format.chroma_height(16))
    if any(side % step for side, step in zip(size, steps, strict=True)):
        ways = [f"--pix-fmt {with_depth('yuv444p', depth_bits(name))}", *_even_height(info, size)]
        raise UsageError(
            f"{name} cannot store {size[0]}x{size[1]} pixels, an odd size; use {' or '.join(ways)}"
        )
    return name


def _even_height(info: VideoInfo, size: tuple[int, int]) -> Iterator[str]:
    """Yield the option for a height near that of a result, if one can be typed.

    A height is none of a smaller result, and that which players show.
    """
    if size[1] >= info.height and not info.lies_on_side:
        lower = size[1] // 2 * 2
        yield f"--height {lower if lower >= info.height else lower + 2}"


def _with_all_of(pixel_format: str) -> str:
    """Return the usual format with at least the depth and chroma resolution of `pixel_format`."""
    source = VideoFormat(pixel_format, 16, 16)
    colors = sum(not component.is_alpha for component in source.components)
    halves = (source.chroma_width(16) < 16, source.chroma_height(16) < 16)
    if colors < 3 and not source.has_palette:  # gray: players support 4:2:0
        halves = (True, True)
    family = {(True, True): "yuv420p", (True, False): "yuv422p"}.get(halves, "yuv444p")
    return with_depth(family, next(b for b in _DEPTHS if b >= depth_bits(pixel_format)))


def _stored_by(codec: str) -> list[str]:
    """Return the pixel formats that a codec accepts and that can be made here; empty if unknown."""
    formats = _video_encoder(codec).video_formats or []
    return [known.name for known in formats if _can_be_made(known.name)]


def _can_be_made(pixel_format: str) -> bool:
    """Check whether frames of a format can be made from RGB: no transparency, no GPU formats.

    GPU formats have no components. libswscale is not exact for more than 8 bits.
    """
    components = VideoFormat(pixel_format, 16, 16).components
    if not components or any(component.is_alpha for component in components):
        return False
    return depth_bits(pixel_format) <= 8 or is_writable(pixel_format)


def _video_encoder(name: str) -> Codec:
    try:
        codec = Codec(name, "w")
    except UnknownCodecError:
        close = [n for n in get_close_matches(name, codecs_available, 9) if _encodes_video(n)]
        hint = f"did you mean {' or '.join(close[:3])}?" if close else "for example libx264"
        raise UsageError(f"no video codec is called {name}; {hint}") from None
    if codec.type != "video":
        raise UsageError(f"{name} is not a video codec; for example libx264")
    return codec


def _encodes_video(name: str) -> bool:
    with suppress(UnknownCodecError):
        return Codec(name, "w").type == "video"
    return False


def corrupts_memory(codec: str, width: int) -> bool:
    """Return True for frames in which libx265 4.1 writes beside its buffers.

    Measured over widths from 30 to 194 px, heights from 16 to 130 and presets: those that are three
    blocks of 8 px wide at half their size.
    """
    return codec == "libx265" and 32 < width <= 48


def _open_encoder(stream: VideoStream, encoding: Encoding, hdr: StaticHdr) -> None:
    is_nvenc = encoding.codec in SOFTWARE
    if encoding.codec in ("libx264", "libx265"):
        preset = encoding.preset or encoding.options.get("preset")
        if preset is not None and preset not in _X26X_PRESETS:
            raise UsageError(
                f"{encoding.codec} has no preset {preset}; possible: {', '.join(_X26X_PRESETS)}"
            )
    options = _encoder_options(encoding, hdr)
    context = stream.codec_context
    if corrupts_memory(encoding.codec, context.width):
        raise Unfit(
            f"libx265 corrupts memory in frames that are {context.width} px wide",
            "possible: -c libx264",
        )
    context.options = dict(options)
    try:
        with keeping_priority():
            context.open()
    except av.FFmpegError as error:
        if is_nvenc and (missing := why_not_started(encoding.codec, error)):
            raise missing from error
        # Encoders give other reasons for options that they do not know.
        if lacks_memory(error) or (
            isinstance(error, av.error.ExternalError) and address_space_is_limited()
        ):
            raise HostMemoryExhausted from error
        asked = {"crf": encoding.crf, "preset": encoding.preset}
        typed = [f"--{key} {value}" for key, value in asked.items() if value is not None]
        typed += [f"-e {key}={value}" for key, value in encoding.options.items()]
        instead = "" if encoding.codec == "libx264" else "possible: -c libx264"
        raise Unfit(
            f"{encoding.codec} does not accept {' '.join(typed) or 'frames'} for "
            f"{context.width}x{context.height} {context.pix_fmt}: {error.strerror}",
            "correct it, or leave it out" if typed else instead,
        ) from error
    if context.options:  # the unknown ones remain
        unknown = ", ".join(context.options)
        raise UsageError(f"{encoding.codec} has no option {unknown}; leave it out")


def _refuse_options(encoding: Encoding, hdr: StaticHdr) -> None:
    """Refuse options that contradict the frames or each other, or would be ignored."""
    codec, given = encoding.codec, encoding.options
    options = _encoder_options(encoding, hdr)
    key = ENCODER_PARAMETERS.get(codec, "")
    inside = given.get(key, "")
    refuse_what_frames_decide(given, key)
    if key:
        named = {"crf": encoding.crf, "preset": encoding.preset}
        refuse_contradictions(named, given, key)
        options |= {name: it for name, it in parameters_in(inside) if name in ("crf", "qp")}
    refuse_quality(codec, options)
    if inside and (said := _ignored_parameters(codec, key, inside)):
        raise UsageError(
            f"{codec} ignores a part of -e {key}={inside}: {said}; correct it, or leave it out"
        )


@cache
def _ignored_parameters(codec: str, option: str, parameters: str) -> str:
    """Return what a small encoder says of parameters that it ignores; empty if it takes them all.

    It says so in FFmpeg's log alone. Nothing is encoded, so that no thread of FFmpeg can wait for
    the log.
    """
    context = CodecContext.create(codec, "w")
    assert isinstance(context, VideoCodecContext)
    context.width = context.height = 64
    context.pix_fmt, context.time_base = "yuv420p", Fraction(1, 25)
    quiet = "log-level=none:" if codec == "libx265" else ""  # it prints on its own
    context.options = {option: quiet + parameters}
    av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture() as log, suppress(av.FFmpegError):  # opening it again says why
            context.open()
    finally:
        av.logging.set_level(None)
    said = (text.strip().rstrip(".") for _, _, text in log)
    about = ("Error parsing option", "Unknown option", "Invalid value")
    return ", ".join(text for text in said if text.startswith(about))


def _encoder_options(encoding: Encoding, hdr: StaticHdr) -> dict[str, str]:
    return nvenc_options(encoding) if encoding.codec in SOFTWARE else _options(encoding, hdr)


def _options(encoding: Encoding, hdr: StaticHdr) -> dict[str, str]:
    options = dict(encoding.options)
    if encoding.codec == "rawvideo":
        options["chroma_sample_location"] = "left"  # where `_conversion` puts it; Y4M says so
    if encoding.codec in ENCODER_PARAMETERS:
        key = ENCODER_PARAMETERS[encoding.codec]
        quiet = ["log-level=error"] if encoding.codec == "libx265" else []  # it ignores av.logging
        given = [options[key]] if key in options else []  # the last one of two counts
        if parameters := [*quiet, *hdr.encoder_parameters(encoding.codec), *given]:
            options[key] = ":".join(parameters)
    crf = encoding.crf
    if crf is not None and (other := next(iter(options.keys() & {"qp", "b"}), None)):
        raise UsageError(f"--crf {crf} and -e {other}={options[other]}; possible: one of them")
    if crf is None and not options.keys() & {"crf", "qp", "b"}:
        crf = DEFAULT_CRF.get(encoding.codec)
    if crf is not None:
        options["crf"] = str(crf)
    if encoding.preset is None:
        return DEFAULT_SPEED.get(encoding.codec, {}) | options
    return options | {"preset": encoding.preset}
