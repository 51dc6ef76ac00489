"""What `yuv420_to_rgb.cu` computes: frames as NVDEC gives them, to RGB as the engines take it.

Kernels: `nv12_to_rgb` (8 bits) and `p010_to_rgb` (10 bits, in the high ones of 16), each with the
parameters (luma, luma_pitch, chroma, chroma_pitch, rgb, width, height, *Decoding): addresses, bytes
from row to row, pixels. `rgb` has no gaps between its rows.

Chroma lies on the left one of two luma samples, and between two rows: H.264's default, MPEG-2's
rule. It is interpolated linearly, and so never leaves the range of its neighbors, as in
`srgan_edge.video.convert`. Beyond the edge of the frame the outermost sample is repeated.
Where the width is odd, the last column has a chroma sample of its own; where the height is odd,
the last row.
"""

import numpy as np
import numpy.typing as npt

from srgan_edge.kernels.yuv_matrix import FRACTION_BITS, YuvMatrix

P010_UNUSED_BITS = 6
"""The low ones of a sample; NVDEC writes zeros there."""


def yuv420_to_rgb(
    luma: npt.NDArray[np.uint8 | np.uint16],
    chroma: npt.NDArray[np.uint8 | np.uint16],
    matrix: YuvMatrix,
) -> npt.NDArray[np.uint8]:
    """NV12 (uint8) or P010 (uint16) -> uint8 [H, W, 3], rounded half up and clipped.

    Args:
        luma: [H, W].
        chroma: [ceil(H / 2), ceil(W / 2), 2], Cb and Cr.
    """
    bits, unused_bits = (8, 0) if luma.dtype == np.uint8 else (10, P010_UNUSED_BITS)
    gain = matrix.decoding(bits)
    height, width = luma.shape
    centerd = (chroma >> unused_bits).astype(np.int32) - (1 << bits - 1)
    u, v = np.moveaxis(_eighths(centerd)[:height, :width], -1, 0)
    white = gain.luma * ((luma >> unused_bits).astype(np.int32) - gain.luma_offset)
    green = white + gain.green_u * u + gain.green_v * v
    rgb = np.stack([white + gain.red_v * v, green, white + gain.blue_u * u], axis=-1)
    return ((rgb + (1 << FRACTION_BITS - 1)) >> FRACTION_BITS).clip(0, 255).astype(np.uint8)


def threads(width: int, height: int) -> int:
    """Of either kernel: each does 16 pixels of the two rows between two rows of chroma."""
    return -(-width // 16) * (height // 2 + 1)


def _eighths(chroma: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """int32 [h, w, 2] -> [2h, 2w, 2]: eight times the chroma at every luma sample."""
    height, width, _ = chroma.shape
    padded = np.pad(chroma, ((1, 1), (0, 0), (0, 0)), mode="edge")
    rows = np.empty((2 * height, width, 2), np.int32)
    rows[0::2] = padded[:-2] + 3 * chroma
    rows[1::2] = 3 * chroma + padded[2:]
    padded = np.pad(rows, ((0, 0), (0, 1), (0, 0)), mode="edge")
    samples = np.empty((2 * height, 2 * width, 2), np.int32)
    samples[:, 0::2] = 2 * rows
    samples[:, 1::2] = rows + padded[:, 1:]
    return samples
