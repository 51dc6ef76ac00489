"""What `half_to_bytes.cu` computes: what networks of halves give, as pixels (`--io float`).

Kernel: `half_to_bytes`, with the parameters (halves, batch, count, pixels): addresses, images, and
pixels of one image, at most 2^29.
"""

import numpy as np
import numpy.typing as npt

from srgan_edge.kernels import bytes_to_half


def half_to_bytes(halves: npt.NDArray[np.float16]) -> npt.NDArray[np.uint8]:
    """half [N, 3, H, W] -> uint8 [N, H, W, 3].

    As the deployment graph: clamped to [0, 1], times 255, + 0.5, truncated. What is not a number
    becomes 0, for which the graph has no rule.
    """
    values = np.nan_to_num(halves.astype(np.float32), nan=0).clip(0, 1) * 255 + np.float32(0.5)
    return values.astype(np.uint8).transpose(0, 2, 3, 1)


threads = bytes_to_half.threads
"""As many as the way there takes."""
