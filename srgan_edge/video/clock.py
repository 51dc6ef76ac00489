"""The times of the frames of one video: each later than the one before, gaps and jumps noticed."""

import heapq
import math
from collections import deque
from collections.abc import Collection, Iterator
from fractions import Fraction
from pathlib import Path
from statistics import mode

from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from srgan_edge.errors import InputDamaged
from srgan_edge.video.frame import FrameTime, Notes, VideoPacket

MOST_REORDERED = 32
"""Packets after which the one to be shown first is known: codecs refer to 16 frames at most."""

LONGEST_GAP_SECONDS = 1
"""Longest time without a frame that is no gap where frames state no durations."""

_LARGEST_STEP_BACK_SECONDS = 1  # further back is another recording, not a rounding
_GAPLESS = {"mov", "matroska", "webm"}  # they state how long a frame is shown
_STEPS = 16
_LEAST_STEP_SECONDS = Fraction(1, 1000)  # the resolution of Matroska


class FrameClock:
    """Gives each frame of a reader its time, later than that of the frame before."""

    def __init__(
        self, path: Path, video: VideoStream, notes: Notes, formats: Collection[str]
    ) -> None:
        """`formats`: FFmpeg's names of the container format."""
        rate = video.average_rate or video.guessed_rate
        self._path, self._notes = path, notes
        self._time_base = video.time_base or Fraction(1, 1000)
        self.period_ticks = 1 / (rate * self._time_base) if rate else Fraction(1)
        """Average distance of two frames in ticks."""
        self.end_pts = _stated_end(video, formats)
        """Time in ticks until which the last frame is shown; None if its packet states it."""
        self._last: FrameTime | None = None
        self._steps: deque[int] | None = deque(maxlen=_STEPS) if "avi" in formats else None
        self._states_gaps = not _GAPLESS.isdisjoint(formats)

    def next(self, pts: int | None, duration: int) -> FrameTime:
        """Return the time of the next frame, or the nearest one that an encoder accepts."""
        duration = duration or round(self.period_ticks) or 1
        last = None if self._last is None else self._last.pts
        if pts is None:
            duration = self._usual_step or duration
            pts = 0 if last is None else last + duration
            self._notes.untimed += 1
        elif last is not None and self._steps is not None:
            self._steps.append(pts - last)
        if last is not None:
            self._refuse_other_recording(last, pts)
            self._note_gap(pts)
        if last is not None and pts <= last:
            pts = last + max(1, math.ceil(_LEAST_STEP_SECONDS / self._time_base))
            self._notes.nudged += 1
        self._last = FrameTime(pts, duration)
        return self._last

    @property
    def _usual_step(self) -> int:
        """Usual distance of the frames of an AVI in ticks; 0 if it is not known.

        Of a video with B-frames that was copied into an AVI, only every second chunk holds a frame.
        """
        return max(0, mode(self._steps)) if self._steps else 0

    def _refuse_other_recording(self, last: int, pts: int) -> None:
        if (last - pts) * self._time_base > _LARGEST_STEP_BACK_SECONDS:
            before, now = (float(ticks * self._time_base) for ticks in (last, pts))
            raise InputDamaged(
                f"{self._path}: damaged: time goes back from {before:.2f} to {now:.2f} s"
            )

    def _note_gap(self, pts: int) -> None:
        assert self._last is not None
        end = self._last.pts + self._last.duration
        if self._states_gaps or (pts - end) * self._time_base <= LONGEST_GAP_SECONDS:
            return
        begins, ends = (float(ticks * self._time_base) for ticks in (end, pts))
        self._notes.add_gap(begins, ends)


class ShownTimes:
    """Turns the times of packets, which are stored in decoding order, into those of frames."""

    def __init__(self, clock: FrameClock) -> None:
        self._clock = clock
        self._waiting: list[tuple[int, int]] = []  # a heap of times and durations
        self._untimed: list[int] | None = []  # durations of packets, until one has a time

    def after(self, pts: int | None, duration: int | None) -> Iterator[FrameTime]:
        """Yield the times that are known once a packet has come.

        One without a time is ignored, unless all are: then they follow one another.
        """
        if pts is not None:
            self._untimed = None
            heapq.heappush(self._waiting, (pts, duration or 0))
        elif self._untimed is not None:
            self._untimed.append(duration or 0)
        if len(self._waiting) > MOST_REORDERED:
            yield self._clock.next(*heapq.heappop(self._waiting))

    def rest(self, end_pts: int | None) -> Iterator[FrameTime]:
        """Yield the times that are left after the last packet.

        Args:
            end_pts: time until which the last frame is shown; None: its packet states that.
        """
        for duration in self._untimed or ():
            yield self._clock.next(None, duration)
        while self._waiting:
            pts, duration = heapq.heappop(self._waiting)
            if not self._waiting:
                duration = duration_until(end_pts, pts, duration)
            yield self._clock.next(pts, duration)


def duration_until(end_pts: int | None, pts: int | None, duration: int) -> int:
    """Return how long the last frame of a video is shown, in ticks."""
    if end_pts is None or pts is None or end_pts <= pts:
        return duration
    return end_pts - pts


def _stated_end(video: VideoStream, formats: Collection[str]) -> int | None:
    """Return the end of a stream of MP4 that is not decoded in the order in which it is shown.

    MP4 stores the times between decodings, and the frame shown last is then not the one decoded
    last. In fragments the length of the stream is not stated.
    """
    reordered = "mov" in formats and video.codec_context.has_b_frames
    if not reordered or video.start_time is None or not video.duration:
        return None
    return int(video.start_time + video.duration)


def time_of(packet: "Packet[Stream] | VideoPacket") -> int | None:
    """Return when a packet is shown, or else decoded, in ticks of its stream."""
    return packet.dts if packet.pts is None else packet.pts
