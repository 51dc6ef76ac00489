"""The pixel formats that everything here passes around."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""uint8, RGB, sRGB as stored: an image is [H, W, 3], a batch [N, H, W, 3]."""

DeepPixels: TypeAlias = npt.NDArray[np.uint16]
"""uint16 [H, W, C], full range: 65535 is white, as 255 is in `Pixels`."""

LEVEL = 257
"""One 8-bit level in 16 bits: 255 * 257 = 65535."""
