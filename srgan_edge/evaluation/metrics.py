"""How close two images are, as the super-resolution literature measures it. Numpy only.

All functions take uint8 RGB [H, W, 3] of equal size and leave `border_px` pixels out at each edge
(the convention is the scale: 4), except `lr_psnr`, which says what it takes.
"""

import math
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from srgan_edge import bicubic
from srgan_edge.evaluation import metrics
from srgan_edge.pixels import Pixels

Plane = npt.NDArray[np.float64]

# ITU-R BT.601 studio-range luma as MATLAB's rgb2ycbcr computes it from RGB in [0, 255].
_LUMA = np.array([65.481, 128.553, 24.966]) / 255


class Undefined(ValueError):
    """A metric has no value for these images; the message says what it needs."""


def luma(image: Pixels) -> Plane:
    """uint8 [H, W, 3] -> float64 [H, W] in [16, 235], not rounded."""
    return image.astype(np.float64) @ _LUMA + 16


def inner(plane: Plane, border_px: int) -> Plane:
    """float64 [H, W] or [H, W, C] without its border; empty if there is no more than that."""
    height, width = (max(size, 2 * border_px) for size in plane.shape[:2])
    return plane[border_px : height - border_px, border_px : width - border_px]


def psnr_y(a: Pixels, b: Pixels, border_px: int = 4) -> float:
    """PSNR of BT.601 luma in dB; infinite for equal images.

    Raises:
        Undefined: no pixel inside the border; so do `psnr_rgb` and `color_shift`.
    """
    return _psnr(inner(luma(a), border_px) - inner(luma(b), border_px))


def psnr_rgb(a: Pixels, b: Pixels, border_px: int = 4) -> float:
    """PSNR over the three channels together in dB; infinite for equal images."""
    difference = a.astype(np.float64) - b
    return _psnr(inner(difference, border_px))


def lr_psnr(sr: Pixels, lr: Pixels) -> float:
    """PSNR over the three channels between `lr` [h, w, 3] and `sr` [H, W, 3] made that small again.

    Whether a result still is an image of its input: every pixel counts, and the way down is
    MATLAB's bicubic. Models of pixels reach more than 50 dB, GANs 39 to 50 (Park, Moon and Cho,
    Perception-Oriented Single Image Super-Resolution, CVPR 2023, table 2).
    """
    height, width, _ = lr.shape
    return psnr_rgb(bicubic.resize(sr, height, width), lr, border_px=0)


