"""Cut a frame into tiles of one shape, and join the upscaled tiles again.

A tile is a window of the frame: the core that it contributes to the result, and a halo on each
side. The halo shows the network the neighborhood of the core and is discarded afterwards; where it
covers the network's receptive field there is nothing to blend. There is no halo at the edge of the
frame, so that the network sees the same edge as in the whole frame. All windows have one shape,
which static engines and batches need: the last row and column shift inward.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import numpy.typing as npt

from srgan_edge.errors import UsageError
from srgan_edge.pixels import Pixels

MIN_TILE_PX = 16
"""In smaller tiles nearly all of the work would be in the halo."""

SHORTEST_PX = 64
"""Shortest core that `fit_windows` cuts."""

LITTLE_MORE = 1.02
"""Share of pixels for which smaller windows are worth it: less than timings vary by."""


@dataclass(frozen=True)
class Tiling:
    """Options for cutting frames into tiles."""

    tile: int | Literal["auto"] = "auto"
    """Side of a tile's core in LR pixels; 0: whole frames; auto: the largest that fits."""
    overlap: int | Literal["auto", "exact"] = "auto"
    """Halo in LR pixels; exact: the receptive radius; auto: as measured for the model."""
    batch: int = 1
    """Tiles per call of the engine."""
    joined: bool = False
    """On a CPU, compute neighboring tiles in one window where that needs little more memory: their
    halos are then computed once."""


