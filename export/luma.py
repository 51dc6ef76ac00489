"""Networks of one channel: they enlarge the luma of an image, and bicubic interpolation its chroma.

Luma is that of JPEG (BT.601, full range), as programs for grayscale images use it. Chroma is R - G
and B - G: interpolation is linear, so that any other two differences of colors would give the same
image, but these are exactly zero where an image is gray.
`enlarged_by_luma` is the definition; the wrapper writes the same as operations of ONNX.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from srgan_edge import bicubic

Floats: TypeAlias = NDArray[np.float32]

TO_LUMA: Floats = np.array([[0.299, 0.587, 0.114]], np.float32)

TO_CHROMA: Floats = np.array([[1, -1, 0], [0, -1, 1]], np.float32)

TO_RGB: Floats = np.array([[1, 0.701, -0.114], [1, -0.299, -0.114], [1, -0.299, 0.886]], np.float32)
"""From luma and chroma."""

CUBIC = -0.5
"""Keys' coefficient, as in `srgan_edge.bicubic`."""


def enlarged_by_luma(network: Callable[[Floats], Floats], rgb: Floats, scale: int) -> Floats:
    """Enlarge RGB [N, 3, H, W] in [0, 1] to [N, 3, sH, sW].

    Args:
        network: enlarges luma, [N, 1, H, W] to [N, 1, sH, sW].
    """
    height, width = (scale * side for side in rgb.shape[2:])
    luma = network(np.einsum("dc,nchw->ndhw", TO_LUMA, rgb)).clip(0, 1)
    chroma = [
        [bicubic.resize_float(plane.astype(np.float64), height, width) for plane in image]
        for image in np.einsum("dc,nchw->ndhw", TO_CHROMA, rgb)
    ]
    joined = np.concatenate([luma, np.array(chroma, np.float32)], axis=1)
    enlarged: Floats = np.einsum("dc,nchw->ndhw", TO_RGB, joined)
    return enlarged
