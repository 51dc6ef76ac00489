"""Suffixes of images and videos: those that files have, and those that their first bytes stand for.

The first process of a command imports this before any library.
"""

import re
from pathlib import Path

from srgan_edge.errors import InputRefused, quoted

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mkv", ".mk3d", ".webm", ".avi"}
    | {".divx", ".ts", ".mts", ".m2ts", ".m2t", ".tod", ".mpg", ".mpeg", ".mpe", ".m2p", ".mod"}
    | {".vob", ".flv", ".wmv", ".asf", ".ogv", ".ogm", ".y4m"}
)
"""Suffixes, in lowercase, of files that are read as videos; opening one checks its content."""

_TS_PACKET_BYTES = 188
_FIRST_BYTES = 4 + 3 * _TS_PACKET_BYTES

_SIGNATURES = {
    ".png": rb"\x89PNG\r\n\x1a\n",
    ".jpg": rb"\xff\xd8\xff",
    ".gif": rb"GIF8[79]a",
    ".webp": rb"RIFF....WEBP",
    ".tif": rb"II[*+]\0|MM\0[*+]",
    ".bmp": rb"BM.{4}\0{4}",
    ".avif": rb"....ftyp(.{4}){0,12}?avi[fs]",
    ".heic": rb"....ftyp(hei[cxms]|mif1)",
    ".jp2": rb"\0\0\0\x0cjP  \r\n\x87\n",
    ".j2k": rb"\xff\x4f\xff\x51",
    ".ppm": rb"P[1-6fF]\s",
    ".mp4": rb"....ftyp(?!qt  )",
    ".mov": rb"....(ftyp|moov|mdat|wide|free|skip)",
    ".mkv": rb"\x1a\x45\xdf\xa3",
    ".avi": rb"RIFF....AVI ",
    ".flv": rb"FLV\x01",
    ".ogv": rb"OggS\0",
    ".wmv": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    ".y4m": rb"YUV4MPEG2 ",
    ".mpg": rb"\0\0\x01\xba",
    ".ts": rb"\x47.{187}\x47.{187}\x47",
    ".m2ts": rb".{4}\x47.{191}\x47.{191}\x47",
}
"""Suffix of a format -> the bytes that its files begin with; the first that fits. All are read but
HEIC, the photographs of iPhones, which FFmpeg takes for a video of their tiles."""


def suffix_by_content(path: Path) -> str | None:
    """Return the suffix that a file would have by its first bytes; None if they say nothing.

    Only a name is judged here. Whoever opens the file checks all of it.

    Raises:
        OSError: there is no such file, or it cannot be read.
    """
    if path.exists() and not path.is_file():
        return None
    with path.open("rb") as file:
        return suffix_of(file.read(_FIRST_BYTES))


def suffix_of(head: bytes) -> str | None:
    """Return the suffix of a file that begins with these bytes; None if they say nothing."""
    matches = (suffix for suffix, begin in _SIGNATURES.items() if re.match(begin, head, re.DOTALL))
    return next(matches, None)


def heic_refused(path: Path) -> InputRefused:
    """Return the error about a photograph in HEIC."""
    return InputRefused(
        f"{path}: a photograph in HEIC, which is not read; convert it first, for example with: "
        f"magick {quoted(Path(f'heic:{path}'))} {quoted(Path(f'{path.stem}.png'))}"
    )
