"""Images made byte by byte, where Pillow cannot write them, and a search inside images."""

import itertools
import struct
import zlib

import numpy as np

from srgan_edge.pixels import Pixels

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, content: bytes = b"") -> bytes:
    """One chunk of a PNG (ISO 15948, section 5.3)."""
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def png(width: int, height: int, depth: int, color_type: int, rows: bytes, *chunks: bytes):
    """A PNG of `rows` with their filter bytes; `chunks`: types and contents, placed before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    others = b"".join(chunk(each[:4], each[4:]) for each in chunks)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return SIGNATURE + chunk(b"IHDR", header) + others + pixels + chunk(b"IEND")


def icc_profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC v2 profile (ICC.1:2001-04, section 6)."""
    table, content, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data = data.ljust(-(-len(data) // 4) * 4, b"\0")
        table += name + struct.pack(">II", offset, len(data))
        content += data
        offset += len(data)
    white = struct.pack(">iii", 63190, 65536, 54061)
    header = struct.pack(">I4xI", offset, 0x02100000) + kind + space + connection
    header = (header + bytes(12) + b"acsp").ljust(68, b"\0") + white
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + content


def cmyk_profile() -> bytes:
    """A press whose inks have no hue and darken alike: white paper, black solid ink."""
    grid = itertools.product((0, 1), repeat=4)
    lightness = b"".join(bytes([255 * max(0, 2 - sum(inks)) // 2, 128, 128]) for inks in grid)
    matrix = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    line = bytes(range(256))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + 4 * line + lightness + 3 * line
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"cmyk\0" + bytes(78)
    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
    tags = {b"desc": text, b"wtpt": white, b"A2B0": lut}
    return icc_profile(b"prtr", b"CMYK", b"Lab ", tags)


def holds(sheet: Pixels, part: Pixels) -> bool:
    """Return True if `part` occurs in `sheet`, pixel for pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(sheet, part.shape)[..., 0, :, :, :]
    ends = (windows[:, :, 0, 0] == part[0, 0]) & (windows[:, :, -1, -1] == part[-1, -1])
    return any((windows[y, x] == part).all() for y, x in np.argwhere(ends.all(-1)))
