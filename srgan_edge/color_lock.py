"""Colours held where they are: the low frequencies of a result are those of its input.

A generator that was trained against a discriminator may shift whole areas by a level or two, which
no lack of detail explains. The difference between the mean colours of large blocks is all of that
and nothing of the texture; interpolated, it is added to the result. It is taken over the picture
and not over the network's tiles, so that there are no seams. That is back-projection (Irani and
Peleg 1991) of the lowest frequencies alone.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from srgan_edge.pixels import Pixels

BLOCK_PX = 16
"""Side of a block in pixels of the input, about: blocks of one picture are all but equal."""

_Floats: TypeAlias = npt.NDArray[np.float32]
_Edges: TypeAlias = npt.NDArray[np.intp]

_BAND_VALUES = 2**17  # in float32, half of what a processor's cache holds

# Bayer's order. A shift by a third of a level moves a third of the pixels by a whole one: rounding,
# alike everywhere, would move none of them.
_DITHER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])
_THRESHOLDS = (_DITHER + 0.5) / 16


def locked(source: Pixels, upscaled: Pixels) -> Pixels:
    """uint8 [sH, sW, C]: `upscaled`, with the mean colours of `source` block by block.

    Args:
        source: uint8 [H, W, C], the input.
        upscaled: uint8 [sH, sW, C], what was made of it.
    """
    height, width, _ = source.shape
    (whole,) = locked_stripes(lambda start, stop: source[start:stop], [upscaled], width, height)
    return whole


def locked_stripes(
    rows: Callable[[int, int], Pixels], stripes: Iterable[Pixels], width: int, height: int
) -> Iterator[Pixels]:
    """The same for a result that comes in stripes from the top, and leaves in others.

    What has come is held back by at most a block and a half.

    Args:
        rows: gives the rows of the input from a first to before a last one, uint8 [h, W, C].
        stripes: uint8 [sh, sW, C] each, as are those it gives.
        width: of the input, in pixels.
        height: the same.
    """
    edges, columns = _block_edges(height), _block_edges(width)
    held: list[Pixels] = []
    done = learned = 0
    wide = np.empty((len(edges) - 1, 0), np.float32)
    for stripe in stripes:
        scale, channels = stripe.shape[1] // width, stripe.shape[2]
        if not wide.size:
            wide = np.empty((len(edges) - 1, scale * width * channels), np.float32)
        held.append(stripe)
        available = np.concatenate(held) if len(held) > 1 else stripe
        while learned < len(wide) and scale * edges[learned + 1] <= done + len(available):
            first, last = edges[learned : learned + 2]
            missing = _means(rows(first, last), columns)
            missing -= _means(
                available[scale * first - done : scale * last - done], scale * columns
            )
            wide[learned] = (_interpolation(width, scale) @ missing).ravel()
            learned += 1
        middle = (edges[learned - 1] + edges[learned]) / 2 if 0 < learned < len(wide) else height
        ready = scale * int(middle) - done if learned else 0
        if ready > 0:
            yield _corrected(available[:ready], wide, _interpolation(height, scale), done)
            done += ready
        held = [available[max(ready, 0) :]]


def _corrected(answers: Pixels, wide: _Floats, down: _Floats, top: int) -> Pixels:
    """The rows of the result from `top` on.

    Args:
        wide: [blocks, sW * C], what is missing in each row of blocks.
        down: [sH, blocks], the share of each in each row.
    """
    height, width, channels = answers.shape
    result = np.empty((height, width * channels), np.uint8)
    thresholds = np.tile(_THRESHOLDS.repeat(channels, axis=1), (1, -(-width // 4)))
    band_rows = max(1, _BAND_VALUES // (width * channels))
    for start in range(0, height, band_rows):
        band = slice(start, min(start + band_rows, height))
        shares = down[top + band.start : top + band.stop]
        used = np.flatnonzero(shares.any(axis=0))
        sums = shares[:, used] @ wide[used]
        places = np.arange(top + band.start, top + band.stop) % 4
        sums += thresholds[places, : width * channels].astype(np.float32)
        moved = np.floor(sums, out=sums).astype(np.int16)
        moved += answers[band].reshape(moved.shape)
        np.clip(moved, 0, 255, out=moved)
        result[band] = moved
    return result.reshape(answers.shape)


def _block_edges(size: int) -> _Edges:
    """Where each block begins, and where the last one ends, in pixels of the input."""
    return np.linspace(0, size, max(1, round(size / BLOCK_PX)) + 1).round().astype(np.intp)


def _means(pixels: Pixels, columns: _Edges) -> _Floats:
    """Of one row of blocks: uint8 [h, w, C] to float32 [blocks, C]."""
    sums = np.add.reduceat(pixels.sum(axis=0, dtype=np.uint32), columns[:-1], axis=0)
    return (sums / (len(pixels) * np.diff(columns)[:, None])).astype(np.float32)


@lru_cache(maxsize=8)
def _interpolation(size: int, scale: int) -> _Floats:
    """[scale * size, blocks]: linear between the middles of blocks, constant beyond the outer."""
    edges = _block_edges(size)
    middles = (edges[:-1] + edges[1:]) / 2
    places = (np.arange(scale * size) + 0.5) / scale
    shares = [np.interp(places, middles, block) for block in np.eye(len(middles))]
    return np.stack(shares, axis=1).astype(np.float32)
