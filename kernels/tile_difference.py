"""Reference for `tile_difference.cu`: find the tiles that have to be upscaled again.

Kernel: `tile_difference`, with the parameters (frame, previous, width, tiles, count, window_width,
window_height, dirty): addresses and pixels. `dirty` must hold zeros: the kernel only writes ones,
so its threads may run in any order. A thread compares 16 bytes of a row; its fast path needs both
frames to have the same alignment within 16 bytes.
"""

import numpy as np
import numpy.typing as npt

from srgan_edge.kernels import tile_gather


def tile_difference(
    frame: npt.NDArray[np.uint8],
    previous: npt.NDArray[np.uint8],
    tiles: npt.NDArray[np.int32],
    window_size: tuple[int, int],
) -> npt.NDArray[np.uint8]:
    """Return uint8 [N]: 1 for each window, with its halo, that differs from the previous frame.

    A tile with 0 would be upscaled to exactly the same pixels.

    Args:
        frame, previous: uint8 [H, W, 3].
        tiles: rows of `TilePlan.table`, int32 [N, 6].
        window_size: (width, height) of every window.
    """
    windows, before = (tile_gather.tile_gather(f, tiles, window_size) for f in (frame, previous))
    return (windows != before).any(axis=(1, 2, 3)).astype(np.uint8)


threads = tile_gather.threads
"""The number of threads is the same as for `tile_gather`."""
