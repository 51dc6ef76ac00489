"""Where a video comes from or goes to that is no file: a pipe, or an address in the network.

Values, and what can be refused before anything is opened.
"""

import os
import re
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from srgan_edge.errors import InputRefused, UsageError

PIPE = "-"
"""How the command line names standard input and output."""

PipeFormat: TypeAlias = Literal["matroska", "nut", "yuv4mpegpipe"]
"""FFmpeg's names of the formats that can be written from start to end without going back."""

PIPED_DEMUXERS = "matroska,nut,yuv4mpegpipe,mpegts"
"""What a pipe may hold: formats that can be read from start to end."""


@dataclass(frozen=True)
class InputPipe:
    """Standard input, or another descriptor that is open for reading."""

    descriptor: int = 0
    name: ClassVar[str] = "standard input"

    def refuse_terminal(self) -> None:
        """Nobody types a video.

        Raises:
            UsageError: it is a terminal.
        """
        if os.isatty(self.descriptor):
            raise UsageError(
                f"{self.name} is a terminal; "
                "type: ffmpeg -i FILE -map 0 -c copy -f nut - | srgan-edge upscale - -o RESULT"
            )


@dataclass(frozen=True)
class OutputPipe:
    """Standard output, or another descriptor that is open for writing, and what goes into it."""

    format: PipeFormat
    descriptor: int = 1
    name: ClassVar[str] = "standard output"

    def refuse_terminal(self) -> None:
        """A video would paint it.

        Raises:
            UsageError: it is a terminal.
        """
        if os.isatty(self.descriptor):
            raise UsageError(
                f"{self.name} is a terminal; type: srgan-edge upscale ... -o - | mpv -"
            )

    def claim(self) -> Self:
        """The same pipe for the video alone: what anybody prints goes to stderr from now on."""
        claimed = replace(self, descriptor=os.dup(self.descriptor))
        os.dup2(2, self.descriptor)
        return claimed


@dataclass(frozen=True)
class Address:
    """A live source: MPEG-TS over UDP or SRT, RTSP, or HLS over HTTP.

    Raises:
        InputRefused: an address of another kind.
    """

    url: str

    def __post_init__(self) -> None:
        scheme = self.scheme
        if scheme not in DEMUXERS:
            raise InputRefused(
                f"{self.name}: no {scheme} here; possible: {', '.join(DEMUXERS)}, or a file"
            )
        if scheme in ("http", "https") and not urlsplit(self.url).path.endswith(".m3u8"):
            raise InputRefused(f"{self.name}: possible over {scheme}: HLS, a name in .m3u8")

    @property
    def scheme(self) -> str:
        return self.url.partition(":")[0].lower()

    @property
    def comes_in_bursts(self) -> bool:
        """HLS: some seconds of video at a time."""
        return self.demuxer == "hls"

    @property
    def name(self) -> str:
        """To be shown: host and path, without the password and the tokens that may be beside."""
        parts = urlsplit(self.url)
        return parts.netloc.rpartition("@")[2] + parts.path

    @property
    def demuxer(self) -> str:
        """The one that its bytes are for; none is guessed from what a stranger sends."""
        return DEMUXERS[self.scheme]


Inlet: TypeAlias = InputPipe | Address

DEMUXERS = {"rtsp": "rtsp", "udp": "mpegts", "srt": "mpegts", "http": "hls", "https": "hls"}
"""Scheme of an address -> FFmpeg's name of what reads it."""


def is_address(text: str) -> bool:
    """Whether an input is an address by its form, and not a file."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None
