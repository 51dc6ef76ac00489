"""Statements of what the colors mean, in files without a color profile.

They travel with the pixels as (name, bytes). Most are chunks of a PNG (ISO 15948, third edition);
what TIFF and BMP state in other words is translated into those where there is one.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, TypeAlias

import numpy as np
from PIL import ExifTags, Image
from PIL.ExifTags import IFD
from PIL.TiffImagePlugin import TiffImageFile

from srgan_edge.image.png import chunks_of

ColorStatements: TypeAlias = tuple[tuple[str, bytes], ...]

COLOR_CHUNK_BYTES = {"cICP": 4, "mDCV": 24, "cLLI": 8, "sRGB": 1, "gAMA": 4, "cHRM": 32}
"""Chunks of a PNG that state what the colors mean, in the order in which they are written."""

TRANSFER_FUNCTION = "TransferFunction"
"""Tag 301 of a TIFF, as little-endian numbers of 16 bits: linear light of each level."""

INTEROPERABILITY = "EXIF InteropIndex"
"""EXIF states that the colors are Adobe RGB (DCF 2.0); it is in the EXIF itself, too."""

HELD_BY = {
    **{name: {"PNG"} for name in COLOR_CHUNK_BYTES},
    "cHRM": {"PNG", "TIFF"},
    TRANSFER_FUNCTION: {"TIFF"},
    INTEROPERABILITY: {"PNG", "TIFF", "JPEG", "WEBP"},
}
"""Statement -> formats that can hold it."""

_CURVE_BYTES = tuple(2 * channels * levels for channels in (1, 3) for levels in (2**8, 2**16))
_SIZES = {
    **{name: (size,) for name, size in COLOR_CHUNK_BYTES.items()},
    TRANSFER_FUNCTION: _CURVE_BYTES,
    INTEROPERABILITY: (3,),
}
"""Statement -> its possible sizes in bytes."""

_SRGB_CODE_POINTS = bytes([1, 13, 0, 1])
_SRGB_GAMMA = 45455
_SRGB_PRIMARIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
"""gAMA and cHRM of sRGB, in units of 1/100,000."""

_UNIT = 100_000
_ADOBE_RGB = "R03"
_WHITE_POINT, _PRIMARIES, _TRANSFER = 318, 319, 301


def color_chunks(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield the chunks of a PNG that state the meaning of the colors.

    Of these and a color profile, cICP counts before the profile, that before sRGB, and that before
    gAMA and cHRM (section 4.3). A chunk of another size than it must have is left out.
    """
    seen = set()
    for name, length in chunks_of(file):
        if name == b"IDAT":
            return
        if length == COLOR_CHUNK_BYTES.get(text := name.decode("latin-1")) and text not in seen:
            seen.add(text)
            if len(content := file.read(length)) == length:
                yield text, content


def colors_of_tiff(image: TiffImageFile) -> Iterator[tuple[str, bytes]]:
    """Yield white point and primaries of a TIFF as cHRM, and its transfer function."""
    tags = image.tag_v2
    points = (*tags.get(_WHITE_POINT, ()), *tags.get(_PRIMARIES, ()))
    if chrm := chromaticities([float(point) for point in points]):
        yield "cHRM", chrm
    function = tags.get(_TRANSFER, ())
    if 2 * len(function) in _CURVE_BYTES:
        yield TRANSFER_FUNCTION, np.array(function, "<u2").tobytes()


