"""Reference for `tile_gather.cu`: copy the windows of a frame into one batch.

Kernel: `tile_gather`, with the parameters (frame, width, height, tiles, count, batch, window_width,
window_height): addresses and pixels. A thread copies 16 bytes of a row, with aligned writes.
"""

import numpy as np
import numpy.typing as npt


def tile_gather(
    frame: npt.NDArray[np.uint8], tiles: npt.NDArray[np.int32], window_size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """Cut uint8 [H, W, 3] into uint8 [N, window height, window width, 3].

    Args:
        tiles: rows of `TilePlan.table`, int32 [N, 6]; any of them, in any order.
        window_size: (width, height) of every window.
    """
    width, height = window_size
    return np.stack([frame[y : y + height, x : x + width] for y, x, *_ in tiles])


def threads(count: int, window_size: tuple[int, int]) -> int:
    """Return the number of threads; an unaligned row reaches into one more chunk of 16 bytes."""
    width, height = window_size
    return count * height * -(-(3 * width + 15) // 16)
