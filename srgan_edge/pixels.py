"""The one pixel format everything here passes around."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""uint8, RGB, sRGB as stored: an image is [H, W, 3], a batch [N, H, W, 3]."""


# More than 8 bits a channel through a network that sees 8: where it adds nothing, the rest stays.
#
# Enlarged bytes have steps of 257 of 65535, which show as bands in a sky, a fog or a dark wall.
# What a network does in such places is what interpolation does, give or take the rounding on
# either side; what it draws anywhere else is far more. So where its answer is as near to the
# interpolated deep image as bytes can tell, that image is the answer, and where it is not, the
# network's is.
#
# Where the deep pixels come from, and what writes them, is the caller's business.
DeepPixels: TypeAlias = npt.NDArray[np.uint16]
"""uint16 [H, W, C], full range: 65535 is white, as 255 is in `Pixels`."""

LEVEL = 257
"""One level of 8 bits in 16: 255 * 257 = 65535."""
