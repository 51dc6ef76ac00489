"""What the numbers in a video frame mean: the colour description of ITU-T H.273.

Here are the four tags, what is assumed where a file has none, and the conversion to RGB written
out in floating point. The fast conversion is libswscale's; this one says what it has to give.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from srgan_edge.pixels import Pixels

RGB = 0
BT709 = 1
UNSPECIFIED = 2
BT470BG = 5
SMPTE170M = 6

MATRICES: dict[int, tuple[str, float, float]] = {
    BT709: ("bt709", 0.2126, 0.0722),
    4: ("fcc", 0.30, 0.11),
    BT470BG: ("bt470bg", 0.299, 0.114),
    SMPTE170M: ("smpte170m", 0.299, 0.114),
    7: ("smpte240m", 0.212, 0.087),
    9: ("bt2020", 0.2627, 0.0593),
}
"""MatrixCoefficients we convert -> its name in FFmpeg, K_R and K_B (H.273 table 4)."""

_FULL = 2  # FFmpeg's AVCOL_RANGE_JPEG; 1 is limited, 0 says nothing


@dataclass(frozen=True)
class ColorDescription:
    """How a stream stores colour, as code points of H.273."""

    matrix: int
    """MatrixCoefficients: a key of `MATRICES`, or `RGB`."""
    full_range: bool
    """Luma fills 0 to 255, rather than 16 to 235 with chroma from 16 to 240."""
    primaries: int = UNSPECIFIED
    """ColourPrimaries, carried and never used: no gamut is converted."""
    transfer: int = UNSPECIFIED
    """TransferCharacteristics, carried and never used: pixels stay as stored."""
    assumed: tuple[str, ...] = ()
    """Which of `matrix` and `range` the file did not state."""

    @classmethod
    def from_tags(
        cls,
        *,
        matrix: int,
        color_range: int,
        primaries: int,
        transfer: int,
        pixel_format: str,
        is_rgb: bool,
        height: int,
    ) -> Self:
        """The tags of a decoded frame, as FFmpeg numbers them, with the gaps filled.

        A frame without a matrix is BT.709 from 720 lines up, and BT.601 below: what players do. A
        frame without a range is limited, except the formats that are full by definition (`yuvj*`
        and grey). Primaries and transfer are left unspecified, as no pixel depends on them.
        """
        if is_rgb:
            return cls(RGB, True, primaries, transfer)
        full_by_name = pixel_format.startswith(("yuvj", "gray"))
        return cls(
            matrix=usual_matrix(height) if matrix in (RGB, UNSPECIFIED) else matrix,
            full_range=color_range == _FULL or (not color_range and full_by_name),
            primaries=primaries,
            transfer=transfer,
            assumed=("matrix",) * (matrix in (RGB, UNSPECIFIED))
            + ("range",) * (not color_range and not full_by_name),
        )

    def __str__(self) -> str:
        matrix = "RGB" if self.matrix == RGB else MATRICES[self.matrix][0]
        span = "full" if self.full_range else "limited"
        return f"{matrix} {span} (primaries {self.primaries}, transfer {self.transfer})"

    @property
    def range_tag(self) -> int:
        """The range as FFmpeg numbers it: 1 limited, 2 full."""
        return _FULL if self.full_range else 1

    def stored_as(self, *, is_rgb: bool, height: int) -> Self:
        """The same colours in a stream that stores RGB, or that does not.

        `height` in lines decides the matrix where an RGB stream becomes YUV.
        """
        if is_rgb == (self.matrix == RGB):
            return self
        if is_rgb:
            return replace(self, matrix=RGB, full_range=True, assumed=())
        return replace(self, matrix=usual_matrix(height), full_range=False)


def usual_matrix(height: int) -> int:
    """What an untagged picture of `height` lines is taken to be: BT.709 for HD, else BT.601.

    Both spellings of BT.601 are one matrix; 576 lines get the European one.
    """
    if height >= 720:
        return BT709
    return BT470BG if height == 576 else SMPTE170M


def rgb_from_yuv(yuv: Pixels, color: ColorDescription) -> Pixels:
    """uint8 [..., 3] Y'CbCr -> uint8 [..., 3] R'G'B', rounded to nearest and clipped to 0..255.

    The specification of every faster conversion.
    """
    return (unclipped_rgb(yuv, color) + 0.5).clip(0, 255).astype(np.uint8)


def unclipped_rgb(
    yuv: Pixels | npt.NDArray[np.float64], color: ColorDescription, bits: int = 8
) -> npt.NDArray[np.float64]:
    """[..., 3] Y'CbCr codes of `bits` -> float64 [..., 3] R'G'B', where black is 0 and white 255.

    H.273 equations 38 to 43. Codes that no camera writes give values far outside 0..255.
    """
    _, k_red, k_blue = MATRICES[color.matrix]
    step, largest = 2 ** (bits - 8), 2**bits - 1
    offset, luma_span, chroma_span = (
        (0, largest, largest) if color.full_range else (16 * step, 219 * step, 224 * step)
    )
    luma = (yuv[..., 0] - float(offset)) / luma_span
    chroma = (yuv[..., 1:] - 128.0 * step) / chroma_span
    red = luma + 2 * (1 - k_red) * chroma[..., 1]
    blue = luma + 2 * (1 - k_blue) * chroma[..., 0]
    green = (luma - k_red * red - k_blue * blue) / (1 - k_red - k_blue)
    return 255 * np.stack([red, green, blue], axis=-1)
