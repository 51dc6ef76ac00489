"""Opening an image file and checking its header before any pixel is decoded.

Kinds and sizes that cannot be kept exactly, or that exceed the limits, are refused.
"""

import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import AvifImagePlugin, Image, ImageFile
from PIL.ExifTags import Base
from PIL.MpoImagePlugin import MpoImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from srgan_edge.errors import InputDamaged, InputRefused, quoted
from srgan_edge.image.avif import is_avif
from srgan_edge.image.gif import last_block
from srgan_edge.image.headers import png_layout, statements_of_file
from srgan_edge.image.jpeg2000 import is_jpeg2000
from srgan_edge.image.netpbm import is_netpbm
from srgan_edge.image.png import lacks_rows, misstates_frames
from srgan_edge.image.statements import refuse_misleading
from srgan_edge.image.targa import SUFFIXES as TGA_SUFFIXES
from srgan_edge.image.targa import may_be_tga
from srgan_edge.suffixes import heic_refused, suffix_of

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM")
"""The only decoders an input can reach, whatever its name; and TGA, if it says that it is one."""

RESULT_SUFFIXES = {
    **dict.fromkeys((".jfif", ".jpe", ".pjpeg", ".mpo"), ".jpg"),
    **dict.fromkeys((".apng", ".avif", ".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"), ".png"),
    **dict.fromkeys((".pbm", ".pgm", ".ppm", ".pnm", ".pfm", *TGA_SUFFIXES), ".png"),
}
"""Suffixes of files that are read but not written -> that of their results."""

MAX_PIXELS = 100_000_000
"""Largest input, in decoded pixels. Without a limit, a file of a few kilobytes could declare an
image that fills memory."""

RESULT_TO_SOURCE = 16
"""Limit on a result's pixels, as a multiple of the limit on the input's: scale 4, squared."""

GRAY_MODES = {"1", "L", "LA", "La"}
"""Pillow's modes with one channel of 8 bits or fewer, besides transparency."""

DECODER_ERRORS = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError),
    *(AttributeError, RuntimeError, struct.error, zlib.error),
)
"""Exceptions that Pillow raises on broken files."""

_SAMPLE_FORMAT = 339
_SAMPLE_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point"}

_ANIMATED = {"GIF", "WEBP", "PNG", "AVIF"}
_COLOR_MODES = {"P", "PA", "RGB", "RGBA"}

_HEAD_BYTES = 64
_AVIF_THREADS = 4
"""Otherwise Pillow starts one for each core, and memory for all of them counts."""

_BIG_TIFF = b"MM\0+"

_SIGNATURE = re.compile(
    rb"\x89PNG|\xff\xd8\xff|RIFF....WEBP|GIF8[79]a|II[*+]\0|MM\0[*+]|BM....\0\0\0\0", re.DOTALL
)


