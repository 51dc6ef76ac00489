"""Find packets that are missing from an MPEG transport stream, by their counters.

Every packet of 188 bytes counts modulo 16 within its stream (ISO/IEC 13818-1, 2.4.3.3). A counter
is interrupted where packets are missing, but also where two recordings were joined, and there
nothing is missing. A join is recognized by its clock, which jumps, or by the table of programs,
which every stream begins with and whose counter starts again.
"""

from collections.abc import Collection
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from srgan_edge.video.truncation import Bytes

_Bytes = npt.NDArray[np.uint8]

_PACKET, _SYNC, _PAT = 188, 0x47, 0
_LAYOUTS = ((188, 0), (192, 4), (204, 0))
"""Distance of packets and place of the first in bytes: plain, Blu-ray, with error correction."""

_PACKETS_AT_A_TIME = 1 << 16
_MARKS = 4
"""Marks in a row, at the distance of packets, that are no chance."""
_NEARBY_PACKETS = 64
"""Within so many packets the next one is looked for at once."""
_MOST_BREAKS = 10_000
_LARGEST_STEP_SECONDS = 10
"""A clock that goes further between two packets, or back, is that of another recording."""


class Hole(NamedTuple):
    """Packets that are missing."""

    seconds: Fraction
    """Time of the stream's clock before the hole; 0 if it stated none yet."""


class _Break(NamedTuple):
    """A packet whose counter does not continue the one before in its stream."""

    before: int
    """Number in the file of the packet before it."""
    at: int


class _Scan:
    """State of reading one file."""

    def __init__(self, pids: Collection[int]) -> None:
        self.pids = sorted({*pids, _PAT})
        self.breaks: dict[int, list[_Break]] = {pid: [] for pid in self.pids}
        self.restarts: list[int] = []
        """Packets with the table of programs whose counter is 0."""
        self.clock: list[tuple[int, Fraction]] = []
        """Numbers of packets, and the time in seconds that they state."""
        self._last: dict[int, tuple[int, int]] = {}  # number and counter by PID
        self._packets = 0  # read so far

    def add(self, packets: _Bytes) -> None:
        """Read the next packets, uint8 [N, 188]."""
        first, self._packets = self._packets, self._packets + len(packets)
        pid = (packets[:, 1].astype(np.int32) & 0x1F) << 8 | packets[:, 2]
        counters: _Bytes = packets[:, 3] & np.uint8(0x0F)
        has_content = packets[:, 3] & 0x10 != 0
        has_field = (packets[:, 3] & 0x20 != 0) & (packets[:, 4] > 0)
        is_announced = has_field & (packets[:, 5] & 0x80 != 0)
        is_clock = has_field & (packets[:, 5] & 0x10 != 0)
        for wanted in self.pids:
            numbers = np.flatnonzero((pid == wanted) & has_content)
            self._count(wanted, numbers, counters, is_announced, first)
        for number in np.flatnonzero(is_clock & np.isin(pid, self.pids)):
            base = int.from_bytes(packets[number, 6:11].tobytes(), "big") >> 7
            self.clock.append((first + int(number), Fraction(base, 90_000)))

    def _count(
        self,
        pid: int,
        numbers: npt.NDArray[np.intp],
        counters: _Bytes,
        announced: npt.NDArray[np.bool_],
        first: int,
    ) -> None:
        if not len(numbers):
            return
        now = counters[numbers].astype(np.int32)
        number_before, counter_before = self._last.get(pid, (-1, int(now[0]) - 1))
        before = np.concatenate([[counter_before], now[:-1]])
        step = (now - before) % 16
        for place in np.flatnonzero((step > 1) & ~announced[numbers]):
            at = first + int(numbers[place])
            previous = number_before if place == 0 else first + int(numbers[place - 1])
            if len(self.breaks[pid]) < _MOST_BREAKS:
                self.breaks[pid].append(_Break(previous, at))
        if pid == _PAT:
            self.restarts += [first + int(number) for number in numbers[now == 0]]
        self._last[pid] = first + int(numbers[-1]), int(now[-1])


