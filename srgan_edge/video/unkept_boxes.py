"""Report the statements of an MP4 file that FFmpeg does not read, so that no result has them.

Every box is named that neither FFmpeg reads (8.0: the table and the tags of libavformat/mov.c) nor
belongs to the structure. How samples are stored and coded (`minf`, `moof`) is made anew.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from srgan_edge.errors import printable
from srgan_edge.video.truncation import Box, boxes_in
from srgan_edge.video.unkept import MOST_NAMES, full_language, listed

_MOST_BOXES = 200_000
"""Boxes that are looked at in all."""

_MOST_BYTES = 4096
"""Bytes of a statement that are read."""


def _words(text: str) -> set[bytes]:
    return {word.ljust(4).encode("latin-1") for word in text.split()}


_PADDING = _words("free skip wide")

_STRUCTURE = {
    b"": _words("ftyp styp moov mdat moof mfra sidx ssix pdin prft meta uuid imda pnot"),
    b"moov": _words("mvhd trak mvex udta meta uuid iods cmov rmra ctab prfl pssh"),
    b"trak": _words("tkhd edts tref trgr mdia udta meta uuid tapt load"),
    b"edts": _words("elst"),
    b"mdia": _words("mdhd hdlr minf elng"),
    b"tref": _words("chap tmcd cdsc hint dpnd ipir mpod sync sbas scal vdep auxl font hind"),
    b"udta": _words("meta hnti tsel chpl kind WLOC LOOP SelO AllF ptv SDLN smrd"),
    b"meta": _words("hdlr ilst keys dinf iloc iinf iref iprp idat pitm ipro mhdr ctry lang"),
    b"ilst": _words("---- covr"),
}
"""Box -> the boxes in it that FFmpeg reads, or that say how the file is made or, in `udta`, about
windows of QuickTime and fixed words of Samsung; b"" is the file."""

_TAGS = _words(
    "@PRM @PRQ aART akID apID catg cpil cprt desc disk egid FIRM gnre hdvd HMMT keyw ldes loci "
    "manu modl name pcst pgap purd rtng soaa soal soar soco sonm sosn stik trkn tven tves tvnn "
    "tvsh tvsn ©ART ©PRD ©alb ©aut ©chp ©cmt ©com ©cpy ©day ©dir ©dis ©ed1 ©enc ©fmt ©gen ©grp "
    "©hst ©inf ©lyr ©mak ©mod ©nam ©ope ©prd ©prf ©req ©src ©st3 ©swr ©too ©trk ©url ©wrn ©wrt ©xyz"
)
"""Boxes of `udta` and `ilst` that FFmpeg reads as tags."""

_TYPES = frozenset((0, 1, 3, 4, 21, 22, 23))
"""Types of values that FFmpeg reads: text in UTF-8 or of old Macs, integers, a float of 32 bits."""

_ARTWORK, _IMAGES = "com.apple.quicktime.artwork", frozenset((13, 14, 27))

_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_SPHERICAL = bytes.fromhex("ffcc8263f8554a938814587a02521fdd")
_SPHERICAL_NEEDS = b"GSpherical:StitchingSoftware>"  # or FFmpeg does not read it

_UUIDS_OF_STRUCTURE = {
    bytes.fromhex("a5d40b30e81411ddba2f0800200c9a66"),  # manifest of Smooth Streaming
    bytes.fromhex("d08a4f1810f34a82b6c832d8aba183d3"),  # protection, as `pssh`
    bytes.fromhex("50524f4621d24fcebb88695cfac9c740"),  # profile of the coding, of Sony
}

_ROLES_SCHEME = "urn:mpeg:dash:role:2011"
_ROLES = ("caption", "commentary", "description", "dub", "forced-subtitle")
"""Roles that FFmpeg reads."""

_NORMAL_SPEED = 1 << 16


def unkept_boxes(path: Path) -> list[str]:
    """Return a line for each kind of statement in an MP4 or MOV file that no result keeps.

    Of a broken file, it is what comes before the break; of a huge number of boxes, the first.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        reading = _Reading(file)
        reading.read(Box(b"", 0, path.stat().st_size))
        return list(reading.lines())


