"""The layers of a page of images: the source, bicubic interpolation, the results, the original."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from srgan_edge import bicubic
from srgan_edge.compare.layers import (
    MAX_PIXELS,
    Comparison,
    Layer,
    file_facts,
    image_layer,
    refuse_other_shape,
    refuse_other_sizes,
    scores_of,
)
from srgan_edge.depth import shown_to_network
from srgan_edge.errors import InputRefused, UsageError
from srgan_edge.evaluation.drawing import Crop
from srgan_edge.evaluation.evaluate import Measure
from srgan_edge.image.still import StillImage
from srgan_edge.isolation.images import ImageProcess
from srgan_edge.pixels import Pixels

_UNDER_ALPHA = 128  # gray level behind transparent pixels

Upscale = Callable[[Pixels], Pixels]
"""Maps uint8 [H, W, 3] to [sH, sW, 3]."""


def compare_images(
    before: Path,
    results: Sequence[Path],
    models: Mapping[str, Upscale],
    original: Path | None,
    crop: Crop | None,
    learned: Mapping[str, Measure],
) -> Comparison:
    """Read, upscale, crop and score images.

    Args:
        before: the source; if the results have its size, it is the original of them.
        results: images of one size.
        models: name -> function that makes another result of the source.
        original: the ideal result, which scores refer to.
        crop: the part to show, in pixels of the results; None: all.
        learned: further measures, by name in `METRICS`.

    Raises:
        InputRefused: sizes that do not fit together.
        InputDamaged: an image cannot be decoded.
        UsageError: the crop lies outside, or the layers are too large for a page.
    """
    notes: list[str] = []
    source, *read = read_images([before, *results, *([original] if original else [])], notes)
    ideal = read.pop() if original else None
    shown = {path.name: (pixels, path) for path, pixels in zip(results, read, strict=True)}
    made = {name: (upscale(source), None) for name, upscale in models.items()}
    everything: dict[str, tuple[Pixels, Path | None]] = {**shown, **made}
    width, height = refuse_other_sizes({name: _size(it) for name, (it, _) in everything.items()})
    first_result = next(iter(everything))
    if original is not None and ideal is not None and _size(ideal) != (width, height):
        size = "x".join(map(str, _size(ideal)))
        raise InputRefused(f"{original} is {size}, and the results {width}x{height}")
    refuse_other_shape(before.name, _size(source), first_result, (width, height))
    part = crop or Crop(0, 0, width, height)
    _refuse_part(part, width, height, is_crop=crop is not None)

    layers: list[Layer] = []
    if _size(source) == (width, height):
        if ideal is not None:
            raise UsageError(
                f"--reference {original}: {before} has the results' size, so it is one"
            )
        layers.append(image_layer("original", part.of(source), file_facts(before, source)))
        lr, ideal, start = None, source, 0
    else:
        lr, start = source, 1
        blocks = _nearest(source, height, width)
        smooth = bicubic.resize(source, height, width)
        layers += [
            image_layer("input", part.of(blocks), file_facts(before, source), blocks=True),
            image_layer(
                "bicubic",
                part.of(smooth),
                {"file": "the input, by bicubic interpolation", "size": f"{width}x{height}"},
                scores_of(smooth, lr, ideal, learned),
            ),
        ]
    for name, (pixels, path) in everything.items():
        facts = {"file": "made for this page", "size": f"{width}x{height}"}
        if path is not None:
            facts = file_facts(path, pixels)
        scores = scores_of(pixels, lr, ideal, learned)
        layers.append(image_layer(name, part.of(pixels), facts, scores))
    end = len(layers) - 1
    if original is not None and ideal is not None:
        layers.append(image_layer("original", part.of(ideal), file_facts(original, ideal)))
    return Comparison(part.width, part.height, layers, (start, end), notes=notes)


def read_images(paths: Sequence[Path], notes: list[str]) -> list[Pixels]:
    """Decode images in a child process, and add to `notes` what is shown differently.

    Returns:
        uint8 [H, W, 3] for each.

    Raises:
        InputRefused, InputDamaged: a file is not an accepted image, or damaged.
    """
    shown = []
    with ImageProcess() as process:
        for path in paths:
            with process.open(path) as image:
                still = image.rows(0, image.height)
                if image.frames > 1:
                    notes.append(f"{path.name}: the first of {image.frames} images is shown")
            shown.append(_shown(still, path, notes))
    return shown


def _shown(still: StillImage, path: Path, notes: list[str]) -> Pixels:
    """Return a still image as uint8 [H, W, 3], and add what a page cannot show to the notes."""
    pixels = still.pixels
    if pixels.dtype == np.uint16:
        pixels = shown_to_network(pixels.astype(np.uint16))
        notes.append(f"{path.name}: 16 bits are shown as 8")
    if still.alpha is not None and still.is_transparent:
        share = (still.alpha / np.iinfo(still.alpha.dtype).max)[..., None]
        pixels = np.rint(pixels * share + _UNDER_ALPHA * (1 - share)).astype(np.uint8)
        notes.append(f"{path.name}: transparency is shown over gray")
    if still.icc_profile is not None:
        notes.append(f"{path.name}: colors are shown without its ICC profile")
    return pixels.astype(np.uint8)


def _nearest(pixels: Pixels, height: int, width: int) -> Pixels:
    """Enlarge to [height, width, 3] by nearest neighbor."""
    rows = (np.arange(height) + 0.5) * pixels.shape[0] / height
    columns = (np.arange(width) + 0.5) * pixels.shape[1] / width
    return pixels[rows.astype(int)][:, columns.astype(int)]


def _size(pixels: Pixels) -> tuple[int, int]:
    return pixels.shape[1], pixels.shape[0]


def _refuse_part(part: Crop, width: int, height: int, *, is_crop: bool) -> None:
    right, bottom = part.x + part.width, part.y + part.height
    inside = min(part.x, part.y) >= 0 and right <= width and bottom <= height
    if not inside or min(part.width, part.height) < 1:
        raise UsageError(
            f"--crop {part.x},{part.y},{part.width},{part.height} is not inside {width}x{height}"
        )
    if part.width * part.height > MAX_PIXELS:
        wish = "smaller" if is_crop else "a part"
        raise UsageError(
            f"{part.width}x{part.height} is too large for a page of at most "
            f"{MAX_PIXELS // 1_000_000} megapixels; show {wish}, "
            f"such as --crop {part.x},{part.y},3000,2000"
        )
