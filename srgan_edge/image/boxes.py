"""Boxes of AVIF (ISO 14496-12) and JPEG 2000 (ISO 15444-1): a length, a name, the content."""

from collections.abc import Iterator
from dataclasses import dataclass

_MOST_BOXES = 10_000


@dataclass(frozen=True)
class Box:
    """One box, and where its content lies in the file."""

    name: bytes
    start: int
    end: int


def boxes_in(content: bytes, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """Yield the boxes between two places; what is no box ends it."""
    end = len(content) if end is None else min(end, len(content))
    for _ in range(_MOST_BOXES):
        length, name = int.from_bytes(content[start : start + 4]), content[start + 4 : start + 8]
        head = 8
        if length == 1:
            length, head = int.from_bytes(content[start + 8 : start + 16]), 16
        if length == 0:
            length = end - start
        if start + 8 > end or length < head or start + length > end:
            return
        yield Box(name, start + head, start + length)
        start += length


def behind_boxes(content: bytes) -> bytes:
    """Return what follows the last box of a file."""
    return content[max((box.end for box in boxes_in(content)), default=len(content)) :]


def content_of(content: bytes, path: tuple[bytes, ...], skipped: int = 0) -> bytes:
    """Return the content of the first box of this path; empty if there is none.

    `skipped` bytes stand before the boxes inside the first of them, its version and flags.
    """
    start, end = 0, len(content)
    for depth, name in enumerate(path):
        found = next((box for box in boxes_in(content, start, end) if box.name == name), None)
        if found is None:
            return b""
        start, end = found.start + (skipped if depth == 0 else 0), found.end
    return content[start:end]
