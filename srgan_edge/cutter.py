"""Decide how frames are cut for an engine, and what to try if memory does not suffice."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeGuard

from srgan_edge.engines.base import Engine, EngineInfo, FrameEngine
from srgan_edge.errors import OutOfMemory, UsageError
from srgan_edge.machine import activation_budget_bytes
from srgan_edge.model.spec import Foreign, ModelSpec, activation_bytes_per_px
from srgan_edge.tiling import (
    MIN_TILE_PX,
    TilePlan,
    Tiling,
    fit_windows,
    plan_tiles,
    plan_windows,
)

STRIPE_BYTES = 128 << 20
"""Largest row of upscaled tiles under `--tile auto`: of a still image, only that is in memory."""

JOINED_BYTES = 128 << 20
"""Most memory for the activations of tiles that are joined, unless two tiles need more. The whole
process needs more than that for its libraries."""

JOINED_TILES = 2
"""Tiles that are joined however much memory the network needs: with halos of 8 px, windows of two
tiles of 128 px compute 5 % more than a frame of 320x180, and single ones 116 %."""

FixedShape = tuple[int, int, int] | None
"""Frames, height and width of an engine's only input; None: it accepts any shape."""


@dataclass(frozen=True)
class Load:
    """The amount of work that an engine gets in one call."""

    tile: int | Literal["auto"]
    batch: int
    joined: bool = False
    """Join tiles as `Tiling.joined` describes."""
    whole_frames: bool = True
    """Pass whole frames to an engine that can cut them on its own device."""


