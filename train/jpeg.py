"""JPEG compression as libjpeg performs it, for a batch on its device, each image at its quality.

ITU-T T.81 with the tables of its annex K, scaled as libjpeg scales them; the colors of JFIF; 4:2:0
chroma, enlarged by the triangle filter that libjpeg calls fancy upsampling. The lossless entropy
coding is left out. libjpeg's integer DCT rounds differently, so now and then a coefficient is
rounded to the other side.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MCU_PX = 16
"""Side of a minimum coded unit: four blocks of luma, one of each chroma."""

_TO_YCC = [
    [0.299, 0.587, 0.114],
    [-0.168735892, -0.331264108, 0.5],
    [0.5, -0.418687589, -0.081312411],
]
_FROM_YCC = [[1.0, 0.0, 1.402], [1.0, -0.344136286, -0.714136286], [1.0, 1.772, 0.0]]
"""ITU-T T.871 (JFIF): BT.601 over the full range."""

_LUMA_TABLE = [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
]
_CHROMA_TABLE = [
    [17, 18, 24, 47, 99, 99, 99, 99],
    [18, 21, 26, 66, 99, 99, 99, 99],
    [24, 26, 56, 99, 99, 99, 99, 99],
    [47, 66, 99, 99, 99, 99, 99, 99],
    *([[99] * 8] * 4),
]
"""ITU-T T.81, tables K.1 and K.2: rows of vertical frequency."""


def jpeg(levels: Tensor, quality: Tensor) -> Tensor:
    """Compress and decode float [B, 3, H, W] in levels, rounded first; returns whole levels.

    Args:
        quality: [B], whole numbers from 1 to 100.
    """
    height, width = levels.shape[2:]
    padding = (0, -width % MCU_PX, 0, -height % MCU_PX)
    rgb = F.pad(round_up_half(levels), padding, mode="replicate")
    ycc = torch.einsum("ij,bjhw->bihw", rgb.new_tensor(_TO_YCC), rgb)
    ycc[:, 1:] += 128
    ycc = round_up_half(ycc).clamp(0, 255)
    luma, chroma = ycc[:, :1], ycc[:, 1:]
    # libjpeg alternates between rounding means of four up and down, which has no bias on average.
    bias = 1 + torch.arange(chroma.shape[3] // 2, device=rgb.device) % 2
    chroma = torch.floor(F.avg_pool2d(chroma, 2) + bias / 4)
    luma = _quantized(luma, _table(_LUMA_TABLE, quality))
    chroma = _quantized(chroma, _table(_CHROMA_TABLE, quality))
    chroma = round_up_half(F.interpolate(chroma, scale_factor=2.0, mode="bilinear"))
    coded = torch.cat([luma, chroma - 128], 1)
    rgb = torch.einsum("ij,bjhw->bihw", rgb.new_tensor(_FROM_YCC), coded)
    return round_up_half(rgb).clamp(0, 255)[:, :, :height, :width]


def _table(standard: list[list[int]], quality: Tensor) -> Tensor:
    """Return [B, 1, 1, 1, 8, 8] as libjpeg's `jpeg_quality_scaling` and `jpeg_add_quant_table`."""
    percent = torch.where(quality < 50, torch.floor(5000 / quality), 200 - 2 * quality)
    table = torch.tensor(standard, device=quality.device) * percent[:, None, None]
    table = torch.floor((table + 50) / 100).clamp(1, 255)
    return table.float()[:, None, None, None]


def _quantized(plane: Tensor, table: Tensor) -> Tensor:
    """Pass [B, C, H, W], sides multiples of 8, through DCT, quantization and the inverse DCT."""
    k = torch.arange(8, device=plane.device, dtype=torch.float64)
    cosines = torch.cos((2 * k + 1) * k[:, None] * math.pi / 16) / 2
    cosines[0] /= math.sqrt(2)
    dct = cosines.float()
    blocks = plane.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4) - 128
    ratio = dct @ blocks @ dct.T / table
    # Mean levels often lie exactly between two steps, and libjpeg rounds away from zero.
    coefficients = ratio.sign() * round_up_half(ratio.abs()) * table
    blocks = round_up_half(dct.T @ coefficients @ dct + 128).clamp(0, 255)
    return blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def round_up_half(values: Tensor) -> Tensor:
    """Round to whole numbers, halves upwards, as all pixels of the project are rounded."""
    return torch.floor(values + 0.5)