class _Reading:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._looked_at = 0
        self._code = "und"  # the language of the track that is being read
        self._stated: dict[str, None] = {}  # in the order of discovery, as all of these
        self._languages: dict[str, None] = {}
        self._speeds: dict[str, None] = {}
        self._keys: list[str] = []  # of the `meta` that is being read
        self._values: dict[str, None] = {}
        self._boxes: dict[str, None] = {}

    def read(self, parent: Box) -> None:
        """Look at the boxes in a box, and at those in them."""
        known = _STRUCTURE[parent.kind] | _PADDING
        tags = _TAGS if parent.kind in (b"udta", b"ilst") else set()
        start = parent.start
        if parent.kind == b"meta" and self._content(parent)[4:8] != b"hdlr":
            start += 4  # version and flags, which QuickTime does not have
        for box in boxes_in(self._file, start, parent.end, any_kind=bool(parent.kind)):
            self._looked_at += 1
            if self._looked_at > _MOST_BOXES:
                return
            if parent.kind == b"ilst" and box.kind[:1] in (b"\0", b"\xa9"):
                self._value(box)
            is_key = parent.kind == b"ilst" and box.kind[0] == 0  # the number of one of `keys`
            if box.kind in (b"uuid", b"XMP_", b"kind", b"elng", b"elst", b"mdhd", b"keys"):
                self._statement(box)
            elif box.kind not in known | tags and not is_key:
                self._boxes[f"`{printable(box.kind.decode('latin-1')).strip()}`"] = None
            elif box.kind in _STRUCTURE:
                self.read(box._replace(end=min(box.end, parent.end)))

    def lines(self) -> Iterator[str]:
        yield from islice(self._stated, MOST_NAMES)
        if self._languages:
            yield f"the full languages of tracks: {listed(self._languages)}"
        if self._speeds:
            yield f"the speeds of edits, {listed(self._speeds)}: all is played at 1"
        if self._values:
            yield f"the tags {listed(self._values)}, whose types FFmpeg does not read"
        if self._boxes:
            yield f"what FFmpeg does not read, in the boxes {listed(self._boxes)}"

    def _content(self, box: Box) -> bytes:
        self._file.seek(box.start)
        return self._file.read(min(box.end - box.start, _MOST_BYTES))

    def _statement(self, box: Box) -> None:
        content = self._content(box)
        match box.kind:
            case b"uuid":
                self._own_kind(content)
            case b"XMP_":
                self._stated["an XMP packet"] = None
            case b"kind":
                self._role(content)
            case b"mdhd":
                self._code = _code_of(content)
            case b"keys":
                self._keys = list(_keys_of(content))
            case b"elng":
                tag = _text(content[4:])
                if line := full_language(tag, self._code):
                    self._languages[line] = None
            case _:
                self._speeds.update((f"{speed:g}", None) for speed in _speeds_of(content))

    def _value(self, tag: Box) -> None:
        content = self._content(tag)
        number = int.from_bytes(tag.kind, "big")
        name = printable(tag.kind.decode("latin-1"))
        if tag.kind[0] == 0:
            name = self._keys[number - 1] if 0 < number <= len(self._keys) else f"number {number}"
        kind = int.from_bytes(content[8:12], "big")
        is_read = kind in (_IMAGES if name == _ARTWORK else _TYPES)
        if content[4:8] == b"data" and not is_read:
            self._values[f"`{name}`"] = None

    def _own_kind(self, content: bytes) -> None:
        kind = content[:16]
        if kind == _XMP:
            self._stated["an XMP packet"] = None
        elif kind == _SPHERICAL:
            if _SPHERICAL_NEEDS not in content:
                self._stated["that it is spherical (GSpherical without StitchingSoftware)"] = None
        elif kind not in _UUIDS_OF_STRUCTURE:
            self._boxes[f"`uuid` {kind.hex()}"] = None

    def _role(self, content: bytes) -> None:
        scheme, _, value = content[4:].partition(b"\0")
        named = _text(scheme), _text(value)
        if named[0] != _ROLES_SCHEME or named[1] not in _ROLES:
            self._stated[f"the role {' of '.join(reversed(named))}"] = None


def _text(content: bytes) -> str:
    return printable(content.partition(b"\0")[0].decode(errors="replace"))[:200]


def _keys_of(content: bytes) -> Iterator[str]:
    """Yield the names in a `keys` box, as far as it was read."""
    at = 8
    while (size := int.from_bytes(content[at : at + 4], "big")) >= 8:
        yield _text(content[at + 8 : at + size])
        at += size


def _code_of(header: bytes) -> str:
    """Return the language that `mdhd` states, in three letters of 5 bits."""
    at = 32 if header[:1] == b"\1" else 20
    packed = int.from_bytes(header[at : at + 2], "big")
    letters = [(packed >> shift & 31) + 96 for shift in (10, 5, 0)]
    return "".join(map(chr, letters)) if all(97 <= it <= 122 for it in letters) else "und"


def _speeds_of(edits: bytes) -> Iterator[float]:
    """Yield the speeds of the edits that show something, other than 1."""
    time_bytes = 8 if edits[:1] == b"\1" else 4
    size = 2 * time_bytes + 4
    for at in range(8, len(edits) - size + 1, size):
        start = int.from_bytes(edits[at + time_bytes : at + 2 * time_bytes], "big", signed=True)
        speed = int.from_bytes(edits[at + 2 * time_bytes : at + size], "big", signed=True)
        if start >= 0 and speed != _NORMAL_SPEED:
            yield speed / _NORMAL_SPEED
