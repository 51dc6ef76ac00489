"""The coding of an image file: the quality of a JPEG by its tables, and the kind of a WebP."""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from PIL import ImageFile

VISIBLE_BELOW = 90
"""JPEG quality below which `edge-real-x4` beats `edge-x4`: see docs/models.md."""

_LUMA = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
"""Table K.1 of ITU-T T.81, from which most encoders scale theirs."""

_MOST_CHUNKS = 64


@dataclass(frozen=True)
class Coding:
    """The compression of a file, for people, and whether it is worth removing."""

    name: str
    """For example `JPEG of quality 75`."""
    is_lossy: bool
    """The compression has visibly changed the pixels."""


def coding_of(image: ImageFile.ImageFile, file: BinaryIO) -> Coding:
    """Return the coding of an opened image; its pixels are not looked at."""
    if tables := getattr(image, "quantization", None):
        quality = jpeg_quality(tables[min(tables)])
        return Coding(f"JPEG of quality {quality}", quality < VISIBLE_BELOW)
    if image.format == "WEBP":
        is_lossy = not _is_lossless_webp(file)
        return Coding("lossy WebP" if is_lossy else "lossless WebP", is_lossy)
    # An AVIF is hardly ever stored without loss.
    return Coding(str(image.format), image.format == "AVIF")


def jpeg_quality(table: Sequence[int]) -> int:
    """Return the quality, 1 to 100, at which libjpeg's luma table is nearest to this one.

    The order of the entries does not matter. Encoders with tables of their own get the quality at
    which libjpeg quantizes about as coarsely.
    """
    wanted = sum(table)
    return min(range(1, 101), key=lambda quality: abs(_luma_sum(quality) - wanted))


def _luma_sum(quality: int) -> int:
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return sum(max(1, min(255, (entry * scale + 50) // 100)) for entry in _LUMA)


def _is_lossless_webp(file: BinaryIO) -> bool:
    """Return True if the first image data of a WebP file are lossless (`VP8L`)."""
    place = file.tell()
    try:
        file.seek(12)
        for _ in range(_MOST_CHUNKS):
            header = file.read(8)
            if len(header) < 8:
                return False
            name, size = struct.unpack("<4sI", header)
            if name in (b"VP8L", b"VP8 "):
                return bool(name == b"VP8L")
            # The first frame of an animation begins inside its chunk, behind 16 bytes.
            file.seek(16 if name == b"ANMF" else size + size % 2, os.SEEK_CUR)
        return False
    finally:
        file.seek(place)