class Examined(NamedTuple):
    """The parts that a transport stream lacks by its own account."""

    holes: list[Hole]
    """In the order of the file."""
    bytes_missing: int
    """Bytes that its last packet lacks."""


def examined(path: Path, pids: Collection[int]) -> Examined:
    """Find out where packets of some streams are missing in a file.

    Args:
        pids: the numbers of the streams.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return examined_bytes(file, pids)


def examined_bytes(file: Bytes, pids: Collection[int]) -> Examined:
    """Do the same as `examined`, from the start of a file that is open."""
    scan = _Scan(pids)
    layout = layout_of(file)
    if layout is None:
        return Examined([], 0)
    file.seek(0)
    bytes_missing = _read(file, *layout, scan)
    return Examined(_holes(scan), bytes_missing)


def _read(file: Bytes, stride: int, start: int, scan: _Scan) -> int:
    """Read all packets, passing over what is none; return how many bytes the last one lacks."""
    content, look = b"", _PACKETS_AT_A_TIME  # behind a bad place, few packets are looked at at once
    while True:
        more = file.read(stride * _PACKETS_AT_A_TIME)
        content += more
        everything, at = np.frombuffer(content, np.uint8), 0
        while len(content) - at >= stride * (_MARKS if more else 1):
            left = everything[at : at + look * stride]
            rows = left[: len(left) // stride * stride].reshape(-1, stride)
            marked = rows[:, start] == _SYNC
            good = len(rows) if marked.all() else int(marked.argmin())
            if good:
                scan.add(rows[:good, start : start + _PACKET])
            at += good * stride
            if good == len(rows):
                look = min(2 * look, _PACKETS_AT_A_TIME)
            else:
                look = _MARKS
                at += _next_packet(everything[at : at + _NEARBY_PACKETS * stride], stride, start)
        content = content[at:]
        if not more:
            is_packet = len(content) <= start or content[start] == _SYNC
            return stride - len(content) if content and is_packet else 0


def _next_packet(content: _Bytes, stride: int, start: int) -> int:
    """Return where the next packet begins, of which the marks of some more follow; or the end."""
    marks = content[start:] == _SYNC
    places = marks.copy()
    for number in range(1, _MARKS):
        later = marks[number * stride :]
        places[: len(later)] &= later
    return int(places.argmax()) if places.any() else len(content)


def layout_of(file: Bytes) -> tuple[int, int] | None:
    """Return the distance of packets and the place of the first in bytes; None if it is no stream.

    Reads from where `file` is.
    """
    head = file.read(204 * 8)
    for stride, start in _LAYOUTS:
        marks = head[start::stride]
        if len(marks) >= _MARKS and set(marks) == {_SYNC}:
            return stride, start
    return None


def _holes(scan: _Scan) -> list[Hole]:
    pat_breaks = {found.at for found in scan.breaks[_PAT]}
    restarts = np.array(sorted(pat_breaks | set(scan.restarts)), np.int64)
    numbers = np.array([number for number, _ in scan.clock], np.int64)
    holes: dict[int, Hole] = {}  # by the packet before; a hole often hits several streams
    for pid, breaks in scan.breaks.items():
        if pid == _PAT:
            continue
        for found in breaks:
            begins_again = np.searchsorted(restarts, found.before) < np.searchsorted(
                restarts, found.at
            )
            later = int(np.searchsorted(numbers, found.at))
            earlier = int(np.searchsorted(numbers, found.before, side="right")) - 1
            seconds = scan.clock[earlier][1] if earlier >= 0 else Fraction(0)
            step = Fraction(0)
            if earlier >= 0 and later < len(numbers):
                step = scan.clock[later][1] - seconds
            if not begins_again and 0 <= step <= _LARGEST_STEP_SECONDS:
                holes[found.before] = Hole(seconds)
    return [holes[before] for before in sorted(holes)]
