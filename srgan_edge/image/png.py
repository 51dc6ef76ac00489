"""PNG files (ISO 15948, third edition): written row by row, and checked for missing parts.

Pillow and FFmpeg encode an image whole, Pillow only with 8 bits a channel, and both on one core.
`PngWriter` filters and compresses blocks of rows side by side and independently, which costs less
than one byte in a hundred; the bytes do not depend on the number of workers. Animations (APNG) are
written frame by frame.

The checks find what Pillow does not report: a missing end, and rows that the file declares but
lacks.
"""

import os
import struct
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

LONGEST_SIDE_PX = 2**31 - 1

_Bytes: TypeAlias = npt.NDArray[np.uint8]

_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""Channels -> gray, gray and alpha, RGB, RGB and alpha."""

_CHANNELS = {color_type: channels for channels, color_type in _COLOR_TYPES.items()} | {3: 1}
"""Color type, including the palette, -> channels."""

_LEVEL = 4
"""Level of zlib: 6 saves 2 to 4 % on enlarged photographs and text, and takes three times as
long."""

_BLOCK_BYTES = 1 << 20
_LONGEST_DELAY = 2**16 - 1
_WORKERS = min(4, os.cpu_count() or 1)
_ZLIB_HEADER, _LAST_BLOCK = b"\x78\x5e", b"\x03\x00"  # RFC 1950; an empty block by RFC 1951

_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""First column and row of each interlacing pass, and the steps between them (section 8.2)."""


