"""Find out whether a file is complete, from the structure of its container.

Nothing is decoded here. FFmpeg skips a broken place in a Matroska or WebM file silently and resumes
at the next cluster, so these are checked against RFC 8794 and RFC 9559, and so are the pages of Ogg
(RFC 3533). MP4, MOV and AVI files state their size in boxes and chunks, ASF (WMV) in its header,
whose packets are of one size, as frames of Y4M are. FLV repeats the size of each tag behind it.
Transport streams are examined in `transport`, and program streams state nothing of the kind.
"""

import string
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

_HEADER, _SEGMENT, _CLUSTER, _TRACKS = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1654AE6B
_TRACK_ENTRY, _TRACK_NUMBER = 0xAE, 0xD7
_SIMPLE_BLOCK, _BLOCK_GROUP, _BLOCK = 0xA3, 0xA0, 0xA1
ANYWHERE = {0xEC, 0xBF}  # Void, CRC-32
_INTEGERS = {0xE7, 0xA7, 0xAB}  # Timestamp, Position, PrevSize: one bit away from a block

_IN_CLUSTER = {
    *(_SIMPLE_BLOCK, _BLOCK_GROUP, 0xAF, 0x5854),  # EncryptedBlock, SilentTracks
    *_INTEGERS,
    *ANYWHERE,
}

_IN_SEGMENT = {
    *_IN_CLUSTER,  # a cluster of unknown size counts as one without content
    *(_CLUSTER, _TRACKS, 0x114D9B74, 0x1549A966),  # SeekHead, Info
    *(0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367),  # Cues, Attachments, Chapters, Tags
}

_IN_BLOCK_GROUP = {
    *(_BLOCK, 0x75A1, 0x9B, 0xFA, 0xFB),  # BlockAdditions to ReferenceBlock
    *(0xA2, 0xA4, 0x75A2, 0x8E, 0xC8, 0xFD),  # CodecState, DiscardPadding and deprecated elements
    *ANYWHERE,
}

_CHILDREN = {_CLUSTER: _IN_CLUSTER, _BLOCK_GROUP: _IN_BLOCK_GROUP}

_CHECKSUM, _CHECKSUM_BYTES = b"\xbf\x84", 6

_CHUNK_BYTES, _ENDLESS = 2**20, 2**62

_OGG_HEAD_BYTES, _OGG_FIRST, _OGG_LAST = 27, 2, 4
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

_FFV1_BEGINS_AT = (0, 0x79408C7A)  # and ends at, if all is right: version 3, version 4 of FFmpeg

_ASF_OBJECT_BYTES, _ASF_BROADCAST = 24, 1
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA_HEAD_BYTES = 50

_FLV_TAG_HEAD_BYTES = 11

_MOST_LINE_BYTES = 1024  # of Y4M; FFmpeg reads no longer ones

_BOX_LETTERS = frozenset((string.ascii_letters + string.digits + " ").encode())


class Bytes(Protocol):
    """Bytes in order, such as those of a file that is open."""

    def seek(self, at: int, /) -> object:
        """Go to a place in bytes from the start."""

    def read(self, count: int, /) -> bytes:
        """Return the next bytes, fewer at the end."""
        ...


class Passing(Bytes, Protocol):
    """Bytes that pass once, of an unknown number."""

    reached_end: bool
    """Bytes behind the end were asked for."""

    @property
    def passed_bytes(self) -> int:
        """The number of bytes that have passed until now."""
        ...


def find_break(path: Path) -> str | None:
    """Describe where the structure of a Matroska file is broken; None if it is complete.

    Frames are skipped, so this is quick.

    Raises:
        OSError: The file cannot be read.
    """
    return _first_broken(path, _check_structure)


def find_break_in_passing(passing: Passing) -> str | None:
    """Describe where Matroska that passes is broken or cut; None if it ends behind an element.

    Where a segment of unknown size ends, nothing can be known to be missing behind an element.
    """
    stated_end = 0
    try:
        for element in _checked_elements(passing, _ENDLESS):
            if element.end < _ENDLESS:
                stated_end = max(stated_end, element.end)
    except Broken as broken:
        if not passing.reached_end:
            return str(broken)
        missing = stated_end - passing.passed_bytes
        if missing < 0:
            return f"cut off in the element at byte {stated_end}"
        return f"cut off, {missing} bytes are missing" if missing else None
    return None


