"""What `bytes_to_half.cu` computes: pixels as networks of halves take them (`--io float`).

Kernel: `bytes_to_half`, with the parameters (batch, halves, count, pixels): addresses, images, and
pixels of one image, at most 2^29. Planes of a size that does not divide by 8 are written bytewise.
"""

import numpy as np
import numpy.typing as npt


def bytes_to_half(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
    """uint8 [N, H, W, 3] -> half [N, 3, H, W] in [0, 1].

    As the deployment graph: multiplied by 1/255 in FP32, then rounded to nearest.
    """
    scaled = batch.transpose(0, 3, 1, 2).astype(np.float32) * np.float32(1 / 255)
    return scaled.astype(np.float16)


def threads(count: int, pixels: int) -> int:
    """For `count` images of `pixels` each: 16 pixels a thread."""
    return count * -(-pixels // 16)
