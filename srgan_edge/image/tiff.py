"""TIFF files written in strips (TIFF 6.0), as BigTIFF where 4 GiB might not be enough.

Pillow encodes an image whole, color only with 8 bits a channel, and either compresses it or keeps
its EXIF, not both. A block of EXIF is a TIFF without pixels, so a file begins with it as it is: its
values stay where maker's notes look for them. In a BigTIFF, tables have another form, and move.
"""

import zlib
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL.ExifTags import Base

from srgan_edge.image.exif import (
    LONG,
    LONG8,
    RATIONAL,
    SHORT,
    UNDEFINED,
    Nested,
    Order,
    Tag,
    exchanged,
    header,
    nested,
    numbers,
    tables_of,
    without_prefix,
    written,
)
from srgan_edge.image.still import StillImage

LONGEST_SIDE_PX = 2**32 - 1

_STRIP_BYTES = 1 << 20
_LEVEL = 4  # as in `png`
_CLASSIC_LIMIT_BYTES = 2**32 - 2**26  # deflate may add a little to what it cannot compress
_EXTRA_SAMPLES, _PREDICTOR, _STRIP_BYTE_COUNTS, _ICC_PROFILE = 338, 317, 279, 34675
_RATIOS = {Base.XResolution, Base.YResolution, Base.WhitePoint, Base.PrimaryChromaticities}
_DEFLATE, _DIFFERENCES, _NO_UNIT, _INCH, _UNASSOCIATED_ALPHA = 8, 2, 1, 2, 2


class TiffWriter:
    """Writes one file: call `write` for its rows, then `finish`."""

    def __init__(
        self,
        file: BinaryIO,
        size: tuple[int, int],
        channels: int,
        bits: int,
        icc_profile: bytes | None = None,
        exif: bytes | None = None,
        tags: dict[int, tuple[float, ...]] | None = None,
    ) -> None:
        """`size` is (width, height), `tags` are more of them; the others as in `StillImage`."""
        self._file = file
        width, self._rows_left = size
        row_bytes = width * channels * bits // 8
        self._strip_rows = min(max(1, _STRIP_BYTES // row_bytes), size[1])
        strips = -(-size[1] // self._strip_rows)
        self._big = row_bytes * size[1] > _CLASSIC_LIMIT_BYTES
        self._order, self._block, found = _of_exif(exif, self._big)
        values: dict[int, tuple[float, ...]] = {
            Base.ImageWidth: (size[0],),
            Base.ImageLength: (size[1],),
            Base.BitsPerSample: (bits,) * channels,
            Base.Compression: (_DEFLATE,),
            Base.PhotometricInterpretation: (1 if channels < 3 else 2,),
            Base.SamplesPerPixel: (channels,),
            Base.RowsPerStrip: (self._strip_rows,),
            Base.PlanarConfiguration: (1,),
            _PREDICTOR: (_DIFFERENCES,),
            **({_EXTRA_SAMPLES: (_UNASSOCIATED_ALPHA,)} if channels in (2, 4) else {}),
            **(tags or {}),
        }
        self._tags = {**found, **{tag: self._numbers(tag, it) for tag, it in values.items()}}
        if icc_profile is not None:
            self._tags[_ICC_PROFILE] = Tag(UNDEFINED, icc_profile)
        self._offsets, self._lengths = [0], list[int]()
        self._waiting: list[npt.NDArray[Any]] = []
        self._start = self._write_tables([0] * strips, [0] * strips)  # filled in by `finish`

    def write(self, rows: npt.NDArray[np.unsignedinteger[Any]]) -> None:
        """Write the next rows, [h, W, channels], uint8 or uint16 according to `bits`."""
        self._waiting.append(rows)
        self._rows_left -= len(rows)
        waiting = sum(map(len, self._waiting))
        if waiting < self._strip_rows and self._rows_left:
            return
        together = np.concatenate(self._waiting)
        whole = waiting if not self._rows_left else waiting - waiting % self._strip_rows
        for top in range(0, whole, self._strip_rows):
            self._write_strip(together[top : min(top + self._strip_rows, whole)])
        self._waiting = [together[whole:].copy()]

    def finish(self) -> None:
        """Fill in the places of the strips; the caller closes the file."""
        assert not self._rows_left
        self._file.seek(0)
        self._write_tables([self._start + it for it in self._offsets[:-1]], self._lengths)

    def _write_strip(self, rows: npt.NDArray[Any]) -> None:
        differences = np.diff(rows, axis=1, prepend=np.zeros_like(rows[:, :1]))
        samples = differences.astype(rows.dtype.newbyteorder(self._order))
        content = zlib.compress(samples.data, _LEVEL)
        self._file.write(content)
        self._lengths.append(len(content))
        self._offsets.append(self._offsets[-1] + len(content))

    def _write_tables(self, offsets: list[int], lengths: list[int]) -> int:
        """Write all that stands before the strips, and return its length."""
        kind = LONG8 if self._big else LONG
        places = ((Base.StripOffsets, offsets), (_STRIP_BYTE_COUNTS, lengths))
        strips = {tag: numbers(self._order, kind, *values) for tag, values in places}
        start = len(header(self._order, 0, big=self._big)) + len(self._block)
        content = header(self._order, start, big=self._big) + self._block
        content += written({**self._tags, **strips}, start, self._order, big=self._big)
        self._file.write(content)
        return len(content)

    def _numbers(self, tag: int, values: tuple[float, ...]) -> Tag:
        whole = SHORT if max(values) < 2**16 else LONG
        return numbers(self._order, RATIONAL if tag in _RATIOS else whole, *values)


def resolution_tags(image: StillImage) -> dict[int, tuple[float, ...]]:
    """Return the tags that state dots per inch, or the shape of a pixel."""
    sides, unit = (image.dpi, _INCH) if image.dpi else (image.pixel_shape, _NO_UNIT)
    if sides is None:
        return {}
    across, down = sides
    return {Base.XResolution: (across,), Base.YResolution: (down,), Base.ResolutionUnit: (unit,)}


def _of_exif(exif: bytes | None, big: bool) -> tuple[Order, bytes, Nested]:
    """Return byte order, what follows the header of a classic TIFF, and tags of the main table."""
    if exif is None:
        return "<", b"", {}
    block = without_prefix(exif)
    tables = tables_of(block)
    if not big:
        rest = block[8:]
        return tables.order, rest + bytes(len(rest) % 2), tables.table(tables.first).tags
    tags = {key: table.tags for key, table in tables.all().items()}
    if tables.order == ">":  # Pillow cannot read such a BigTIFF
        tags = {key: {it: exchanged(tag) for it, tag in tags[key].items()} for key in tags}
    return "<", b"", nested(tags)
