"""The numbers that YUV is converted by, in fixed point.

Integers, so that every compiler and numpy compute the same to the last bit, whatever they contract
or reorder. Results have 20 bits after the point and luma is multiplied at once; chroma is a sum of
samples with weights that add up to 8, and its gains have 17. Rounding the gains moves a result by
less than 0.02 of a code, so that it is the nearest code to the exact value or, within 0.02 of half
way, the one beside it. Nothing leaves 32 bits.
"""

from dataclasses import dataclass
from typing import NamedTuple

FRACTION_BITS = 20
"""After the point of a result."""
CHROMA_FRACTION_BITS = FRACTION_BITS - 3
"""After the point of a gain that meets eight times a chroma code."""


class Decoding(NamedTuple):
    """Y'CbCr codes -> R'G'B' levels, in the order of the kernels' parameters."""

    luma_offset: int
    """Code of black."""
    luma: int
    red_v: int
    green_u: int
    green_v: int
    blue_u: int


class Encoding(NamedTuple):
    """R'G'B' levels -> Y'CbCr codes, in the order of the kernels' parameters."""

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
    """A matrix of H.273, table 4, with its range; constant luminance is not among them."""

    k_red: float
    k_blue: float
    """`srgan_edge.video.color.MATRICES` has both for every code point."""
    full_range: bool
    """Codes fill 0 to 255, rather than 16 to 235 for luma and 16 to 240 for chroma."""

    def decoding(self, bits: int) -> Decoding:
        """From codes of 8 or 10 `bits` to levels 0..255 (H.273, equations 38 to 43)."""
        luma_offset, luma_span, chroma_span = self._spans(bits)
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

    def encoding(self, bits: int) -> Encoding:
        """From levels 0..255 to codes of 8 or 10 `bits`.

        Green takes what rounding leaves, so that white is the code of white and gray has no chroma.
        """
        luma_offset, luma_span, chroma_span = self._spans(bits)
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

    def _spans(self, bits: int) -> tuple[int, int, int]:
        """Code of black, and how many codes luma and chroma have between their ends."""
        if self.full_range:
            return 0, (1 << bits) - 1, (1 << bits) - 1
        return 16 << bits - 8, 219 << bits - 8, 224 << bits - 8


def _fixed(value: float, fraction_bits: int) -> int:
    return round(value * (1 << fraction_bits))
