"""PIL images of a Python program: unpacked and packed as if they were read from a file.

What Pillow keeps of a file in `info` and in the tags of a TIFF is treated as that of a file: the
orientation is applied, the profile and what else stays true are kept, and what is not is logged.
"""

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image, ImageFile
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import TiffImageFile

from srgan_edge.errors import InputDamaged, UsageError
from srgan_edge.image.colors import means_srgb
from srgan_edge.image.headers import (
    Header,
    bits_per_channel,
    examine,
    kind_of,
    statements_of_tags,
)
from srgan_edge.image.levels import deep_gray
from srgan_edge.image.metadata import (
    dpi_of,
    exif_block,
    exif_of,
    kept_exif,
    rgb_of_cmyk,
    turn_by_pillow,
    usable_profile,
)
from srgan_edge.image.opening import (
    DECODER_ERRORS,
    GRAY_MODES,
    image_count,
    is_deep_gray,
)
from srgan_edge.image.orientation import TURNS, Turn
from srgan_edge.image.statements import Fate, Found, fate_of, left_out, refuse_misleading
from srgan_edge.image.still import Samples, StillImage

PackImage = Callable[[Samples], Image.Image]

_log = logging.getLogger("srgan_edge")

_MODES = GRAY_MODES | {"P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "I", "F"}
_NAME = Path("the PIL image")


def unpacked_pil(image: Image.Image) -> tuple[StillImage, PackImage]:
    """Return a copy of an upright image, and a function that makes one of what became of it.

    Raises:
        UsageError: another mode, or an empty image.
        InputRefused: as in `ImageReader`.
        InputDamaged: the file of the image cannot be decoded.
    """
    mode = image.mode
    deep_and_keyed = is_deep_gray(mode) and "transparency" in image.info  # Pillow has no such mode
    if deep_and_keyed or (not is_deep_gray(mode) and mode not in _MODES):
        raise UsageError(
            f"got a PIL image of mode {mode}{' with transparency' if deep_and_keyed else ''}; "
            "possible: 1, L, LA, La, P, PA, RGB, RGBA, RGBa, CMYK, I;16, I and F; "
            "type image.convert('RGB')"
        )
    if 0 in image.size:
        raise UsageError(f"the image is empty: {image.width}x{image.height} pixels")
    notes: list[str] = []
    if isinstance(image, ImageFile.ImageFile):
        header = _header_of(image)
        _refuse_what_pillow_loses(image, header)
        refuse_misleading(_NAME, kind_of(image), header.found)
        notes += left_out(kind_of(image), header.found)
        if image.format != "MPO" and (others := _images_in(image) - 1):  # its header names them
            notes.append(f"left out: the other {others} of its {others + 1} images")
        if not means_srgb(dict(header.colors), has_profile="icc_profile" in image.info):
            stated = ", ".join(name for name, _ in header.colors)
            notes.append(f"left out: what the file states of its colors ({stated})")
    try:
        turned = turn_by_pillow(image)
        block = _block_of_exif(image, notes)  # before the file is closed
        image.load()
        exif = exif_of(image, [])
        dpi = dpi_of(image, exif)
        turn = TURNS.get(exif.get(Base.Orientation, 1), TURNS[1])
        still, profile = _decoded(image, turn, notes)
    except DECODER_ERRORS as error:
        raise InputDamaged(f"the PIL image is broken or cut short ({error})") from error
    exchanged = turn.exchanged or turned.exchanged
    kept = kept_exif(block, image, notes, exchanged=exchanged)
    info = _kept_info(image.info, exchanged, notes) | {"icc_profile": profile, "exif": kept}
    info["dpi"] = dpi[::-1] if dpi and exchanged else dpi
    info = {key: value for key, value in info.items() if value is not None}
    for note in dict.fromkeys(notes):
        _log.info("%s: %s", _NAME, note)

    def pack(values: Samples) -> Image.Image:
        result = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
        result.info = dict(info)
        return result

    return still, pack


def _images_in(image: ImageFile.ImageFile) -> int:
    """Return the number of images in the file of an image; 1 if they cannot be counted."""
    with suppress(*DECODER_ERRORS):
        return image_count(image)
    return 1


def _decoded(image: Image.Image, turn: Turn, notes: list[str]) -> tuple[StillImage, bytes | None]:
    """Return the upright pixels, and their color profile."""
    profile = image.info.get("icc_profile")
    values: Samples
    if is_deep_gray(image.mode):
        values, gray, has_alpha = deep_gray(_NAME, image), True, False
    else:
        gray, has_alpha = image.mode in GRAY_MODES, image.has_transparency_data
        if image.mode == "CMYK":
            image, profile = rgb_of_cmyk(image, profile, notes)
        elif image.mode == "La":
            image = image.convert("LA")
        values = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
    values = turn.upright(values)
    colors = values[..., :3] if values.shape[2] > 2 else values[..., :1].repeat(3, axis=2)
    alpha = np.array(values[..., -1], order="C") if has_alpha else None
    still = StillImage(np.array(colors, order="C"), alpha, gray=gray)
    return still, usable_profile(profile, "GRAY" if gray else "RGB", notes)


def _kept_info(info: dict[Any, Any], exchanged: bool, notes: list[str]) -> dict[Any, Any]:
    """Return the entries of `info` that are true of the result."""
    kept = {
        key: value for key, value in info.items() if fate_of("PIL info", str(key)).fate is Fate.KEPT
    }
    for key in ("aspect", "resolution"):
        if exchanged and isinstance(kept.get(key), tuple):
            kept[key] = kept[key][::-1]
    lost: Iterable[Found] = [Found(str(key)) for key in info if key not in kept]
    notes += left_out("PIL info", lost)
    return kept


def _block_of_exif(image: Image.Image, notes: list[str]) -> bytes | None:
    """Return the EXIF as the file has it; if the program has changed it, as Pillow writes it."""
    exif, of_file = exif_of(image, notes), Image.Exif()
    if not exif:
        return None
    file = image.fp if isinstance(image, TiffImageFile) else None
    try:
        now = exif.tobytes()
        if isinstance(image, TiffImageFile) and file is not None and not file.closed:
            of_file.bigtiff, of_file.endian = exif.bigtiff, exif.endian
            of_file.load_from_fp(file, image.tag_v2.offset)
        else:
            of_file.load(image.info.get("exif", b""))
        if of_file.tobytes() == now:
            return exif_block(image, notes, cast(BinaryIO | None, file))
    except DECODER_ERRORS as error:
        notes.append(f"left out: EXIF: unreadable ({error})")
        return None
    tables = exif, exif.get_ifd(IFD.Exif) if IFD.Exif in exif else {}
    texts = [it for table in tables for it in table.values() if isinstance(it, str)]
    if not all(map(str.isascii, texts)):
        notes.append("left out: letters beyond ASCII in EXIF, of which Pillow makes ?")
    return now


def _header_of(image: ImageFile.ImageFile) -> Header:
    """Return what the file says if it is still open, as it is until the image is decoded."""
    if isinstance(image, TiffImageFile):
        return Header(statements_of_tags(image), bits_per_channel(image))
    file = image.fp
    if not image.tile or file is None or file.closed or not file.seekable():
        return Header([], bits_per_channel(image))
    place = file.tell()
    try:
        return examine(image, cast(BinaryIO, file))
    except DECODER_ERRORS:
        return Header([], bits_per_channel(image))
    finally:
        file.seek(place)


def _refuse_what_pillow_loses(image: ImageFile.ImageFile, header: Header) -> None:
    lost = ""
    if header.bits > 8 and not is_deep_gray(image.mode):
        lost = f"of {header.bits} bits per channel, of which Pillow decodes 8"
    elif header.crop is not None:
        lost = "with a crop that Pillow ignores"
    elif not header.has_alpha and image.has_transparency_data:
        lost = "with a fourth channel that Pillow takes for transparency"
    if lost:
        raise UsageError(
            f"got a PIL image {lost}; for files type up.file(path), which follows what they say"
        )
