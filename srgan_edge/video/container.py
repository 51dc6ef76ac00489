"""The container of a result: its format, the options that FFmpeg writes it with, and its name."""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import av

from srgan_edge.errors import UsageError, quoted
from srgan_edge.files import free_name
from srgan_edge.video.endpoint import OutputPipe
from srgan_edge.video.reader import VideoReader

CONTAINERS: dict[str, str] = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
}
"""Lower-case suffix of an output -> its format. All of these keep exact timestamps."""

_MOST_AHEAD_MICROSECONDS = 1_000_000
"""Longest wait of audio for a frame, or of a frame for a subtitle, before it is written alone."""


@dataclass(frozen=True)
class Container:
    """A container that is going to be written."""

    format: str
    """FFmpeg's name of the muxer."""
    path: Path
    """Final path, or the name of the pipe."""
    is_pipe: bool

    @classmethod
    def of(cls, target: Path | OutputPipe) -> Self:
        """Return the container that the suffix of a path, or the format of a pipe, names.

        Raises:
            UsageError: The suffix is not one of `CONTAINERS`.
        """
        if isinstance(target, OutputPipe):
            return cls(target.format, Path(target.name), is_pipe=True)
        try:
            return cls(CONTAINERS[target.suffix.lower()], target, is_pipe=False)
        except KeyError:
            raise UsageError(
                f"cannot write {target.name}: possible suffixes are {' '.join(CONTAINERS)}"
            ) from None

    @property
    def is_mp4(self) -> bool:
        """True for MP4 and QuickTime, which have edit lists and no negative times."""
        return self.format in ("mp4", "mov")

    @property
    def is_matroska(self) -> bool:
        return self.format == "matroska"

    def another(self, source: Path) -> str:
        """Advise somebody whose streams, those of `source`, do not fit into this container."""
        if self.is_pipe:
            return f"use --pipe-format {'nut' if self.is_matroska else 'matroska'}"
        suffix = source.suffix if self.is_matroska and source.suffix in CONTAINERS else ".mkv"
        return f"use -o {quoted(free_name(self.path, suffix))}"

    def for_codec(self, codec: str) -> str:
        """Advise somebody whose video codec does not fit into this container."""
        if self.is_pipe:
            names = {it: f"--pipe-format {it}" for it in ("matroska", "nut")}
        else:
            suffixes = (".mkv", ".mov", ".mp4")
            names = {CONTAINERS[it]: f"-o {quoted(free_name(self.path, it))}" for it in suffixes}
        return f"use {next((names[it] for it in names if _holds(it, codec)), '-c libx264')}"

    def options(self, reader: VideoReader) -> dict[str, str]:
        """Return FFmpeg's options for the streams of `reader`."""
        options = {"fflags": "+bitexact"}  # the same input gives the same bytes
        if self.is_pipe:  # its reader is waiting
            options["flush_packets"] = "1"
            options["max_interleave_delta"] = str(_MOST_AHEAD_MICROSECONDS)
        if self.format == "yuv4mpegpipe":
            options["strict"] = "unofficial"  # more than 8 bits, which all programs read
        if self.is_mp4:
            # Phones name their tags themselves, and not by the four letters of QuickTime.
            own_names = any("." in key for key in reader.container.metadata)
            # Without `write_colr`, a matrix is stated only beside primaries and transfer.
            names = "+use_metadata_tags" if own_names else ""
            options["movflags"] = f"+faststart+write_colr{names}"
            options["movie_timescale"] = str(_movie_timescale(reader))
        return options


def _holds(container: str, codec: str) -> bool:
    with av.open(io.BytesIO(), "w", format=container) as output:
        try:
            output.add_stream(codec)
        except ValueError:
            return False
    return True


def _movie_timescale(reader: VideoReader) -> int:
    """Return the unit in which MP4 states the start of each stream; its default is 1/1000 s.

    The default would shift a video that starts at frame 1 of 30000/1001 per second. A common unit
    of video and audio is exact, as long as the times in it fit 32 bits. Subtitles, whose unit may
    be a microsecond, start at 0 with an empty one.
    """
    streams = [reader.video, *(it for it in reader.copied if it.type == "audio")]
    video, *_ = bases = [stream.time_base.denominator for stream in streams if stream.time_base]
    seconds = reader.info.duration_seconds or 86400.0
    units = (math.lcm(*bases), video)
    return next((unit for unit in units if unit * max(seconds, 2) < 2**32), 1000)
