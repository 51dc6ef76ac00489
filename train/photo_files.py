"""Find the photographs below folders, and decode each to 8-bit RGB or refuse it.

Nothing is repaired: a file that is not a complete photograph is refused with a reason, which the
caller may report or count.
"""

import re
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from srgan_edge.depth import shown_to_network
from srgan_edge.errors import InputDamaged, InputRefused
from srgan_edge.files import files_below
from srgan_edge.image.opening import MAX_PIXELS
from srgan_edge.image.reader import ImageReader
from srgan_edge.image.writer import IMAGE_SUFFIXES
from srgan_edge.pixels import Pixels

Flaw: TypeAlias = Literal["unreadable", "transparent", "tiny"]
"""The reason that a file cannot serve as a photograph to train on."""

_ADVICE = re.compile(r"; [^;]*--max-pixels[^;]*$")
"""Advice on an option that a training does not have."""


class UnusablePhoto(InputRefused):
    """A file is left out; the message is `path: reason`."""

    def __init__(self, path: Path, flaw: Flaw, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.flaw = flaw
        self.reason = reason


def photo_paths(folder: Path) -> list[Path]:
    """Return all files below `folder` that have the suffix of an image, sorted.

    Raises:
        InputRefused: no such folder, or it, or one below it, cannot be read.
    """
    if not folder.is_dir():
        raise InputRefused(f"{folder}: no such folder of photographs")
    paths = (path for path in files_below(folder) if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(path for path in paths if not path.is_dir())


def read_photo(path: Path, crop_px: int) -> Pixels:
    """Return one photograph as `upscale` sees it, uint8 [H, W, 3], both sides at least `crop_px`.

    It is upright, gray has three equal channels, a palette its colors, and CMYK is converted by its
    profile. 16 bits are rounded to 8 (65535 becomes 255). Of an animation, the first image is
    returned.

    Raises:
        UnusablePhoto: whatever `ImageReader` refuses, such as files that are no image, cut short
            or beyond the limits; a GIF, transparent anywhere, or smaller than a crop.
    """
    try:
        with ImageReader(path, MAX_PIXELS) as reader:
            return _decoded(path, reader, crop_px)
    except UnusablePhoto:
        raise
    except (InputRefused, InputDamaged) as error:
        reason = _ADVICE.sub("", str(error).removeprefix(f"{path}: "))
        raise UnusablePhoto(path, "unreadable", reason) from error


def _decoded(path: Path, reader: ImageReader, crop_px: int) -> Pixels:
    width, height = reader.width, reader.height
    if reader.format == "GIF":
        raise UnusablePhoto(path, "unreadable", "a GIF has 256 colors, and is no photograph")
    if min(width, height) < crop_px:
        reason = f"{width}x{height} is smaller than a crop of {crop_px}x{crop_px}"
        raise UnusablePhoto(path, "tiny", reason)
    image = reader.rows(0, height)
    if image.is_transparent:  # such pixels have colors that no camera recorded
        raise UnusablePhoto(path, "transparent", "transparent in places")
    if image.is_deep:
        return shown_to_network(image.pixels.astype(np.uint16, copy=False))
    return image.pixels.astype(np.uint8, copy=False)
