"""Steps that make an image upright (EXIF 2.32, tag 0x0112), for whole images and for some rows."""

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt


@dataclass(frozen=True)
class Turn:
    """The steps that make a raw image upright: reverse rows, reverse columns, exchange both."""

    rows: bool
    columns: bool
    exchanged: bool

    def upright(self, raw: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the upright image, [H, W, C], as a view."""
        turned = raw[:: -1 if self.rows else 1, :: -1 if self.columns else 1]
        return turned.swapaxes(0, 1) if self.exchanged else turned

    def raw_box(self, start: int, stop: int, width: int, height: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of the raw pixels of the upright rows."""
        if self.exchanged:
            first = width - stop if self.columns else start
            return first, 0, first + stop - start, height
        first = height - stop if self.rows else start
        return 0, first, width, first + stop - start


TURNS = {
    1: Turn(False, False, False),
    2: Turn(False, True, False),
    3: Turn(True, True, False),
    4: Turn(True, False, False),
    5: Turn(False, False, True),
    6: Turn(True, False, True),
    7: Turn(True, True, True),
    8: Turn(False, True, True),
}
"""EXIF orientation -> turn."""
