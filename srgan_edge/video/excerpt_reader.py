"""Read parts of a video file: an excerpt as if it were all of it, or all from a frame on."""

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from srgan_edge.errors import InputDamaged
from srgan_edge.video.clock import MOST_REORDERED, FrameClock, ShownTimes, time_of
from srgan_edge.video.decoder import DecodedFrame
from srgan_edge.video.demuxer import Demuxer
from srgan_edge.video.excerpt import Excerpt, Part
from srgan_edge.video.frame import CopiedPacket, FrameTime, Notes, VideoPacket
from srgan_edge.video.reader import RgbFrames, VideoReader
from srgan_edge.video.spans import (
    SHORT_LEADS,
    Chosen,
    Span,
    from_keyframe,
    lead_before,
    length_seconds,
    opened_at,
    spans_of,
)

if TYPE_CHECKING:  # only in the description of its types
    from av.container.core import Chapter


def open_video(
    path: Path,
    *,
    excerpt: Excerpt | None = None,
    from_pts: int | None = None,
    **reading: Any,  # noqa: ANN401
) -> VideoReader:
    """Return a reader of a whole file, of an excerpt of it, or of all from a frame on.

    Args:
        from_pts: time of a frame in ticks; see `LaterReader`. Not with an excerpt.
        reading: options of `VideoReader`.

    Raises:
        SrganEdgeError: the same errors as the readers.
    """
    if from_pts is not None:
        return LaterReader(path, from_pts, **reading)
    if excerpt is None:
        return VideoReader(path, **reading)
    return ExcerptReader(path, excerpt, **reading)


class _SpanReader(VideoReader):
    """Reads spans of one file, each from the keyframe before it on."""

    def _read(self, spans: Sequence[Span]) -> None:
        """Read these spans and nothing before them, which was not noted either."""
        self._spans = spans
        self._items.close()
        self._ahead.clear()
        self.notes = Notes()
        self._clock = FrameClock(self.path, self.video, self.notes, self.demuxer.formats)
        self._rgb = RgbFrames(self.path, self.info, self.notes)
        self._items = self._decode_spans()

    def _decode_spans(self) -> Generator[DecodedFrame | CopiedPacket, None, None]:
        for span in self._spans:
            with opened_at(self.path, span.lead, self._max_pixels) as (container, video):
                yield from self._decode_span(span, container, video)
        if not self.notes.damage.is_repaired:
            raise InputDamaged(f"{self.path}: damaged: {self.notes.damage}")

    def _decode_span(
        self, span: Span, container: InputContainer, video: VideoStream
    ) -> Generator[DecodedFrame | CopiedPacket, None, None]:
        self.demuxer = Demuxer(self.path, container, video, self.notes)
        self._decoder = decoder = self._decoding(video, self.notes)
        chosen, is_behind = Chosen(span, self.copied), False
        self._last_pts = span.first
        packets: Iterator[Packet[Stream]] = iter(self.demuxer)
        for packet in packets if span.lead is None else from_keyframe(packets, video):
            if (copied := chosen.take(packet)) is not None:
                yield copied
            if packet.stream_index == video.index and not is_behind:
                for decoded in map(self._timed, decoder.decode(cast(VideoPacket, packet))):
                    if is_behind := span.is_over(decoded.pts):
                        break
                    yield from span.only(decoded)
            if is_behind and chosen.is_complete:
                break
        if not is_behind:  # the file ends before the span does
            self.demuxer.examine_file(
                self._identity, conceal=self._conceal, from_start=span.lead is None
            )
            for decoded in map(self._timed, decoder.finish()):
                yield from span.only(decoded)
            self.demuxer.note_late_streams()
        decoder.note_losses()

    def _timed(self, decoded: DecodedFrame) -> DecodedFrame:
        """Return a frame that has a time, behind the one before if the file states none."""
        if decoded.pts is None:
            self.notes.untimed += 1
            after = decoded.duration or round(self._clock.period_ticks) or 1
            decoded = decoded._replace(pts=self._last_pts + after)
        assert decoded.pts is not None
        self._last_pts = decoded.pts
        return decoded


