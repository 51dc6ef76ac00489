"""Find the parts of an excerpt in a file, and what is in each, moved to its place in the result.

The file is read from the keyframe before a part on, where it can be found by its index. All that is
read before the part is decoded, so that frames are those of the whole video, and left out.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from srgan_edge.errors import InputRefused
from srgan_edge.video.clock import MOST_REORDERED, time_of
from srgan_edge.video.decoder import DecodedFrame
from srgan_edge.video.excerpt import TOLERANCE_SECONDS, Part
from srgan_edge.video.frame import CopiedPacket
from srgan_edge.video.opening import best_video, open_container

_LEAD_SECONDS = (2, 12)
"""Times before a part at which a keyframe is looked for, the nearest first. Packets of audio may be
stored this much apart from the frames they belong to."""

SHORT_LEADS = (0, 2, 12)
"""The same where audio is not needed."""

_LATEST_SECONDS = 2
"""Time behind a part after which no packet that belongs to it is expected any more."""


@dataclass(frozen=True)
class Span:
    """A part of a file, from its first frame on; ticks are those of the video stream."""

    first: int
    """Time of its first frame in ticks."""
    stop: int | None
    """Time before which it ends, in ticks; None: with the file."""
    offset: int
    """Time of its first frame in the result, in ticks."""
    lead: int | None
    """Time in ticks before which reading begins at a keyframe; None: at the start of the file."""
    time_base: Fraction
    """Seconds per tick."""

    def includes(self, pts: int) -> bool:
        """Return True for a time in ticks within the span."""
        return pts >= self.first and (self.stop is None or pts < self.stop)

    def is_over(self, pts: int | None) -> bool:
        """Return True for a time in ticks behind the span."""
        return self.stop is not None and pts is not None and pts >= self.stop

    def only(self, decoded: DecodedFrame) -> Iterator[DecodedFrame]:
        """Yield a frame at its time in the result if it belongs to the span."""
        if decoded.pts is not None and self.includes(decoded.pts):
            yield decoded._replace(pts=self.moved(decoded.pts))

    def moved(self, pts: int) -> int:
        """Return the time in the result, in ticks, for a time in the file."""
        return pts - self.first + self.offset


class Chosen:
    """Chooses the packets of audio and subtitles of a span, and notices when there are no more.

    Packets stay whole: those that start within the span are taken.

    Args:
        copied: the streams whose packets are copied.
    """

    def __init__(self, span: Span, copied: Collection[Stream]) -> None:
        self._span = span
        self._copied = {stream.index for stream in copied}
        self.is_complete = not copied
        """True once no packet of the span is expected any more."""

    def take(self, packet: "Packet[Stream]") -> CopiedPacket | None:
        """Return a packet at its time in the result if it belongs to the span, else None.

        Call this for every packet of the file, those of the video included.
        """
        time, span = time_of(packet), self._span
        if self.is_complete or time is None or packet.time_base is None:
            return None
        seconds = time * packet.time_base
        stop_seconds = None if span.stop is None else span.stop * span.time_base
        if stop_seconds is not None and seconds >= stop_seconds:
            # Files are in the order of decoding, in which frames may come seconds early.
            decoded = time if packet.dts is None else packet.dts
            self.is_complete = decoded * packet.time_base >= stop_seconds + _LATEST_SECONDS
            return None
        is_ours = packet.stream_index in self._copied
        if not is_ours or seconds < span.first * span.time_base:
            return None
        shift = (span.first - span.offset) * span.time_base / packet.time_base
        ticks = math.floor(shift + Fraction(1, 2))
        packet.pts = None if packet.pts is None else packet.pts - ticks
        packet.dts = None if packet.dts is None else packet.dts - ticks
        return CopiedPacket(packet)


def spans_of(path: Path, parts: Sequence[Part], start_pts: int, max_pixels: int) -> Iterator[Span]:
    """Yield where the parts are in a file.

    Args:
        start_pts: time of the first frame of the file, in ticks.

    Raises:
        InputRefused: a part has no frame.
    """
    offset = Fraction(0)
    for part in parts:
        with open_container(path, None, max_pixels) as container:
            video = best_video(container, path, max_pixels)
            tick = video.time_base or Fraction(1, 1000)
        begin = start_pts + _ticks(part.start_seconds, tick)
        stop = None
        if part.duration_seconds is not None:
            end_seconds = part.start_seconds + part.duration_seconds
            stop = start_pts + _ticks(end_seconds, tick)
        lead = lead_before(path, begin, start_pts, tick, max_pixels)
        first = _first(path, part, begin, start_pts, lead, max_pixels)
        if stop is not None and first >= stop:
            later = float((first - start_pts) * tick)
            raise InputRefused(
                f"{path} has no frame from {part.start_seconds:g} s to {float(end_seconds):g} s; "
                f"possible: --start {later:g} --duration {float(part.duration_seconds or 0):g}"
            )
        yield Span(first, stop, round(offset / tick), lead, tick)
        offset += Fraction(part.duration_seconds or 0)


@contextmanager
def opened_at(
    path: Path, lead: int | None, max_pixels: int
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file at the keyframe before a time in ticks; None: at its start.

    Raises:
        InputRefused, InputDamaged: as `open_container` does.
    """
    with open_container(path, None, max_pixels) as container:
        video = best_video(container, path, max_pixels)
        if lead is not None:
            container.seek(lead, stream=video)
        yield container, video