@dataclass(frozen=True)
class Span:
    """Half-open range [start, stop) of pixels along one axis."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    def slice(self, scale: int = 1, origin: int = 0) -> slice:
        """Return this range as an index relative to `origin`, scaled by `scale`."""
        return slice(scale * (self.start - origin), scale * (self.stop - origin))


@dataclass(frozen=True)
class Tile:
    """A window of the frame and the core in it, in LR pixels of the frame."""

    window_y: Span
    window_x: Span
    core_y: Span
    core_x: Span


@dataclass(frozen=True)
class TilePlan:
    """The tiles of one frame size. Their cores partition the frame."""

    width: int
    height: int
    tiles: tuple[Tile, ...]

    @property
    def window_size(self) -> tuple[int, int]:
        """Width and height of every window."""
        return self.tiles[0].window_x.length, self.tiles[0].window_y.length

    @property
    def overhead(self) -> float:
        """Pixels computed divided by pixels kept; 1.0 for a whole frame."""
        width, height = self.window_size
        return len(self.tiles) * width * height / (self.width * self.height)

    @property
    def rows(self) -> list[tuple[Tile, ...]]:
        """The tiles of each row, from the top."""
        rows = groupby(self.tiles, key=lambda tile: tile.core_y)
        return [tuple(tiles) for _, tiles in rows]

    @property
    def table(self) -> npt.NDArray[np.int32]:
        """The tiles for CUDA kernels, int32 [N, 6]: window y, x; core y, x, height, width."""
        return np.array(
            [
                (
                    tile.window_y.start,
                    tile.window_x.start,
                    tile.core_y.start,
                    tile.core_x.start,
                    tile.core_y.length,
                    tile.core_x.length,
                )
                for tile in self.tiles
            ],
            np.int32,
        )


def plan_tiles(width: int, height: int, tile_px: int, halo_px: int, multiple: int = 1) -> TilePlan:
    """Cut a frame of `width` x `height` LR pixels.

    Args:
        tile_px: side of the core; 0 keeps the frame whole. No window is larger than this core and
            two halos.
        halo_px: width of the halo around the core.
        multiple: windows and cores begin at multiples of so many pixels. A network with a stride,
            or with attention windows, would otherwise see another grid than in the whole frame.

    Raises:
        UsageError: the tile is too small to be useful, or the halo is negative.
    """
    if tile_px != 0 and tile_px < MIN_TILE_PX:
        raise UsageError(
            f"--tile {tile_px} is too small; possible: 0 for whole frames, or {MIN_TILE_PX} and up"
        )
    if halo_px < 0:
        raise UsageError(f"--overlap {halo_px} is negative; possible: 0 and up, auto, exact")
    rows = list(_plan_axis(height, tile_px or height, halo_px, multiple))
    columns = list(_plan_axis(width, tile_px or width, halo_px, multiple))
    return _planned(width, height, rows, columns)


def plan_windows(width: int, height: int, window_size: tuple[int, int], halo_px: int) -> TilePlan:
    """Cut a frame into windows of one size, for an engine that accepts no other.

    Args:
        window_size: width and height, halo included; a frame of exactly this size stays whole.

    Raises:
        UsageError: the frame is smaller than a window, or a window is no larger than its halos.
    """
    if window_size == (width, height):
        return plan_tiles(width, height, 0, 0)
    wide, high = window_size
    if wide > width or high > height:
        raise UsageError(
            f"an image of {width}x{height} is smaller than what the engine takes, {wide}x{high}; "
            "build one with --dynamic, or for smaller tiles"
        )
    if min(window_size) <= 2 * halo_px:
        raise UsageError(
            f"windows of {wide}x{high} with halos of {halo_px} px leave nothing; "
            "build an engine for larger tiles"
        )
    rows = list(_plan_axis(height, high - 2 * halo_px, halo_px))
    columns = list(_plan_axis(width, wide - 2 * halo_px, halo_px))
    return _planned(width, height, rows, columns)


def fit_windows(
    width: int,
    height: int,
    halo_px: int,
    budget_px: int,
    highest_core_px: int,
    multiple: int = 1,
) -> TilePlan:
    """Keep a frame whole where it fits, or cut it into the windows that cost the least.

    Of all grids of equal windows within the budget, those that compute at most `LITTLE_MORE` than
    the best one; of these, the one with the smallest windows, since they need the least memory.

    Args:
        budget_px: largest area of a window, halo included; no core is shorter than `SHORTEST_PX`
            for that.
        highest_core_px: largest height of a core, with the same exception.
        multiple: as in `plan_tiles`.
    """
    if width * height <= budget_px and height <= highest_core_px:
        return plan_tiles(width, height, 0, halo_px)
    all_rows, all_columns = _counts(height, halo_px), _counts(width, halo_px)
    grids = [
        (rows * columns * high * wide, high * wide, rows, columns)
        for rows in all_rows
        for high in [_window_px(height, rows, halo_px)]
        if high - (halo_px if rows > 1 else 0) <= highest_core_px
        for columns in all_columns
        for wide in [_window_px(width, columns, halo_px)]
        if high * wide <= budget_px
    ]
    rows, columns = all_rows[-1], all_columns[-1]
    if grids:
        enough = LITTLE_MORE * min(total for total, *_ in grids)
        *_, rows, columns = min(
            (area, total, rows, columns) for total, area, rows, columns in grids if total <= enough
        )
    return _planned(
        width,
        height,
        *(
            list(
                _plan_axis(side, _window_px(side, count, halo_px) - 2 * halo_px, halo_px, multiple)
            )
            for side, count in [(height, rows), (width, columns)]
        ),
    )


def _counts(length: int, halo_px: int) -> range:
    """Return the possible numbers of windows along an axis."""
    return range(1, max(1, (length - 2 * halo_px) // SHORTEST_PX) + 1)


def _window_px(length: int, count: int, halo_px: int) -> int:
    """Return the smallest window of which `count` cover an axis, each overlapping by two halos."""
    return -(-(length + 2 * halo_px * (count - 1)) // count)


def upscale_tiled(
    upscale: Callable[[Pixels], Pixels], frame: Pixels, plan: TilePlan, scale: int, batch: int
) -> Pixels:
    """Upscale a frame in tiles: uint8 [H, W, 3] to [sH, sW, 3].

    `upscale` maps uint8 [N, h, w, 3] to [N, sh, sw, 3]. It is called with `batch` tiles at a time,
    and with the remaining ones at the end.
    """
    if len(plan.tiles) == 1:
        return upscale(np.ascontiguousarray(frame)[None])[0]
    result = np.empty((scale * plan.height, scale * plan.width, 3), np.uint8)
    _upscale_into(result, 0, upscale, frame, 0, plan.tiles, scale, batch)
    return result


def upscale_tiles_into(
    result: Pixels,
    upscale: Callable[[Pixels], Pixels],
    frame: Pixels,
    tiles: Sequence[Tile],
    scale: int,
) -> None:
    """Upscale some tiles of a frame, one at a time, into `result`, uint8 [sH, sW, 3]."""
    _upscale_into(result, 0, upscale, frame, 0, tuple(tiles), scale, 1)


def upscale_row(
    upscale: Callable[[Pixels], Pixels],
    windows: Pixels,
    tiles: tuple[Tile, ...],
    scale: int,
    batch: int,
) -> Pixels:
    """Upscale one of a plan's `rows` to the same stripe as `upscale_tiled`.

    Args:
        windows: uint8 [h, W, 3], the rows of the frame that the tiles' windows span.

    Returns:
        The stripe, uint8 [s * core height, sW, 3].
    """
    core, window = tiles[0].core_y, tiles[0].window_y
    result = np.empty((scale * core.length, scale * windows.shape[1], 3), np.uint8)
    _upscale_into(result, core.start, upscale, windows, window.start, tiles, scale, batch)
    return result


def _upscale_into(
    result: Pixels,
    result_top: int,
    upscale: Callable[[Pixels], Pixels],
    frame: Pixels,
    frame_top: int,
    tiles: tuple[Tile, ...],
    scale: int,
    batch: int,
) -> None:
    """Write tiles to `result`; both arrays are full width and begin at the given LR rows."""
    for first in range(0, len(tiles), batch):
        group = tiles[first : first + batch]
        windows = [frame[t.window_y.slice(origin=frame_top), t.window_x.slice()] for t in group]
        for tile, pixels in zip(group, upscale(np.stack(windows)), strict=True):
            result[tile.core_y.slice(scale, result_top), tile.core_x.slice(scale)] = pixels[
                tile.core_y.slice(scale, tile.window_y.start),
                tile.core_x.slice(scale, tile.window_x.start),
            ]


def _planned(
    width: int, height: int, rows: list[tuple[Span, Span]], columns: list[tuple[Span, Span]]
) -> TilePlan:
    tiles = (
        Tile(window_y, window_x, core_y, core_x)
        for window_y, core_y in rows
        for window_x, core_x in columns
    )
    return TilePlan(width, height, tuple(tiles))


def _plan_axis(
    length: int, tile_px: int, halo_px: int, multiple: int = 1
) -> Iterator[tuple[Span, Span]]:
    """Yield the window and the core of each tile along one axis.

    A core begins where the previous one ends. Each is as long as its window allows: `tile_px`, and
    `halo_px` more at either end of the frame, where no halo is needed. With a `multiple` windows
    are shorter by less than that, so that the last one can end with the frame.
    """
    halo_px = -(-halo_px // multiple) * multiple
    window_px = min(tile_px + 2 * halo_px, length)
    window_px -= (window_px - length) % multiple
    if window_px - 2 * halo_px < multiple and window_px < length:
        raise UsageError(
            f"--tile {tile_px} with halos of {halo_px} px leaves nothing in multiples of "
            f"{multiple} px; possible: --tile {2 * multiple} and larger, or 0"
        )
    start = 0
    while start < length:
        window_start = min(max(start - halo_px, 0), length - window_px)
        window = Span(window_start, window_start + window_px)
        stop = window.stop - halo_px
        stop = length if window.stop == length else stop - stop % multiple
        yield window, Span(start, stop)
        start = stop
