"""Write a result without its frames before the work, and check it as the real one will be checked.

What a container makes of the times and packets of an input is known only once it was written and
read again. So everything but the frames is written here at the real times, with one small frame in
the place of all of them, and what the container cannot hold is refused before the first frame.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice, repeat
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.packet import Packet
from av.video.format import VideoFormat

from srgan_edge.errors import InputDamaged, InputRefused, OutputFailed, UsageError
from srgan_edge.transcode.check import differences, lost_tags
from srgan_edge.transcode.record import VideoRecord
from srgan_edge.video.audio import AudioHandling
from srgan_edge.video.color import MATRICES, RGB, ColorDescription
from srgan_edge.video.container import CONTAINERS
from srgan_edge.video.encoder import VideoEncoder
from srgan_edge.video.excerpt import Excerpt
from srgan_edge.video.excerpt_reader import open_video
from srgan_edge.video.frame import (
    CopiedPacket,
    Encoding,
    Frame,
    FrameTime,
    VideoInfo,
    VideoPacket,
)
from srgan_edge.video.muxer import VideoMuxer
from srgan_edge.video.reader import VideoReader

_SMALL_SIDE = 256
"""Width and height in pixels of the frames that stand for those of the result."""


@dataclass(frozen=True)
class Order:
    """An input, the result to be written, and its place."""

    source: str
    work: str
    """Folder of the segments."""
    file: str
    """File that is written; a rehearsal removes it."""
    target: str
    """Name of the result; its suffix decides the container."""
    size: tuple[int, int]
    """Width and height of the frames in pixels."""
    encoding: Encoding
    audio: AudioHandling
    excerpt: Excerpt | None
    """Parts of the input that the result is made of; None: all of it."""
    damaged: bool
    """The input is known to be damaged, so that reading it may break off."""


@dataclass(frozen=True)
class Rehearsal:
    """Remarks on a result that are known before its first frame."""

    left_out: tuple[str, ...]
    """One line for each thing in the input that the result will not contain."""
    remarks: tuple[str, ...]
    """One line for each thing about the result that the user may not expect."""


def rehearse(order: Order, on_step: Callable[[], None] = lambda: None) -> Rehearsal:
    """Write, check and remove a result with an empty frame for each frame of the input.

    Raises:
        UsageError: the encoder or the container does not support the options, or the container
            cannot store the times or packets of the input; names one that can.
        ResourcesExhausted: the encoder does not start.
    """
    rehearsal, found = _tried(order, on_step)
    if not found:
        return rehearsal
    target = Path(order.target)
    for other in _others(order):
        try:
            _, still_found = _tried(other, on_step)
        except (UsageError, OutputFailed):
            continue
        if not still_found:
            option = (
                f"--audio {other.audio}"
                if other.target == order.target
                else f"-o {Path(other.target).name}"
            )
            raise UsageError(
                f"{target.name} cannot hold {order.source} as it is ({'; '.join(found)}); "
                f"use {option}"
            )
    raise UsageError(
        f"no container can hold {order.source} as it is; in {target.name}: {'; '.join(found)}"
    )


def _others(order: Order) -> Iterator[Order]:
    """Yield what may work instead, in the order in which it should be tried."""
    target = Path(order.target)
    for suffix in (".mkv", ".mov", ".mp4"):
        if CONTAINERS.get(target.suffix.lower()) != CONTAINERS[suffix]:
            file = Path(order.file).with_suffix(suffix)
            yield replace(order, target=str(target.with_suffix(suffix)), file=str(file))
    yield replace(order, audio="drop")


def _tried(order: Order, on_step: Callable[[], None]) -> tuple[Rehearsal, list[str]]:
    """Return what is known, and what would differ from the input."""
    file = Path(order.file)
    try:
        with (
            open_video(Path(order.source), allow_8bit=True, excerpt=order.excerpt) as reader,
            VideoMuxer(Path(order.target), reader, order.audio) as muxer,
        ):
            encoder = VideoEncoder(reader.info, order.size, order.encoding)
            muxer.open(file, encoder)
            left_out = (*muxer.copies.left_out, *encoder.left_out)
            expected = _write(muxer, reader, encoder, on_step)
            remarks = (*muxer.copies.changed, *encoder.remarks)
        if encoder.codec == "rawvideo":
            _refuse_misread_pixels(file, Path(order.target).name, encoder.pixel_format)
        found = _read(file, on_step)
        unstated = _unstated_colors(encoder, found.info.color)
        rehearsal = Rehearsal((*left_out, *lost_tags(expected, found), *unstated), remarks)
        wrong = _wrong_colors(encoder, found.info.color)
        return rehearsal, [*differences(expected, found, order.size), *wrong]
    finally:
        file.unlink(missing_ok=True)


def _write(
    muxer: VideoMuxer, reader: VideoReader, encoder: VideoEncoder, on_step: Callable[[], None]
) -> VideoRecord:
    """Write everything with empty frames, and return what should be found in the file."""
    expected = VideoRecord.begin(reader, muxer.copies.codec_of)
    content = _contents(encoder, reader.info)
    frame: FrameTime | None = None
    for item in reader.scan_packets():
        if isinstance(item, CopiedPacket):
            for copied in muxer.copies.fit(item):
                _copy(copied, muxer, expected)
        else:
            expected.frames.add(*item)
            muxer.announce(item.pts)
            if frame is not None:
                muxer.mux(_packet(next(content), frame, reader.info))
            frame = item
        on_step()
    if frame is not None:
        muxer.mux(_packet(next(content), frame, reader.info))
    for copied in muxer.copies.rest():
        _copy(copied, muxer, expected)
    muxer.close()
    return expected


def _read(file: Path, on_step: Callable[[], None]) -> VideoRecord:
    try:
        return VideoRecord.of_packets(file, on_step)
    except (InputDamaged, InputRefused) as error:
        raise OutputFailed(f"what was written cannot be read: {error}") from error


def _refuse_misread_pixels(file: Path, name: str, pixel_format: str) -> None:
    """Raise a `UsageError` where a container has no word for raw pixels: MOV, for most of them."""
    found = "nothing"
    with suppress(av.FFmpegError), av.open(f"file:{file.absolute()}") as written:
        for frame in islice(written.decode(video=0), 1):
            found = frame.format.name
    if found != pixel_format:
        raise UsageError(
            f"{name} would show raw {pixel_format} as {found}; possible: -c ffv1 -o NAME.mkv"
        )


def _wrong_colors(encoder: VideoEncoder, read: ColorDescription) -> list[str]:
    """Describe colors that a file states or players assume, and that its frames do not have."""
    stored = encoder.color
    is_rgb = [color.matrix == RGB for color in (stored, read)]
    same = stored.full_range == read.full_range
    if any(is_rgb):
        same = all(is_rgb)
    elif not _is_gray(encoder):
        same = same and MATRICES[stored.matrix][1:] == MATRICES[read.matrix][1:]
    return [] if same else [f"its colors would be read as {_named(read)}, not {_named(stored)}"]


def _unstated_colors(encoder: VideoEncoder, read: ColorDescription) -> Iterator[str]:
    """Yield a line for what a file does not state about its colors, though players assume it."""
    if "matrix" in read.assumed and not _is_gray(encoder):
        yield f"the color matrix ({MATRICES[read.matrix][0]}, which players assume)"
    if "range" in read.assumed:
        yield f"the color range ({'full' if read.full_range else 'limited'}, which players assume)"


def _named(color: ColorDescription) -> str:
    return str(color).partition(" (")[0]


def _is_gray(encoder: VideoEncoder) -> bool:
    return len(VideoFormat(encoder.pixel_format).components) == 1


def _copy(copied: CopiedPacket, muxer: VideoMuxer, expected: VideoRecord) -> None:
    record = expected.packets[copied.packet.stream_index]
    record.add(copied)
    if not muxer.copy(copied):
        record.forget_last()


def _contents(encoder: VideoEncoder, info: VideoInfo) -> Iterator[bytes]:
    """Yield a frame of the video's size, by which it is opened again, and then small ones."""
    width, height = encoder.size
    black = Frame(np.zeros((height, width, 3), np.uint8), 0, 1)
    whole = _encoded(encoder, black)
    yield whole
    yield from repeat(_small(encoder, info) or whole)


