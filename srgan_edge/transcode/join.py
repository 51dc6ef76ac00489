"""The last step of a video: join its segments with the rest of the input, and check the result.

Everything that touches the input happens in a child process, as for decoding. The child may write
only to a folder of its own inside the work folder, which it may read; its parent then moves the
result to its final name.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar, Self, TypeVar

import msgspec
from av.codec import Codec

from srgan_edge.ahead import JOINER
from srgan_edge.errors import (
    InputDamaged,
    InputRefused,
    OutputFailed,
    ResourcesExhausted,
    UsageError,
)
from srgan_edge.files import output_failed
from srgan_edge.isolation.calls import SIGN_OF_LIFE, Remote
from srgan_edge.isolation.calls import serve as serve_calls
from srgan_edge.isolation.child import ChildFailed, Parent
from srgan_edge.isolation.wire import Json
from srgan_edge.transcode.check import differences
from srgan_edge.transcode.proof import CodedPackets
from srgan_edge.transcode.record import VideoRecord
from srgan_edge.transcode.rehearsal import Order, Rehearsal, rehearse
from srgan_edge.transcode.segments import read_segments
from srgan_edge.transcode.work_folder import WorkFolder
from srgan_edge.video.audio import AudioHandling
from srgan_edge.video.encoder import VideoEncoder
from srgan_edge.video.excerpt import Excerpt
from srgan_edge.video.excerpt_reader import open_video
from srgan_edge.video.frame import CopiedPacket, Encoding, VideoPacket, decoding_seconds
from srgan_edge.video.limits import Unfit
from srgan_edge.video.muxer import VideoMuxer
from srgan_edge.video.nvidia import SOFTWARE

MEMORY_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
"""Memory that the child may map. It starts an encoder, as its parent does, which at 8K needs 150 MB
in each of its threads. If the machine runs out of memory, the kernel kills the child first."""

STALL_SECONDS = 900.0
"""The longest that joining may show no progress: at its end, an MP4 is rewritten once, which takes
a while for many gigabytes."""

FOLDER = "joined.files"
"""Folder inside the work folder in which the child writes."""

T = TypeVar("T")


@dataclass(frozen=True)
class Joined:
    """Counts of what was written to a result."""

    frames: int
    packets: int
    """Copied packets of audio and subtitles."""
    nudged: int
    """Copied packets that had the timestamp of the packet before and were moved by one tick."""
    refused: int
    """Packets that were too damaged for the container and are not in the result."""


class Joiner:
    """Joins one video in a child process, which starts with the first call and ends with the body.

    The child cannot start an encoder on a GPU, because it has given up all devices. With such an
    encoder, the video is joined in this process.

    Args:
        source: the input.
        work: the folder of its segments.
        size: (width, height) of their frames, in pixels.

    Raises, in any of its calls:
        InputDamaged: the child crashed, hung or ran out of memory on the input.
        OutputFailed: the disk is full or failed.
    """

    entry: ClassVar[str] = JOINER
    """For `child.started_ahead`."""

    def __init__(
        self,
        source: Path,
        work: Path,
        size: tuple[int, int],
        encoding: Encoding,
        audio: AudioHandling = "convert",
        excerpt: Excerpt | None = None,
    ) -> None:
        self._source, self._work, self._size, self._encoding = source, work, size, encoding
        self._audio: AudioHandling = audio
        self._excerpt = excerpt
        self._folder = _empty(work / FOLDER)
        self._remote: Remote | None = None
        if encoding.codec not in SOFTWARE:
            self._remote = Remote(
                self.entry,
                readable=[source],
                memory_bytes=MEMORY_BYTES,
                seconds=STALL_SECONDS,
                folder=work,
                writable=self._folder,
                reports=(
                    *(InputRefused, InputDamaged, UsageError, Unfit, OutputFailed),
                    ResourcesExhausted,
                ),
                shows_life=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._remote is not None:
            self._remote.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def file_for(self, target: Path) -> Path:
        """Return the temporary file that `join` writes and that is then renamed to `target`."""
        return self._folder / f"joined{target.suffix}"

    def rehearse(self, target: Path) -> Rehearsal:
        """Write and check a result whose frames are empty, so that what cannot work is refused now.

        Raises:
            UsageError: the encoder or the container does not support the options, or the container
                cannot store the times or packets of the input.
            ResourcesExhausted: the encoder does not start.
        """
        if self._remote is None:
            return rehearse(self._order(target))
        return self._call(self._remote, Rehearsal, "rehearse", target)

    def join(self, target: Path, *, damaged: bool = False) -> Joined:
        """Write the segments and everything else in the input to one file, and check it.

        Args:
            damaged: the input is known to be damaged, so that reading it may break off.

        Raises:
            InputDamaged: reading the input again broke off, though it did not before.
            OutputFailed: the result differs from the input.
        """
        if self._remote is None:
            return _join(self._order(target, damaged=damaged), lambda: None)
        joined = self._call(self._remote, Joined, "join", target, damaged=damaged)
        self._remote.kill()  # nothing can exchange the file any more
        return joined

    def start_anew(self) -> None:
        """Have the next call start another child: one sees the folders that were there before."""
        if self._remote is not None:
            self._remote.kill()

    def _order(self, target: Path, *, damaged: bool = False) -> Order:
        return Order(
            source=os.fspath(self._source.absolute()),
            work=os.fspath(self._work.absolute()),
            file=os.fspath(self.file_for(target).absolute()),
            target=os.fspath(target),
            size=self._size,
            encoding=self._encoding,
            audio=self._audio,
            excerpt=self._excerpt,
            damaged=damaged,
        )

    def _call(
        self, remote: Remote, kind: type[T], function: str, target: Path, *, damaged: bool = False
    ) -> T:
        order = msgspec.to_builtins(self._order(target, damaged=damaged))
        try:
            return remote.call(kind, function, order)
        except ChildFailed as failure:
            raise InputDamaged(f"{self._source}: damaged: joining it {failure}") from failure


def serve(parent: Parent, request: dict[str, Any]) -> None:
    """Run in the child, where everything that touches the input happens."""
    last_sign = monotonic()

    def show_life() -> None:
        nonlocal last_sign
        if monotonic() - last_sign > 1:
            parent.send(SIGN_OF_LIFE)
            last_sign = monotonic()

    def on_disk(work: Callable[[Order], T]) -> Callable[[Json], T]:
        def call(record: Json) -> T:
            order = msgspec.convert(record, Order)
            try:
                return work(order)
            except OSError as error:
                raise output_failed(Path(order.target), error) from error

        return call

    calls = {
        "rehearse": on_disk(lambda order: rehearse(order, show_life)),
        "join": on_disk(lambda order: _join(order, show_life)),
    }
    serve_calls(parent, calls)


def _empty(folder: Path) -> Path:
    """Make a folder, without whatever an earlier process left there."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # a link, which rmtree does not follow, or a file
        folder.unlink()
    folder.mkdir(mode=0o700)
    return folder