def find_wrong_checksum(path: Path) -> str | None:
    """Describe which part of a Matroska file with a complete structure has a wrong checksum.

    Clusters that have a checksum are read from end to end. Returns None if no checksum is wrong.

    Raises:
        OSError: The file cannot be read.
    """
    return _first_broken(path, _check_checksums)


def missing_bytes(path: Path) -> int:
    """Return how many bytes an MP4, MOV or AVI file is shorter than it states; 0 if unknown."""
    size = path.stat().st_size
    with path.open("rb") as file:
        riff = file.read(12)
        if (riff[:4], riff[8:]) == (b"RIFF", b"AVI "):
            ends: Iterator[int] = _riff_ends(file)
        else:
            ends = (box.end for box in boxes_in(file, 0, size))
        return next((end - size for end in ends if end > size), 0)


def find_ogg_break(path: Path) -> str | None:
    """Describe where an Ogg file is broken: a page changed, missing or cut; None if it is complete.

    Raises:
        OSError: The file cannot be read.
    """
    return _first_broken(path, _check_ogg)


def find_y4m_break(path: Path, frame_bytes: int) -> str | None:
    """Describe where a Y4M file whose frames have this size is broken; None if it is complete.

    Raises:
        OSError: The file cannot be read.
    """
    return _first_broken(path, lambda file, _: _check_y4m(file, frame_bytes))


def find_y4m_break_in_passing(passing: Bytes, frame_bytes: int) -> str | None:
    """Describe where Y4M that passes, with frames of this size, is broken; None if it is not."""
    try:
        _check_y4m(passing, frame_bytes)
    except Broken as broken:
        return str(broken)
    return None


def find_asf_break(path: Path) -> str | None:
    """Describe where an ASF file is broken or cut; None if it is complete, or a broadcast.

    Raises:
        OSError: The file cannot be read.
    """
    return _first_broken(path, _check_asf)


def find_flv_break(path: Path) -> str | None:
    """Describe where the tags of an FLV file are broken or cut; None if they are complete.

    Raises:
        OSError: The file cannot be read.
    """
    return _first_broken(path, _check_flv)


def find_fragment_break(path: Path) -> str | None:
    """Describe where an MP4 file in fragments is broken, where FFmpeg ends without an error.

    Returns:
        None if there is no fragment behind a place that is no box.

    Raises:
        OSError: The file cannot be read.
    """
    return _first_broken(path, _check_fragments)