class Cutter:
    """Cuts frames for an engine."""

    def __init__(self, info: EngineInfo, tiling: Tiling, least_halo_px: int = 0) -> None:
        """
        Args:
            least_halo_px: halo that is needed besides the network's, unless `tiling` has a number.
        """
        if tiling.batch < 1:
            raise UsageError(f"--batch {tiling.batch} is below 1")
        self.info, self._tiling = info, tiling
        self.halo_px = _halo_px(tiling.overlap, info.spec, least_halo_px)
        self._planned = lru_cache(maxsize=16)(self._plan)
        self._foreign = info.spec.foreign
        if self._foreign is not None and self._foreign.window_px:
            self._refuse_larger_tiles(self._foreign)
        if info.fixed_shape is not None:
            self._refuse_other_tiles(info.fixed_shape)
        else:
            self._plan(1, 1, Load(tiling.tile, tiling.batch), None)  # refuses impossible options

    def plan(
        self, width: int, height: int, load: Load, fixed_shape: FixedShape
    ) -> tuple[TilePlan, int]:
        """Return the tiles of a frame, and the number of tiles in one call of the engine."""
        plan = self._planned(width, height, load, fixed_shape)
        return plan, load.batch if fixed_shape is None else fixed_shape[0]

    def less(
        self, load: Load, plan: TilePlan, engine: Engine, error: OutOfMemory
    ) -> tuple[Load, str]:
        """Return half the batch, or else tiles of half the side, and a line for the user.

        Raises `error` if there is nothing smaller to try.
        """
        if load.whole_frames and len(plan.tiles) > 1 and takes_frames(engine):
            return cut_on_host(load, "out of memory")
        halos_px = 2 * self.halo_px if len(plan.tiles) > 1 else 0
        core_px = max(plan.window_size) - halos_px
        fixed = engine.info.fixed_shape is not None
        if fixed or (load.batch == 1 and core_px < 2 * MIN_TILE_PX):
            raise error
        if load.batch > 1:
            less = replace(load, batch=load.batch // 2)
            return less, f"out of memory: going on with {less.batch} tiles a call"
        less = replace(load, tile=core_px // 2, batch=1, joined=False)
        return less, f"out of memory: going on with tiles of {less.tile} px"

    def _refuse_other_tiles(self, fixed_shape: tuple[int, int, int]) -> None:
        batch, height, width = fixed_shape
        tile = self._tiling.tile
        fits = tile == "auto" or tile == 0 or tile + 2 * self.halo_px == width == height
        if not fits:
            raise UsageError(
                f"--tile {tile} with halos of {self.halo_px} px, but the engine takes "
                f"{width}x{height} and nothing else; leave --tile out, or build one with --tile"
            )
        if self._tiling.batch not in (1, batch):
            raise UsageError(f"--batch {self._tiling.batch}, but the engine takes {batch}")

    def _refuse_larger_tiles(self, foreign: Foreign) -> None:
        tile, most = self._tiling.tile, foreign.window_px - 2 * self.halo_px
        if most < foreign.multiple:
            raise UsageError(
                f"--overlap {self.halo_px}, but the model takes {foreign.window_px} px, no more; "
                f"possible: up to {(foreign.window_px - foreign.multiple) // 2}"
            )
        if isinstance(tile, int) and tile > most:
            raise UsageError(
                f"--tile {tile} with halos of {self.halo_px} px, but the model takes "
                f"{foreign.window_px} px and no more; possible: up to {most}"
            )

    def _plan(self, width: int, height: int, load: Load, fixed_shape: FixedShape) -> TilePlan:
        if fixed_shape is not None:
            _, window_height, window_width = fixed_shape
            return plan_windows(width, height, (window_width, window_height), self.halo_px)
        foreign = self._foreign
        multiple = 1 if foreign is None else foreign.multiple
        tile = load.tile
        if foreign is not None and (window := foreign.window_px):
            if tile == 0 and max(width, height) > window:
                raise UsageError(
                    f"--tile 0 with {width}x{height}, but the model takes {window} px and no more; "
                    "leave --tile out"
                )
            tile = window - 2 * self.halo_px if tile == "auto" else tile
        budget_bytes = activation_budget_bytes(self.info.device) // self.info.slots
        if tile == "auto":
            if foreign is None or not foreign.whole_frames:
                return self._fitting(width, height, multiple, budget_bytes)
            tile = 0
        plan = plan_tiles(width, height, tile, self.halo_px, multiple)
        may_join = foreign is None and load.joined and load.batch == 1
        if not may_join or len(plan.tiles) == 1 or self.info.device != "cpu":
            return plan
        px_bytes = activation_bytes_per_px(self.info.spec)
        two_tiles_bytes = JOINED_TILES * math.prod(plan.window_size) * px_bytes
        joined_bytes = max(two_tiles_bytes, min(JOINED_BYTES, budget_bytes))
        joined = self._fitting(width, height, multiple, joined_bytes)
        fits = math.prod(joined.window_size) * px_bytes <= joined_bytes
        return joined if fits and joined.overhead < plan.overhead else plan

    def _fitting(self, width: int, height: int, multiple: int, budget_bytes: int) -> TilePlan:
        """Cut a frame so that the network and a row of its results have memory."""
        info = self.info
        budget_px = budget_bytes // activation_bytes_per_px(info.spec)
        row_bytes = 3 * width * info.spec.scale**2
        highest_px = height if height * row_bytes <= STRIPE_BYTES else STRIPE_BYTES // row_bytes
        return fit_windows(width, height, self.halo_px, budget_px, highest_px, multiple)


def takes_frames(engine: Engine) -> TypeGuard[FrameEngine]:
    """Return True for an engine that cuts frames on its own device."""
    return isinstance(engine, FrameEngine) and engine.takes_frames


def cut_on_host(load: Load, why: str) -> tuple[Load, str]:
    """Return the load with frames cut in host memory, and a line for the user."""
    line = f"{why}: going on with frames that are cut before they go to the GPU"
    return replace(load, whole_frames=False), line


def _halo_px(overlap: int | Literal["auto", "exact"], spec: ModelSpec, least_halo_px: int) -> int:
    if isinstance(overlap, int):
        return overlap
    needed = spec.receptive_radius_px if overlap == "exact" else spec.auto_halo_px
    return max(needed, least_halo_px)
