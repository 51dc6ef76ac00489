"""TIFF files written in strips (TIFF 6.0), as BigTIFF where 4 GiB might not be enough.

Pillow encodes an image whole, color only with 8 bits a channel, and either compresses it or keeps
its EXIF, not both.
"""

import zlib
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL.ExifTags import IFD, Base
from PIL.Image import Exif
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from PIL.TiffTags import LONG, LONG8

from srgan_edge.image.still import StillImage

LONGEST_SIDE_PX = 2**32 - 1

_STRIP_BYTES = 1 << 20
_LEVEL = 4  # as in `png`
_CLASSIC_LIMIT_BYTES = 2**32 - 2**26  # deflate may add a little to what it cannot compress
_EXTRA_SAMPLES, _PREDICTOR, _STRIP_BYTE_COUNTS, _ICC_PROFILE = 338, 317, 279, 34675
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
        tags: dict[int, Any] | None = None,
    ) -> None:
        """`size` is (width, height), `tags` are more of them; the others as in `StillImage`."""
        self._file = file
        width, self._rows_left = size
        row_bytes = width * channels * bits // 8
        self._strip_rows = min(max(1, _STRIP_BYTES // row_bytes), size[1])
        strips = -(-size[1] // self._strip_rows)
        big = row_bytes * size[1] > _CLASSIC_LIMIT_BYTES
        self._directory = ImageFileDirectory_v2(
            b"II+\0\x08\0\0\0" + bytes(8) if big else b"II*\0" + bytes(4)
        )
        self._directory.update(_tags(exif))
        self._directory.update(
            {
                Base.ImageWidth: size[0],
                Base.ImageLength: size[1],
                Base.BitsPerSample: (bits,) * channels,
                Base.Compression: _DEFLATE,
                Base.PhotometricInterpretation: 1 if channels < 3 else 2,
                Base.SamplesPerPixel: channels,
                Base.RowsPerStrip: self._strip_rows,
                Base.PlanarConfiguration: 1,
                _PREDICTOR: _DIFFERENCES,
            }
        )
        if channels in (2, 4):
            self._directory[_EXTRA_SAMPLES] = _UNASSOCIATED_ALPHA
        if icc_profile is not None:
            self._directory[_ICC_PROFILE] = icc_profile
        self._directory.update(tags or {})
        self._place_type = LONG8 if big else LONG
        self._offsets, self._lengths = [0], list[int]()
        self._waiting: list[npt.NDArray[Any]] = []
        self._write_directory([0] * strips, [0] * strips)  # filled in by `finish`

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
        """Fill in the directory of strips; the caller closes the file."""
        assert not self._rows_left
        self._file.seek(0)
        self._write_directory(self._offsets[:-1], self._lengths)

    def _write_strip(self, rows: npt.NDArray[Any]) -> None:
        differences = np.diff(rows, axis=1, prepend=np.zeros_like(rows[:, :1]))
        content = zlib.compress(differences.astype(rows.dtype.newbyteorder("<")).data, _LEVEL)
        self._file.write(content)
        self._lengths.append(len(content))
        self._offsets.append(self._offsets[-1] + len(content))

    def _write_directory(self, offsets: list[int], lengths: list[int]) -> None:
        """Write the directory; Pillow counts the offsets from its end."""
        for tag, places in ((Base.StripOffsets, offsets), (_STRIP_BYTE_COUNTS, lengths)):
            self._directory.tagtype[tag] = self._place_type
            self._directory[tag] = tuple(places)
        self._directory.save(self._file)


def resolution_tags(image: StillImage) -> dict[int, Any]:
    """Return the tags that state dots per inch, or the shape of a pixel."""
    numbers, unit = (image.dpi, _INCH) if image.dpi else (image.pixel_shape, _NO_UNIT)
    if numbers is None:
        return {}
    return {Base.XResolution: numbers[0], Base.YResolution: numbers[1], Base.ResolutionUnit: unit}


def _tags(exif: bytes | None) -> dict[int, Any]:
    """Return the main table of EXIF, with the tables that it refers to."""
    if exif is None:
        return {}
    table = Exif()
    table.load(exif)
    tags = {
        tag: table.get_ifd(tag) if tag in (IFD.Exif, IFD.GPSInfo) else table[tag] for tag in table
    }
    if IFD.Interop in tags.get(IFD.Exif, {}):
        tags[IFD.Exif] = tags[IFD.Exif] | {IFD.Interop: table.get_ifd(IFD.Interop)}
    return tags
