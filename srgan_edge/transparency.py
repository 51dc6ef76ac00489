"""Colours under transparency, which nobody sees and a network would draw over the edge.

Programs leave black there, or white, or what was there before it was erased; a network that sees
it bleeds it into the visible edge as a fringe.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

_Samples: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
_Sums: TypeAlias = npt.NDArray[np.int64]

REACH_PX = 64
"""How far from a visible pixel colours are continued: farther than any of the networks sees."""

_BLOCK_PX = 1024  # the sums take 40 bytes a pixel
_RADII_PX = (1, 2, 4, 8, 16, 32, REACH_PX)


def continued(pixels: _Samples, alpha: _Samples) -> _Samples:
    """The pixels [H, W, C], with those under alpha 0 (of [H, W]) continuing the visible ones.

    Each becomes the mean, weighted with alpha, of the smallest square around it that has anything
    visible in it; those farther than `REACH_PX` from anything become mid-grey. Integer arithmetic
    on squares alone: a stripe with `REACH_PX` rows around it is what it is in the whole picture.
    """
    if alpha.all():
        return pixels
    result = pixels.copy()
    for left in range(0, pixels.shape[1], _BLOCK_PX):
        before = min(left, REACH_PX)
        window = slice(left - before, left + _BLOCK_PX + REACH_PX)
        block = _continued(pixels[:, window], alpha[:, window])
        result[:, left : left + _BLOCK_PX] = block[:, before : before + _BLOCK_PX]
    return result


def _continued(pixels: _Samples, alpha: _Samples) -> _Samples:
    hidden = alpha == 0
    result = pixels.copy()
    result[hidden] = np.iinfo(pixels.dtype).max // 2
    if hidden.all() or not hidden.any():
        return result
    weights = alpha.astype(np.int64)
    sums = _summed(np.dstack([pixels * weights[..., None], weights]))
    for radius_px in _RADII_PX:
        rows, columns = np.nonzero(hidden)
        inside = _over_squares(sums, rows, columns, radius_px)
        found = inside[:, -1] > 0
        rows, columns, inside = rows[found], columns[found], inside[found]
        weight = inside[:, -1:]
        result[rows, columns] = (inside[:, :-1] + weight // 2) // weight
        hidden[rows, columns] = False
        if not hidden.any():
            break
    return result


def _summed(values: _Sums) -> _Sums:
    """[H, W, C] -> [H + 1, W + 1, C]: sums of all above and to the left (Crow 1984)."""
    return np.pad(values, ((1, 0), (1, 0), (0, 0))).cumsum(axis=0).cumsum(axis=1)


def _over_squares(
    sums: _Sums, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp], radius_px: int
) -> _Sums:
    """[N, C]: sums over the squares around N pixels, cut at the edges of the picture."""
    height, width = sums.shape[0] - 1, sums.shape[1] - 1
    top, bottom = np.maximum(rows - radius_px, 0), np.minimum(rows + radius_px + 1, height)
    left, right = np.maximum(columns - radius_px, 0), np.minimum(columns + radius_px + 1, width)
    return sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
