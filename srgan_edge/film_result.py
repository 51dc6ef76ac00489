"""What became of a film, in numbers that can be checked."""

from dataclasses import asdict, dataclass
from typing import Any

from srgan_edge.errors import InputDamaged


@dataclass(frozen=True)
class FilmResult:
    """Of a film of which there is a result. Frames and packets of a file were compared with the
    input's; of a pipe or a live source they were only counted."""

    saved_as: str
    """Where the result is: the target, or `NAME.partial.EXT` of what could be saved."""
    frames: int
    """In the result; in the input too, but for those dropped or lost to damage."""
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
    frames_concealed: int
    """Could not be decoded, and show another frame in their place."""
    left_out: list[str]
    """Streams and metadata of the input that codec or container of the result cannot hold."""
    frames_dropped: int = 0
    """Of a live source: newer ones were upscaled instead."""

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"size": "{}x{}".format(*self.size)}


class FilmDamaged(InputDamaged):
    """The input is damaged, but there is a result of it."""

    def __init__(self, line: str, film: FilmResult) -> None:
        super().__init__(line)
        self.film = film
