"""Square windows of images stored flat in one array: cut, flipped and turned in one gather.

The specification is slicing, then the transpose and the reversals described at `Windows.turn`; the
test compares with that. The caller chooses the windows.
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
    """Positions of windows of one side, in pixels of an array; int64 [B] each."""

    offset: Numbers
    """Index of the image's first pixel; its rows follow one after another."""
    height: Numbers
    """Height of the image."""
    width: Numbers
    """Width of the image."""
    top: Numbers
    left: Numbers
    turn: Numbers
    """Bits in [0, 8): 4 exchanges rows and columns, then 2 reverses the rows, 1 the columns."""

    def __getitem__(self, chosen: Numbers) -> "Windows":
        return Windows(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def times(self, scale: int) -> "Windows":
        """Return the same positions in an array of images `scale` times the size."""
        lengths = (self.height, self.width, self.top, self.left)
        height, width, top, left = (scale * length for length in lengths)
        return Windows(scale**2 * self.offset, height, width, top, left, self.turn)


def gather(arrays: list[Tensor], windows: Windows, side: int, margin: int) -> list[Tensor]:
    """Cut the same windows out of each array uint8 [P, 3], on its device.

    Returns:
        uint8 [B, 3, n, n] for each array, with n = side + 2 margin, strided as channels_last. Where
        the margin extends beyond the image, its edge is replicated.
    """
    device = arrays[0].device
    rows, columns = (torch.from_numpy(step).to(device) for step in _steps(windows, side, margin))
    index = rows[:, :, None] + columns[:, None, :]
    shape = (*index.shape, 3)
    pixels = (array.index_select(0, index.flatten()).view(shape) for array in arrays)
    return [batch.permute(0, 3, 1, 2) for batch in pixels]


def _steps(windows: Windows, side: int, margin: int) -> tuple[Numbers, Numbers]:
    """Return int64 [B, n] twice: the contributions of row and column to a pixel's index.

    Turning a window only changes the direction of its rows and columns through the image.
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
