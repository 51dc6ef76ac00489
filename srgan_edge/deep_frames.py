"""Video frames of more than 8 bits, to RGB of 16 bits and back, to within the rounding.

libswscale only resamples here, each plane for itself. What it does between deep Y'CbCr and RGB is
wrong in more than the last bit (FFmpeg 8.1): white of 10 or 12 bits becomes 65280 of 65535, 4:2:0
to `rgb48le` is noise, and full-range 4:4:4 changes its luma on the way to 16 bits. So the sums are
done here, with the matrix that `color.unclipped_rgb` has.

How the colours of a stream are found out is left to `color` and `video_reader`.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from srgan_edge.color import BT709, RGB, ColorDescription, unclipped_rgb
from srgan_edge.pixels import LEVEL, DeepPixels
from srgan_edge.swscale import DECODE_FLAGS, ENCODE_FLAGS, Converter, Siting, color_options

_Plane: TypeAlias = npt.NDArray[np.unsignedinteger]
"""[H, W]: the samples of one component of a frame, or of one channel of RGB."""
_Floats: TypeAlias = npt.NDArray[np.floating]

_READABLE = re.compile(r"((yuva?4\d\dp|gbrp|gray|ya|p[024]|y2|(rgb|bgr)a?)\d+[lb]e)|gbrap\d+le")
_WRITABLE = re.compile(r"gray|yuvj?4\d\dp|(yuv4\d\dp|gbrp|gray|p[02])\d+le")
_BAND_ROWS = 32  # of a wide frame in float32, about what a processor's cache holds


def depth_bits(pixel_format: str) -> int:
    """Bits of the deepest component of a format, by FFmpeg's name."""
    return max(component.bits for component in VideoFormat(pixel_format, 16, 16).components)


def with_depth(pixel_format: str, bits: int) -> str:
    """The format called `pixel_format` at 8 bits, at another depth."""
    return pixel_format if bits == 8 else f"{pixel_format}{bits}le"


def is_readable(pixel_format: str) -> bool:
    """Whether `DeepDecoder` takes the format: integers of 9 to 16 bits, Y'CbCr, RGB or grey."""
    return _READABLE.fullmatch(pixel_format) is not None


def is_writable(pixel_format: str) -> bool:
    """Whether `DeepEncoder` takes the format: planes of 8 to 16 bits."""
    return _WRITABLE.fullmatch(pixel_format) is not None


class DeepDecoder:
    """Turns frames of one format, size and colour description into RGB of 16 bits.

    Alpha is left out.
    """

    def __init__(
        self,
        pixel_format: str,
        size: tuple[int, int],
        color: ColorDescription,
        siting: Siting = "left",
    ) -> None:
        """`pixel_format` is one that `is_readable`; `size` is (width, height) in pixels."""
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
        """uint16 [H, W, 3]."""
        planar = frame if self._resample is None else self._resample(frame)
        rgb = np.empty((frame.height, frame.width, 3), np.uint16)
        channels = [rgb[..., channel] for channel in range(3)]
        _transform(_planes(planar)[:3], channels, self._matrix, self._offset, 65535)
        return rgb


class DeepEncoder:
    """Turns RGB of 16 bits into frames of one format, size and colour description."""

    def __init__(
        self,
        source_size: tuple[int, int],
        pixel_format: str,
        size: tuple[int, int],
        color: ColorDescription,
    ) -> None:
        """`pixel_format` is one that `is_writable`; sizes are (width, height) in pixels."""
        bits = depth_bits(pixel_format)
        self._pixel_format, self._source_size, self._size = pixel_format, source_size, size
        self._resample = None
        unit_bits = bits
        if _is_subsampled(pixel_format) or source_size != size:
            # To libswscale, RGB planes are the planes of any 4:4:4: it is to resample, not to add.
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
        for plane, source in zip(_planes(frame), _planes(resampled), strict=False):  # grey: one
            plane[:] = source
        return frame

    def _fill(self, frame: VideoFrame, deep: DeepPixels) -> None:
        planes = _planes(frame)
        channels = [deep[..., channel] for channel in range(3)]
        count = len(planes)
        _transform(channels, planes, self._matrix[:count], self._offset[:count], self._largest)


def _rgb_from_codes(color: ColorDescription, bits: int, unit_bits: int) -> tuple[_Floats, _Floats]:
    """[3, 3] and [3]: RGB in 0..65535 is one times the codes, plus the other.

    Codes of `bits` are stored in the upper ones of `unit_bits`.
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
    """Into each of `targets`, its row of `matrix` times `sources` plus `offset`, to the nearest."""
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
    """The format of separate planes, low byte first, that has the same samples in it."""
    described = VideoFormat(pixel_format, 16, 16)
    colours = sum(not component.is_alpha for component in described.components)
    if colours == 1:
        return with_depth("gray", bits)
    return with_depth("gbrp" if described.is_rgb else "yuv444p", bits)


def _is_subsampled(pixel_format: str) -> bool:
    described = VideoFormat(pixel_format, 16, 16)
    return (described.chroma_width(16), described.chroma_height(16)) != (16, 16)


def _planes(frame: VideoFrame) -> list[_Plane]:
    """Of a planar frame, to read or to write; RGB in this order."""
    dtype = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
    planes = [
        cast(_Plane, np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1))[
            :, : plane.width
        ]
        for plane in frame.planes
    ]
    return [planes[2], planes[0], planes[1]] if frame.format.is_rgb else planes  # stored G, B, R