def colors_of_bmp(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield primaries (CIE XYZ) and gamma of a BMP of version 4 or 5 as cHRM and gAMA."""
    file.seek(14)
    header = file.read(108)
    if len(header) < 108 or header[0] < 108 or header[56:60] != bytes(4):
        return
    ends = np.frombuffer(header[60:96], "<i4").reshape(3, 3) / 2**30
    white = ends.sum(axis=0)
    if (ends.sum(axis=1) <= 0).any():
        return  # all zero, as many programs write it: nothing is stated
    points = [point[i] / point.sum() for point in (white, *ends) for i in (0, 1)]
    if chrm := chromaticities(points):
        yield "cHRM", chrm
    gammas = np.frombuffer(header[96:108], "<u4") / 2**16
    if gammas.all() and np.ptp(gammas) < 0.001:
        yield "gAMA", round(_UNIT / float(gammas[0])).to_bytes(4)


def colors_of_exif(exif: Image.Exif) -> Iterator[tuple[str, bytes]]:
    """Yield a statement if the EXIF of a camera says that the colors are Adobe RGB."""
    if IFD.Exif in exif and IFD.Interop in exif.get_ifd(IFD.Exif):
        index = exif.get_ifd(IFD.Interop).get(ExifTags.Interop.InteropIndex)
        if str(index).strip("\0 ") == _ADOBE_RGB:
            yield INTEROPERABILITY, _ADOBE_RGB.encode()


def are_possible(colors: ColorStatements) -> bool:
    """Return True if each has a known name and a size that it can have."""
    return len(dict(colors)) == len(colors) and all(
        len(value) in _SIZES.get(name, ()) for name, value in colors
    )


def chromaticities(points: Sequence[float]) -> bytes | None:
    """Return the content of a cHRM: x and y of white, red, green and blue; None if impossible."""
    units = [round(point * _UNIT) for point in points if 0 <= point <= 2]
    return struct.pack(">8I", *units) if len(units) == len(points) == 8 else None


def of_tiff_tags(stated: Mapping[str, bytes]) -> dict[int, tuple[float, ...]]:
    """Return the tags with which a TIFF states the same."""
    tags: dict[int, tuple[float, ...]] = {}
    if "cHRM" in stated:
        points = [unit / _UNIT for unit in struct.unpack(">8I", stated["cHRM"])]
        tags |= {_WHITE_POINT: tuple(points[:2]), _PRIMARIES: tuple(points[2:])}
    if TRANSFER_FUNCTION in stated:
        tags[_TRANSFER] = tuple(np.frombuffer(stated[TRANSFER_FUNCTION], "<u2").tolist())
    return tags


def lost_in(kind: str, colors: ColorStatements, *, has_profile: bool) -> bool:
    """Return True if a file of format `kind` would show other colors, as it cannot state these."""
    stated = dict(colors)
    lost = {name: value for name, value in colors if kind not in HELD_BY.get(name, ())}
    return not means_srgb(stated, has_profile=has_profile) and not means_srgb(
        lost, has_profile=has_profile
    )


def means_srgb(stated: Mapping[str, bytes], *, has_profile: bool) -> bool:
    """Return True if colors without these are the same: sRGB, or those of the profile."""
    if "cICP" in stated:
        return stated["cICP"] == _SRGB_CODE_POINTS and not stated.keys() & {"mDCV", "cLLI"}
    if has_profile or "sRGB" in stated:
        return True
    if INTEROPERABILITY in stated:
        return False
    gamma = int.from_bytes(stated.get("gAMA", _SRGB_GAMMA.to_bytes(4)))
    primaries = struct.unpack(">8I", stated.get("cHRM", struct.pack(">8I", *_SRGB_PRIMARIES)))
    off = max(abs(a - b) for a, b in zip(primaries, _SRGB_PRIMARIES, strict=True))
    if abs(gamma - _SRGB_GAMMA) > 500 or off > 100:  # as rounded by many programs
        return False
    return TRANSFER_FUNCTION not in stated or _is_srgb_curve(stated[TRANSFER_FUNCTION])


def _is_srgb_curve(function: bytes) -> bool:
    light = np.frombuffer(function, "<u2") / 65535
    for curve in light.reshape(3, -1) if len(light) % 3 == 0 else light[None]:
        levels = np.linspace(0, 1, len(curve))
        srgb = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
        if np.abs(curve - srgb).max() > 0.01:
            return False
    return True
