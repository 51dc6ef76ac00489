"""Frames converted by libswscale: pixel format, size, matrix, range and chroma siting.

What the colours of a stream are is found out in `color`; which conversion a film needs is decided
in `video_reader` and `video_encoder`.
"""

from fractions import Fraction
from typing import Literal, TypeAlias

from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from srgan_edge.color import MATRICES, RGB, ColorDescription

Siting: TypeAlias = Literal["left", "center"]
"""Where chroma samples lie between luma samples, by FFmpeg's name."""

# Chroma is interpolated linearly on the way in, so that it never leaves the range of its
# neighbours, and filtered with a cubic on the way out. Without the three other flags libswscale is
# faster, but up to 3 levels wrong.
DECODE_FLAGS = "bilinear+accurate_rnd+full_chroma_int+full_chroma_inp"
ENCODE_FLAGS = "bicubic+accurate_rnd+full_chroma_inp"

WRAPS_AT = 510
"""Bluest blue, where white is 255, that it can add: 32-bit sums turn one of 512 or more into 0."""


class Converter:
    """libswscale, told everything; through the `scale` filter, which takes the chroma siting."""

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
    """One half of what the `scale` filter has to be told about the colours of a conversion."""
    if color.matrix == RGB:
        return ""
    name, *_ = MATRICES[color.matrix]
    span = "full" if color.full_range else "limited"
    return f":{side}_color_matrix={name}:{side}_range={span}:{side}_chroma_loc={siting}"
