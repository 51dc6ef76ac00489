"""Color description of video frames (ITU-T H.273) and HDR metadata.

This holds the four color tags, the defaults for files without them, and the conversion to RGB in
floating point. The fast conversion is libswscale's; this one specifies its result.

Static HDR metadata is handed to the encoder, because it holds for the whole video: SMPTE ST 2086
describes the display on which a video was graded, CTA-861.3 its brightest light. Metadata that
changes from frame to frame was made for the pixels of the input, so it is only reported.
"""

import struct
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideData, SideDataContainer, Type
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from srgan_edge.pixels import Pixels

RGB = 0
BT709 = 1
UNSPECIFIED = 2
BT470BG = 5
SMPTE170M = 6

MATRICES: dict[int, tuple[str, float, float]] = {
    BT709: ("bt709", 0.2126, 0.0722),
    4: ("fcc", 0.30, 0.11),
    BT470BG: ("bt470bg", 0.299, 0.114),
    SMPTE170M: ("smpte170m", 0.299, 0.114),
    7: ("smpte240m", 0.212, 0.087),
    9: ("bt2020", 0.2627, 0.0593),
}
"""Supported MatrixCoefficients -> its name in FFmpeg, K_R and K_B (H.273 table 4)."""

ENCODER_PARAMETERS = {
    "libx264": "x264-params",
    "libx265": "x265-params",
    "libsvtav1": "svtav1-params",
}
"""Encoder that can store static HDR metadata -> its option for `key=value:key=value`."""

OF_CODEC: dict[str, tuple[int | None, bool]] = {
    "mjpeg": (BT470BG, True),  # JFIF
    "vp8": (BT470BG, False),  # RFC 6386, section 9.2
    "magicyuv": (None, False),
}
"""Codec whose decoders take the same colors whatever a container states -> their matrix, if it is
only one, and whether their range is full."""

UNKEPT = {
    Type.DOVI_RPU_BUFFER: "Dolby Vision metadata",
    Type.DOVI_METADATA: "Dolby Vision metadata",
    Type.DYNAMIC_HDR_PLUS: "HDR10+ metadata",
    Type.DYNAMIC_HDR_VIVID: "HDR Vivid metadata",
    Type.AMBIENT_VIEWING_ENVIRONMENT: "ambient viewing environment",
    Type.A53_CC: "closed captions inside the video",
    Type.STEREO3D: "stereo 3D arrangement",
    Type.SPHERICAL: "360-degree projection",
    Type.ICC_PROFILE: "ICC profile",
    Type.AFD: "active format description",
    Type.S12M_TIMECODE: "timecodes inside the video",
}
"""Frame metadata that is not written -> its name for people."""

_FULL = 2  # FFmpeg's AVCOL_RANGE_JPEG; 1 is limited, 0 unspecified
_MASTERING = Type.MASTERING_DISPLAY_METADATA

Point = tuple[Fraction, Fraction]
"""CIE 1931 x and y."""