class LaterReader(_SpanReader):
    """Reads a file from one of its frames on, which is found by its time.

    Frames and packets have their times in the file. Whether the frames are those that a
    `VideoReader` yields is for the caller to compare: not all files can be read from their
    keyframes on.

    Raises:
        InputRefused, InputDamaged: See `VideoReader`.
    """

    def __init__(self, path: Path, from_pts: int, **reading: Any) -> None:  # noqa: ANN401
        """`from_pts` is a time in ticks; `reading` goes to `VideoReader`."""
        super().__init__(path, **reading)
        try:
            start_pts = self.info.start_pts or 0
            tick = self.info.time_base
            lead = lead_before(path, from_pts, start_pts, tick, self._max_pixels, SHORT_LEADS)
            self._read([Span(from_pts, None, from_pts, lead, tick)])
        except BaseException:
            self.close()
            raise


class ExcerptReader(_SpanReader):
    """Reads parts of one file, each from the keyframe before it on.

    Frames and packets have their times in the result, from zero on.

    Raises:
        InputRefused: A part has no frame; see also `VideoReader`.
        InputDamaged: See `VideoReader`.
    """

    is_excerpt = True

    def __init__(self, path: Path, excerpt: Excerpt, **reading: Any) -> None:  # noqa: ANN401
        """`reading` goes to `VideoReader`."""
        super().__init__(path, **reading)
        try:
            self._begin(excerpt)
        except BaseException:
            self.close()
            raise

    @property
    def chapters(self) -> "list[Chapter]":
        """No chapters: they are those of the whole video."""
        return []

    def copied_packets(self) -> Iterator[CopiedPacket]:
        """Yield only audio and subtitle packets; no frame is decoded."""
        yield from (it for it in self.scan_packets() if isinstance(it, CopiedPacket))

    def scan_packets(self) -> Iterator[FrameTime | CopiedPacket]:
        """Yield the times of frames, and the packets, of all parts in turn; nothing is decoded."""
        clock = FrameClock(self.path, self.video, Notes(), self.demuxer.formats)
        times = ShownTimes(clock)
        for span in self._spans:
            chosen, behind = Chosen(span, self.copied), 0
            with opened_at(self.path, span.lead, self._max_pixels) as (container, video):
                self.demuxer = Demuxer(self.path, container, video, Notes())
                for packet in self.demuxer:
                    time = time_of(packet)
                    if (copied := chosen.take(packet)) is not None:
                        yield copied
                    elif packet.stream_index == video.index and time is not None:
                        behind += span.is_over(time)
                        if span.includes(time) and self._decoder.is_shown(packet):
                            yield from times.after(span.moved(time), packet.duration)
                    if behind > MOST_REORDERED and chosen.is_complete:
                        break
            # The file may end before the span does.
            end_pts = None if behind else clock.end_pts
            yield from times.rest(None if end_pts is None else span.moved(end_pts))
            if self.demuxer.broke_off:  # callers look at it
                return

    def _begin(self, excerpt: Excerpt) -> None:
        """Find the parts; nothing before them is read any more."""
        whole = self.info.duration_seconds
        start_pts = self.info.start_pts or 0
        if excerpt.samples is not None and whole is not None:
            whole = length_seconds(self.path, start_pts, whole, self._max_pixels)
        parts = excerpt.parts(self.path, whole)
        spans = list(spans_of(self.path, parts, start_pts, self._max_pixels))
        self.info = replace(
            self.info, start_pts=0, frames_stated=None, duration_seconds=_length_of(parts, whole)
        )
        self._read(spans)


def _length_of(parts: Sequence[Part], whole_seconds: float | None) -> float | None:
    """Return the seconds of all parts together; None: the video does not state its length."""
    total = 0.0
    for part in parts:
        left = math.inf if whole_seconds is None else max(0.0, whole_seconds - part.start_seconds)
        total += min(left, math.inf if part.duration_seconds is None else part.duration_seconds)
    return None if total == math.inf else total
