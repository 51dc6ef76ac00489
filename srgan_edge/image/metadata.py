"""Metadata of an image that Pillow has opened: what of it stays true of the upright, larger one.

Color profile, EXIF, dots per inch and pixel shape. Whatever is not kept becomes a note.
"""

import io
import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from PIL import ExifTags, Image, ImageCms
from PIL.AvifImagePlugin import AvifImageFile
from PIL.ExifTags import IFD, Base
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from srgan_edge.image.colors import are_possible
from srgan_edge.image.exif import (
    MAIN,
    PREFIX,
    RATIONAL,
    SHORT,
    Table,
    Tables,
    Tag,
    changed,
    extended,
    header,
    nested,
    numbers,
    tables_of,
    without_prefix,
    written,
)
from srgan_edge.image.headers import tiff_name
from srgan_edge.image.opening import DECODER_ERRORS
from srgan_edge.image.orientation import TURNS, Turn
from srgan_edge.image.statements import Found, left_out
from srgan_edge.image.still import StillImage

_COLOR_TAGS = {Base.TransferFunction, Base.WhitePoint, Base.PrimaryChromaticities}
_KEPT_TAGS = {
    # Tags of the main EXIF table, which in a TIFF also describes where and how the pixels are
    # stored. The tables of the exposure and the place, to which it refers, are kept.
    *(Base.ImageDescription, Base.Make, Base.Model, Base.Software, Base.DateTime, Base.Artist),
    *(Base.Copyright, Base.HostComputer, Base.Orientation, Base.Rating, Base.RatingPercent),
    *(Base.XResolution, Base.YResolution, Base.ResolutionUnit),
    *(Base.XPTitle, Base.XPComment, Base.XPAuthor, Base.XPKeywords, Base.XPSubject),
    *(Base.DocumentName, Base.PageName, IFD.Exif, IFD.GPSInfo, *_COLOR_TAGS),
}
_STORAGE_TAGS = {
    *(Base.NewSubfileType, Base.SubfileType, Base.ImageWidth, Base.ImageLength),
    *(Base.BitsPerSample, Base.Compression, Base.PhotometricInterpretation, Base.StripOffsets),
    *(Base.SamplesPerPixel, Base.RowsPerStrip, Base.StripByteCounts, Base.PlanarConfiguration),
    *(Base.JpegIFOffset, Base.JpegIFByteCount, Base.YCbCrCoefficients, Base.YCbCrSubSampling),
    *(Base.YCbCrPositioning, Base.ReferenceBlackWhite, 59932, 59933),  # padding of Windows
}
"""Tags of the main table that describe how a JPEG and its thumbnail were stored."""

_UNTRUE_TAGS = {
    *(Base.ExifImageWidth, Base.ExifImageHeight, Base.CompressedBitsPerPixel),
    *(Base.FocalPlaneXResolution, Base.FocalPlaneYResolution, Base.FocalPlaneResolutionUnit),
    *(Base.SubjectLocation, 0x9214),  # in pixels, as the area of the subject
}
"""Tags of the exposure that count pixels of the image before it was turned and enlarged."""

_UNTRUE_RELATED = {ExifTags.Interop.RelatedImageWidth, ExifTags.Interop.RelatedImageHeight}

_UNTRUE: dict[int, set[int]] = {
    MAIN: set(_STORAGE_TAGS),
    IFD.Exif: set(_UNTRUE_TAGS),
    IFD.GPSInfo: set(),
    IFD.Interop: set(_UNTRUE_RELATED),
}
"""Table -> tags that describe the old file, which are dropped without a line."""

_NAMES: dict[int, dict[int, str]] = {
    IFD.GPSInfo: ExifTags.GPSTAGS,
    IFD.Interop: {it.value: it.name for it in ExifTags.Interop},
}

_DPI_IN_EXIF = {"WEBP", "AVIF"}
"""Formats without a place of their own for dots per inch."""

_SMALLEST = 1e-3
"""Fewest dots per inch that count as a statement."""

_NO_UNIT, _INCH, _CENTIMETER = 1, 2, 3
"""Resolution units of TIFF and EXIF; without one, the resolutions state the shape of a pixel."""


def usable_profile(profile: bytes | None, space: str, notes: list[str]) -> bytes | None:
    """Return the ICC profile if it describes `space`, else None with a note."""
    if not profile:
        return None
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        found = opened.profile.xcolor_space.strip()
        if space == "CMYK":  # does it contain the table, too?
            ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), "CMYK", "RGB")
    except (*DECODER_ERRORS, ImageCms.PyCMSError):
        notes.append("left out: color profile: unreadable")
        return None
    if found != space:
        notes.append(f"left out: color profile: for {found}, but the pixels are {space}")
        return None
    return profile


