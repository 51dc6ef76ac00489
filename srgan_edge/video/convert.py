"""Convert video frames to RGB and back; the callers know their colors.

Frames of 8 bits go through libswscale, except where its sums overflow. For deeper frames libswscale
only resamples single planes, because its conversion between deep Y'CbCr and RGB is wrong in more
than the last bit (FFmpeg 8.1): white of 10 or 12 bits becomes 65280 of 65535, 4:2:0 to `rgb48le` is
noise, and full-range 4:4:4 changes its luma on the way to 16 bits. So these sums are done here,
with the matrix of `color.unclipped_rgb`, and are exact except for rounding.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from typing import Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from srgan_edge.depth import shown_to_network
from srgan_edge.pixels import LEVEL, DeepPixels, Pixels
from srgan_edge.video.color import (
    BT709,
    MATRICES,
    RGB,
    ColorDescription,
    rgb_from_yuv,
    unclipped_rgb,
)

Siting: TypeAlias = Literal["left", "center"]
"""Position of chroma samples between luma samples, by FFmpeg's name."""

# Chroma is interpolated linearly when decoding, so that it never leaves the range of its neighbors,
# and filtered bicubically when encoding. Without the three other flags libswscale is faster, but up
# to 3 levels wrong.
DECODE_FLAGS = "bilinear+accurate_rnd+full_chroma_int+full_chroma_inp"
ENCODE_FLAGS = "bicubic+accurate_rnd+full_chroma_inp"

WRAPS_AT = 510
"""Largest blue, on a scale with white at 255, that libswscale can add up: its 32-bit sums turn
values of 512 and more into 0."""

_Plane: TypeAlias = npt.NDArray[np.unsignedinteger]
"""[H, W]: the samples of one component of a frame, or of one channel of RGB."""

_Floats: TypeAlias = npt.NDArray[np.floating]

_READABLE = re.compile(r"((yuva?4\d\dp|gbrp|gray|ya|p[024]|y2|(rgb|bgr)a?)\d+[lb]e)|gbrap\d+le")
_WRITABLE = re.compile(r"gray|yuvj?4\d\dp|(yuv4\d\dp|gbrp|gray|p[02])\d+le")

_BAND_ROWS = 32  # rows of a wide frame in float32 that fill a processor's cache


def depth_bits(pixel_format: str) -> int:
    """Return the bits of the deepest component of a pixel format."""
    return max(component.bits for component in VideoFormat(pixel_format, 16, 16).components)


def with_depth(pixel_format: str, bits: int) -> str:
    """Return the name of an 8-bit pixel format at another depth."""
    return pixel_format if bits == 8 else f"{pixel_format}{bits}le"


def is_readable(pixel_format: str) -> bool:
    """Return True for formats that `DeepDecoder` accepts: 9 to 16 bits, Y'CbCr, RGB or gray."""
    return _READABLE.fullmatch(pixel_format) is not None


def is_writable(pixel_format: str) -> bool:
    """Return True for formats that `DeepEncoder` accepts: planes of 8 to 16 bits."""
    return _WRITABLE.fullmatch(pixel_format) is not None


class Converter:
    """libswscale with all options explicit, as FFmpeg's `scale` filter, which has chroma siting."""

    def __init__(
        self, source: tuple[str, int, int], target: tuple[str, int, int], flags: str, colors: str
    ) -> None:
        """`source` and `target` are (pixel format, width, height); `colors`: `color_options`."""
        (source_format, width, height), (target_format, *size) = source, target
        self._graph = Graph()
        self._graph.link_nodes(
            self._graph.add_buffer(
                format=VideoFormat(source_format), width=width, height=height, time_base=Fraction(1)
            ),
            self._graph.add("scale", "{}:{}:flags=".format(*size) + flags + colors),
            self._graph.add("format", f"pix_fmts={target_format}"),
            self._graph.add("buffersink"),
        ).configure()

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        self._graph.push(frame)
        converted = self._graph.pull()
        assert isinstance(converted, VideoFrame)
        return converted


def color_options(
    side: Literal["in", "out"], color: ColorDescription, siting: Siting = "left"
) -> str:
    """Return the color options of the `scale` filter for one side of a conversion."""
    if color.matrix == RGB:
        return ""
    name, *_ = MATRICES[color.matrix]
    span = "full" if color.full_range else "limited"
    return f":{side}_color_matrix={name}:{side}_range={span}:{side}_chroma_loc={siting}"


