"""Reference for `yuv420_to_rgb.cu`: convert NV12 from NVDEC to RGB for the engines.

Kernel: `nv12_to_rgb`, with the parameters (luma, luma_pitch, chroma, chroma_pitch, rgb, width,
height, *Decoding): addresses, bytes from row to row, pixels. `rgb` has no gaps between its rows.

Chroma samples lie on the left one of two luma samples and between two rows: the default of H.264
and the rule of MPEG-2. They are interpolated linearly, so values never leave the range of their
neighbors, as in `srgan_edge.video.convert`. Beyond the edge of the frame the outermost sample is
repeated. If the width is odd, the last column has its own chroma sample; the same holds for rows.
"""

import numpy as np
import numpy.typing as npt

from srgan_edge.kernels.yuv_matrix import FRACTION_BITS, YuvMatrix


def yuv420_to_rgb(
    luma: npt.NDArray[np.uint8], chroma: npt.NDArray[np.uint8], matrix: YuvMatrix
) -> npt.NDArray[np.uint8]:
    """Convert NV12 to uint8 [H, W, 3], rounded half up and clipped.

    Args:
        luma: uint8 [H, W].
        chroma: uint8 [ceil(H / 2), ceil(W / 2), 2], Cb and Cr.
    """
    gain = matrix.decoding
    height, width = luma.shape
    centered = chroma.astype(np.int32) - 128
    u, v = np.moveaxis(_eighths(centered)[:height, :width], -1, 0)
    white = gain.luma * (luma.astype(np.int32) - gain.luma_offset)
    green = white + gain.green_u * u + gain.green_v * v
    rgb = np.stack([white + gain.red_v * v, green, white + gain.blue_u * u], axis=-1)
    return ((rgb + (1 << FRACTION_BITS - 1)) >> FRACTION_BITS).clip(0, 255).astype(np.uint8)


def threads(width: int, height: int) -> int:
    """Return the number of threads; each does 16 pixels of two rows between rows of chroma."""
    return -(-width // 16) * (height // 2 + 1)


def _eighths(chroma: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Interpolate int32 [h, w, 2] to [2h, 2w, 2]: eight times the chroma at each luma sample."""
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
