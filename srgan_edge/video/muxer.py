"""Write the container of a result: the new video stream and everything else from the input.

Audio and subtitles are copied packet by packet; chapters, tags and attachments are copied as they
are. Audio that the container cannot hold becomes PCM; other streams that it cannot keep are refused
before the first packet.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self, cast

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.format import Flags
from av.packet import Packet
from av.rational import AVRational
from av.stream import AttachmentStream, Discard, Stream
from av.video.stream import VideoStream

from srgan_edge.errors import InputDamaged, OutputFailed, UsageError, printable
from srgan_edge.video.aac import describe_aac
from srgan_edge.video.audio import (
    AudioHandling,
    PcmConversion,
    add_copy,
    holds,
    is_described,
    pcm_for,
)
from srgan_edge.video.encoder import VideoEncoder
from srgan_edge.video.endpoint import OutputPipe
from srgan_edge.video.frame import CopiedPacket, VideoPacket
from srgan_edge.video.hidden import Heard
from srgan_edge.video.reader import VideoReader
from srgan_edge.video.times import Milliseconds, RisingTimes

CONTAINERS: dict[str, str] = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
}
"""Lower-case suffix of an output -> its format. All of these keep exact timestamps."""

# Tags that describe the input file and not its copy.
_OWN_METADATA = {
    "MAJOR_BRAND",
    "MINOR_VERSION",
    "COMPATIBLE_BRANDS",
    "ENCODER",
    "DURATION",
    "BPS",
    "NUMBER_OF_FRAMES",
    "NUMBER_OF_BYTES",
    "_STATISTICS_WRITING_APP",
    "_STATISTICS_WRITING_DATE_UTC",
    "_STATISTICS_TAGS",
}

_MOST_AHEAD_MICROSECONDS = 1_000_000
"""Longest wait of audio for a frame, or of a frame for a subtitle, before it is written alone."""

MP4_SUBTITLE_GAP = b"\0\0"
"""An empty text, for the time in which there is none."""


class VideoMuxer:
    """Writes packets of the upscaled video, and the copied packets of `reader`, to one file.

    The constructor checks the request and writes nothing; `open` writes the header, `close` the
    end. Leaving the `with` block without `close` leaves an unfinished file.

    Times are those of the input, in the units of the container: Matroska rounds to milliseconds,
    and shifts all streams equally if one (usually audio) starts before zero.

    Raises:
        UsageError: The suffix is not one of `CONTAINERS`, or the container cannot store negative
            times.
    """

    def __init__(
        self,
        target: Path | OutputPipe,
        reader: VideoReader,
        audio: AudioHandling = "convert",
    ) -> None:
        """The suffix of `target`, the final path, decides the format; nothing is written there."""
        self._is_pipe = isinstance(target, OutputPipe)
        self.path = path = Path(target.name) if isinstance(target, OutputPipe) else target
        self._reader = reader
        self._format = _container_format(target)
        self._is_mp4 = self._format in ("mp4", "mov")
        if self._is_mp4 and (reader.info.start_pts or 0) < 0:
            raise UsageError(
                f"{reader.path} starts before time zero, which {path.suffix} cuts off; "
                f"{self._another_container()}"
            )
        self._audio = audio
        self.conversions = dict(self._conversions())
        """Conversions to PCM, by the index of the stream in the input."""
        self._heard = {
            stream.index: Heard(keeps_start=self._is_mp4)
            for stream in reader.container.streams
            if self._is_copied(stream)
        }
        self.left_out = [self._loss(s) for s in reader.container.streams if not self._keeps(s)]
        """One line for each stream of the input that the output will not have, or its chapters."""
        if reader.is_excerpt and reader.container.chapters():
            self.left_out.append("chapters, which are those of the whole video")
        self.changed = [self._change(index) for index in self.conversions]
        """One line for each stream whose packets are not copied as they are."""
        self.refused = 0
        """Copied packets that were too damaged for the container."""
        self._streams: dict[int, Stream] = {}  # by index in the input
        self._times = RisingTimes()
        self._container: OutputContainer | None = None
        self._milliseconds: Milliseconds | None = None

    @property
    def nudged(self) -> int:
        """Copied packets moved forward because they were not later than the one before."""
        return self._times.nudged

    def open(self, file: Path | OutputPipe, encoder: VideoEncoder) -> None:
        """Write the header to `file`, with the video stream of `encoder`.

        Raises:
            UsageError: The container cannot hold the video, an audio or a subtitle codec.
            OSError: The file cannot be written.
        """
        self._streams, self._times = {}, RisingTimes()
        if isinstance(file, OutputPipe):
            url = f"pipe:{file.descriptor}"
        else:
            url = f"file:{file.absolute()}"  # the prefix keeps `a:b.mp4` from naming a protocol
        self._container = av.open(
            url,
            "w",
            format=self._format,
            container_options=self._container_options(),
            metadata_errors="surrogateescape",  # as they are read
        )
        self._write_header(self._container, encoder)

    def announce(self, pts: int) -> None:
        """Learn the time of the next frame to be shown, before `mux` gets the one before it.

        Without this, two frames within one millisecond get the same time in Matroska.
        """
        if self._format == "matroska":
            if self._milliseconds is None:
                self._milliseconds = Milliseconds(self._reader.info.time_base)
            self._milliseconds.announce(pts)

    def mux(self, packet: VideoPacket) -> None:
        """Add one packet of the video, in decoding order."""
        assert self._container is not None
        if self._milliseconds is not None:
            self._milliseconds.apply(packet)
        packet.stream = self._video
        with output_errors(self.path):
            self._container.mux_one(packet)

    def codec_of(self, stream: Stream) -> str | None:
        """Return the codec of a copied stream in the output; None if it is left out."""
        if not self._is_copied(stream):
            return None
        conversion = self.conversions.get(stream.index)
        return stream.codec_context.name if conversion is None else conversion.codec

    def fitted(self, packets: Iterable[CopiedPacket]) -> Iterator[CopiedPacket]:
        """Yield all packets as `copy` takes them: without those left out or hidden, converted."""
        for copied in packets:
            yield from self.fit(copied)
        yield from self.rest()

    def fit(self, copied: CopiedPacket) -> Iterator[CopiedPacket]:
        """Yield what becomes of one packet, and of those before it that waited for it."""
        index = copied.packet.stream_index
        if index in self.conversions:
            yield from self._converted(index, copied.packet)
        elif index in self._heard:
            yield from self._heard[index].pass_on(copied)

    def rest(self) -> Iterator[CopiedPacket]:
        """Yield what decoders of audio still hold after the last packet."""
        for index in self.conversions:
            yield from self._converted(index, None)

    def copy(self, copied: CopiedPacket) -> bool:
        """Add one packet as `fitted` yields it, which belongs to the file afterwards.

        Returns:
            False if the packet is too damaged for the container, which goes on without it.
        """
        packet = copied.packet
        if packet.stream_index not in self._streams:
            return True  # left out
        stream = self._streams[packet.stream_index]
        if self._is_mp4 and bytes(packet) == MP4_SUBTITLE_GAP:
            return True  # the container writes its own
        assert self._container is not None
        assert stream.time_base is not None
        packet.stream = stream
        packet.rescale_ts(AVRational(stream.time_base))
        nonstrict = bool(self._container.format.flags & cast(int, Flags.ts_nonstrict.value))
        self._times.correct(packet, may_repeat=nonstrict or stream.type == "subtitle")
        try:
            with output_errors(self.path):
                self._container.mux_one(packet)
        except OutputFailed as failure:
            if not isinstance(failure.__cause__, av.error.InvalidDataError):
                raise
            self.refused += 1
            return False
        return True

    def close(self) -> None:
        """Write the remaining packets and the index. A full disk may only be noticed here."""
        assert self._container is not None
        container, self._container = self._container, None
        with output_errors(self.path):
            container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._container is not None:
            with suppress(av.FFmpegError):
                self._container.close()

    def _container_options(self) -> dict[str, str]:
        options = {"fflags": "+bitexact"}  # the same input gives the same bytes
        if self._is_pipe:  # its reader is waiting
            options["flush_packets"] = "1"
            options["max_interleave_delta"] = str(_MOST_AHEAD_MICROSECONDS)
        if self._format == "yuv4mpegpipe":
            options["strict"] = "unofficial"  # more than 8 bits, which all programs read
        if self._is_mp4:
            # Phones name their tags themselves, and not by the four letters of QuickTime.
            own_names = any("." in key for key in self._reader.container.metadata)
            options["movflags"] = "+faststart" + ("+use_metadata_tags" if own_names else "")
            options["movie_timescale"] = str(_movie_timescale(self._reader))
        return options

    def _write_header(self, output: OutputContainer, encoder: VideoEncoder) -> None:
        source = self._reader.container
        for stream in source.streams:
            self._add_stream(output, stream, encoder)
        output.metadata.update(self._tags(source.metadata))
        output.set_chapters(self._reader.chapters)
        try:
            output.start_encoding()
        except OSError:
            raise
        except av.FFmpegError as error:
            raise UsageError(
                f"{self.path.name} cannot hold these streams together ({error.strerror}); "
                f"{self._another_container()}"
            ) from error
        for index, image in self._reader.cover_art.items():
            if index in self._streams:
                image.stream = self._streams[index]
                output.mux_one(image)

    def _tags(self, metadata: dict[str, str]) -> dict[str, str]:
        """Return the tags for the output; a timecode is that of the start of the whole video."""
        tags = still_true(metadata)
        if self._reader.is_excerpt:
            tags.pop("timecode", None)
        return tags

    def _keeps(self, stream: Stream) -> bool:
        is_chapters = stream.discard == Discard.all  # of MP4; the muxer writes its own
        is_timecode = self._is_mp4 and _is_timecode(stream)  # written by the muxer, too
        is_video = stream is self._reader.video
        is_made_anew = is_chapters or is_timecode or is_video
        return is_made_anew or self._is_copied(stream) or self._is_attached(stream)

    def _conversions(self) -> Iterator[tuple[int, PcmConversion]]:
        for stream in self._reader.copied:
            if not isinstance(stream, AudioStream) or not self._is_copied(stream):
                continue
            codec = (
                None if self._audio == "copy" or holds(self._format, stream) else pcm_for(stream)
            )
            conversion = PcmConversion(stream, codec) if codec else None
            if conversion and conversion.fits(self._format):
                yield stream.index, conversion

    def _converted(self, index: int, packet: "Packet[Stream] | None") -> Iterator[CopiedPacket]:
        try:
            for converted in self.conversions[index].packets(packet):
                yield CopiedPacket(converted)
        except InputDamaged:
            self.refused += 1

    def _loss(self, stream: Stream) -> str:
        why = "" if is_described(stream) else ": no packets, or none that describe it"
        return _describe(stream) + why

    def _change(self, index: int) -> str:
        stream = self._reader.container.streams[index]
        line = f"{_describe(stream)} becomes {self.conversions[index].codec}, sample by sample"
        if not self._is_pipe and self._format != "matroska" and holds("matroska", stream):
            line += f"; -o {self.path.with_suffix('.mkv').name} keeps it"
        return line

    def _is_copied(self, stream: Stream) -> bool:
        if self._format == "yuv4mpegpipe":
            return False
        if stream.type == "audio" and (self._audio == "drop" or not is_described(stream)):
            return False
        return stream in self._reader.copied or (
            self._is_mp4 and stream.index in self._reader.cover_art
        )

    def _is_attached(self, stream: Stream) -> bool:
        """Matroska stores cover art, and fonts for subtitles, as attached files."""
        return self._format == "matroska" and (
            isinstance(stream, AttachmentStream) or stream.index in self._reader.cover_art
        )

    def _add_stream(self, output: OutputContainer, stream: Stream, encoder: VideoEncoder) -> None:
        """Add one stream; calls in the order of the input keep the stream numbers."""
        if self._is_attached(stream):
            self._attach(output, stream)
            return
        if stream is self._reader.video:
            added: Stream = self._add_video(output, encoder)
        elif self._is_copied(stream):
            added = self._streams[stream.index] = self._add_copy(output, stream)
        else:
            return
        added.disposition = stream.disposition
        added.metadata.update(self._tags(stream.metadata))

    def _add_video(self, output: OutputContainer, encoder: VideoEncoder) -> VideoStream:
        try:
            self._video = encoder.add_to(output)
        except ValueError:
            raise UsageError(
                f"{self.path.name} cannot hold {encoder.codec}; {self._another_container()}"
            ) from None
        return self._video

    def _attach(self, output: OutputContainer, stream: Stream) -> None:
        cover = self._reader.cover_art.get(stream.index)
        content = bytes(cover) if cover else cast(AttachmentStream, stream).data
        name = stream.metadata.get("filename", f"attachment-{stream.index}")
        kind = stream.metadata.get("mimetype") or f"image/{stream.codec_context.name}"
        output.add_attachment(printable(name), printable(kind), content)

    def _add_copy(self, output: OutputContainer, stream: Stream) -> Stream:
        if (conversion := self.conversions.get(stream.index)) is not None:
            return conversion.add_to(output)
        try:
            added = add_copy(output, stream)
        except ValueError:
            raise UsageError(
                f"{self.path.name} cannot hold {_describe(stream)}; {self._instead_of(stream)}"
            ) from None
        if self._is_pipe and self._format == "matroska":
            describe_aac(stream, added)
        return added

    def _instead_of(self, stream: Stream) -> str:
        """Advise somebody whose container does not hold a stream."""
        other = self._another_container()
        if self._is_pipe or stream.type != "audio":
            return other
        ways = [other] if self._format != "matroska" and holds("matroska", stream) else []
        codec = pcm_for(stream)
        if codec and PcmConversion(cast(AudioStream, stream), codec).fits(self._format):
            ways.append(f"--audio convert to store it as {codec}")
        return ", or ".join([*ways, "--audio drop to leave it out"])

    def _another_container(self) -> str:
        if self._is_pipe:
            return f"use --pipe-format {'nut' if self._format == 'matroska' else 'matroska'}"
        source = self._reader.path.suffix
        suffix = source if self._format == "matroska" and source in CONTAINERS else ".mkv"
        return f"use -o {self.path.with_suffix(suffix).name}"


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Translate FFmpeg's errors while `path` is written.

    Raises:
        OSError: The disk failed.
        OutputFailed: Any other error of FFmpeg.
    """
    try:
        yield
    except av.FFmpegError as error:
        if isinstance(error, OSError):  # the caller that opened the file knows what to advise
            raise
        raise OutputFailed(f"cannot write {path}: {error.strerror}") from error


