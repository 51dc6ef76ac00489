"""Writing image files: what each format can hold, and the file itself, absent or complete.

PNG and TIFF are written as the rows arrive and have no size limit that matters. The encoders of
the other formats need the whole image in memory.
"""

import io
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import Image

from srgan_edge.errors import OutputFailed, UsageError
from srgan_edge.files import open_when_whole
from srgan_edge.image import png, tiff
from srgan_edge.image.colors import COLOR_CHUNK_BYTES, TRANSFER_FUNCTION, lost_in, of_tiff_tags
from srgan_edge.image.metadata import exif_with_dpi
from srgan_edge.image.opening import RESULT_SUFFIXES
from srgan_edge.image.still import Samples, StillImage

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
"""Lowercase suffix of an output -> its format."""

IMAGE_SUFFIXES = frozenset({*SUFFIXES, *RESULT_SUFFIXES})
"""Lowercase suffixes of all images that are read, whichever command reads them."""

MAX_PIXELS_AT_ONCE = 2**28
"""Largest result, in pixels, in a format whose encoder needs it whole: 1 GiB of memory."""

_ROWS_AT_ONCE = 64
_PALETTE_COLORS = 255
_JFIF_UNIT = 13
"""Place in a JPEG of the unit of its density; 0: none, the numbers state the shape of a pixel."""


@dataclass(frozen=True)
class _Container:
    """The features of an output format, and the options with which Pillow writes it."""

    longest_side_px: int
    alpha: bool = True
    gray: bool = True
    profile: bool = True
    exif: bool = True
    longest_exif_bytes: int = 2**32 - 1
    dpi: bool = True
    pixel_shape: bool = False
    deep: bool = False
    animation: bool = False
    most_plays: int = 2**16 - 1
    longest: Fraction = Fraction(0)
    """Longest duration of a frame of an animation in seconds."""
    in_stripes: bool = False
    options: dict[str, Any] = field(default_factory=dict)


_CONTAINERS = {
    "PNG": _Container(
        png.LONGEST_SIDE_PX,
        pixel_shape=True,
        deep=True,
        animation=True,
        most_plays=2**31 - 1,
        longest=Fraction(2**16 - 1),
        in_stripes=True,
    ),
    "TIFF": _Container(tiff.LONGEST_SIDE_PX, pixel_shape=True, deep=True, in_stripes=True),
    "JPEG": _Container(
        65_500,
        alpha=False,
        longest_exif_bytes=2**16 - 3,
        pixel_shape=True,
        options={"quality": 95, "subsampling": 0},
    ),
    "WEBP": _Container(
        16_383,
        gray=False,
        animation=True,
        longest=Fraction(2**24 - 1, 1000),
        options={"quality": 95},
    ),
    "GIF": _Container(
        65_535,
        profile=False,
        exif=False,
        dpi=False,
        animation=True,
        longest=Fraction(2**16 - 1, 100),
    ),
    "BMP": _Container(2**31 - 1, alpha=False, profile=False, exif=False),
}


def write_image(
    path: Path, image: StillImage, option: str = "-o", *, overwrite: bool = True
) -> None:
    """Write a whole image; arguments and errors are those of `image_file`."""
    size = image.width, image.height
    with image_file(path, image, *size, option, overwrite=overwrite) as write:
        write(image)


@contextmanager
def image_file(
    path: Path,
    like: StillImage,
    width: int,
    height: int,
    option: str = "-o",
    *,
    overwrite: bool = True,
    into: Path | None = None,
) -> Iterator[Callable[[StillImage], None]]:
    """Yield a function that takes stripes from the top; `path` appears once all are written.

    JPEG has quality 95 and full color resolution (4:4:4), WebP quality 95, GIF 256 colors, TIFF
    deflate, with 16-bit gray and transparency as RGBA. The file lacks everything that `left_out_by`
    lists.

    Args:
        like: the image, or any of its rows, used for everything but its pixels.
        option: what names another file, for error messages.
        overwrite: replace a file that appears at `path` in the meantime.
        into: see `files.open_when_whole`.

    Raises:
        UsageError: as in `refuse_unwritable`, or a stripe is transparent and the format cannot be.
        OutputFailed: as in `refuse_unwritable`, or the file cannot be written.
    """
    refuse_unwritable(path, like, width, height)
    name = format_from_suffix(path)
    has_alpha = _CONTAINERS[name].alpha and like.alpha is not None
    channels = (1 if like.gray else 3) + has_alpha
    # Pillow, and so many programs, opens no TIFF of deep gray with alpha.
    in_colors = name == "TIFF" and like.is_deep and channels == 2
    if in_colors:
        channels = 4
    with open_when_whole(path, option, overwrite=overwrite, into=into) as file:
        writer = _writer(path, file, like, (width, height), channels)

        def write(stripe: StillImage) -> None:
            if not has_alpha and stripe.is_transparent:
                raise UsageError(_no_transparency(path, name))
            for top in range(0, stripe.height, _ROWS_AT_ONCE):
                rows = stripe.rows(top, top + _ROWS_AT_ONCE)
                values = samples(rows, with_alpha=has_alpha)
                writer.write(values.take([0, 0, 0, 1], axis=2) if in_colors else values)

        yield write
        writer.finish()


