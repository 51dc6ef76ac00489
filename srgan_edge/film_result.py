"""What became of a film, in numbers that can be checked."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class FilmResult:
    """Of a film that is at its place. Frames and packets of a file were compared with the input's;
    of a pipe or a live source they were only counted."""

    frames: int
    """In the result; in the input too, but for those dropped."""
    size: tuple[int, int]
    """Width and height of the result in pixels."""
    frames_resumed: int
    """Upscaled by an earlier run."""
    frames_untimed: int
    """Had no time, and were spaced by their period."""
    frames_nudged: int
    """Shared a time with the one before, and moved right behind it."""
    packets_copied: int
    """Of sound and subtitles."""
    packets_nudged: int
    """Of these, shared a time with the one before, and moved by a tick."""
    left_out: list[str]
    """Streams and metadata of the input that codec or container of the result cannot hold."""
    frames_dropped: int = 0
    """Of a live source: newer ones were upscaled instead."""

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"size": "{}x{}".format(*self.size)}
