"""Reference for `convolution.cu`: a convolution and the operations fused with it.

These are bias, PReLU, residual and PixelShuffle or, for the last layer, the image in bytes. Halves
are multiplied and summed in FP32. Tensor cores add in another order, so results agree to the
rounding of FP32, not bit for bit.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Halves = NDArray[np.float16]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Form:
    """The parameters that one kernel of `convolution.cu` is compiled for: a line of its table."""

    inputs: int
    """Input channels per pass."""
    outputs: int
    """Output channels per block of the grid's y, a multiple of 8."""
    side: int
    passes: int = 1
    factor: int = 1
    """Factor of the PixelShuffle."""
    tile: tuple[int, int] = (30, 4)
    """(width, height) of a tile in pixels."""
    groups: int = 3
    """Groups of threads in a block; each has its own tile."""
    group_threads: int = 128
    blocks_at_once: int = 1
    """Resident blocks per multiprocessor."""
    shared_bytes: int = 0

    def grid(
        self, count: int, width: int, height: int, multiprocessors: int, channel_blocks: int
    ) -> tuple[int, int]:
        """Return (x, y) of the grid.

        For each block of channels, there are as many blocks of threads as run at once; each loops
        over tiles.
        """
        tiles = count * -(-width // self.tile[0]) * -(-height // self.tile[1])
        return min(self.blocks_at_once * multiprocessors, tiles), channel_blocks


FORMS = {
    "convolve_8_to_64_by_9": Form(8, 64, 9, tile=(24, 4), shared_bytes=203264),
    "convolve_64_to_64_by_3": Form(64, 64, 3, shared_bytes=228608),
    "convolve_64_to_256_by_3": Form(64, 64, 3, factor=2, shared_bytes=228608),
    "image_of_256_by_5": Form(
        *(32, 16, 5),
        passes=8,
        factor=2,
        tile=(60, 8),
        groups=1,
        group_threads=256,
        blocks_at_once=3,
        shared_bytes=75520,
    ),
    "convolve_8_to_32_by_3": Form(8, 32, 3, groups=4, shared_bytes=88320),
    "convolve_32_to_32_by_3": Form(32, 32, 3, groups=4, shared_bytes=122112),
    "image_of_32_by_3": Form(32, 48, 3, factor=4, groups=4, shared_bytes=131456),
}
"""Forms by the name of the kernel."""


def packed(kernel: NDArray[np.generic], form: Form) -> Halves:
    """Reorder [O, C, k, k] to half [blocks, passes, steps, 2, outputs, 8], as tensor cores read it.

    O is padded with zeros to whole blocks, C to whole passes. A step has 16 values of a tap, or of
    two adjacent taps if a tap has 8.
    """
    outputs, inputs, side, _ = kernel.shape
    blocks, taps = -(-outputs // form.outputs), side + side % 2 if form.inputs == 8 else side
    full = np.zeros((blocks * form.outputs, form.passes * form.inputs, side, taps), np.float16)
    full[:outputs, :inputs, :, :side] = kernel
    if form.inputs == 8:
        split = full.reshape(blocks, form.outputs, form.passes, 8, side, taps // 2, 2)
        ordered = split.transpose(0, 2, 4, 5, 6, 1, 3)
    else:
        split = full.reshape(blocks, form.outputs, form.passes, -1, 2, 8, side, side)
        ordered = split.transpose(0, 2, 6, 7, 3, 4, 1, 5)
    return np.ascontiguousarray(ordered).reshape(blocks, form.passes, -1, 2, form.outputs, 8)


def unpacked(weights: Halves, form: Form) -> Halves:
    """Undo `packed`, except for its padding by zeros: return [O, C, k, k]."""
    blocks, side = len(weights), form.side
    if form.inputs == 8:
        split = weights.reshape(blocks, form.passes, side, -1, 2, form.outputs, 8)
        ordered = split.transpose(0, 5, 1, 6, 2, 3, 4)
    else:
        split = weights.reshape(blocks, form.passes, side, side, -1, 2, form.outputs, 8)
        ordered = split.transpose(0, 6, 1, 4, 5, 7, 2, 3)
    shape = (blocks * form.outputs, form.passes * form.inputs, side, -1)
    return ordered.reshape(shape)[..., :side]


def convolved(source: Halves, kernel: NDArray[np.generic], biases: Floats) -> Floats:
    """Convolve half [N, H, W, C] to float32 [N, H, W, O], with zeros beyond the edges."""
    reach = kernel.shape[2] // 2
    _, height, width, _ = source.shape
    around = np.pad(source.astype(np.float32), ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    sums = np.zeros((*source.shape[:3], len(kernel)), np.float32)
    for row, column in np.ndindex(kernel.shape[2:]):
        taps = around[:, row : row + height, column : column + width]
        sums += taps @ kernel[:, :, row, column].astype(np.float32).T
    return sums + biases


def features(sums: Floats, slopes: Floats, factor: int = 1, added: Halves | None = None) -> Halves:
    """Apply PReLU and PixelShuffle to channels in the order [factor, factor, O]; return halves."""
    n, height, width, channels = sums.shape
    rounded = np.where(sums < 0, sums * slopes, sums).astype(np.float16)
    phases = rounded.reshape(n, height, width, factor, factor, channels // factor**2)
    larger = phases.transpose(0, 1, 3, 2, 4, 5)
    result = larger.reshape(n, height * factor, width * factor, -1)
    return result if added is None else result + added


def image(
    sums: Floats, factor: int, pixels: NDArray[np.uint8] | None = None
) -> tuple[NDArray[np.uint8], Floats]:
    """Convert channels in the order [factor, factor, 3] to bytes; also return image totals.

    Args:
        pixels: uint8 [N, H, W, 3], to which 255 times the sums are added.
    """
    n, height, width, _ = sums.shape
    phases = 255 * sums.reshape(n, height, width, factor, factor, 3)
    base = 0 if pixels is None else pixels[:, :, :, None, None].astype(np.float32)
    levels = (phases + (base + np.float32(0.5))).transpose(0, 1, 3, 2, 4, 5)
    result = np.clip(levels, 0, 255.75).astype(np.uint8)
    return result.reshape(n, height * factor, width * factor, 3), levels.sum((1, 2, 3, 4, 5))
