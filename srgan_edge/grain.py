"""The grain of a video: measure what a model removed, and put as much back on the result.

Grain is synthesized, as H.274 and AV1 do, by the standard deviation at each level of luma: a
pattern for all channels, drawn by the content of the frame. So a frame that repeats another one has
the same grain, and a resumed video has the bytes of one that was never stopped.
"""

import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

from srgan_edge.pixels import Pixels, luma_of

BANDS = 8
"""Bands of luma in which grain is measured, each of 32 levels."""

BLOCK_PX = 16
"""Side of the blocks in which it is measured."""

LEAST_BLOCKS = 4
"""Fewest blocks that a band is measured by; with fewer, all blocks count."""

QUIET_SHARE = 0.5
"""Share of a band's blocks that counts: those in which the result varies the least."""

_TEMPLATE_PX, _PATCH_PX = 256, 32
_TEMPLATE_BITS, _DEVIATION_BITS = 5, 6

_Floats = npt.NDArray[np.float32]


def finish(with_it: bool) -> Callable[[Pixels, Pixels], Pixels]:
    """Return `with_grain`, or what returns the result as it is."""
    return with_grain if with_it else lambda source, result: result


def with_grain(source: Pixels, result: Pixels) -> Pixels:
    """Return a result with as much grain as its source: uint8 [sH, sW, 3].

    Args:
        source: uint8 [H, W, 3].
        result: uint8 [sH, sW, 3]; the grain that is left in it counts.
    """
    height, width, _ = source.shape
    scale = len(result) // height
    luma = luma_of(result)
    reduced = luma.reshape(height, scale, width, scale).mean(axis=(1, 3), dtype=np.float32)
    seen = luma_of(source).astype(np.float32)
    deviations = np.sqrt(missing_variance(seen, reduced))
    if not deviations.any():
        return result
    middles = (np.arange(BANDS) + 0.5) * (256 / BANDS)
    levels = np.interp(np.arange(256), middles, deviations) * 2**_DEVIATION_BITS
    pattern = _pattern(luma.shape, zlib.crc32(np.ascontiguousarray(source).data))
    bits = _TEMPLATE_BITS + _DEVIATION_BITS
    grain = np.rint(levels).astype(np.int32)[luma] * pattern + (1 << bits - 1) >> bits
    return (result + grain[..., None]).clip(0, 255).astype(np.uint8)


def missing_variance(source: _Floats, reduced: _Floats) -> _Floats:
    """Return the variance that a result lacks, in each band of luma: float32 [BANDS], from 0 up.

    It is that of blocks of the source less that of the same blocks of the result: what both show
    cancels out. The median of the band's quietest blocks counts, as texture may be gone elsewhere.

    Args:
        source: float32 [H, W], luma. Frames that are smaller than a block count as without grain.
        reduced: float32 [H, W], luma of the result at that size.
    """
    rows, columns = (side // BLOCK_PX for side in source.shape)
    if not rows or not columns:
        return np.zeros(BANDS, np.float32)
    levels, _ = _block_moments(source, rows, columns)
    # Without what both show anyway, which would only blur the figures.
    smooth = _smoothed(reduced)
    _, there = _block_moments(source - smooth, rows, columns)
    _, kept = _block_moments(reduced - smooth, rows, columns)
    bands = (levels * (BANDS / 256)).astype(int).clip(0, BANDS - 1)
    whole = np.ones_like(bands, dtype=bool)
    members = [bands == band for band in range(BANDS)]
    found = [_of_quiet(there, kept, it if it.sum() >= LEAST_BLOCKS else whole) for it in members]
    return np.array(found, np.float32).clip(0, None)


def _smoothed(values: _Floats) -> _Floats:
    """Return means of 5x5 pixels; edges are repeated."""
    height, width = values.shape
    padded = np.pad(values, 2, mode="edge")
    rows = sum((padded[n : n + height] for n in range(5)), np.zeros_like(padded[:height]))
    return sum((rows[:, n : n + width] for n in range(5)), np.zeros_like(values)) / np.float32(25)


def _of_quiet(there: _Floats, kept: _Floats, members: npt.NDArray[np.bool_]) -> float:
    count = max(1, round(QUIET_SHARE * members.sum()))
    quiet = np.argsort(kept[members], kind="stable")[:count]
    return float(np.median((there - kept)[members][quiet]))


def _block_moments(values: _Floats, rows: int, columns: int) -> tuple[_Floats, _Floats]:
    """Return mean and variance of each block, float32 [blocks]."""
    whole = values[: rows * BLOCK_PX, : columns * BLOCK_PX]
    blocks = whole.reshape(rows, BLOCK_PX, columns, BLOCK_PX).swapaxes(1, 2)
    means, variances = blocks.mean(axis=(2, 3)), blocks.var(axis=(2, 3))
    return means.ravel().astype(np.float32), variances.ravel().astype(np.float32)


def _pattern(shape: tuple[int, ...], seed: int) -> npt.NDArray[np.int32]:
    """Return grain of variance 1 in units of 1/32: patches of the template, int32 [H, W]."""
    height, width = shape
    pattern = np.empty((height, width), np.int32)
    rows, columns = -(-height // _PATCH_PX), -(-width // _PATCH_PX)
    most = _TEMPLATE_PX - _PATCH_PX + 1
    places = np.random.default_rng(seed).integers(0, most, (rows, columns, 2)).tolist()
    for row, along in enumerate(places):
        for column, (y, x) in enumerate(along):
            patch = pattern[_PATCH_PX * row :, _PATCH_PX * column :][:_PATCH_PX, :_PATCH_PX]
            patch[:] = _template()[y : y + patch.shape[0], x : x + patch.shape[1]]
    return pattern


@cache
def _template() -> npt.NDArray[np.int8]:
    """Return normal noise, softened so that a grain is some two pixels wide, int8."""
    noise = np.random.default_rng(0).standard_normal((_TEMPLATE_PX + 2, _TEMPLATE_PX + 2))
    across = noise[:, :-2] + 2 * noise[:, 1:-1] + noise[:, 2:]
    soft = across[:-2] + 2 * across[1:-1] + across[2:]
    return np.rint(2**_TEMPLATE_BITS * soft / soft.std()).clip(-127, 127).astype(np.int8)
