"""Write a result without its frames before the work, and check it as the real one will be checked.

What a container makes of the times and packets of an input is known only once it was written and
read again. So everything but the frames is written here at the real times, with one small frame in
the place of all of them, and what the container cannot hold is refused before the first frame.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.packet import Packet
from av.video.format import VideoFormat

from srgan_edge.errors import InputDamaged, InputRefused, OutputFailed, UsageError, quoted
from srgan_edge.files import free_name
from srgan_edge.transcode.check import differences, lost_tags, moved_chapters
from srgan_edge.transcode.record import Timeline, VideoRecord, digest
from srgan_edge.transcode.segments import decoding_times
from srgan_edge.video.audio import AudioHandling
from srgan_edge.video.clock import MOST_REORDERED
from srgan_edge.video.color import MATRICES, RGB, ColorDescription
from srgan_edge.video.container import CONTAINERS
from srgan_edge.video.copies import Copies, describe
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
from srgan_edge.video.limits import Unfit
from srgan_edge.video.muxer import VideoMuxer
from srgan_edge.video.reader import VideoReader

_SMALL_SIDE = 256
"""Width and height in pixels of the frames that stand for those of the result."""

_FRAMES_REORDERED = MOST_REORDERED + 8
"""Frames that show the order in which an encoder puts them."""


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
    target = Path(order.target)
    try:
        rehearsal, found = _tried(order, on_step)
    except Unfit as unfit:
        problem, untried = unfit.why, str(unfit)
    except OutputFailed as failed:
        problem = untried = str(failed)
    else:
        if not found:
            return rehearsal
        problem = f"{target.name} cannot hold {order.source} as it is ({'; '.join(found)})"
        untried = problem
    for typed, other in _others(order):
        with suppress(UsageError, OutputFailed):
            if not _tried(other, on_step)[1]:
                untried = f"{problem}; use {typed}"
                break
    raise UsageError(untried)


def _others(order: Order) -> Iterator[tuple[str, Order]]:
    """Yield what may work instead and how it is typed, in the order in which it should be tried."""
    target = Path(order.target)
    for suffix in (".mkv", ".mov", ".mp4"):
        if CONTAINERS.get(target.suffix.lower()) != CONTAINERS[suffix]:
            yield f"-o {quoted(free_name(target, suffix))}", _with_suffix(order, suffix)
    if order.audio != "drop":
        yield "--audio drop", replace(order, audio="drop")
    x264, ffv1 = (replace(order.encoding, codec=codec) for codec in ("libx264", "ffv1"))
    yield "-c libx264", replace(order, encoding=x264)
    in_matroska = replace(_with_suffix(order, ".mkv"), encoding=ffv1)
    yield f"-c ffv1 -o {quoted(free_name(target, '.mkv'))}", in_matroska
    plain = replace(x264, pixel_format="yuv420p")
    yield "-c libx264 --pix-fmt yuv420p", replace(order, encoding=plain)


def _with_suffix(order: Order, suffix: str) -> Order:
    target, file = (str(Path(it).with_suffix(suffix)) for it in (order.target, order.file))
    return replace(order, target=target, file=file)


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
            most_seconds = muxer.most_seconds_ahead
            expected = _write(muxer, reader, encoder, on_step)
            changes = [*muxer.copies.format_changes()]
            changes += _too_far_ahead(encoder, reader.info, expected.frames, most_seconds)
            remarks = (*muxer.copies.changed, *encoder.remarks)
            found = _read(file, order, on_step)
            left_out = [*muxer.copies.left_out, *muxer.copies.left_out_within()]
            # Some of it the container keeps, such as Matroska's StereoMode.
            left_out += [lost for lost in encoder.left_out if lost not in found.info.unkept]
            lost = [*_lost_files(muxer.copies, reader, found), *lost_tags(expected, found)]
            lost += moved_chapters(expected, found)
        unstated = _unstated_colors(encoder, found.info.color)
        rehearsal = Rehearsal((*left_out, *lost, *unstated), remarks)
        wrong = [*_wrong_pixels(encoder, found.info), *_wrong_colors(encoder, found.info.color)]
        return rehearsal, [*changes, *differences(expected, found, order.size), *wrong]
    finally:
        file.unlink(missing_ok=True)


def _lost_files(copies: Copies, reader: VideoReader, found: VideoRecord) -> Iterator[str]:
    """Yield the names of cover art and files that the container was given and does not have."""
    for index, content in reader.attached.items():
        stream = reader.container.streams[index]
        if copies.keeps(stream) and digest(content) not in found.files:
            yield describe(stream)


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


def _read(file: Path, order: Order, on_step: Callable[[], None]) -> VideoRecord:
    try:
        return VideoRecord.of_packets(file, on_step)
    except (InputDamaged, InputRefused) as error:
        why = str(error).removeprefix(f"{file}: ").partition("; ")[0]
        written = f"{order.encoding.codec} in {Path(order.target).name}"
        raise Unfit(f"{written} could not be read again: {why}") from error


def _too_far_ahead(
    encoder: VideoEncoder, info: VideoInfo, frames: Timeline, most_seconds: float
) -> Iterator[str]:
    """Describe a pause across which a container cannot state the order of B-frames."""
    most, shown = most_seconds / float(info.time_base), np.asarray(frames.pts)
    if len(shown) < 3 or 2 * MOST_REORDERED * int(np.diff(shown).max()) <= most:
        return
    earlier, later = _places_moved(encoder, info)
    if not later:
        return
    decoded = np.fromiter(decoding_times(iter(frames.pts), later), np.int64, len(shown))
    latest = shown[np.minimum(np.arange(len(shown)) + earlier, len(shown) - 1)]
    if (ahead := int((latest - decoded).max())) > most:
        yield (
            f"its pauses are too long for B-frames: one would be decoded "
            f"{ahead * float(info.time_base):.0f} s ahead of its time, and {most_seconds:.0f} s is "
            "the most that all players read"
        )


def _places_moved(encoder: VideoEncoder, info: VideoInfo) -> tuple[int, int]:
    """Return the most places by which frames are decoded earlier, and later, than shown."""
    for size in ((_SMALL_SIDE, _SMALL_SIDE), encoder.size):
        trial = VideoEncoder(info, size, encoder.encoding)
        black = np.zeros((_SMALL_SIDE, _SMALL_SIDE, 3), np.uint8)
        frames = (Frame(black, number, 1) for number in range(_FRAMES_REORDERED))
        with av.open(io.BytesIO(), "w", format="nut") as nowhere, suppress(UsageError):
            trial.add_to(nowhere)
            packets = [*chain.from_iterable(map(trial.encode, frames)), *trial.finish()]
            moved = [(packet.pts or 0) - place for place, packet in enumerate(packets)]
            return max(moved), -min(moved)
    return 0, 0


def _wrong_pixels(encoder: VideoEncoder, read: VideoInfo) -> list[str]:
    """Describe raw pixels that a container has no word for: MOV, for most of them."""
    if encoder.codec != "rawvideo" or read.pixel_format == encoder.pixel_format:
        return []
    return [f"its {encoder.pixel_format} would be read as {read.pixel_format}"]


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
