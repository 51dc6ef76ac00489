"""Check that a video is another one upscaled: same frame times, audio, subtitles and metadata.

Everything that has to agree is read from each file into a `VideoRecord`, and the two records are
compared. Pixels are not compared: they are up to the network. Nothing is written.
"""

import hashlib
from array import array
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from srgan_edge.video.frame import CopiedPacket, FrameTime, VideoInfo
from srgan_edge.video.muxer import without_adts_header
from srgan_edge.video.opening import MAX_RESULT_PIXELS
from srgan_edge.video.reader import VideoReader


@dataclass
class Timeline:
    """Times of frames or packets, in 16 bytes each, so that those of a long video fit."""

    time_base: Fraction
    """Seconds per tick."""
    pts: "array[int]" = field(default_factory=lambda: array("q"))
    durations: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, pts: int, duration: int) -> None:
        """Append the next time, in ticks."""
        self.pts.append(pts)
        self.durations.append(duration)

    def __len__(self) -> int:
        return len(self.pts)

    def starts_seconds(self) -> npt.NDArray[np.float64]:
        """Return the start times, float64 [N], exact to a nanosecond within a day."""
        return np.asarray(self.pts, np.float64) * float(self.time_base)

    def durations_seconds(self) -> npt.NDArray[np.float64]:
        """Return the durations, float64 [N]."""
        return np.asarray(self.durations, np.float64) * float(self.time_base)


@dataclass
class PacketRecord:
    """The packets of one stream of audio or subtitles."""

    name: str
    """Type and codec of the stream, for example `audio aac`."""
    timeline: Timeline
    digests: "array[int]" = field(default_factory=lambda: array("Q"))
    """The first eight bytes of the BLAKE2b hash of each packet's content."""
    unplaceable: set[int] = field(default_factory=set)
    """Numbers of packets that no container accepts: without a time, or not after the previous."""
    _last_dts: int | None = None

    def add(self, copied: CopiedPacket) -> None:
        """Record the next packet; call this before a muxer takes it."""
        packet = copied.packet
        dts = packet.pts if packet.dts is None else packet.dts
        if packet.pts is None or (self._last_dts is not None and (dts or 0) <= self._last_dts):
            self.unplaceable.add(len(self.digests))
        self._last_dts = dts
        self.timeline.add(packet.pts or 0, packet.duration or 0)
        content = bytes(packet)
        if self.name == "audio aac":
            content = without_adts_header(content)
        digest = hashlib.blake2b(content, digest_size=8).digest()
        self.digests.append(int.from_bytes(digest, "little"))

    def forget_last(self) -> None:
        """Remove the packet that was recorded last."""
        self.timeline.pts.pop()
        self.timeline.durations.pop()
        self.digests.pop()
        self.unplaceable.discard(len(self.digests))


@dataclass
class VideoRecord:
    """Everything in a video that upscaling does not change."""

    path: Path
    info: VideoInfo
    format: str
    """Name of the container in FFmpeg."""
    frames: Timeline
    packets: dict[int, PacketRecord]
    """Packets by stream index, in the order of the streams."""
    chapters: list[dict[str, str]]
    """Metadata of each chapter."""

    @classmethod
    def begin(cls, reader: VideoReader) -> Self:
        """Create a record without frames and packets, which are added as they are read."""
        return cls(
            path=reader.path,
            info=reader.info,
            format=reader.container.format.name,
            frames=Timeline(reader.info.time_base),
            packets={
                stream.index: PacketRecord(
                    f"{stream.type} {stream.codec_context.name}",
                    Timeline(stream.time_base or Fraction(1, 1000)),
                )
                for stream in reader.copied
            },
            chapters=[dict(chapter["metadata"]) for chapter in reader.container.chapters()],
        )

    @classmethod
    def of(
        cls, path: Path, on_step: Callable[[], None] = lambda: None, *, frames_at_once: bool = False
    ) -> Self:
        """Decode a whole file, and call `on_step` for every frame and packet.

        `frames_at_once` is as for `VideoReader`.

        Raises:
            InputRefused: the file is not a video.
            InputDamaged: the file is cut off or broken.
        """
        with VideoReader(
            path,
            allow_8bit=True,
            max_pixels=MAX_RESULT_PIXELS,
            frames_at_once=frames_at_once,
        ) as reader:
            record = cls.begin(reader)
            for item in reader.scan():
                if isinstance(item, FrameTime):
                    record.frames.add(item.pts, item.duration)
                else:
                    record.packets[item.packet.stream_index].add(item)
                on_step()
        return record


