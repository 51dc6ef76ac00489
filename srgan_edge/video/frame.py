"""Plain values for video: the stream, its frames, packets to copy, findings and encoder settings.

Files are read in `reader`, frames compressed in `encoder`, and containers written in `muxer`.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import NamedTuple, TypeAlias, TypedDict

import av
from av.codec.codec import Codec, UnknownCodecError
from av.packet import Packet
from av.stream import Stream
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from srgan_edge.errors import UsageError
from srgan_edge.pixels import DeepPixels, Pixels
from srgan_edge.video.color import ColorDescription, StaticHdr
from srgan_edge.video.excerpt import Excerpt

av.logging.set_level(None)  # its callback takes the GIL in FFmpeg's threads, and can deadlock
os.environ.setdefault("SVT_LOG", "1")  # errors only: SVT-AV1 prints without going through FFmpeg

VideoPacket: TypeAlias = "Packet[VideoStream]"


@dataclass(frozen=True)
class VideoInfo:
    """The facts of a video stream, from the header and the first frame."""

    width: int
    """Coded width in pixels; `display_matrix` is not applied."""
    height: int
    """Coded height in pixels."""
    time_base: Fraction
    """Length of one timestamp tick in seconds."""
    start_pts: int | None
    """Time of the first frame in ticks; None if it has no timestamp."""
    average_rate: Fraction | None
    """Frames per second, for display only; frame times come from the timestamps."""
    duration_seconds: float | None
    """Duration as the container states or estimates it, for display only."""
    frames_stated: int | None
    """Number of frames according to the header; None if the container does not store it."""
    codec: str
    bit_rate: int | None
    """Bits a second of the stream as stated, or what the other streams leave of the file's; None if
    neither is known."""
    pixel_format: str
    """Pixel format by FFmpeg's name, for example `yuv420p`."""
    color: ColorDescription
    hdr: StaticHdr
    unkept: tuple[str, ...]
    """Names of metadata on the first frame that is not kept, for example Dolby Vision."""
    sample_aspect_ratio: Fraction | None
    """Pixel width divided by pixel height; None if not stated."""
    display_matrix: tuple[int, ...] | None
    """Rotation and mirroring for players: nine numbers as in ISO/IEC 14496-12 `tkhd`."""
    interlaced: bool
    """The first frame holds two fields. Frames of the result are never marked as interlaced: one
    line has become several, and the network has drawn across the fields."""
    states_length: bool = True
    """The container states how long it is or ends with a mark, so that a missing end shows."""

    @property
    def lies_on_side(self) -> bool:
        """Players turn it by 90 degrees."""
        matrix = self.display_matrix
        return matrix is not None and matrix[0] == matrix[4] == 0

    def display_matrix_at(self, size: tuple[int, int]) -> tuple[int, ...] | None:
        """Return the display matrix at another size: the image moves by the same share of it.

        It moves by up to 32,767 pixels, for which the matrix has room.

        Args:
            size: width and height in pixels, before the image is turned.
        """
        if self.display_matrix is None:
            return None
        *others, right, down, last = self.display_matrix
        wider, higher = size[0] / self.width, size[1] / self.height
        if self.lies_on_side:
            wider, higher = higher, wider
        moves = round(right * wider), round(down * higher)
        return (*others, *(min(max(move, -(2**31)), 2**31 - 1) for move in moves), last)

    @property
    def bits_per_px(self) -> float | None:
        """Coded bits for one pixel of one frame; None if not known."""
        if not self.bit_rate or not self.average_rate:
            return None
        return self.bit_rate / (self.width * self.height * float(self.average_rate))

    @property
    def frames_expected(self) -> int | None:
        """Frame count for progress displays: stated, else estimated by duration, else None."""
        if self.frames_stated is None and self.duration_seconds and self.average_rate:
            return round(self.duration_seconds * self.average_rate)
        return self.frames_stated


