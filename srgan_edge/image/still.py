"""A still image in memory, whole or some of its rows, and how it is enlarged.

The network sees 8-bit RGB only, so the rest goes around it: transparency and the bits below the
eighth are interpolated. Everything works in stripes from the top, so no more than one stripe of
the result, which has `scale` squared times as many pixels, has to be in memory at once.

Colors under transparency are invisible, and files hold black there, or white, or whatever was
erased. A network that sees them bleeds them into the visible edge as a fringe, so it is shown the
visible colors continued instead.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from srgan_edge.depth import deepened, interpolated, shown_to_network
from srgan_edge.pixels import LEVEL, Pixels

Samples: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
"""uint8 or uint16 channel values; the highest is 255 or 65535."""

OnTiles: TypeAlias = Callable[[int, int], None]
"""Called with the number of tiles of an image that are done, and of all."""

REACH_PX = 64
"""Distance to which visible colors are continued: more than any of the networks sees."""

_Numbers: TypeAlias = npt.NDArray[np.number[Any]]
_Sums: TypeAlias = npt.NDArray[np.int64]

_INTERPOLATION_PX = 2
_LANCZOS_PX = 3
_RESIZED_ROWS = 256
_BLOCK_PX = 1024  # the sums take 40 bytes a pixel
_RADII_PX = (1, 2, 4, 8, 16, 32, REACH_PX)


@dataclass(frozen=True)
class StillImage:
    """One upright image, or some of its rows, and the metadata that goes back into its file."""

    pixels: Samples
    """[H, W, 3], RGB as stored, uint8 or uint16. A gray image has three equal channels."""
    alpha: Samples | None = None
    """[H, W], 0 transparent, of the same type as `pixels`, which are not premultiplied with it.
    None if the file has no transparency."""
    gray: bool = False
    """True if the file was gray and shall be written as gray."""
    icc_profile: bytes | None = None
    """Color profile of `pixels`, as stored: a gray one if `gray`, else an RGB one."""
    exif: bytes | None = None
    """EXIF with orientation 1, without the tags that describe the file it came from."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch, across and down."""
    stated_colors: tuple[tuple[str, bytes], ...] = ()
    """Statements of what the colors mean without a profile, by name: see `colors`."""
    pixel_shape: tuple[int, int] | None = None
    """Numbers of pixels on equal lengths across and down, if `dpi` is None and they differ."""

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def is_deep(self) -> bool:
        """True if the channels have 16 bits."""
        return self.pixels.dtype == np.uint16

    @property
    def is_transparent(self) -> bool:
        """True if any pixel is less than fully opaque."""
        return self.alpha is not None and bool(self.alpha.min() < np.iinfo(self.alpha.dtype).max)

    def rows(self, start: int, stop: int) -> "StillImage":
        """Return the rows from `start` up to, but not including, `stop`, as a view."""
        alpha = None if self.alpha is None else self.alpha[start:stop]
        return replace(self, pixels=self.pixels[start:stop], alpha=alpha)


class Rows(Protocol):
    """An image that returns its rows on demand: a `StillImage`, or the reader of a file."""

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    def rows(self, start: int, stop: int) -> StillImage: ...


class Network(Protocol):
    """Anything that enlarges 8-bit RGB, such as a `FrameUpscaler`."""

    scale: int

    def upscale_rows(
        self,
        rows: Callable[[int, int], Pixels],
        width: int,
        height: int,
        on_tiles: OnTiles = ...,
    ) -> Iterator[Pixels]: ...


def enlarged(
    source: Rows,
    network: Network,
    width: int,
    height: int,
    on_tiles: OnTiles = lambda done, total: None,
) -> Iterator[StillImage]:
    """Yield the upscaled image in stripes from the top, resized to `width` x `height` if needed."""
    stripes = upscale_rows(source, network, on_tiles)
    upscaled = network.scale * source.width, network.scale * source.height
    if (width, height) == upscaled:
        return stripes
    return resize_rows(stripes, upscaled[1], width, height)


def upscale_rows(
    source: Rows, network: Network, on_tiles: OnTiles = lambda done, total: None
) -> Iterator[StillImage]:
    """Yield the image `scale` times larger, in stripes from the top.

    The network never sees the colors hidden under alpha 0: it sees the visible ones continued
    there. Alpha is interpolated, and so is the part of 16 bits that 8 bits lose (`depth`).
    """

    def shown(start: int, stop: int) -> Pixels:
        seen = _seen(source, start, stop)
        if seen.is_deep:
            return shown_to_network(seen.pixels.astype(np.uint16, copy=False))
        return seen.pixels.astype(np.uint8, copy=False)

    start = 0
    for pixels in network.upscale_rows(shown, source.width, source.height, on_tiles):
        stop = start + len(pixels) // network.scale
        stripe = _completed(source, start, stop, pixels, network.scale)
        del pixels  # or there would be two stripes in memory while the next one is made
        yield stripe
        del stripe
        start = stop


def resize_rows(
    stripes: Iterator[StillImage], height: int, new_width: int, new_height: int
) -> Iterator[StillImage]:
    """Resize an image `height` pixels high by Lanczos resampling (a = 3), in stripes.

    Colors are multiplied with alpha for it, so that hidden ones do not bleed.
    """
    ratio = height / new_height
    support_px = math.ceil(_LANCZOS_PX * max(1.0, ratio)) + 1
    rows = max(1, round(_RESIZED_ROWS / max(1.0, ratio)))
    held, held_from = next(stripes), 0
    for top in range(0, new_height, rows):
        bottom = min(top + rows, new_height)
        first = max(0, math.floor(top * ratio) - support_px)
        last = min(height, math.ceil(bottom * ratio) + support_px)
        held, held_from = held.rows(first - held_from, held.height), first
        while held_from + held.height < last:
            held = joined([held, next(stripes)])
        box = (0, top * ratio - held_from, held.width, bottom * ratio - held_from)
        yield _resized(held, box, new_width, bottom - top)