@contextmanager
def own_limits(max_pixels: int | None = None) -> Iterator[None]:
    """Switch off Pillow's pixel limit, since ours is checked, and its warnings.

    It warns about sizes, and about sloppy metadata in intact images.

    Args:
        max_pixels: limit on whatever Pillow decodes; above it, it raises `DecompressionBombError`.
    """
    theirs = Image.MAX_IMAGE_PIXELS
    # Pillow warns from one limit on, and refuses from twice as much on.
    Image.MAX_IMAGE_PIXELS = None if max_pixels is None else (max_pixels + 1) // 2
    AvifImagePlugin.DEFAULT_MAX_THREADS = min(_AVIF_THREADS, os.cpu_count() or 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = theirs


def open_image(path: Path, file: BinaryIO) -> ImageFile.ImageFile:
    """Open an image of one of `FORMATS` or a TGA, reading its header only.

    Raises:
        InputDamaged: it starts like one of them, but its header cannot be read.
        InputRefused: any other content, or text or a profile that inflates beyond Pillow's limit.
    """
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    try:
        image = Image.open(file, formats=[*FORMATS, *(["TGA"] if may_be_tga(path, file) else [])])
        if image.format == "PPM" and not is_netpbm(head):
            raise SyntaxError("a PPM that only Pillow knows")
        return image
    except DECODER_ERRORS as error:
        _refuse_text_bomb(path, error)
        if head.startswith(_BIG_TIFF):
            raise InputRefused(
                f"{path}: a BigTIFF with its highest bytes first, which Pillow cannot read; "
                f"{_conversion(path)}"
            ) from error
        _refuse_other_tiff(path, file, error)
        for kind, beginning in (("JPEG", b"\xff\xd8\xff"), ("BMP", b"BM")):
            file.seek(0)
            if file.read(len(beginning)) == beginning:
                refuse_misleading(path, kind, statements_of_file(kind, file))
        if _SIGNATURE.match(head) or any(
            begins(head) for begins in (is_avif, is_jpeg2000, is_netpbm)
        ):
            raise InputDamaged(
                f"{path}: starts like an image, but its header is broken, cut short or "
                "unsupported; fetch it again"
            ) from error
        if suffix_of(head) == ".heic":
            raise heic_refused(path) from error
        raise InputRefused(
            f"{path}: not a PNG, JPEG, WebP, GIF, TIFF, BMP, AVIF, JPEG 2000, PNM or TGA image; "
            "convert it to .png first"
        ) from error


def frames_to_keep(
    path: Path, image: ImageFile.ImageFile, bits: int, max_pixels: int, enlargement: float
) -> int:
    """Return the number of frames, 1 for a still image, after checking the header.

    `bits` are those of a channel.

    Raises:
        InputDamaged: its frames cannot be counted.
        InputRefused: several pages, too many pixels, or levels or colors that cannot be kept.
    """
    _refuse_too_large(path, image, 1, max_pixels, enlargement)
    if isinstance(image, TiffImageFile):
        with damage(path):  # either may have any type
            sides = image.tag_v2.get(Base.TileWidth, 0), image.tag_v2.get(Base.TileLength, 0)
            tile = int(sides[0]) * int(sides[1])
        if tile > max_pixels:  # libtiff decodes into a whole one
            raise InputRefused(
                f"{path}: tiles of {tile} pixels in an image of {image.width}x{image.height}, and "
                f"{max_pixels} is the limit; {_conversion(path)}"
            )
    with damage(path):
        images = image_count(image)
    frames = 1
    if image.format in _ANIMATED:
        images = frames = max(1, images - first_frame(image))
    if images > frames:
        raise InputRefused(several_images(path, images))
    _refuse_too_large(path, image, frames, max_pixels, enlargement)
    mode = image.mode
    deep = is_deep_gray(mode) and (bits in (16, 32) or image.format == "JPEG2000")
    deep |= bits == 16 and mode in ("RGB", "RGBA")
    deep |= 8 < bits <= 16 and image.format == "JPEG2000" and mode in ("LA", "RGB", "RGBA")
    if not deep and (bits > 8 or mode not in GRAY_MODES | _COLOR_MODES | {"CMYK"}):
        raise InputRefused(
            f"{path}: has {bits} bits per channel and {mode} colors; possible: gray and RGB with 8 "
            f"or 16 bits, CMYK with 8; {_conversion(path)}"
        )
    by_ffmpeg = deep and not is_deep_gray(mode) and image.format != "PPM"
    if by_ffmpeg and (image.width + 128) * (image.height + 128) >= 2**28:
        raise InputRefused(  # FFmpeg decodes no more, margins included
            f"{path}: {image.width}x{image.height} with 16-bit color; possible: about 268 million "
            f"pixels; crop it, or convert it, for example with: magick {quoted(path)} -depth 8 "
            f"{quoted(Path(f'{path.stem}-8.png'))}"
        )
    if deep and (frames > 1 or first_frame(image)):
        raise InputRefused(f"{path}: an animation with {bits} bits per channel; possible: 8")
    return frames


def load(path: Path, image: ImageFile.ImageFile, file: BinaryIO) -> None:
    """Decode the image, or its first frame; raise one of `DECODER_ERRORS` if that fails.

    Raises:
        InputRefused: a TIFF whose compression this Pillow was built without.
    """
    # Pillow spreads 2- and 4-bit gray over 0..255, but not the level that means transparent.
    step = {"L;2": 85, "L;4": 17}.get(png_layout(image))
    if step is not None and image.format == "PNG" and "transparency" in image.info:
        image.info["transparency"] *= step
    try:
        image.load()
    except OSError as error:  # the same if libtiff lacks the compression and if the file is broken
        compression = image.info.get("compression")
        if isinstance(image, TiffImageFile) and not _has_compression(str(compression)):
            raise InputRefused(
                f"{path}: TIFF compressed by {compression}, which this Pillow cannot decode; "
                f"{_conversion(path)}"
            ) from error
        raise
    # In both formats Pillow leaves rows black that the header declares and the file lacks.
    if _lacks_strips(image) or (image.format == "PNG" and lacks_rows(file)):
        raise ValueError("rows are missing")
    if image.format == "GIF" and last_block(file) == b"!":
        raise ValueError("it ends before its next frame")
    if image.format == "PNG" and misstates_frames(file):
        raise ValueError("it states another number of frames than it has")
    if image.mode == "P" and image.palette is None:
        raise ValueError("the palette is missing")


def is_deep_gray(mode: str) -> bool:
    """Return True for a mode of Pillow with one channel of more than 8 bits."""
    return mode in ("I", "F") or mode.startswith("I;16")


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turn what Pillow raises in the body into `InputDamaged`."""
    try:
        yield
    except DECODER_ERRORS as error:
        _refuse_text_bomb(path, error)
        raise InputDamaged(f"{path}: broken or cut short ({error}); fetch it again") from error


def first_frame(image: ImageFile.ImageFile) -> int:
    """Return how many stills for programs that show no animation Pillow counts before a PNG's."""
    return int(getattr(image, "default_image", False))


def several_images(path: Path, images: int) -> str:
    """Return the message that refuses a file with more than one image."""
    return (
        f"{path}: holds {images} images, and only one can be kept; extract it first, for "
        f"example with: magick {quoted(Path(f'{path}[0]'))} {quoted(Path(f'{path.stem}-0.png'))}"
    )


def _refuse_text_bomb(path: Path, error: BaseException) -> None:
    """Recognize Pillow's own limit on inflated text and profiles, which has no exception class."""
    if "MAX_TEXT_" in str(error):
        raise InputRefused(
            f"{path}: its text or color profile inflates beyond the limit, like a decompression "
            "bomb; if you trust the image, save it again without metadata"
        ) from error


def _refuse_other_tiff(path: Path, file: BinaryIO, error: BaseException) -> None:
    """Raise if the file is a TIFF whose tags can be read, but of a kind that Pillow does not know.

    Floating-point or 64-bit colors, or compression by JPEG XL: nothing is broken in it.
    """
    file.seek(0)
    with suppress(*DECODER_ERRORS):
        tags = ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        offsets = tags.get(Base.StripOffsets, tags.get(Base.TileOffsets, ()))
        lengths = tags.get(Base.StripByteCounts, tags.get(Base.TileByteCounts, ()))
        ends = [start + length for start, length in zip(offsets, lengths, strict=True)]
        if not ends or max(ends) > file.seek(0, os.SEEK_END):
            return
        bits = max(tags.get(Base.BitsPerSample, (1,)))
        kind = _SAMPLE_FORMATS.get(max(tags.get(_SAMPLE_FORMAT, (1,))), "unknown")
        raise InputRefused(
            f"{path}: a TIFF of {tags.get(Base.SamplesPerPixel, 1)} samples with {bits} {kind} "
            f"bits a pixel, compression {tags.get(Base.Compression, 1)}; possible: gray and RGB "
            f"with 8 or 16 bits, and floating-point gray with 32; {_conversion(path)}"
        ) from error


def _conversion(path: Path) -> str:
    """Return the advice to convert an image of an unsupported kind."""
    return (
        f"convert it first, for example with: magick {quoted(path)} -depth 16 -colorspace sRGB "
        f"{quoted(Path(f'{path.stem}-rgb.png'))}"
    )


def _refuse_too_large(
    path: Path, image: ImageFile.ImageFile, frames: int, max_pixels: int, enlargement: float
) -> None:
    size = f"{image.width}x{image.height}" + (f" in {frames} frames" if frames > 1 else "")
    pixels = image.width * image.height * frames
    if pixels > max_pixels:
        raise InputRefused(
            f"{path}: {size} is {pixels} pixels, and {max_pixels} is the limit; if you trust its "
            f"source, type --max-pixels {pixels}"
        )
    of_result, limit = round(pixels * enlargement**2), RESULT_TO_SOURCE * max_pixels
    if of_result > limit:
        raise InputRefused(
            f"{path}: {size} would become {of_result} pixels, and {limit} is the limit; type "
            f"--max-pixels {-(-of_result // RESULT_TO_SOURCE)}, or a smaller -s or --height"
        )


def companion_images(image: ImageFile.ImageFile) -> int:
    """Count the previews and gain maps that cameras append to a JPEG (CIPA DC-007)."""
    return sum(not kind.startswith("Multi-Frame") for kind in _kinds_appended(image))


def image_count(image: ImageFile.ImageFile) -> int:
    """Count the images in the file that are more than companions of the first.

    Of those appended to a JPEG, only views of another moment or angle count.
    """
    if isinstance(image, MpoImageFile):
        return 1 + len(_kinds_appended(image)) - companion_images(image)
    return int(getattr(image, "n_frames", 1))


def _kinds_appended(image: ImageFile.ImageFile) -> list[str]:
    if not isinstance(image, MpoImageFile) or image.mpinfo is None:
        return []
    return [entry["Attribute"]["MPType"] for entry in image.mpinfo[0xB002][1:]]


def _has_compression(name: str) -> bool:
    """Return True for a compression of TIFF that libtiff encodes, and so decodes, too."""
    for mode in ("L", "1"):  # of which JPEG takes one, and the fax codes the other
        with suppress(*DECODER_ERRORS):
            Image.new(mode, (8, 8)).save(BytesIO(), "TIFF", compression=name)
            return True
    return False


def _lacks_strips(image: ImageFile.ImageFile) -> bool:
    if not isinstance(image, TiffImageFile) or Base.StripOffsets not in image.tag_v2:
        return False
    height = image.tag_v2[Base.ImageLength]
    strips = len(image.tag_v2[Base.StripOffsets])
    return bool(strips * image.tag_v2.get(Base.RowsPerStrip, height) < height)
