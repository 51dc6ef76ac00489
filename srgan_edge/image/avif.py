"""Statements in the boxes of an AVIF file (AV1 Image File Format, on ISO 23008-12).

libavif decodes the pixels, and follows the rotation and the mirror. It ignores the crop, and leaves
the meaning of the colors to its caller.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from srgan_edge.image.boxes import Box, behind_boxes, boxes_in, content_of
from srgan_edge.image.colors import ColorStatements
from srgan_edge.image.statements import Found, behind_the_end

_UNSTATED = ({1, 2}, {1, 2, 6, 13, 14, 15})
"""Primaries and transfer functions of H.273 under which an image is shown as sRGB."""

_ALPHA = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha"
_OLD_ALPHA = b"urn:mpeg:hevc:2015:auxid:1"
_DEPTH = b"depth"


@dataclass(frozen=True)
class AvifHeader:
    """Statements of an AVIF file, and those of them that Pillow does not return."""

    found: list[Found]
    colors: ColorStatements = ()
    pixel_shape: tuple[int, int] | None = None
    crop: tuple[Fraction, Fraction, Fraction, Fraction] | None = None
    """Width, height, and the offset of its center across and down, of the part to show."""


def is_avif(head: bytes) -> bool:
    """Return True if these first bytes of a file name AVIF as its brand; HEIC names others."""
    if head[4:8] != b"ftyp":
        return False
    brands = head[8 : min(len(head), int.from_bytes(head[:4]))]
    return any(brands[at : at + 4] in (b"avif", b"avis") for at in range(0, len(brands), 4))


def read_avif(content: bytes) -> AvifHeader:
    """Return what the boxes say; whatever is broken in them, the decoder finds out."""
    try:
        return _read(content)
    except (struct.error, IndexError, ZeroDivisionError):
        return AvifHeader([])


def box_of_crop(
    crop: tuple[Fraction, Fraction, Fraction, Fraction], width: int, height: int
) -> tuple[int, int, int, int] | None:
    """Return left, top, right and bottom of a crop; None if it is not one of whole pixels inside.

    The offset is that of its center from the center of the image (ISO 14496-12, 12.1.4).
    """
    wide, high, across, down = crop
    left, top = across + (width - wide) / 2, down + (height - high) / 2
    ends = (left, top, left + wide, top + high)
    if any(end.denominator != 1 for end in ends):
        return None
    inside = 0 <= left < ends[2] <= width and 0 <= top < ends[3] <= height
    return (int(left), int(top), int(ends[2]), int(ends[3])) if inside else None


def _read(content: bytes) -> AvifHeader:
    meta = content_of(content, (b"meta",), 4)
    items = dict(_items(meta))
    primary = _number(content_of(meta, (b"pitm",)), 0)
    properties = [
        (box.name, content_of_box)
        for ipco in [content_of(meta, (b"iprp", b"ipco"))]
        for box in boxes_in(ipco)
        for content_of_box in [ipco[box.start : box.end]]
    ]
    own = [properties[index] for index in _associated(meta, primary) if index < len(properties)]
    stated: dict[str, bytes] = {}
    found: list[Found] = []
    shape = crop = None
    for name, value in own:
        match name:
            case b"colr" if value[:4] == b"nclx":
                primaries, transfer = struct.unpack(">HH", value[4:8])
                if primaries not in _UNSTATED[0] or transfer not in _UNSTATED[1]:
                    stated["cICP"] = bytes([primaries & 255, transfer & 255, 0, 1])
            case b"clli" if len(value) == 4:
                stated["cLLI"] = b"".join(
                    struct.pack(">I", 10_000 * level) for level in struct.unpack(">HH", value)
                )
            case b"mdcv" if len(value) == 24:
                stated["mDCV"] = _in_order_of_png(value)
            case b"pasp":
                wide, high = struct.unpack(">II", value[:8])
                shape = (high, wide) if wide != high and wide and high else None
            case b"clap":
                numbers = struct.unpack(">IIIIiIiI", value[:32])
                crop = _fractions(numbers)
        found.append(Found(name.decode("latin-1")))
    profiles = any(name == b"colr" and value[:4] in (b"prof", b"rICC") for name, value in own)
    if profiles:
        stated.pop("cICP", None)
    found += _depth(properties)
    found += _others(meta, items, properties)
    found += (Found(box.name.decode("latin-1")) for box in (*boxes_in(content), *boxes_in(meta)))
    found += behind_the_end(behind_boxes(content))
    return AvifHeader(found, tuple(stated.items()), shape, crop)


def _fractions(numbers: tuple[int, ...]) -> tuple[Fraction, Fraction, Fraction, Fraction]:
    wide, high, across, down = (Fraction(*numbers[at : at + 2]) for at in (0, 2, 4, 6))
    return wide, high, across, down


def _in_order_of_png(display: bytes) -> bytes:
    """Reorder a mastering display: green, blue, red to red, green, blue; luminance alike."""
    green, blue, red = display[:4], display[4:8], display[8:12]
    return red + green + blue + display[12:]


def _depth(properties: list[tuple[bytes, bytes]]) -> Iterator[Found]:
    bits = [
        12 if value[2] & 0x20 else 10
        for name, value in properties
        if name == b"av1C" and len(value) > 2 and value[2] & 0x40
    ]
    if bits:
        yield Found("bits", f"of {max(bits)}")


def _others(
    meta: bytes, items: dict[int, bytes], properties: list[tuple[bytes, bytes]]
) -> Iterator[Found]:
    """Yield items besides the image: metadata, gain maps, depth maps."""
    for kind in items.values():
        if kind == b"tmap":
            yield Found("tmap")
        elif kind == b"mime":
            yield Found("XMP")
        elif kind not in (b"av01", b"grid", b"Exif"):
            yield Found(kind.decode("latin-1"))
    for name, value in properties:
        if name == b"auxC" and not (_ALPHA in value or _OLD_ALPHA in value):
            yield Found("depth map" if _DEPTH in value else "auxC")


def _items(meta: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and kind of each item (ISO 14496-12, 8.11.6)."""
    info = content_of(meta, (b"iinf",))
    start = 6 if info[:1] == b"\0" else 8
    for box in boxes_in(info, start):
        entry = info[box.start : box.end]
        if box.name != b"infe" or len(entry) < 4 or entry[0] < 2:
            continue
        wide = 2 if entry[0] == 2 else 4
        yield int.from_bytes(entry[4 : 4 + wide]), entry[6 + wide : 10 + wide]


def _associated(meta: bytes, item: int) -> Iterator[int]:
    """Yield the indices, from 0, of an item's properties (ISO 23008-12, 9.3)."""
    for box in boxes_in(content_of(meta, (b"iprp",))):
        if box.name == b"ipma":
            yield from _associated_in(content_of(meta, (b"iprp",)), box, item)


def _associated_in(iprp: bytes, box: Box, item: int) -> Iterator[int]:
    place, end = box.start, box.end
    version, wide = iprp[place], bool(iprp[place + 3] & 1)
    entries = int.from_bytes(iprp[place + 4 : place + 8])
    place += 8
    for _ in range(entries):
        if place >= end:
            return
        length = 2 if version < 1 else 4
        number = int.from_bytes(iprp[place : place + length])
        place += length
        count = iprp[place]
        place += 1
        for _ in range(count):
            size = 2 if wide else 1
            index = int.from_bytes(iprp[place : place + size]) & (0x7FFF if wide else 0x7F)
            place += size
            if number == item and index:
                yield index - 1


def _number(pitm: bytes, default: int) -> int:
    if len(pitm) < 6:
        return default
    return int.from_bytes(pitm[4:6] if pitm[0] == 0 else pitm[4:8])
