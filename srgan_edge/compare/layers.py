"""The layers of a page: images or videos of one size, with facts and scores."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import nan
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from srgan_edge.errors import InputRefused
from srgan_edge.evaluation import metrics
from srgan_edge.evaluation.evaluate import Measure
from srgan_edge.evaluation.systems import Pair
from srgan_edge.pixels import Pixels

MAX_PIXELS = 40_000_000
"""Largest layer: browsers hold four bytes a pixel of each, several times."""

_MAX_WEBP_PX = 16_383


@dataclass(frozen=True)
class Layer:
    """One tab of the page."""

    name: str
    kind: Literal["image", "video"]
    content: bytes
    """The file that the browser decodes."""
    type: str
    """Its media type, such as `image/webp`."""
    width: int
    height: int
    """Size of the file's images in the coordinates of the page."""
    blocks: bool = False
    """Show its pixels as squares at any zoom."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Label -> text, for the table below."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Name in `METRICS` -> value."""


@dataclass(frozen=True)
class Comparison:
    """The layers of one page, all of one size."""

    width: int
    height: int
    layers: Sequence[Layer]
    start: tuple[int, int]
    """Layers shown at first, left and right."""
    times_seconds: Sequence[float] = ()
    """Start of each frame of a video; the first one is 0."""
    end_seconds: float = 0.0
    """End of the last frame."""
    notes: Sequence[str] = ()
    """Lines for the user about what is shown differently from the files."""


def image_layer(
    name: str,
    pixels: Pixels,
    facts: Mapping[str, str],
    scores: Mapping[str, float] | None = None,
    *,
    blocks: bool = False,
) -> Layer:
    """Make a layer of uint8 [H, W, 3], stored without loss."""
    height, width, _ = pixels.shape
    content = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if max(width, height) <= _MAX_WEBP_PX:
        kind = "image/webp"
        image.save(content, "WEBP", lossless=True, quality=20, method=1)
    else:
        kind = "image/png"
        image.save(content, "PNG")
    return Layer(
        name, "image", content.getvalue(), kind, width, height, blocks, facts, scores or {}
    )


def scores_of(
    result: Pixels, source: Pixels | None, original: Pixels | None, learned: Mapping[str, Measure]
) -> dict[str, float]:
    """Return what can be measured of a result, by name in `METRICS`.

    Args:
        result: uint8 [H, W, 3].
        source: the image that was upscaled; where the sizes are multiples, LR-PSNR is known.
        original: the ideal result, uint8 [H, W, 3]; without it only LR-PSNR and NIQE are known.
        learned: further measures that need an original.
    """
    border_px = 4 if source is None else max(1, round(len(result) / len(source)))
    found: dict[str, Callable[[], float]] = {}
    if original is not None:
        pair = Pair(Path(), "", original if source is None else source, original)
        found["psnr_y"] = partial(metrics.psnr_y, result, original, border_px)
        found["ssim_y"] = partial(metrics.ssim_y, result, original, border_px)
        found |= {name: partial(measure, result, pair) for name, measure in learned.items()}
    if source is not None and _is_multiple(result, source):
        found["lr_psnr"] = partial(metrics.lr_psnr, result, source)
    found["niqe"] = partial(metrics.niqe, result, border_px)
    return {name: _defined(measure) for name, measure in found.items()}


def file_facts(path: Path, pixels: Pixels) -> dict[str, str]:
    """Return what the table says of an image file."""
    height, width, _ = pixels.shape
    return {"file": path.name, "size": f"{width}x{height}", "bytes": f"{path.stat().st_size:,}"}


def refuse_other_sizes(sizes: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Return the one size, width and height, of all results by name.

    Raises:
        InputRefused: they differ.
    """
    (first, size), *others = sizes.items()
    for name, other in others:
        if other != size:
            raise InputRefused(
                f"{first} is {size[0]}x{size[1]} and {name} {other[0]}x{other[1]}; results on one "
                "page have one size: compare them in two"
            )
    return size


def refuse_other_shape(
    source: str, size: tuple[int, int], result: str, target: tuple[int, int]
) -> None:
    """Raise if the result cannot be the source enlarged.

    Raises:
        InputRefused: it is smaller, or has another aspect ratio by more than a pixel.
    """
    factor = target[0] / size[0]
    if factor < 1 or abs(size[1] * factor - target[1]) > max(1.0, factor):
        raise InputRefused(
            f"{result} is {target[0]}x{target[1]}, no enlargement of {source} with "
            f"{size[0]}x{size[1]}; name the input first, then its results"
        )


def _is_multiple(result: Pixels, source: Pixels) -> bool:
    (height, width, _), (rows, columns, _) = result.shape, source.shape
    return height % rows == 0 and width % columns == 0 and height // rows == width // columns


def _defined(measure: Callable[[], float]) -> float:
    try:
        return measure()
    except metrics.Undefined:
        return nan
