"""Find out how a container says that players should crop a video: PixelCrop or `clap`.

PyAV does not show that. But FFmpeg writes it to the header of a Matroska file (RFC 9559), of which
one is made in memory here.
"""

import io
from collections.abc import Iterator
from contextlib import suppress

import av
from av.bitstream import BitStreamFilterContext
from av.video.stream import VideoStream

_MASTERS = {0x18538067, 0x1654AE6B, 0xAE, 0xE0}  # Segment, Tracks, TrackEntry, Video
_EDGES = {0x54CC: "left", 0x54DD: "right", 0x54BB: "top", 0x54AA: "bottom"}


def crop_of(video: VideoStream) -> dict[str, int]:
    """Return how many pixels to cut off at each edge; empty if the container states nothing."""
    header = io.BytesIO()
    with suppress(ValueError, av.FFmpegError), av.open(header, "w", format="matroska") as output:
        added = output.add_mux_stream("h264", width=video.width, height=video.height)
        BitStreamFilterContext("null", video, added)
        output.start_encoding()
    return {_EDGES[key]: value for key, value in _elements(header.getvalue()) if value}


def _elements(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield the edges in an element that contains others, and in those."""
    at = 0
    while at < len(content):
        id_bytes = 9 - content[at].bit_length()
        key = int.from_bytes(content[at : at + id_bytes], "big")
        at += id_bytes
        if at >= len(content) or not content[at]:
            return
        size_bytes = 9 - content[at].bit_length()
        size = int.from_bytes(content[at : at + size_bytes], "big") & (1 << 7 * size_bytes) - 1
        at += size_bytes
        inside = content[at : at + size]  # a segment of unknown size goes on to the end
        if key in _MASTERS:
            yield from _elements(inside)
        elif key in _EDGES:
            yield key, int.from_bytes(inside, "big")
        at += size
