"""Reference for `rgb_to_yuv420.cu`: convert RGB from the engines to NV12 for NVENC.

Kernel: `rgb_to_nv12`, with the parameters (rgb, width, height, luma, luma_pitch, chroma,
chroma_pitch, *Encoding): addresses, bytes from row to row, pixels. `rgb` has no gaps between its
rows.

Chroma samples have the positions described in `yuv420_to_rgb`. A sample is the mean of two rows,
weighted 1-2-1 over the columns around its own; beyond the edge of the frame the outermost pixel is
repeated.
"""

import numpy as np
import numpy.typing as npt

from srgan_edge.kernels.yuv_matrix import FRACTION_BITS, YuvMatrix


def rgb_to_yuv420(
    rgb: npt.NDArray[np.uint8], matrix: YuvMatrix
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Convert uint8 [H, W, 3] to NV12, rounded half up.

    Returns:
        luma, uint8 [H, W], and chroma, uint8 [ceil(H / 2), ceil(W / 2), 2].
    """
    gain = matrix.encoding
    red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
    luma = gain.luma_red * red + gain.luma_green * green + gain.luma_blue * blue
    red, green, blue = np.moveaxis(_eightfold(rgb), -1, 0)
    u = gain.u_red * red + gain.u_green * green + gain.u_blue * blue
    v = gain.v_red * red + gain.v_green * green + gain.v_blue * blue
    chroma = np.stack([u, v], axis=-1)
    return _codes(luma, gain.luma_offset), _codes(chroma, 128)


def threads(width: int, height: int) -> int:
    """Return the number of threads; each converts 16 pixels of two rows."""
    return -(-width // 16) * -(-height // 2)


def _eightfold(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Average uint8 [H, W, 3] to int32 [ceil(H / 2), ceil(W / 2), 3]: eight times the means."""
    height, width, _ = rgb.shape
    padded = np.pad(rgb.astype(np.int32), ((0, height % 2), (1, 1), (0, 0)), mode="edge")
    rows = padded[0::2] + padded[1::2]
    left, middle, right = (rows[:, first : first + width : 2] for first in range(3))
    return left + 2 * middle + right


def _codes(fixed: npt.NDArray[np.int32], offset: int) -> npt.NDArray[np.uint8]:
    """Round fixed-point values to codes."""
    rounded = (fixed + (offset << FRACTION_BITS) + (1 << FRACTION_BITS - 1)) >> FRACTION_BITS
    return rounded.clip(0, 255).astype(np.uint8)
