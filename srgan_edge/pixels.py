"""The one pixel format everything here passes around."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""uint8, RGB, sRGB as stored: a picture is [H, W, 3], a batch [N, H, W, 3]."""
