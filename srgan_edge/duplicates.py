"""Frames of a video that nearly repeat an earlier one, as held drawings and telecine do.

A result is made of that of the earlier frame, with the difference of the two sources added to it,
so that grain and slow motion go on. Frames are compared with the one that was upscaled last, never
with another repeat: small changes add up until a frame is upscaled again.
"""

from collections.abc import Iterator
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
_BAND_ROWS = 8
"""Rows of the source that are enlarged at once: their results stay in a processor's cache."""

_REACH_PX = 2
"""Bicubic interpolation reads this far to either side."""


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
    changed = (difference != 0).any(axis=2)
    if not changed.any():
        return result
    shifted = Image.fromarray((difference + _MIDDLE).clip(0, 255).astype(np.uint8))
    scale = len(result) // len(pixels)
    made = result.copy()
    for rows, columns in _windows(changed):
        enlarged = _enlarged(shifted, rows, columns, scale)
        place = made[_times(rows, scale), _times(columns, scale)]
        total = np.add(place, enlarged, dtype=np.int16)
        total -= _MIDDLE
        np.clip(total, 0, 255, out=total)
        place[...] = total
    return made


def _windows(changed: npt.NDArray[np.bool_]) -> Iterator[tuple[slice, slice]]:
    """Yield rows and columns that hold all that follows from changed pixels; none overlap."""
    height, width = changed.shape
    for top in range(0, height, _BAND_ROWS):
        rows = slice(top, min(top + _BAND_ROWS, height))
        near = changed[_grown(rows, height)].any(axis=0)
        if near.any():
            first, last = np.flatnonzero(near)[[0, -1]].tolist()
            yield rows, _grown(slice(first, last + 1), width)


def _enlarged(image: Image.Image, rows: slice, columns: slice, scale: int) -> Pixels:
    """Return a window of an enlarged image, as if all of it had been enlarged.

    Args:
        image: RGB.
        rows, columns: the window in the image, in pixels.
    """
    width, height = (columns.stop - columns.start) * scale, (rows.stop - rows.start) * scale
    read = _grown(rows, image.height)
    # In two steps: in one, Pillow rounds between them in an order that depends on the window.
    wide = image.resize(
        (width, read.stop - read.start),
        Image.Resampling.BICUBIC,
        box=(columns.start, read.start, columns.stop, read.stop),
    )
    top = rows.start - read.start
    box = (0, top, width, top + rows.stop - rows.start)
    return np.asarray(wide.resize((width, height), Image.Resampling.BICUBIC, box=box))


def _grown(window: slice, size: int) -> slice:
    return slice(max(0, window.start - _REACH_PX), min(size, window.stop + _REACH_PX))


def _times(window: slice, scale: int) -> slice:
    return slice(window.start * scale, window.stop * scale)


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