def format_from_suffix(path: Path) -> str:
    """Return the format that the suffix of an output selects.

    Raises:
        UsageError: the suffix is not one of `SUFFIXES`.
    """
    try:
        return SUFFIXES[path.suffix.lower()]
    except KeyError:
        possible = ", ".join(SUFFIXES)
        raise UsageError(
            f"{path}: no image format has the suffix {path.suffix!r}; possible: {possible}"
        ) from None


def refuse_unwritable(
    path: Path,
    like: StillImage,
    width: int,
    height: int,
    *,
    transparent: Callable[[], bool] = lambda: False,
    frames: int = 1,
    seconds: Sequence[Fraction] = (),
    plays: int = 1,
) -> None:
    """Check, before any work, that an image can become `path` at `width` x `height` pixels.

    Args:
        like: the image, or any of its rows, used for everything but its pixels.
        transparent: returns True if any pixel is transparent; called only where that matters.
            Alpha that is opaque everywhere counts as none.
        frames: number of frames, more than 1 for an animation.
        seconds: duration of each frame of an animation.
        plays: number of times that it is played; 0: forever.

    Raises:
        UsageError: the suffix is unknown, or its format cannot hold the image's transparency,
            16 bits, color profile, EXIF of that length or frames.
        OutputFailed: the format cannot be that large.
    """
    name = format_from_suffix(path)
    container = _CONTAINERS[name]
    if frames > 1 and not container.animation:
        raise UsageError(
            f"{path}: {name} cannot hold the {frames} frames of an animation; "
            "write .webp, .png or .gif"
        )
    if container.animation and plays > container.most_plays:
        raise UsageError(
            f"{path}: {name} plays an animation at most {container.most_plays} times or forever, "
            f"and this one is played {plays} times; write .png"
        )
    if container.animation and (longest := max(seconds, default=Fraction(0))) > container.longest:
        raise UsageError(
            f"{path}: {name} shows a frame for at most {float(container.longest):g} s, and one "
            f"lasts {float(longest):g} s; {_format_for(longest)}"
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
    if container.exif and len(like.exif or b"") > container.longest_exif_bytes:
        raise UsageError(
            f"{path}: {name} cannot hold {len(like.exif or b'')} bytes of EXIF, "
            f"{container.longest_exif_bytes} is the limit; write .png"
        )
    if lost_in(name, like.stated_colors, has_profile=like.icc_profile is not None):
        stated = dict(like.stated_colors)
        raise UsageError(
            f"{path}: {name} cannot hold what the image states of its colors "
            f"({', '.join(stated)}); write {'.tif' if TRANSFER_FUNCTION in stated else '.png'}"
        )
    if max(width, height) > container.longest_side_px:
        raise OutputFailed(
            f"cannot write {path}: {width}x{height} exceeds the limit of "
            f"{container.longest_side_px} pixels a side of {name}; write .png or .tif"
        )
    if not container.in_stripes and width * height * frames > MAX_PIXELS_AT_ONCE:
        raise OutputFailed(
            f"cannot write {path}: {width * height * frames} pixels of {name} would all be in "
            f"memory, and {MAX_PIXELS_AT_ONCE} is the limit; write .png"
            + (" or .tif" if frames == 1 else "")
        )


def left_out_by(path: Path, like: StillImage) -> Iterator[str]:
    """Yield one line for each thing that the format cannot store and that is acceptable to lose."""
    name = format_from_suffix(path)
    if name == "GIF":
        yield f"colors: {name} has 256 per frame; .webp and .png keep all"
        if like.alpha is not None:
            yield f"shades of transparency: {name} has on and off; .webp and .png keep them"
    if like.exif is not None and not _CONTAINERS[name].exif:
        yield f"EXIF: {name} cannot hold it"
    if like.dpi is not None and not _CONTAINERS[name].dpi:
        yield f"dots per inch: {name} cannot hold them"
    if like.pixel_shape is not None and not _CONTAINERS[name].pixel_shape:
        yield f"pixels that are not square: {name} cannot state it"


def png_chunks(like: StillImage) -> list[tuple[bytes, bytes]]:
    """Return the chunks of a PNG that carry its metadata (ISO 15948, section 11.3)."""
    chunks = []
    if like.icc_profile is not None:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(like.icc_profile)))
    if like.dpi is not None:
        across, down = (round(dots / 0.0254) for dots in like.dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", across, down, 1)))
    elif like.pixel_shape is not None:
        chunks.append((b"pHYs", struct.pack(">IIB", *like.pixel_shape, 0)))
    kept = dict(like.stated_colors)
    chunks += [(name.encode(), kept[name]) for name in COLOR_CHUNK_BYTES if name in kept]
    if like.exif is not None:
        chunks.append((b"eXIf", like.exif.removeprefix(b"Exif\0\0")))
    return chunks


def pillow_options(name: str, like: StillImage) -> dict[str, Any]:
    """Return the options for `Image.save`, including the metadata."""
    kept = {"icc_profile": like.icc_profile, "exif": like.exif, "dpi": like.dpi}
    if name == "WEBP" and like.dpi is not None:
        kept |= {"exif": exif_with_dpi(like.exif, like.dpi), "dpi": None}
    if name == "JPEG" and like.dpi is None and like.pixel_shape is not None:
        kept["pixel_shape"] = like.pixel_shape
    return _CONTAINERS[name].options | {key: it for key, it in kept.items() if it is not None}


def with_palette(image: Image.Image) -> Image.Image:
    """Quantize to the 255 best colors, dithered, plus one for pixels with alpha below 128."""
    colors = image.convert("RGB")
    palette = colors.quantize(_PALETTE_COLORS, Image.Quantize.MEDIANCUT)
    result = colors.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    if image.has_transparency_data:
        hidden = np.asarray(image.getchannel("A")) < 128
        result.paste(_PALETTE_COLORS, mask=Image.fromarray(hidden))
        result.info["transparency"] = _PALETTE_COLORS
    return result


def samples(image: StillImage, *, with_alpha: bool) -> Samples:
    """Return [H, W, channels]: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha."""
    colors = _luma(image.pixels)[..., None] if image.gray else image.pixels
    if not with_alpha:
        return colors
    assert image.alpha is not None
    together: Samples = np.dstack([colors, image.alpha])
    return together


def save_with_pillow(
    image: Image.Image, path: Path, file: BinaryIO, options: dict[str, Any]
) -> None:
    """Write `image` to `file` in the format that `path` names.

    Raises:
        OutputFailed: the format cannot hold the image or its metadata.
    """
    name = format_from_suffix(path)
    shape = options.pop("pixel_shape", None)
    if shape is not None:
        options["dpi"] = _in_16_bits(shape)
    encoded = io.BytesIO()  # through memory, because Pillow loses the reason why a write failed
    try:
        image.save(encoded, name, **options)
    except (OSError, ValueError, OverflowError, RuntimeError, struct.error) as error:
        raise OutputFailed(f"cannot write {path} as {name}: {error}; write .png") from error
    content = encoded.getbuffer()
    if shape is not None:
        content[_JFIF_UNIT] = 0  # Pillow writes inches
    file.write(content)


def _in_16_bits(shape: tuple[int, int]) -> tuple[int, int]:
    """Return numbers of about the same ratio that a JPEG can hold."""
    divisor = math.gcd(*shape) * max(1, max(shape) / math.gcd(*shape) / (2**16 - 1))
    across, down = (max(1, round(number / divisor)) for number in shape)
    return across, down


def _luma(pixels: Samples) -> Samples:
    """Return BT.601 luma in steps of 2**-16: three equal channels become exactly that level."""
    red, green, blue = (pixels[..., channel].astype(np.uint32) for channel in range(3))
    luma = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    return luma.astype(pixels.dtype)


def _format_for(longest: Fraction) -> str:
    """Return the advice for an animation whose longest frame lasts that many seconds."""
    possible = [
        suffix
        for suffix, name in SUFFIXES.items()
        if _CONTAINERS[name].animation and _CONTAINERS[name].longest >= longest
    ]
    if not possible:
        return "no other format shows it longer; shorten the frame first"
    return f"write {' or '.join(possible)}"


def _no_transparency(path: Path, name: str) -> str:
    return f"{path}: {name} cannot hold the image's transparency; write .png or .webp"


class _Writer(Protocol):
    """A file being written: rows [h, W, channels] from the top, then its end."""

    def write(self, rows: Samples) -> None: ...

    def finish(self) -> None: ...


def _writer(
    path: Path, file: BinaryIO, like: StillImage, size: tuple[int, int], channels: int
) -> _Writer:
    bits = 16 if like.is_deep else 8
    match format_from_suffix(path):
        case "PNG":
            return png.PngWriter(file, size, channels, bits, png_chunks(like))
        case "TIFF":
            exif, profile = like.exif, like.icc_profile
            more = of_tiff_tags(dict(like.stated_colors)) | tiff.resolution_tags(like)
            return tiff.TiffWriter(file, size, channels, bits, profile, exif, more)
        case _:
            return _PillowWriter(path, file, like, size, channels)


class _PillowWriter:
    """Collects the image and writes it with Pillow."""

    def __init__(
        self, path: Path, file: BinaryIO, like: StillImage, size: tuple[int, int], channels: int
    ) -> None:
        self._path, self._file, self._like = path, file, like
        self._image = Image.new(("L", "LA", "RGB", "RGBA")[channels - 1], size)
        self._top = 0

    def write(self, rows: Samples) -> None:
        image = Image.fromarray(rows[..., 0] if rows.shape[2] == 1 else rows)
        self._image.paste(image, (0, self._top))
        self._top += image.height

    def finish(self) -> None:
        name = format_from_suffix(self._path)
        image = with_palette(self._image) if name == "GIF" else self._image
        save_with_pillow(image, self._path, self._file, pillow_options(name, self._like))
