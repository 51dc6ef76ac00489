"""The times at which the segments of a file begin, by its packets; nothing is decoded."""

from collections.abc import Iterator

from srgan_edge.video.frame import FrameTime
from srgan_edge.video.reader import VideoReader

_HAS_KEYFRAMES = {"mov", "matroska"}
"""Containers with an index of keyframes, and a time for every packet, each of which is a frame."""


def borders(reader: VideoReader, length: int) -> Iterator[int]:
    """Yield the time of each frame whose number is a multiple of `length`, in ticks.

    There is none where a file cannot be read from its keyframes on, or where the state of decoding
    reaches across them: frames that are deinterlaced or concealed.
    """
    if reader.is_excerpt or reader.has_state or not reader.demuxer.formats & _HAS_KEYFRAMES:
        return
    number = 0
    for item in reader.scan_packets():
        if isinstance(item, FrameTime):
            if number % length == 0:
                yield item.pts
            number += 1
