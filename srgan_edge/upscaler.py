"""An engine and a way of tiling: frames of any size in, frames `scale` times larger out."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from srgan_edge.engines.base import Engine
from srgan_edge.errors import UsageError
from srgan_edge.pixels import Pixels
from srgan_edge.spec import ModelSpec
from srgan_edge.tiling import TilePlan, plan_tiles, plan_windows, upscale_tiled

ACTIVATION_BUDGET_BYTES = 512 << 20
"""What `--tile auto` lets the network's intermediate values take, in all slots together."""


@dataclass(frozen=True)
class Tiling:
    """How frames are cut, as asked for on the command line."""

    tile: int | Literal["auto"] = "auto"
    """Side of a tile's core in LR pixels; 0: whole frames; auto: the largest that fits."""
    overlap: int | Literal["auto", "exact"] = "auto"
    """Halo in LR pixels; exact: the receptive radius; auto: as measured for the model."""
    batch: int = 1
    """Tiles a call."""


class Upscaler:
    """Upscales single frames by tiles; the engine stays its owner's to close."""

    def __init__(self, engine: Engine, tiling: Tiling) -> None:
        """
        Raises:
            UsageError: a tile too small, a negative halo or a batch below 1.
        """
        if tiling.batch < 1:
            raise UsageError(f"--batch {tiling.batch} is below 1")
        self._engine, self._tiling = engine, tiling
        self.scale = engine.info.spec.scale
        self.halo_px = halo_px(tiling.overlap, engine.info.spec)
        self._fixed_shape = engine.info.fixed_shape
        self._batch = tiling.batch if self._fixed_shape is None else self._fixed_shape[0]
        self.plan_for = lru_cache(maxsize=16)(self._plan_for)
        if self._fixed_shape is not None:
            self._refuse_other_tiles(self._fixed_shape)
        else:
            self.plan_for(1, 1)  # refuses impossible options now, not at the first frame

    @property
    def slots(self) -> int:
        """How many calls of `upscale` may run at once."""
        return self._engine.info.slots

    def upscale(self, frame: Pixels) -> Pixels:
        """uint8 [H, W, 3] -> uint8 [sH, sW, 3]."""
        height, width = frame.shape[:2]
        plan = self.plan_for(width, height)
        return upscale_tiled(self._engine.upscale, frame, plan, self.scale, self._batch)

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

    def _plan_for(self, width: int, height: int) -> TilePlan:
        if self._fixed_shape is not None:
            _, window_height, window_width = self._fixed_shape
            return plan_windows(width, height, (window_width, window_height), self.halo_px)
        tile_px = self._tiling.tile
        if tile_px == "auto":
            budget_bytes = ACTIVATION_BUDGET_BYTES // self.slots
            budget_px = budget_bytes // activation_bytes_per_px(self._engine.info.spec)
            tile_px = largest_tile_px(width, height, self.halo_px, budget_px)
        return plan_tiles(width, height, tile_px, self.halo_px)


def halo_px(overlap: int | Literal["auto", "exact"], spec: ModelSpec) -> int:
    """The halo in LR pixels that an `--overlap` means for a model."""
    if overlap == "exact":
        return spec.receptive_radius_px
    return spec.auto_halo_px if overlap == "auto" else overlap


def largest_tile_px(width: int, height: int, halo: int, budget_px: int) -> int:
    """The core of the largest tile of at most `budget_px` pixels; 0: the whole frame is no more."""
    if width * height <= budget_px:
        return 0
    return max(64, int(budget_px**0.5) - 2 * halo)


def activation_bytes_per_px(spec: ModelSpec) -> int:
    """About how many bytes of float32 the widest moment of the network holds per LR pixel.

    Two neighbouring tensors live at a time. The widest are, for the paper's generator, the two
    sides of the last PReLU at full size; for the edge network, the last convolution's output, its
    shuffled copy and the enlarged input.
    """
    values = 3 * 3 * spec.scale**2
    if spec.architecture == "srresnet":
        values = 2 * spec.channels * spec.scale**2
    return 4 * values
