"""The last step of a film: its segments and the rest of the input become one file, and are checked.

Both functions open the input themselves, so that they can run in a process of their own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from srgan_edge.errors import InputDamaged, OutputFailed
from srgan_edge.film_check import FilmRecord, differences
from srgan_edge.segments import read_segments
from srgan_edge.video import CopiedPacket, Encoding, VideoPacket, decoding_seconds
from srgan_edge.video_encoder import VideoEncoder
from srgan_edge.video_muxer import VideoMuxer
from srgan_edge.video_reader import VideoReader
from srgan_edge.work_folder import WorkFolder


@dataclass(frozen=True)
class Joined:
    """What went into a result."""

    frames: int
    packets: int
    """Copied: of sound and subtitles."""
    nudged: int
    """Of these, moved by a tick, as they shared a time with the one before."""


def rehearse(
    source: Path, target: Path, scratch: Path, size: tuple[int, int], encoding: Encoding
) -> list[str]:
    """Do to `scratch` all that could be refused before the first frame, so that it is refused now.

    Returns:
        One line for each thing in the input that the result will not have.

    Raises:
        UsageError: encoder or container take less than is asked of them.
    """
    with VideoReader(source, allow_8bit=True) as reader, VideoMuxer(target, reader) as muxer:
        encoder = VideoEncoder(reader.info, size, encoding)
        muxer.open(scratch, encoder)
        return [*muxer.left_out, *encoder.left_out]


def join(
    source: Path,
    work: WorkFolder,
    target: Path,
    file: Path,
    size: tuple[int, int],
    encoding: Encoding,
) -> Joined:
    """Write the segments of `work`, and all that `source` has besides, to `file`; then check it.

    Args:
        target: what `file` will be called; its suffix decides the container.
        size: (width, height) of the frames in the segments, in pixels.

    Raises:
        OutputFailed: the result is not as the input.
        OSError: the disk is full, or failed.
    """
    with VideoReader(source, allow_8bit=True) as reader, VideoMuxer(target, reader) as muxer:
        expected = FilmRecord.begin(reader)
        muxer.open(file, VideoEncoder(reader.info, size, encoding))
        for item in _interleaved(
            read_segments(work, reader.info.time_base), reader.copied_packets()
        ):
            if isinstance(item, CopiedPacket):
                expected.packets[item.packet.stream_index].add(item)
                muxer.copy(item)
            else:
                muxer.mux(item)
        muxer.close()
    for _, segment in work.finished():
        for pts, duration in zip(segment.pts, segment.durations, strict=True):
            expected.frames.add(pts, duration)
    _check(expected, file)
    packets = sum(len(record.digests) for record in expected.packets.values())
    return Joined(len(expected.frames), packets, muxer.nudged)


def _interleaved(
    video: Iterator[VideoPacket], copied: Iterable[CopiedPacket]
) -> "Iterator[VideoPacket | CopiedPacket]":
    """Both in their order, each copied packet after the pictures that are decoded before it."""
    ahead = next(video, None)
    for item in copied:
        seconds = decoding_seconds(item.packet)
        while ahead and seconds is not None and (decoding_seconds(ahead) or 0) < seconds:
            yield ahead
            ahead = next(video, None)
        yield item
    if ahead is not None:
        yield from chain([ahead], video)


def _check(expected: FilmRecord, file: Path) -> None:
    try:
        found = differences(expected, FilmRecord.of(file))
    except InputDamaged as error:
        found = [str(error)]
    if found:
        raise OutputFailed(
            f"the result is not as {expected.path}: {'; '.join(found)}; what was upscaled is kept"
        )
