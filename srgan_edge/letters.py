"""Small letters and drawn lines: interpolate them where a network would break their strokes.

Networks trained on photographs redraw small letters with gaps and halos. Where the source has thin
strokes on a plain background, the result is bicubic interpolation instead, which adds no false
detail; a smooth mask blends it into the network's own result.

All arithmetic is in integers and looks `HALO_PX` far, so that tiles with halos of that width give
the bytes of the whole frame.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from srgan_edge.depth import interpolated, shown_to_network
from srgan_edge.pixels import LEVEL, DeepPixels, Pixels, luma_of

HALO_PX = 11
"""Distance, in LR pixels, from which a pixel's result may depend on another one."""

STROKE_PX = 4
"""Widest stroke, in LR pixels; what is wider is background."""

NEARBY_PX = 4
"""Distance within which background and strokes are examined."""

EVEN_LEVELS, UNEVEN_LEVELS = 12, 28
"""Range of the background nearby up to which it is plain, and from which on nothing is a letter."""

FEW_LEVELS, MANY_LEVELS = 14, 24
"""Mean difference of the strokes nearby from their background below which there are none, and from
which on there are many."""

DENSE_LEVELS, SOLID_LEVELS = 54, 66
"""The same mean up to which they may be letters, and from which on they are a zebra's stripes."""

FAINT_LEVELS, STRONG_LEVELS = 115, 150
"""The same for the strongest difference nearby."""

FLAT_LEVELS, GRAINY_LEVELS = 2, 6
"""Range of the background nearby up to which it is flat, as that of drawn pages, and from which on
it is not."""

FAINT_ON_FLAT_LEVELS, STRONG_ON_FLAT_LEVELS = 90, 120
"""`FAINT_LEVELS` and `STRONG_LEVELS` on a flat background."""

_WHOLE = 256  # share 1 of a mask

_Levels = npt.NDArray[np.uint8]
_Ints = npt.NDArray[np.int32]
_Values = TypeVar("_Values", npt.NDArray[np.uint8], npt.NDArray[np.int32])

_MARGIN_PX = 2  # of the interpolation
_BAND_ROWS = 16


def with_letters(source: Pixels, upscaled: Pixels) -> Pixels:
    """Return `upscaled` with the letters of `source`: uint8 [sH, sW, 3].

    Args:
        source: uint8 [H, W, 3].
        upscaled: uint8 [sH, sW, 3], a network's result.
    """
    shares = letter_shares(source)
    height, width = shares.shape
    scale = len(upscaled) // height
    columns = np.flatnonzero(shares.any(axis=0))
    if not columns.size:
        return upscaled
    left, right = max(0, columns[0] - _MARGIN_PX), min(width, columns[-1] + 1 + _MARGIN_PX)
    inner = slice(max(0, left - _MARGIN_PX), right + _MARGIN_PX)
    result = upscaled.copy()
    for top in range(0, height, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, height)
        first, last = max(0, top - _MARGIN_PX), min(height, bottom + _MARGIN_PX)
        nearby = shares[first:last, inner]
        if nearby.any():
            place = slice(scale * top, scale * bottom), slice(scale * left, scale * right)
            cut = slice(scale * (left - inner.start), scale * (right - inner.start))
            around = top - first, last - bottom
            plain = _enlarged(source[first:last, inner], scale, *around)[:, cut]
            fine = interpolated(_deep(nearby), scale, *around)[:, cut]
            result[place] = _mixed(result[place], plain, fine)
    return result


def letter_shares(source: Pixels) -> _Ints:
    """Return how much each pixel belongs to small letters, from 0 to 256: int32 [H, W]."""
    luma = luma_of(source)
    shares = np.maximum(_dark_shares(luma), _dark_shares(255 - luma))
    return _sums(shares, 1) // 9


def _enlarged(source: Pixels, scale: int, above: int, below: int) -> Pixels:
    """Enlarge rows of a frame by bicubic interpolation, as `interpolated` does: uint8."""
    deep = source.astype(np.uint16) * np.uint16(LEVEL)
    return shown_to_network(interpolated(deep, scale, above, below))


def _deep(shares: _Ints) -> DeepPixels:
    """Return shares as uint16 [H, W, 1], from 0 to 32768."""
    return (shares * (2**15 // _WHOLE)).astype(np.uint16)[..., None]


def _mixed(pixels: Pixels, plain: Pixels, shares: DeepPixels) -> Pixels:
    """Mix `plain` into `pixels`, by shares from 0 to 32768."""
    share = np.minimum((shares + 128) >> 8, 128).astype(np.int16)
    change = plain.astype(np.int16) - pixels
    change *= share  # at most 128 * 255
    change += 64
    change >>= 7
    change += pixels
    return change.astype(np.uint8)


def _dark_shares(luma: _Levels) -> _Ints:
    """Return how much each pixel belongs to dark letters on a lighter background, from 0 to 256."""
    reach = STROKE_PX // 2
    background = _least(_most(luma, reach), reach)  # closing: strokes are filled
    strokes = background - luma
    uneven = _most(background, NEARBY_PX) - _least(background, NEARBY_PX)
    amount = _sums(strokes.astype(np.int32), NEARBY_PX) // (2 * NEARBY_PX + 1) ** 2
    even = _WHOLE - _ramp(uneven, EVEN_LEVELS, UNEVEN_LEVELS)
    many = _ramp(amount, FEW_LEVELS, MANY_LEVELS)
    many -= _ramp(amount, DENSE_LEVELS, SOLID_LEVELS)
    strongest = _most(strokes, NEARBY_PX)
    strong = _ramp(strongest, FAINT_ON_FLAT_LEVELS, STRONG_ON_FLAT_LEVELS)
    strong *= _WHOLE - _ramp(uneven, FLAT_LEVELS, GRAINY_LEVELS)
    strong = np.maximum(strong // _WHOLE, _ramp(strongest, FAINT_LEVELS, STRONG_LEVELS))
    return even * many // _WHOLE * strong // _WHOLE


def _ramp(values: npt.NDArray[np.uint8 | np.int32], low: int, high: int) -> _Ints:
    """Return 0 up to `low`, 256 from `high` on, and what is between: int32 [H, W]."""
    return ((values.astype(np.int32) - low) * _WHOLE // (high - low)).clip(0, _WHOLE)


def _most(values: _Levels, reach: int) -> _Levels:
    return _over_squares(values, reach, np.maximum)


def _least(values: _Levels, reach: int) -> _Levels:
    return _over_squares(values, reach, np.minimum)


def _sums(values: _Ints, reach: int) -> _Ints:
    return _over_squares(values, reach, np.add)


def _over_squares(values: _Values, reach: int, join: Callable[..., object]) -> _Values:
    """Join the values of the square around each pixel; edges are repeated."""
    for axis in (0, 1):
        margins = [(0, 0), (0, 0)]
        margins[axis] = (reach, reach)
        padded = np.pad(values, margins, mode="edge")
        length = values.shape[axis]
        parts = [
            padded[n : n + length] if axis == 0 else padded[:, n : n + length]
            for n in range(2 * reach + 1)
        ]
        values = parts[0].copy()
        for part in parts[1:]:
            join(values, part, out=values)
    return values