@dataclass(frozen=True)
class ColorDescription:
    """Color description of a stream as code points of H.273."""

    matrix: int
    """MatrixCoefficients: a key of `MATRICES`, or `RGB`."""
    full_range: bool
    """Luma fills 0 to 255, rather than 16 to 235 with chroma from 16 to 240."""
    primaries: int = UNSPECIFIED
    """ColorPrimaries, passed on and never used: no gamut is converted."""
    transfer: int = UNSPECIFIED
    """TransferCharacteristics, passed on and never used: pixels stay as stored."""
    assumed: tuple[str, ...] = ()
    """Those of `matrix` and `range` that the file did not state."""

    @classmethod
    def from_tags(
        cls,
        *,
        matrix: int,
        color_range: int,
        primaries: int,
        transfer: int,
        pixel_format: str,
        is_rgb: bool,
        height: int,
    ) -> Self:
        """Return the description for the tags of a decoded frame, by FFmpeg's numbers.

        Missing tags get the values that players assume. The matrix is BT.709 from 720 lines up, and
        BT.601 below. The range is limited, except for formats that are full by definition (`yuvj*`
        and gray). Primaries and transfer stay unspecified, because no pixel depends on them.
        """
        if is_rgb:
            return cls(RGB, True, primaries, transfer)
        full_by_name = pixel_format.startswith(("yuvj", "gray"))
        return cls(
            matrix=usual_matrix(height) if matrix in (RGB, UNSPECIFIED) else matrix,
            full_range=color_range == _FULL or (not color_range and full_by_name),
            primaries=primaries,
            transfer=transfer,
            assumed=("matrix",) * (matrix in (RGB, UNSPECIFIED))
            + ("range",) * (not color_range and not full_by_name),
        )

    def __str__(self) -> str:
        matrix = "RGB" if self.matrix == RGB else MATRICES[self.matrix][0]
        span = "full" if self.full_range else "limited"
        return f"{matrix} {span} (primaries {self.primaries}, transfer {self.transfer})"

    @property
    def range_tag(self) -> int:
        """Color range by FFmpeg's number: 1 limited, 2 full."""
        return _FULL if self.full_range else 1

    def stored_as(self, *, is_rgb: bool, height: int) -> Self:
        """Return the description of the same colors in a stream that stores RGB or YUV.

        `height` in lines determines the matrix if an RGB stream becomes YUV.
        """
        if is_rgb == (self.matrix == RGB):
            return self
        if is_rgb:
            return replace(self, matrix=RGB, full_range=True, assumed=())
        return replace(self, matrix=usual_matrix(height), full_range=False)


@dataclass(frozen=True)
class MasteringDisplay:
    """The display on which the video was graded (ST 2086)."""

    red: Point
    green: Point
    blue: Point
    white: Point
    darkest: Fraction
    """Lowest luminance in cd/m2."""
    brightest: Fraction
    """Highest luminance in cd/m2."""


@dataclass(frozen=True)
class StaticHdr:
    """HDR metadata that holds for the whole video."""

    display: MasteringDisplay | None
    light_levels: tuple[int, int] | None
    """MaxCLL (brightest pixel) and MaxFALL (brightest frame on average) in cd/m2."""

    @classmethod
    def from_frame(cls, frame: VideoFrame) -> Self:
        """Return the metadata of a decoded frame, from the stream or from the container."""
        found = {data.type: bytes(memoryview(data)) for data in _side_data(frame)}
        display = found.get(_MASTERING)
        levels = found.get(Type.CONTENT_LIGHT_LEVEL)
        return cls(
            None if display is None else _mastering_display(display),
            None if levels is None else struct.unpack("=2I", levels[:8]),
        )

    def encoder_parameters(self, codec: str) -> list[str]:
        """Return `key=value` for each part as `codec` spells it, one of `ENCODER_PARAMETERS`."""
        display_key, levels_key = {
            "libx264": ("mastering-display", "cll"),
            "libx265": ("master-display", "max-cll"),
            "libsvtav1": ("mastering-display", "content-light"),
        }[codec]
        parameters = []
        if self.display is not None:
            parameters.append(f"{display_key}={_described(self.display, codec)}")
        if self.light_levels is not None:
            parameters.append("{}={},{}".format(levels_key, *self.light_levels))
        return parameters

    def __bool__(self) -> bool:
        return self.display is not None or self.light_levels is not None

    def __str__(self) -> str:
        parts = {"mastering display": self.display, "light levels": self.light_levels}
        return " and ".join(name for name, part in parts.items() if part is not None)


def stores_rgb(pixel_format: VideoFormat) -> bool:
    """Check for RGB, which palettes and black and white are too, though FFmpeg does not say so."""
    names_rgb = pixel_format.is_rgb or pixel_format.has_palette
    return names_rgb or pixel_format.name in ("monow", "monob")


def usual_matrix(height: int) -> int:
    """Return the matrix of untagged video with `height` lines: BT.709 for HD, else BT.601.

    Both code points of BT.601 are the same matrix; 576 lines get the European one.
    """
    if height >= 720:
        return BT709
    return BT470BG if height == 576 else SMPTE170M


