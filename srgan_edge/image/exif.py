"""The tables of EXIF (CIPA DC-008), which are those of a TIFF: read and written byte by byte.

Pillow makes Python values of a table and writes what those look like: texts in ASCII, positive
numbers without a sign, bytes of no type, and nothing of EXIF 3.0. Here a value keeps its type and
its bytes, in the byte order of its file. In a block that is changed it keeps its place as well,
because maker's notes count from the beginning of the block.

Blocks come from strangers: what lies outside of one is returned as lost, and copies are limited.
"""

import io
import re
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, Literal, TypeAlias

import numpy as np
from PIL.ExifTags import IFD, Base

PREFIX = b"Exif\0\0"
"""Stands before a block in most formats; its offsets count from behind it."""

MAIN = 0
"""Key of the main table; the others have the tag that points to them."""

SHORT, LONG, RATIONAL, UNDEFINED, SRATIONAL, LONG8 = 3, 4, 5, 7, 10, 16
_KIND_BYTES = {
    **dict.fromkeys((1, 2, 6, UNDEFINED, 129), 1),  # 129: UTF-8 of EXIF 3.0
    **dict.fromkeys((SHORT, 8), 2),
    **dict.fromkeys((LONG, 9, 11, 13), 4),
    **dict.fromkeys((RATIONAL, SRATIONAL, 12, LONG8, 17, 18), 8),
}
"""Type of a value -> size of one of its numbers in bytes."""

_WHOLE_NUMBERS = {SHORT, LONG, 13, LONG8, 18}
_ABOVE = {IFD.Exif: MAIN, IFD.GPSInfo: MAIN, IFD.Interop: IFD.Exif}
"""Table -> the one that points to it."""

_PARTS = ((Base.JpegIFOffset, Base.JpegIFByteCount), (Base.StripOffsets, Base.StripByteCounts))
_MOST_BYTES = 1 << 24
_LARGEST = 2**32 - 1


@dataclass(frozen=True)
class Tag:
    """The value of a tag."""

    kind: int
    """Its type (TIFF 6.0, section 2)."""
    value: bytes
    """In the byte order of its file."""
    place: int = 0
    """Start of the value in its file, if it is too long for the table itself."""

    @property
    def count(self) -> int:
        """Number of its numbers or letters."""
        return len(self.value) // _KIND_BYTES[self.kind]


@dataclass(frozen=True)
class Table:
    """One table of a file."""

    tags: dict[int, Tag]
    lost: set[int]
    """Tags of unknown types, and those whose values or tables are not in the file."""
    start: int
    end: int
    """End of its entries, where the place of the next table stands."""
    next: int


Order: TypeAlias = Literal["<", ">"]
"""A byte order as `struct` writes it: lowest bytes first, or highest."""

Nested: TypeAlias = Mapping[int, "Tag | Nested"]
"""Tags by number; where one points to another table, that table itself."""


