"""Report the names of services in an MPEG transport stream, which no result keeps.

They are in the service description table (ETSI EN 300 468, 5.2.3), which FFmpeg reads as tags of
programs, and not of the file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from srgan_edge.errors import printable
from srgan_edge.video.transport import layout_of
from srgan_edge.video.unkept import listed

_PACKET_BYTES = 188
_MARK = 0x47
_PID, _TABLE, _SERVICE = 0x11, 0x42, 0x48
_MOST_PACKETS = 50_000
"""Packets that are looked at: the table comes every 2 s (ETSI TR 101 211), in 37 Mbit/s here."""

_BY_DEFAULT = {"", "FFmpeg", "Service01"}
"""Names that FFmpeg writes where nobody has named a service."""


def unkept_services(path: Path) -> list[str]:
    """Return a line with the names of the services and their providers; none if there are none.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        table = next(_tables(_packets(file)), b"")
    names = dict.fromkeys(name for name in _names(table) if name not in _BY_DEFAULT)
    return [f"the names of the service: {listed(names)}"] if names else []


def _packets(file: BinaryIO) -> Iterator[bytes]:
    if layout := layout_of(file):
        stride, start = layout
        file.seek(start)
        for _ in range(_MOST_PACKETS):
            packet = file.read(stride)
            if len(packet) < _PACKET_BYTES or packet[0] != _MARK:
                return
            yield packet[:_PACKET_BYTES]


def _tables(packets: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the sections of the table, without the checksum at the end of each."""
    section = b""
    for packet in packets:
        pid = (packet[1] & 0x1F) << 8 | packet[2]
        if pid != _PID or not packet[3] & 0x10:
            continue
        content = packet[5 + packet[4] :] if packet[3] & 0x20 else packet[4:]
        if packet[1] & 0x40:  # a section begins
            section = content[1 + content[0] :] if content else b""
        elif section:
            section += content
        size = 3 + (int.from_bytes(section[1:3], "big") & 0xFFF)
        if len(section) >= max(size, 4):
            if section[0] == _TABLE:
                yield section[: size - 4]
            section = b""


def _names(table: bytes) -> Iterator[str]:
    """Yield provider and name of each service in a section of the table."""
    at = 11
    while at + 5 <= len(table):
        end = at + 5 + (int.from_bytes(table[at + 3 : at + 5], "big") & 0xFFF)
        descriptor = at + 5
        while descriptor + 2 <= min(end, len(table)):
            content = table[descriptor + 2 : descriptor + 2 + table[descriptor + 1]]
            if table[descriptor] == _SERVICE and len(content) > 2:
                provider, rest = content[2 : 2 + content[1]], content[2 + content[1] :]
                yield _text(rest[1 : 1 + rest[0]] if rest else b"")
                yield _text(provider)
            descriptor += 2 + table[descriptor + 1]
        at = end


def _text(content: bytes) -> str:
    """Return text of DVB (annex A), of which only the most frequent tables are known here."""
    if content[:1] == b"\x15":
        return printable(content[1:].decode(errors="replace"))
    if content[:1] < b"\x20":
        content = content[3:] if content[:1] == b"\x10" else content[1:]
    return printable(content.decode("latin-1")).strip()