def is_in_fragments(path: Path) -> bool:
    """Return True for an MP4 file in fragments, which may have a hole between them.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return _begins_fragments(file, path.stat().st_size)


def find_second_movie(path: Path, first_end: int) -> str | None:
    """Describe a movie that was joined to the end of an MP4 file, which FFmpeg ignores.

    Args:
        first_end: where the last sample of the first movie ends, in bytes.

    Returns:
        None if the file has one `moov`, or no content behind that of the first.

    Raises:
        OSError: The file cannot be read.
    """
    indices, has_more = 0, False
    with path.open("rb") as file:
        for box in boxes_in(file, 0, path.stat().st_size):
            indices += box.kind == b"moov"
            has_more |= box.kind == b"mdat" and first_end <= box.start < box.end
    return f"another video begins behind byte {first_end}" if indices > 1 and has_more else None


def has_broken_slice(frame: bytes) -> bool:
    """Check the sizes and checksums of the slices of a frame of FFV1, version 3 or later.

    A decoder only logs such damage, and shows the slice of the frame before. Each slice ends with
    its size; a byte for errors and a checksum follow, or do not (RFC 9043, section 4.9).
    """
    if _slices(frame, footer_bytes=3):
        return False
    slices = _slices(frame, footer_bytes=8)
    right = (all(_checksum(it, begun) == begun for it in slices) for begun in _FFV1_BEGINS_AT)
    return not slices or not any(right)


def _slices(frame: bytes, footer_bytes: int) -> list[bytes]:
    """Return the slices, the last one first; none if their sizes do not add up to the frame."""
    slices, end = [], len(frame)
    while end:
        at = end - footer_bytes
        start = at - int.from_bytes(frame[at : at + 3], "big")
        if at < 0 or start < 0:
            return []
        slices.append(frame[start:end])
        end = start
    return slices


class Broken(Exception):
    """Raised with a description of the damage."""


def _first_broken(path: Path, check: Callable[[BinaryIO, int], None]) -> str | None:
    with path.open("rb") as file:
        try:
            check(file, path.stat().st_size)
        except Broken as broken:
            return str(broken)
    return None


class Element(NamedTuple):
    """An element of Matroska."""

    kind: int
    start: int
    """Start of the content, in bytes from the start of the file."""
    end: int
    """End of the content, in bytes from the start of the file."""


class Box(NamedTuple):
    """A box of MP4."""

    kind: bytes
    start: int
    """Start of the content, in bytes from the start of the file."""
    end: int
    """End of the content, in bytes from the start of the file."""


def _check_structure(file: Bytes, size: int) -> None:
    deque(_checked_elements(file, size), maxlen=0)


def _checked_elements(file: Bytes, size: int) -> Iterator[Element]:
    """Yield the segment and the elements in it, down to single frames, each once it is checked."""
    segment = read_segment(file, size)
    if segment.end > size:
        raise Broken(f"cut off, {segment.end - size} bytes are missing")
    yield segment
    tracks: set[int] = set()
    for element in _walk(file, segment, _IN_SEGMENT):
        if element.kind == _TRACKS:
            tracks.update(_track_numbers(file, element))
        elif element.kind in (_SIMPLE_BLOCK, _BLOCK):
            number, _ = _read_number(file, element.start)
            if number not in tracks:
                raise Broken(f"a frame of no stream is at byte {element.start}")
        yield element


def _check_checksums(file: Bytes, size: int) -> None:
    for element in _walk(file, read_segment(file, size), _IN_SEGMENT):
        if element.kind == _CLUSTER and not _checksum_agrees(file, element):
            raise Broken(f"a checksum differs in bytes {element.start} to {element.end}")


def read_segment(file: Bytes, size: int) -> Element:
    """Return the segment of a Matroska file of a size in bytes.

    Raises:
        Broken: The file does not begin as Matroska.
    """
    header = _read_element(file, 0)
    segment = _read_element(file, header.end, unknown_end=size)
    while segment.kind in ANYWHERE:
        segment = _read_element(file, segment.end, unknown_end=size)
    if (header.kind, segment.kind) != (_HEADER, _SEGMENT):
        raise Broken("its structure is broken at byte 0")
    return segment


def _walk(file: Bytes, parent: Element, possible: set[int]) -> Iterator[Element]:
    """Yield the elements inside the parent, and those inside of them down to single frames."""
    for element in elements_in(file, parent):
        too_long = element.kind in _INTEGERS and element.end - element.start > 8
        if element.kind not in possible or too_long:
            raise Broken(f"its structure is broken at byte {element.start}")
        yield element
        if element.kind in _CHILDREN:
            yield from _walk(file, element, _CHILDREN[element.kind])


def elements_in(file: Bytes, parent: Element) -> Iterator[Element]:
    """Yield the elements directly inside an element of Matroska.

    Raises:
        Broken: They are no elements, or reach beyond it.
    """
    at = parent.start
    while at < parent.end:
        element = _read_element(file, at)
        if element.end > parent.end:
            raise Broken(f"its structure is broken at byte {at}")
        yield element
        at = element.end


def _track_numbers(file: Bytes, tracks: Element) -> Iterator[int]:
    for entry in elements_in(file, tracks):
        if entry.kind == _TRACK_ENTRY:
            for field in elements_in(file, entry):
                if field.kind == _TRACK_NUMBER:
                    if field.end - field.start > 8:
                        raise Broken(f"its structure is broken at byte {field.start}")
                    file.seek(field.start)
                    yield int.from_bytes(file.read(field.end - field.start), "big")


def _checksum_agrees(file: Bytes, element: Element) -> bool:
    """Verify the checksum, if any: the first child, covering the others (RFC 8794, 11.3.1)."""
    file.seek(element.start)
    first = file.read(_CHECKSUM_BYTES)
    if first[:2] != _CHECKSUM:
        return True
    crc, left = 0, element.end - element.start - _CHECKSUM_BYTES
    while left > 0 and (chunk := file.read(min(left, _CHUNK_BYTES))):
        crc, left = zlib.crc32(chunk, crc), left - len(chunk)
    return crc == int.from_bytes(first[2:], "little")


def _read_element(file: Bytes, at: int, unknown_end: int | None = None) -> Element:
    """Read the head of an element, which ends at `unknown_end` if its size is unknown.

    With None, an element of unknown size counts as empty.
    """
    _, size_at = _read_number(file, at)
    file.seek(at)
    kind = int.from_bytes(file.read(size_at - at), "big")
    size, start = _read_number(file, size_at)
    if size == 2 ** (7 * (start - size_at)) - 1:  # all ones: unknown
        return Element(kind, start, start if unknown_end is None else unknown_end)
    return Element(kind, start, start + size)


def _read_number(file: Bytes, at: int) -> tuple[int, int]:
    """Return a number of variable length (RFC 8794, section 4) and the place behind it."""
    file.seek(at)
    first = file.read(1)
    if not first or not first[0]:
        raise Broken(f"its structure is broken at byte {at}")
    length = 9 - first[0].bit_length()
    rest = file.read(length - 1)
    if len(rest) < length - 1:
        raise Broken(f"its structure is broken at byte {at}")
    number = int.from_bytes(first + rest, "big") & (1 << 7 * length) - 1
    return number, at + length


def _check_ogg(file: Bytes, size: int) -> None:
    expected: dict[bytes, int] = {}
    ended: set[bytes] = set()
    at = 0
    while at < size:
        head = _read_at(file, at, _OGG_HEAD_BYTES)
        if not head.startswith(b"OggS"[: len(head)]):
            raise Broken(f"its structure is broken at byte {at}")
        lengths = file.read(head[-1])
        content = file.read(sum(lengths))
        if len(head) < _OGG_HEAD_BYTES or len(lengths) < head[-1] or len(content) < sum(lengths):
            raise Broken(f"cut off in the page at byte {at}")
        checked = head[:22] + bytes(4) + head[26:] + lengths + content
        if _checksum(checked) != int.from_bytes(head[22:26], "little"):
            raise Broken(f"a checksum differs at byte {at}")
        stream, number = head[14:18], int.from_bytes(head[18:22], "little")
        if head[5] & _OGG_FIRST:  # of a video, which may follow another one of the same number
            expected[stream] = number
            ended.discard(stream)
        if missing := (number - expected.get(stream, 0)) % 2**32:
            raise Broken(f"{missing} pages are missing before byte {at}")
        expected[stream] = number + 1
        if head[5] & _OGG_LAST:
            ended.add(stream)
        at += len(head) + len(lengths) + len(content)
    if expected.keys() - ended:
        raise Broken("cut off, the end of a stream is missing")


def _checksum(content: bytes, begun_at: int = 0) -> int:
    """Return the CRC-32 of Ogg (RFC 3533) and FFV1 (RFC 9043): zlib's, bits in the other order."""
    begun = int.from_bytes(begun_at.to_bytes(4, "big").translate(_MIRRORED), "little")
    mirrored = zlib.crc32(content.translate(_MIRRORED), begun ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_MIRRORED), "big")


