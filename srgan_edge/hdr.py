"""What a film says of its light beside the colour tags: static HDR metadata, and what is left out.

SMPTE ST 2086 describes the display on which a film was graded, CTA-861.3 its brightest light. Both
hold for the whole film and are handed to the encoder. What changes from frame to frame was made for
the pixels of the input, and is named instead.
"""

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self, cast

from av.sidedata.sidedata import SideData, SideDataContainer, Type
from av.video.frame import VideoFrame

from srgan_edge.color import UNSPECIFIED

ENCODER_PARAMETERS = {
    "libx264": "x264-params",
    "libx265": "x265-params",
    "libsvtav1": "svtav1-params",
}
"""Encoder that can store static HDR metadata -> its option that takes `key=value:key=value`."""

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
}
"""What can come with a frame and is not written -> what to call it."""

_MASTERING = Type.MASTERING_DISPLAY_METADATA


def _unnamed(cls: type[Type], value: Any) -> Type:  # noqa: ANN401 - as in `Enum._missing_`
    member = object.__new__(cls)
    member._name_, member._value_ = f"UNNAMED_{value}", value
    return member


# A frame with side data that PyAV 18 has no name for, as the EXIF of motion JPEG, could otherwise
# not be asked for any.
Type._missing_ = classmethod(_unnamed)  # type: ignore[assignment]

Point = tuple[Fraction, Fraction]
"""CIE 1931 x and y."""


@dataclass(frozen=True)
class MasteringDisplay:
    """The display on which the film was graded (ST 2086)."""

    red: Point
    green: Point
    blue: Point
    white: Point
    darkest: Fraction
    """In cd/m2."""
    brightest: Fraction
    """In cd/m2."""


@dataclass(frozen=True)
class StaticHdr:
    """Metadata that holds for the whole film."""

    display: MasteringDisplay | None
    light_levels: tuple[int, int] | None
    """MaxCLL and MaxFALL in cd/m2: of the brightest pixel, and of the brightest frame's mean."""

    @classmethod
    def from_frame(cls, frame: VideoFrame) -> Self:
        """What comes with a decoded frame, be it from the stream or from the container."""
        found = {data.type: bytes(memoryview(data)) for data in _side_data(frame)}
        display = found.get(_MASTERING)
        levels = found.get(Type.CONTENT_LIGHT_LEVEL)
        return cls(
            None if display is None else _mastering_display(display),
            None if levels is None else struct.unpack("=2I", levels[:8]),
        )

    def encoder_parameters(self, codec: str) -> list[str]:
        """`key=value` for each part, in the encoder's own words; for `ENCODER_PARAMETERS` only."""
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


def unkept_metadata(frame: VideoFrame) -> tuple[str, ...]:
    """What comes with the frame and will not be in the output, by name."""
    names = [UNKEPT[data.type] for data in _side_data(frame) if data.type in UNKEPT]
    if _MASTERING in [data.type for data in _side_data(frame)]:
        names += [] if StaticHdr.from_frame(frame).display else ["incomplete mastering display"]
    return tuple(dict.fromkeys(names))


def needs_dolby_vision(frame: VideoFrame) -> bool:
    """Whether the frame is of profile 5, whose colours only its metadata turns into others.

    It is known by its tags, which say nothing at all. Those of profiles 7 and 8 say what the frame
    is without the metadata: HDR10, HLG or BT.709.
    """
    tags = {frame.colorspace, frame.color_primaries, frame.color_trc}
    return tags == {UNSPECIFIED} and "Dolby Vision metadata" in unkept_metadata(frame)


def _side_data(frame: VideoFrame) -> list[SideData]:
    container = cast(SideDataContainer, frame.side_data)
    return [container[index] for index in range(len(container))]


def _mastering_display(data: bytes) -> MasteringDisplay | None:
    """Of FFmpeg's AVMasteringDisplayMetadata; None where a part of it is missing."""
    *numbers, has_points, has_luminance = struct.unpack("=22i", data[:88])
    if not (has_points and has_luminance) or not all(numbers[1::2]):
        return None
    ratios = [Fraction(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
    red, green, blue, white = zip(ratios[:8:2], ratios[1:8:2], strict=True)
    return MasteringDisplay(red, green, blue, white, *ratios[8:])


def _described(display: MasteringDisplay, codec: str) -> str:
    """x264 and x265 count in the units of ST 2086, SVT-AV1 in whole ones."""
    in_units = codec != "libsvtav1"

    def numbers(values: Point, unit: Fraction) -> str:
        texts = [f"{round(v / unit)}" if in_units else f"{float(v):.6f}" for v in values]
        return f"({','.join(texts)})"

    corners = {"G": display.green, "B": display.blue, "R": display.red, "WP": display.white}
    points = [name + numbers(point, Fraction(1, 50000)) for name, point in corners.items()]
    luminance = numbers((display.brightest, display.darkest), Fraction(1, 10000))
    return "".join(points) + "L" + luminance
