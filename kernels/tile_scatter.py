"""Reference for `tile_scatter.cu`: copy upscaled tiles into the frame, without their halos.

Kernel: `tile_scatter`, with the parameters (batch, window_width, window_height, tiles, count,
scale, frame, width): addresses and LR pixels. A thread copies 16 bytes of a row, with aligned
writes.
"""

import numpy as np
import numpy.typing as npt

from srgan_edge.kernels import tile_gather


def tile_scatter(
    batch: npt.NDArray[np.uint8],
    tiles: npt.NDArray[np.int32],
    scale: int,
    frame: npt.NDArray[np.uint8],
) -> None:
    """Write the cores of uint8 [N, sh, sw, 3] into a frame uint8 [sH, sW, 3]; keep the rest.

    Args:
        tiles: the rows of `TilePlan.table` for the batch, int32 [N, 6].
        scale: s, the factor of the network.
    """
    for pixels, tile in zip(batch, scale * tiles, strict=True):
        window_y, window_x, y, x, height, width = tile
        top, left = y - window_y, x - window_x
        frame[y : y + height, x : x + width] = pixels[top : top + height, left : left + width]


def threads(count: int, window_size: tuple[int, int], scale: int) -> int:
    """Return the number of threads for windows in LR pixels; those of halos do nothing."""
    width, height = window_size
    return tile_gather.threads(count, (scale * width, scale * height))
