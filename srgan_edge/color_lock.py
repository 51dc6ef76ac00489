"""Preserve mean colors: give a result the low frequencies of its input.

A generator that was trained against a discriminator may shift whole areas by a level or two. The
difference between the mean colors of large blocks measures that shift without the texture;
interpolated, it is added to the result. Blocks divide the image and not the network's tiles, so
that there are no seams. This is back-projection (Irani and Peleg 1991) of the lowest frequencies
alone.

All arithmetic is in integers, so that a GPU, which sums in another order, computes the same bytes.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from srgan_edge.pixels import Pixels

BLOCK_PX = 16
"""Approximate side of a block in LR pixels; the blocks of an image are nearly equal."""

MISSING_BITS, SHARE_BITS = 8, 7
"""Fractional bits of a block's missing level, and of its share in a pixel's shift."""

_Ints: TypeAlias = npt.NDArray[np.int32]

_FRACTION_BITS = MISSING_BITS + 2 * SHARE_BITS
_BAND_VALUES = 2**16  # as int32, a quarter of a processor's cache

# Bayer's order. A shift by a third of a level moves a third of the pixels by a whole level; plain
# rounding would move none of them.
_DITHER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]], np.int32)
_THRESHOLDS = (2 * _DITHER + 1) << (_FRACTION_BITS - 5)


class LockAxis(NamedTuple):
    """One axis of an image, divided into blocks."""

    edges: _Ints
    """Start of each block and end of the last, in LR pixels: int32 [blocks + 1]."""
    places: _Ints
    """For each pixel of the result, 256 times the block whose middle is at or before it, plus the
    share of the next block in 1/128: int32 [scale * size]. Constant beyond the outer middles."""


@lru_cache(maxsize=16)
def lock_axis(size: int, scale: int) -> LockAxis:
    """Divide an axis of `size` LR pixels, and `scale` times as many in the result."""
    edges = np.linspace(0, size, max(1, round(size / BLOCK_PX)) + 1).round().astype(np.int64)
    # In half pixels of the result, all of these are whole numbers.
    middles = scale * (edges[:-1] + edges[1:])
    pixels = 2 * np.arange(scale * size) + 1
    here = np.searchsorted(middles, pixels, side="right") - 1
    here = here.clip(0, max(0, len(middles) - 2))
    following = np.minimum(here + 1, len(middles) - 1)
    distance = np.maximum(middles[following] - middles[here], 1)
    share = (((pixels - middles[here]) << SHARE_BITS + 1) + distance) // (2 * distance)
    places = (here << 8) + share.clip(0, 1 << SHARE_BITS)
    return LockAxis(edges.astype(np.int32), places.astype(np.int32))


def locked(source: Pixels, upscaled: Pixels) -> Pixels:
    """Return `upscaled` with the mean colors of `source`, block by block: uint8 [sH, sW, C].

    Args:
        source: uint8 [H, W, C], the input.
        upscaled: uint8 [sH, sW, C], its upscaled image.
    """
    height, width, _ = source.shape
    (whole,) = locked_stripes(lambda start, stop: source[start:stop], [upscaled], width, height)
    return whole


def locked_stripes(
    rows: Callable[[int, int], Pixels], stripes: Iterable[Pixels], width: int, height: int
) -> Iterator[Pixels]:
    """Do the same as `locked` for a result that arrives in stripes from the top; yield others.

    At most a block and a half is held back.

    Args:
        rows: returns the LR rows from a first one up to a last one (excluded), uint8 [h, W, C].
        stripes: uint8 [sh, sW, C] each, like those that are yielded.
        width: width of the input in pixels.
        height: height of the input in pixels.
    """
    edges = lock_axis(height, 1).edges
    held: list[Pixels] = []
    done = learned = 0
    wide = np.empty((len(edges) - 1, 0), np.int32)
    for stripe in stripes:
        scale, channels = stripe.shape[1] // width, stripe.shape[2]
        if not wide.size:
            wide = np.empty((len(edges) - 1, scale * width * channels), np.int32)
        held.append(stripe)
        available = np.concatenate(held) if len(held) > 1 else stripe
        while learned < len(wide) and scale * edges[learned + 1] <= done + len(available):
            first, last = edges[learned : learned + 2]
            result = available[scale * first - done : scale * last - done]
            wide[learned] = _missing_across(rows(first, last), result, scale)
            learned += 1
        middle = (edges[learned - 1] + edges[learned]) / 2 if 0 < learned < len(wide) else height
        ready = scale * int(middle) - done if learned else 0
        if ready > 0:
            down = lock_axis(height, scale).places[done : done + ready]
            yield _shifted(available[:ready], wide, down, done)
            done += ready
        held = [available[max(ready, 0) :]]


def _missing_across(source: Pixels, upscaled: Pixels, scale: int) -> _Ints:
    """Return the levels missing in a row of blocks, interpolated between block middles.

    The unit is 1/256 of a level, times 1/128; int32 [sW * C].
    """
    edges, places = lock_axis(source.shape[1], scale)
    pixels = scale**2 * len(source) * np.diff(edges).astype(np.int64)[:, None]
    difference = scale**2 * _sums(source, edges) - _sums(upscaled, scale * edges)
    missing = ((2 << MISSING_BITS) * difference + pixels) // (2 * pixels)
    here, share = places >> 8, (places & 0xFF)[:, None]
    following = np.minimum(here + 1, len(missing) - 1)
    mixed = ((1 << SHARE_BITS) - share) * missing[here] + share * missing[following]
    return mixed.astype(np.int32).ravel()


def _sums(pixels: Pixels, columns: _Ints) -> npt.NDArray[np.int64]:
    """Sum each block of one row of blocks: uint8 [h, w, C] to int64 [blocks, C]."""
    of_rows = pixels.sum(axis=0, dtype=np.uint32)
    return np.add.reduceat(of_rows, columns[:-1], axis=0, dtype=np.int64)


def _shifted(pixels: Pixels, wide: _Ints, down: _Ints, top: int) -> Pixels:
    """Return rows of the result from `top` on with their colors preserved: uint8 [h, sW, C].

    Args:
        wide: int32 [blocks, sW * C], the result of `_missing_across` for each row of blocks.
        down: int32 [h], a part of `LockAxis.places`.
    """
    height, width, channels = pixels.shape
    flat = pixels.reshape(height, width * channels)
    result = np.empty_like(flat)
    thresholds = np.tile(_THRESHOLDS.repeat(channels, axis=1), (1, -(-width // 4)))
    thresholds = thresholds[:, : width * channels]
    band_rows = max(1, _BAND_VALUES // (width * channels))
    blocks, shares = down >> 8, down & 0xFF
    changes = np.flatnonzero(np.diff(blocks, prepend=-1, append=-1))
    for first, last in zip(changes[:-1].tolist(), changes[1:].tolist(), strict=True):
        upper = wide[blocks[first]]
        slope = wide[min(blocks[first] + 1, len(wide) - 1)] - upper
        base = (upper << SHARE_BITS) + thresholds
        for start in range(first, last, band_rows):
            band = slice(start, min(start + band_rows, last))
            shift = np.multiply.outer(shares[band], slope)
            for row in range(4):  # of the thresholds
                shift[row::4] += base[(top + start + row) % 4]
            shift >>= _FRACTION_BITS
            shift += flat[band]
            np.clip(shift, 0, 255, out=shift)
            result[band] = shift
    return result.reshape(pixels.shape)