@dataclass(frozen=True)
class Frame:
    """One decoded frame and its presentation time."""

    pixels: Pixels
    """uint8 [H, W, 3], RGB, in the primaries and transfer of `VideoInfo.color`."""
    pts: int
    """Presentation time in ticks of `VideoInfo.time_base`; may start anywhere, may be negative."""
    duration: int
    """Duration in ticks; needed to time the last frame."""
    deep: DeepPixels | None = None
    """The same frame in 16 bits, uint16 [H, W, 3]; None if the source has only 8 bits."""


@dataclass(frozen=True)
class CodedFrame:
    """A frame in the size, pixel format and colors that the encoder of a stream expects."""

    image: VideoFrame
    pts: int
    """Presentation time in ticks, like `Frame.pts`."""
    duration: int
    """Duration in ticks."""


class FrameTime(NamedTuple):
    """Presentation time and duration of a frame, in ticks of `VideoInfo.time_base`."""

    pts: int
    duration: int


@dataclass(frozen=True)
class Finding:
    """One kind of damage in a video."""

    first_seconds: Fraction | None
    """Place of the first occurrence in seconds; None if it concerns the whole file."""
    count: int = 1
    """Number of occurrences."""
    repaired: bool = False
    """The frames that are shown make up for every occurrence."""

    def __add__(self, later: "Finding") -> "Finding":
        repaired = self.repaired and later.repaired
        return Finding(self.first_seconds, self.count + later.count, repaired)


@dataclass
class Damage:
    """The findings about one video. Its text follows `damaged:` in error messages."""

    findings: dict[str, Finding] = field(default_factory=dict)
    """Description of each kind of damage -> its occurrences, in the order of discovery."""

    @property
    def is_repaired(self) -> bool:
        """True if the frames that are shown make up for every finding."""
        return all(finding.repaired for finding in self.findings.values())

    def add(self, what: str, at_seconds: Fraction | None = None, *, repaired: bool = False) -> None:
        """Record a finding at one place in the video, or about all of it."""
        self._merge(what, Finding(at_seconds, repaired=repaired))

    def without(self, what: str) -> "Damage":
        """Return a copy with one occurrence of `what` less, if there is any."""
        less = {
            name: replace(found, count=found.count - (name == what))
            for name, found in self.findings.items()
        }
        return Damage({name: found for name, found in less.items() if found.count})

    def __add__(self, later: "Damage") -> "Damage":
        total = Damage(dict(self.findings))
        for what, finding in later.findings.items():
            total._merge(what, finding)
        return total

    def __bool__(self) -> bool:
        return bool(self.findings)

    def __str__(self) -> str:
        return "; ".join(
            what
            + ("" if found.first_seconds is None else f" at {float(found.first_seconds):.2f} s")
            + (f" and {found.count - 1} more" if found.count > 1 else "")
            for what, found in self.findings.items()
        )

    def _merge(self, what: str, finding: Finding) -> None:
        known = self.findings.get(what)
        self.findings[what] = finding if known is None else known + finding


