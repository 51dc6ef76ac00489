"""Record everything in a video that upscaling does not change, so that two can be compared."""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Discard, Disposition, Stream

from srgan_edge.errors import InputDamaged
from srgan_edge.transcode.proof import CodedPackets
from srgan_edge.video.aac import without_adts_header
from srgan_edge.video.audio import PcmConversion, cut_seconds, is_described, pcm_for
from srgan_edge.video.audio_format import OneFormat, StatedFormat
from srgan_edge.video.channels import channels_of
from srgan_edge.video.copies import undescribed
from srgan_edge.video.excerpt import Excerpt
from srgan_edge.video.excerpt_reader import open_video
from srgan_edge.video.frame import CopiedPacket, FrameTime, VideoInfo, decoding_seconds
from srgan_edge.video.muxer import MP4_SUBTITLE_GAP, still_true
from srgan_edge.video.opening import MAX_RESULT_PIXELS
from srgan_edge.video.reader import VideoReader


def digest(content: bytes) -> int:
    """Return a hash of 64 bits."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


_NO_TEXT = digest(MP4_SUBTITLE_GAP)

_SHOWN_ALIKE = {"default", "captions", "descriptions"}
"""Roles that FFmpeg's readers add to others, each for its container."""


def codec_name(stream: Stream) -> str:
    """Return FFmpeg's name of the codec of a stream."""
    return stream.codec_context.name


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

    def shown_seconds(self) -> npt.NDArray[np.float64]:
        """Return how long frames are shown, float64 [N]: until the next one at most."""
        shown = self.durations_seconds()
        until_next = np.diff(self.starts_seconds())
        shown[:-1] = np.where(until_next > 0, np.minimum(shown[:-1], until_next), shown[:-1])
        return shown


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
    hidden: set[int] = field(default_factory=set)
    """Numbers of packets that an edit list hides."""
    sizes: "array[int]" = field(default_factory=lambda: array("Q"))
    """Sizes of the packets of PCM, which containers cut into packets as they like, in bytes."""
    roles: frozenset[str] = frozenset()
    """Language of the stream, and what it is for."""
    cut_seconds: Fraction = Fraction(0)
    """The time at the ends of packets that is not played."""
    channels: tuple[int, str] = (0, "")
    """Number of channels of audio, and the name of their layout."""
    stated: StatedFormat | None = None
    """Reads the format of packets of audio; None: there is nothing to read."""
    format: OneFormat = field(default_factory=OneFormat)
    """The format of packets of audio, and its changes."""
    _samples: Any = field(default_factory=hashlib.sha256)
    _before_last: Any = None
    _last_dts: int | None = None

    @property
    def is_pcm(self) -> bool:
        """The packets can be cut anywhere."""
        return self.name.startswith("audio pcm_")

    def add(self, copied: CopiedPacket) -> None:
        """Record the next packet; call this before a muxer takes it."""
        packet = copied.packet
        dts = packet.pts if packet.dts is None else packet.dts
        if packet.pts is None or (self._last_dts is not None and (dts or 0) <= self._last_dts):
            self.unplaceable.add(len(self.digests))
        self._last_dts = dts
        self.timeline.add(packet.pts or 0, packet.duration or 0)
        if packet.is_discard:
            self.hidden.add(len(self.digests))
        if self.stated and (found := self.stated.of(packet)) is not None:
            self.format.has(found, float(decoding_seconds(packet) or 0))
        self.cut_seconds += cut_seconds(packet)
        content = bytes(packet)
        if self.name == "audio aac":
            content = without_adts_header(content)
        if self.is_pcm:
            self._before_last = self._samples.copy()
            self._samples.update(content)
            self.sizes.append(len(content))
        self.digests.append(digest(content))

    def forget_last(self) -> None:
        """Remove the packet that was recorded last."""
        self.timeline.pts.pop()
        self.timeline.durations.pop()
        self.digests.pop()
        self.unplaceable.discard(len(self.digests))
        self.hidden.discard(len(self.digests))
        if self.is_pcm:
            self._samples = self._before_last
            self.sizes.pop()

    def shown(self) -> "PacketRecord":
        """Return a record without the packets that an edit list hides."""
        return self._only(self.hidden)

    def with_text(self) -> "PacketRecord":
        """Return a record of MP4 subtitles without the empty ones, which a container adds, moves to
        its start and merges; one of anything else is returned as it is."""
        if self.name != "subtitle mov_text":
            return self
        return self._only({number for number, it in enumerate(self.digests) if it == _NO_TEXT})

    def _only(self, left_out: Set[int]) -> "PacketRecord":
        kept = [number for number in range(len(self.digests)) if number not in left_out]
        timeline = Timeline(self.timeline.time_base)
        for number in kept:
            timeline.add(self.timeline.pts[number], self.timeline.durations[number])
        unplaceable = {place for place, number in enumerate(kept) if number in self.unplaceable}
        digests = array("Q", (self.digests[number] for number in kept))
        return PacketRecord(self.name, timeline, digests, unplaceable)

    def has_samples_of(self, other: "PacketRecord") -> bool:
        """Check whether both are PCM with the same samples, in packets of any size."""
        same_kind = self.is_pcm and self.name == other.name
        return same_kind and self._samples.digest() == other._samples.digest()

    def starts_at(self, positions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return when the samples at positions in bytes are played, float64 [N], in seconds."""
        ends = np.cumsum(np.asarray(self.sizes, np.float64))
        starts = self.timeline.starts_seconds()
        number = np.minimum(np.searchsorted(ends, positions, side="right"), len(ends) - 1)
        size, duration = np.asarray(self.sizes)[number], self.timeline.durations_seconds()[number]
        into = (positions - (ends[number] - size)) / np.maximum(size, 1)
        return np.asarray(starts[number] + into * duration, np.float64)


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
    """Metadata of each chapter; an empty title is none."""
    chapter_seconds: list[tuple[float, float]]
    """Start and end of each chapter."""
    tags: dict[str, str]
    """Tags of the whole file that are true of a copy of it."""
    stream_tags: list[tuple[str, dict[str, str]]]
    """The type of each stream that results can have, and the same of it."""
    undescribed: list[str]
    """A line for each stream of audio that no result has, as nothing describes it."""
    files: frozenset[int]
    """Digests of cover art and of attached files."""

    @classmethod
    def begin(
        cls, reader: VideoReader, codec_of: Callable[[Stream], str | None] = codec_name
    ) -> Self:
        """Create a record without frames and packets, which are added as they are read.

        `codec_of` returns the codec of the packets of a stream; None if there will be none.
        """
        codecs = {stream: codec_of(stream) for stream in reader.copied}
        return cls(
            path=reader.path,
            info=reader.info,
            format=reader.container.format.name,
            frames=Timeline(reader.info.time_base),
            packets={
                stream.index: PacketRecord(
                    f"{stream.type} {codec}",
                    Timeline(stream.time_base or Fraction(1, 1000)),
                    roles=_roles_of(stream),
                    channels=_channels_of(stream),
                    stated=StatedFormat(stream),
                )
                for stream, codec in codecs.items()
                if codec is not None
            },
            chapters=[
                {name: value for name, value in it["metadata"].items() if value}
                for it in reader.chapters
            ],
            chapter_seconds=[
                (float(it["start"] * base), float(it["end"] * base))
                for it in reader.chapters
                if (base := it["time_base"])
            ],
            tags=still_true(reader.container.metadata),
            stream_tags=[
                (stream.type, still_true(stream.metadata))
                for stream in reader.container.streams
                if _is_kept(stream, reader)
            ],
            undescribed=[
                undescribed(stream)
                for stream in reader.container.streams
                if not is_described(stream)
            ],
            files=frozenset(digest(content) for content in reader.attached.values()),
        )

    @classmethod
    def of(
        cls,
        path: Path,
        on_step: Callable[[], None] = lambda: None,
        *,
        frames_at_once: bool = False,
        like: "VideoRecord | None" = None,
        excerpt: Excerpt | None = None,
    ) -> Self:
        """Decode a whole file, and call `on_step` for every frame and packet.

        `frames_at_once` and `excerpt` are as for `open_video`. Audio that is PCM in `like` is
        recorded as PCM.

        Raises:
            InputRefused: the file is not a video.
            InputDamaged: the file is cut off or broken.
        """
        with open_video(
            path,
            excerpt=excerpt,
            allow_8bit=True,
            max_pixels=MAX_RESULT_PIXELS,
            frames_at_once=frames_at_once,
        ) as reader:
            conversions = {} if like is None else _conversions(reader, like)
            record = cls.begin(
                reader,
                lambda s: conversions[s.index].codec if s.index in conversions else codec_name(s),
            )
            for item in reader.scan():
                if isinstance(item, FrameTime):
                    record.frames.add(item.pts, item.duration)
                elif (conversion := conversions.get(item.packet.stream_index)) is not None:
                    for packet in _converted(path, conversion, item.packet):
                        record.packets[item.packet.stream_index].add(packet)
                else:
                    record.packets[item.packet.stream_index].add(item)
                on_step()
            for index, conversion in conversions.items():
                for packet in _converted(path, conversion, None):
                    record.packets[index].add(packet)
        return record

    @classmethod
    def of_packets(
        cls,
        path: Path,
        on_step: Callable[[], None] = lambda: None,
        coded: CodedPackets | None = None,
    ) -> Self:
        """Like `of`, without decoding: the times of frames are those of their packets.

        Args:
            coded: gets the packets of the video; the file then has to be whole.
        """
        with VideoReader(path, allow_8bit=True, max_pixels=MAX_RESULT_PIXELS) as reader:
            record = cls.begin(reader)
            if coded is not None:
                coded.add_parameters(reader.video.codec_context.extradata)
            for item in reader.scan_packets() if coded is None else reader.scan_whole(coded.add):
                if isinstance(item, FrameTime):
                    record.frames.add(item.pts, item.duration)
                else:
                    record.packets[item.packet.stream_index].add(item)
                on_step()
        return record


def _conversions(reader: VideoReader, like: VideoRecord) -> dict[int, PcmConversion]:
    """Return what turns audio into the PCM that it is in another video."""
    found = {}
    for stream, theirs in zip(reader.copied, like.packets.values(), strict=False):
        codec = pcm_for(stream)
        if codec in (None, codec_name(stream)) or not isinstance(stream, AudioStream):
            continue
        if theirs.name == f"audio {codec}":
            found[stream.index] = PcmConversion(stream, codec)
    return found


def _converted(
    path: Path, conversion: PcmConversion, packet: "Packet[Stream] | None"
) -> Iterator[CopiedPacket]:
    try:
        for converted in conversion.packets(packet):
            yield CopiedPacket(converted)
    except InputDamaged as error:
        raise InputDamaged(f"{path}: damaged: {error}") from error


def _is_kept(stream: Stream, reader: VideoReader) -> bool:
    """Return True for a stream that results have, if their container has any of its type."""
    if stream.discard == Discard.all:  # it has the titles of chapters, which are kept
        return False
    is_known = stream is reader.video or stream in reader.copied or stream.index in reader.attached
    return is_known or stream.type == "data"


def _channels_of(stream: Stream) -> tuple[int, str]:
    return channels_of(stream.codec_context) if isinstance(stream, AudioStream) else (0, "")


def _roles_of(stream: Stream) -> frozenset[str]:
    """Return the language of a stream and what it is for, such as `comment` or `forced`."""
    roles = {str(flag.name) for flag in Disposition if flag in stream.disposition} - _SHOWN_ALIKE
    language = stream.metadata.get("language", "und")
    return frozenset(roles | ({f"language {language}"} if language != "und" else set()))
