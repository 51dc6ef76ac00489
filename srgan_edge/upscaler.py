"""An engine and a way of tiling: frames of any size in, frames `scale` times larger out."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Literal, TypeGuard, cast

from srgan_edge.color_lock import locked, locked_stripes
from srgan_edge.engines.base import Engine, EngineInfo, FrameEngine, NotFinite
from srgan_edge.errors import EngineLost, KernelsMissing, ModelRefused, OutOfMemory, UsageError
from srgan_edge.machine import activation_budget_bytes
from srgan_edge.model.spec import ModelSpec, activation_bytes_per_px
from srgan_edge.pixels import Pixels
from srgan_edge.tiling import (
    MIN_TILE_PX,
    Tile,
    TilePlan,
    Tiling,
    largest_tile_px,
    plan_tiles,
    plan_windows,
    upscale_row,
    upscale_tiled,
)

if TYPE_CHECKING:  # which needs PyAV, as videos do
    from srgan_edge.engines.canvas import GpuEngine

STRIPE_BYTES = 128 << 20
"""What `--tile auto` lets a row of upscaled tiles take: of images, only that is in memory."""


@dataclass(frozen=True)
class Load:
    """How much an engine is given at once."""

    tile: int | Literal["auto"]
    batch: int
    whole_frames: bool = True
    """Frames go to engines whole that can cut them themselves."""


class FrameUpscaler:
    """Upscales single frames by tiles, whatever becomes of the engine; engines stay their owner's.

    Where a GPU runs out of memory, the frame is done again in smaller batches, then smaller tiles;
    where it fails, by the spare engine. Tiles that are not finite are done again in FP32, and they
    alone. No frame is left out or done twice; each change is said.
    """

    tiles_redone = 0
    """Tiles that were not finite in the engine's precision, so far."""

    def __init__(
        self,
        engine: Engine,
        tiling: Tiling,
        say: Callable[[str], None] = lambda line: None,
        spare: Callable[[], Engine] | None = None,
        in_fp32: Callable[[], Engine] | None = None,
        *,
        color_lock: bool | None = False,
    ) -> None:
        """
        Args:
            color_lock: hold the mean colors of the frame; None: if the model may shift them.
            say: takes one line for the user, when something has changed.
            spare: opens another engine of the same model; called once, if this one is lost.
            in_fp32: opens one in FP32; called once, if a tile is not finite in this one.

        Raises:
            UsageError: a tile too small, a negative halo or a batch below 1.
        """
        if tiling.batch < 1:
            raise UsageError(f"--batch {tiling.batch} is below 1")
        self._engine, self._tiling, self._say, self._spare = engine, tiling, say, spare
        self._open_fp32 = in_fp32
        self._fp32: Engine | None = None
        self._load = Load(tiling.tile, tiling.batch)
        self._changing = threading.Lock()
        spec = engine.info.spec
        self.scale = spec.scale
        self.color_lock = spec.may_shift_colors if color_lock is None else color_lock
        self.halo_px = halo_px(tiling.overlap, spec)
        self._plan_for = lru_cache(maxsize=16)(self._planned)
        if engine.info.fixed_shape is not None:
            self._refuse_other_tiles(engine.info.fixed_shape)
        else:
            self._planned(1, 1, self._load, None)  # refuses impossible options now

    @property
    def info(self) -> EngineInfo:
        """Of the engine that is used now."""
        return self._engine.info

    @property
    def slots(self) -> int:
        """How many calls of `upscale` may run at once."""
        return self._engine.info.slots

    @property
    def gpu_engine(self) -> "GpuEngine | None":
        """The engine that is used now, if frames of a video can stay on its GPU."""
        stays = self._load.whole_frames and _takes_frames(self._engine)
        return cast("GpuEngine", self._engine) if stays else None

    def plan(self, width: int, height: int) -> tuple[TilePlan, int]:
        """How frames of a size are cut now, and how many tiles go to the engine at a time."""
        return self._plan_and_batch(width, height, self._load, self._engine.info.fixed_shape)

    def upscale(self, frame: Pixels) -> Pixels:
        """uint8 [H, W, 3] -> uint8 [sH, sW, 3].

        Raises:
            UsageError: the engine is of a fixed shape that does not fit.
            OutOfMemory: even the smallest tile is too large.
            EngineLost: there is no spare engine, or it is lost too.
            ModelRefused: a tile is not finite in FP32 either, or there is no engine in FP32.
        """
        height, width = frame.shape[:2]
        while True:
            with self._going_on_with_less(width, height) as (engine, plan, batch):
                return self._upscaled(engine, frame, plan, batch)

    def upscale_rows(
        self, rows: Callable[[int, int], Pixels], width: int, height: int
    ) -> Iterator[Pixels]:
        """The same image as by `upscale`, in stripes from the top: uint8 [sh, sW, 3] each.

        No more of it is in memory than one row of tiles, or two to hold its colors.

        Args:
            rows: gives the rows from a first to before a last one, uint8 [h, W, 3].
            width: of the image, in LR pixels.
            height: the same.

        Raises:
            As `upscale`.
        """
        stripes = self._stripes(rows, width, height)
        return locked_stripes(rows, stripes, width, height) if self.color_lock else stripes

    def _stripes(
        self, rows: Callable[[int, int], Pixels], width: int, height: int
    ) -> Iterator[Pixels]:
        done = 0
        while done < height:
            stripe, stop = None, done
            with self._going_on_with_less(width, height) as (engine, plan, batch):
                tiles = next(row for row in plan.rows if row[0].core_y.stop > done)
                window, core = tiles[0].window_y, tiles[0].core_y
                windows = rows(window.start, window.stop)
                upscale = self._finite(engine, tiles)
                stripe = upscale_row(upscale, windows, tiles, self.scale, batch)
                # With smaller tiles than before, the first row may begin above where we are.
                stripe, stop = stripe[self.scale * (done - core.start) :], core.stop
            if stripe is not None:
                yield stripe
            done = stop

    @contextmanager
    def _going_on_with_less(
        self, width: int, height: int
    ) -> Iterator[tuple[Engine, TilePlan, int]]:
        """What to upscale a frame with. If that is too much, or lost, other is taken: try again."""
        engine, load = self._engine, self._load
        fixed_shape = engine.info.fixed_shape
        plan, batch = self._plan_and_batch(width, height, load, fixed_shape)
        try:
            yield engine, plan, batch
        except OutOfMemory as error:
            with self._changing:
                if load == self._load and engine is self._engine:  # else it has changed already
                    self._ask_for_less(load, plan, fixed_shape, error)
        except EngineLost as error:
            with self._changing:
                if engine is self._engine:
                    self._take_spare(engine, error)

    def _plan_and_batch(
        self, width: int, height: int, load: Load, fixed_shape: tuple[int, int, int] | None
    ) -> tuple[TilePlan, int]:
        plan = self._plan_for(width, height, load, fixed_shape)
        return plan, load.batch if fixed_shape is None else fixed_shape[0]

    def _upscaled(self, engine: Engine, frame: Pixels, plan: TilePlan, batch: int) -> Pixels:
        if self._load.whole_frames and _takes_frames(engine):
            try:
                return engine.upscale_frame(frame, plan, batch, lock_colors=self.color_lock)
            except NotFinite:
                pass  # tile by tile, so that only those are done again
            except KernelsMissing as error:
                with self._changing:
                    if self._load.whole_frames:
                        self._cut_here(str(error))
        upscale = self._finite(engine, plan.tiles)
        pixels = upscale_tiled(upscale, frame, plan, self.scale, batch)
        return locked(frame, pixels) if self.color_lock else pixels

    def _finite(self, engine: Engine, tiles: Iterable[Tile]) -> Callable[[Pixels], Pixels]:
        """`engine.upscale` for these tiles, in their order."""
        coming = iter(tiles)

        def upscale(batch: Pixels) -> Pixels:
            given = list(islice(coming, len(batch)))
            try:
                return engine.upscale(batch)
            except NotFinite as error:
                for index in error.frames:
                    error.result[index] = self._redone(batch[index], given[index], engine)
                return error.result

        return upscale

    def _redone(self, window: Pixels, tile: Tile, engine: Engine) -> Pixels:
        """One tile by the engine in FP32: uint8 [h, w, 3] -> uint8 [sh, sw, 3]."""
        place = f"the tile at x {tile.core_x.start}, y {tile.core_y.start} of a frame"
        was = engine.info
        with self._changing:
            if self._fp32 is None:
                if self._open_fp32 is None or was.precision == "fp32":
                    raise ModelRefused(f"{place} is not finite in {was.arithmetic} on {was.name}")
                self._fp32 = self._open_fp32()
                self._say(
                    f"{place} is not finite in {was.arithmetic}: done again, as will be others "
                    f"like it, in {self._fp32.info.arithmetic} by {self._fp32.info.name}"
                )
            self.tiles_redone += 1
        try:
            return self._fp32.upscale(window[None])[0]
        except NotFinite:
            raise ModelRefused(
                f"{place} is not finite, neither in {was.arithmetic} nor in FP32: the model cannot "
                "upscale it; take another one with -n"
            ) from None

    def _ask_for_less(
        self,
        load: Load,
        plan: TilePlan,
        fixed_shape: tuple[int, int, int] | None,
        error: OutOfMemory,
    ) -> None:
        """From now on half the batch, or else tiles of half the side."""
        if load.whole_frames and len(plan.tiles) > 1 and _takes_frames(self._engine):
            self._cut_here("out of memory")
            return
        halos_px = 2 * self.halo_px if len(plan.tiles) > 1 else 0
        core_px = max(plan.window_size) - halos_px
        if fixed_shape is not None or (load.batch == 1 and core_px < 2 * MIN_TILE_PX):
            raise error
        if load.batch > 1:
            self._load = replace(load, batch=load.batch // 2)
            self._say(f"out of memory: going on with {self._load.batch} tiles a call")
        else:
            self._load = replace(load, tile=core_px // 2, batch=1)
            self._say(f"out of memory: going on with tiles of {self._load.tile} px")

    def _cut_here(self, why: str) -> None:
        self._load = replace(self._load, whole_frames=False)
        self._say(f"{why}: going on with frames that are cut before they go to the GPU")

    def _take_spare(self, lost: Engine, error: EngineLost) -> None:
        if self._spare is None:
            raise error
        self._engine, self._spare = self._spare(), None
        was, now = lost.info, self._engine.info
        self._say(
            f"{was.name} is lost ({error}); going on with {now.name}, {now.device}, "
            f"{now.arithmetic} instead of {was.arithmetic}"
        )

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

    def _planned(
        self, width: int, height: int, load: Load, fixed_shape: tuple[int, int, int] | None
    ) -> TilePlan:
        if fixed_shape is not None:
            _, window_height, window_width = fixed_shape
            return plan_windows(width, height, (window_width, window_height), self.halo_px)
        tile_px = self._auto_tile_px(width, height) if load.tile == "auto" else load.tile
        return plan_tiles(width, height, tile_px, self.halo_px)

    def _auto_tile_px(self, width: int, height: int) -> int:
        """The largest for which there is memory in the network, and for a row of its results."""
        info = self._engine.info
        budget_bytes = activation_budget_bytes(info.device) // info.slots
        budget_px = budget_bytes // activation_bytes_per_px(info.spec)
        tile_px = largest_tile_px(width, height, self.halo_px, budget_px)
        row_bytes = 3 * width * self.scale**2
        if height * row_bytes <= STRIPE_BYTES:
            return tile_px
        return min(tile_px or height, max(64, STRIPE_BYTES // row_bytes - self.halo_px))


def _takes_frames(engine: Engine) -> TypeGuard[FrameEngine]:
    return isinstance(engine, FrameEngine) and engine.takes_frames


def halo_px(overlap: int | Literal["auto", "exact"], spec: ModelSpec) -> int:
    """The halo in LR pixels that an `--overlap` means for a model."""
    if overlap == "exact":
        return spec.receptive_radius_px
    return spec.auto_halo_px if overlap == "auto" else overlap
