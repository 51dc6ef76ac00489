"""Write the container of a result: the new video stream and everything else from the input.

Chapters, tags and attachments are copied as they are; `copies` decides about audio, subtitles and
other streams. What the container cannot keep is refused before the first packet.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self, cast

import av
from av.container import OutputContainer
from av.format import Flags
from av.rational import AVRational
from av.stream import AttachmentStream, Stream
from av.video.stream import VideoStream

from srgan_edge.errors import OutputFailed, UsageError, printable
from srgan_edge.video.aac import describe_aac
from srgan_edge.video.audio import AudioHandling, add_copy
from srgan_edge.video.container import Container
from srgan_edge.video.copies import Copies, describe
from srgan_edge.video.encoder import VideoEncoder
from srgan_edge.video.endpoint import OutputPipe
from srgan_edge.video.frame import CopiedPacket, VideoPacket
from srgan_edge.video.limits import Unfit
from srgan_edge.video.reader import VideoReader
from srgan_edge.video.times import Milliseconds, RestOfTime, RisingTimes, ShownUntilNext

# Tags that describe the input file and not its copy. In Matroska the language of a tag may be added
# to its name: mkvmerge writes `BPS-eng`.
_LANGUAGE_OF_TAG = re.compile(r"-[a-z]{2,3}$", re.IGNORECASE)
_OWN_METADATA = {
    "MAJOR_BRAND",
    "MINOR_VERSION",
    "COMPATIBLE_BRANDS",
    "ENCODER",
    "DURATION",
    "ALPHA_MODE",
    "BPS",
    "NUMBER_OF_FRAMES",
    "NUMBER_OF_BYTES",
    "NUMBER_OF_BYTES_UNCOMPRESSED",
    "_STATISTICS_WRITING_APP",
    "_STATISTICS_WRITING_DATE_UTC",
    "_STATISTICS_TAGS",
}

_MOST_OFFSET_TICKS = 2**28 - 1
"""The longest time from decoding to showing a frame in MP4: FFmpeg ignores all if one is longer."""

MP4_SUBTITLE_GAP = b"\0\0"
"""An empty text, for the time in which there is none."""

_IMAGE_TYPES = {"mjpeg": ("image/jpeg", "jpg"), "tiff": ("image/tiff", "tif")}
"""Codec of cover art -> its media type and suffix, where they are not called as it is."""


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
        self._target = Container.of(target)
        self.path = self._target.path
        self._reader = reader
        if self._target.is_mp4 and (reader.info.start_pts or 0) < 0:
            raise UsageError(
                f"{reader.path} starts before time zero, which {self.path.suffix} cuts off; "
                f"{self._target.another(reader.path)}"
            )
        self.copies = Copies(self._target, reader, audio)
        """Decides about the other streams of the input."""
        self._refused = 0
        self._streams: dict[int, Stream] = {}  # by index in the input
        self._times = RisingTimes()
        self._container: OutputContainer | None = None
        self._milliseconds: Milliseconds | None = None
        self._until_next = ShownUntilNext()
        self._rest: RestOfTime | None = None

    @property
    def refused(self) -> int:
        """Copied packets that were too damaged for their decoder or the container."""
        return self._refused + self.copies.undecodable

    @property
    def refusal(self) -> str:
        """Why packets were refused, and how many."""
        count = f"{self.refused} packets of audio or subtitles cannot be copied"
        return "; ".join([*self.copies.format_changes(), count])

    @property
    def nudged(self) -> int:
        """Copied packets moved forward because they were not later than the one before."""
        return self._times.nudged

    @property
    def most_seconds_ahead(self) -> float:
        """The longest time from decoding to showing a frame that the open file can state."""
        if not self._target.is_mp4 or self._video.time_base is None:
            return math.inf
        return float(_MOST_OFFSET_TICKS * self._video.time_base)

    def open(self, file: Path | OutputPipe, encoder: VideoEncoder) -> None:
        """Write the header to `file`, with the video stream of `encoder`.

        Raises:
            UsageError: The container cannot hold the video, an audio or a subtitle codec.
            OSError: The file cannot be written.
        """
        self._streams, self._times = {}, RisingTimes()
        self._rest = RestOfTime() if self._target.is_mp4 else None
        if isinstance(file, OutputPipe):
            url = f"pipe:{file.descriptor}"
        else:
            url = f"file:{file.absolute()}"  # the prefix keeps `a:b.mp4` from naming a protocol
        self._container = av.open(
            url,
            "w",
            format=self._target.format,
            container_options=self._target.options(self._reader),
            metadata_errors="surrogateescape",  # as they are read
        )
        self._write_header(self._container, encoder)

    def announce(self, pts: int) -> None:
        """Learn the time of the next frame to be shown, before `mux` gets the one before it.

        Without this, two frames within one millisecond get the same time in Matroska.
        """
        self._until_next.announce(pts)
        if self._target.is_matroska:
            if self._milliseconds is None:
                self._milliseconds = Milliseconds(self._reader.info.time_base)
            self._milliseconds.announce(pts)

    def mux(self, packet: VideoPacket) -> None:
        """Add one packet of the video, in decoding order."""
        self._until_next.apply(packet)
        next_one = packet if self._rest is None else self._rest.exchanged(packet)
        if next_one is not None:
            self._write(next_one)

    def copy(self, copied: CopiedPacket) -> bool:
        """Add one packet as `copies` yields it, which belongs to the file afterwards.

        Returns:
            False if the packet is too damaged for the container, which goes on without it.
        """
        packet = copied.packet
        if packet.stream_index not in self._streams:
            return True  # left out
        stream = self._streams[packet.stream_index]
        if self._target.is_mp4 and bytes(packet) == MP4_SUBTITLE_GAP:
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
            self._refused += 1
            return False
        return True

    def close(self) -> None:
        """Write the remaining packets and the index. A full disk may only be noticed here."""
        assert self._container is not None
        if self._rest is not None and (last := self._rest.last()) is not None:
            self._write(last)
        container, self._container = self._container, None
        with output_errors(self.path):
            container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._container is not None:
            with suppress(av.FFmpegError):
                self._container.close()

    def _write(self, packet: VideoPacket) -> None:
        assert self._container is not None
        if self._milliseconds is not None:
            self._milliseconds.apply(packet)
        packet.stream = self._video
        with output_errors(self.path):
            self._container.mux_one(packet)

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
            is_last = self._target.is_matroska and not self._target.is_pipe  # holds the most
            raise Unfit(
                f"{self.path.name} cannot hold these streams together ({error.strerror})",
                "use -c libx264" if is_last else self._target.another(self._reader.path),
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

    def _add_stream(self, output: OutputContainer, stream: Stream, encoder: VideoEncoder) -> None:
        """Add one stream; calls in the order of the input keep the stream numbers."""
        if self.copies.attaches(stream):
            self._attach(output, stream)
            return
        if stream is self._reader.video:
            added: Stream = self._add_video(output, encoder)
        elif self.copies.has(stream):
            added = self._streams[stream.index] = self._add_copy(output, stream)
        else:
            return
        added.disposition = stream.disposition
        tags = self._tags(stream.metadata)
        if "name" in tags:  # of a track, in MP4; FFmpeg reads it by this word, and writes it as:
            tags.setdefault("title", tags.pop("name"))
        added.metadata.update(tags)

    def _add_video(self, output: OutputContainer, encoder: VideoEncoder) -> VideoStream:
        try:
            self._video = encoder.add_to(output)
        except ValueError:
            raise Unfit(
                f"{self.path.name} cannot hold {encoder.codec}",
                self._target.for_codec(encoder.codec),
            ) from None
        return self._video

    def _attach(self, output: OutputContainer, stream: Stream) -> None:
        """Store a file; Matroska's readers know cover art by its type and the name `cover.jpg`."""
        covers = self._reader.cover_art
        if cover := covers.get(stream.index):
            codec = stream.codec_context.name
            kind, suffix = _IMAGE_TYPES.get(codec, (f"image/{codec}", codec))
            which = "" if stream.index == min(covers) else f"-{stream.index}"
            name, content = f"cover{which}.{suffix}", bytes(cover)
        else:
            name, kind = f"attachment-{stream.index}", "application/octet-stream"
            content = cast(AttachmentStream, stream).data
        name = stream.metadata.get("filename", name)
        kind = stream.metadata.get("mimetype") or kind
        output.add_attachment(printable(name), printable(kind), content)

    def _add_copy(self, output: OutputContainer, stream: Stream) -> Stream:
        if (conversion := self.copies.conversions.get(stream.index)) is not None:
            return conversion.add_to(output)
        try:
            added = add_copy(output, stream)
        except ValueError:
            raise UsageError(
                f"{self.path.name} cannot hold {describe(stream)}; {self.copies.instead_of(stream)}"
            ) from None
        if self._target.is_pipe and self._target.is_matroska:
            describe_aac(stream, added)
        return added


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


def still_true(metadata: dict[str, str]) -> dict[str, str]:
    """Return the tags of an input that are true of its copy."""
    return {
        key: value
        for key, value in metadata.items()
        if _LANGUAGE_OF_TAG.sub("", key).upper() not in _OWN_METADATA
    }
