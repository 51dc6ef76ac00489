"""The pixel formats that everything here passes around, and the luma of one."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""uint8, RGB, sRGB as stored: an image is [H, W, 3], a batch [N, H, W, 3]."""

Gray: TypeAlias = npt.NDArray[np.uint8]
"""uint8 [H, W]: the luma of an image."""

DeepPixels: TypeAlias = npt.NDArray[np.uint16]
"""uint16 [H, W, C], full range: 65535 is white, as 255 is in `Pixels`."""

LEVEL = 257
"""One 8-bit level in 16 bits: 255 * 257 = 65535."""


def luma_of(pixels: Pixels) -> Gray:
    """Return BT.601 luma of an image in full range, by integers alone: uint8 [H, W]."""
    return (pixels @ np.array([77, 150, 29], np.int32) + 128 >> 8).astype(np.uint8)