def _check_y4m(file: Bytes, frame_bytes: int) -> None:
    at = len(_read_line(file, 0))
    while line := _read_line(file, at):
        if not line.startswith(b"FRAME"[: len(line)]):
            raise Broken(f"its structure is broken at byte {at}")
        end = at + len(line) + frame_bytes
        if not _read_at(file, end - 1, 1):
            raise Broken(f"cut off in the frame at byte {at}")
        at = end


def _read_line(file: Bytes, at: int) -> bytes:
    """Return the line at a place; only its first `_MOST_LINE_BYTES` if it is longer."""
    line = b""
    file.seek(at)
    while len(line) < _MOST_LINE_BYTES and not line.endswith(b"\n") and (byte := file.read(1)):
        line += byte
    return line


def _check_asf(file: Bytes, size: int) -> None:
    head = _read_at(file, 0, _ASF_OBJECT_BYTES)
    header_end = int.from_bytes(head[16:], "little")
    header = _read_at(file, 0, min(header_end, _CHUNK_BYTES))
    at = header.find(_ASF_PROPERTIES, _ASF_OBJECT_BYTES)
    fields = header[at + _ASF_OBJECT_BYTES :]
    if at < 0 or len(fields) < 72 or fields[64] & _ASF_BROADCAST:
        return
    data = _read_at(file, header_end, _ASF_DATA_HEAD_BYTES)
    packet_bytes = int.from_bytes(fields[68:72], "little")
    if data.startswith(_ASF_DATA) and packet_bytes:
        data_end = min(size, header_end + int.from_bytes(data[16:24], "little"))
        starts = range(header_end + _ASF_DATA_HEAD_BYTES, data_end - 2, packet_bytes)
        _check_asf_packets(file, starts)
    if (missing := int.from_bytes(fields[16:24], "little") - size) > 0:
        raise Broken(f"cut off, {missing} bytes are missing")


