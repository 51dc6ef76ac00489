"""Fit streams to the container of a result: copied as they are, or audio as PCM without loss.

The containers disagree about codecs. Matroska holds most audio by a name of its own, and the rest
by the tags of Windows (`A_MS/ACM`), which PyAV does not offer; the LPCM of discs and broadcasts
fits nowhere and becomes ordinary PCM with the same samples.
"""

import io
import os
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from typing import Any, Literal

import av
import numpy as np
import numpy.typing as npt
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from av.audio.stream import AudioStream
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream

from srgan_edge.errors import InputDamaged
from srgan_edge.video.audio_format import OneFormat
from srgan_edge.video.channels import channels_in_words, channels_of, plain_layout

AudioHandling = Literal["convert", "copy", "drop"]
"""`convert` turns audio that a container cannot hold into PCM and copies the rest."""

_SAMPLES = {  # FFmpeg's sample format, without the `p` of planar ones -> PCM with the same samples
    "u8": "pcm_u8",
    "s16": "pcm_s16le",
    "s32": "pcm_s32le",
    "flt": "pcm_f32le",
    "dbl": "pcm_f64le",
}

_24_BITS = {"pcm_bluray", "pcm_dvd", "s302m"}
"""Codecs that have at most 24 bits, which FFmpeg decodes to 32."""


def is_described(stream: Stream) -> bool:
    """Return False for audio without rate or channels, as that of which no packet was found."""
    context = stream.codec_context
    if not isinstance(context, AudioCodecContext):
        return True
    return context.sample_rate > 0 and channels_of(context)[0] > 0


def cut_seconds(packet: "Packet[Stream]") -> Fraction:
    """Return how much of the end of a packet is not played, such as what fills up the last one."""
    if not packet.has_sidedata("skip_samples"):
        return Fraction(0)
    samples = int.from_bytes(bytes(packet.get_sidedata("skip_samples"))[4:8], "little")
    context = packet.stream.codec_context
    return Fraction(samples, getattr(context, "sample_rate", 0) or 48_000)


def add_copy(output: OutputContainer, stream: Stream) -> Stream:
    """Add a stream to `output` for the packets of `stream`.

    Raises:
        ValueError: The container does not know the codec.
    """
    try:
        return output.add_stream_from_template(stream, opaque=True)
    except ValueError:
        if output.format.name != "matroska" or not isinstance(stream, AudioStream):
            raise
    return _added_by_tag(output, stream)


def holds(container_format: str, stream: Stream) -> bool:
    """Check whether a container can hold copies of a stream, by writing its header to memory."""
    with _header(container_format) as output:
        try:
            add_copy(output, stream)
            output.start_encoding()
        except (ValueError, av.FFmpegError):
            return False
    return True


def pcm_for(stream: Stream) -> str | None:
    """Return the PCM that stores the decoded samples of a stream without loss; None if none."""
    context = stream.codec_context
    if not isinstance(context, AudioCodecContext) or not is_described(stream):
        return None
    with suppress(AttributeError, ValueError):  # nothing was decoded: the format is unknown
        samples = context.format.name.removesuffix("p")
        if samples == "s32" and context.name in _24_BITS:
            return "pcm_s24le"
        return _SAMPLES.get(samples)
    return None


class PcmConversion:
    """Turns the packets of one audio stream into packets of PCM with the same samples and times."""

    def __init__(self, stream: AudioStream, codec: str) -> None:
        """`codec` is that of `pcm_for`."""
        self.codec = codec
        context = stream.codec_context
        channels, layout = channels_of(context)
        self.format = OneFormat(_format(context.sample_rate, channels, context.format.name))
        """Sees to it that all of the PCM is of one format."""
        self._stream = stream
        # One that has no list of channels, which would be freed with each decoded frame:
        self._layout = plain_layout(channels, layout)
        if not context.is_open:
            context.layout = AudioLayout(self._layout)

    def add_to(self, output: OutputContainer) -> Stream:
        """Add the stream for the converted packets.

        Raises:
            ValueError: The container does not hold PCM.
        """
        context = self._stream.codec_context
        added = output.add_stream(self.codec, rate=context.sample_rate)
        assert isinstance(added, AudioStream)
        added.codec_context.layout = AudioLayout(self._layout)
        added.time_base = self._stream.time_base
        return added

    def fits(self, container_format: str) -> bool:
        """Check whether a container can hold the result, by writing its header to memory."""
        with _header(container_format) as output:
            try:
                self.add_to(output)
                output.start_encoding()
            except (ValueError, av.FFmpegError):
                return False
        return True

    def packets(self, packet: "Packet[Stream] | None") -> Iterator["Packet[Stream]"]:
        """Yield the PCM of one packet, or of what the decoder still holds.

        Raises:
            InputDamaged: The packet cannot be decoded, or is in another format than those before.
        """
        try:
            frames = self._stream.codec_context.decode(packet)
        except av.FFmpegError as error:
            raise InputDamaged(f"audio cannot be decoded: {error.strerror}") from error
        for frame in frames:
            found = _format(frame.sample_rate, frame.layout.nb_channels, frame.format.name)
            if not self.format.has(found, frame.time or 0.0):
                raise InputDamaged(
                    f"audio becomes {found} at {frame.time or 0:.2f} s, and has to be of one "
                    "format to be PCM"
                )
            yield self._packet(frame)

    def _packet(self, frame: AudioFrame) -> "Packet[Stream]":
        assert self._stream.time_base is not None
        packet: Packet[Stream] = Packet(self._bytes(frame))
        packet.stream = self._stream
        packet.time_base = self._stream.time_base
        if frame.pts is not None and frame.time_base is not None:
            packet.pts = packet.dts = round(frame.pts * frame.time_base / packet.time_base)
        packet.duration = round(frame.samples / (frame.sample_rate * packet.time_base))
        packet.is_keyframe = True
        return packet

    def _bytes(self, frame: AudioFrame) -> bytes:
        samples: npt.NDArray[Any] = frame.to_ndarray()
        if frame.format.is_planar:
            samples = samples.T
        samples = np.ascontiguousarray(samples)
        if self.codec != "pcm_s24le":
            return samples.tobytes()
        words = samples.astype("<i4").view(np.uint8).reshape(-1, 4)
        if words[:, 0].any():
            raise InputDamaged("audio of 24 bits has more when it is decoded")
        return words[:, 1:].tobytes()


def _format(sample_rate: int, channels: int, samples: str) -> str:
    return f"{sample_rate} Hz, {channels_in_words(channels)}, {samples}"


def _header(container_format: str) -> OutputContainer:
    return av.open(io.BytesIO(), "w", format=container_format)


def _added_by_tag(output: OutputContainer, stream: AudioStream) -> Stream:
    """Add a stream by its tag of Windows, in the way that PyAV leaves open.

    PyAV asks the format whether it has a name of its own for a codec. A stream for PCM, which has
    one, gets the parameters of the copied one from a filter that changes nothing.
    """
    with av.open(os.devnull, "w", format="null") as nowhere:  # which clears the tag of the source
        template = nowhere.add_stream_from_template(stream, opaque=True)
        added = output.add_mux_stream("pcm_s16le")
        BitStreamFilterContext("null", template, added)
        added.time_base = stream.time_base
    return added
