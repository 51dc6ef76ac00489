"""A convolution with bias, PReLU, residual and PixelShuffle, or as the last one with the image.

What `convolution.cu` computes, in numpy: its specification. Halves are multiplied and added up in
FP32; a tensor core adds in another order, so that both agree to the rounding of FP32, not to the
bit.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Halves = NDArray[np.float16]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Form:
    """What one kernel of `convolution.cu` was compiled for: the lines of its table."""

    inputs: int
    """Channels that are multiplied in a pass."""
    outputs: int
    """Channels that a block of the grid's y makes; multiples of 8."""
    side: int
    passes: int = 1
    factor: int = 1
    """Pixels each way that become of one."""
    tile: tuple[int, int] = (30, 4)
    """(width, height) of what threads make at once."""
    groups: int = 3
    """Tiles that a block has at once."""
    group_threads: int = 128
    blocks_at_once: int = 1
    """Of one multiprocessor."""
    shared_bytes: int = 0

    def grid(
        self, count: int, width: int, height: int, multiprocessors: int, channel_blocks: int
    ) -> tuple[int, int]:
        """(x, y) of the grid: for each block of channels, which are done one after the other, as
        many blocks of threads as run at once, each with tile after tile."""
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
"""By the names of the kernels."""


def packed(kernel: NDArray[np.generic], form: Form) -> Halves:
    """[O, C, k, k] -> half [blocks, passes, steps, 2, outputs, 8], as tensor cores read it.

    O is filled up with zeros to whole blocks, C to whole passes. A step has 16 values of a tap, or
    of two taps beside each other if a tap has 8.
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
    """What `packed` was given, with the zeros that it added: [O, C, k, k]."""
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
    """half [N, H, W, C] -> float32 [N, H, W, O], zeros beyond the edges."""
    reach = kernel.shape[2] // 2
    _, height, width, _ = source.shape
    around = np.pad(source.astype(np.float32), ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    sums = np.zeros((*source.shape[:3], len(kernel)), np.float32)
    for row, column in np.ndindex(kernel.shape[2:]):
        taps = around[:, row : row + height, column : column + width]
        sums += taps @ kernel[:, :, row, column].astype(np.float32).T
    return sums + biases


def features(sums: Floats, slopes: Floats, factor: int = 1, added: Halves | None = None) -> Halves:
    """PReLU, and PixelShuffle of channels in the order [factor, factor, O], as halves."""
    n, height, width, channels = sums.shape
    rounded = np.where(sums < 0, sums * slopes, sums).astype(np.float16)
    phases = rounded.reshape(n, height, width, factor, factor, channels // factor**2)
    larger = phases.transpose(0, 1, 3, 2, 4, 5)
    result = larger.reshape(n, height * factor, width * factor, -1)
    return result if added is None else result + added


def image(
    sums: Floats, factor: int, pixels: NDArray[np.uint8] | None = None
) -> tuple[NDArray[np.uint8], Floats]:
    """Channels in the order [factor, factor, 3] -> bytes, and what was rounded in sum.

    Args:
        pixels: uint8 [N, H, W, 3], to which 255 times the sums are added.
    """
    n, height, width, _ = sums.shape
    phases = 255 * sums.reshape(n, height, width, factor, factor, 3)
    base = 0 if pixels is None else pixels[:, :, :, None, None].astype(np.float32)
    levels = (phases + (base + np.float32(0.5))).transpose(0, 1, 3, 2, 4, 5)
    result = np.clip(levels, 0, 255.75).astype(np.uint8)
    return result.reshape(n, height * factor, width * factor, 3), levels.sum((1, 2, 3, 4, 5))
