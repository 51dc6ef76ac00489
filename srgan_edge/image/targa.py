"""Statements in the header, extension area and footer of a TGA file (Truevision TGA 2.0)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from srgan_edge.image.colors import ColorStatements
from srgan_edge.image.statements import Found

SUFFIXES = {".tga", ".icb", ".vda", ".vst"}
"""Nothing in a file of version 1 says what it is, but these."""

_FOOTER = b"TRUEVISION-XFILE.\0"
_FOOTER_BYTES, _EXTENSION_BYTES = 26, 495
_UNDEFINED, _PREMULTIPLIED = {1, 2}, 4
_MAPPED = 1
_UNIT = 100_000


@dataclass(frozen=True)
class TgaHeader:
    """Statements of a TGA file, and those of them that Pillow does not return."""

    found: list[Found] = field(default_factory=list)
    has_alpha: bool = True
    """False if the fourth channel is none of transparency, whatever is in it."""
    colors: ColorStatements = ()
    pixel_shape: tuple[int, int] | None = None


def may_be_tga(path: Path, file: BinaryIO) -> bool:
    """Return True if the footer of the file, or else its name, says that it is a TGA."""
    length = file.seek(0, 2)
    file.seek(max(0, length - len(_FOOTER)))
    has_footer = file.read() == _FOOTER
    file.seek(0)
    return has_footer or path.suffix.lower() in SUFFIXES


def read_tga(file: BinaryIO) -> TgaHeader:
    """Return what the file says; whatever is broken in it, the decoder finds out."""
    file.seek(0)
    header = file.read(18)
    if len(header) < 18:
        return TgaHeader()
    found = [Found("ID")] if any(file.read(header[0])) else []
    depth = header[7] if header[2] & 7 == _MAPPED else header[16]
    has_alpha = header[17] & 15 > 0 or depth not in (16, 32)
    extension = _extension(file)
    if not extension:
        return TgaHeader([*found, *_lost_channel(has_alpha)], has_alpha)
    kind = extension[494]
    if kind == _PREMULTIPLIED:
        found.append(Found("premultiplied alpha"))
    has_alpha &= kind not in _UNDEFINED
    found += _of_extension(extension)
    return TgaHeader(
        [*found, *_lost_channel(has_alpha)], has_alpha, _colors(extension), _shape(extension)
    )


def _lost_channel(has_alpha: bool) -> Iterator[Found]:
    if not has_alpha:
        yield Found("undefined channel")


def _extension(file: BinaryIO) -> bytes:
    """Return the extension area; empty if there is none."""
    length = file.seek(0, 2)
    if length < _FOOTER_BYTES:
        return b""
    file.seek(length - _FOOTER_BYTES)
    footer = file.read(_FOOTER_BYTES)
    (place,) = struct.unpack("<I", footer[:4])
    if not footer.endswith(_FOOTER) or not place:
        return b""
    file.seek(place)
    extension = file.read(_EXTENSION_BYTES)
    return extension if len(extension) == _EXTENSION_BYTES else b""


def _of_extension(extension: bytes) -> Iterator[Found]:
    texts = {"author": extension[2:43], "comment": extension[43:367], "job": extension[379:420]}
    for name, text in texts.items():
        if text.strip(b"\0 "):
            yield Found("text", name)
    (correction,) = struct.unpack("<I", extension[482:486])
    if correction:
        yield Found("color correction table")
    if any(extension[470:474]):
        yield Found("key color")
    above, below = struct.unpack("<HH", extension[478:482])
    if above and above == below:  # linear light, or no thought given to it
        yield Found("gamma of 1")


def _colors(extension: bytes) -> ColorStatements:
    above, below = struct.unpack("<HH", extension[478:482])
    if not above or not below or above == below:
        return ()
    return (("gAMA", round(_UNIT * below / above).to_bytes(4)),)


def _shape(extension: bytes) -> tuple[int, int] | None:
    wide, high = struct.unpack("<HH", extension[474:478])
    return (high, wide) if wide and high and wide != high else None