class RgbDecoder:
    """Converts frames of one format, size and color description to RGB, without alpha."""

    def __init__(
        self, pixel_format: str, size: tuple[int, int], color: ColorDescription, siting: Siting
    ) -> None:
        """`size` is (width, height) in pixels; formats of over 8 bits must be `is_readable`."""
        self.pixel_format, self.color = pixel_format, color
        self._size, self._siting = size, siting
        self._deep = None
        if depth_bits(pixel_format) > 8:
            self._deep = DeepDecoder(pixel_format, size, color, siting)

    def __call__(self, frame: VideoFrame) -> tuple[Pixels, DeepPixels | None]:
        """Return [H, W, 3] in 8 bits, and in 16 bits if the frame has more than 8."""
        if self._deep is not None:
            deep = self._deep(frame)
            return shown_to_network(deep), deep
        if self.pixel_format == "gray":  # libswscale assumes that gray is full range
            return self._gray_levels[_array(frame)], None
        if self._may_wrap(frame):
            return rgb_from_yuv(_array(self._to_yuv444(frame)), self.color), None
        return _array(self._to_rgb(frame)), None

    def _may_wrap(self, frame: VideoFrame) -> bool:
        """Check whether the brightest luma and the bluest chroma could overflow."""
        if self.color.full_range or self.color.matrix == RGB:
            return False
        luma = _highest(frame, 0)
        blueness = _highest(frame, min(1, len(frame.planes) - 1))
        brightest = np.array([luma, blueness, 128], np.uint8)
        return bool(unclipped_rgb(brightest, self.color)[2] > WRAPS_AT)

    @cached_property
    def _to_rgb(self) -> Converter:
        return self._converter("rgb24")

    @cached_property
    def _to_yuv444(self) -> Converter:
        return self._converter("yuv444p", color_options("out", self.color))

    @cached_property
    def _gray_levels(self) -> Pixels:
        levels = np.full((256, 3), 128, np.uint8)
        levels[:, 0] = np.arange(256)
        return rgb_from_yuv(levels, self.color)

    def _converter(self, pixel_format: str, target_colors: str = "") -> Converter:
        colors = color_options("in", self.color, self._siting) + target_colors
        return Converter(
            (self.pixel_format, *self._size), (pixel_format, *self._size), DECODE_FLAGS, colors
        )


class DeepDecoder:
    """Converts frames of one format, size and color description to 16-bit RGB, without alpha."""

    def __init__(
        self,
        pixel_format: str,
        size: tuple[int, int],
        color: ColorDescription,
        siting: Siting = "left",
    ) -> None:
        """`pixel_format` must be `is_readable`; `size` is (width, height) in pixels."""
        bits = depth_bits(pixel_format)
        subsampled = _is_subsampled(pixel_format)
        planar = "yuv444p16le" if subsampled else _planar(pixel_format, bits)
        without_alpha = pixel_format.replace("yuva", "yuv").replace("gbrap", "gbrp")
        self._resample = None
        if planar != without_alpha:
            colors = color_options("in", color, siting) + color_options("out", color)
            self._resample = Converter((pixel_format, *size), (planar, *size), DECODE_FLAGS, colors)
        unit_bits = 16 if subsampled else bits
        matrix, offset = _rgb_from_codes(color, bits, unit_bits)
        if planar.startswith("gray"):
            offset = offset + matrix[:, 1:].sum(axis=1) * 2 ** (unit_bits - 1)
            matrix = matrix[:, :1]
        self._matrix, self._offset = matrix, offset

    def __call__(self, frame: VideoFrame) -> DeepPixels:
        """Return uint16 [H, W, 3]."""
        planar = frame if self._resample is None else self._resample(frame)
        rgb = np.empty((frame.height, frame.width, 3), np.uint16)
        channels = [rgb[..., channel] for channel in range(3)]
        _transform(_planes(planar)[:3], channels, self._matrix, self._offset, 65535)
        return rgb


