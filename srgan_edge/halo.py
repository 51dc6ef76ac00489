"""How large a halo a model needs: tiled results against untiled ones, halo by halo."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from srgan_edge.engines.base import Engine
from srgan_edge.parity import Differences
from srgan_edge.pixels import Pixels
from srgan_edge.tiling import plan_tiles, upscale_tiled

ACCEPTED_LEVELS = 1
"""A difference that rounding makes anyway."""


@dataclass(frozen=True)
class HaloError:
    """What one halo does to the result, over all pictures."""

    halo_px: int
    max_levels: int
    """Largest difference between tiled and untiled, of 255."""
    differing: float
    """Share of values that differ at all."""


def halo_errors(engine: Engine, pictures: Iterable[Pixels], tile_px: int) -> Iterator[HaloError]:
    """Every halo from 0 to the receptive radius, measured on pictures uint8 [H, W, 3].

    Small tiles have many seams and so find more; the error of a seam does not depend on the size.
    """
    wholes = [(picture, engine.upscale(picture[None])[0]) for picture in pictures]
    for halo_px in range(engine.info.spec.receptive_radius_px + 1):
        differences = Differences()
        for picture, whole in wholes:
            height, width = picture.shape[:2]
            plan = plan_tiles(width, height, tile_px, halo_px)
            tiled = upscale_tiled(engine.upscale, picture, plan, engine.info.spec.scale, batch=4)
            differences.add(tiled, whole)
        parity = differences.parity
        yield HaloError(halo_px, parity.max_levels, parity.differing)


def smallest_halo_px(errors: Iterable[HaloError]) -> int:
    """The smallest halo from which on no larger one differs by more than `ACCEPTED_LEVELS`."""
    halo_px = 0
    for error in errors:
        if error.max_levels > ACCEPTED_LEVELS:
            halo_px = error.halo_px + 1
    return halo_px