def _join(order: Order, on_step: Callable[[], None]) -> Joined:
    work = WorkFolder(Path(order.work), read_only=True)
    with (
        open_video(Path(order.source), allow_8bit=True, excerpt=order.excerpt) as reader,
        VideoMuxer(Path(order.target), reader, order.audio) as muxer,
    ):
        expected = VideoRecord.begin(reader, muxer.copies.codec_of)
        codec = Codec(order.encoding.codec, "w").canonical_name
        sent = CodedPackets(codec)
        for _, segment in work.finished():
            for pts in segment.pts:
                muxer.announce(pts)
        muxer.open(Path(order.file), VideoEncoder(reader.info, order.size, order.encoding))
        video = sent.added(read_segments(work, reader.info.time_base, sent.add_parameters))
        for item in _interleaved(video, muxer.copies.fitted(reader.copied_packets())):
            if isinstance(item, CopiedPacket):
                record = expected.packets[item.packet.stream_index]
                record.add(item)
                if not muxer.copy(item):
                    record.forget_last()
            else:
                muxer.mux(item)
            on_step()
        muxer.close()
        if reader.demuxer.broke_off and not order.damaged:
            raise InputDamaged(
                f"{order.source}: cannot be read again ({reader.demuxer.broke_off}), so that audio "
                "and subtitles would end early"
            )
    if not work.segments:  # a file without frames would be called no video at all
        raise OutputFailed(f"{order.work}: {work.damaged or 'its segments are gone'}")
    for _, segment in work.finished():
        for pts, duration in zip(segment.pts, segment.durations, strict=True):
            expected.frames.add(pts, duration)
    _check(expected, sent, CodedPackets(codec), order, on_step)
    packets = sum(len(record.digests) for record in expected.packets.values())
    return Joined(len(expected.frames), packets, muxer.nudged, muxer.refused)


def _interleaved(
    video: Iterator[VideoPacket], copied: Iterable[CopiedPacket]
) -> "Iterator[VideoPacket | CopiedPacket]":
    """Merge both in order; each copied packet comes after the frames that are decoded before it."""
    ahead = next(video, None)
    for item in copied:
        seconds = decoding_seconds(item.packet)
        while ahead and seconds is not None and (decoding_seconds(ahead) or 0) < seconds:
            yield ahead
            ahead = next(video, None)
        yield item
    if ahead is not None:
        yield from chain([ahead], video)


def _check(
    expected: VideoRecord,
    sent: CodedPackets,
    read: CodedPackets,
    order: Order,
    on_step: Callable[[], None],
) -> None:
    """Compare a joined file with what it should hold.

    Its frames are decoded only if its packets are not those of the segments, which were decoded:
    no container is known to change the packets of a codec beyond what `proof` puts aside.
    """
    file = Path(order.file)
    try:
        written = VideoRecord.of_packets(file, on_step, read)
        found = differences(expected, written, order.size)
        if found or not sent.are_in(read, float(written.frames.time_base)):
            written = VideoRecord.of(file, on_step, frames_at_once=True)
            found = differences(expected, written, order.size)
    except InputDamaged as error:
        found = [str(error)]
    if found:
        raise OutputFailed(f"the result differs from {expected.path}: {'; '.join(found)}")
