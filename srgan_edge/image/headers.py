"""Find every statement in the header of an image file, whatever decodes its pixels.

Only those whose values differ from what is assumed without them are yielded; `statements` says
what becomes of each. Nothing is refused here for being broken: the decoder finds that out.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

from PIL import ExifTags, ImageFile, TiffTags
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import TiffImageFile

from srgan_edge.image.avif import AvifHeader, box_of_crop, read_avif
from srgan_edge.image.colors import (
    ColorStatements,
    color_chunks,
    colors_of_bmp,
    colors_of_tiff,
)
from srgan_edge.image.gif import blocks_of
from srgan_edge.image.jpeg import statements_of_jpeg
from srgan_edge.image.jpeg2000 import read_jpeg2000
from srgan_edge.image.netpbm import statements_of_netpbm, white_of
from srgan_edge.image.png import chunks_of
from srgan_edge.image.statements import TIFF_NAMES, Found
from srgan_edge.image.targa import read_tga

_LONGEST_CHUNK = 1 << 16
_LONGEST_PROFILE = 1 << 20
_KEYWORD_BYTES = 80
_MOST = 100_000

_RGB, _MASKS = 0, 3
"""Compressions of a BMP that are none."""

_PHOTOMETRIC, _CMYK, _YCBCR = 262, 5, 6
_INDEPENDENT_JPEG_COEFFICIENTS = (0.299, 0.587, 0.114)
_FULL_RANGE = {2: (0, 255) * 3, _YCBCR: (0, 255, 128, 255, 128, 255)}
_UNIT_RATIO = 49
"""Value of the aspect ratio of a GIF that means square: (49 + 15) / 64."""


@dataclass(frozen=True)
class Header:
    """Statements of an opened file, besides those that Pillow returns."""

    found: list[Found]
    """Statements that change anything."""
    bits: int = 8
    """Bits of a channel; Pillow silently decodes 16-bit color as 8-bit."""
    icc_profile: bytes | None = None
    colors: ColorStatements = ()
    pixel_shape: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] | None = None
    """Left, top, right and bottom of the part to show, before the image is turned."""
    has_alpha: bool = True
    """False if a fourth channel is none of transparency."""


def examine(image: ImageFile.ImageFile, file: BinaryIO) -> Header:
    """Return all that a file says, before its pixels are decoded."""
    bits, profile = bits_per_channel(image), image.info.get("icc_profile")
    if isinstance(image, TiffImageFile):
        return Header(statements_of_tags(image), bits, profile, tuple(colors_of_tiff(image)))
    kind = kind_of(image)
    file.seek(0)
    match kind:
        case "AVIF":
            return _header_of_avif(read_avif(file.read()), image, profile)
        case "JPEG2000":
            jpeg2000 = read_jpeg2000(file.read())
            return Header(jpeg2000.found, jpeg2000.bits, jpeg2000.icc_profile)
        case "PPM":
            found = list(statements_of_netpbm(image, file))
            return Header(found, {"F": 32}.get(image.mode, 16 if white_of(image) > 255 else 8))
        case "TGA":
            tga = read_tga(file)
            return Header(
                tga.found,
                colors=tga.colors,
                pixel_shape=tga.pixel_shape,
                has_alpha=tga.has_alpha,
            )
    found = statements_of_file(kind, file)
    match kind:
        case "PNG":
            return Header(found, bits, profile, tuple(color_chunks(file)))
        case "BMP":
            return Header(found, bits, profile_of_bmp(file), tuple(colors_of_bmp(file)))
        case "GIF":
            return Header(found, bits, profile, pixel_shape=pixel_shape_of_gif(file))
        case _:
            return Header(found, bits, profile)


def bits_per_channel(image: ImageFile.ImageFile) -> int:
    """Return the depth that the header of a PNG or a TIFF declares, 8 for others."""
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(Base.BitsPerSample, (1,))))
    return 16 if image.format == "PNG" and ";16" in png_layout(image) else 8


def png_layout(image: ImageFile.ImageFile) -> str:
    """Return the layout from which Pillow unpacks a PNG, for example `RGB;16B` or `L;2`."""
    return str(image.tile[0].args) if image.tile else ""


def _header_of_avif(avif: AvifHeader, image: ImageFile.ImageFile, profile: bytes | None) -> Header:
    found, crop = avif.found, None
    if avif.crop is not None:
        crop = box_of_crop(avif.crop, *image.size)
        if crop is None or getattr(image, "n_frames", 1) > 1:
            found = [*found, Found("clap of parts")]
    if getattr(image, "n_frames", 1) > 1:
        found = [*found, Found("plays")]
    return Header(found, 8, profile, avif.colors, avif.pixel_shape, crop)


def statements_of_file(kind: str, file: BinaryIO) -> list[Found]:
    """Return the statements of a file of one of these formats, which need not be opened."""
    match kind:
        case "PNG":
            return list(_of_png(file))
        case "JPEG":
            file.seek(0)
            return list(statements_of_jpeg(file.read()))
        case "WEBP":
            return list(_of_webp(file))
        case "GIF":
            return list(_of_gif(file))
        case "BMP":
            return list(_of_bmp(file))
        case other:
            return [Found(f"anything in the header of a {other}")]


def kind_of(image: ImageFile.ImageFile) -> str:
    """Return the format as `statements` calls it; a JPEG with further images is a JPEG."""
    return "JPEG" if image.format == "MPO" else str(image.format)


def profile_of_bmp(file: BinaryIO) -> bytes | None:
    """Return the color profile in a BMP of version 5, which Pillow does not read."""
    file.seek(14)
    header = file.read(124)
    if len(header) < 124 or header[0] < 124 or header[56:60] != b"DEBM":
        return None
    start, length = struct.unpack("<II", header[112:120])
    if length > _LONGEST_PROFILE:
        return b"too long"  # no profile, which is reported as unreadable
    file.seek(14 + start)
    return file.read(length)


def pixel_shape_of_gif(file: BinaryIO) -> tuple[int, int] | None:
    """Return pixels across and down on equal lengths; None if they are square."""
    file.seek(0)
    ratio = file.read(13)[12:]
    if not ratio or ratio[0] in (0, _UNIT_RATIO):
        return None
    return 64, ratio[0] + 15


def _of_png(file: BinaryIO) -> Iterator[Found]:
    depth, transparent = 8, False
    for chunk, length in chunks_of(file):
        name = chunk.decode("latin-1")
        if name == "IEND":
            yield from _behind(file, file.tell() + length + 4)
        content = file.read(min(length, _LONGEST_CHUNK)) if name != "IDAT" else b""
        detail = ""
        if name == "IHDR" and len(content) == 13:
            depth, transparent = content[8], bool(content[9] & 4)
            depth = 8 if content[9] == 3 else depth
        transparent |= name == "tRNS"
        if name == "sBIT" and set(content) <= {depth}:
            continue  # all of them
        if name == "bKGD" and not transparent:
            continue  # it shows nowhere
        if name in ("tEXt", "zTXt", "iTXt"):
            keyword = content[:_KEYWORD_BYTES].split(b"\0")[0].decode("latin-1")
            name, detail = ("XMP", "") if keyword == "XML:com.adobe.xmp" else (name, keyword)
        elif name in ("sBIT", "sTER"):
            detail = ", ".join(map(str, content))
        yield Found(name, detail)


def statements_of_tags(image: TiffImageFile) -> list[Found]:
    """Return the statements of a TIFF, for which its file need not be open any more."""
    return list(_of_tiff(image))


def _of_tiff(image: TiffImageFile) -> Iterator[Found]:
    tags = image.tag_v2
    photometric = tags.get(_PHOTOMETRIC)
    for tag in sorted(tags):
        name = tiff_name(tag)
        value: Any = tags[tag]
        values = value if isinstance(value, tuple) else (value,)
        if _says_nothing(name, values, photometric, image):
            continue
        detail = ""
        if name.startswith("GDAL_NO") or isinstance(value, (int, float)):
            detail = str(value)
        elif all(isinstance(one, (int, float)) for one in values[:8]):
            detail = " ".join(f"{one:g}" for one in values[:8])
        yield Found(name, detail if name not in ("SubIFDs",) else "")


def tiff_name(tag: int) -> str:
    """Return the name of a tag of a TIFF or of EXIF, as `statements` calls it."""
    if tag in TIFF_NAMES:
        return TIFF_NAMES[tag]
    name = TiffTags.lookup(tag).name
    if name == "unknown" or tag == Base.Thresholding:
        name = ExifTags.TAGS.get(tag, f"tag {tag}")
    return name


def _says_nothing(
    name: str, values: tuple[Any, ...], photometric: int | None, image: TiffImageFile
) -> bool:
    """Return True for the value that is assumed where a tag is absent."""
    bits = image.tag_v2.get(Base.BitsPerSample, (1,))
    white = 2 ** max(bits) - 1
    is_jpeg = photometric == _YCBCR and "jpeg" in str(image.info.get("compression"))
    match name:
        case "NewSubfileType":
            return not values[0] & 1
        case "SubfileType":
            return values[0] != 2
        case "SampleFormat":  # 32-bit integers of either kind are checked level by level
            return set(values) <= {1, 3, 4} or (set(values) == {2} and max(bits) == 32)
        case "ExtraSamples":
            return len(values) == 1 and values[0] in (1, 2, 999)
        case "InkSet":
            return photometric != _CMYK or values[0] == 1
        case "NumberOfInks":
            return photometric != _CMYK or values[0] == 4
        case "DotRange":
            return photometric != _CMYK or tuple(values) == (0, white) * (len(values) // 2)
        case "ReferenceBlackWhite":
            honored = photometric == _YCBCR and not is_jpeg
            usual = _FULL_RANGE.get(photometric or 0)
            return honored or usual is None or _close(values, usual)
        case "YCbCrCoefficients":
            return not is_jpeg or _close(values, _INDEPENDENT_JPEG_COEFFICIENTS)
        case "Indexed" | "OPIProxy":
            return not values[0] or photometric == 3
        case "SMinSampleValue":
            return set(values) == {0}
        case "SMaxSampleValue":
            return set(values) <= {white, 1.0}
        case "GrayResponseUnit":
            return Base.GrayResponseCurve not in image.tag_v2
    return False


def _close(values: tuple[Any, ...], usual: tuple[float, ...]) -> bool:
    return len(values) == len(usual) and all(
        abs(float(a) - b) < 0.002 for a, b in zip(values, usual, strict=True)
    )


def _of_webp(file: BinaryIO) -> Iterator[Found]:
    file.seek(4)
    head = file.read(8)
    if len(head) < 8:
        return
    end, place = 8 + int.from_bytes(head[:4], "little"), 12
    size = file.seek(0, 2)
    for _ in range(_MOST):
        if place + 8 > min(end, size):
            break
        file.seek(place)
        name, length = struct.unpack("<4sI", file.read(8))
        yield Found(name.decode("latin-1").strip())
        place += 8 + length + length % 2
    yield from _behind(file, end + end % 2)


def _of_gif(file: BinaryIO) -> Iterator[Found]:
    """Walk over the blocks of a GIF (89a specification, section 18 and following)."""
    file.seek(0)
    screen = file.read(13)
    if len(screen) < 13:
        return
    if pixel_shape_of_gif(file) is not None:
        yield Found("pixel shape", f"{screen[12] + 15}/64")
    for block in islice(blocks_of(file), _MOST):
        if block == b"!":
            yield from _of_extension(file)
        elif block == b";":
            yield from _behind(file, file.tell(), padding=b"\0;")


def _of_extension(file: BinaryIO) -> Iterator[Found]:
    label = file.read(1)
    length = file.read(1)
    block = file.read(length[0]) if length else b""
    if label == b"\xf9":
        if block and block[0] & 2:
            yield Found("user input")
    elif label == b"\xfe":
        yield Found("comment", block.decode("latin-1"))
    elif label == b"\x01":
        yield Found("plain text")
    elif label == b"\xff":
        yield Found(block[:11].decode("latin-1").strip("\0 "))
    else:
        yield Found(f"extension {label.hex()}")


def _behind(file: BinaryIO, end: int, *, padding: bytes = b"\0") -> Iterator[Found]:
    """Yield a statement if a file has more than padding behind the end of its image."""
    size = file.seek(0, os.SEEK_END)
    file.seek(min(end, size))
    if file.read(_LONGEST_CHUNK).strip(padding):
        yield Found("behind the end", f"{size - end} bytes")


def _of_bmp(file: BinaryIO) -> Iterator[Found]:
    file.seek(0)
    head = file.read(14 + 124)
    header = head[14:]
    if len(header) < 12:
        return
    if header[0] >= 40 and len(header) >= 40:
        compression = int.from_bytes(header[16:20], "little")
        if compression in (4, 5):
            yield Found("JPEG or PNG inside")
        elif compression > 3:
            yield Found("compression of others", str(compression))
    if header[0] >= 108 and header[56:60] == b"KNIL":
        yield Found("linked profile")
    yield from _behind(file, _end_of_bmp(head))


def _end_of_bmp(head: bytes) -> int:
    """Return the end of all that the headers of a BMP speak of.

    Programs state its length too short, and that of its pixels as 0 if they are not compressed.
    """
    stated, start = struct.unpack("<I4xI", head[2:14])
    header, compression, pixel_bytes = head[14:], _RGB, 0
    if header[0] == 12:
        width, height, bits = struct.unpack("<HHxxH", header[4:12])
    else:
        values = struct.unpack("<iixxHII", header[4 : min(24, header[0])].ljust(20, b"\0"))
        width, height, bits, compression, pixel_bytes = values
    if compression in (_RGB, _MASKS):
        pixel_bytes = (abs(width) * bits + 31) // 32 * 4 * abs(height)
    ends = [stated, start + pixel_bytes]
    if len(header) == 124 and header[0] >= 124:
        place, length = struct.unpack("<II", header[112:120])
        ends.append(14 + place + length if length else 0)
    return max(ends)
