"""Notice audio that changes its format midway, which few containers can hold.

MP3, AC-3, DTS and Opus state it in each packet, and their decoders follow. AAC and ALAC are
described once: where the input has a header in each packet, or several descriptions, the result
would be decoded by the first of them.
"""

from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Stream

from srgan_edge.video.aac import adts_format, config_format

_DESCRIBED_ONCE = {"aac", "alac"}


class OneFormat:
    """Tells packets of audio that are in the first format of their stream from all others.

    A single one in another format has a broken header; from the second in a row on, the stream has
    changed.
    """

    def __init__(self, first: str | None = None) -> None:
        """`first` is the format; None: that of the first packet."""
        self.change = ""
        """The first change of format, with its time; empty if there was none."""
        self._first, self._before = first, first
        self._since_seconds = 0.0

    def has(self, found: str, seconds: float) -> bool:
        """Return True if the next packet, at `seconds`, is in the first format."""
        self._first = self._first or found
        if found != self._before:
            self._since_seconds = seconds
        elif found != self._first and not self.change:
            self.change = f"from {self._first} to {found} at {self._since_seconds:.2f} s"
        self._before = found
        return found == self._first


class StatedFormat:
    """Reads what packets of AAC, or the descriptions that come with them, state as their format."""

    def __init__(self, stream: Stream) -> None:
        codec = stream.codec_context.name
        self._is_aac = codec == "aac"
        described_once = isinstance(stream, AudioStream) and codec in _DESCRIBED_ONCE
        extradata = stream.codec_context.extradata if described_once else None
        self.is_in_packets = not extradata
        """Each packet has a header; else there is one description until another one comes."""
        self._described = self._in_words(extradata) if extradata else None

    def of(self, packet: "Packet[Stream]") -> str | None:
        """Return the format of the next packet, in words; None if nothing states it."""
        if self.is_in_packets:
            return adts_format(bytes(packet)) if self._is_aac else None
        if packet.has_sidedata("new_extradata"):
            self._described = self._in_words(bytes(packet.get_sidedata("new_extradata")))
        return self._described

    def _in_words(self, extradata: bytes) -> str:
        return config_format(extradata) if self._is_aac else f"description {extradata[:16].hex()}"
