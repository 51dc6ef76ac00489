"""Find the photographs below folders, and decode each to 8-bit RGB or refuse it.

Nothing is repaired: a file that is not a complete photograph is refused with a reason, which the
caller may report or count.
"""

import stat
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from srgan_edge.errors import InputRefused
from srgan_edge.image.levels import deep_gray
from srgan_edge.image.opening import DECODER_ERRORS, FORMATS, MAX_PIXELS, own_limits
from srgan_edge.image.writer import SUFFIXES
from srgan_edge.pixels import LEVEL, DeepPixels, Pixels

Flaw: TypeAlias = Literal["unreadable", "transparent", "tiny"]
"""The reason that a file cannot serve as a photograph to train on."""

_FORMATS = [name for name in FORMATS if name != "GIF"]
_SUFFIXES = {suffix for suffix, name in SUFFIXES.items() if name in _FORMATS}
"""A GIF of 256 colors is no photograph."""


class UnusablePhoto(InputRefused):
    """A file is left out; the message is `path: reason`."""

    def __init__(self, path: Path, flaw: Flaw, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.flaw = flaw
        self.reason = reason


def photo_paths(folder: Path) -> list[Path]:
    """Return all files below `folder` that have the suffix of an image, sorted.

    Raises:
        InputRefused: no such folder.
    """
    if not folder.is_dir():
        raise InputRefused(f"{folder}: no such folder of photographs")
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    return sorted(path for path in paths if not path.is_dir())


def read_photo(path: Path, crop_px: int) -> Pixels:
    """Return one photograph, upright, uint8 [H, W, 3], both sides at least `crop_px`.

    Orientation (EXIF 2.32, tag 0x0112) is applied. Gray becomes three equal channels and a palette
    its colors; CMYK is converted without its profile. 16-bit gray is rounded to 8 bits (65535
    becomes 255); of 16-bit color Pillow returns the high byte. Floating-point gray ranges from 0 to
    1. Of an animation, the first image is returned.

    Raises:
        UnusablePhoto: not an image, cut short, too many pixels (`image.MAX_PIXELS`), not finite,
            in a color space without a defined RGB, transparent anywhere, or smaller than a crop.
    """
    try:
        # Opening a FIFO would block for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnusablePhoto(path, "unreadable", "not a regular file")
        with own_limits(), Image.open(path, formats=_FORMATS) as image:
            return _decoded(path, image, crop_px)
    except UnusablePhoto:
        raise
    except InputRefused as refusal:
        reason = str(refusal).removeprefix(f"{path}: ")
        raise UnusablePhoto(path, "unreadable", reason) from refusal
    except DECODER_ERRORS as error:
        raise UnusablePhoto(path, "unreadable", _one_line(error)) from error


def _decoded(path: Path, image: ImageFile.ImageFile, crop_px: int) -> Pixels:
    width, height = image.size
    if width * height > MAX_PIXELS:
        reason = f"{width}x{height} pixels, over the limit of {MAX_PIXELS} in total"
        raise UnusablePhoto(path, "unreadable", reason)
    if min(width, height) < crop_px:
        reason = f"{width}x{height} is smaller than a crop of {crop_px}x{crop_px}"
        raise UnusablePhoto(path, "tiny", reason)
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        if "transparency" in upright.info:
            levels = np.asarray(upright).astype(np.uint16)
            if np.any(levels == upright.info["transparency"]):
                raise UnusablePhoto(path, "transparent", "transparent in places")
        return _in_8_bits(deep_gray(path, upright, image))
    if upright.mode == "F":
        return _in_8_bits(deep_gray(path, upright, image))
    if upright.mode == "I":
        raise UnusablePhoto(path, "unreadable", "32-bit levels without a defined white")
    if "transparency" in upright.info or upright.mode in {"LA", "PA", "La", "RGBA", "RGBa"}:
        upright = upright.convert("RGBA")
        if np.asarray(upright)[..., 3].min() < 255:
            # Transparent pixels have colors that no camera recorded.
            raise UnusablePhoto(path, "transparent", "transparent in places")
    return np.array(upright.convert("RGB"))


def _in_8_bits(gray: DeepPixels) -> Pixels:
    """Round uint16 [H, W, 1] to uint8 [H, W, 3]."""
    rounded = ((gray.astype(np.uint32) + LEVEL // 2) // LEVEL).astype(np.uint8)
    return rounded.repeat(3, axis=2)


def _one_line(error: BaseException) -> str:
    """Return the decoder's error without the file's name, which some Pillow messages repeat."""
    if isinstance(error, UnidentifiedImageError):
        return "not a PNG, JPEG, WebP, TIFF or BMP image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
