"""An engine and a way of tiling: frames of any size in, frames `scale` times larger out."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, cast

import numpy as np

from srgan_edge.color_lock import locked, locked_stripes
from srgan_edge.cutter import Cutter, Load, cut_on_host, takes_frames
from srgan_edge.engines.base import Engine, EngineInfo, NotFinite
from srgan_edge.errors import EngineLost, KernelsMissing, ModelRefused, OutOfMemory
from srgan_edge.letters import HALO_PX, with_letters
from srgan_edge.pixels import Pixels
from srgan_edge.tiling import (
    Tile,
    TilePlan,
    Tiling,
    upscale_row,
    upscale_tiled,
    upscale_tiles_into,
)

if TYPE_CHECKING:  # needs PyAV, which still images do not
    from srgan_edge.engines.slots import GpuEngine


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

    def __init__(
        self,
        engine: Engine,
        tiling: Tiling,
        say: Callable[[str], None] = lambda line: None,
        spare: Callable[[], Engine] | None = None,
        in_fp32: Callable[[], Engine] | None = None,
        *,
        color_lock: bool | None = False,
        letters: bool = False,
    ) -> None:
        """
        Args:
            color_lock: preserve the mean colors of the frame; None: if the model may shift them.
            letters: interpolate small letters, as `letters` does.
            say: called with a line for the user whenever something has changed.
            spare: opens another engine of the same model; called once, if this one is lost.
            in_fp32: opens one in FP32; called once, if a tile is not finite in this one.

        Raises:
            UsageError: a tile too small, a negative halo or a batch below 1.
        """
        self._engine, self._say, self._spare = engine, say, spare
        self._repair = _Repair(in_fp32, say)
        self._load = Load(tiling.tile, tiling.batch, tiling.joined, whole_frames=not letters)
        self._changing = threading.Lock()
        spec = engine.info.spec
        self.scale = spec.scale
        self.color_lock = spec.may_shift_colors if color_lock is None else color_lock
        self.letters = letters
        self._cutter = Cutter(engine.info, tiling, HALO_PX if letters else 0)
        self.halo_px = self._cutter.halo_px

    @property
    def info(self) -> EngineInfo:
        """The engine in use now, which may be the spare one."""
        return self._engine.info

    @property
    def tiles_redone(self) -> int:
        """Number of tiles so far that were not finite in the engine's precision."""
        return self._repair.tiles

    @property
    def slots(self) -> int:
        """Number of calls of `upscale` that may run at once."""
        return self._engine.info.slots

    @property
    def gpu_engine(self) -> "GpuEngine | None":
        """The engine in use now, if frames of a video can stay on its GPU."""
        stays = self._load.whole_frames and takes_frames(self._engine)
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
                if earlier is not None and is_alike and not takes_frames(how[0]):
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
                upscale = self._finished(engine, tiles, partial(_after, on_tiles, before, total))
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
        if self._load.whole_frames and takes_frames(engine):
            try:
                whole = engine.upscale_frame(frame, plan, batch, lock_colors=self.color_lock)
                return whole, whole
            except NotFinite:
                pass  # tile by tile below, so that only the tiles at fault are upscaled again
            except KernelsMissing as error:
                with self._changing:
                    if self._load.whole_frames:
                        self._load, line = cut_on_host(self._load, str(error))
                        self._say(line)
        upscale = self._finished(engine, changed)
        if earlier is None:
            pixels = upscale_tiled(upscale, frame, plan, self.scale, batch)
        else:
            pixels = earlier.unlocked.copy()
            upscale_tiles_into(pixels, upscale, frame, changed, self.scale)
        return (locked(frame, pixels) if self.color_lock else pixels), pixels

    def _finished(
        self,
        engine: Engine,
        tiles: Sequence[Tile],
        on_done: Callable[[int], None] = lambda done: None,
    ) -> Callable[[Pixels], Pixels]:
        """Return what upscales the windows of these tiles, in this order, with their letters."""
        upscale = self._repair.finite(engine, tiles, on_done)
        if not self.letters:
            return upscale

        def lettered(batch: Pixels) -> Pixels:
            return np.stack([*map(with_letters, batch, upscale(batch))])

        return lettered

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


class _Repair:
    """Upscales tiles again, in FP32, that are not finite in an engine's own precision."""

    def __init__(self, in_fp32: Callable[[], Engine] | None, say: Callable[[str], None]) -> None:
        self._open, self._say = in_fp32, say
        self._fp32: Engine | None = None
        self._changing = threading.Lock()
        self.tiles = 0
        """Number of tiles that were upscaled again."""

    def finite(
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
                    result[index] = self._redo(batch[index], given[index][1], engine)
            on_done(given[-1][0])
            return result

        return upscale

    def _redo(self, window: Pixels, tile: Tile, engine: Engine) -> Pixels:
        """Upscale one tile on the engine in FP32: uint8 [h, w, 3] -> uint8 [sh, sw, 3]."""
        place = f"the tile at x {tile.core_x.start}, y {tile.core_y.start} of a frame"
        was = engine.info
        with self._changing:
            if self._fp32 is None:
                if self._open is None or was.precision == "fp32":
                    raise ModelRefused(f"{place} is not finite in {was.arithmetic} on {was.name}")
                self._fp32 = self._open()
                self._say(
                    f"{place} is not finite in {was.arithmetic}: done again, as will be others "
                    f"like it, in {self._fp32.info.arithmetic} by {self._fp32.info.name}"
                )
            self.tiles += 1
        try:
            return self._fp32.upscale(window[None])[0]
        except NotFinite:
            raise ModelRefused(
                f"{place} is not finite, neither in {was.arithmetic} nor in FP32: the model cannot "
                "upscale it; take another one with -n"
            ) from None


def _after(on_tiles: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    """Report tiles of a row that are done, behind those of the rows before."""
    on_tiles(before + done, total)