def rgb_of_cmyk(
    image: Image.Image, icc_profile: bytes | None, notes: list[str]
) -> tuple[Image.Image, bytes | None]:
    """Convert by the profile; without one, subtract the inks from white, as browsers do."""
    profile = usable_profile(icc_profile, "CMYK", notes)
    if profile is None:
        notes.append("CMYK without a profile becomes RGB as (1 - ink) x (1 - black)")
        return image.convert("RGB"), None
    srgb = _srgb_profile()
    rgb = ImageCms.profileToProfile(
        image,
        io.BytesIO(profile),
        io.BytesIO(srgb),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        "RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert rgb is not None
    notes.append("CMYK becomes sRGB by its color profile")
    return rgb, srgb


def exif_of(image: Image.Image, notes: list[str]) -> Image.Exif:
    """Return the EXIF of an image; empty, with a note, if it cannot be read."""
    try:
        exif = image.getexif()
        if not exif and "exif" in image.info:
            raise ValueError("no tags in it")
        for table in (IFD.Exif, IFD.GPSInfo):
            if table in exif:
                exif.get_ifd(table)
    except DECODER_ERRORS as error:
        notes.append(f"left out: EXIF: unreadable ({error})")
        return Image.Exif()
    return exif


def exif_block(image: Image.Image, notes: list[str], file: BinaryIO | None) -> bytes | None:
    """Return the EXIF of an image as its file has it; None if there is none that can be read.

    Args:
        file: that of the image, if it is a TIFF, whose own tags are EXIF.
    """
    if isinstance(image, TiffImageFile) and file is not None:
        try:
            return _block_of_tiff(image, file, notes)
        except ValueError as error:
            notes.append(f"left out: EXIF: unreadable ({error})")
            return None
    if isinstance(image, AvifImageFile):  # if it is turned, Pillow has written its `info` anew
        block: bytes = image._decoder.get_info()[4]
        return block or None
    if "exif" not in image.info and "Raw profile type exif" in image.info:
        return bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
    return image.info.get("exif")


def kept_exif(
    block: bytes | None, image: Image.Image, notes: list[str], *, exchanged: bool
) -> bytes | None:
    """Return the part of the EXIF that is still true once the image is upright and enlarged.

    With `exchanged`, rows became columns.
    """
    if block is None:
        return None
    is_tiff = isinstance(image, TiffImageFile)  # its tags are statements of the file itself
    block = without_prefix(block)
    try:
        source = tables_of(block)
        tables = source.all()
        kept = {pointer: dict(table.tags) for pointer, table in tables.items()}
        main = kept[MAIN]
        gone = set(main) - (_KEPT_TAGS - (_COLOR_TAGS if is_tiff else set()))
        for pointer, tags in kept.items():
            for tag in set(tags) & (gone if pointer == MAIN else _UNTRUE[pointer]):
                del tags[tag]
        order = source.order
        resolutions = Base.XResolution, Base.YResolution
        if main.get(Base.ResolutionUnit) == numbers(order, SHORT, _NO_UNIT):
            for tag in {*resolutions, Base.ResolutionUnit} & set(main):  # the shape of a pixel
                del main[tag]
        elif exchanged and set(resolutions) <= set(main):
            across, down = resolutions
            main[across], main[down] = main[down], main[across]
        if Base.Orientation in main:
            main[Base.Orientation] = numbers(order, SHORT, 1)
        result = PREFIX + changed(block, tables, kept) if main else None
        notes += _left_out_tags(tables, set() if is_tiff else gone)
        return result
    except ValueError as error:
        notes.append(f"left out: EXIF: unreadable ({error})")
        return None


def _block_of_tiff(image: TiffImageFile, file: BinaryIO, notes: list[str]) -> bytes | None:
    source = Tables(file)
    tables = source.all(image.tag_v2.offset, _KEPT_TAGS)
    notes += _left_out_tags(tables, set())
    if not tables[MAIN].tags:
        return None
    tags = nested({pointer: table.tags for pointer, table in tables.items()})
    start = header(source.order, 8)
    return start + written(tags, len(start), source.order)


def _left_out_tags(tables: Mapping[int, Table], gone: set[int]) -> Iterator[str]:
    """Yield a line for tags that are not kept: those `gone`, and those that cannot be read."""
    found = []
    for pointer, table in tables.items():
        names = _NAMES.get(pointer, {})
        for tag in sorted((table.lost | (gone if pointer == MAIN else set())) - _UNTRUE[pointer]):
            found.append(Found("other tags", names.get(tag) or tiff_name(tag)))
    return left_out("EXIF", found)


def turn_by_pillow(image: Image.Image) -> Turn:
    """Return the turn that Pillow does itself while it decodes: that of a TIFF.

    Afterwards it has forgotten the tag, so of a loaded TIFF that was turned, any that exchanges
    its sides is returned.
    """
    if not isinstance(image, TiffImageFile):
        return TURNS[1]
    tags = image.tag_v2
    sides = tags.get(Base.ImageWidth), tags.get(Base.ImageLength)
    was_exchanged = image.size == sides[::-1] and sides[0] != sides[1]
    return TURNS.get(tags.get(Base.Orientation, 6 if was_exchanged else 1), TURNS[1])


def dpi_of(image: Image.Image, exif: Image.Exif) -> tuple[float, float] | None:
    """Return pixels per inch, across and down; None if the image states none, or nonsense.

    None, too, for a JPEG whose JFIF states pixels of another shape: its EXIF has dots per inch even
    where nobody knows them.
    """
    if isinstance(image, TiffImageFile) and Base.XResolution not in image.tag_v2:
        return None  # Pillow would return 1
    try:
        dpi = _dpi_of_exif(exif) if _has_dpi_in_exif(image) else image.info["dpi"]
        across, down = (float(dots) for dots in dpi)
        shape = pixel_shape_of(image, exif) if _has_shape_in_jfif(image) else None
        if shape is not None and across * shape[1] != down * shape[0]:
            return None
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if all(_SMALLEST <= dots < 1e6 for dots in (across, down)) else None


def exif_with_dpi(exif: bytes | None, dpi: tuple[float, float]) -> bytes:
    """Return EXIF that states dots per inch, for files that have no other place for them.

    Raises:
        ValueError: `exif` is none.
    """
    block = header("<", 8) + written({}, 8, "<") if exif is None else without_prefix(exif)
    order = tables_of(block).order
    stated: dict[int, Tag] = {
        Base.XResolution: numbers(order, RATIONAL, dpi[0]),
        Base.YResolution: numbers(order, RATIONAL, dpi[1]),
        Base.ResolutionUnit: numbers(order, SHORT, _INCH),
    }
    return PREFIX + extended(block, stated)


def _has_dpi_in_exif(image: Image.Image) -> bool:
    """Return True if `info` has none, or what Pillow makes of a JPEG's EXIF.

    That is equal across and down, of any unit, and 72 where nothing is stated.
    """
    if isinstance(image, JpegImageFile):
        return image.info.get("jfif_unit", 0) == 0
    return image.format in _DPI_IN_EXIF


def _has_shape_in_jfif(image: Image.Image) -> bool:
    return isinstance(image, JpegImageFile) and image.info.get("jfif_unit") == 0


def _dpi_of_exif(exif: Image.Exif) -> tuple[float, float]:
    unit = {_INCH: 1.0, _CENTIMETER: 2.54}[exif.get(Base.ResolutionUnit, _INCH)]
    return unit * float(exif[Base.XResolution]), unit * float(exif[Base.YResolution])


def pixel_shape_of(image: Image.Image, exif: Image.Exif) -> tuple[int, int] | None:
    """Return the numbers of pixels on equal lengths across and down, of whatever unit.

    None if pixels are square, or if dots per inch say it.
    """
    info = image.info
    shape = info.get("aspect")
    if exif.get(Base.ResolutionUnit) == _NO_UNIT:
        shape = exif.get(Base.XResolution), exif.get(Base.YResolution)
    if info.get("jfif_unit") == 0 and len(set(info["jfif_density"])) == 2:
        shape = info["jfif_density"]
    if isinstance(image, TiffImageFile) and image.tag_v2.get(Base.ResolutionUnit) == _NO_UNIT:
        shape = info.get("resolution")
    try:
        across, down = (float(number) for number in shape or ())
        whole = across == int(across) and down == int(down)
        numbers = (int(across), int(down)) if whole else (round(1e4 * across), round(1e4 * down))
    except (TypeError, ValueError, ArithmeticError):
        return None
    if numbers[0] == numbers[1] or not all(0 < number < 2**31 for number in numbers):
        return None
    return numbers


def is_possible(image: StillImage) -> bool:
    """Return True if metadata can be written; what another process sends may be anything."""
    sides = *(image.dpi or ()), *(image.pixel_shape or ())
    if not all(_SMALLEST <= side < 2**31 for side in sides) or not are_possible(
        image.stated_colors
    ):
        return False
    try:
        if image.exif is not None:
            tables_of(without_prefix(image.exif)).all()
            exif_with_dpi(image.exif, (72, 72))
    except ValueError:
        return False
    return True


def _srgb_profile() -> bytes:
    """Return an sRGB profile with a fixed date; LittleCMS writes the time into bytes 24 to 35."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    return bytes(profile)
