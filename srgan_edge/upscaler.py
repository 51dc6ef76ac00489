"""An engine and a way of tiling: frames of any size in, frames `scale` times larger out."""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Literal, TypeGuard, cast

from srgan_edge.color_lock import locked, locked_stripes
from srgan_edge.engines.base import Engine, EngineInfo, FrameEngine, NotFinite
from srgan_edge.errors import EngineLost, KernelsMissing, ModelRefused, OutOfMemory, UsageError
from srgan_edge.machine import activation_budget_bytes
from srgan_edge.model.spec import Foreign, ModelSpec, activation_bytes_per_px
from srgan_edge.pixels import Pixels
from srgan_edge.tiling import (
    MIN_TILE_PX,
    Tile,
    TilePlan,
    Tiling,
    fit_windows,
    plan_tiles,
    plan_windows,
    upscale_row,
    upscale_tiled,
    upscale_tiles_into,
)

if TYPE_CHECKING:  # needs PyAV, which still images do not
    from srgan_edge.engines.slots import GpuEngine

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


@dataclass(frozen=True, eq=False)
class Upscaled:
    """An upscaled frame, and what the next one needs to reuse tiles of it."""

    pixels: Pixels
    """uint8 [sH, sW, 3]."""
    unlocked: Pixels
    """The same before its mean colors were locked."""
    made_by: tuple[Engine, TilePlan, int]
    """Engine, tiles and tiles in one call."""


