"""A convolution after a PixelShuffle, done before it."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.generic)


def kernel_before_shuffle(kernel: NDArray[Number]) -> NDArray[Number]:
    """[O, C, k, k] on a picture shuffled by two -> [4 O, 4 C, k', k'] on the one before, k odd.

    Row 2i + a of the result reads rows 2i + a + d of the shuffled picture, |d| <= k // 2: row
    i + (a + d) // 2 of the picture before, in sub-pixel (a + d) % 2. Channels are in PixelShuffle's
    order: channel, sub-pixel row, sub-pixel column.
    """
    outputs, channels, side, _ = kernel.shape
    reach = side // 2
    folded_reach = (reach + 1) // 2
    folded_side = 2 * folded_reach + 1
    folded = np.zeros((outputs, 2, 2, channels, 2, 2, folded_side, folded_side), kernel.dtype)
    for a, b in np.ndindex(2, 2):
        for row, column in np.ndindex(side, side):
            i, p = divmod(a + row - reach, 2)
            j, q = divmod(b + column - reach, 2)
            taps = kernel[:, :, row, column]
            folded[:, a, b, :, p, q, i + folded_reach, j + folded_reach] = taps
    return folded.reshape(4 * outputs, 4 * channels, folded_side, folded_side)
