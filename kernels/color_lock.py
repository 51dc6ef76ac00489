"""Reference for `color_lock.cu`: `srgan_edge.color_lock` in three steps, for frames on a GPU.

Kernels with their parameters, all of them addresses and ints; `rgb` has no gaps between its rows:

* `color_sums` (rgb, width, height, edges, columns, row_blocks, sums), once for a frame and once for
  its upscaled result;
* `color_missing` (low_sums, high_sums, edges_y, rows, edges_x, columns, scale, missing);
* `color_shift` (rgb, width, height, missing, columns, rows, across, down).

All values are integers, so the order of sums does not matter.
"""

import numpy as np
import numpy.typing as npt

_Ints = npt.NDArray[np.int32]
_Sums = npt.NDArray[np.uint32]

MISSING_BITS, SHARE_BITS = 8, 7
"""Fractional bits of the missing levels of a block, and of its share in a pixel."""

_BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]], np.int32)


def color_sums(rgb: npt.NDArray[np.uint8], edges: _Ints, row_blocks: _Ints, sums: _Sums) -> None:
    """Add the levels of every block to `sums`, uint32 [rows, columns, 3].

    Args:
        rgb: uint8 [H, W, 3].
        edges: int32 [columns + 1], the start of each column of blocks, and the end of the last.
        row_blocks: int32 [H], the row of blocks of each row of pixels.
    """
    of_rows = np.add.reduceat(rgb, edges[:-1], axis=1, dtype=np.uint32)
    np.add.at(sums, row_blocks, of_rows)


def color_missing(
    low_sums: _Sums, high_sums: _Sums, edges_y: _Ints, edges_x: _Ints, scale: int
) -> _Ints:
    """Return the missing brightness of each block in 1/256 levels, int32 [rows, columns, 3].

    Both sums are set to zero for the next frame.

    Args:
        low_sums: sums of the frame, whose blocks have the given edges.
        high_sums: sums of the result, whose blocks are `scale` times as large.
    """
    pixels = scale**2 * (np.diff(edges_y)[:, None] * np.diff(edges_x)).astype(np.int64)[:, :, None]
    difference = scale**2 * low_sums.astype(np.int64) - high_sums
    low_sums[:] = high_sums[:] = 0
    missing = ((2 << MISSING_BITS) * difference + pixels) // (2 * pixels)
    return missing.astype(np.int32)


def color_shift(rgb: npt.NDArray[np.uint8], missing: _Ints, across: _Ints, down: _Ints) -> None:
    """Add the missing brightness to every pixel, in place.

    It is interpolated between the centers of blocks and rounded by Bayer's thresholds.

    Args:
        rgb: uint8 [H, W, 3].
        missing: int32 [rows, columns, 3].
        across: int32 [W]: 256 times a column of blocks, plus the share of the next in 1/128.
        down: int32 [H]: the same for rows.
    """
    height, width, _ = rgb.shape
    rows = _mixed(missing, down)
    shift = _mixed(rows.swapaxes(0, 1), across).swapaxes(0, 1)
    fraction_bits = MISSING_BITS + 2 * SHARE_BITS
    y, x = np.mgrid[:height, :width] % 4
    shift += ((2 * _BAYER[y, x] + 1) << (fraction_bits - 5))[:, :, None]
    rgb[:] = (rgb + (shift >> fraction_bits)).clip(0, 255)


def sums_threads(columns: int, height: int) -> int:
    """Return the number of threads for `color_sums`; each adds a row of a block."""
    return columns * height


def missing_threads(columns: int, rows: int) -> int:
    """Return the number of threads for `color_missing`; each handles one color of a block."""
    return 3 * columns * rows


def shift_threads(width: int, height: int) -> int:
    """Return the number of threads for `color_shift`; each handles 16 pixels of a row."""
    return -(-width // 16) * height


def _mixed(values: _Ints, places: _Ints) -> _Ints:
    """Interpolate int32 [blocks, ...] to [pixels, ...], in units of 1/128."""
    here, share = places >> 8, places & 0xFF
    following = np.minimum(here + 1, len(values) - 1)
    share = share.reshape(-1, *(1 for _ in values.shape[1:]))
    return ((1 << SHARE_BITS) - share) * values[here] + share * values[following]