def joined(stripes: list[StillImage]) -> StillImage:
    """Return one image made of stripes from the top."""
    pixels = np.concatenate([stripe.pixels for stripe in stripes])
    alphas: list[Any] = [stripe.alpha for stripe in stripes if stripe.alpha is not None]
    return replace(stripes[0], pixels=pixels, alpha=np.concatenate(alphas) if alphas else None)


def continued(pixels: Samples, alpha: Samples) -> Samples:
    """Return pixels [H, W, C] in which those under alpha 0 (of [H, W]) continue the visible ones.

    Each becomes the mean, weighted with alpha, of the smallest square around it that contains
    anything visible. Those farther than `REACH_PX` from any visible pixel become mid-gray. This is
    integer arithmetic on squares alone, so a stripe with `REACH_PX` rows around it gets the same
    values as in the whole image.
    """
    if alpha.all():
        return pixels
    result = pixels.copy()
    for left in range(0, pixels.shape[1], _BLOCK_PX):
        before = min(left, REACH_PX)
        window = slice(left - before, left + _BLOCK_PX + REACH_PX)
        block = _continued(pixels[:, window], alpha[:, window])
        result[:, left : left + _BLOCK_PX] = block[:, before : before + _BLOCK_PX]
    return result


def _seen(source: Rows, start: int, stop: int) -> StillImage:
    """Return the rows with hidden colors replaced."""
    if source.rows(start, start).alpha is None:
        return source.rows(start, stop)
    top, bottom = max(0, start - REACH_PX), min(source.height, stop + REACH_PX)
    around = source.rows(top, bottom)
    assert around.alpha is not None
    whole = replace(around, pixels=continued(around.pixels, around.alpha))
    return whole.rows(start - top, stop - top)


def _completed(source: Rows, start: int, stop: int, pixels: Pixels, scale: int) -> StillImage:
    """Add depth and alpha to `pixels`, the network's result for rows `start` to `stop`."""
    top = max(0, start - _INTERPOLATION_PX)
    bottom = min(source.height, stop + _INTERPOLATION_PX)
    above, below = start - top, bottom - stop
    around = source.rows(top, bottom)
    result: Samples = pixels
    if around.is_deep:
        seen = _seen(source, top, bottom).pixels.astype(np.uint16, copy=False)
        result = deepened(seen, pixels, above, below)
    alpha = around.alpha
    if alpha is not None:
        level = 1 if around.is_deep else LEVEL
        deep = alpha[..., None].astype(np.uint16) * np.uint16(level)
        large = interpolated(deep, scale, above, below)[..., 0]
        alpha = large if around.is_deep else shown_to_network(large)
    return replace(around, pixels=result, alpha=alpha)


def _resized(
    image: StillImage, box: tuple[float, float, float, float], width: int, height: int
) -> StillImage:
    """Resize the part of `image` inside `box`; the filter also reads pixels around the box."""
    white = 65535 if image.is_deep else 255

    def plane(values: _Numbers) -> _Numbers:
        whole = Image.fromarray(values.astype(np.float32))
        return np.asarray(whole.resize((width, height), Image.Resampling.LANCZOS, box))

    def rounded(values: _Numbers) -> Samples:
        levels: _Numbers = np.rint(values).clip(0, white)
        return levels.astype(image.pixels.dtype)

    channels = [image.pixels[..., channel] for channel in range(3)]
    if image.alpha is None:
        return replace(image, pixels=rounded(np.dstack([plane(channel) for channel in channels])))
    weights = image.alpha / white
    weight = plane(weights)
    visible = np.maximum(weight, 0.5 / white)
    colors = np.dstack([plane(channel * weights) / visible for channel in channels])
    return replace(image, pixels=rounded(colors), alpha=rounded(white * weight))


def _continued(pixels: Samples, alpha: Samples) -> Samples:
    hidden = alpha == 0
    result = pixels.copy()
    result[hidden] = np.iinfo(pixels.dtype).max // 2
    if hidden.all() or not hidden.any():
        return result
    weights = alpha.astype(np.int64)
    sums = _summed(np.dstack([pixels * weights[..., None], weights]))
    for radius_px in _RADII_PX:
        rows, columns = np.nonzero(hidden)
        inside = _over_squares(sums, rows, columns, radius_px)
        found = inside[:, -1] > 0
        rows, columns, inside = rows[found], columns[found], inside[found]
        weight = inside[:, -1:]
        result[rows, columns] = (inside[:, :-1] + weight // 2) // weight
        hidden[rows, columns] = False
        if not hidden.any():
            break
    return result


def _summed(values: _Sums) -> _Sums:
    """[H, W, C] -> [H + 1, W + 1, C]: sums of all above and to the left (Crow 1984)."""
    return np.pad(values, ((1, 0), (1, 0), (0, 0))).cumsum(axis=0).cumsum(axis=1)


def _over_squares(
    sums: _Sums, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp], radius_px: int
) -> _Sums:
    """Return the sums [N, C] over squares around N pixels, cut at the edges of the image."""
    height, width = sums.shape[0] - 1, sums.shape[1] - 1
    top, bottom = np.maximum(rows - radius_px, 0), np.minimum(rows + radius_px + 1, height)
    left, right = np.maximum(columns - radius_px, 0), np.minimum(columns + radius_px + 1, width)
    return sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
