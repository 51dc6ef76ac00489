"""A film from a pipe or over the network, read once: how it is opened, and with what it is trusted.

Everything else is as in `video_reader`, of which this is the other end: no going back, no size.
"""

import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Unpack

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from srgan_edge.endpoint import PIPED_DEMUXERS, Address, Inlet, InputPipe
from srgan_edge.errors import InputRefused
from srgan_edge.isolated_reader import ReaderOptions
from srgan_edge.nvdec import Nvdec
from srgan_edge.video import CopiedPacket, decoding_seconds
from srgan_edge.video_limits import OPEN_OPTIONS
from srgan_edge.video_reader import VideoReader

_PROTOCOLS = {
    "rtsp": "rtp,udp,tcp",
    "udp": "udp",
    "srt": "srt",
    "http": "http,https,tcp,tls,crypto",
    "https": "http,https,tcp,tls,crypto",
}
"""What the demuxer of each scheme may open. Never `file`: a playlist is a stranger's."""

_DEMUXERS = {
    "rtsp": "rtsp,rtp,mpegts",
    "udp": "mpegts",
    "srt": "mpegts",
    "http": "hls,mpegts,mov,aac",
    "https": "hls,mpegts,mov,aac",
}
"""What it may find there."""

_ANALYSIS_MICROSECONDS = 2_000_000  # a transport stream says what is in it again and again


class StreamReader(VideoReader):
    """Reads one film from a pipe or an address, as `VideoReader` does a file, on the CPU.

    `reached_end` tells, after an error, whether the input ended by itself.

    Raises:
        InputRefused: nothing there, or nothing that is allowed; and as `VideoReader`.
        InputDamaged: as `VideoReader`.
    """

    def __init__(
        self, inlet: Inlet, *, timeout_seconds: float = 10, **reading: Unpack[ReaderOptions]
    ) -> None:
        """An address may send nothing for `timeout_seconds`, a pipe for ever."""
        self._inlet, self._timeout_seconds = inlet, timeout_seconds
        super().__init__(Path(inlet.name), **reading)

    @property
    def start_seconds(self) -> Fraction:
        """When its first frame or sound is due, by its own clock; to be asked before iterating."""
        first_frame = (self.info.start_pts or 0) * self.info.time_base
        copied = (item.packet for item in self._ahead if isinstance(item, CopiedPacket))
        starts = (decoding_seconds(packet) for packet in copied)
        return min((start for start in starts if start is not None), default=first_frame)

    def _open(self, nvdec: Nvdec | None) -> InputContainer:
        inlet, began = self._inlet, time.monotonic()
        try:
            if isinstance(inlet, InputPipe):
                return _open_pipe(inlet)
            return _open_address(inlet, self._timeout_seconds)
        except av.FFmpegError as error:
            # RTSP makes an error of its own of a time that ran out.
            in_time = time.monotonic() - began < self._timeout_seconds
            raise InputRefused(_why_not(inlet, error, in_time=in_time)) from error

    def _demux(self) -> "Iterator[Packet[Stream]]":
        """Who joins a live source begins at a keyframe: the frames before refer to others."""
        has_begun = isinstance(self._inlet, InputPipe)
        for packet in super()._demux():
            is_video = packet.stream_index == self.video.index
            has_begun = has_begun or (is_video and packet.is_keyframe)
            if has_begun or not is_video:
                yield packet

    def _examine_container(self) -> None:
        """Nothing can be read again. But where a length is stated, it must be there."""
        stated = self.container.duration
        if stated and "matroska" in self._formats:
            self._compare_duration(Fraction(stated, 1_000_000))
        elif stated and "hls" in self._formats:
            self._compare_duration(Fraction(stated + (self.container.start_time or 0), 1_000_000))


def _open_pipe(pipe: InputPipe) -> InputContainer:
    return av.open(
        f"pipe:{pipe.descriptor}",
        options=OPEN_OPTIONS | {"protocol_whitelist": "pipe", "format_whitelist": PIPED_DEMUXERS},
        metadata_errors="replace",
    )


def _open_address(address: Address, timeout_seconds: float) -> InputContainer:
    options = OPEN_OPTIONS | {
        "protocol_whitelist": _PROTOCOLS[address.scheme],
        "format_whitelist": _DEMUXERS[address.scheme],
        "analyzeduration": str(_ANALYSIS_MICROSECONDS),
    }
    if address.scheme == "rtsp":
        options["rtsp_flags"] = "prefer_tcp"  # loses nothing, and passes firewalls
    if address.demuxer == "hls":
        options["seg_max_retry"] = "3"  # afterwards it is passed over
    return av.open(
        address.url,
        format=address.demuxer,
        options=options,
        metadata_errors="replace",
        timeout=timeout_seconds,
    )


def _why_not(inlet: Inlet, error: av.FFmpegError, *, in_time: bool) -> str:
    if isinstance(inlet, Address):
        if not in_time:
            return f"{inlet.name}: nothing came in time"
        if isinstance(error, av.ProtocolNotFoundError):
            return f"{inlet.name}: this FFmpeg was built without {inlet.scheme}"
        return f"{inlet.name}: {error.strerror}"
    return (
        f"{inlet.name} is empty, or no film that can be read once through; possible: "
        f"{PIPED_DEMUXERS.replace(',', ', ')}; type: ffmpeg -i FILE -map 0 -c copy -f nut - | ..."
    )
