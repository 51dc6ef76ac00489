"""The video of a film in segments: written one by one, read again as if it had never been cut.

A segment is a file of its own, from an encoder of its own, so that it depends on nothing but its
frames: a film that was stopped anywhere and goes on has the same bytes as one that was not.
"""

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import chain, islice

import av
from av.container import OutputContainer

from srgan_edge.engines.base import EngineInfo
from srgan_edge.errors import OutputFailed
from srgan_edge.upscaler import multiplications_per_px
from srgan_edge.video import CopiedPacket, Frame, VideoPacket
from srgan_edge.video_encoder import VideoEncoder
from srgan_edge.video_muxer import output_errors
from srgan_edge.work_folder import WorkFolder

SEGMENT_FRAMES = 48
"""In a segment. What a crash can cost, and how often a whole picture is stored."""

FEWEST_FRAMES = 8
"""In a segment of a film that takes long: fewer would make the file much larger."""

CPU_MULTIPLICATIONS = 1.5e12
"""Worth a segment on a CPU: ten seconds of two cores."""


def segment_frames(info: EngineInfo, width: int, height: int) -> int:
    """How many frames of that size, in pixels, a segment has.

    It is worked out and not measured, as a film that goes on has to come to the same.
    """
    if info.device != "cpu":
        return SEGMENT_FRAMES
    frames = CPU_MULTIPLICATIONS / (multiplications_per_px(info.spec) * width * height)
    return max(min(FEWEST_FRAMES, SEGMENT_FRAMES), min(int(frames), SEGMENT_FRAMES))


class SegmentWriter:
    """Encodes frames into segments of `work`, from the first frame that is not in them yet.

    Each has `length` frames. The last segment is short, and finished by `finish`. Not thread-safe.

    Raises:
        OSError: the disk is full, or failed.
        OutputFailed: the encoder failed.
    """

    def __init__(self, work: WorkFolder, encoder: VideoEncoder, length: int) -> None:
        self._work, self._encoder, self._length = work, encoder, length
        self._container: OutputContainer | None = None

    def write(self, frame: Frame) -> None:
        """Add one frame; with the last one of a segment, that is finished."""
        if self._container is None:
            self._start(frame)
        for packet in self._encoder.encode(frame):
            self._mux(packet)
        self._pts.append(frame.pts)
        self._durations.append(frame.duration)
        if len(self._pts) == self._length:
            self.finish()

    def copy(self, copied: CopiedPacket) -> None:
        """Nothing: sound and subtitles are taken from the input itself when all is joined."""

    def finish(self) -> None:
        """Finish the segment that is being written, if one is."""
        if self._container is None:
            return
        for packet in self._encoder.finish():
            self._mux(packet)
        with output_errors(self._work.path):
            self._container.close()
        self._container = None
        self._work.add(self._pts, self._durations, _reorder(self._order, self._pts))

    def abandon(self) -> None:
        """Close the segment that is being written and leave it out; it will be made again."""
        if self._container is not None:
            with suppress(av.FFmpegError):
                self._container.close()

    def _start(self, frame: Frame) -> None:
        self._pts: list[int] = []
        self._durations: list[int] = []
        self._order: list[int] = []  # the times of the packets in the order of decoding
        self._first_pts = frame.pts
        # NUT keeps packets as they are, of every codec, at exact times that are not negative.
        self._container = av.open(
            f"file:{self._work.segment_path(self._work.segments).absolute()}",
            "w",
            format="nut",
            container_options={"fflags": "+bitexact"},
        )
        self._encoder.add_to(self._container)

    def _mux(self, packet: VideoPacket) -> None:
        assert self._container is not None
        assert packet.pts is not None
        self._order.append(packet.pts)
        packet.pts -= self._first_pts
        packet.dts = None if packet.dts is None else packet.dts - self._first_pts
        with output_errors(self._work.path):
            self._container.mux_one(packet)


def read_segments(work: WorkFolder, time_base: Fraction) -> Iterator[VideoPacket]:
    """The packets of all finished segments in the order of decoding, as those of one film.

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