def differences(before: VideoRecord, after: VideoRecord) -> list[str]:
    """Describe everything in `before` that differs in `after`; empty if nothing does.

    Times may differ by one tick of the container of `after`. Matroska has no negative times, so in
    it all times may be later by as much as the first one was before zero.
    """
    return [
        *_frame_differences(before, after),
        *_packet_differences(before, after),
        *_stream_differences(before, after),
    ]


def _frame_differences(before: VideoRecord, after: VideoRecord) -> Iterator[str]:
    if len(before.frames) != len(after.frames):
        yield f"{len(after.frames)} frames instead of {len(before.frames)}"
        return
    tick = float(after.frames.time_base)
    yield from _late("frame", before.frames, after.frames, _shift_seconds(before, after), tick)
    # MP4 stores decoding times; with B-frames, it does not contain the duration of a frame.
    if _is_matroska(after):
        wrong = before.frames.durations_seconds() - after.frames.durations_seconds()
        for number in np.flatnonzero(np.abs(wrong) > tick + 1e-9)[:1]:
            yield f"frame {number} is shown {-wrong[number] * 1000:+.1f} ms longer"


def _packet_differences(before: VideoRecord, after: VideoRecord) -> Iterator[str]:
    if len(before.packets) != len(after.packets):
        counts = f"{len(after.packets)} instead of {len(before.packets)}"
        yield f"{counts} streams of audio and subtitles"
        return
    shift = _shift_seconds(before, after)
    for ours, theirs in zip(before.packets.values(), after.packets.values(), strict=True):
        if len(ours.digests) != len(theirs.digests):
            yield f"{ours.name}: {len(theirs.digests)} packets instead of {len(ours.digests)}"
        elif ours.digests != theirs.digests:
            yield f"{ours.name}: the content of packets differs"
        else:
            tick = float(theirs.timeline.time_base)
            skip = ours.unplaceable
            yield from _late(ours.name, ours.timeline, theirs.timeline, shift, tick, skip)


def _stream_differences(before: VideoRecord, after: VideoRecord) -> Iterator[str]:
    if after.info.width < before.info.width or after.info.height < before.info.height:
        yield f"{_size(after)} pixels, fewer than {_size(before)}"
    aspects = [record.info.sample_aspect_ratio or 1 for record in (before, after)]
    if aspects[0] != aspects[1]:
        yield f"pixel aspect ratio {aspects[1]} instead of {aspects[0]}"
    if before.info.display_matrix != after.info.display_matrix:
        yield "rotated or mirrored differently"
    if before.chapters != after.chapters:
        counts = f"{len(after.chapters)} chapters instead of {len(before.chapters)}"
        yield f"{counts}, or other titles"


def _late(
    what: str,
    before: Timeline,
    after: Timeline,
    shift_seconds: float,
    tick_seconds: float,
    skip: Collection[int] = (),
) -> Iterator[str]:
    late = after.starts_seconds() - before.starts_seconds() - shift_seconds
    late[list(skip)] = 0
    for number in np.flatnonzero(np.abs(late) > tick_seconds + 1e-9)[:1]:
        yield f"{what} {number} is {late[number] * 1000:+.1f} ms late"


def _shift_seconds(before: VideoRecord, after: VideoRecord) -> float:
    """Return how much later `after` may be; Matroska often moves what starts before zero."""
    timelines = [before.frames, *(record.timeline for record in before.packets.values())]
    earliest = min((t.starts_seconds().min() for t in timelines if len(t)), default=0.0)
    if not _is_matroska(after) or earliest >= 0 or not len(after.frames):
        return 0.0
    found = after.frames.starts_seconds()[0] - before.frames.starts_seconds()[0]
    return float(min((0.0, -earliest), key=lambda shift: abs(shift - found)))


def _size(record: VideoRecord) -> str:
    return f"{record.info.width}x{record.info.height}"


def _is_matroska(record: VideoRecord) -> bool:
    return "matroska" in record.format
