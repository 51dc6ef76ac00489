"""Pipes and network addresses as plain values, checked before anything is opened."""

import os
import re
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from srgan_edge.errors import InputRefused, UsageError

PIPE = "-"
"""Name of standard input and output on the command line."""

PipeFormat: TypeAlias = Literal["matroska", "nut", "yuv4mpegpipe"]
"""Formats that can be written from start to end, by FFmpeg's names."""

PIPED_DEMUXERS = "matroska,nut,yuv4mpegpipe,mpegts"
"""Formats accepted from a pipe: those that can be read from start to end."""


@dataclass(frozen=True)
class InputPipe:
    """Standard input, or another descriptor that is open for reading."""

    descriptor: int = 0
    name: ClassVar[str] = "standard input"

    def refuse_terminal(self) -> None:
        """Refuse to wait for a video that nobody will type.

        Raises:
            UsageError: The descriptor is a terminal.
        """
        if os.isatty(self.descriptor):
            raise UsageError(
                f"{self.name} is a terminal; "
                "type: ffmpeg -i FILE -map 0 -c copy -f nut - | srgan-edge upscale - -o RESULT"
            )


@dataclass(frozen=True)
class OutputPipe:
    """Standard output, or another descriptor that is open for writing, and its format."""

    format: PipeFormat
    descriptor: int = 1
    name: ClassVar[str] = "standard output"

    def refuse_terminal(self) -> None:
        """Refuse to write a video to the screen.

        Raises:
            UsageError: The descriptor is a terminal.
        """
        if os.isatty(self.descriptor):
            raise UsageError(
                f"{self.name} is a terminal; type: srgan-edge upscale ... -o - | mpv -"
            )

    def claim(self) -> Self:
        """Return the same pipe for the video alone; all other output goes to stderr from now on."""
        claimed = replace(self, descriptor=os.dup(self.descriptor))
        os.dup2(2, self.descriptor)
        return claimed


@dataclass(frozen=True)
class Address:
    """A live source: MPEG-TS over UDP or SRT, RTSP, or HLS over HTTP.

    Raises:
        InputRefused: The address is of another kind.
    """

    url: str

    def __post_init__(self) -> None:
        scheme = self.scheme
        if scheme not in DEMUXERS:
            raise InputRefused(
                f"{self.name}: {scheme} is not supported; possible: {', '.join(DEMUXERS)}, or a "
                "file: copy it from there first, or mount a folder"
            )
        if scheme in ("http", "https") and not urlsplit(self.url).path.endswith(".m3u8"):
            raise InputRefused(f"{self.name}: possible over {scheme}: HLS, a name in .m3u8")

    @property
    def scheme(self) -> str:
        return self.url.partition(":")[0].lower()

    @property
    def comes_in_bursts(self) -> bool:
        """HLS delivers some seconds of video at a time."""
        return self.demuxer == "hls"

    @property
    def name(self) -> str:
        """Host and path for messages, without passwords and tokens."""
        parts = urlsplit(self.url)
        return parts.netloc.rpartition("@")[2] + parts.path

    @property
    def demuxer(self) -> str:
        """FFmpeg's demuxer for the scheme; it is never guessed from untrusted bytes."""
        return DEMUXERS[self.scheme]


Inlet: TypeAlias = InputPipe | Address

DEMUXERS = {"rtsp": "rtsp", "udp": "mpegts", "srt": "mpegts", "http": "hls", "https": "hls"}
"""Scheme of an address -> FFmpeg's name of its demuxer."""


def is_address(text: str) -> bool:
    """Return True if an input has the form of an address, and is not a file."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None