def from_keyframe(
    packets: Iterator["Packet[Stream]"], video: VideoStream
) -> Iterator["Packet[Stream]"]:
    """Yield packets without those of the video before its first keyframe."""
    has_begun = False
    for packet in packets:
        has_begun = has_begun or (packet.stream_index == video.index and packet.is_keyframe)
        if has_begun or packet.stream_index != video.index:
            yield packet


def lead_before(
    path: Path,
    begin: int,
    start_pts: int,
    tick: Fraction,
    max_pixels: int,
    leads_seconds: Sequence[int] = _LEAD_SECONDS,
) -> int | None:
    """Return from where a file can be read to have all from `begin` on; None: from its start.

    Args:
        begin: a time in ticks, as is the result; `start_pts` is that of the first frame.
        tick: seconds per tick.
        leads_seconds: times before `begin` at which to look for a keyframe, in this order.
    """
    for seconds in leads_seconds:
        lead = begin - math.ceil(seconds / tick)
        if lead <= start_pts:
            return None
        with suppress(av.FFmpegError), opened_at(path, lead, max_pixels) as (container, video):
            first = next((it for it in container.demux(video) if it.is_keyframe and it.size), None)
            time = None if first is None else time_of(first)
            if time is not None and start_pts <= time <= begin:
                return lead
    return None


def length_seconds(path: Path, start_pts: int, stated_seconds: float, max_pixels: int) -> float:
    """Return how long the frames of a file last, by its last ones.

    The stated length may be that of the audio, or count from zero where the frames start later.
    """
    with opened_at(path, None, max_pixels) as (_, video):
        tick = video.time_base or Fraction(1, 1000)
    end = start_pts
    with (
        suppress(av.FFmpegError),
        opened_at(path, start_pts + _ticks(stated_seconds, tick), max_pixels) as (container, video),
    ):
        for packet in container.demux(video):
            if not packet.size:
                continue
            if (time := time_of(packet)) is None:
                return stated_seconds  # the last frame may be one without a time
            end = max(end, time + (packet.duration or 0))
    return float((end - start_pts) * tick) if end > start_pts else stated_seconds


def _ticks(seconds: float, tick: Fraction) -> int:
    """Return the first tick that is not before a time."""
    return math.ceil(Fraction(seconds - TOLERANCE_SECONDS) / tick)


def _first(
    path: Path, part: Part, begin: int, start_pts: int, lead: int | None, max_pixels: int
) -> int:
    """Return the time of the first frame of a part."""
    found: list[int] = []
    last, untimed = start_pts, 0
    with opened_at(path, lead, max_pixels) as (container, video), suppress(av.FFmpegError):
        tick = video.time_base or Fraction(1, 1000)
        period_ticks = 1 / ((video.average_rate or 25) * tick)
        for packet in container.demux(video):
            time = time_of(packet)
            if not packet.size or packet.is_discard:
                continue
            if time is None:
                untimed += 1
                continue
            last = max(last, time)
            if time >= begin:
                found.append(time)
            if len(found) > MOST_REORDERED:
                break
    if untimed and (not found or min(found) >= begin + period_ticks):
        raise InputRefused(
            f"{path}: {untimed} of its frames have no time, by which a part would be found; "
            "upscale all of it"
        )
    if found:
        return min(found)
    possible = math.floor((last - start_pts) * tick * 100) / 100
    raise InputRefused(
        f"{path} has no frame from {part.start_seconds:g} s on; possible: --start 0 to {possible:g}"
    )
