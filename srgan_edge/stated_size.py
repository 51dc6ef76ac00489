"""How long a file says it is: MP4 and MOV by their boxes, AVI by its chunks. Nothing is decoded."""

import string
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_BOX_LETTERS = frozenset((string.ascii_letters + string.digits + " ").encode())


def missing_bytes(path: Path) -> int:
    """By how many bytes the file is shorter than it says; 0: it is whole, or does not say."""
    size = path.stat().st_size
    with path.open("rb") as file:
        riff = file.read(12)
        if (riff[:4], riff[8:]) == (b"RIFF", b"AVI "):
            ends: Iterator[int] = _riff_ends(file)
        else:
            ends = _box_ends(file)
        return next((end - size for end in ends if end > size), 0)


def _riff_ends(file: BinaryIO) -> Iterator[int]:
    """Long films have several, one behind the other, each of up to 2 GiB (OpenDML)."""
    end = 0
    while (head := _read_at(file, end, 8)).startswith(b"RIFF"):
        end += 8 + int.from_bytes(head[4:], "little")
        yield end


def _box_ends(file: BinaryIO) -> Iterator[int]:
    """Of the outermost boxes: ISO/IEC 14496-12, section 4.2. What is no box ends the search."""
    end = 0
    while len(head := _read_at(file, end, 16)) >= 8 and _BOX_LETTERS.issuperset(head[4:8]):
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        if size < 8:  # 0: up to the end of the file, wherever that is
            return
        end += size
        yield end


def _read_at(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)
