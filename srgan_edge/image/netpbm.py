"""PBM, PGM, PPM and PFM files: what their headers say, and their levels if white is not 255.

Pillow scales such levels one by one, in Python, and color to 8 bits.
"""

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ImageFile

from srgan_edge.image.statements import Found

_BEGINNING = re.compile(rb"P[1-6f][ \t\r\n]")
_SCALED = "ppm"
"""Pillow's decoder of binary files whose white is another than 255."""

_PLAIN = "ppm_plain"
_LONGEST_HEADER = 1 << 12
_COMMENT = re.compile(rb"#[ \t]*([^\r\n]*)")


def is_netpbm(head: bytes) -> bool:
    """Return True if a file begins like one of those that are read."""
    return _BEGINNING.match(head) is not None


def white_of(image: ImageFile.ImageFile) -> int:
    """Return the level that is white, from 1 to 65535."""
    if image.tile and image.tile[0].codec_name in (_SCALED, _PLAIN):
        arguments: Any = image.tile[0].args
        return int(arguments[-1]) if isinstance(arguments, tuple) else 1
    return 65535 if image.mode == "I" else 255


def is_scaled(image: ImageFile.ImageFile) -> bool:
    """Return True if `scaled_levels` should decode the image."""
    return bool(image.tile) and image.tile[0].codec_name == _SCALED


def scaled_levels(image: ImageFile.ImageFile, file: BinaryIO) -> npt.NDArray[np.unsignedinteger]:
    """Return [H, W, 1 or 3] of the full range: uint8 for a white up to 255, else uint16.

    Raises:
        ValueError: the file is cut short, or a level is above white.
    """
    white = white_of(image)
    stored = np.dtype(">u2") if white > 255 else np.dtype(np.uint8)
    channels = 1 if image.mode in ("L", "I") else 3
    count = image.width * image.height * channels
    file.seek(image.tile[0].offset)
    content = file.read(count * stored.itemsize)
    if len(content) < count * stored.itemsize:
        raise ValueError("image file is truncated")
    levels = np.frombuffer(content, stored)
    if levels.max() > white:
        raise ValueError("a level is above white")
    highest = 65535 if white > 255 else 255
    table = (np.arange(white + 1, dtype=np.uint64) * highest + white // 2) // white
    scaled = table.astype(np.uint16 if white > 255 else np.uint8)[levels]
    return scaled.reshape(image.height, image.width, channels)


def statements_of_netpbm(image: ImageFile.ImageFile, file: BinaryIO) -> Iterator[Found]:
    """Yield comments, the scale of a PFM, and what lies behind the image."""
    tile = image.tile[0]
    file.seek(0)
    head = file.read(min(tile.offset, _LONGEST_HEADER))
    for comment in _COMMENT.finditer(head):
        yield Found("comment", comment[1].decode("latin-1"))
    if image.info.get("scale", 1.0) != 1.0:
        yield Found("scale", f"{image.info['scale']:g}")
    if tile.codec_name == _PLAIN:
        if white_of(image) > 255 and image.mode == "RGB":
            yield Found("16-bit color as text")
        return
    bits = {"1": 1, "L": 8, "I": 16, "RGB": 24, "F": 32}.get(image.mode, 8)
    if tile.codec_name == _SCALED and white_of(image) > 255:
        bits = 16 if image.mode == "I" else 48
    end = tile.offset + -(-image.width * bits // 8) * image.height
    file.seek(end)
    if (behind := file.read(1 << 16)).strip():
        more = "" if len(behind) < 1 << 16 else " or more"
        yield Found("behind the end", f"{len(behind)} bytes{more}")
