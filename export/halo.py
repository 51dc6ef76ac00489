"""The halo that tiles of a foreign graph need, traced where its operations tell, else measured.

Tiles are compared with the whole image. Of a graph that takes squares of one size only, they are
compared with what the network in PyTorch makes of four squares at once; where there is none, with
tiles of a large halo.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import onnx

from srgan_edge import bicubic
from srgan_edge.engines.base import Engine
from srgan_edge.evaluation.parity import ACCEPTED_LEVELS
from srgan_edge.export.reach import Reach, reach_of
from srgan_edge.export.verify import PHOTO
from srgan_edge.image.reader import read_pixels
from srgan_edge.model.spec import MAX_RADIUS_PX, ModelSpec
from srgan_edge.pixels import Pixels
from srgan_edge.tiling import Tile, TilePlan, plan_tiles, upscale_tiled

_HALOS_PX = (4, 8, 12, 16, 24, 32)

_GRIDS_PX = (1, 8, 16)
"""Grids that networks have inside, tried in this order."""

_SIDE_PX = 128
"""Height of the image on which halos of graphs for any size are measured."""

_TILES = 4
"""Tiles that are compared for each halo."""


@dataclass(frozen=True)
class Whole:
    """An image larger than the only input of a graph, and what the network makes of it."""

    frame: Pixels
    """uint8 [H, W, 3]."""
    upscaled: Pixels
    """uint8 [sH, sW, 3]."""


def with_halo(
    spec: ModelSpec, model: onnx.ModelProto, engine: Engine, whole: Whole | None = None
) -> ModelSpec:
    """Return the spec with what its tiles need: traced where the graph tells, else measured."""
    foreign = spec.foreign
    assert foreign is not None
    reach = reach_of(model)
    most = foreign.window_px // 3 if foreign.window_px else MAX_RADIUS_PX
    if isinstance(reach, Reach) and reach.radius_px <= most:
        step = np.lcm(reach.multiple, foreign.multiple).item()
        if not foreign.window_px % step:
            traced = dataclasses.replace(
                foreign, radius_px=reach.radius_px, is_traced=True, multiple=step
            )
            halo_px = None
            if reach.radius_px > _HALOS_PX[1] and not foreign.window_px:
                found = measured_halo(engine, spec.scale, step, 0)
                enough = found.levels <= ACCEPTED_LEVELS and found.halo_px < traced.halo_px
                halo_px = found.halo_px if enough else None
            return dataclasses.replace(spec, foreign=traced, halo_px=halo_px)
    found = _measured(engine, spec.scale, foreign.multiple, foreign.window_px, whole)
    why = ""
    if found.levels > ACCEPTED_LEVELS:
        seen = reach if isinstance(reach, str) else f"{reach.radius_px} px"
        why = (
            f"tiles with halos of {found.halo_px} px differ by up to {found.levels} levels ({seen})"
        )
    measured = dataclasses.replace(
        foreign,
        radius_px=found.halo_px,
        is_traced=False,
        multiple=found.multiple,
        whole_frames=why,
    )
    return dataclasses.replace(spec, foreign=measured)


@dataclass(frozen=True)
class Halo:
    """A halo that was tried, and how far tiles with it are from the whole image."""

    halo_px: int
    levels: int
    """Largest difference."""
    multiple: int
    """Tiles begin at multiples of so many pixels."""


def _measured(
    engine: Engine, scale: int, multiple: int, window_px: int, whole: Whole | None
) -> Halo:
    """Return the smallest halo with which tiles agree, on the finest grid on which they do.

    Networks with attention windows, or that halve the image inside, see another image where tiles
    begin elsewhere than their own grid, which a file of weights does not always state.
    """
    tried: list[Halo] = []
    for grid in _GRIDS_PX:
        step = np.lcm(multiple, grid).item()
        if (window_px % step or 3 * step > window_px > 0) and tried:
            continue
        tried.append(measured_halo(engine, scale, step, window_px, whole))
        if tried[-1].levels <= ACCEPTED_LEVELS:
            return tried[-1]
    return min(tried, key=lambda it: it.levels)


def measured_halo(
    engine: Engine, scale: int, multiple: int, window_px: int, whole: Whole | None = None
) -> Halo:
    """Return the smallest halo with which tiles agree, or the one with which they differ least.

    Args:
        multiple: tiles begin at multiples of so many pixels.
        window_px: side of the only input; 0: the engine takes whole frames too.
        whole: what tiles of such a side are compared with; None: with those of a large halo.
    """
    side = window_px or _SIDE_PX
    frame = whole.frame if whole else bicubic.resize(read_pixels(PHOTO), side, side + side // 4)
    height, width = frame.shape[:2]
    most = 3 * window_px // 8 if window_px else _HALOS_PX[-1]
    halos = sorted({-(-halo // multiple) * multiple for halo in _HALOS_PX})
    halos = [halo for halo in halos if halo <= max(most - multiple, multiple)]

    def plan(halo_px: int) -> TilePlan:
        tile = window_px - 2 * halo_px if window_px else max(side // 4, 2 * multiple)
        return plan_tiles(width, height, tile, halo_px, multiple)

    if whole:
        reference = whole.upscaled
    elif window_px:
        widest = plan(most // multiple * multiple)
        reference = upscale_tiled(engine.upscale, frame, widest, scale, batch=1)
    else:
        reference = engine.upscale(frame[None])[0]
    best = Halo(halos[-1], 255, multiple)
    for halo_px in reversed(halos):
        tiles = _central(plan(halo_px))
        error = max(_difference(engine, scale, frame, tile, reference) for tile in tiles)
        if error < best.levels or error <= ACCEPTED_LEVELS:
            best = Halo(halo_px, error, multiple)
        if error > ACCEPTED_LEVELS:
            break
    return best


def _central(plan: TilePlan) -> list[Tile]:
    """Return a few tiles, those nearest to the middle of the image."""

    def distance(tile: Tile) -> int:
        row = tile.core_y.start + tile.core_y.stop - plan.height
        column = tile.core_x.start + tile.core_x.stop - plan.width
        return row**2 + column**2

    return sorted(plan.tiles, key=distance)[:_TILES]


def _difference(engine: Engine, scale: int, frame: Pixels, tile: Tile, reference: Pixels) -> int:
    """Return the largest difference between a tile and the whole image, in levels."""
    window = frame[tile.window_y.slice(), tile.window_x.slice()]
    upscaled = engine.upscale(np.ascontiguousarray(window)[None])[0]
    rows = tile.core_y.slice(scale, tile.window_y.start)
    columns = tile.core_x.slice(scale, tile.window_x.start)
    whole = reference[tile.core_y.slice(scale), tile.core_x.slice(scale)]
    return int(np.abs(upscaled[rows, columns].astype(np.int16) - whole).max())
