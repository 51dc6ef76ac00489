"""Statements in the boxes and the main header of a JPEG 2000 file (ISO 15444-1)."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from srgan_edge.image.boxes import behind_boxes, boxes_in, content_of
from srgan_edge.image.statements import Found, behind_the_end

_SIZ = b"\xff\x4f\xff\x51"
_SPACES = {0: 1, 12: 4, 15: 1, 16: 3, 17: 1, 18: 3}
"""Enumerated color space that Pillow converts -> number of its channels."""

_UUIDS = {
    bytes.fromhex("be7acfcb97a942e89c71999491e3afac"): "XMP",
    bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03"): "place on the map",
}
_EXIF = b"JpgTiffExif->JP2"
_COLOR, _OPACITY = 0, 1
_WHOLE_IMAGE = (0, 0xFFFF)
_ENCODER = re.compile(rb"Created by (OpenJPEG|ImageMagick|JasPer)\b|Kakadu-v\d")


@dataclass(frozen=True)
class Jpeg2000Header:
    """Statements of a JPEG 2000 file, and those of them that Pillow does not return."""

    found: list[Found] = field(default_factory=list)
    bits: int = 8
    """Bits of a channel."""
    icc_profile: bytes | None = None


def is_jpeg2000(head: bytes) -> bool:
    """Return True if a file begins like a JP2, or like a bare codestream."""
    return head.startswith((_SIZ, b"\0\0\0\x0cjP  "))


def read_jpeg2000(content: bytes) -> Jpeg2000Header:
    """Return what the file says; whatever is broken in it, the decoder finds out."""
    try:
        return _read(content)
    except (struct.error, IndexError):
        return Jpeg2000Header()


def _read(content: bytes) -> Jpeg2000Header:
    found: list[Found] = []
    start = 0 if content.startswith(_SIZ) else content.find(_SIZ)
    if start < 0:
        return Jpeg2000Header()
    depths, side = _depths(content[start + 4 :])
    if len(set(depths)) > 1 or max(depths) < 8:
        found.append(Found("SIZ of other bits", "and ".join(map(str, depths))))
    found += _comments(content, start)
    if content.startswith(_SIZ):
        return Jpeg2000Header(found, max(depths))
    header, profile = content_of(content, (b"jp2h",)), None
    spaces = 0
    for box in boxes_in(header):
        value = header[box.start : box.end]
        match box.name:
            case b"ihdr" if struct.unpack(">II", value[:8]) != side[::-1]:
                found.append(Found("ihdr of another size"))
            case b"colr" if not spaces:  # further ones say the same in other ways
                spaces += 1
                if value[0] == 1 and int.from_bytes(value[3:7]) not in _SPACES:
                    space = int.from_bytes(value[3:7])
                    found.append(Found("colr of another space", f"number {space}"))
                elif value[0] in (2, 3):
                    profile = value[3:]
            case b"cdef":
                found += _channels(value)
            case b"res " if b"resc" not in value:
                found.append(Found("resd"))
            case _:
                found.append(Found(box.name.decode("latin-1").strip()))
    if b"cdef" not in header and b"pclr" not in header and len(depths) in (2, 4):
        colr = content_of(header, (b"colr",))
        if _SPACES.get(int.from_bytes(colr[3:7]) if colr[:1] == b"\1" else 0) != len(depths):
            found.append(Found("no cdef"))
    found += _boxes_beside(content)
    return Jpeg2000Header(found, max(depths), profile)


def _depths(siz: bytes) -> tuple[list[int], tuple[int, int]]:
    """Return the bits of each component, and the size, from the main header (A.5.1)."""
    _, _, right, bottom, left, top = struct.unpack(">HHIIII", siz[:20])
    (components,) = struct.unpack(">H", siz[36:38])
    return (
        [(siz[38 + 3 * n] & 0x7F) + 1 for n in range(min(components, 8))],
        (right - left, bottom - top),
    )


def _channels(cdef: bytes) -> Iterator[Found]:
    for number in range(int.from_bytes(cdef[:2])):
        channel, kind, of = struct.unpack(">HHH", cdef[2 + 6 * number : 8 + 6 * number])
        if kind == _COLOR and of != channel + 1:
            yield Found("cdef of another order")
        elif kind == _OPACITY and of not in _WHOLE_IMAGE:
            yield Found("cdef of another order", "opacity of one color")
        elif kind == 2:
            yield Found("cdef of premultiplied opacity")
        elif kind > 2:
            yield Found("no cdef")


def _comments(content: bytes, start: int) -> Iterator[Found]:
    """Yield the texts of the main header, except the name of the encoder."""
    place = start + 2
    while content[place : place + 1] == b"\xff":
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4])
        if marker == 0x90 or length < 2:
            return
        text = content[place + 6 : place + 2 + length]
        if marker == 0x64 and not _ENCODER.match(text):
            yield Found("COM", text.decode("latin-1"))
        place += 2 + length


def _boxes_beside(content: bytes) -> Iterator[Found]:
    for box in boxes_in(content):
        if box.name == b"uuid":
            identity = content[box.start : box.start + 16]
            name = "EXIF" if identity == _EXIF else _UUIDS.get(identity, identity.hex())
            yield Found("uuid", name)
        elif box.name not in (b"jP  ", b"ftyp", b"jp2h", b"jp2c", b"rreq"):
            yield Found(box.name.decode("latin-1").strip())
    yield from behind_the_end(behind_boxes(content))