def ssim_y(a: Pixels, b: Pixels, border_px: int = 4) -> float:
    """SSIM of BT.601 luma (Wang et al. 2004): 11x11 Gaussian of sigma 1.5, valid region.

    Not the `daala` SSIM of the SRGAN paper's tables, which reads about 0.01 to 0.03 higher.

    Raises:
        Undefined: less than one window inside the border.
    """
    x, y = inner(luma(a), border_px), inner(luma(b), border_px)
    if min(x.shape) < 11:
        raise Undefined(
            f"SSIM needs 11x11 pixels inside a border of {border_px}, "
            f"and {a.shape[1]}x{a.shape[0]} have {x.shape[1]}x{x.shape[0]}"
        )
    mean_x, mean_y = _gaussian(x), _gaussian(y)
    variance_x = _gaussian(x * x) - mean_x**2
    variance_y = _gaussian(y * y) - mean_y**2
    covariance = _gaussian(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return float(similarity.mean())


def color_shift(a: Pixels, b: Pixels, border_px: int = 4) -> tuple[float, float, float]:
    """Mean of a - b for R, G and B, in levels of 255: what the eye sees as a cast."""
    difference = inner(a.astype(np.float64) - b, border_px)
    _refuse_empty(difference)
    red, green, blue = difference.mean(axis=(0, 1))
    return float(red), float(green), float(blue)


def _psnr(difference: Plane) -> float:
    _refuse_empty(difference)
    mse = float(np.mean(difference**2))
    return float("inf") if mse == 0 else float(10 * np.log10(255**2 / mse))


def _refuse_empty(plane: Plane) -> None:
    if plane.size == 0:
        raise Undefined("the border leaves no pixel to compare")


def _gaussian(plane: Plane) -> Plane:
    """Separable 11-tap Gaussian of sigma 1.5 over the valid region: both sides shrink by 10."""
    kernel = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    windows = np.lib.stride_tricks.sliding_window_view(plane, 11, axis=0)
    windows = np.lib.stride_tricks.sliding_window_view(windows @ kernel, 11, axis=1)
    return windows @ kernel


# NIQE: how far an image's statistics are from those of undistorted photographs. Numpy only.
#
# Mittal, Soundararajan and Bovik, Making a "Completely Blind" Image Quality Analyzer, IEEE Signal
# Processing Letters 20(3), 2013; sections and equations below are its. It looks at one image
# alone, so it says whether a result looks like a photograph, and not whether it is the right one.
# Lower is better; photographs lie around 2 to 5, and below some twenty blocks of 96x96 it is a
# coarse measure.
#
# Against the NIQE of BasicSR 1.4.2, computed in float64, it was within 0.041 on Set5 and Set14 and
# their bicubics, with a median of 0.005: edges of the half-size image are repeated here and
# mirrored there, and where an image is flat the sign of a rounding error counts in both.
BLOCK_PX = 96
"""Side of a block at full size, as the authors' own program divides images."""

_MODEL = Path(__file__).parent.parent / "pristine" / "niqe.npz"

_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Rows and columns to the neighbors whose products are described (II-B)."""

_Floats: TypeAlias = npt.NDArray[np.float64]


def niqe(image: Pixels, border_px: int = 4) -> float:
    """Distance of uint8 RGB [H, W, 3] from natural photographs, on its BT.601 luma (II-E).

    Raises:
        metrics.Undefined: fewer than two blocks of 96x96 inside the border hold any structure;
            a distribution needs two.
    """
    features = _features(np.rint(metrics.inner(metrics.luma(image), border_px)))
    # A block that is flat, as sky in a drawing, has no statistics; the authors leave it out too.
    whole = features[np.isfinite(features).all(axis=1)]
    if len(whole) < 2:
        raise metrics.Undefined(
            f"NIQE needs two {BLOCK_PX}x{BLOCK_PX} blocks with structure inside a border of "
            f"{border_px}, and {image.shape[1]}x{image.shape[0]} pixels have {len(whole)}"
        )
    natural_mean, natural_covariance = _natural_model()
    away = natural_mean - np.nanmean(features, axis=0)
    spread = np.linalg.pinv((natural_covariance + np.cov(whole, rowvar=False)) / 2)
    return float(np.sqrt(away @ spread @ away))  # eq. 10


@cache
def _natural_model() -> tuple[_Floats, _Floats]:
    """Mean [36] and covariance [36, 36] of the features of 125 photographs (II-D)."""
    with np.load(_MODEL) as model:
        return model["mean"], model["covariance"]


def _features(plane: _Floats) -> _Floats:
    """Luma [H, W] -> 36 numbers a block, 18 at each of two scales; NaN where a block is flat."""
    rows, columns = plane.shape[0] // BLOCK_PX, plane.shape[1] // BLOCK_PX
    plane = plane[: rows * BLOCK_PX, : columns * BLOCK_PX]
    if plane.size == 0:
        return np.empty((0, 36))
    half = bicubic.resize_float(plane, plane.shape[0] // 2, plane.shape[1] // 2)
    scales = [_blocks(_normalized(scale), rows, columns) for scale in (plane, half)]
    with np.errstate(invalid="ignore", divide="ignore"):  # flat blocks
        return np.hstack([_describe(blocks) for blocks in scales])


def _normalized(plane: _Floats) -> _Floats:
    """Local mean taken off and contrast divided out (eq. 1 to 3), by a 7x7 Gaussian."""
    mean = _niqe_gaussian(plane)
    deviation = np.sqrt(np.abs(_niqe_gaussian(plane**2) - mean**2))
    return (plane - mean) / (deviation + 1)


def _niqe_gaussian(plane: _Floats) -> _Floats:
    """Of sigma 7/6, edges repeated: [H, W] -> [H, W]."""
    kernel = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    kernel /= kernel.sum()
    padded = np.pad(plane, 3, mode="edge")
    rows = np.lib.stride_tricks.sliding_window_view(padded, 7, axis=0) @ kernel
    return np.lib.stride_tricks.sliding_window_view(rows, 7, axis=1) @ kernel


def _blocks(plane: _Floats, rows: int, columns: int) -> _Floats:
    """[H, W] -> [rows * columns, H / rows, W / columns]."""
    height, width = plane.shape[0] // rows, plane.shape[1] // columns
    grid = plane.reshape(rows, height, columns, width).swapaxes(1, 2)
    return grid.reshape(-1, height, width)


def _describe(blocks: _Floats) -> _Floats:
    """[N, h, w] -> [N, 18]: the shape of the values, then of their products with neighbors."""
    shape, left, right = _fitted(blocks)
    features = [shape, (left + right) / 2]
    for shift in _SHIFTS:
        # Around the block's own edge, as the authors do: a block knows nothing of the next.
        shape, left, right = _fitted(blocks * np.roll(blocks, shift, axis=(1, 2)))
        mean = (right - left) * _gamma(2 / shape) / _gamma(1 / shape)  # eq. 8
        features += [shape, mean, left, right]
    return np.stack(features, axis=1)


def _fitted(blocks: _Floats) -> tuple[_Floats, _Floats, _Floats]:
    """Each block's asymmetric generalized Gaussian by its moments: shape, left and right scale.

    Lasmar, Stitou and Berthoumieu, Multiscale skewed heavy tailed model for texture analysis, 2009.
    """
    squares = blocks**2
    left, right = (
        np.sqrt(np.where(side, squares, 0).sum(axis=(1, 2)) / side.sum(axis=(1, 2)))
        for side in (blocks < 0, blocks > 0)
    )
    skew = left / right
    ratio = np.abs(blocks).mean(axis=(1, 2)) ** 2 / squares.mean(axis=(1, 2))
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shapes, ratios = _shape_table()
    nearest = shapes[np.searchsorted((ratios[1:] + ratios[:-1]) / 2, ratio)]
    shape = np.where(np.isfinite(ratio), nearest, np.nan)
    scale = np.sqrt(_gamma(1 / shape) / _gamma(3 / shape))
    return shape, left * scale, right * scale


@cache
def _shape_table() -> tuple[_Floats, _Floats]:
    """Shapes from 0.2 to 10 by thousandths, and the moment ratio of each, which grows with it."""
    shapes = np.arange(200, 10_001) / 1000
    return shapes, _gamma(2 / shapes) ** 2 / (_gamma(1 / shapes) * _gamma(3 / shapes))


def _gamma(x: _Floats) -> _Floats:
    return np.array([math.gamma(value) for value in x])
