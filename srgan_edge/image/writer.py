"""StillImage files out: what each format can hold, and the file itself, absent or whole.

PNG and TIFF are written as the rows come, and have no limit of size that matters. Of the others
the whole image is in memory, because that is what their encoders take.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import Image

from srgan_edge.errors import OutputFailed, UsageError
from srgan_edge.files import replace_when_whole
from srgan_edge.image import png as png_writer
from srgan_edge.image import tiff as tiff_writer
from srgan_edge.image.png import PngWriter
from srgan_edge.image.still import Samples, StillImage
from srgan_edge.image.tiff import TiffWriter

SUFFIXES: dict[str, str] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
"""Lower-case suffix of an output -> its format."""

MAX_PIXELS_AT_ONCE = 2**28
"""Largest result in a format whose encoder takes it whole: 1 GiB of memory."""

_ROWS_AT_ONCE = 64
_PALETTE_COLORS = 255


@dataclass(frozen=True)
class _Container:
    """What an output format can hold, and how Pillow is told to write it."""

    longest_side_px: int
    alpha: bool = True
    gray: bool = True
    profile: bool = True
    exif: bool = True
    dpi: bool = True
    deep: bool = False
    animation: bool = False
    in_stripes: bool = False
    options: dict[str, Any] = field(default_factory=dict)


_CONTAINERS = {
    "PNG": _Container(png_writer.LONGEST_SIDE_PX, deep=True, animation=True, in_stripes=True),
    "TIFF": _Container(tiff_writer.LONGEST_SIDE_PX, deep=True, in_stripes=True),
    "JPEG": _Container(65_500, alpha=False, options={"quality": 95, "subsampling": 0}),
    "WEBP": _Container(16_383, gray=False, dpi=False, animation=True, options={"quality": 95}),
    "GIF": _Container(65_535, profile=False, exif=False, dpi=False, animation=True),
    "BMP": _Container(2**31 - 1, alpha=False, profile=False, exif=False),
}


class _Writer(Protocol):
    """A file in the making: rows [h, W, channels] from the top, and an end."""

    def write(self, rows: Samples) -> None: ...

    def finish(self) -> None: ...


def write_image(path: Path, image: StillImage) -> None:
    """Writes a whole image; raises what `image_file` does."""
    with image_file(path, image, image.width, image.height) as write:
        write(image)


@contextmanager
def image_file(
    path: Path, like: StillImage, width: int, height: int
) -> Iterator[Callable[[StillImage], None]]:
    """Yields what takes the stripes of an image from the top; it is at `path` once all are there.

    JPEG has quality 95 and full color resolution (4:4:4), WebP quality 95, GIF 256 colors, TIFF
    deflate. Of what `left_out_by` says the file has nothing.

    Args:
        like: the image, or any of its rows, for all but its pixels.

    Raises:
        UsageError: as `refuse_unwritable`, and a stripe with transparency the format has not.
        OutputFailed: as `refuse_unwritable`, or the file cannot be written.
    """
    refuse_unwritable(path, like, width, height)
    name = format_from_suffix(path)
    has_alpha = _CONTAINERS[name].alpha and like.alpha is not None
    channels = (1 if like.gray else 3) + has_alpha
    with replace_when_whole(path) as partial, partial.open("wb") as file:
        writer = _writer(path, name, file, like, (width, height), channels)

        def write(stripe: StillImage) -> None:
            if not has_alpha and stripe.is_transparent:
                raise UsageError(_no_transparency(path, name))
            for top in range(0, stripe.height, _ROWS_AT_ONCE):
                writer.write(_samples(stripe.rows(top, top + _ROWS_AT_ONCE), channels))

        yield write
        writer.finish()


def format_from_suffix(path: Path) -> str:
    """The format that an output of this name gets.

    Raises:
        UsageError: the suffix is not one of `SUFFIXES`.
    """
    try:
        return SUFFIXES[path.suffix.lower()]
    except KeyError:
        possible = ", ".join(SUFFIXES)
        raise UsageError(
            f"{path}: no image format is called {path.suffix!r}; possible: {possible}"
        ) from None


def refuse_unwritable(
    path: Path,
    like: StillImage,
    width: int,
    height: int,
    *,
    transparent: Callable[[], bool] = lambda: False,
    frames: int = 1,
) -> None:
    """Asks, before any work, whether an image can become `path` at `width` x `height` pixels.

    Args:
        like: the image, or any of its rows, for all but its pixels.
        transparent: whether it is so anywhere; asked where that matters. Alpha that is opaque
            everywhere counts as none.
        frames: images of an animation.

    Raises:
        UsageError: the suffix is unknown, or its format cannot hold the image's transparency,
            16 bits, color profile or frames.
        OutputFailed: the format cannot be that large.
    """
    name = format_from_suffix(path)
    container = _CONTAINERS[name]
    if frames > 1 and not container.animation:
        raise UsageError(
            f"{path}: {name} cannot hold the {frames} frames of an animation; "
            "write .webp, .png or .gif"
        )
    if not container.alpha and transparent():
        raise UsageError(_no_transparency(path, name))
    if like.is_deep and not container.deep:
        raise UsageError(
            f"{path}: {name} cannot hold the image's 16 bits per channel; write .png or .tif"
        )
    if like.icc_profile is not None and not container.profile:
        raise UsageError(f"{path}: {name} cannot hold the image's color profile; write .png")
    if like.icc_profile is not None and like.gray and not container.gray:
        raise UsageError(f"{path}: {name} cannot hold a gray color profile; write .png")
    if max(width, height) > container.longest_side_px:
        raise OutputFailed(
            f"cannot write {path}: {width}x{height} is more than the {container.longest_side_px} "
            f"pixels a side of {name}; write .png or .tif"
        )
    if not container.in_stripes and width * height * frames > MAX_PIXELS_AT_ONCE:
        raise OutputFailed(
            f"cannot write {path}: {width * height * frames} pixels of {name} would all be in "
            f"memory, and {MAX_PIXELS_AT_ONCE} is the limit; write .png"
            + (" or .tif" if frames == 1 else "")
        )


def left_out_by(path: Path, like: StillImage) -> Iterator[str]:
    """What the format of `path` has no place for, and what is not refused for that; a line each."""
    name = format_from_suffix(path)
    if name == "GIF":
        yield f"colors: {name} has 256 a frame; .webp and .png have all"
    if like.exif is not None and not _CONTAINERS[name].exif:
        yield f"EXIF: {name} has none"
    if like.dpi is not None and not _CONTAINERS[name].dpi and like.exif is None:
        yield f"dots per inch: {name} has none"


def png_chunks(like: StillImage) -> list[tuple[bytes, bytes]]:
    """What goes into a PNG besides the pixels (ISO 15948, section 11.3)."""
    chunks = []
    if like.icc_profile is not None:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(like.icc_profile)))
    if like.dpi is not None:
        across, down = (round(dots / 0.0254) for dots in like.dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", across, down, 1)))
    if like.exif is not None:
        chunks.append((b"eXIf", like.exif.removeprefix(b"Exif\0\0")))
    return chunks


def pillow_options(name: str, like: StillImage) -> dict[str, Any]:
    """What Pillow is told besides the pixels."""
    kept = {"icc_profile": like.icc_profile, "exif": like.exif, "dpi": like.dpi}
    return _CONTAINERS[name].options | {key: it for key, it in kept.items() if it is not None}


def with_palette(image: Image.Image) -> Image.Image:
    """The 255 colors that suit it best, dithered, and one for what is rather transparent."""
    colors = image.convert("RGB")
    palette = colors.quantize(_PALETTE_COLORS, Image.Quantize.MEDIANCUT)
    result = colors.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    if image.has_transparency_data:
        hidden = np.asarray(image.getchannel("A")) < 128
        result.paste(_PALETTE_COLORS, mask=Image.fromarray(hidden))
        result.info["transparency"] = _PALETTE_COLORS
    return result


def samples(image: StillImage) -> Samples:
    """[H, W, channels]: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha."""
    channels = (1 if image.gray else 3) + (image.alpha is not None)
    return _samples(image, channels)


def _samples(image: StillImage, channels: int) -> Samples:
    colors = _luma(image.pixels)[..., None] if image.gray else image.pixels
    if channels in (1, 3):
        return colors
    assert image.alpha is not None
    together: Samples = np.dstack([colors, image.alpha])
    return together


def _luma(pixels: Samples) -> Samples:
    """BT.601 in steps of 2**-16, which turns three equal channels into exactly that level."""
    red, green, blue = (pixels[..., channel].astype(np.uint32) for channel in range(3))
    luma = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    return luma.astype(pixels.dtype)


def _writer(
    path: Path, name: str, file: BinaryIO, like: StillImage, size: tuple[int, int], channels: int
) -> _Writer:
    bits = 16 if like.is_deep else 8
    if name == "PNG":
        return PngWriter(file, size, channels, bits, png_chunks(like))
    if name == "TIFF":
        return TiffWriter(file, size, channels, bits, like.icc_profile, like.exif, like.dpi)
    return _PillowWriter(path, name, file, like, size, channels)


class _PillowWriter:
    """Collects the image, and has Pillow write it."""

    def __init__(
        self,
        path: Path,
        name: str,
        file: BinaryIO,
        like: StillImage,
        size: tuple[int, int],
        channels: int,
    ) -> None:
        self._path, self._name, self._file = path, name, file
        self._options = pillow_options(name, like)
        self._image = Image.new(("L", "LA", "RGB", "RGBA")[channels - 1], size)
        self._top = 0

    def write(self, rows: Samples) -> None:
        image = Image.fromarray(rows[..., 0] if rows.shape[2] == 1 else rows)
        self._image.paste(image, (0, self._top))
        self._top += image.height

    def finish(self) -> None:
        # Through memory, because Pillow does not know why a write failed.
        encoded = io.BytesIO()
        image = with_palette(self._image) if self._name == "GIF" else self._image
        try:
            image.save(encoded, self._name, **self._options)
        except (OSError, ValueError, struct.error) as error:
            raise OutputFailed(
                f"cannot write {self._path} as {self._name}: {error}; write .png"
            ) from error
        self._file.write(encoded.getbuffer())


def _no_transparency(path: Path, name: str) -> str:
    return f"{path}: {name} cannot hold the image's transparency; write .png or .webp"