def rgb_from_yuv(yuv: Pixels, color: ColorDescription) -> Pixels:
    """Convert uint8 [..., 3] Y'CbCr to uint8 [..., 3] R'G'B', rounded and clipped to 0..255.

    This specifies every faster conversion.
    """
    return (unclipped_rgb(yuv, color) + 0.5).clip(0, 255).astype(np.uint8)


def unclipped_rgb(
    yuv: Pixels | npt.NDArray[np.float64], color: ColorDescription, bits: int = 8
) -> npt.NDArray[np.float64]:
    """Convert [..., 3] Y'CbCr codes of `bits` to float64 R'G'B' with black at 0 and white at 255.

    This follows H.273, equations 38 to 43. Codes that no camera writes become values far outside of
    0..255.
    """
    _, k_red, k_blue = MATRICES[color.matrix]
    step, largest = 2 ** (bits - 8), 2**bits - 1
    offset, luma_span, chroma_span = (
        (0, largest, largest) if color.full_range else (16 * step, 219 * step, 224 * step)
    )
    luma = (yuv[..., 0] - float(offset)) / luma_span
    chroma = (yuv[..., 1:] - 128.0 * step) / chroma_span
    red = luma + 2 * (1 - k_red) * chroma[..., 1]
    blue = luma + 2 * (1 - k_blue) * chroma[..., 0]
    green = (luma - k_red * red - k_blue * blue) / (1 - k_red - k_blue)
    return 255 * np.stack([red, green, blue], axis=-1)


def unkept_metadata(frame: VideoFrame) -> tuple[str, ...]:
    """Return the names of the metadata on a frame that will not be in the output."""
    names = [UNKEPT[data.type] for data in _side_data(frame) if data.type in UNKEPT]
    if _MASTERING in [data.type for data in _side_data(frame)]:
        names += [] if StaticHdr.from_frame(frame).display else ["incomplete mastering display"]
    return tuple(dict.fromkeys(names))


def needs_dolby_vision(frame: VideoFrame) -> bool:
    """Return True for Dolby Vision profile 5, whose colors make no sense without its metadata.

    All of its color tags are unspecified. Those of profiles 7 and 8 describe the frame without the
    metadata: HDR10, HLG or BT.709.
    """
    tags = {frame.colorspace, frame.color_primaries, frame.color_trc}
    return tags == {UNSPECIFIED} and "Dolby Vision metadata" in unkept_metadata(frame)


def _side_data(frame: VideoFrame) -> list[SideData]:
    container = cast(SideDataContainer, frame.side_data)
    return [container[index] for index in range(len(container))]


def _mastering_display(data: bytes) -> MasteringDisplay | None:
    """Parse FFmpeg's AVMasteringDisplayMetadata; return None if a part is missing."""
    *numbers, has_points, has_luminance = struct.unpack("=22i", data[:88])
    if not (has_points and has_luminance) or not all(numbers[1::2]):
        return None
    ratios = [Fraction(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
    red, green, blue, white = zip(ratios[:8:2], ratios[1:8:2], strict=True)
    return MasteringDisplay(red, green, blue, white, *ratios[8:])


def _described(display: MasteringDisplay, codec: str) -> str:
    """Format the display for an encoder: x264 and x265 use the units of ST 2086, SVT-AV1 floats."""
    in_units = codec != "libsvtav1"

    def numbers(values: Point, unit: Fraction) -> str:
        texts = [f"{round(v / unit)}" if in_units else f"{float(v):.6f}" for v in values]
        return f"({','.join(texts)})"

    corners = {"G": display.green, "B": display.blue, "R": display.red, "WP": display.white}
    points = [name + numbers(point, Fraction(1, 50000)) for name, point in corners.items()]
    luminance = numbers((display.brightest, display.darkest), Fraction(1, 10000))
    return "".join(points) + "L" + luminance


def _unnamed(cls: type[Type], value: Any) -> Type:  # noqa: ANN401 - as in `Enum._missing_`
    member = object.__new__(cls)
    member._name_, member._value_ = f"UNNAMED_{value}", value
    return member


# PyAV 18 cannot list the side data of a frame if it has no name for one of them, such as the EXIF
# of motion JPEG.
Type._missing_ = classmethod(_unnamed)  # type: ignore[assignment]