class FrameUpscaler:
    """Upscale single frames by tiles and keep going when the engine fails. Engines stay their
    owner's to close. Calls from several threads are safe.

    If a GPU runs out of memory, the frame is upscaled again in smaller batches, then in smaller
    tiles; if it fails, the spare engine takes over. Tiles that are not finite are upscaled again
    in FP32, and only those. No frame is lost or duplicated, and each change is reported.
    """

    tiles_redone = 0
    """Number of tiles so far that were not finite in the engine's precision."""

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
            color_lock: preserve the mean colors of the frame; None: if the model may shift them.
            say: called with a line for the user whenever something has changed.
            spare: opens another engine of the same model; called once, if this one is lost.
            in_fp32: opens one in FP32; called once, if a tile is not finite in this one.

        Raises:
            UsageError: a tile too small, a negative halo or a batch below 1.
        """
        self._engine, self._say, self._spare = engine, say, spare
        self._open_fp32 = in_fp32
        self._fp32: Engine | None = None
        self._load = Load(tiling.tile, tiling.batch, tiling.joined)
        self._changing = threading.Lock()
        spec = engine.info.spec
        self.scale = spec.scale
        self.color_lock = spec.may_shift_colors if color_lock is None else color_lock
        self._cutter = _Cutter(engine.info, tiling)
        self.halo_px = self._cutter.halo_px

    @property
    def info(self) -> EngineInfo:
        """The engine in use now, which may be the spare one."""
        return self._engine.info

    @property
    def slots(self) -> int:
        """Number of calls of `upscale` that may run at once."""
        return self._engine.info.slots

    @property
    def gpu_engine(self) -> "GpuEngine | None":
        """The engine in use now, if frames of a video can stay on its GPU."""
        stays = self._load.whole_frames and _takes_frames(self._engine)
        return cast("GpuEngine", self._engine) if stays else None

    def plan(self, width: int, height: int) -> tuple[TilePlan, int]:
        """Return how frames of this size are cut now, and the number of tiles in one call."""
        return self._cutter.plan(width, height, self._load, self._engine.info.fixed_shape)

    def upscale(self, frame: Pixels) -> Pixels:
        """Upscale a frame: uint8 [H, W, 3] -> uint8 [sH, sW, 3].

        Raises:
            UsageError: the engine has a fixed shape that does not fit.
            OutOfMemory: even the smallest tile is too large.
            EngineLost: there is no spare engine, or it is lost too.
            ModelRefused: a tile is not finite in FP32 either, or there is no engine in FP32.
        """
        return self.upscale_after(frame, None, {})[0].pixels

    def upscale_after(
        self, frame: Pixels, earlier: Upscaled | None, unchanged: Mapping[Tile, bool]
    ) -> tuple[Upscaled, int]:
        """Upscale a frame; return it, and how many of its tiles were taken from an earlier one.

        Args:
            earlier: an upscaled frame of the same size.
            unchanged: whether the window of a tile is the same in both frames.

        Raises:
            SrganEdgeError: the same errors as `upscale`.
        """
        height, width = frame.shape[:2]
        while True:
            with self._going_on_with_less(width, height) as how:
                # In a batch the others would have to make room, and FrameEngines copy less.
                is_alike = earlier is not None and how == earlier.made_by and how[2] == 1
                if earlier is not None and is_alike and not _takes_frames(how[0]):
                    changed = [tile for tile in how[1].tiles if not unchanged.get(tile)]
                else:
                    earlier, changed = None, list(how[1].tiles)
                pixels, unlocked = self._upscaled(*how, frame, earlier, changed)
                reused = len(how[1].tiles) - len(changed)
                return Upscaled(pixels, unlocked, how), reused

    def upscale_rows(
        self,
        rows: Callable[[int, int], Pixels],
        width: int,
        height: int,
        on_tiles: Callable[[int, int], None] = lambda done, total: None,
    ) -> Iterator[Pixels]:
        """Yield the image that `upscale` returns, in stripes from the top: uint8 [sh, sW, 3] each.

        Only one row of tiles is in memory at a time, or two if mean colors are preserved.

        Args:
            rows: returns the rows from a first to before a last one, uint8 [h, W, 3].
            width: Width of the image in LR pixels.
            height: Height of the image in LR pixels.
            on_tiles: called with the number of tiles that are done, and of all.

        Raises:
            SrganEdgeError: the same errors as `upscale`.
        """
        stripes = self._stripes(rows, width, height, on_tiles)
        return locked_stripes(rows, stripes, width, height) if self.color_lock else stripes

    def _stripes(
        self,
        rows: Callable[[int, int], Pixels],
        width: int,
        height: int,
        on_tiles: Callable[[int, int], None],
    ) -> Iterator[Pixels]:
        done = 0
        while done < height:
            stripe, stop = None, done
            with self._going_on_with_less(width, height) as (engine, plan, batch):
                tiles = next(row for row in plan.rows if row[0].core_y.stop > done)
                before, total = plan.tiles.index(tiles[0]), len(plan.tiles)
                on_tiles(before, total)
                window, core = tiles[0].window_y, tiles[0].core_y
                windows = rows(window.start, window.stop)
                upscale = self._finite(engine, tiles, partial(_after, on_tiles, before, total))
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
        """Yield what to upscale a frame with. If that fails for want of memory or of the device,
        the error is swallowed and something else is in use: the caller tries again."""
        engine, load = self._engine, self._load
        plan, batch = self._cutter.plan(width, height, load, engine.info.fixed_shape)
        try:
            yield engine, plan, batch
        except OutOfMemory as error:
            with self._changing:
                if load == self._load and engine is self._engine:  # no other thread changed it
                    self._load, line = self._cutter.less(load, plan, engine, error)
                    self._say(line)
        except EngineLost as error:
            with self._changing:
                if engine is self._engine:
                    self._take_spare(engine, error)

    def _upscaled(
        self,
        engine: Engine,
        plan: TilePlan,
        batch: int,
        frame: Pixels,
        earlier: Upscaled | None,
        changed: Sequence[Tile],
    ) -> tuple[Pixels, Pixels]:
        """Upscale the tiles of a frame that have changed, and take the others from `earlier`."""
        if self._load.whole_frames and _takes_frames(engine):
            try:
                whole = engine.upscale_frame(frame, plan, batch, lock_colors=self.color_lock)
                return whole, whole
            except NotFinite:
                pass  # tile by tile below, so that only the tiles at fault are upscaled again
            except KernelsMissing as error:
                with self._changing:
                    if self._load.whole_frames:
                        self._load, line = _cut_on_host(self._load, str(error))
                        self._say(line)
        upscale = self._finite(engine, changed)
        if earlier is None:
            pixels = upscale_tiled(upscale, frame, plan, self.scale, batch)
        else:
            pixels = earlier.unlocked.copy()
            upscale_tiles_into(pixels, upscale, frame, changed, self.scale)
        return (locked(frame, pixels) if self.color_lock else pixels), pixels

    def _finite(
        self,
        engine: Engine,
        tiles: Sequence[Tile],
        on_done: Callable[[int], None] = lambda done: None,
    ) -> Callable[[Pixels], Pixels]:
        """Return `engine.upscale` for these tiles in this order, with the fallback to FP32.

        Args:
            on_done: called after each call with the number of these tiles that are done.
        """
        coming = iter(enumerate(tiles, 1))

        def upscale(batch: Pixels) -> Pixels:
            given = list(islice(coming, len(batch)))
            try:
                result = engine.upscale(batch)
            except NotFinite as error:
                result = error.result
                for index in error.frames:
                    result[index] = self._redone(batch[index], given[index][1], engine)
            on_done(given[-1][0])
            return result

        return upscale

    def _redone(self, window: Pixels, tile: Tile, engine: Engine) -> Pixels:
        """Upscale one tile on the engine in FP32: uint8 [h, w, 3] -> uint8 [sh, sw, 3]."""
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

    def _take_spare(self, lost: Engine, error: EngineLost) -> None:
        if self._spare is None:
            raise error
        self._engine, self._spare = self._spare(), None
        was, now = lost.info, self._engine.info
        self._cutter.info = now
        self._say(
            f"{was.name} is lost ({error}); going on with {now.name}, {now.device}, "
            f"{now.arithmetic} instead of {was.arithmetic}"
        )


class _Cutter:
    """Decides how frames are cut for an engine, and what to try with less memory."""

    def __init__(self, info: EngineInfo, tiling: Tiling) -> None:
        if tiling.batch < 1:
            raise UsageError(f"--batch {tiling.batch} is below 1")
        self.info, self._tiling = info, tiling
        self.halo_px = _halo_px(tiling.overlap, info.spec)
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
        if load.whole_frames and len(plan.tiles) > 1 and _takes_frames(engine):
            return _cut_on_host(load, "out of memory")
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


def _halo_px(overlap: int | Literal["auto", "exact"], spec: ModelSpec) -> int:
    if overlap == "exact":
        return spec.receptive_radius_px
    return spec.auto_halo_px if overlap == "auto" else overlap


def _cut_on_host(load: Load, why: str) -> tuple[Load, str]:
    line = f"{why}: going on with frames that are cut before they go to the GPU"
    return replace(load, whole_frames=False), line


def _takes_frames(engine: Engine) -> TypeGuard[FrameEngine]:
    return isinstance(engine, FrameEngine) and engine.takes_frames


def _after(on_tiles: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    """Report tiles of a row that are done, behind those of the rows before."""
    on_tiles(before + done, total)
