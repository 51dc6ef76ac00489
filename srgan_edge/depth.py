"""Keep more than 8 bits per channel through a network that sees 8.

Upscaled bytes have steps of 257 in 65535, which show as bands in a sky, fog or a dark wall. In such
areas the network does the same as interpolation, up to the rounding of both; anywhere else it adds
far more. So where its output is as close to the interpolated 16-bit image as bytes can tell, that
image is the result, and elsewhere the network's output is.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from srgan_edge.bicubic import keys_cubic
from srgan_edge.pixels import LEVEL, DeepPixels, Pixels

UNCERTAIN = 3 * LEVEL // 2
"""Largest distance from the interpolated image at which bytes can mean the same.

Half a level for rounding the network's input, half for rounding its output, and half for its own
inaccuracy. Measured on ramps with the bundled models, 99 of 100 outputs are within this.
"""

_BLOCK_PX = 8

_TAPS_PX = 2  # Keys' cubic reaches two samples to either side

_WEIGHT_STEPS = 2**14


def shown_to_network(deep: DeepPixels) -> Pixels:
    """Round each value to the nearest uint8: the image to upscale before `deepened`."""
    levels = deep // np.uint16(LEVEL)
    levels += deep - levels * np.uint16(LEVEL) > LEVEL // 2
    return levels.astype(np.uint8)


def deepened(deep: DeepPixels, upscaled: Pixels, above: int = 0, below: int = 0) -> DeepPixels:
    """Return `upscaled` with the depth of `deep`, from which it was made: uint16 [sH, sW, C].

    Each value is that of `interpolated` where `upscaled` is within `UNCERTAIN` of it, that of
    `upscaled` where it is twice as far or more, and a mix of both in between.

    Args:
        deep: uint16 [H + above + below, W, C], any number of channels.
        upscaled: uint8 [sH, sW, C], the network's output for `shown_to_network(deep)`.
        above: rows of `deep` above the first row of the result, as in `interpolated`.
        below: the same at the bottom.
    """
    scale = upscaled.shape[1] // deep.shape[1]
    result = np.empty(upscaled.shape, np.uint16)
    for rows, smooth in _interpolated_blocks(deep, scale, above, below):
        _merge(smooth, upscaled[rows].reshape(smooth.shape), result[rows].reshape(smooth.shape))
    return result


def interpolated(deep: DeepPixels, scale: int, above: int = 0, below: int = 0) -> DeepPixels:
    """Enlarge uint16 [H + above + below, W, C] to [sH, sW, C], bicubic (Keys 1981, a = -0.5).

    Edges are replicated. The arithmetic is exact: a stripe gives the same rows as the whole image,
    given two rows `above` and `below` it, or its true edge.
    """
    height, width, channels = deep.shape
    result = np.empty((scale * (height - above - below), scale * width, channels), np.uint16)
    for rows, smooth in _interpolated_blocks(deep, scale, above, below):
        np.copyto(result[rows].reshape(smooth.shape), smooth.clip(0, 65535), casting="unsafe")
    return result


def _interpolated_blocks(
    deep: DeepPixels, scale: int, above: int, below: int
) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Yield rows of the result and their rounded values, float64 [rows, sW * C], not clipped."""
    wide = _widened(deep, scale)
    weights = _weights(scale)
    height = deep.shape[0] - above - below
    for top in range(0, height, _BLOCK_PX):
        rows = slice(scale * top, scale * min(top + _BLOCK_PX, height))
        first = above + top
        smooth = weights @ wide[first : first + _BLOCK_PX + 2 * _TAPS_PX]
        smooth = smooth[: rows.stop - rows.start]
        yield rows, np.rint(smooth, out=smooth)


def _merge(
    smooth: npt.NDArray[np.float64], answers: npt.NDArray[np.uint8], result: DeepPixels
) -> None:
    """Write `answers`, or `smooth` where they are close, to `result`; all are [rows, columns]."""
    base = smooth.astype(np.float32)  # 17 bits: exact
    np.clip(base, 0, 65535, out=base)
    exact = answers.astype(np.float32)
    exact *= LEVEL
    exact -= base
    beyond = np.clip(exact, -UNCERTAIN, UNCERTAIN)
    np.subtract(exact, beyond, out=beyond)
    base += beyond
    base += np.clip(beyond, -UNCERTAIN, UNCERTAIN, out=beyond)
    np.copyto(result, base, casting="unsafe")


def _widened(deep: DeepPixels, scale: int) -> npt.NDArray[np.float64]:
    """Interpolate along the rows, with edge rows repeated: float64 [H + padding, sW * C]."""
    height, width, channels = deep.shape
    edges = ((_TAPS_PX, _TAPS_PX + _BLOCK_PX), (_TAPS_PX, _TAPS_PX + -width % _BLOCK_PX), (0, 0))
    padded = np.pad(deep, edges, mode="edge").reshape(height + _BLOCK_PX + 2 * _TAPS_PX, -1)
    window = (_BLOCK_PX + 2 * _TAPS_PX) * channels
    windows = sliding_window_view(padded, window, axis=1)[:, :: _BLOCK_PX * channels]
    weights = np.kron(_weights(scale), np.eye(channels)).T
    wide = windows.astype(np.float64).reshape(-1, window) @ weights
    return wide.reshape(len(padded), -1)[:, : scale * width * channels]


@lru_cache(maxsize=8)
def _weights(scale: int) -> npt.NDArray[np.float64]:
    """Return the weights of a block and its neighbors: [scale * block, block + taps on both sides].

    They are multiples of 2**-14 that sum to 1, so that no float64 sum is ever rounded: 16 bits of
    color and twice 14 of weight are 44 of 53.
    """
    center = (np.arange(scale * _BLOCK_PX) + 0.5) / scale - 0.5
    distance = center[:, None] - np.arange(-_TAPS_PX, _BLOCK_PX + _TAPS_PX)
    weights = np.rint(keys_cubic(distance) * _WEIGHT_STEPS)
    weights[np.arange(len(weights)), weights.argmax(axis=1)] += _WEIGHT_STEPS - weights.sum(axis=1)
    return weights / _WEIGHT_STEPS