@dataclass
class Notes:
    """Everything worth reporting about a video, up to the frame that its reader yielded last."""

    nudged: int = 0
    """Frames moved forward because they were not later than the frame before."""
    untimed: int = 0
    """Frames without a timestamp, placed right after the frame before."""
    interlaced: int = 0
    """Frames that hold two fields, deinterlaced or not."""
    concealed: int = 0
    """Frames that could not be decoded and were replaced."""
    doubtful: int = 0
    """Packets that may be incomplete because the packet count of a transport stream was
    interrupted. Recordings joined end to end have such places too, with nothing missing."""
    overlapping: int = 0
    """Packets of audio left out because they began before the one before them, as where two
    recordings were joined that share some time."""
    early_seconds: Fraction = Fraction(0)
    """Seconds by which all frames are early, as FFmpeg hides the one within which an edit list
    begins."""
    gaps: int = 0
    """Places without frames for more than a second, in containers that state no durations."""
    first_gap: str = ""
    """From when to when the first gap is; empty if there is none."""
    reshaped: str = ""
    """The first change of the pixel aspect ratio, with its time; empty if there was none."""
    recolored: str = ""
    """The first change of pixel format or colors, with its time; empty if there was none."""
    unkept: tuple[str, ...] = ()
    """Names of metadata on the frames that is not in `Frame`, in the order of discovery."""
    damage: Damage = field(default_factory=Damage)
    """Damage found in the video; complete once the last frame was yielded."""

    def add_unkept(self, names: Iterable[str]) -> None:
        """Record metadata on a frame that is not kept, each name once."""
        self.unkept = tuple(dict.fromkeys((*self.unkept, *names)))

    def add_gap(self, begins: float, ends: float, why: str = "") -> None:
        """Record a place without frames, from and to a time in seconds."""
        self.gaps += 1
        self.first_gap = self.first_gap or f"{begins:.2f} to {ends:.2f} s{why}"

    def __add__(self, later: "Notes") -> "Notes":
        """Return the notes on two parts of one video, `self` being the first part."""
        return Notes(
            nudged=self.nudged + later.nudged,
            untimed=self.untimed + later.untimed,
            interlaced=self.interlaced + later.interlaced,
            concealed=self.concealed + later.concealed,
            doubtful=self.doubtful + later.doubtful,
            overlapping=self.overlapping + later.overlapping,
            early_seconds=self.early_seconds or later.early_seconds,
            gaps=self.gaps + later.gaps,
            first_gap=self.first_gap or later.first_gap,
            reshaped=self.reshaped or later.reshaped,
            recolored=self.recolored or later.recolored,
            unkept=tuple(dict.fromkeys(self.unkept + later.unkept)),
            damage=self.damage + later.damage,
        )


@dataclass(frozen=True)
class CopiedPacket:
    """One packet of audio or subtitles, for `VideoMuxer.copy`."""

    packet: "Packet[Stream]"


class ReaderOptions(TypedDict, total=False):
    """Keyword arguments of `VideoReader` that callers may pass on."""

    allow_8bit: bool
    allow_opaque: bool
    conceal: bool
    deinterlace: bool


class FileOptions(ReaderOptions, total=False):
    """Keyword arguments of `open_video` that callers may pass on."""

    excerpt: Excerpt
    from_pts: int


@dataclass(frozen=True)
class Encoding:
    """Encoder settings for the video stream."""

    codec: str = "libx264"
    """An FFmpeg encoder, for example `libx265`; a codec such as `hevc` becomes its encoder."""
    crf: int | None = None
    """Constant rate factor, lower is better; None: `encoder.DEFAULT_CRF` or the codec's own."""
    preset: str | None = None
    """Encoder speed preset, for example `slow`; None: `encoder.DEFAULT_SPEED`."""
    pixel_format: str | None = None
    """Pixel format, for example `yuv444p`; None keeps depth and chroma resolution of the input."""
    options: dict[str, str] = field(default_factory=dict)
    """Further codec options by their FFmpeg names."""

    def __post_init__(self) -> None:
        with suppress(UnknownCodecError):  # refused where it is used, with what exists
            object.__setattr__(self, "codec", Codec(self.codec, "w").name)

    @property
    def accepts_8bit(self) -> bool:
        """The user named an 8-bit format, so reducing the depth is no surprise."""
        if self.pixel_format is None:
            return False
        components = find_pixel_format(self.pixel_format).components
        return all(component.bits <= 8 for component in components)

    @property
    def accepts_opaque(self) -> bool:
        """The user named a format; no format that can be written has transparency."""
        return self.pixel_format is not None


def decoding_seconds(packet: "VideoPacket | Packet[Stream]") -> Fraction | None:
    """Return the decoding time of a packet in seconds, else its presentation time, else None."""
    time = packet.pts if packet.dts is None else packet.dts
    return None if time is None or packet.time_base is None else time * packet.time_base


def find_pixel_format(name: str) -> VideoFormat:
    """Return the pixel format that FFmpeg knows by this name.

    Raises:
        UsageError: There is none.
    """
    try:
        return VideoFormat(name, 16, 16)
    except ValueError:
        raise UsageError(f"no pixel format is called {name}; for example yuv420p") from None


def library_versions() -> dict[str, str]:
    """Return the versions of PyAV and of the FFmpeg libraries in it."""
    parts = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    return {"PyAV": av.__version__, **parts}
