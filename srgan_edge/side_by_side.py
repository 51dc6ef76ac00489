"""The before/after picture: what went in, plainly enlarged, beside what came out of the network.

Both sides are drawn by the same lines, so that every difference to be seen is the network's. Which
pictures are compared, and what they are called, is the caller's business.
"""

import numpy as np
from PIL import Image, ImageDraw

from srgan_edge import bicubic
from srgan_edge.drawing import (
    BACKGROUND,
    INK,
    Crop,
    Font,
    blank,
    font_within,
    framed,
    with_margin,
)
from srgan_edge.errors import UsageError
from srgan_edge.pixels import Pixels


def side_by_side(
    before: Pixels, after: Pixels, labels: tuple[str, str], crop: Crop | None = None
) -> Pixels:
    """Two labelled columns: `before` enlarged by MATLAB's bicubic, and `after`.

    `before` and `after` are uint8 [H, W, 3] of one shape in two sizes. Each column is as wide as
    `after`. A `crop` is framed in both and shown again below, enlarged to the column's width.

    Raises:
        UsageError: the two pictures differ in shape by more than rounding, or the crop is empty or
            reaches out of `after`.
    """
    height, width, _ = after.shape
    _refuse_another_shape(before, after)
    if crop is not None:
        _refuse_outside(crop, width, height)
    enlarged = bicubic.resize(before, height, width)
    stroke_px = max(2, width // 240)  # the unit of every line and space
    font = font_within(width, 8 * stroke_px, labels)
    left, right = (
        _column(pixels, label, font, crop, stroke_px)
        for pixels, label in zip((enlarged, after), labels, strict=True)
    )
    divider = blank(left.shape[0], stroke_px)
    return with_margin(np.hstack([left, divider, right]), 6 * stroke_px)


def _column(pixels: Pixels, label: str, font: Font, crop: Crop | None, stroke_px: int) -> Pixels:
    """From the top: the label, the picture and the enlarged crop."""
    width = pixels.shape[1]
    caption = _caption(label, font, width, 10 * stroke_px)
    if crop is None:
        return np.vstack([caption, pixels])
    detail = bicubic.resize(crop.of(pixels), max(1, width * crop.height // crop.width), width)
    whole = Crop(0, 0, width, detail.shape[0])
    line_px = (stroke_px + 1) // 2
    return np.vstack(
        [
            caption,
            framed(pixels, crop, line_px),
            blank(stroke_px, width),
            framed(detail, whole, line_px),
        ]
    )


def _caption(label: str, font: Font, width: int, height: int) -> Pixels:
    """The label in the middle of its strip, with less space below it than above the sheet."""
    strip = Image.new("RGB", (width, height), BACKGROUND)
    # Anchored at the baseline, so that two labels stand on one line whatever their letters.
    ImageDraw.Draw(strip).text((width // 2, height * 0.6), label, INK, font, anchor="ms")
    return np.asarray(strip)


def _refuse_another_shape(before: Pixels, after: Pixels) -> None:
    height, width, _ = after.shape
    small_height, small_width, _ = before.shape
    # Each side of the result may be off by one pixel: encoders want even sizes.
    if abs(width * small_height - height * small_width) > small_width + small_height:
        raise UsageError(
            f"{small_width}x{small_height} and {width}x{height} are not one picture in two sizes; "
            "name the picture that was upscaled, then its result"
        )


def _refuse_outside(crop: Crop, width: int, height: int) -> None:
    right, bottom = crop.x + crop.width, crop.y + crop.height
    inside = 0 <= crop.x < right <= width and 0 <= crop.y < bottom <= height
    if not inside:
        raise UsageError(
            f"--crop {crop.x},{crop.y},{crop.width},{crop.height} is empty or reaches out of the "
            f"result of {width}x{height} pixels; possible: X+W up to {width}, Y+H up to {height}"
        )
