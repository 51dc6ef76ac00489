"""What `tile_gather.cu` computes: the windows of a frame as one batch.

Kernel: `tile_gather`, with the parameters (frame, width, height, tiles, count, batch, window_width,
window_height): addresses and pixels. A thread copies 16 bytes of a row, aligned where it writes.
"""

import numpy as np
import numpy.typing as npt


def tile_gather(
    frame: npt.NDArray[np.uint8], tiles: npt.NDArray[np.int32], window_size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3] -> uint8 [N, window height, window width, 3].

    Args:
        tiles: rows of `TilePlan.table`, int32 [N, 6]; any of them, in any order.
        window_size: (width, height) of every window.
    """
    width, height = window_size
    return np.stack([frame[y : y + height, x : x + width] for y, x, *_ in tiles])


def threads(count: int, window_size: tuple[int, int]) -> int:
    """For `count` tiles. A row may begin anywhere in 16 bytes, and so reach into one more."""
    width, height = window_size
    return count * height * -(-(3 * width + 15) // 16)