class DeepEncoder:
    """Converts 16-bit RGB to frames of one format, size and color description."""

    def __init__(
        self,
        source_size: tuple[int, int],
        pixel_format: str,
        size: tuple[int, int],
        color: ColorDescription,
    ) -> None:
        """`pixel_format` must be `is_writable`; sizes are (width, height) in pixels."""
        bits = depth_bits(pixel_format)
        self._pixel_format, self._source_size, self._size = pixel_format, source_size, size
        self._resample = None
        unit_bits = bits
        if _is_subsampled(pixel_format) or source_size != size:
            # RGB planes are passed off as 4:4:4, because libswscale shall resample, not convert.
            label = color if color.matrix != RGB else replace(color, matrix=BT709)
            plain = with_depth("yuv444p", bits)
            self._resample = Converter(
                ("yuv444p16le", *source_size),
                (pixel_format if _is_subsampled(pixel_format) else plain, *size),
                ENCODE_FLAGS,
                color_options("in", label) + color_options("out", label),
            )
            unit_bits = 16
        matrix, offset = _rgb_from_codes(color, bits, unit_bits)
        self._matrix = np.linalg.inv(matrix)
        self._offset = -self._matrix @ offset
        self._largest = 2**unit_bits - 1

    def __call__(self, deep: DeepPixels) -> VideoFrame:
        """`deep` is uint16 [H, W, 3]."""
        if self._resample is None:
            frame = VideoFrame(*self._size, self._pixel_format)
            self._fill(frame, deep)
            return frame
        full = VideoFrame(*self._source_size, "yuv444p16le")
        self._fill(full, deep)
        resampled = self._resample(full)
        if _is_subsampled(self._pixel_format):
            return resampled
        frame = VideoFrame(*self._size, self._pixel_format)
        for plane, source in zip(_planes(frame), _planes(resampled), strict=False):  # gray: one
            plane[:] = source
        return frame

    def _fill(self, frame: VideoFrame, deep: DeepPixels) -> None:
        planes = _planes(frame)
        channels = [deep[..., channel] for channel in range(3)]
        count = len(planes)
        _transform(channels, planes, self._matrix[:count], self._offset[:count], self._largest)


def _rgb_from_codes(color: ColorDescription, bits: int, unit_bits: int) -> tuple[_Floats, _Floats]:
    """Return a matrix [3, 3] and an offset [3]: RGB in 0..65535 is matrix @ codes + offset.

    Codes of `bits` are stored in the upper bits of `unit_bits`.
    """
    step = 2 ** (unit_bits - bits)
    if color.matrix == RGB:
        return np.eye(3) * 65535 / ((2**bits - 1) * step), np.zeros(3)
    points = unclipped_rgb(np.vstack([np.zeros((1, 3)), np.eye(3)]), color, bits) * LEVEL
    return (points[1:] - points[0]).T / step, points[0]


def _transform(
    sources: Sequence[_Plane],
    targets: Sequence[_Plane],
    matrix: _Floats,
    offset: _Floats,
    largest: int,
) -> None:
    """Fill `targets` with `matrix` @ `sources` + `offset`, rounded and clipped to `largest`."""
    height, width = sources[0].shape
    factors, rounding = matrix.astype(np.float32), (offset + 0.5).astype(np.float32)
    for top in range(0, height, _BAND_ROWS):
        rows = slice(top, top + _BAND_ROWS)
        stacked = np.stack([source[rows].ravel() for source in sources]).astype(np.float32)
        sums = factors @ stacked
        sums += rounding[:, None]
        np.clip(sums, 0, largest, out=sums)
        for target, values in zip(targets, sums, strict=True):
            target[rows] = values.reshape(-1, width)  # truncates


def _planar(pixel_format: str, bits: int) -> str:
    """Return the planar little-endian format with the same samples."""
    described = VideoFormat(pixel_format, 16, 16)
    colors = sum(not component.is_alpha for component in described.components)
    if colors == 1:
        return with_depth("gray", bits)
    return with_depth("gbrp" if described.is_rgb else "yuv444p", bits)


def _is_subsampled(pixel_format: str) -> bool:
    described = VideoFormat(pixel_format, 16, 16)
    return (described.chroma_width(16), described.chroma_height(16)) != (16, 16)


def _planes(frame: VideoFrame) -> list[_Plane]:
    """Return writable views of the planes of a frame; RGB in this order."""
    dtype = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
    planes = [
        cast(_Plane, np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1))[
            :, : plane.width
        ]
        for plane in frame.planes
    ]
    return [planes[2], planes[0], planes[1]] if frame.format.is_rgb else planes  # stored G, B, R


def _array(frame: VideoFrame) -> Pixels:
    """Return the samples of an 8-bit frame: [H, W] if gray, else [H, W, 3]."""
    return cast(Pixels, frame.to_ndarray(channel_last=True))


def _highest(frame: VideoFrame, plane_index: int) -> int:
    """Return the largest sample of one plane, without the padding of its rows."""
    plane = frame.planes[plane_index]
    row = sum(c.width for c in frame.format.components if c.plane == plane_index)
    samples = np.frombuffer(memoryview(plane), np.uint8)
    return int(samples.reshape(plane.height, -1)[:, :row].max())