class Tables:
    """The tables of a TIFF, or of a block of EXIF without its prefix, which is a `classic` one.

    Raises:
        ValueError: it does not begin like one.
    """

    def __init__(self, file: BinaryIO, *, classic: bool = False) -> None:
        self._file = file
        self._bytes = file.seek(0, io.SEEK_END)
        self._left = min(_MOST_BYTES, 4 * self._bytes)
        head = self._read(0, 4)
        if head[:2] not in (b"II", b"MM") or head[2:].strip(b"\0") not in (b"*", b"+"):
            raise ValueError("no header of a TIFF")
        self.order: Order = "<" if head[:2] == b"II" else ">"
        self._big = b"+" in head
        if self._big and classic:
            raise ValueError("in the format of a BigTIFF")
        place = self._read(8, 8) if self._big else self._read(4, 4)
        self.first = int.from_bytes(place, self._endian)
        """Place of the main table."""

    def all(
        self, start: int | None = None, wanted: Collection[int] | None = None
    ) -> dict[int, Table]:
        """Return the main table, and those of the exposure, the place and the interoperability.

        Args:
            start: place of the main table, if it is not the first.
            wanted: the tags of it to read, None for all.

        Raises:
            ValueError: the main table is not whole.
        """
        found = {MAIN: self.table(self.first if start is None else start, wanted)}
        for pointer, above in _ABOVE.items():
            if above not in found or pointer not in found[above].tags:
                continue
            try:
                found[pointer] = self.table(self.number(found[above].tags[pointer]))
            except ValueError:
                del found[above].tags[pointer]
                found[above].lost.add(pointer)
        return found

    def table(self, start: int, wanted: Collection[int] | None = None) -> Table:
        """Return the table at `start`, with the tags in `wanted` or all; of two alike the first.

        Raises:
            ValueError: it is not whole, or has more bytes than any real one.
        """
        size, most, layout = (8, 8, "HHQ8s") if self._big else (2, 4, "HHI4s")
        entries = int.from_bytes(self._read(start, size), self._endian)
        content = self._read(start + size, entries * struct.calcsize(self.order + layout))
        end = start + size + len(content)
        following = b"" if end + most > self._bytes else self._read(end, most)
        tags: dict[int, Tag] = {}
        lost: set[int] = set()
        for number, kind, count, field in struct.iter_unpack(self.order + layout, content):
            if number in tags or number in lost or (wanted is not None and number not in wanted):
                continue
            length = count * _KIND_BYTES.get(kind, 0)
            place = int.from_bytes(field, self._endian) if length > most else 0
            if kind not in _KIND_BYTES or place + length > self._bytes:
                lost.add(number)
            else:
                value = self._read(place, length) if length > most else field[:length]
                tags[number] = Tag(kind, value, place)
        return Table(tags, lost, start, end, int.from_bytes(following, self._endian))

    def number(self, tag: Tag) -> int:
        """Return the value of a tag that is one whole number.

        Raises:
            ValueError: it is not.
        """
        if tag.kind not in _WHOLE_NUMBERS or tag.count != 1:
            raise ValueError("not a whole number")
        return int.from_bytes(tag.value, self._endian)

    @property
    def _endian(self) -> Literal["little", "big"]:
        return "little" if self.order == "<" else "big"

    def _read(self, start: int, length: int) -> bytes:
        self._left -= length
        if start + length > self._bytes:
            raise ValueError("cut short")
        if self._left < 0:  # many tags may share the same bytes
            raise ValueError("more values than any camera writes")
        self._file.seek(start)
        return self._file.read(length)


def without_prefix(block: bytes) -> bytes:
    """Return a block from the byte on from which its offsets count."""
    return re.sub(rb"^(Exif\0\0){1,2}", b"", block)


def tables_of(block: bytes) -> Tables:
    """Return those of a block without its prefix.

    Raises:
        ValueError: it is none.
    """
    return Tables(io.BytesIO(block), classic=True)


def changed(block: bytes, tables: Mapping[int, Table], kept: Mapping[int, dict[int, Tag]]) -> bytes:
    """Return a block with these of its tags alone; what only others refer to becomes zeros.

    Args:
        tables: those of the block.
        kept: tags of each table; one that the block lacks has a value of up to four bytes.

    Raises:
        ValueError: tables or values lie on each other, so that one change is another, too.
    """
    result = bytearray(block)
    source = tables_of(block)
    main = tables[MAIN]
    if main.next:
        result[main.end : main.end + 4] = bytes(4)
    for start, end in (*_places(tables.values()), *_thumbnail(source, main.next)):
        result[start:end] = bytes(len(result[start:end]))
    end = 8
    for tag in (tag for tags in kept.values() for tag in tags.values() if _is_outside(tag)):
        behind = tag.place + len(tag.value)  # others may have had the same bytes as their value
        result[tag.place : behind] = block[tag.place : behind]
        end = max(end, behind)
    for pointer, tags in kept.items():
        start = tables[pointer].start
        entries = _entries(tags, source.order)
        result[start : start + len(entries)] = entries
        end = max(end, tables[pointer].end + 4)
    after = tables_of(bytes(result)).all()
    if {pointer: table.tags for pointer, table in after.items()} != kept:
        raise ValueError("tables that lie on each other")
    return bytes(result[: max(end, len(result.rstrip(b"\0")))])


def extended(block: bytes, tags: Mapping[int, Tag]) -> bytes:
    """Return a block whose main table has more tags, or other values, in its byte order.

    The main table is written anew behind all else, which stays where it is.

    Raises:
        ValueError: the block is none.
    """
    source = tables_of(block)
    before = source.table(source.first).tags
    if all((it := before.get(number)) and it.value == tag.value for number, tag in tags.items()):
        return block
    main = {**before, **tags}
    start = len(block) + len(block) % 2
    table = written(main, start, source.order)
    first = struct.pack(source.order + "I", start)
    return block[:4] + first + block[8:].ljust(start - 8, b"\0") + table


