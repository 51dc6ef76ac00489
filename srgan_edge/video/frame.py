"""What video is made of: the stream, its frames, packets to copy, and how it is compressed.

Values only. Reading a file is left to `video_reader`, compressing to `video_encoder`,
the container of a result to `video_muxer`.
"""

import os
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple, TypeAlias, TypedDict

import av
from av.packet import Packet
from av.stream import Stream
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from srgan_edge.errors import UsageError
from srgan_edge.pixels import DeepPixels, Pixels
from srgan_edge.video.color import ColorDescription, StaticHdr

av.logging.set_level(None)  # its callback takes the GIL from FFmpeg's threads, and can deadlock
os.environ.setdefault("SVT_LOG", "1")  # errors alone; SVT-AV1 prints past FFmpeg

VideoPacket: TypeAlias = "Packet[VideoStream]"


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
    hdr: StaticHdr
    unkept: tuple[str, ...]
    """Names of what came with the first frame and is not here, for example Dolby Vision."""
    sample_aspect_ratio: Fraction | None
    """Width of a pixel over its height; None: not stated."""
    display_matrix: tuple[int, ...] | None
    """How a player turns or mirrors the image: nine numbers as in ISO/IEC 14496-12 `tkhd`."""
    interlaced: bool
    """The first frame holds two fields. In the result no frame does, and none says so: what was one
    line is several, and the network has drawn across the fields."""

    @property
    def frames_expected(self) -> int | None:
        """For progress: as stated, else by duration and rate, else None."""
        if self.frames_stated is None and self.duration_seconds and self.average_rate:
            return round(self.duration_seconds * self.average_rate)
        return self.frames_stated


@dataclass(frozen=True)
class Frame:
    """One image of the video, and when it is shown."""

    pixels: Pixels
    """uint8 [H, W, 3], RGB, in the primaries and transfer of `VideoInfo.color`."""
    pts: int
    """Presentation time in ticks of `VideoInfo.time_base`; may start anywhere, may be negative."""
    duration: int
    """For how many ticks it is shown; what the last frame of a stream is known by."""
    deep: DeepPixels | None = None
    """The same image in 16 bits, uint16 [H, W, 3]; None: there is no more to it than 8."""


@dataclass(frozen=True)
class CodedFrame:
    """An image in the size, pixel format and colors of a stream, as its encoder takes it."""

    image: VideoFrame
    pts: int
    """As that of `Frame`."""
    duration: int


class FrameTime(NamedTuple):
    """When an image of the video is shown, in ticks of `VideoInfo.time_base`."""

    pts: int
    duration: int


@dataclass(frozen=True)
class Notes:
    """What a reader found out about a video by the frame that it yielded last."""

    nudged: int = 0
    """Frames moved forward because their time was not later than that of the one before."""
    untimed: int = 0
    """Frames for which the file states no time, placed right after the one before."""
    interlaced: int = 0
    """Frames that hold two fields, whether they were deinterlaced or not."""
    concealed: int = 0
    """Frames that could not be decoded and were replaced."""
    doubtful: int = 0
    """Packets that may lack a part, as the count in a transport stream was interrupted."""
    recolored: str = ""
    """From what the frames change to what, and when; empty: they do not."""
    unkept: tuple[str, ...] = ()
    """Names of what came with frames and is not in `Frame`, in order."""
    damage: str = ""
    """What was found wrong; complete once the last frame was yielded."""


@dataclass(frozen=True)
class CopiedPacket:
    """One packet of audio or subtitles, to be handed to `VideoMuxer.copy` as it is."""

    packet: "Packet[Stream]"


class ReaderOptions(TypedDict, total=False):
    """What `VideoReader` can be told, by the same names."""

    allow_8bit: bool
    allow_opaque: bool
    conceal: bool
    deinterlace: bool


@dataclass(frozen=True)
class Encoding:
    """How the video stream is compressed."""

    codec: str = "libx264"
    """An FFmpeg encoder, for example `libx265` or `libsvtav1`."""
    crf: int | None = None
    """Constant quality, lower is better; None: that of `video_encoder`, or the codec's own."""
    preset: str | None = None
    """The codec's own word for its speed, for example `slow`; None: that of `video_encoder`."""
    pixel_format: str | None = None
    """For example `yuv444p`; None: with the depth and the chroma resolution of the input."""
    options: dict[str, str] = field(default_factory=dict)
    """Any other option of the codec, by its FFmpeg name."""

    @property
    def accepts_8bit(self) -> bool:
        """Whether an 8-bit format was named, so that nobody is surprised by one."""
        if self.pixel_format is None:
            return False
        components = find_pixel_format(self.pixel_format).components
        return all(component.bits <= 8 for component in components)

    @property
    def accepts_opaque(self) -> bool:
        """Whether a format was named: none that can be written has transparency."""
        return self.pixel_format is not None


def decoding_seconds(packet: "VideoPacket | Packet[Stream]") -> Fraction | None:
    """When a decoder takes a packet, or else when it is shown; None: it has no time."""
    time = packet.pts if packet.dts is None else packet.dts
    return None if time is None or packet.time_base is None else time * packet.time_base


def find_pixel_format(name: str) -> VideoFormat:
    """The pixel format that FFmpeg knows by this name.

    Raises:
        UsageError: there is none.
    """
    try:
        return VideoFormat(name, 16, 16)
    except ValueError:
        raise UsageError(f"no pixel format is called {name}; for example yuv420p") from None


def library_versions() -> dict[str, str]:
    """PyAV and the parts of FFmpeg in it, each with its version."""
    parts = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    return {"PyAV": av.__version__, **parts}
