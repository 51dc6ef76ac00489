"""What Pillow does not tell of a PNG: whether its end is there, and all the rows it says it has."""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""Of each pass the first column and row, and the steps between them (ISO 15948, section 8.2)."""

_PIECE_BYTES = 1 << 20


def has_end(file: BinaryIO) -> bool:
    """Whether the last chunk is there. Other files may be appended to it."""
    return any(name == b"IEND" for name, _ in _chunks(file))


def lacks_rows(file: BinaryIO) -> bool:
    """Whether the pixels end before the last row, which Pillow then leaves black."""
    inflate = zlib.decompressobj()
    missing = None
    for name, length in _chunks(file):
        if name == b"IHDR":
            missing = _expected_bytes(*struct.unpack(">IIBBxxB", file.read(13)))
        elif name == b"IDAT" and missing is not None:
            content = file.read(length)
            while content and missing > 0:
                missing -= len(inflate.decompress(content, _PIECE_BYTES))
                content = inflate.unconsumed_tail
    return missing is not None and missing > 0


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Type and length of each, with the file at its content."""
    place = 8
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return
        length, name = struct.unpack(">I4s", head)
        yield name, length
        if name == b"IEND":
            return
        place += length + 12


def _expected_bytes(width: int, height: int, depth: int, colour_type: int, interlaced: int) -> int:
    """Of all rows with their filter bytes, before compression."""
    bits = depth * _CHANNELS[colour_type]

    def rows(width: int, height: int) -> int:
        return height * (1 + (width * bits + 7) // 8) if width else 0

    if not interlaced:
        return rows(width, height)
    return sum(rows(-((x - width) // dx), -((y - height) // dy)) for x, y, dx, dy in _ADAM7)