class PngWriter:
    """Writes one file: call `start_frame` before each frame of an animation, `write`, `finish`."""

    def __init__(
        self,
        file: BinaryIO,
        size: tuple[int, int],
        channels: int,
        bits: int,
        chunks: Iterable[tuple[bytes, bytes]] = (),
        animation: tuple[int, int] | None = None,
    ) -> None:
        """
        Args:
            size: (width, height) in pixels.
            channels: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha.
            bits: bits per channel, 8 or 16.
            chunks: type and content of further chunks, such as `iCCP`.
            animation: number of frames, and of times they are played; 0: forever.
        """
        self._file = file
        self._size = size
        self._pixel_bytes = channels * bits // 8
        self._sequence: int | None = None if animation is None else 0
        self._is_first = True
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="png")
        self._blocks: deque[Future[tuple[_Bytes, bytes]]] = deque()
        self._above: _Bytes
        self._start_pixels()
        file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, _COLOR_TYPES[channels], 0, 0, 0))
        for name, content in chunks:
            self._chunk(name, content)
        if animation is not None:
            self._chunk(b"acTL", struct.pack(">II", *animation))

    def start_frame(self, seconds: Fraction) -> None:
        """Begin the next frame of an animation, which is shown for `seconds`."""
        if self._sequence:
            self._finish_pixels()
            self._is_first = False
            self._start_pixels()
        delay = seconds.limit_denominator(_LONGEST_DELAY)
        if delay.numerator > _LONGEST_DELAY:
            delay = Fraction(min(round(seconds), _LONGEST_DELAY))
        replaces_all = struct.pack(">IIHHBB", 0, 0, delay.numerator, delay.denominator, 0, 0)
        self._chunk(b"fcTL", self._next() + struct.pack(">II", *self._size) + replaces_all)

    def write(self, rows: npt.NDArray[np.unsignedinteger[Any]]) -> None:
        """Write the next rows, [h, W, channels], uint8 or uint16 according to `bits`."""
        flat = rows.astype(rows.dtype.newbyteorder(">")).view(np.uint8).reshape(len(rows), -1)
        step = max(1, _BLOCK_BYTES // flat.shape[1])
        for top in range(0, len(flat), step):
            block = flat[top : top + step]
            work = self._pool.submit(_compressed, block, self._above, self._pixel_bytes)
            self._blocks.append(work)
            self._above = block[-1]
            if len(self._blocks) > 2 * _WORKERS:
                self._write_block()

    def finish(self) -> None:
        """Write the end of the file; the caller closes it."""
        self._finish_pixels()
        self._pool.shutdown()
        self._chunk(b"IEND", b"")

    def _start_pixels(self) -> None:
        self._above = np.zeros(self._size[0] * self._pixel_bytes, np.uint8)
        self._checksum = 1
        self._begins = _ZLIB_HEADER

    def _write_block(self) -> None:
        filtered, content = self._blocks.popleft().result()
        self._checksum = zlib.adler32(filtered.data, self._checksum)
        self._data(self._begins + content)
        self._begins = b""

    def _finish_pixels(self) -> None:
        while self._blocks:
            self._write_block()
        self._data(_LAST_BLOCK + struct.pack(">I", self._checksum))

    def _data(self, content: bytes) -> None:
        if self._is_first:
            self._chunk(b"IDAT", content)
        else:
            self._chunk(b"fdAT", self._next() + content)

    def _next(self) -> bytes:
        """Return the sequence number of the next chunk of the animation."""
        assert self._sequence is not None
        self._sequence += 1
        return struct.pack(">I", self._sequence - 1)

    def _chunk(self, name: bytes, content: bytes) -> None:
        checksum = zlib.crc32(content, zlib.crc32(name))
        self._file.write(struct.pack(">I", len(content)) + name)
        self._file.write(content)
        self._file.write(struct.pack(">I", checksum))


def has_end(file: BinaryIO) -> bool:
    """Return True if the last chunk is present; other data may follow it."""
    return any(name == b"IEND" for name, _ in chunks_of(file))


def lacks_rows(file: BinaryIO) -> bool:
    """Return True if the pixels end before the last row, which Pillow then leaves black."""
    inflate = zlib.decompressobj()
    missing = None
    for name, length in chunks_of(file):
        if name == b"IHDR":
            missing = _expected_bytes(*struct.unpack(">IIBBxxB", file.read(13)))
        elif name == b"IDAT" and missing is not None:
            content = file.read(length)
            while content and missing > 0:
                missing -= len(inflate.decompress(content, _BLOCK_BYTES))
                content = inflate.unconsumed_tail
    return missing is not None and missing > 0


def misstates_frames(file: BinaryIO) -> bool:
    """Return True if an animation has another number of frames than it states.

    Pillow counts those that it states, and takes a file of one for a still image.
    """
    stated, found = None, 0
    for name, _ in chunks_of(file):
        if name == b"acTL":
            stated = int.from_bytes(file.read(4), "big")
        found += name == b"fcTL"
    return stated is not None and stated != found


def _compressed(rows: _Bytes, above: _Bytes, pixel_bytes: int) -> tuple[_Bytes, bytes]:
    """Return the filtered rows, and their deflate stream: byte-aligned and self-contained."""
    filtered = _filtered(rows, above, pixel_bytes)
    deflate = zlib.compressobj(_LEVEL, wbits=-15, strategy=zlib.Z_FILTERED)
    return filtered, deflate.compress(filtered.data) + deflate.flush(zlib.Z_FULL_FLUSH)


def _filtered(rows: _Bytes, above: _Bytes, pixel_bytes: int) -> _Bytes:
    """Filter each row (section 9) with the smallest sum of differences -> uint8 [h, 1 + n]."""
    up = np.concatenate([above[None], rows[:-1]])
    left, corner = (_shifted(values, pixel_bytes) for values in (rows, up))
    candidates = np.stack([rows, rows - left, rows - up, rows - _paeth(left, up, corner)])
    sums = np.abs(candidates.view(np.int8)).view(np.uint8).sum(axis=2, dtype=np.int64)
    best = sums.argmin(axis=0)
    filters = np.array([0, 1, 2, 4], np.uint8)[best]
    chosen = candidates[best, np.arange(len(rows))]
    return np.concatenate([filters[:, None], chosen], axis=1)


def _shifted(rows: _Bytes, pixel_bytes: int) -> _Bytes:
    """Return the pixel to the left of each, 0 before the first."""
    return np.pad(rows, ((0, 0), (pixel_bytes, 0)))[:, :-pixel_bytes]


def _paeth(left: _Bytes, up: _Bytes, corner: _Bytes) -> _Bytes:
    """Return the neighbor that is nearest to left + up - corner (section 9.4)."""
    to_left = up.astype(np.int16) - corner
    to_up = left.astype(np.int16) - corner
    to_corner = np.abs(to_left + to_up)
    np.abs(to_left, out=to_left)
    np.abs(to_up, out=to_up)
    nearer_up = np.where(to_up <= to_corner, up, corner)
    return np.where((to_left <= to_up) & (to_left <= to_corner), left, nearer_up)


def chunks_of(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield the type and length of each chunk, with the file positioned at its content."""
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


def _expected_bytes(width: int, height: int, depth: int, color_type: int, interlaced: int) -> int:
    """Return the length of all rows with their filter bytes, before compression."""
    bits = depth * _CHANNELS[color_type]

    def rows(width: int, height: int) -> int:
        return height * (1 + (width * bits + 7) // 8) if width else 0

    if not interlaced:
        return rows(width, height)
    return sum(rows(-((x - width) // dx), -((y - height) // dy)) for x, y, dx, dy in _ADAM7)
