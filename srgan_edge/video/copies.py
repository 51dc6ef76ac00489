"""Decide which streams beside the video a result takes over from its input, and as what.

Audio and subtitles are copied packet by packet. Audio that the container cannot hold becomes PCM;
streams that no container of a result keeps are left out, and named.
"""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import AttachmentStream, Discard, Disposition, Stream

from srgan_edge.errors import InputDamaged, printable, quoted
from srgan_edge.files import free_name
from srgan_edge.video.audio import (
    AudioHandling,
    PcmConversion,
    cut_seconds,
    holds,
    is_described,
    pcm_for,
)
from srgan_edge.video.audio_format import OneFormat, StatedFormat
from srgan_edge.video.channels import channels_of, unstated
from srgan_edge.video.container import Container
from srgan_edge.video.frame import CopiedPacket, decoding_seconds
from srgan_edge.video.hidden import MOST_PRIMING_PACKETS, USUAL_PRIMING_PACKETS, Heard
from srgan_edge.video.reader import VideoReader


class Copies:
    """Decides about the streams of `reader`, and converts the packets that have to be."""

    def __init__(self, container: Container, reader: VideoReader, audio: AudioHandling) -> None:
        self._container = container
        self._reader = reader
        self._audio = audio
        streams = reader.container.streams
        self.conversions = dict(self._conversions())
        """Conversions to PCM, by the index of the stream in the input."""
        self._heard = {
            stream.index: Heard(self._most_before(stream)) for stream in streams if self.has(stream)
        }
        self.left_out = [self._loss(stream) for stream in streams if not self.keeps(stream)]
        """One line for each stream of the input that the output will not have, for its chapters, or
        for what is lost of its audio."""
        self.left_out += self._lost_layouts()
        if reader.is_excerpt and reader.container.chapters():
            self.left_out.append("chapters, which are those of the whole video")
        self.changed = [self._change(index) for index in self.conversions]
        """One line for each stream whose packets are not copied as they are."""
        self.undecodable = 0
        """Packets that are damaged, or in a format for which the container has no place."""
        self._stated = dict(self._stated_formats())
        self._formats = {index: OneFormat() for index in self._stated}
        self._formats |= {index: it.format for index, it in self.conversions.items()}
        self._cut_seconds: dict[int, Fraction] = {}
        # As the input may be closed when it is read to its end:
        self._names = {stream.index: describe(stream) for stream in streams}

    def has(self, stream: Stream) -> bool:
        """Return True if packets of this stream go into the output."""
        if self._container.format == "yuv4mpegpipe":
            return False
        if stream.type == "audio" and self._audio == "drop":
            return False
        return stream in self._reader.copied or (
            self._container.is_mp4 and stream.index in self._reader.cover_art
        )

    def attaches(self, stream: Stream) -> bool:
        """Return True for cover art, and fonts of subtitles, that Matroska stores as files."""
        return self._container.is_matroska and (
            isinstance(stream, AttachmentStream) or stream.index in self._reader.cover_art
        )

    def codec_of(self, stream: Stream) -> str | None:
        """Return the codec of a copied stream in the output; None if it is left out."""
        if not self.has(stream):
            return None
        conversion = self.conversions.get(stream.index)
        return stream.codec_context.name if conversion is None else conversion.codec

    def fitted(self, packets: Iterable[CopiedPacket]) -> Iterator[CopiedPacket]:
        """Yield the packets of the output: converted, and without those left out or hidden."""
        for copied in packets:
            yield from self.fit(copied)
        yield from self.rest()

    def fit(self, copied: CopiedPacket) -> Iterator[CopiedPacket]:
        """Yield what becomes of one packet, and of those before it that waited for it."""
        index = copied.packet.stream_index
        if index in self.conversions:
            yield from self._converted(index, copied.packet)
        elif index in self._heard and self._is_of_one_format(copied.packet):
            self._note_cut(copied.packet)
            yield from self._heard[index].pass_on(copied)

    def format_changes(self) -> Iterator[str]:
        """Yield a line for each stream whose format has changed, with what to type about it.

        Its packets in other formats than the first were left out, and counted.
        """
        path = self._reader.path
        source = quoted(path) if path.is_file() else "IN"
        target = free_name(Path("one-format.mkv"), ".mkv")
        for index, it in self._formats.items():
            if it.change:
                yield (
                    f"{self._names[index]} changes {it.change}; for one format: ffmpeg -i {source} "
                    f"-map 0:v -map 0:a -c:v copy -c:a flac {target}"
                )

    def left_out_within(self) -> Iterator[str]:
        """Yield a line for each stream of which players will hear less, or more, of what passed."""
        for index, heard in self._heard.items():
            if count := heard.hidden_between:
                name = self._names[index]
                yield f"{count} packets of {name} that are not played, between others that are"
        for index, seconds in self._cut_seconds.items():
            name = self._names[index]
            line = f"that the last {float(seconds) * 1000:.1f} ms of {name} are not played"
            if not self._container.is_pipe:
                line += f"; -o {quoted(free_name(self._container.path, '.mkv'))} keeps it"
            yield line

    def rest(self) -> Iterator[CopiedPacket]:
        """Yield what decoders of audio still hold after the last packet."""
        for index in self.conversions:
            yield from self._converted(index, None)

    def instead_of(self, stream: Stream) -> str:
        """Advise somebody whose container does not hold a stream."""
        other = self._container.another(self._reader.path)
        if self._container.is_pipe or stream.type != "audio":
            return other
        elsewhere = not self._container.is_matroska and holds("matroska", stream)
        ways = [other] if elsewhere else []
        codec = pcm_for(stream)
        if codec and PcmConversion(cast(AudioStream, stream), codec).fits(self._container.format):
            ways.append(f"--audio convert to store it as {codec}")
        return ", or ".join([*ways, "--audio drop to leave it out"])

    def _stated_formats(self) -> Iterator[tuple[int, StatedFormat]]:
        """Yield the audio of which the container stores no second format.

        NUT keeps the headers of packets, and MP4 several descriptions.
        """
        for stream in self._reader.copied:
            if isinstance(stream, AudioStream) and stream.index not in self.conversions:
                stated = StatedFormat(stream)
                in_nut = self._container.format == "nut"
                if not (in_nut if stated.is_in_packets else self._container.is_mp4):
                    yield stream.index, stated

    def _is_of_one_format(self, packet: "Packet[Stream]") -> bool:
        index = packet.stream_index
        if index not in self._stated or (found := self._stated[index].of(packet)) is None:
            return True
        fits = self._formats[index].has(found, float(decoding_seconds(packet) or 0))
        self.undecodable += not fits
        return fits

    def _note_cut(self, packet: "Packet[Stream]") -> None:
        """Note the end of a packet that FFmpeg and others play from MP4, whatever it states."""
        if self._container.is_mp4 and (cut := cut_seconds(packet)):
            index = packet.stream_index
            self._cut_seconds[index] = self._cut_seconds.get(index, Fraction(0)) + cut

    def _conversions(self) -> Iterator[tuple[int, PcmConversion]]:
        container = self._container.format
        for stream in self._reader.copied:
            if not isinstance(stream, AudioStream) or not self.has(stream):
                continue
            as_it_is = self._audio == "copy" or holds(container, stream)
            codec = None if as_it_is else pcm_for(stream)
            conversion = PcmConversion(stream, codec) if codec else None
            if conversion and conversion.fits(container):
                yield stream.index, conversion

    def _converted(self, index: int, packet: "Packet[Stream] | None") -> Iterator[CopiedPacket]:
        try:
            for converted in self.conversions[index].packets(packet):
                yield CopiedPacket(converted)
        except InputDamaged:
            self.undecodable += 1

    def keeps(self, stream: Stream) -> bool:
        """Return True if the output has this stream, or one that is made anew."""
        is_chapters = stream.discard == Discard.all  # of MP4; the muxer writes its own
        is_timecode = self._container.is_mp4 and _is_timecode(stream)  # written by it, too
        is_made_anew = is_chapters or is_timecode or stream is self._reader.video
        return is_made_anew or self.has(stream) or self.attaches(stream)

    def _most_before(self, stream: Stream) -> float:
        """Return how many packets are kept that are hidden before a stream.

        MP4 has edit lists of its own, and hides all of it. No text needs what is before it.
        """
        if not isinstance(stream, AudioStream):
            return 0
        usual = MOST_PRIMING_PACKETS.get(stream.codec_context.name, USUAL_PRIMING_PACKETS)
        return math.inf if self._container.is_mp4 else usual

    def _loss(self, stream: Stream) -> str:
        return describe(stream) if is_described(stream) else undescribed(stream)

    def _lost_layouts(self) -> Iterator[str]:
        """Yield a line for PCM whose channels the container counts, but does not describe."""
        here = self._container
        if here.format not in ("matroska", "nut"):
            return
        for stream in self._reader.copied:
            is_pcm = (self.codec_of(stream) or "").startswith("pcm_")
            if not isinstance(stream, AudioStream) or not is_pcm:
                continue
            if lost := unstated(*channels_of(stream.codec_context)):
                line = f"which loudspeakers {describe(stream)} is for: {lost}"
                kept_in = free_name(here.path, ".mov")
                yield line if here.is_pipe else f"{line}; -o {quoted(kept_in)} keeps it"

    def _change(self, index: int) -> str:
        stream = self._reader.container.streams[index]
        line = f"{describe(stream)} becomes {self.conversions[index].codec}, sample by sample"
        here = self._container
        if not here.is_pipe and not here.is_matroska and holds("matroska", stream):
            line += f"; -o {quoted(free_name(here.path, '.mkv'))} keeps it"
        return line


def describe(stream: Stream) -> str:
    """Return what messages call a stream, such as `audio stream 1 (aac)`."""
    context = stream.codec_context
    if context:
        name = context.name
    elif _is_timecode(stream):
        name = "timecode"
    else:
        name = getattr(stream, "name", None) or stream.metadata.get("handler_name", "unknown codec")
    is_cover = stream.disposition & Disposition.attached_pic
    kind = "cover art" if is_cover else f"{stream.type} stream"
    return f"{kind} {stream.index} ({printable(name)})"


def undescribed(stream: Stream) -> str:
    """Return what messages say of audio that FFmpeg found no description of where it looks."""
    return f"{describe(stream)}: nothing at the start describes it; it is empty, or begins later"


def _is_timecode(stream: Stream) -> bool:
    return stream.type == "data" and "timecode" in stream.metadata
