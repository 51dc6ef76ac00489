"""MATLAB's `imresize(..., 'bicubic')`, byte for byte as the public benchmarks were made with it.

Every x4 super-resolution table rests on LR images from this function, and a model trained with
another bicubic interpolation (of Pillow, OpenCV or torch) does worse on them. Its properties: Keys'
cubic with a = -0.5, widened by the factor when shrinking, edges replicated, rows first, and the
intermediate rounded to 8 bits between the two passes.
"""

from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from srgan_edge.pixels import Pixels

_Floats: TypeAlias = npt.NDArray[np.float64]


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Resize uint8 [H, W, C] or [H, W] to uint8 [height, width, C] or [height, width].

    Shrinking is antialiased, as in MATLAB; growing interpolates between four neighbors.
    """
    rows, row_weights = _taps(image.shape[0], height)
    columns, column_weights = _taps(image.shape[1], width)
    tall = _to_uint8(np.einsum("hk,hk...->h...", row_weights, image[rows]))
    return _to_uint8(np.einsum("wk,hwk...->hw...", column_weights, tall[:, columns]))


def resize_float(plane: _Floats, height: int, width: int) -> _Floats:
    """Resize float64 [H, W] to float64 [height, width], without any rounding."""
    rows, row_weights = _taps(plane.shape[0], height)
    columns, column_weights = _taps(plane.shape[1], width)
    tall = np.einsum("hk,hkw->hw", row_weights, plane[rows])
    return np.einsum("wk,hwk->hw", column_weights, tall[:, columns])


@lru_cache(maxsize=64)
def _taps(size: int, new_size: int) -> tuple[npt.NDArray[np.intp], _Floats]:
    """Return the input samples that each output sample reads and their weights [new_size, taps]."""
    scale = new_size / size
    stretch = max(1.0, 1.0 / scale)  # the kernel is widened when shrinking, never narrowed
    taps = int(np.ceil(4 * stretch)) + 2
    center = (np.arange(new_size) + 0.5) / scale - 0.5
    first = np.floor(center - 2 * stretch).astype(np.intp)
    index = first[:, None] + np.arange(taps)
    weight = keys_cubic((center[:, None] - index) / stretch)
    weight /= weight.sum(axis=1, keepdims=True)
    return np.clip(index, 0, size - 1), weight


def keys_cubic(x: _Floats) -> _Floats:
    """Evaluate Keys' cubic (1981, a = -0.5); zero outside [-2, 2]."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _to_uint8(values: _Floats) -> Pixels:
    return np.floor(values + 0.5).clip(0, 255).astype(np.uint8)
