"""Parts of a video that are asked for by their times, and how such times are typed."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from srgan_edge.errors import InputRefused, UsageError

TOLERANCE_SECONDS = 1e-6
"""Times are typed with as few digits as people like: a frame that early still counts."""

_TIME = re.compile(r"(?:(?:(\d+):)?([0-5]?\d):)?(\d+(?:\.\d*)?|\.\d+)s?", re.ASCII)
_LONG_TIME = re.compile(r"(\d+(?:\.\d*)?)(h|min|m)", re.ASCII)
_UNIT_SECONDS = {"h": 3600.0, "min": 60.0, "m": 60.0}
_SAMPLE = re.compile(r"([1-9]\d{0,2})x(.+)", re.ASCII)
_LARGEST_SECONDS = 1e6


@dataclass(frozen=True)
class Part:
    """A part of a video, in seconds from its first frame on."""

    start_seconds: float
    duration_seconds: float | None
    """None: up to the end."""


@dataclass(frozen=True)
class Excerpt:
    """A part of a video, or several that become one. Times count from the first frame on.

    It begins with the first frame whose time is not before its start, and ends before the first one
    whose time is not before its end.
    """

    start_seconds: float = 0.0
    duration_seconds: float | None = None
    """Length of the part, or of each sample; None: up to the end."""
    samples: int | None = None
    """Number of samples that are spread over the video, instead of one part from a start on."""

    @classmethod
    def of(cls, start: str | None, duration: str | None, sample: str | None) -> Self | None:
        """Return what `--start`, `--duration` and `--sample` ask for; None if none was typed.

        Raises:
            UsageError: they are not times, or exclude each other.
        """
        if sample is not None:
            if start is not None or duration is not None:
                other = "--duration" if start is None else "--start"
                raise UsageError(f"--sample {sample} and {other}; possible: one of them")
            return cls.of_sample(sample)
        if start is None and duration is None:
            return None
        length = None if duration is None else seconds_of("--duration", duration)
        if length == 0:
            raise UsageError(f"--duration {duration}; possible: above 0")
        return cls(0.0 if start is None else seconds_of("--start", start), length)

    @classmethod
    def of_sample(cls, text: str) -> Self:
        """Return the samples that a text such as `3x2s` stands for.

        Raises:
            UsageError: it is not such a text.
        """
        if not (parts := _SAMPLE.fullmatch(text)):
            raise UsageError(f"--sample {text}; possible: a number and a time, such as 3x2s")
        seconds = seconds_of("--sample", parts[2])
        if seconds == 0:
            raise UsageError(f"--sample {text}; possible: samples longer than 0 s")
        return cls(0.0, seconds, int(parts[1]))

    @property
    def suffix(self) -> str:
        """Text for the names of results, behind that for the scale."""
        return "_excerpt" if self.samples is None else "_sample"

    def parts(self, path: Path, total_seconds: float | None) -> list[Part]:
        """Return the parts of a video of this length; None: the length is not known.

        Raises:
            InputRefused: samples do not fit into the video, or its length is not known.
        """
        if self.samples is None:
            return [Part(self.start_seconds, self.duration_seconds)]
        length = self.duration_seconds or 0.0
        if total_seconds is None:
            raise InputRefused(
                f"{path} does not state its length, so that samples cannot be spread over it; "
                f"type --start 0 --duration {length:g} instead of --sample"
            )
        if self.samples * length > total_seconds:
            raise InputRefused(
                f"{path} lasts {total_seconds:.2f} s, and --sample {self.samples}x{length:g}s is "
                f"{self.samples * length:g} s; {_fewer(length, total_seconds)}"
            )
        distance = total_seconds / self.samples
        starts = (distance * (number + 0.5) - length / 2 for number in range(self.samples))
        return [Part(start, length) for start in starts]


def seconds_of(option: str, text: str) -> float:
    """Return the seconds that a text such as `90`, `1:30`, `0:01:30.5`, `2s` or `2h` stands for.

    Raises:
        UsageError: it stands for no time; the message names the option.
    """
    if long := _LONG_TIME.fullmatch(text.strip()):
        if (total := float(long[1]) * _UNIT_SECONDS[long[2]]) <= _LARGEST_SECONDS:
            return total
    elif found := _TIME.fullmatch(text.strip()):
        hours, minutes, seconds = (float(part or 0) for part in found.groups())
        has_minutes = found[2] is not None
        total = 3600 * hours + 60 * minutes + seconds
        if total <= _LARGEST_SECONDS and not (has_minutes and seconds >= 60):
            return total
    raise UsageError(
        f"{option} {text}; possible: seconds or h:mm:ss, such as 90, 1:30 or 0:01:30.5, or 5m or "
        f"2h, up to {int(_LARGEST_SECONDS / 3600)} hours"
    )


def _fewer(length: float, total_seconds: float) -> str:
    fitting = int(total_seconds / length)
    return f"type --sample {fitting}x{length:g}s" if fitting else "leave --sample out"
