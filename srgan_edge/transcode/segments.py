"""Encode a video in segments, and read them back as if it had never been cut.

Each segment has its own file and its own encoder, so that it depends only on its frames: a video
that was stopped anywhere and resumed has the same bytes as one that was not.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import av

from srgan_edge.errors import OutputFailed
from srgan_edge.model.spec import multiplications_per_px
from srgan_edge.transcode.proof import refuse_undecodable
from srgan_edge.transcode.work_folder import WorkFolder
from srgan_edge.video.encoder import VideoEncoder
from srgan_edge.video.frame import CodedFrame, CopiedPacket, Frame, VideoPacket
from srgan_edge.video.muxer import output_errors

if TYPE_CHECKING:  # the process that joins a video needs no engines
    from srgan_edge.engines.base import EngineInfo

SEGMENT_FRAMES = 48
"""Frames in a segment: half of what a crash can cost, and the distance between keyframes."""

FEWEST_FRAMES = 8
"""Frames in a segment of a slow video; fewer would make the file much larger."""

CPU_MULTIPLICATIONS = 1.5e12
"""Multiplications for a segment on a CPU, which take two cores ten seconds."""


HELD_FRAMES = 3
"""Frames that a drawing is held for, where repeats are not upscaled. Each segment upscales its
first frame, so that short ones would lose much of what repeats save."""


def segment_frames(info: "EngineInfo", width: int, height: int, *, dedup: bool = False) -> int:
    """Return the number of frames in a segment, for frames of a size in pixels.

    It is calculated, not measured, because a resumed video needs the same number.

    Args:
        dedup: frames that nearly repeat an earlier one are not upscaled.
    """
    if info.device != "cpu":
        return SEGMENT_FRAMES
    frames = CPU_MULTIPLICATIONS / (multiplications_per_px(info.spec) * width * height)
    if dedup:
        frames *= HELD_FRAMES
    return max(min(FEWEST_FRAMES, SEGMENT_FRAMES), min(int(frames), SEGMENT_FRAMES))


_NO_DECODER = {"codec_whitelist": "none"}
"""Opening a segment would decode a frame to find out what its header states: 13 ms at 1280x720
instead of 0.1 ms, which is half of the time for joining a video."""


@dataclass(frozen=True)
class WrittenSegment:
    """A segment whose file is closed."""

    number: int
    """From 0 in the video."""
    path: Path
    pts: list[int]
    """Timestamps of the frames in display order, in ticks of the input."""
    durations: list[int]
    """Durations of the frames, in the same ticks."""
    reorder: int
    """Number of frames that a decoder has to hold back to return them in order."""


class SegmentWriter:
    """Encodes frames into segments.

    Each segment has `length` frames; the last one may be shorter and is completed by `finish`. A
    full segment is finished in another thread while the next one is started, because flushing an
    encoder keeps fewer and fewer cores busy, and disks are slow. Not thread-safe.

    Args:
        path_of: returns the file of a segment of a number.
        first: number of the first segment.
        new_encoder: creates the encoder of a segment.
        enter: called with each segment, in order.

    Raises:
        OSError: the disk is full or failed.
        OutputFailed: the encoder failed.
    """

    def __init__(
        self,
        path_of: Callable[[int], Path],
        first: int,
        new_encoder: Callable[[], VideoEncoder],
        length: int,
        enter: Callable[[WrittenSegment], None],
    ) -> None:
        self._path_of, self._next = path_of, first
        self._new_encoder, self._length, self._enter = new_encoder, length, enter
        self._current: _Segment | None = None
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="segment")
        self._finishing: Future[None] | None = None

    def write(self, frame: Frame | CodedFrame) -> None:
        """Add one frame; the last one of a segment starts finishing it."""
        if self._current is None:
            number = self._next
            path = self._path_of(number)
            self._current = _Segment(number, path, self._new_encoder(), frame.pts)
            self._next += 1
        self._current.write(frame)
        if len(self._current.pts) == self._length:
            self._wait()
            self._finishing = self._finisher.submit(self._finish, self._current)
            self._current = None

    def copy(self, copied: CopiedPacket) -> None:
        """Ignore the packet: joining copies audio and subtitles from the input itself."""

    def finish(self) -> None:
        """Finish all segments, including the one being written."""
        self._wait()
        if self._current is not None:
            self._finish(self._current)
            self._current = None
        self._finisher.shutdown()

    def abandon(self) -> None:
        """Close and discard the segment being written; it will be made again."""
        if self._current is not None:
            self._current.abandon()
        self._finisher.shutdown()  # waits for a full segment to be entered

    def _finish(self, segment: "_Segment") -> None:
        segment.finish()
        refuse_undecodable(segment.path, len(segment.pts))
        written = WrittenSegment(
            segment.number, segment.path, segment.pts, segment.durations, segment.reorder
        )
        self._enter(written)

    def _wait(self) -> None:
        if self._finishing is not None:
            self._finishing.result()
            self._finishing = None


class _Segment:
    """A segment that is being written."""

    def __init__(self, number: int, path: Path, encoder: VideoEncoder, first_pts: int) -> None:
        self.number, self.path = number, path
        self.pts: list[int] = []
        self.durations: list[int] = []
        self._order: list[int] = []  # timestamps of the packets in decoding order
        self._encoder, self._first_pts = encoder, first_pts
        # NUT stores packets of every codec unchanged, at exact times that are not negative.
        self._container = av.open(
            f"file:{path.absolute()}",
            "w",
            format="nut",
            container_options={"fflags": "+bitexact"},
        )
        encoder.add_to(self._container)

    def write(self, frame: Frame | CodedFrame) -> None:
        for packet in self._encoder.encode(frame):
            self._mux(packet)
        self.pts.append(frame.pts)
        self.durations.append(frame.duration)

    def finish(self) -> None:
        """Flush the encoder and close the file."""
        for packet in self._encoder.finish():
            self._mux(packet)
        with output_errors(self.path.parent):
            self._container.close()

    def abandon(self) -> None:
        with suppress(av.FFmpegError):
            self._container.close()

    @property
    def reorder(self) -> int:
        """The most places by which a frame is decoded later than shown; see `Segment.reorder`."""
        place = {pts: number for number, pts in enumerate(self.pts)}
        return max(number - place[pts] for number, pts in enumerate(self._order))

    def _mux(self, packet: VideoPacket) -> None:
        assert packet.pts is not None
        self._order.append(packet.pts)
        packet.pts -= self._first_pts
        packet.dts = None if packet.dts is None else packet.dts - self._first_pts
        with output_errors(self.path.parent):
            self._container.mux_one(packet)


def read_segments(
    work: WorkFolder,
    time_base: Fraction,
    on_parameters: Callable[[bytes | None], None] = lambda extradata: None,
) -> Iterator[VideoPacket]:
    """Yield the packets of all finished segments in decoding order, as those of one video.

    Timestamps are those of the frames, in ticks of `time_base`, that of the input. Decoding times
    are recomputed over all segments: each is the time of the frame shown `reorder` frames earlier.
    `on_parameters` is called with what each segment stores for the decoder.

    Raises:
        OutputFailed: the number of packets in a segment differs from that of its frames.
    """
    reorder = max((segment.reorder for _, segment in work.finished()), default=0)
    shown = chain.from_iterable(segment.pts for _, segment in work.finished())
    decoded = decoding_times(shown, reorder)
    for file, segment in work.finished():
        with av.open(f"file:{file.absolute()}", format="nut", options=_NO_DECODER) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
            on_parameters(container.streams.video[0].codec_context.extradata)
        stored = sorted(_pts(packet) for packet in packets)
        if len(set(stored)) != len(segment.pts):
            raise OutputFailed(f"{file} has {len(stored)} packets for {len(segment.pts)} frames")
        place = {pts: place for place, pts in enumerate(stored)}
        for packet in packets:
            number = place[_pts(packet)]
            packet.time_base = time_base
            packet.pts, packet.duration = segment.pts[number], segment.durations[number]
            packet.dts = next(decoded)
            yield packet


def decoding_times(shown: Iterator[int], reorder: int) -> Iterator[int]:
    """Yield the rising times `shown`, delayed by `reorder` places.

    They are preceded by `reorder` times at the distances of the first ones.
    """
    first = list(islice(shown, reorder + 1))
    yield from (pts - (first[-1] - first[0]) for pts in first[:-1])
    yield from chain(first, shown)


def _pts(packet: VideoPacket) -> int:
    assert packet.pts is not None
    return packet.pts
