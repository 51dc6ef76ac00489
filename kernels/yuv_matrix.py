"""Coefficients of the conversions between YUV and RGB, in fixed point.

All are integers, so that every compiler and numpy compute the same to the last bit, whatever they
contract or reorder. Results have 20 fractional bits. Chroma is a sum of samples whose weights add
up to 8, so its gains have 17. Rounding the gains moves a result by less than 0.02 of a code: it is
the code nearest to the exact value or, within 0.02 of the midpoint, its neighbor. All values fit in
32 bits.
"""

from dataclasses import dataclass
from typing import NamedTuple

FRACTION_BITS = 20
"""Fractional bits of a result."""
CHROMA_FRACTION_BITS = FRACTION_BITS - 3
"""Fractional bits of a gain for eight times a chroma code."""


class Decoding(NamedTuple):
    """Coefficients from Y'CbCr codes to R'G'B' levels, in the order of the kernels' parameters."""

    luma_offset: int
    """Code of black."""
    luma: int
    red_v: int
    green_u: int
    green_v: int
    blue_u: int


class Encoding(NamedTuple):
    """Coefficients from R'G'B' levels to Y'CbCr codes, in the order of the kernels' parameters."""

    luma_offset: int
    """Code of black."""
    luma_red: int
    luma_green: int
    luma_blue: int
    u_red: int
    u_green: int
    u_blue: int
    v_red: int
    v_green: int
    v_blue: int


@dataclass(frozen=True)
class YuvMatrix:
    """A matrix of H.273, table 4, with its range; constant luminance is not supported."""

    k_red: float
    k_blue: float
    """Weights of red and blue, listed by code point in `srgan_edge.video.color.MATRICES`."""
    full_range: bool
    """Codes fill 0 to 255; else 16 to 235 for luma and 16 to 240 for chroma."""

    @property
    def decoding(self) -> Decoding:
        """Coefficients from codes of 8 bits to levels 0..255 (H.273, equations 38 to 43)."""
        luma_offset, luma_span, chroma_span = self._spans
        k_green = 1 - self.k_red - self.k_blue
        red = 2 * (1 - self.k_red) * 255 / chroma_span
        blue = 2 * (1 - self.k_blue) * 255 / chroma_span
        return Decoding(
            luma_offset,
            _fixed(255 / luma_span, FRACTION_BITS),
            red_v=_fixed(red, CHROMA_FRACTION_BITS),
            green_u=_fixed(-blue * self.k_blue / k_green, CHROMA_FRACTION_BITS),
            green_v=_fixed(-red * self.k_red / k_green, CHROMA_FRACTION_BITS),
            blue_u=_fixed(blue, CHROMA_FRACTION_BITS),
        )

    @property
    def encoding(self) -> Encoding:
        """Coefficients from levels 0..255 to codes of 8 bits.

        Green absorbs the rounding errors, so white keeps its exact code and gray has no chroma.
        """
        luma_offset, luma_span, chroma_span = self._spans
        white = _fixed(luma_span / 255, FRACTION_BITS)
        luma_red = _fixed(self.k_red * luma_span / 255, FRACTION_BITS)
        luma_blue = _fixed(self.k_blue * luma_span / 255, FRACTION_BITS)
        half = _fixed(0.5 * chroma_span / 255, CHROMA_FRACTION_BITS)
        u_red = _fixed(-self.k_red / (1 - self.k_blue) * half, 0)
        v_blue = _fixed(-self.k_blue / (1 - self.k_red) * half, 0)
        return Encoding(
            luma_offset,
            luma_red,
            white - luma_red - luma_blue,
            luma_blue,
            u_red,
            -u_red - half,
            half,
            half,
            -half - v_blue,
            v_blue,
        )

    @property
    def _spans(self) -> tuple[int, int, int]:
        """Code of black, and the ranges of luma and chroma codes."""
        return (0, 255, 255) if self.full_range else (16, 219, 224)


def _fixed(value: float, fraction_bits: int) -> int:
    return round(value * (1 << fraction_bits))
