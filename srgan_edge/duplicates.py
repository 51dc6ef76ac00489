"""Frames of a video that nearly repeat an earlier one, as held drawings and telecine do.

A result is made of that of the earlier frame, with the difference of the two sources added to it,
so that grain and slow motion go on. Frames are compared with the one that was upscaled last, never
with another repeat: small changes add up until a frame is upscaled again.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from srgan_edge.pixels import Pixels

Dedup: TypeAlias = Literal["strict", "normal"]
"""Names of the limits in `LIKENESS`."""

_BLOCK_PX = 8
_MIDDLE = 128
_BAND_ROWS = 32
"""Rows whose sums stay in a processor's cache: at once, a frame takes four times as long."""


@dataclass(frozen=True)
class Likeness:
    """Limits for the mean difference of blocks of 8x8 pixels, in levels of 255 of the luma."""

    most: float
    """No block may differ by more."""
    little: float
    """Blocks that differ by more than this are counted."""
    share: float
    """Largest share of blocks that may be counted."""


LIKENESS: dict[Dedup, Likeness] = {
    "strict": Likeness(3.0, 3.0, 0.0),
    "normal": Likeness(12.0, 5.0, 0.33),  # those of FFmpeg's mpdecimate
}


def is_repeat(pixels: Pixels, earlier: Pixels, dedup: Dedup) -> bool:
    """Return True if a frame, uint8 [H, W, 3], nearly repeats an earlier one of the same size."""
    if pixels.shape != earlier.shape:
        return False
    limits = LIKENESS[dedup]
    means = _block_means(np.abs(_luma(pixels) - _luma(earlier)))
    return bool(means.max() <= limits.most and np.mean(means > limits.little) <= limits.share)


def with_difference(result: Pixels, pixels: Pixels, earlier: Pixels) -> Pixels:
    """Return the result of an earlier frame with the difference of the sources added.

    Args:
        result: uint8 [sH, sW, 3], of the earlier frame.
        pixels: uint8 [H, W, 3], the frame that repeats it.
        earlier: uint8 [H, W, 3], the earlier frame.
    """
    difference = pixels.astype(np.int16) - earlier
    if not difference.any():
        return result
    shifted = (difference + _MIDDLE).clip(0, 255).astype(np.uint8)
    size = (result.shape[1], result.shape[0])
    enlarged = np.asarray(Image.fromarray(shifted).resize(size, Image.Resampling.BICUBIC))
    changed = np.empty_like(result)
    for top in range(0, len(result), _BAND_ROWS):
        rows = slice(top, top + _BAND_ROWS)
        total = np.add(result[rows], enlarged[rows], dtype=np.int16)
        total -= _MIDDLE
        np.clip(total, 0, 255, out=total)
        changed[rows] = total
    return changed


def _luma(pixels: Pixels) -> npt.NDArray[np.float32]:
    """Return the luma of BT.601, which mpdecimate sees, float32 [H, W]."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return pixels.astype(np.float32) @ weights


def _block_means(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the means of blocks of 8x8 pixels; those at the edges may be smaller."""
    rows, columns = (np.arange(0, side, _BLOCK_PX) for side in values.shape)
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)
    heights = np.diff([*rows, values.shape[0]])
    widths = np.diff([*columns, values.shape[1]])
    return (sums / np.outer(heights, widths)).astype(np.float32)
