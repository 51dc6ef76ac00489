"""The video of a video in segments: written one by one, read again as if it had never been cut.

A segment is a file of its own, from an encoder of its own, so that it depends on nothing but its
frames: a video that was stopped anywhere and goes on has the same bytes as one that was not.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import av

from srgan_edge.engines.base import EngineInfo
from srgan_edge.errors import OutputFailed
from srgan_edge.model.spec import multiplications_per_px
from srgan_edge.transcode.work_folder import WorkFolder
from srgan_edge.video.encoder import VideoEncoder
from srgan_edge.video.frame import CodedFrame, CopiedPacket, Frame, VideoPacket
from srgan_edge.video.muxer import output_errors

SEGMENT_FRAMES = 48
"""In a segment: half of what a crash can cost, and how often a whole image is stored."""

FEWEST_FRAMES = 8
"""In a segment of a video that takes long: fewer would make the file much larger."""

CPU_MULTIPLICATIONS = 1.5e12
"""Worth a segment on a CPU: ten seconds of two cores."""


def segment_frames(info: EngineInfo, width: int, height: int) -> int:
    """How many frames of that size, in pixels, a segment has.

    It is worked out and not measured, as a video that goes on has to come to the same.
    """
    if info.device != "cpu":
        return SEGMENT_FRAMES
    frames = CPU_MULTIPLICATIONS / (multiplications_per_px(info.spec) * width * height)
    return max(min(FEWEST_FRAMES, SEGMENT_FRAMES), min(int(frames), SEGMENT_FRAMES))


class SegmentWriter:
    """Encodes frames into segments of `work`, from the first frame that is not in them yet.

    Each has `length` frames. The last segment is short, and finished by `finish`. A segment that
    is full is finished in a thread of its own while the next one is begun: an encoder that is
    emptied keeps fewer and fewer cores busy, and disks take their time. Not thread-safe.

    Args:
        new_encoder: makes one for each segment.

    Raises:
        OSError: the disk is full, or failed.
        OutputFailed: the encoder failed.
    """

    def __init__(
        self, work: WorkFolder, new_encoder: Callable[[], VideoEncoder], length: int
    ) -> None:
        self._work, self._new_encoder, self._length = work, new_encoder, length
        self._begun = work.segments
        self._current: _Segment | None = None
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="segment")
        self._finishing: Future[None] | None = None

    def write(self, frame: Frame | CodedFrame) -> None:
        """Add one frame; with the last one of a segment, that is finished, or soon will be."""
        if self._current is None:
            path = self._work.segment_path(self._begun)
            self._current = _Segment(path, self._new_encoder(), frame.pts)
            self._begun += 1
        self._current.write(frame)
        if len(self._current.pts) == self._length:
            self._wait()
            self._finishing = self._finisher.submit(self._enter, self._current)
            self._current = None

    def copy(self, copied: CopiedPacket) -> None:
        """Nothing: audio and subtitles are taken from the input itself when all is joined."""

    def finish(self) -> None:
        """Finish all segments, the one that is being written included."""
        self._wait()
        if self._current is not None:
            self._enter(self._current)
            self._current = None
        self._finisher.shutdown()

    def abandon(self) -> None:
        """Close the segment that is being written and leave it out; it will be made again."""
        if self._current is not None:
            self._current.abandon()
        self._finisher.shutdown()  # a segment that is full gets its place

    def _enter(self, segment: "_Segment") -> None:
        segment.finish()
        self._work.add(segment.pts, segment.durations, segment.reorder)

    def _wait(self) -> None:
        if self._finishing is not None:
            self._finishing.result()
            self._finishing = None


class _Segment:
    """One segment while it is written."""

    def __init__(self, path: Path, encoder: VideoEncoder, first_pts: int) -> None:
        self.pts: list[int] = []
        self.durations: list[int] = []
        self._order: list[int] = []  # the times of the packets in the order of decoding
        self._path, self._encoder, self._first_pts = path, encoder, first_pts
        # NUT keeps packets as they are, of every codec, at exact times that are not negative.
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
        """Empty the encoder and close the file."""
        for packet in self._encoder.finish():
            self._mux(packet)
        with output_errors(self._path.parent):
            self._container.close()

    def abandon(self) -> None:
        """Close the file as it is."""
        with suppress(av.FFmpegError):
            self._container.close()

    @property
    def reorder(self) -> int:
        """As in `work_folder.Segment`."""
        return _reorder(self._order, self.pts)

    def _mux(self, packet: VideoPacket) -> None:
        assert packet.pts is not None
        self._order.append(packet.pts)
        packet.pts -= self._first_pts
        packet.dts = None if packet.dts is None else packet.dts - self._first_pts
        with output_errors(self._path.parent):
            self._container.mux_one(packet)


def read_segments(work: WorkFolder, time_base: Fraction) -> Iterator[VideoPacket]:
    """The packets of all finished segments in the order of decoding, as those of one video.

    Their times are those of the frames, in ticks of `time_base`, that of the input. Decoding times
    are made anew over all segments: each is the time of the frame shown `reorder` frames earlier.

    Raises:
        OutputFailed: a segment has not as many packets as frames.
    """
    reorder = max((segment.reorder for _, segment in work.finished()), default=0)
    shown = chain.from_iterable(segment.pts for _, segment in work.finished())
    decoding_times = _decoding_times(shown, reorder)
    for file, segment in work.finished():
        with av.open(f"file:{file.absolute()}", format="nut") as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        stored = sorted(_pts(packet) for packet in packets)
        if len(set(stored)) != len(segment.pts):
            raise OutputFailed(f"{file} has {len(stored)} packets of {len(segment.pts)} frames")
        place = {pts: place for place, pts in enumerate(stored)}
        for packet in packets:
            number = place[_pts(packet)]
            packet.time_base = time_base
            packet.pts, packet.duration = segment.pts[number], segment.durations[number]
            packet.dts = next(decoding_times)
            yield packet


def _decoding_times(shown: Iterator[int], reorder: int) -> Iterator[int]:
    """The rising times `shown`, `reorder` places later; before them, as many at their distances."""
    first = list(islice(shown, reorder + 1))
    yield from (pts - (first[-1] - first[0]) for pts in first[:-1])
    yield from chain(first, shown)


def _reorder(decoded: list[int], shown: list[int]) -> int:
    """How many places later than it is shown a frame is decoded, at most."""
    place = {pts: number for number, pts in enumerate(shown)}
    return max(number - place[pts] for number, pts in enumerate(decoded))


def _pts(packet: VideoPacket) -> int:
    assert packet.pts is not None
    return packet.pts
