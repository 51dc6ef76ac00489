"""A still image in memory, whole or some of its rows, and how it becomes larger.

What the network cannot see goes around it: transparency is interpolated, and so are the bits below
the eighth. All of it is done in stripes from the top, so that of the result, which is `scale`
squared times as large, no more than a stripe need be in memory. Files are read by `image_reader`
and written by `image_writer`.
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
"""uint8 or uint16: values of channels, 255 or 65535 the highest."""

_Numbers: TypeAlias = npt.NDArray[np.number[Any]]

_INTERPOLATION_PX = 2

_LANCZOS_PX = 3

_RESIZED_ROWS = 256


@dataclass(frozen=True)
class StillImage:
    """One upright image, or some rows of it, and what has to go back into its file."""

    pixels: Samples
    """[H, W, 3], RGB as stored, uint8 or uint16. A gray image has three equal channels."""
    alpha: Samples | None = None
    """[H, W], 0 transparent, of the type of `pixels`, which are not premultiplied with it. None:
    the file has no transparency."""
    gray: bool = False
    """The file was gray, and is written as gray."""
    icc_profile: bytes | None = None
    """The color profile that `pixels` are in, as stored: gray if `gray`, else RGB."""
    exif: bytes | None = None
    """EXIF with orientation 1 and without the tags that describe the file it came from."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch, across and down."""

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def is_deep(self) -> bool:
        """16 bits a channel."""
        return self.pixels.dtype == np.uint16

    @property
    def is_transparent(self) -> bool:
        """Anywhere, in the least."""
        return self.alpha is not None and bool(self.alpha.min() < np.iinfo(self.alpha.dtype).max)

    def rows(self, start: int, stop: int) -> "StillImage":
        """Those from `start` to before `stop`."""
        alpha = None if self.alpha is None else self.alpha[start:stop]
        return replace(self, pixels=self.pixels[start:stop], alpha=alpha)


class Rows(Protocol):
    """An image that gives its rows on demand: a `StillImage`, or the reader of a file."""

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    def rows(self, start: int, stop: int) -> StillImage: ...


class Network(Protocol):
    """What makes 8-bit RGB larger; an `FrameUpscaler` is one."""

    scale: int

    def upscale_rows(
        self, rows: Callable[[int, int], Pixels], width: int, height: int
    ) -> Iterator[Pixels]: ...


def enlarged(source: Rows, network: Network, width: int, height: int) -> Iterator[StillImage]:
    """The image at this size, in stripes from the top: by the network, resized if need be."""
    stripes = upscale_rows(source, network)
    upscaled = network.scale * source.width, network.scale * source.height
    if (width, height) == upscaled:
        return stripes
    return resize_rows(stripes, upscaled[1], width, height)


def upscale_rows(source: Rows, network: Network) -> Iterator[StillImage]:
    """The image `scale` times larger, in stripes from the top.

    The network never sees the colors hidden under alpha 0: it sees the visible ones continued
    there. Alpha is bicubic, and so is of 16 bits what 8 cannot tell (`deep_color`).
    """

    def shown(start: int, stop: int) -> Pixels:
        seen = _seen(source, start, stop)
        if seen.is_deep:
            return shown_to_network(seen.pixels.astype(np.uint16, copy=False))
        return seen.pixels.astype(np.uint8, copy=False)

    start = 0
    for pixels in network.upscale_rows(shown, source.width, source.height):
        stop = start + len(pixels) // network.scale
        stripe = _completed(source, start, stop, pixels, network.scale)
        del pixels  # or there would be two stripes in memory while the next one is made
        yield stripe
        del stripe
        start = stop


def resize_rows(
    stripes: Iterator[StillImage], height: int, new_width: int, new_height: int
) -> Iterator[StillImage]:
    """An image `height` pixels high at another size by Lanczos resampling (a = 3), in stripes.

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
    """One image of stripes from the top."""
    pixels = np.concatenate([stripe.pixels for stripe in stripes])
    alphas: list[Any] = [stripe.alpha for stripe in stripes if stripe.alpha is not None]
    return replace(stripes[0], pixels=pixels, alpha=np.concatenate(alphas) if alphas else None)


def _seen(source: Rows, start: int, stop: int) -> StillImage:
    """The rows, with no colors in them that nobody sees."""
    if source.rows(start, start).alpha is None:
        return source.rows(start, stop)
    top, bottom = max(0, start - REACH_PX), min(source.height, stop + REACH_PX)
    around = source.rows(top, bottom)
    assert around.alpha is not None
    whole = replace(around, pixels=continued(around.pixels, around.alpha))
    return whole.rows(start - top, stop - top)


def _completed(source: Rows, start: int, stop: int, pixels: Pixels, scale: int) -> StillImage:
    """A stripe of the result from what the network made of the rows it is of."""
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
    still: StillImage, box: tuple[float, float, float, float], width: int, height: int
) -> StillImage:
    """What is inside `box` of the still, at another size. What is around it is looked at too."""

    def plane(values: _Numbers) -> _Numbers:
        image = Image.fromarray(values.astype(np.float32))
        return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box))

    white = 65535 if still.is_deep else 255

    def rounded(values: _Numbers) -> Samples:
        levels: _Numbers = np.rint(values).clip(0, white)
        return levels.astype(still.pixels.dtype)

    channels = [still.pixels[..., channel] for channel in range(3)]
    if still.alpha is None:
        return replace(still, pixels=rounded(np.dstack([plane(channel) for channel in channels])))
    weights = still.alpha / white
    weight = plane(weights)
    visible = np.maximum(weight, 0.5 / white)
    colors = np.dstack([plane(channel * weights) / visible for channel in channels])
    return replace(still, pixels=rounded(colors), alpha=rounded(white * weight))


# Colors under transparency, which nobody sees and a network would draw over the edge.
#
# Programs leave black there, or white, or what was there before it was erased; a network that sees
# it bleeds it into the visible edge as a fringe.
_Samples: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]

_Sums: TypeAlias = npt.NDArray[np.int64]

REACH_PX = 64
"""How far from a visible pixel colors are continued: farther than any of the networks sees."""

_BLOCK_PX = 1024  # the sums take 40 bytes a pixel

_RADII_PX = (1, 2, 4, 8, 16, 32, REACH_PX)


def continued(pixels: _Samples, alpha: _Samples) -> _Samples:
    """The pixels [H, W, C], with those under alpha 0 (of [H, W]) continuing the visible ones.

    Each becomes the mean, weighted with alpha, of the smallest square around it that has anything
    visible in it; those farther than `REACH_PX` from anything become mid-gray. Integer arithmetic
    on squares alone: a stripe with `REACH_PX` rows around it is what it is in the whole image.
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


def _continued(pixels: _Samples, alpha: _Samples) -> _Samples:
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
    """[N, C]: sums over the squares around N pixels, cut at the edges of the image."""
    height, width = sums.shape[0] - 1, sums.shape[1] - 1
    top, bottom = np.maximum(rows - radius_px, 0), np.minimum(rows + radius_px + 1, height)
    left, right = np.maximum(columns - radius_px, 0), np.minimum(columns + radius_px + 1, width)
    return sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
