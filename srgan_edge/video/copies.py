"""Decide which streams beside the video a result takes over from its input, and as what.

Audio and subtitles are copied packet by packet. Audio that the container cannot hold becomes PCM;
streams that no container of a result keeps are left out, and named.
"""

import math
from collections.abc import Iterable, Iterator
from typing import cast

from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import AttachmentStream, Discard, Disposition, Stream

from srgan_edge.errors import InputDamaged, printable, quoted
from srgan_edge.video.audio import AudioHandling, PcmConversion, holds, is_described, pcm_for
from srgan_edge.video.container import Container
from srgan_edge.video.frame import CopiedPacket
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
        """One line for each stream of the input that the output will not have, or its chapters."""
        if reader.is_excerpt and reader.container.chapters():
            self.left_out.append("chapters, which are those of the whole video")
        self.changed = [self._change(index) for index in self.conversions]
        """One line for each stream whose packets are not copied as they are."""
        self.undecodable = 0
        """Packets that could not be converted, because they are damaged."""

    def has(self, stream: Stream) -> bool:
        """Return True if packets of this stream go into the output."""
        if self._container.format == "yuv4mpegpipe":
            return False
        if stream.type == "audio" and (self._audio == "drop" or not is_described(stream)):
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
        elif index in self._heard:
            yield from self._heard[index].pass_on(copied)

    def hidden_between(self) -> Iterator[str]:
        """Yield a line for each stream with packets that an edit list hides among those passed."""
        for index, heard in self._heard.items():
            if count := heard.hidden_between:
                name = describe(self._reader.container.streams[index])
                yield f"{count} packets of {name} that are not played, between others that are"

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
        why = "" if is_described(stream) else ": no packets, or none that describe it"
        return describe(stream) + why

    def _change(self, index: int) -> str:
        stream = self._reader.container.streams[index]
        line = f"{describe(stream)} becomes {self.conversions[index].codec}, sample by sample"
        here = self._container
        if not here.is_pipe and not here.is_matroska and holds("matroska", stream):
            line += f"; -o {quoted(here.path.with_suffix('.mkv'))} keeps it"
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


def _is_timecode(stream: Stream) -> bool:
    return stream.type == "data" and "timecode" in stream.metadata
