"""What the pictures that show results are drawn with: colours, type, frames, crops."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from srgan_edge.errors import UsageError
from srgan_edge.pixels import Pixels

BACKGROUND = (17, 18, 22)
INK = (233, 235, 240)
FAINT = (150, 154, 164)
ACCENT = (255, 184, 60)

Colour: TypeAlias = tuple[int, int, int]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Crop:
    """A rectangle of a picture, in its pixels."""

    x: int
    y: int
    width: int
    height: int

    @classmethod
    def from_text(cls, text: str) -> Self:
        """From `X,Y,W,H`, as typed after `--crop`.

        Raises:
            UsageError: not four whole numbers.
        """
        try:
            x, y, width, height = map(int, text.split(","))
        except ValueError:
            raise UsageError(
                f"--crop {text!r} is not X,Y,W,H; type for example --crop 40,20,160,120"
            ) from None
        return cls(x, y, width, height)

    def of(self, pixels: Pixels) -> Pixels:
        """This part of `pixels` [H, W, 3], as a view."""
        return pixels[self.y : self.y + self.height, self.x : self.x + self.width]


def blank(height: int, width: int) -> Pixels:
    """Background, [height, width, 3]."""
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def with_margin(pixels: Pixels, margin_px: int) -> Pixels:
    """`pixels` on a sheet that is `margin_px` larger on every side."""
    height, width, _ = pixels.shape
    sheet = blank(height + 2 * margin_px, width + 2 * margin_px)
    sheet[margin_px : margin_px + height, margin_px : margin_px + width] = pixels
    return sheet


def framed(pixels: Pixels, crop: Crop, width_px: int, colour: Colour = ACCENT) -> Pixels:
    """A copy with the outline of `crop` drawn inside its edges."""
    image = Image.fromarray(pixels)
    corners = (crop.x, crop.y, crop.x + crop.width - 1, crop.y + crop.height - 1)
    ImageDraw.Draw(image).rectangle(corners, outline=colour, width=width_px)
    return np.asarray(image)


def font_within(width_px: int, largest_px: float, labels: Sequence[str]) -> Font:
    """Pillow's own font, as large as the longest label allows."""
    longest_px = max(ImageFont.load_default(largest_px).getlength(label) for label in labels)
    return ImageFont.load_default(max(1, largest_px * min(1, width_px / max(1, longest_px))))
