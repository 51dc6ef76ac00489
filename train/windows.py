"""Square windows of images that lie flat in one array: cut, flipped and turned in one gather.

The specification is slicing, then the transpose and the reversals named at `Windows.turn`; the test
compares with that. Which windows to take is the caller's business.
"""

from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Numbers: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """Where windows of one side lie, in pixels of an array; int64 [B] each."""

    offset: Numbers
    """The image's first pixel; its rows follow one after another."""
    height: Numbers
    """Of the image."""
    width: Numbers
    """Of the image."""
    top: Numbers
    left: Numbers
    turn: Numbers
    """In [0, 8), by bits: 4 exchanges rows and columns, then 2 reverses the rows, 1 the columns."""

    def __getitem__(self, chosen: Numbers) -> "Windows":
        """Those with these numbers, in this order."""
        return Windows(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def times(self, scale: int) -> "Windows":
        """The same places in an array of images `scale` times the size."""
        lengths = (self.height, self.width, self.top, self.left)
        height, width, top, left = (scale * length for length in lengths)
        return Windows(scale**2 * self.offset, height, width, top, left, self.turn)


def gather(arrays: list[Tensor], windows: Windows, side: int, margin: int) -> list[Tensor]:
    """The same windows out of each array uint8 [P, 3], on its device.

    Returns:
        For each array, uint8 [B, 3, n, n] with n = side + 2 margin, strided as channels_last. Where
        the margin goes beyond the image, its edge is replicated.
    """
    device = arrays[0].device
    rows, columns = (torch.from_numpy(step).to(device) for step in _steps(windows, side, margin))
    index = rows[:, :, None] + columns[:, None, :]
    shape = (*index.shape, 3)
    pixels = (array.index_select(0, index.flatten()).view(shape) for array in arrays)
    return [batch.permute(0, 3, 1, 2) for batch in pixels]


def _steps(windows: Windows, side: int, margin: int) -> tuple[Numbers, Numbers]:
    """int64 [B, n] twice: what a window's row, and what its column, adds to a pixel's index.

    Turning a window only changes which way its rows and columns run through the image.
    """
    inside = np.arange(-margin, side + margin)
    exchanged = (windows.turn[:, None] & 4) > 0
    steps = []
    for reversed_by, runs_across in ((2, exchanged), (1, ~exchanged)):
        is_reversed = (windows.turn[:, None] & reversed_by) > 0
        place = np.where(is_reversed, side - 1 - inside, inside)
        place += np.where(runs_across, windows.left[:, None], windows.top[:, None])
        length = np.where(runs_across, windows.width[:, None], windows.height[:, None])
        stride = np.where(runs_across, 1, windows.width[:, None])
        steps.append(place.clip(0, length - 1) * stride)
    return windows.offset[:, None] + steps[0], steps[1]