def _check_asf_packets(file: Bytes, starts: range) -> None:
    """Check the flags that each packet begins with (ASF 01.20.05, section 5.2)."""
    usual: bytes | None = None
    for at in starts:
        head = _read_at(file, at, 18)
        usual = usual or head[:1]
        correction_bytes = 1 + (head[0] & 0x0F) if head[0] & 0x80 else 0
        properties = head[correction_bytes + 1 : correction_bytes + 2]
        if head[:1] != usual or (properties and properties[0] & 0xC0 != 0x40):
            raise Broken(f"its structure is broken at byte {at}")


def _check_flv(file: Bytes, size: int) -> None:
    at, total_bytes = int.from_bytes(_read_at(file, 5, 4), "big") + 4, 0
    usual_step: int | None = None
    while at < size:
        head = _read_at(file, at, _FLV_TAG_HEAD_BYTES)
        content_bytes = int.from_bytes(head[1:4], "big")
        end = at + _FLV_TAG_HEAD_BYTES + content_bytes
        total_bytes += _FLV_TAG_HEAD_BYTES + content_bytes
        stated = int.from_bytes(_read_at(file, end, 4), "big")
        # Writers count the head of a tag, or its content alone, or all tags together.
        usual_step = stated - content_bytes if usual_step is None else usual_step
        is_tag = stated in (content_bytes + usual_step, total_bytes)
        if end > size:
            raise Broken(f"cut off in the tag at byte {at}")
        if not is_tag and end + 4 <= size:
            raise Broken(f"its structure is broken at byte {at}")
        at = end + 4


def _check_fragments(file: Bytes, size: int) -> None:
    at = max((box.end for box in boxes_in(file, 0, size)), default=0)
    if at < size and _begins_fragments(file, size) and _holds(file, at, (b"moof", b"mdat")):
        raise Broken(f"its structure is broken at byte {at}")


def _begins_fragments(file: Bytes, size: int) -> bool:
    """Check whether the index of a file, or the last one of several, announces fragments."""
    in_fragments = False
    for box in boxes_in(file, 0, size):
        if box.kind == b"moov":
            index = _read_at(file, box.start, min(box.end - box.start, _CHUNK_BYTES))
            in_fragments = b"mvex" in index
    return in_fragments


def _holds(file: Bytes, at: int, words: tuple[bytes, ...]) -> bool:
    """Check whether one of the words, of four bytes, comes after a place in a file."""
    tail = b""
    while chunk := _read_at(file, at, _CHUNK_BYTES):
        if any(word in tail + chunk for word in words):
            return True
        at, tail = at + len(chunk), chunk[-3:]
    return False


def _riff_ends(file: Bytes) -> Iterator[int]:
    """Yield the ends of all RIFF chunks: long videos have several of up to 2 GiB (OpenDML)."""
    end = 0
    while (head := _read_at(file, end, 8)).startswith(b"RIFF"):
        end += 8 + int.from_bytes(head[4:], "little")
        yield end


def boxes_in(file: Bytes, start: int, end: int, *, any_kind: bool = False) -> Iterator[Box]:
    """Yield the boxes between two places (ISO/IEC 14496-12, section 4.2), up to a non-box.

    Outermost ones are named by letters, unless `any_kind`. A box may state an end beyond `end`.
    """
    at = start
    while at < end and len(head := _read_at(file, at, 16)) >= 8:
        box_bytes, content = int.from_bytes(head[:4], "big"), at + 8
        if not (any_kind or _BOX_LETTERS.issuperset(head[4:8])):
            return
        if box_bytes == 1:
            box_bytes, content = int.from_bytes(head[8:], "big"), at + 16
        if not box_bytes and not any_kind:  # reaches to the end of the file
            box_bytes = end - at
        if box_bytes < content - at:
            return
        yield Box(head[4:8], content, at + box_bytes)
        at += box_bytes


def _read_at(file: Bytes, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)
