"""Drawing the images that show results: colors, fonts, frames, crops, and the side-by-side view.

The side-by-side view puts the plainly enlarged input beside the network's result. The same code
draws both sides, so every visible difference comes from the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from srgan_edge import bicubic
from srgan_edge.errors import UsageError
from srgan_edge.pixels import Pixels

BACKGROUND = (17, 18, 22)
INK = (233, 235, 240)
FAINT = (150, 154, 164)
ACCENT = (255, 184, 60)

Color: TypeAlias = tuple[int, int, int]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Crop:
    """A rectangle in an image, in pixels."""

    x: int
    y: int
    width: int
    height: int

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Parse `X,Y,W,H`, as typed after `--crop`.

        Raises:
            UsageError: `text` is not four whole numbers.
        """
        try:
            x, y, width, height = map(int, text.split(","))
        except ValueError:
            raise UsageError(
                f"--crop {text!r} is not X,Y,W,H; type for example --crop 40,20,160,120"
            ) from None
        return cls(x, y, width, height)

    def of(self, pixels: Pixels) -> Pixels:
        """Return this part of `pixels` [H, W, 3], as a view."""
        return pixels[self.y : self.y + self.height, self.x : self.x + self.width]


def blank(height: int, width: int) -> Pixels:
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def with_margin(pixels: Pixels, margin_px: int) -> Pixels:
    """Return `pixels` on a sheet that is `margin_px` larger on every side."""
    height, width, _ = pixels.shape
    sheet = blank(height + 2 * margin_px, width + 2 * margin_px)
    sheet[margin_px : margin_px + height, margin_px : margin_px + width] = pixels
    return sheet


def framed(pixels: Pixels, crop: Crop, width_px: int, color: Color = ACCENT) -> Pixels:
    """Return a copy with the outline of `crop` drawn inside its edges."""
    image = Image.fromarray(pixels)
    corners = (crop.x, crop.y, crop.x + crop.width - 1, crop.y + crop.height - 1)
    ImageDraw.Draw(image).rectangle(corners, outline=color, width=width_px)
    return np.asarray(image)


def font_within(width_px: int, largest_px: float, labels: Sequence[str]) -> Font:
    """Return Pillow's own font, as large as the longest label allows."""
    longest_px = max(ImageFont.load_default(largest_px).getlength(label) for label in labels)
    return ImageFont.load_default(max(1, largest_px * min(1, width_px / max(1, longest_px))))


def side_by_side(
    before: Pixels, after: Pixels, labels: tuple[str, str], crop: Crop | None = None
) -> Pixels:
    """Draw two labeled columns: `before`, enlarged by MATLAB's bicubic interpolation, and `after`.

    `before` and `after` are uint8 [H, W, 3] with one aspect ratio in two sizes. Each column is as
    wide as `after`. A `crop` is framed in both and repeated below, enlarged to the column's width.

    Raises:
        UsageError: the aspect ratios differ by more than rounding, or the crop is empty or extends
            beyond `after`.
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
    """Stack the label, the image and the enlarged crop."""
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
    """Center the label in its strip, with less space below it than above the sheet."""
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
            f"{small_width}x{small_height} and {width}x{height} are not one image in two sizes; "
            "name the image that was upscaled, then its result"
        )


def _refuse_outside(crop: Crop, width: int, height: int) -> None:
    right, bottom = crop.x + crop.width, crop.y + crop.height
    inside = 0 <= crop.x < right <= width and 0 <= crop.y < bottom <= height
    if not inside:
        raise UsageError(
            f"--crop {crop.x},{crop.y},{crop.width},{crop.height} is empty or extends beyond the "
            f"result of {width}x{height} pixels; possible: X+W up to {width}, Y+H up to {height}"
        )
