"""What `rgb_to_yuv420.cu` computes: RGB as the engines give it, to frames as NVENC takes them.

Kernels: `rgb_to_nv12` (8 bits) and `rgb_to_p010` (10 bits, in the high ones of 16), each with the
parameters (rgb, width, height, luma, luma_pitch, chroma, chroma_pitch, *Encoding): addresses, bytes
from row to row, pixels. `rgb` has no gaps between its rows.

Chroma lies where `yuv420_to_rgb` says. A sample is the mean of two rows, weighted 1-2-1 over the
columns around its own; beyond the edge of the frame the outermost pixel is repeated.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from srgan_edge.kernels.yuv420_to_rgb import P010_UNUSED_BITS
from srgan_edge.kernels.yuv_matrix import FRACTION_BITS, YuvMatrix


def rgb_to_yuv420(
    rgb: npt.NDArray[np.uint8], matrix: YuvMatrix, bits: Literal[8, 10]
) -> tuple[npt.NDArray[np.uint8 | np.uint16], npt.NDArray[np.uint8 | np.uint16]]:
    """uint8 [H, W, 3] -> luma [H, W] and chroma [ceil(H / 2), ceil(W / 2), 2], rounded half up.

    NV12 in uint8 for 8 `bits`, P010 in uint16 for 10.
    """
    gain = matrix.encoding(bits)
    red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
    luma = gain.luma_red * red + gain.luma_green * green + gain.luma_blue * blue
    red, green, blue = np.moveaxis(_eightfold(rgb), -1, 0)
    u = gain.u_red * red + gain.u_green * green + gain.u_blue * blue
    v = gain.v_red * red + gain.v_green * green + gain.v_blue * blue
    chroma = np.stack([u, v], axis=-1)
    return _codes(luma, gain.luma_offset, bits), _codes(chroma, 1 << bits - 1, bits)


def threads(width: int, height: int) -> int:
    """Of either kernel: each does 16 pixels of two rows."""
    return -(-width // 16) * -(-height // 2)


def _eightfold(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """uint8 [H, W, 3] -> int32 [ceil(H / 2), ceil(W / 2), 3]: eight times the means."""
    height, width, _ = rgb.shape
    padded = np.pad(rgb.astype(np.int32), ((0, height % 2), (1, 1), (0, 0)), mode="edge")
    rows = padded[0::2] + padded[1::2]
    left, middle, right = (rows[:, first : first + width : 2] for first in range(3))
    return left + 2 * middle + right


def _codes(
    fixed: npt.NDArray[np.int32], offset: int, bits: int
) -> npt.NDArray[np.uint8 | np.uint16]:
    """Fixed point -> samples as they are stored."""
    rounded = (fixed + (offset << FRACTION_BITS) + (1 << FRACTION_BITS - 1)) >> FRACTION_BITS
    codes = rounded.clip(0, (1 << bits) - 1)
    return codes.astype(np.uint8) if bits == 8 else (codes << P010_UNUSED_BITS).astype(np.uint16)