def _small(encoder: VideoEncoder, info: VideoInfo) -> bytes | None:
    """Return a small frame of the same codec, for muxers that look into packets; None if none.

    Raises:
        UsageError: segments, which are NUT, cannot hold the codec.
    """
    black = Frame(np.zeros((_SMALL_SIDE, _SMALL_SIDE, 3), np.uint8), 0, 1)
    small = VideoEncoder(info, (_SMALL_SIDE, _SMALL_SIDE), encoder.encoding)
    with av.open(io.BytesIO(), "w", format="nut") as nowhere:
        try:
            small.add_to(nowhere)
            return _encoded(small, black)
        except UsageError:
            return None
        except ValueError:
            raise UsageError(
                f"{encoder.codec} does not fit into the segments that a video is made of; "
                "possible: -c ffv1 -o NAME.mkv, or -o - --pipe-format matroska"
            ) from None


def _encoded(encoder: VideoEncoder, frame: Frame) -> bytes:
    packets = [*encoder.encode(frame), *encoder.finish()]
    return bytes(packets[0])


def _packet(content: bytes, time: FrameTime, info: VideoInfo) -> VideoPacket:
    packet = cast(VideoPacket, Packet(content))
    packet.time_base = info.time_base
    packet.pts = packet.dts = time.pts
    packet.duration = time.duration
    packet.is_keyframe = True
    return packet
