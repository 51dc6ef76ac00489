"""Decoded frames of one format and colour description, to RGB.

8 bits go through libswscale, guarded where its sums overflow; more go through `deep_frames`. What
the colours are is found out by the caller.
"""

from functools import cached_property
from typing import cast

import numpy as np
from av.video.frame import VideoFrame

from srgan_edge.color import RGB, ColorDescription, rgb_from_yuv, unclipped_rgb
from srgan_edge.deep_frames import DeepDecoder, depth_bits
from srgan_edge.pixels import DeepPixels, Pixels, shown_to_network
from srgan_edge.swscale import DECODE_FLAGS, WRAPS_AT, Converter, Siting, color_options


class RgbDecoder:
    """Turns frames of one format, size and colour description into RGB. Alpha is left out."""

    def __init__(
        self, pixel_format: str, size: tuple[int, int], color: ColorDescription, siting: Siting
    ) -> None:
        """`size` is (width, height) in pixels; more than 8 bits have to be `is_readable`."""
        self.pixel_format, self.color = pixel_format, color
        self._size, self._siting = size, siting
        self._deep = None
        if depth_bits(pixel_format) > 8:
            self._deep = DeepDecoder(pixel_format, size, color, siting)

    def __call__(self, frame: VideoFrame) -> tuple[Pixels, DeepPixels | None]:
        """[H, W, 3] in 8 bits, and in 16 if the frame has more than 8."""
        if self._deep is not None:
            deep = self._deep(frame)
            return shown_to_network(deep), deep
        if self.pixel_format == "gray":  # libswscale takes all grey for full range
            return self._grey_levels[_array(frame)], None
        if self._may_wrap(frame):
            return rgb_from_yuv(_array(self._to_yuv444(frame)), self.color), None
        return _array(self._to_rgb(frame)), None

    def _may_wrap(self, frame: VideoFrame) -> bool:
        """Whether the brightest luma and the bluest chroma of the frame would be too much."""
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
    def _grey_levels(self) -> Pixels:
        levels = np.full((256, 3), 128, np.uint8)
        levels[:, 0] = np.arange(256)
        return rgb_from_yuv(levels, self.color)

    def _converter(self, pixel_format: str, target_colors: str = "") -> Converter:
        colors = color_options("in", self.color, self._siting) + target_colors
        return Converter(
            (self.pixel_format, *self._size), (pixel_format, *self._size), DECODE_FLAGS, colors
        )


def _array(frame: VideoFrame) -> Pixels:
    """The samples of an 8-bit frame: [H, W] if grey, else [H, W, 3]."""
    return cast(Pixels, frame.to_ndarray(channel_last=True))


def _highest(frame: VideoFrame, plane_index: int) -> int:
    """Largest sample of one plane; padding at the end of rows does not count."""
    plane = frame.planes[plane_index]
    row = sum(c.width for c in frame.format.components if c.plane == plane_index)
    samples = np.frombuffer(memoryview(plane), np.uint8)
    return int(samples.reshape(plane.height, -1)[:, :row].max())