def nested(tables: Mapping[int, dict[int, Tag]], key: int = MAIN) -> Nested:
    """Return a table in which others stand in the place of what points to them."""
    inner = {it for it, above in _ABOVE.items() if above == key and it in tables}
    return {
        number: nested(tables, number) if number in inner else tag
        for number, tag in tables[key].items()
    }


def header(order: Order, start: int, *, big: bool = False) -> bytes:
    """Return the beginning of a file whose main table is at `start`."""
    mark = b"II" if order == "<" else b"MM"
    if big:
        return mark + struct.pack(order + "HHHQ", 43, 8, 0, start)
    return mark + struct.pack(order + "HI", 42, start)


def written(tags: Nested, start: int, order: Order, *, big: bool = False) -> bytes:
    """Return a table that stands at `start`, followed by its values and the tables inside it.

    Args:
        big: as in a BigTIFF.
    """
    size, layout, most, place = ("Q", "HHQ", 8, "Q") if big else ("H", "HHI", 4, "I")
    entries, values = struct.pack(order + size, len(tags)), b""
    end = start + len(entries) + len(tags) * (struct.calcsize(order + layout) + most) + most
    parts = [b""]
    for number, tag in sorted(tags.items()):
        if isinstance(tag, Tag):
            kind, count, field = tag.kind, tag.count, tag.value
            if len(field) > most:
                values = field + bytes(len(field) % 2)
                field = struct.pack(order + place, end)
            else:
                values = b""
        else:
            kind, count, field = LONG, 1, struct.pack(order + "I", end)
            values = written(tag, end, order, big=big)
        entries += struct.pack(order + layout, number, kind, count) + field.ljust(most, b"\0")
        parts.append(values)
        end += len(values)
    return entries + bytes(most) + b"".join(parts)


def exchanged(tag: Tag) -> Tag:
    """Return a tag in the other byte order."""
    size = 4 if tag.kind in (RATIONAL, SRATIONAL) else _KIND_BYTES[tag.kind]
    return Tag(tag.kind, np.frombuffer(tag.value, f"u{size}").byteswap().tobytes())


def numbers(order: Order, kind: int, *values: float) -> Tag:
    """Return a tag with these numbers: SHORT, LONG, LONG8 or RATIONAL."""
    if kind == RATIONAL:
        ratios = [part for value in values for part in _ratio(value)]
        return Tag(kind, struct.pack(f"{order}{len(ratios)}I", *ratios))
    code = {SHORT: "H", LONG: "I", LONG8: "Q"}[kind]
    return Tag(kind, struct.pack(f"{order}{len(values)}{code}", *map(int, values)))


def _ratio(value: float) -> tuple[int, int]:
    """Return the nearest ratio of two numbers of 32 bits."""
    if value <= 1:
        return Fraction(value).limit_denominator(_LARGEST).as_integer_ratio()
    return (1 / (1 / Fraction(value)).limit_denominator(_LARGEST)).as_integer_ratio()


def _entries(tags: Mapping[int, Tag], order: Order) -> bytes:
    """Return the entries of a table whose values are where they were."""
    entries = struct.pack(order + "H", len(tags))
    for number, tag in sorted(tags.items()):
        field = struct.pack(order + "I", tag.place) if _is_outside(tag) else tag.value
        entries += struct.pack(order + "HHI4s", number, tag.kind, tag.count, field)
    return entries


def _is_outside(tag: Tag) -> bool:
    return len(tag.value) > 4


def _places(tables: Iterable[Table]) -> Iterator[tuple[int, int]]:
    """Yield start and end of the tables and their values."""
    for table in tables:
        yield table.start, table.end
        yield from ((it.place, it.place + len(it.value)) for it in table.tags.values() if it.place)


def _thumbnail(source: Tables, start: int) -> Iterator[tuple[int, int]]:
    """Yield where the thumbnail is, which the second table of a block describes."""
    with suppress(ValueError):
        table = source.table(start) if start else Table({}, set(), 0, 0, 0)
        yield from _places([table])
        for place, length in _PARTS:
            if place in table.tags and length in table.tags:
                first = source.number(table.tags[place])
                yield first, first + source.number(table.tags[length])