def _movie_timescale(reader: VideoReader) -> int:
    """Return the unit in which MP4 states the start of each stream; its default is 1/1000 s.

    The default would shift a video that starts at frame 1 of 30000/1001 per second. A common unit
    of video and audio is exact, as long as the times in it fit 32 bits.
    """
    streams = [reader.video, *reader.copied]
    video, *_ = bases = [stream.time_base.denominator for stream in streams if stream.time_base]
    seconds = reader.info.duration_seconds or 86400.0
    units = (math.lcm(*bases), video)
    return next((unit for unit in units if unit * max(seconds, 2) < 2**32), 1000)


def _describe(stream: Stream) -> str:
    context = stream.codec_context
    if context:
        name = context.name
    elif _is_timecode(stream):
        name = "timecode"
    else:
        name = getattr(stream, "name", None) or stream.metadata.get("handler_name", "unknown codec")
    return f"{stream.type} stream {stream.index} ({printable(name)})"


def _is_timecode(stream: Stream) -> bool:
    return stream.type == "data" and "timecode" in stream.metadata


def still_true(metadata: dict[str, str]) -> dict[str, str]:
    """Return the tags of an input that are true of its copy."""
    return {key: value for key, value in metadata.items() if key.upper() not in _OWN_METADATA}


def _container_format(target: Path | OutputPipe) -> str:
    if isinstance(target, OutputPipe):
        return target.format
    try:
        return CONTAINERS[target.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"cannot write {target.name}: possible suffixes are {' '.join(CONTAINERS)}"
        ) from None
