"""The segments of a JPEG file (ITU-T T.81, annex B), and what lies behind its end.

Pillow and libjpeg skip segments that they do not know, and never look behind the image, where
cameras append previews, gain maps and videos.
"""

import re
from collections.abc import Iterator

from srgan_edge.image.statements import Found

_IDENTIFIERS = (
    (0, b"JFIF\0", "JFIF"),
    (0, b"JFXX\0", "JFXX"),
    (1, b"Exif\0", "Exif"),
    (1, b"http://ns.adobe.com/xap/1.0/\0", "XMP"),
    (1, b"http://ns.adobe.com/xmp/extension/\0", "extended XMP"),
    (2, b"ICC_PROFILE\0", "ICC_PROFILE"),
    (2, b"MPF\0", "MPF"),
    (2, b"FPXR\0", "FPXR"),
    (2, b"urn:iso:std:iso:ts:21496:-1\0", "gain map"),
    (3, b"_JPSJPS_", "stereo"),
    (11, b"JP", "JUMBF"),
    (12, b"Ducky", "Ducky"),
    (13, b"Photoshop 3.0\0", "Photoshop"),
    (14, b"Adobe", "Adobe"),
)
"""Number of an application segment, how it begins, and its name in `statements`."""

_SOI, _EOI, _SOS, _COM, _DHP = 0xD8, 0xD9, 0xDA, 0xFE, 0xDE
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = {0x01, *range(0xD0, 0xD8)}
_NEXT_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
"""The end of compressed data, in which a marker is anything but a stuffed zero or a restart."""

_IPTC = b"8BIM\x04\x04"
_MOST_SEGMENTS = 10_000

_IN_XMP = (
    ("motion photo", (b"MotionPhoto", b"MicroVideo")),
    ("gain map", (b"hdrgm:", b"HDRGainMap", b'"GainMap"')),
    ("depth map", (b"GDepth:", b'"Depth"', b"DepthMap")),
)
"""Things behind the image that XMP announces by one of these words."""


def statements_of_jpeg(content: bytes) -> Iterator[Found]:
    """Yield the statements of a JPEG file in the order of the file."""
    xmp, behind = b"", b""
    profile: list[bytes] = []
    for marker, start, end in _segments(content):
        if marker == _EOI:
            behind = content[end:]
        elif marker >= 0xE0 and marker != _COM:
            segment = content[start:end]
            name = _name(marker - 0xE0, segment)
            if name == "APP13 Photoshop" and _IPTC in segment:
                yield Found("APP13 IPTC")
            if name in ("APP1 XMP", "APP1 extended XMP"):
                xmp += segment
            if name == "APP2 ICC_PROFILE":
                profile.append(segment[12:14])
            yield Found(name)
        elif marker == _COM:
            yield Found("COM", content[start:end].decode("latin-1").strip("\0"))
        elif marker == _DHP:
            yield Found("DHP")
        elif marker in _FRAMES:
            yield from _of_frame(content[start:end])
    if profile and list(min(profile)[1:]) != [len(profile)]:
        yield Found("ICC_PROFILE in pieces")  # Pillow then has none
    yield from _behind(behind, xmp)


def _behind(behind: bytes, xmp: bytes) -> Iterator[Found]:
    """Yield what follows the end of the image; padding is nothing."""
    announced = [name for name, words in _IN_XMP if any(word in xmp for word in words)]
    if b"ftypmp4" in behind or b"ftypisom" in behind or b"MotionPhoto_Data" in behind:
        announced.append("motion photo")
    yield from (Found(name) for name in dict.fromkeys(announced))
    if behind.strip(b"\0\xff") and not announced:
        # Previews that an index (MPF) lists are counted elsewhere.
        name = "further images" if behind.startswith(b"\xff\xd8\xff") else "behind the end"
        yield Found(name, f"{len(behind)} bytes")


def _of_frame(header: bytes) -> Iterator[Found]:
    if header and header[0] != 8:
        yield Found("SOF of other bits", f"{header[0]} bits")
    elif len(header) > 5 and header[5] not in (1, 3, 4):
        yield Found("SOF of other colors", f"{header[5]} colors")


def _name(number: int, segment: bytes) -> str:
    for of, beginning, name in _IDENTIFIERS:
        if of == number and segment.startswith(beginning):
            return f"APP{number} {name}"
    if number > 15:
        return f"marker {0xE0 + number:02X}"
    word = re.match(rb"[\w.:/ -]{2,24}", segment)
    return f"APP{number}" + (f" {word[0].decode('latin-1').strip()}" if word else "")


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each segment, and where its content starts and ends.

    The last one is the end of the image, if the file has it. Where the file breaks off or is no
    JPEG any more, this ends: decoding finds out.
    """
    place = 0
    for _ in range(_MOST_SEGMENTS):
        found = _NEXT_MARKER.search(content, place)
        if found is None:
            return
        marker, start = found[1][0], found.end()
        if marker in (_SOI, *_ALONE):
            place = start
            continue
        if marker == _EOI:
            yield marker, start, start
            return
        length = int.from_bytes(content[start : start + 2])
        if length < 2 or start + length > len(content):
            return
        yield marker, start + 2, start + length
        place = start + length
