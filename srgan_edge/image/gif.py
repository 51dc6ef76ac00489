"""Blocks of a GIF, and the parts that its frames paint: browsers show the others as transparent.

Pillow fills them with a color: with the first of the palette around a first frame that is smaller
than the image, and with the background where a frame was taken away again.
"""

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL.GifImagePlugin import GifImageFile

_TO_BACKGROUND, _TO_PREVIOUS = 2, 3
"""Disposal methods of the 89a specification, section 23: what becomes of a frame after its time."""


class Painted:
    """Follows an animation frame by frame, from its first one."""

    def __init__(self) -> None:
        self.pixels: npt.NDArray[np.bool_] = np.zeros((0, 0), bool)
        """[H, W]: True where the current frame or one before it has painted."""
        self._left = self.pixels  # what the next frame finds

    def take(self, image: GifImageFile) -> None:
        """Note the frame that `image` is at."""
        width, height = image.size
        before = np.zeros((height, width), bool)  # Pillow enlarges images for their frames
        before[: len(self._left), : self._left.shape[1]] = self._left
        self.pixels = before.copy()
        assert image.dispose_extent is not None
        left, top, right, bottom = image.dispose_extent
        self.pixels[top:bottom, left:right] = True
        self._left = self.pixels
        if image.disposal_method == _TO_PREVIOUS:
            self._left = before
        elif image.disposal_method == _TO_BACKGROUND:
            self._left = self.pixels.copy()
            self._left[top:bottom, left:right] = False


def blocks_of(file: BinaryIO) -> Iterator[bytes]:
    """Yield the first byte of each block, with the file positioned behind it.

    It is `!` for an extension, `,` for a frame and `;` for the end. Bytes that begin none are
    passed over, as Pillow does.
    """
    file.seek(0)
    screen = file.read(13)
    if len(screen) < 13:
        return
    file.seek(13 + _color_table_bytes(screen[10]))
    while first := file.read(1):
        if first not in (b"!", b",", b";"):
            continue
        place = file.tell()
        yield first
        if first == b";":
            return
        file.seek(place)
        head = file.read(1 if first == b"!" else 9)
        if first == b"," and len(head) == 9:
            file.seek(_color_table_bytes(head[8]) + 1, 1)
        while (length := file.read(1)) and length[0]:
            file.seek(length[0], 1)


def last_block(file: BinaryIO) -> bytes:
    """Return the first byte of the last block: `;` unless the end is missing.

    With an extension as its last, a file ends before the frame that this belongs to.
    """
    last = b""
    for block in blocks_of(file):
        last = block
    return last


def _color_table_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
